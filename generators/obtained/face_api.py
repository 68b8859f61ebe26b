"""Facial expression by the npm package @vladmandic/face-api: quantised weights to ONNX.

The package keeps a network's weights in ``<model>.bin``, one tensor after the other, and their
names, shapes and scales in ``<model>-weights_manifest.json``. What is computed of them stands in
its program (MIT), and here once more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from generators.obtained.annotator import empty_model, write_annotator
from generators.obtained.onnx_formula import Formula
from schemas.errors import InputError

Weights = Mapping[str, np.ndarray]

MEAN = np.array([122.782, 117.001, 104.298], np.float32).reshape(3, 1, 1)
SOURCE = "npm @vladmandic/face-api 1.7.15"
EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
SIDE = 112


def expression(files: Mapping[str, Path], folder: Path) -> None:
    """Write the expression network as ``face_expression.onnx``: seven probabilities."""
    weights = read_weights(files)
    f = Formula(empty_model(SIDE))
    x = f("Div", f("Sub", "image", MEAN), 255.0)
    for block in range(4):
        x = _dense(f, weights, x, f"dense{block}")
    x = f("Flatten", f("AveragePool", x, kernel_shape=[7, 7]))
    x = f("Add", f("MatMul", x, weights["fc/weights"]), weights["fc/bias"])
    write_annotator(
        folder,
        "face_expression",
        f.give(expressions=(x, [len(EXPRESSIONS)])),
        kind="scores",
        output="expressions",
        names=list(EXPRESSIONS),
        activation="softmax",
        input={"size": SIDE, "range": [0, 255], "resize": "bilinear"},
        crop={"by": "obtained:face_boxes"},
        licence="MIT (package)",
        source=SOURCE,
    )


def read_weights(files: Mapping[str, Path]) -> Weights:
    """Tensors of a manifest and its shard, float32, in the package's axes.

    Raises InputError where the shard is longer or shorter than the manifest says.
    """
    manifest = next(path for name, path in files.items() if name.endswith("manifest.json"))
    shard = next(path for name, path in files.items() if name.endswith(".bin")).read_bytes()
    tensors = [t for group in json.loads(manifest.read_bytes()) for t in group["weights"]]
    found: dict[str, np.ndarray] = {}
    at = 0
    for tensor in tensors:
        scale = tensor.get("quantization")
        kind = np.dtype(scale["dtype"] if scale else tensor["dtype"]).newbyteorder("<")
        count = int(np.prod(tensor["shape"], dtype=np.int64))
        end = at + count * kind.itemsize
        if end <= len(shard):
            values = np.frombuffer(shard, kind, count, at).astype(np.float64)
            if scale:
                values = values * scale["scale"] + scale["min"]
            found[tensor["name"]] = values.reshape(tensor["shape"]).astype(np.float32)
        at = end
    if at != len(shard):
        raise InputError(
            f"the shard has {len(shard)!r} bytes, its manifest describes {at!r}: fetch the package "
            "again"
        )
    return found


def _dense(f: Formula, weights: Weights, x: str, name: str) -> str:
    """Four convolutions, each of the sum of all that the ones before it gave."""
    total = x = f("Relu", _separable(f, weights, x, f"{name}/conv0", stride=2))
    for i in (1, 2, 3):
        total = f("Add", total, _separable(f, weights, x, f"{name}/conv{i}", stride=1))
        x = f("Relu", total)
    return x


def _separable(f: Formula, weights: Weights, x: str, name: str, stride: int) -> str:
    """A convolution, by channel and then by point where it is separable, of TensorFlow's "same"
    edges: an even picture that is halved gets its line of zeros at the right and below."""
    pads = [0, 0, 1, 1] if stride == 2 else [1] * 4
    bias = weights[f"{name}/bias"]
    if f"{name}/filters" in weights:
        kernel = weights[f"{name}/filters"].transpose(3, 2, 0, 1)
        return f("Conv", x, kernel, bias, strides=[stride] * 2, pads=pads)
    depth = weights[f"{name}/depthwise_filter"].transpose(2, 3, 0, 1)
    point = weights[f"{name}/pointwise_filter"].transpose(3, 2, 0, 1)
    x = f("Conv", x, depth, strides=[stride] * 2, pads=pads, group=len(depth))
    return f("Conv", x, point, bias)
