"""Face models of MediaPipe: a detector, and a mesh of 468 points with pose and measures.

Of the wheel only two ``.tflite`` files are read; what MediaPipe's own program does with their
outputs (anchors, weighted suppression, turn of the crop) is written into the ONNX graphs.
Sources: BlazeFace (Bazarevsky et al. 2019), face mesh (Kartynnik et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from generators.obtained.annotator import write_annotator
from generators.obtained.onnx_formula import Formula
from generators.tflite import onnx_model, read_network

if TYPE_CHECKING:
    import onnx

DETECTOR_SIDE, MESH_SIDE = 128, 192
POINTS = 468
CROP = {"by": "obtained:face_boxes", "scale": 1.5}
PRESENT = 0.5
"""Score from which on a face counts as found, of the detector and of the mesh."""
ORIGIN = {"licence": "Apache-2.0", "source": "mediapipe 0.10.21 (PyPI)"}
MEASURES = ("mouth_opening", "mouth_width", "eye_opening")


def face_boxes(files: Mapping[str, Path], folder: Path) -> None:
    """Write the detector, ``face_boxes.onnx``: one box a picture, of the face of the best score."""
    write_annotator(
        folder,
        "face_boxes",
        detector(onnx_model(read_network(_only(files)), ["regressors", "classificators"])),
        kind="boxes",
        output="boxes",
        names=["left", "top", "right", "bottom", "angle", "score"],
        presence={"output": "score", "threshold": PRESENT},
        input={"size": DETECTOR_SIDE, "range": [-1, 1]},
        **ORIGIN,
    )


def face_landmarks(files: Mapping[str, Path], folder: Path) -> None:
    """Write the mesh, ``face_landmarks.onnx``: 468 points."""
    names = [str(i) for i in range(POINTS)]
    _write_mesh(
        files, folder, "face_landmarks", kind="landmarks", output="points", names=names,
        axes="xyz", order="points", scheme="mediapipe468",
    )  # fmt: skip


def face_pose(files: Mapping[str, Path], folder: Path) -> None:
    """Write the same network as ``face_pose.onnx``: yaw, pitch and roll."""
    names = ["yaw", "pitch", "roll"]
    _write_mesh(files, folder, "face_pose", kind="pose", output="pose", names=names)


def face_measures(files: Mapping[str, Path], folder: Path) -> None:
    """Write the same network as ``face_measures.onnx``: opening and width of the mouth, opening of
    the eyes."""
    _write_mesh(
        files, folder, "face_measures", kind="quantities", output="measures", names=list(MEASURES)
    )


def _write_mesh(files: Mapping[str, Path], folder: Path, name: str, **card: Any) -> None:
    write_annotator(
        folder,
        name,
        mesh(onnx_model(read_network(_only(files)), ["mesh", "flag"])),
        presence={"output": "confidence", "threshold": PRESENT},
        input={"size": MESH_SIDE, "range": [0, 1], "resize": "bilinear"},
        crop=CROP,
        **card,
        **ORIGIN,
    )


def _only(files: Mapping[str, Path]) -> Path:
    (file,) = files.values()
    return file


# ---------------------------------------------------------------------------------------------
# The detector: 896 anchors to one box

#: Cells across and anchors a cell of the detector's two maps.
MAPS = ((16, 2), (8, 6))
OVERLAP = 0.3
"""Boxes that overlap the best one by more than this are averaged with it."""


def anchors() -> np.ndarray:
    """Centres of the detector's anchors in parts of the input, float32 (896, 2)."""
    found = []
    for cells, each in MAPS:
        at = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(at, at, indexing="ij")
        found.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), each, axis=0))
    return np.concatenate(found).astype(np.float32)


def detector(model: onnx.ModelProto) -> onnx.ModelProto:
    """Regressors (n, 896, 16) and classifiers (n, 896, 1) -> "boxes" (n, 6), the best face's edges
    in pixels of the input, the angle of its eyes in degrees clockwise and its score; "score" (n,).

    The box is the mean, weighted by score, of those of a score of at least `PRESENT` that overlap
    the best one by more than `OVERLAP` (weighted suppression), and of that.
    """
    f = Formula(model)
    scores = f("Sigmoid", f("Squeeze", "classificators", np.array([2])))  # (n, 896)
    side = np.float32(DETECTOR_SIDE)
    # x, y of the box's centre and its sides, then x, y of the right eye and the left
    centres = np.zeros((1, len(anchors()), 8), np.float32)
    for column in (0, 4, 6):
        centres[0, :, column : column + 2] = anchors() * side
    rows = f("Add", f.part("regressors", range(8), axis=2), centres)
    middle, half = f.part(rows, [0, 1], axis=2), f("Mul", f.part(rows, [2, 3], axis=2), 0.5)
    near, far = f("Sub", middle, half), f("Add", middle, half)  # (n, 896, 2)
    best = f("ArgMax", scores, axis=1, keepdims=1)  # (n, 1)
    chosen = f("Equal", best, np.arange(len(anchors()), dtype=np.int64)[None])
    chosen = f("Unsqueeze", f("Cast", chosen, to=1), np.array([2]))  # (n, 896, 1), one of them 1
    best_near, best_far = (f.sum(f("Mul", edge, chosen), 1) for edge in (near, far))
    sides = f("Sub", f("Min", far, best_far), f("Max", near, best_near))
    shared = _product(f, f("Max", sides, 0.0))
    areas = _product(f, f("Sub", far, near))
    united = f("Sub", f("Add", areas, f.sum(f("Mul", areas, chosen), 1)), shared)
    alike = f("Cast", f("Greater", shared, f("Mul", united, OVERLAP)), to=1)
    score = f("Unsqueeze", scores, np.array([2]))
    likely = f("Cast", f("GreaterOrEqual", score, PRESENT), to=1)
    # onnxruntime's sigmoid is 0 from about -18 on, of which no mean can be made
    weights = f("Mul", f("Max", f("Mul", alike, likely), chosen), f("Max", score, 1e-7))
    sums = f("Div", f.sum(f("Mul", rows, weights), 1), f.sum(weights, 1))
    mean = f("Squeeze", sums, np.array([1]))
    middle, half = f.part(mean, [0, 1]), f("Mul", f.part(mean, [2, 3]), 0.5)
    eyes = f("Sub", f.part(mean, [6, 7]), f.part(mean, [4, 5]))
    angle = f.angle(f.part(eyes, [1]), f.part(eyes, [0]))
    top = f("ReduceMax", scores, axes=[1], keepdims=1)
    boxes = f("Concat", f("Sub", middle, half), f("Add", middle, half), angle, top, axis=1)
    return f.give(boxes=(boxes, [6]), score=(f("Squeeze", top, np.array([1])), []))


def _product(f: Formula, sides: str) -> str:
    return f("Mul", f.part(sides, [0], axis=2), f.part(sides, [1], axis=2))


# ---------------------------------------------------------------------------------------------
# The mesh: points, confidence, pose and measures

NOSE_BASE = 2
"""The point below the nose; what lies above does not follow the jaw."""
LIPS, MOUTH_CORNERS, EYE_CORNERS = (13, 14), (61, 291), (33, 263)
EYELIDS = ((159, 145), (33, 133)), ((386, 374), (362, 263))
"""Of the right eye and the left: middle of the lids, and corners."""
POLAR_STEPS = 12


def mesh(model: onnx.ModelProto) -> onnx.ModelProto:
    """Mesh (n, 1404, 1, 1) and flag (n, 1, 1, 1) -> "points" (n, 468, 3), x right, y down and z
    away from the viewer in pixels of the input; "confidence" (n,) in 0..1; "pose" (n, 3), yaw,
    pitch and roll in degrees; "measures" (n, 3), see `MEASURES`.

    The pose is the rotation that takes the points of the mean shape above the mouth nearest to
    those found (orthogonal Procrustes), as R = Rz(roll) Ry(yaw) Rx(pitch) with x right, y up and z
    towards the viewer: yaw above 0 turns the face to the image's right, pitch down, roll
    counter-clockwise. The mean shape is the model's own, what it answers to even grey.
    """
    shape = mean_shape(model)
    f = Formula(model)
    points = f("Reshape", "mesh", np.array([-1, POINTS, 3]))
    confidence = f("Reshape", f("Sigmoid", "flag"), np.array([-1]))
    still = np.flatnonzero(shape[:, 1] >= shape[NOSE_BASE, 1])
    kept = f("Mul", f.part(points, still.tolist()), np.array([1.0, -1, -1]))
    reference = shape[still] - shape[still].mean(axis=0)
    # Centring one side of the sum of p r' is enough.
    moment = f(
        "MatMul", f("Transpose", kept, perm=[0, 2, 1]), reference / np.square(reference).sum()
    )
    pose = _angles(f, _nearest_rotation(f, moment))
    return f.give(
        points=(points, [POINTS, 3]),
        confidence=(confidence, []),
        pose=(pose, [3]),
        measures=(_measures(f, points), [len(MEASURES)]),
    )


def mean_shape(model: onnx.ModelProto) -> np.ndarray:
    """What the mesh network answers to even grey, mirrored and averaged, float64 (468, 3), x right,
    y up and z towards the viewer."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    grey = np.full((1, 3, MESH_SIDE, MESH_SIDE), 0.5, np.float32)
    found = session.run(["mesh"], {session.get_inputs()[0].name: grey})[0]
    own = np.asarray(found, np.float64).reshape(POINTS, 3) * [1, -1, -1]
    return symmetric(own - own.mean(axis=0))


def symmetric(points: np.ndarray) -> np.ndarray:
    """Points (n, 3) of a shape that is nearly symmetric in x, made so: each is averaged with the
    mirror image of its partner; partners are the closest assignment of the shape to its mirror
    image."""
    from scipy.optimize import linear_sum_assignment

    mirrored = points * [-1, 1, 1]
    apart = np.square(points[:, None] - mirrored).sum(axis=2)
    partner = linear_sum_assignment(apart + apart.T)[1]
    out = (points + mirrored[partner]) / 2
    return np.asarray(out - out.mean(axis=0))


def _nearest_rotation(f: Formula, matrix: str) -> str:
    """The orthogonal factor of matrices (n, 3, 3), by Newton's iteration X <- (X + X^-T) / 2
    (Higham 1986); NaN where the determinant is not above 0."""
    x = f("Div", matrix, f("Max", f("Mul", f.length(f.length(matrix, 1), 2), 3**-0.5), 1e-12))
    for _ in range(POLAR_STEPS):
        cofactors, determinant = _cofactors(f, x)
        x = f("Mul", f("Add", x, f("Div", cofactors, determinant)), 0.5)
    return f("Mul", x, f("Sqrt", f("Sign", _cofactors(f, matrix)[1])))


def _cofactors(f: Formula, x: str) -> tuple[str, str]:
    """Cofactors (n, 3, 3) and determinant (n, 1, 1)."""
    one, two = [1, 2, 0], [2, 0, 1]

    def turned(rows: Sequence[int], columns: Sequence[int]) -> str:
        return f.part(f.part(x, rows, axis=1), columns, axis=2)

    cofactors = f(
        "Sub",
        f("Mul", turned(one, one), turned(two, two)),
        f("Mul", turned(one, two), turned(two, one)),
    )
    return cofactors, f("Mul", f.sum(f("Mul", x, cofactors), 1, 2), 1 / 3)


def _angles(f: Formula, rotation: str) -> str:
    """Yaw, pitch and roll in degrees (n, 3) of rotations (n, 3, 3)."""
    flat = f("Reshape", rotation, np.array([-1, 9]))
    r = {(i // 3, i % 3): f.part(flat, [i]) for i in range(9)}
    across = f("Sqrt", f("Add", f("Mul", r[0, 0], r[0, 0]), f("Mul", r[1, 0], r[1, 0])))
    yaw = f.angle(f("Neg", r[2, 0]), across)
    return f("Concat", yaw, f.angle(r[2, 1], r[2, 2]), f.angle(r[1, 0], r[0, 0]), axis=1)


def _measures(f: Formula, points: str) -> str:
    """Distances in 3D, which turning the head does not change: between the lips and between the
    corners of the mouth, over that of the outer corners of the eyes; between the lids, over that of
    the corners, mean of both eyes."""

    def distance(pair: tuple[int, int]) -> str:
        difference = f("Sub", f.part(points, [pair[0]]), f.part(points, [pair[1]]))
        return f("Squeeze", f.length(difference, 2), np.array([2]))

    eyes = distance(EYE_CORNERS)
    openings = [f("Div", distance(lids), distance(corners)) for lids, corners in EYELIDS]
    opening = f("Mul", f("Add", *openings), 0.5)
    mouth = [f("Div", distance(pair), eyes) for pair in (LIPS, MOUTH_CORNERS)]
    return f("Concat", *mouth, opening, axis=1)
