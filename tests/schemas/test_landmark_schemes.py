"""Orders of landmarks that are known by name."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.analyses.nrsfm.figures import face_frame
from pipelines.report.shape_plots import connections
from schemas.landmark_schemes import SCHEMES, scheme_of_count


@pytest.mark.parametrize("name", SCHEMES)
def test_parts_are_points_of_their_own_that_lines_join(name):
    scheme = SCHEMES[name]
    parts = [scheme.right_eye, scheme.left_eye, scheme.nose, scheme.mouth, scheme.sides]
    every = [i for part in parts for i in part]
    assert len(every) == len(set(every)) and 0 <= min(every) <= max(every) < scheme.count
    assert scheme.tip in scheme.nose
    pairs = connections(scheme.count)
    joined = {i for pair in pairs for i in pair}
    assert set(every) <= joined and max(joined) < scheme.count
    assert len({tuple(sorted(pair)) for pair in pairs}) == len(pairs)
    assert scheme_of_count(scheme.count) is scheme and scheme_of_count(7) is None


@pytest.mark.parametrize("name", SCHEMES)
def test_a_shape_is_turned_to_face_the_viewer(name):
    scheme, rng = SCHEMES[name], np.random.default_rng(0)
    shape = rng.normal(0, 0.1, (3, scheme.count))
    shape[0, list(scheme.right_eye)] -= 3
    shape[0, list(scheme.left_eye)] += 3
    shape[1, list(scheme.mouth)] -= 5
    shape[2, list(scheme.nose)] += 4
    upright, mirrored = face_frame(shape)
    np.testing.assert_allclose(upright, np.eye(3), atol=0.1)
    assert not mirrored
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    frame, _ = face_frame(turn @ shape)
    np.testing.assert_allclose(frame @ turn @ shape, upright @ shape, atol=1e-9)
