"""The bundled annotator of brightness against its formula, and the program that wrote it."""

import numpy as np

from generators.annotators.load import load_annotator
from pipelines.training.brightness import write_brightness


def test_brightness_is_the_mean_luma(rng, tmp_path):
    images = rng.integers(0, 256, (5, 64, 64, 3), np.uint8)
    images[0], images[1] = 0, 255
    found = load_annotator("bundled:pictures/brightness").annotate(images)
    expected = (images / 255 @ [0.2126, 0.7152, 0.0722]).mean(axis=(1, 2))
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)
    wide = np.repeat(np.repeat(images, 2, axis=1), 3, axis=2)
    np.testing.assert_allclose(
        load_annotator("bundled:pictures/brightness").annotate(wide)[:, 0], expected, atol=2e-3
    )
    again = load_annotator(str(write_brightness(tmp_path)))
    assert np.array_equal(again.annotate(images), found)
