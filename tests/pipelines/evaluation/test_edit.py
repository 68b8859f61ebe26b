"""Strips: right pictures in the right cells, and refusal of directions made for something else."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.evaluation.gradient_strips import GradientEdit
from pipelines.evaluation.samples import Samples
from pipelines.evaluation.strips import draw_strips, edit_images, strength_label, strip_grid
from schemas.directions.direction_set import Direction, apply, broadcast_layers, unit_direction
from schemas.errors import DataError, DirectionMismatchError, UsageError
from tests.fakes import FakeGenerator, spaces_of

FP = "ab" * 32
SPACES = {"z": (6,), "w": (6,), "w_plus": (4, 6)}


class LinearGenerator(FakeGenerator):
    """Draws flat pictures whose three colours are linear in the code; remembers batch sizes."""

    fingerprint = FP
    spaces = spaces_of(SPACES)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def paint(self, codes, space):
        assert codes.dtype == torch.float32 and tuple(codes.shape[1:]) == SPACES[space]
        self.batches.append(len(codes))
        return codes.reshape(len(codes), -1, 6).mean(dim=1)[:, :3]


@pytest.fixture
def generator() -> LinearGenerator:
    return LinearGenerator()


@pytest.fixture
def codes() -> np.ndarray:
    return (0.2 * np.random.default_rng(1).normal(size=(3, 4, 6))).astype(np.float32)


def direction(space: str = "w_plus", fp: str = FP, **kwargs) -> Direction:
    vector = np.zeros(SPACES[space])
    vector[..., 0] = 1.0
    provenance = {"generator_fp": fp}
    return unit_direction("red", space, vector, method="svm", sd=0.5, provenance=provenance,
                          **kwargs)  # fmt: skip


def shown(codes: np.ndarray) -> np.ndarray:
    """The colours that LinearGenerator shows for w_plus codes, uint8 (..., 3)."""
    colours = np.clip(codes.mean(axis=-2)[..., :3], -1, 1)
    return np.rint((colours + 1) * 127.5).astype(np.uint8)


def test_every_cell_shows_its_code_at_its_strength(generator, codes):
    strengths = [-2, -0.5, 0, 2]
    images = edit_images(generator, codes, direction(), strengths, batch_size=5)
    assert images.shape == (3, 4, 8, 8, 3) and images.dtype == np.uint8
    assert generator.batches == [5, 5, 2]
    for column, strength in enumerate(strengths):
        expected = shown(apply(codes, direction(), strength))
        difference = images[:, column, 0, 0].astype(int) - expected
        assert np.abs(difference).max() <= 1
    assert (images[:, -1, 0, 0, 0].astype(int) - images[:, 0, 0, 0, 0] > 50).all()
    assert np.ptp(images, axis=(2, 3)).max() == 0


def test_batch_size_changes_nothing(generator, codes):
    whole = edit_images(generator, codes, direction(), [-1, 1], batch_size=64)
    np.testing.assert_array_equal(
        whole, edit_images(generator, codes, direction(), [-1, 1], batch_size=1)
    )


def test_raw_units_ignore_the_standard_deviation(generator, codes):
    raw = edit_images(generator, codes, direction(), [0.5], unit="raw")
    np.testing.assert_array_equal(raw, edit_images(generator, codes, direction(), [1.0]))
    with pytest.raises(UsageError, match="unit 'm'"):
        edit_images(generator, codes, direction(), [1.0], unit="m")


def test_a_direction_of_w_edits_all_layers(generator, codes):
    broad = broadcast_layers(direction("w"), 4)
    np.testing.assert_array_equal(
        edit_images(generator, codes, direction("w"), [1.5]),
        edit_images(generator, codes, broad, [1.5]),
    )


def test_only_the_layers_asked_for_are_edited(generator, codes):
    d = direction()
    some = edit_images(generator, codes, d, [2.0], layers=[0, 2])
    by_hand = np.array(codes, np.float64)
    by_hand[:, [0, 2]] += 2.0 * d.sd * d.vector[[0, 2]]
    expected = edit_images(generator, by_hand.astype(np.float32), d, [0.0])
    np.testing.assert_array_equal(some, expected)
    assert (some != edit_images(generator, codes, d, [2.0])).any()


def test_the_gradient_edit_reaches_the_parameters_with_less_change(generator, codes):
    weights = np.zeros((24, 2))
    weights[[0, 3], 0] = 1.0  # a coordinate that shows and one that does not
    weights[7, 1] = 1.0
    arrays = {
        "regressor_mean": np.full(24, 0.1),
        "regressor_weights": weights,
        "regressor_intercept": np.array([0.3, -0.2]),
        "parameters": np.random.default_rng(0).normal(size=(30, 2)) * 0.2,
    }
    stored = SimpleNamespace(
        space="w_plus", model_names=lambda: ["nrsfm"], load_model=lambda name: (arrays, {})
    )
    moved = np.stack([codes, codes], axis=1).astype(np.float64)
    moved[:, 1, 0, [0, 3]] += 1.0  # the analytic edit
    found = GradientEdit.of(generator, stored, 20.0)(Samples("w_plus", codes), moved)
    assert found.shape == moved.shape
    wanted, reached = (x.reshape(6, 24) @ weights for x in (moved, found))
    np.testing.assert_allclose(reached, wanted, atol=0.08)
    change = [np.abs(x[:, 1, 0, 0] - codes[:, 0, 0]) for x in (moved, found)]
    assert (change[1] < 0.85 * change[0]).all()
    alone = GradientEdit.of(generator, stored, 20.0)(Samples("w_plus", codes[1:2]), moved[1:2])
    np.testing.assert_allclose(alone[0], found[1], atol=1e-6)  # of no other row
    images = edit_images(generator, codes, direction(), [0.0], refine=lambda s, e: e + 0.5)
    np.testing.assert_array_equal(images, edit_images(generator, codes + 0.5, direction(), [0.0]))
    del arrays["regressor_weights"]
    with pytest.raises(UsageError, match="regressor"):
        GradientEdit.of(generator, stored, 20.0)


def test_layers_outside_the_directions_stay(generator, codes):
    images = edit_images(generator, codes, direction(layers=[1]), [0.0, 2.0])
    assert (images[:, 1, 0, 0, 0] > images[:, 0, 0, 0, 0]).all()


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"fp": "cd" * 32}, "was made for generator 'cdcd.*compute it again"),
        ({"space": "z"}, "was made in space 'z', not 'w_plus'"),
        ({"space": "w", "fp": "cd" * 32}, "was made for generator 'cdcd"),
    ],
)
def test_directions_of_another_model_or_space_are_refused(generator, codes, tmp_path, wrong, match):
    path = tmp_path / "strip.png"
    with pytest.raises(DirectionMismatchError, match=match):
        draw_strips(generator, codes, direction(**wrong), [0, 1], "sd", path)
    assert not path.exists() and generator.batches == []


def test_codes_are_converted_to_the_space_of_the_direction_and_never_back(generator, codes):
    drawn = edit_images(generator, codes[:, 0], direction(), [0.0, 1.5], space="w")
    wide = np.repeat(codes[:, :1], codes.shape[1], axis=1)
    np.testing.assert_array_equal(drawn, edit_images(generator, wide, direction(), [0.0, 1.5]))
    other = dataclasses.replace(direction(), provenance={"generator_fp": "e" * 64})
    with pytest.raises(DirectionMismatchError, match="made for generator"):
        edit_images(generator, codes[:, 0], other, [1.0], space="w")


def test_codes_of_another_shape_and_unknown_spaces_are_refused(generator, codes):
    with pytest.raises(DirectionMismatchError, match=r"\(3, 6\) a row, space 'w_plus'.*\(4, 6\)"):
        edit_images(generator, codes[:, :3], direction(), [1.0])
    with pytest.raises(UsageError, match="space 'h' is not one of this fake generator"):
        edit_images(generator, codes, direction(), [1.0], space="h")


@pytest.mark.parametrize("strengths", [[], [float("nan")], [[0.0, 1.0]]])
def test_unusable_strengths_are_refused(generator, codes, strengths):
    with pytest.raises(UsageError, match="at least one finite number"):
        edit_images(generator, codes, direction(), strengths)


def test_too_many_and_no_pictures_are_refused(generator, codes):
    with pytest.raises(UsageError, match="draw several strips"):
        edit_images(generator, codes, direction(), np.linspace(-1, 1, 2000))
    with pytest.raises(DataError, match="give at least one"):
        edit_images(generator, codes[:0], direction(), [1.0])


def test_a_strip_of_an_edit_that_keeps_something_is_titled_so(generator, codes, tmp_path):
    titles = []
    for name, facts in (("a", {}), ("b", {"keep": ["svm.blue"]})):
        path = draw_strips(
            generator, codes, direction(), [0], "sd", tmp_path / f"{name}.png", facts=facts
        )
        with Image.open(path) as picture:
            titles.append((np.asarray(picture)[:30] < 128).sum())
    assert titles[1] > 2 * titles[0]


def test_a_strip_file_says_what_it_shows_and_repeats(generator, codes, tmp_path):
    first, second = tmp_path / "new/a.png", tmp_path / "b.png"
    for path in (first, second):
        assert draw_strips(generator, codes, direction(), [-2, 0, 2], "sd", path) == path
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as picture:
        facts = json.loads(picture.text["latentflow"])
        assert picture.mode == "RGB"
    assert facts == {"generator_fp": FP, "direction": "red", "method": "svm", "space": "w_plus",
                     "strengths": [-2.0, 0.0, 2.0], "unit": "sd", "sd": 0.5}  # fmt: skip
    with pytest.raises(UsageError, match="as PNG, not as '.jpg'"):
        draw_strips(generator, codes, direction(), [0], "sd", tmp_path / "c.jpg")


def test_the_grid_holds_every_picture_in_its_cell():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (2, 3, 1, 1, 3), dtype=np.uint8)
    images = np.broadcast_to(colours, (2, 3, 32, 32, 3))
    grid = np.asarray(strip_grid(images, [-1, 0, 1], ["first", "second"]))
    found = []
    for colour in colours.reshape(-1, 3):
        rows, columns = np.nonzero((grid == colour).all(axis=-1))
        assert len(rows) >= 96 * 96 - 1
        found.append((np.median(rows), np.median(columns)))
    centres = np.array(found).reshape(2, 3, 2)
    assert (np.diff(centres[..., 1], axis=1) == 100).all()
    assert (np.diff(centres[..., 0], axis=0) == 100).all()


def test_the_grid_grows_with_labels_and_title():
    images = np.zeros((1, 2, 96, 96, 3), np.uint8)
    bare = strip_grid(images, [0, 1], None)
    labelled = strip_grid(images, [0, 1], ["a long label\nof two lines \x00"])
    titled = strip_grid(images, [0, 1], None, title="t" * 500)
    assert labelled.width > bare.width and labelled.height == bare.height
    assert titled.height > bare.height and titled.width < 1000


@pytest.mark.parametrize(
    ("images", "strengths", "labels"),
    [
        (np.zeros((2, 3, 8, 8, 3), np.uint8), [0, 1], ["a", "b"]),
        (np.zeros((2, 3, 8, 8, 3), np.uint8), [0, 1, 2], ["a"]),
        (np.zeros((2, 3, 8, 8, 3)), [0, 1, 2], ["a", "b"]),
        (np.zeros((0, 3, 8, 8, 3), np.uint8), [0, 1, 2], []),
        (np.zeros((3, 8, 8, 3), np.uint8), [0, 1, 2], None),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(images, strengths, labels):
    with pytest.raises(DataError):
        strip_grid(images, strengths, labels)


def test_strengths_are_written_with_sign_and_unit():
    assert [strength_label(s) for s in (-1.5, 0, 2)] == ["−1.5 sd", "0", "+2 sd"]
    assert strength_label(2, "raw") == "+2"
