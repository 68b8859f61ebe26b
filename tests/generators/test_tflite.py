"""TensorFlow Lite files to ONNX: a small file of every operator, its numbers computed here."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnxruntime
import pytest

from generators.tflite import onnx_model, read_network
from generators.tflite.reader import OPERATORS
from schemas.errors import CheckpointError

SIDE = 7
OPTIONS = {
    "CONV_2D": 1, "DEPTHWISE_CONV_2D": 2, "MAX_POOL_2D": 5, "CONCATENATION": 10, "ADD": 11,
}  # fmt: skip
"""Which options an operator has, as the schema numbers them."""
CODES = {name: number for number, name in OPERATORS.items()}


def _written(builder: flatbuffers.Builder, value: Any) -> int:
    """A table (its fields by number), a text, bytes, or a list of tables or int32."""
    if isinstance(value, Mapping):
        fields = {
            k: v if isinstance(v, tuple) else ("at", _written(builder, v)) for k, v in value.items()
        }
        builder.StartObject(max(fields, default=0) + 1)
        for number, (kind, held) in fields.items():
            match kind:
                case "i8":
                    builder.PrependInt8Slot(number, held, 0)
                case "i32":
                    builder.PrependInt32Slot(number, held, 0)
                case "u32":
                    builder.PrependUint32Slot(number, held, 0)
                case "at":
                    builder.PrependUOffsetTRelativeSlot(number, held, 0)
        return builder.EndObject()
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, bytes):
        return builder.CreateByteVector(value)
    if value and isinstance(value[0], Mapping):
        tables = [_written(builder, each) for each in value]
        builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            builder.PrependUOffsetTRelative(table)
        return builder.EndVector()
    builder.StartVector(4, len(value), 4)
    for number in reversed(value):
        builder.PrependInt32(int(number))
    return builder.EndVector()


class Drawing:
    """A network while it is written; tensors are numbers."""

    def __init__(self) -> None:
        self.tensors: list[dict[int, Any]] = []
        self.buffers: list[dict[int, Any]] = [{}]
        self.codes: list[str | int] = []
        self.operators: list[dict[int, Any]] = []

    def tensor(self, shape: tuple[int, ...], values: np.ndarray | None = None) -> int:
        kinds = {"float32": 0, "float16": 1, "int32": 2}
        kind = 0 if values is None else kinds[str(values.dtype)]
        buffer = 0
        if values is not None:
            buffer = len(self.buffers)
            self.buffers.append({0: values.tobytes()})
        name = f"tensor {len(self.tensors)}"
        self.tensors.append({0: list(shape), 1: ("i8", kind), 2: ("u32", buffer), 3: name})
        return len(self.tensors) - 1

    def constant(self, values: np.ndarray) -> int:
        return self.tensor(values.shape, values)

    def half(self, values: np.ndarray) -> int:
        """Weights in float16 that an operator makes float32."""
        return self.add("DEQUANTIZE", values.shape, self.constant(values.astype(np.float16)))

    def add(self, code: str | int, shape: tuple[int, ...], *inputs: int, **options: Any) -> int:
        output = self.tensor(shape)
        if code not in self.codes:
            self.codes.append(code)
        held = {int(key[1:]): value for key, value in options.items()}
        self.operators.append(
            {0: ("u32", self.codes.index(code)), 1: list(inputs), 2: [output]}
            | ({3: ("i8", OPTIONS[code]), 4: held} if code in OPTIONS else {})
        )
        return output

    def save(self, path: Path, inputs: list[int], outputs: list[int]) -> Path:
        builder = flatbuffers.Builder(1024)
        numbers = [CODES.get(code, code) for code in self.codes]
        root = _written(
            builder,
            {
                0: ("u32", 3),
                1: [{0: ("i8", number), 3: ("i32", number)} for number in numbers],
                2: [{0: self.tensors, 1: inputs, 2: outputs, 3: self.operators}],
                4: self.buffers,
            },
        )
        builder.Finish(root, file_identifier=b"TFL3")
        path.write_bytes(builder.Output())
        return path


def small(folder: Path) -> tuple[Path, Any]:
    """A network of all ten operators, and what it computes, in float64."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float16).astype(np.float32)

    kernel, bias, slope = drawn(4, 3, 3, 3), drawn(4), drawn(1, 1, 4)
    depth, depth_bias = drawn(1, 3, 3, 4), drawn(4)
    widths = np.array([[0, 0], [1, 0], [0, 2], [0, 3]], np.int32)
    g = Drawing()
    image = g.tensor((1, SIDE, SIDE, 3))
    same = {"o0": ("i8", 0)}
    conv = g.add(
        "CONV_2D", (1, 4, 4, 4), image, g.half(kernel), g.half(bias),
        **same, o1=("i32", 2), o2=("i32", 2), o3=("i8", 1),
    )  # fmt: skip
    bent = g.add("PRELU", (1, 4, 4, 4), conv, g.half(slope))
    deep = g.add(
        "DEPTHWISE_CONV_2D", (1, 4, 4, 4), bent, g.half(depth), g.constant(depth_bias),
        **same, o1=("i32", 1), o2=("i32", 1), o3=("i32", 1),
    )  # fmt: skip
    both = g.add("ADD", (1, 4, 4, 4), conv, deep, o0=("i8", 0))
    padded = g.add("PAD", (1, 5, 6, 7), both, g.constant(widths))
    pooled = g.add(
        "MAX_POOL_2D", (1, 2, 3, 7), padded,
        o0=("i8", 1), o1=("i32", 2), o2=("i32", 2), o3=("i32", 2), o4=("i32", 2),
    )  # fmt: skip
    positive = g.add("RELU", (1, 2, 3, 7), pooled)
    shapes = [g.constant(np.array([1, n, 2], np.int32)) for n in (21, 32)]
    rows = g.add("RESHAPE", (1, 21, 2), positive, shapes[0])
    more = g.add("RESHAPE", (1, 32, 2), conv, shapes[1])
    out = g.add("CONCATENATION", (1, 53, 2), rows, more, o0=("i32", 1))
    path = g.save(folder / "small.tflite", [image], [out, deep])

    def compute(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first = np.maximum(_convolved(x, kernel.transpose(1, 2, 3, 0), 2) + bias, 0)
        second = np.where(first > 0, first, first * slope)
        apart = depth[0][:, :, :, None] * np.eye(4)[None, None]
        third = _convolved(second, apart, 1) + depth_bias
        full = np.pad(first + third, [(0, 0), (1, 0), (0, 2), (0, 3)])
        best = full[:, :4].reshape(len(x), 2, 2, 3, 2, 7).max(axis=(2, 4))
        parts = [np.maximum(best, 0).reshape(len(x), 21, 2), first.reshape(len(x), 32, 2)]
        return np.concatenate(parts, axis=1), third

    return path, compute


def _convolved(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's "same" by its definition; kernel (height, width, in, out)."""
    n, side = len(x), len(kernel)
    steps = -(-x.shape[1] // stride)
    total = max((steps - 1) * stride + side - x.shape[1], 0)
    edge = (total // 2, total - total // 2)
    full = np.pad(x.astype(np.float64), [(0, 0), edge, edge, (0, 0)])
    out = np.zeros((n, steps, steps, kernel.shape[3]))
    for i, j in np.ndindex(steps, steps):
        part = full[:, i * stride : i * stride + side, j * stride : j * stride + side]
        out[:, i, j] = np.einsum("nhwc,hwco->no", part, kernel)
    return out


def run(model: Any, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x.transpose(0, 3, 1, 2)})


def test_every_operator_gives_its_numbers_whatever_the_batch(tmp_path):
    path, compute = small(tmp_path)
    network = read_network(path)
    assert {operator.name for operator in network.operators} == set(CODES)
    model = onnx_model(network, ["rows", "maps"])
    x = np.random.default_rng(1).normal(size=(5, SIDE, SIDE, 3)).astype(np.float32)
    rows, maps = compute(x)
    for n in (1, 5):
        found = run(model, x[:n])
        np.testing.assert_allclose(found[0], rows[:n], atol=1e-5)
        np.testing.assert_allclose(found[1].transpose(0, 2, 3, 1), maps[:n], atol=1e-5)
    assert [output.name for output in model.graph.output] == ["rows", "maps"]


def test_a_damaged_file_is_an_error_and_no_other_model(tmp_path):
    path, _ = small(tmp_path)
    data = path.read_bytes()
    for length in (0, 6, 40, len(data) // 3, len(data) - 300):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"small\.tflite"):
            onnx_model(read_network(path))
    rng = np.random.default_rng(0)
    for _ in range(60):
        hurt = bytearray(data)
        hurt[rng.integers(8, len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(hurt)
        try:
            onnx_model(read_network(path))
        except CheckpointError:
            continue


def test_what_is_not_converted_is_told_by_name(tmp_path):
    g = Drawing()
    image = g.tensor((1, 4, 4, 3))
    path = g.save(tmp_path / "a.tflite", [image], [g.add(25, (1, 4, 4, 3), image)])
    with pytest.raises(CheckpointError, match="'a.tflite' holds operator 25, which is not"):
        read_network(path)
    g = Drawing()
    image = g.tensor((1, 4, 4, 3))
    path = g.save(
        tmp_path / "b.tflite", [image], [g.add("ADD", (1, 4, 4, 3), image, image, o0=("i8", 3))]
    )
    with pytest.raises(CheckpointError, match="activation 3 is fused"):
        onnx_model(read_network(path))
    (tmp_path / "c.tflite").write_bytes(b"PK\3\4 a zip, say")
    with pytest.raises(CheckpointError, match="'c.tflite' is no TensorFlow Lite file"):
        read_network(tmp_path / "c.tflite")


def _mediapipe() -> dict[str, bytes]:
    """The two face models of an installed mediapipe, which is not imported."""
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or not spec.submodule_search_locations:
        return {}
    root = Path(spec.submodule_search_locations[0]) / "modules"
    names = ("face_detection/face_detection_short_range", "face_landmark/face_landmark")
    return {n.split("/")[1]: (root / f"{n}.tflite").read_bytes() for n in names}


def test_the_original_runtime_agrees(tmp_path):
    """On the small network and, where mediapipe is installed, on its two face models."""
    interpreter = pytest.importorskip(
        "ai_edge_litert.interpreter",
        reason="the original runtime, ai-edge-litert, is not installed",
    )
    small(tmp_path)
    for name, data in _mediapipe().items():
        (tmp_path / f"{name}.tflite").write_bytes(data)
    for path in tmp_path.glob("*.tflite"):
        network = read_network(path)
        shape = network.tensors[network.inputs[0]].shape
        x = np.random.default_rng(0).uniform(0, 1, (3, *shape[1:])).astype(np.float32)
        found = run(onnx_model(network), x)
        original = interpreter.Interpreter(str(path))
        original.allocate_tensors()
        for i, row in enumerate(x):
            original.set_tensor(original.get_input_details()[0]["index"], row[None])
            original.invoke()
            for own, detail in zip(found, original.get_output_details(), strict=True):
                wanted = original.get_tensor(detail["index"])
                own = own.transpose(0, 2, 3, 1) if own.ndim == 4 else own
                scale = max(1.0, float(np.abs(wanted).max()))
                np.testing.assert_allclose(own[i : i + 1], wanted, rtol=0, atol=1e-5 * scale)
