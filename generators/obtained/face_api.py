"""Models of the npm package @vladmandic/face-api: shards of quantised weights to ONNX.

The package keeps a network's weights in ``<model>.bin``, one tensor after the other, and their
names, shapes and scales in ``<model>-weights_manifest.json``; what is computed of them stands in
its program and is written down here once more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from schemas.atomic import write_json
from schemas.errors import InputError

Weights = dict[str, np.ndarray]

#: Points of the 468 landmarks, each group averaged, that stand for dlib's five: the outer and inner
#: corners of both eyes and the base of the nose.
DLIB_POINTS = [[33], [133], [362], [263], [2]]


def dlib_places(size: int, padding: float) -> list[list[float]]:
    """Where dlib's ``get_face_chip_details`` puts `DLIB_POINTS`, x and y in pixels of a picture of
    ``size`` pixels a side: those of its mean face, shrunk by the padding, a share of the face."""
    mean = [
        [0.1205750620789, 0.2137274526848],
        [0.3340850613712, 0.2290642403242],
        [0.6460604764104, 0.2289674387677],
        [0.8595674595992, 0.2134981538014],
        [0.4901123135679, 0.6277975316475],
    ]
    places = (np.array(mean) + padding) / (1 + 2 * padding) * size
    return [[round(float(x), 4) for x in place] for place in places]


def identity(files: Mapping[str, Path], folder: Path) -> None:
    """The face recognition network: a residual network of 29 convolutions, 128 numbers a face.

    It is dlib's (King 2017), whose input is an aligned picture of 150 pixels a side.
    """
    weights = read_weights(files)
    graph = _Graph(weights)
    x = graph.add("Sub", ["image", graph.constant(_MEAN)])
    x = graph.add("Div", [x, graph.constant(np.array(255, np.float32))])
    x = graph.conv(x, "conv32_down", stride=2, pad=0)
    x = graph.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2])
    side = 35  # (150 - 7) // 2 + 1 = 72, then (72 - 3) // 2 + 1
    for block in _BLOCKS:
        x = graph.residual(x, block, side)
        side = side // 2 if "down" in block else side
    x = graph.add("ReduceMean", [x], axes=[2, 3], keepdims=0)
    graph.add("MatMul", [x, graph.constant(weights["fc"])], output="embedding")
    graph.save(folder / "face_identity.onnx", side=150, outputs={"embedding": 128})
    write_json(folder / "face_identity.json", {
        "name": "identity",
        "kind": "embedding",
        "output": "embedding",
        "names": 128,
        "input": {"name": "image", "size": 150, "layout": "NCHW", "range": [0, 255]},
        "crop": {"by": "obtained:face_landmarks", "points": DLIB_POINTS,
                 "places": dlib_places(150, 0.25)},
        "licence": "MIT (package); CC0-1.0 (dlib's weights)",
        "source": "npm @vladmandic/face-api 1.7.15: latentflow obtain face_identity",
        "notes": "dlib's face recognition network, its weights rounded to 8 bits by the package",
    })  # fmt: skip


_MEAN = np.array([122.782, 117.001, 104.298], np.float32).reshape(3, 1, 1)
_BLOCKS = (
    *("conv32_1", "conv32_2", "conv32_3", "conv64_down", "conv64_1", "conv64_2", "conv64_3"),
    *("conv128_down", "conv128_1", "conv128_2", "conv256_down", "conv256_1", "conv256_2"),
    "conv256_down_out",
)


def read_weights(files: Mapping[str, Path]) -> Weights:
    """Tensors of a manifest and its shard, float32, in the package's axes.

    Raises InputError where the shard is longer or shorter than the manifest says.
    """
    manifest = next(p for name, p in files.items() if name.endswith("manifest.json"))
    shard = next(p for name, p in files.items() if name.endswith(".bin")).read_bytes()
    found: Weights = {}
    at = 0
    for group in json.loads(manifest.read_bytes()):
        for tensor in group["weights"]:
            scale = tensor.get("quantization")
            kind = np.dtype(scale["dtype"] if scale else tensor["dtype"]).newbyteorder("<")
            count = int(np.prod(tensor["shape"], dtype=np.int64))
            end = at + count * kind.itemsize
            if end > len(shard):
                raise InputError(
                    f"tensor {tensor['name']!r} ends at byte {end}, the shard has {len(shard)}: "
                    "fetch the package again"
                )
            values = np.frombuffer(shard, kind, count, at).astype(np.float64)
            if scale:
                values = values * scale["scale"] + scale["min"]
            found[tensor["name"]] = values.reshape(tensor["shape"]).astype(np.float32)
            at = end
    if at != len(shard):
        raise InputError(
            f"the shard has {len(shard)} bytes, its manifest describes {at}: fetch the package "
            "again"
        )
    return found


class _Graph:
    """An ONNX graph of one input ``image``, built node by node."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        output = output or f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(self, value: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def conv(self, x: str, name: str, stride: int = 1, pad: int = 1, relu: bool = True) -> str:
        """Convolution, then a scale and a shift of each channel, folded into it."""
        filters, bias, scale, shift = (
            self.weights[f"{name}/{part}"]
            for part in ("conv/filters", "conv/bias", "scale/weights", "scale/biases")
        )
        kernel = self.constant(filters.transpose(3, 2, 0, 1) * scale[:, None, None, None])
        inputs = [x, kernel, self.constant(bias * scale + shift)]
        x = self.add("Conv", inputs, strides=[stride, stride], pads=[pad] * 4)
        return self.add("Relu", [x]) if relu else x

    def residual(self, x: str, name: str, side: int) -> str:
        """Two convolutions beside the block's input of ``side`` pixels; a block that goes "down"
        halves it. Where the two then differ by a line of pixels, or in their channels, the smaller
        one is filled up with zeros."""
        down = "down" in name
        y = self.conv(x, f"{name}/conv1", stride=2 if down else 1, pad=0 if down else 1)
        y = self.conv(y, f"{name}/conv2", relu=False)
        if down:
            x = self.add("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
            before, after = self.weights[f"{name}/conv1/conv/filters"].shape[2:]
            zeros = self.constant(np.array([0, 0, 0, 0, 0, after - before, 0, 0], np.int64))
            x = self.add("Pad", [x, zeros])
            if side % 2 == 0:
                edge = self.constant(np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64))
                y = self.add("Pad", [y, edge])
        return self.add("Relu", [self.add("Add", [x, y])])

    def save(self, path: Path, side: int, outputs: Mapping[str, int]) -> None:
        import onnx
        from onnx import TensorProto, helper

        def tensor(name: str, shape: list[Any]) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])

        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [tensor("image", [3, side, side])],
            [tensor(name, [length]) for name, length in outputs.items()],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
