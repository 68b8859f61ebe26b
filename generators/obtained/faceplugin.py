"""Face identity by the network of the npm package faceplugin-face-recognition-js, an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from generators.obtained.annotator import write_annotator

SIDE, WIDTH = 112, 512
#: Groups of the 468 landmarks, each averaged: the eyes, the tip of the nose, the mouth's corners.
POINTS = [[33, 133], [362, 263], [1], [61], [291]]
#: Where aligned faces of `SIDE` pixels have them (InsightFace's template, in the package, too).
PLACES = [[38.795, 52.196], [74.032, 52.001], [56.525, 72.237], [42.049, 92.866], [71.23, 92.704]]


def identity(files: Mapping[str, Path], folder: Path) -> None:
    """Write ``face_identity.onnx``: 512 numbers. The network was exported for one picture at a
    time; its first axis is made free."""
    import onnx
    from onnx import numpy_helper

    (file,) = files.values()
    model = onnx.load(str(file))
    last = model.graph.node[-1]
    for constant in model.graph.initializer:
        if constant.name == last.input[1]:
            constant.CopyFrom(numpy_helper.from_array(np.array([0, WIDTH]), constant.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    for node in model.graph.node:
        node.doc_string = ""  # where it was exported
    onnx.checker.check_model(model)
    write_annotator(
        folder,
        "face_identity",
        model,
        kind="embedding",
        output="output",
        names=WIDTH,
        input={"name": "input", "size": SIDE, "range": [0, 255], "mean": [127.0] * 3,
               "std": [128.0] * 3},
        crop={"by": "obtained:face_landmarks", "points": POINTS, "places": PLACES},
        licence="MIT (package, which says nothing of the training data)",
        source="npm faceplugin-face-recognition-js 0.0.1",
    )  # fmt: skip
