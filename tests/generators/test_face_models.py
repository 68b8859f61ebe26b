"""What is written around MediaPipe's networks: boxes of anchors, pose and measures of points."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from scipy.spatial.transform import Rotation

from generators.annotators import load_annotator
from generators.facerig import geometry, random_faces, render
from generators.obtained import mediapipe
from generators.obtained.onnx_formula import Formula
from generators.obtained.recipe import recipe
from schemas.landmark_schemes import MEDIAPIPE468, SCHEMES

N_ANCHORS = 896


def graph(**shapes: list[int]):
    """A model whose inputs are what a network gives."""
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])
        for name, shape in shapes.items()
    ]
    empty = helper.make_graph([], "g", given, [])
    return helper.make_model(empty, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    given = {name: value.astype(np.float32) for name, value in inputs.items()}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def test_formulas_are_what_numpy_says():
    x = np.random.default_rng(0).normal(size=(5, 2, 3))
    f = Formula(graph(x=[2, 3]))
    angle = f.angle(f.part("x", [0], axis=2), f.part("x", [1], axis=2))
    found = run(
        f.give(
            angle=(angle, [2, 1]), length=(f.length("x", 2), [2, 1]), sum=(f.sum("x", 1), [1, 3])
        ),
        x=x,
    )
    expected = np.degrees(np.arctan2(x[..., :1], x[..., 1:2]))
    np.testing.assert_allclose(found["angle"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["length"][..., 0], np.linalg.norm(x, axis=2), rtol=1e-5)
    np.testing.assert_allclose(found["sum"], x.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6)


def suppressed(rows: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """MediaPipe's weighted suppression for the best box, loop by loop."""
    score = 1 / (1 + np.exp(-logits))
    side = mediapipe.DETECTOR_SIDE
    boxes = []
    for row, (x, y) in zip(rows, mediapipe.anchors() * side, strict=True):
        centre, half = row[:2] + [x, y], row[2:4] / 2
        eyes = row[4:8].reshape(2, 2) + [x, y]
        boxes.append([*(centre - half), *(centre + half), *eyes.ravel()])
    boxes = np.array(boxes)
    best = int(score.argmax())
    total, weights = np.zeros(8), 0.0
    for i, box in enumerate(boxes):
        sides = np.minimum(box[2:4], boxes[best, 2:4]) - np.maximum(box[:2], boxes[best, :2])
        shared = np.prod(np.maximum(sides, 0))
        united = sum(np.prod(b[2:4] - b[:2]) for b in (box, boxes[best])) - shared
        if i == best or (shared / united > mediapipe.OVERLAP and score[i] >= 0.5):
            total, weights = total + box * score[i], weights + score[i]
    mean = total / weights
    angle = np.degrees(np.arctan2(mean[7] - mean[5], mean[6] - mean[4]))
    return np.array([*mean[:4], angle, score[best]])


def test_the_best_box_is_averaged_with_those_that_overlap_it():
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 3, (3, N_ANCHORS, 16))
    rows[..., 2:4] = rng.uniform(15, 60, (3, N_ANCHORS, 2))
    rows[..., 6] += 20
    logits = rng.normal(-1, 2, (3, N_ANCHORS, 1))
    logits[2] -= 9  # a picture without a face
    model = mediapipe.detector(graph(regressors=[N_ANCHORS, 16], classificators=[N_ANCHORS, 1]))
    found = run(model, regressors=rows, classificators=logits)
    expected = np.stack([suppressed(*each) for each in zip(rows, logits[..., 0], strict=True)])
    np.testing.assert_allclose(found["boxes"], expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found["score"], expected[:, 5], rtol=1e-4)
    assert found["score"][2] < 0.1
    logits[2] -= 30
    found = run(model, regressors=rows, classificators=logits)
    assert np.isfinite(found["boxes"]).all() and found["score"][2] < 1e-6


def mesh_model(monkeypatch, shape: np.ndarray):
    monkeypatch.setattr(mediapipe, "mean_shape", lambda model: shape)
    return mediapipe.mesh(graph(mesh=[3 * mediapipe.POINTS, 1, 1], flag=[1, 1, 1]))


def face(seed: int = 0) -> np.ndarray:
    """Points about as deep as a face, (468, 3), x right, y up, z to the viewer."""
    points = np.random.default_rng(seed).normal(size=(mediapipe.POINTS, 3)) * [50, 60, 30]
    return points - points.mean(axis=0)


def measured(model, points: np.ndarray, flag: float = 3.0) -> dict[str, np.ndarray]:
    """Outputs for points (n, 468, 3) with x right, y up and z to the viewer."""
    n = len(points)
    flags = np.full((n, 1, 1, 1), flag)
    return run(model, mesh=(points * [1, -1, -1]).reshape(n, -1, 1, 1), flag=flags)


def test_the_pose_of_a_turned_shape_is_its_rotation(monkeypatch):
    shape, rng = face(), np.random.default_rng(1)
    angles = rng.uniform([-85, -60, -170], [85, 60, 170], (20, 3))
    angles[0] = 0
    turned = np.stack([0.4 * shape @ geometry.rotation(*a).T + [90, -100, 7] for a in angles])
    found = measured(mesh_model(monkeypatch, shape), turned)
    np.testing.assert_allclose(found["pose"], angles, atol=2e-3)
    np.testing.assert_allclose(found["points"], turned * [1, -1, -1], rtol=1e-5)
    np.testing.assert_allclose(found["confidence"], 1 / (1 + np.exp(-3.0)), rtol=1e-6)


def test_the_pose_of_other_faces_is_the_nearest_rotation(monkeypatch):
    shape, rng = face(), np.random.default_rng(2)
    points = np.stack([shape @ geometry.rotation(20, -10, 5).T] * 6)
    points += rng.normal(0, 15, points.shape)
    found = measured(mesh_model(monkeypatch, shape), points)["pose"]
    still = shape[:, 1] >= shape[mediapipe.NOSE_BASE, 1]
    for own, angles in zip(points, found, strict=True):
        a, b = (p[still] - p[still].mean(axis=0) for p in (own, shape))
        wanted = Rotation.align_vectors(a, b)[0].as_matrix()
        np.testing.assert_allclose(geometry.rotation(*angles), wanted, atol=1e-4)
    mirrored = measured(mesh_model(monkeypatch, shape), (shape * [-1, 1, 1])[None])
    assert np.isnan(mirrored["pose"]).all()


def test_measures_do_not_change_with_size_and_pose(monkeypatch):
    shape = face()
    shape[[13, 14]] = [0, 0, 0], [0, 20, 0]
    shape[[61, 291]] = [-30, 0, 0], [30, 0, 0]
    shape[[33, 133, 159, 145]] = [-50, 60, 0], [-10, 60, 0], [-30, 64, 0], [-30, 56, 0]
    shape[[263, 362, 386, 374]] = [50, 60, 0], [10, 60, 0], [30, 70, 0], [30, 50, 0]
    turned = np.stack([shape, 0.3 * shape @ geometry.rotation(50, 20, 10).T + 40])
    found = measured(mesh_model(monkeypatch, shape), turned)["measures"]
    np.testing.assert_allclose(found, [[0.2, 0.6, (8 / 40 + 20 / 40) / 2]] * 2, rtol=1e-4)


def test_a_nearly_symmetric_shape_is_made_symmetric():
    rng = np.random.default_rng(3)
    half = rng.normal(size=(40, 3)) * 30 + [60, 0, 0]
    middle = rng.normal(size=(9, 3)) * [0, 40, 20]
    exact = np.concatenate([half, half * [-1, 1, 1], middle])
    exact -= exact.mean(axis=0)
    found = mediapipe.symmetric(exact + rng.normal(0, 0.3, exact.shape))
    np.testing.assert_allclose(found, exact, atol=1.2)
    np.testing.assert_allclose(found[:40] * [-1, 1, 1], found[40:80], atol=1e-9)
    np.testing.assert_allclose(found[80:, 0], 0, atol=1e-9)


def test_recipes_name_their_own_converters():
    for name in ("face_boxes", "face_landmarks", "face_pose", "face_measures"):
        wanted = recipe(name)
        assert wanted.converter() is getattr(mediapipe, name)
        assert wanted.needs == (() if name == "face_boxes" else ("face_boxes",))
    assert SCHEMES[MEDIAPIPE468].count == mediapipe.POINTS


OBTAINED = all(recipe(name).is_obtained for name in ("face_boxes", "face_landmarks", "face_pose"))


@pytest.mark.skipif(not OBTAINED, reason="run 'latentflow obtain face_pose face_landmarks' first")
def test_obtained_models_measure_a_drawn_face():
    pictures = render(random_faces(4), 128).images
    pictures = np.concatenate([pictures, pictures[:, :, ::-1], np.zeros_like(pictures[:1])])
    pose = load_annotator("obtained:face_pose").predict(pictures)
    assert pose.reasons[-1] != 0 and np.isnan(pose.values[-1]).all()
    found = (pose.reasons[:4] == 0) & (pose.reasons[4:8] == 0)
    assert found.any()
    one, other = pose.values[:4][found], pose.values[4:8][found]
    np.testing.assert_allclose(one[:, [0, 2]], -other[:, [0, 2]], atol=6)
    np.testing.assert_allclose(one[:, 1], other[:, 1], atol=8)
    points = load_annotator("obtained:face_landmarks").predict(pictures)
    assert points.values.shape == (9, 468, 2) and np.nanmax(points.values) < 160
    scheme = SCHEMES[MEDIAPIPE468]
    for face in points.values[points.reasons == 0]:
        right, left, nose, mouth = (
            face[list(part)].mean(axis=0)
            for part in (scheme.right_eye, scheme.left_eye, scheme.nose, scheme.mouth)
        )
        assert right[0] < nose[0] < left[0] and max(right[1], left[1]) < nose[1] < mouth[1]
        assert face[scheme.sides[0], 0] < face[scheme.sides[1], 0]
