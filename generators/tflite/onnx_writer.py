"""A TensorFlow Lite network as an ONNX graph: channels first, float32, any number of images."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from generators.tflite.reader import Network, Operator, chosen_options
from schemas.errors import CheckpointError

if TYPE_CHECKING:
    import onnx

OPSET = 17
IR_VERSION = 8
CHANNELS_FIRST = (0, 3, 1, 2)
CHANNELS_LAST = (0, 2, 3, 1)
SAME = 0
ACTIVATIONS = {1: "Relu"}
_CONV = {
    "padding": (0, "<b", 0),
    "stride_w": (1, "<i", 0),
    "stride_h": (2, "<i", 0),
    "activation": (3, "<b", 0),
    "dilation_w": (4, "<i", 1),
    "dilation_h": (5, "<i", 1),
}
_DEPTHWISE = {
    **_CONV,
    "activation": (4, "<b", 0),
    "dilation_w": (5, "<i", 1),
    "dilation_h": (6, "<i", 1),
}
_POOL = {
    "padding": (0, "<b", 0),
    "stride_w": (1, "<i", 0),
    "stride_h": (2, "<i", 0),
    "width": (3, "<i", 0),
    "height": (4, "<i", 0),
    "activation": (5, "<b", 0),
}


def onnx_model(network: Network, outputs: Sequence[str] | None = None) -> onnx.ModelProto:
    """The network as ONNX; weights in float16 are folded to float32.

    outputs : names, in the network's order; by default its own. Input and images inside are
    (n, channels, height, width), other outputs as in the file with n in front.

    Raises CheckpointError for what an operator has and the conversion has not, and for a network
    whose parts do not fit one another.
    """
    from onnx import checker

    try:
        return _Graph(network, outputs).model()
    except (ValueError, IndexError, ArithmeticError, struct.error, checker.ValidationError) as e:
        raise CheckpointError(
            f"the network's parts do not fit one another: {e}; fetch the file again"
        ) from e


class _Graph:
    """The ONNX graph while it grows."""

    def __init__(self, network: Network, outputs: Sequence[str] | None) -> None:
        from onnx import helper, numpy_helper

        self._helper, self._from_array = helper, numpy_helper.from_array
        self.network = network
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.folded: dict[int, np.ndarray] = {
            i: t.values for i, t in enumerate(network.tensors) if t.values is not None
        }
        own = [network.tensors[i].name for i in network.outputs]
        names = own if outputs is None else list(outputs)
        self.names = dict(zip(network.outputs, names, strict=True))
        self.names |= {i: network.tensors[i].name for i in network.inputs}
        self.batch = {network.tensors[i].shape[:1] for i in network.inputs}

    def model(self) -> onnx.ModelProto:
        from onnx import TensorProto, checker

        if self.batch != {(1,)}:
            raise CheckpointError(f"the network takes batches of {self.batch!r}, expected 1")
        for at, operator in enumerate(self.network.operators):
            _CONVERTERS[operator.name](self, at, operator)
        described = [
            [
                self._helper.make_tensor_value_info(
                    self.name(i), TensorProto.FLOAT, ["n", *self.shape(i)[1:]]
                )
                for i in tensors
            ]
            for tensors in (self.network.inputs, self.network.outputs)
        ]
        inputs, outputs = described
        graph = self._helper.make_graph(self.nodes, "network", inputs, outputs, self.weights)
        opset = [self._helper.make_opsetid("", OPSET)]
        model = self._helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        checker.check_model(model)
        return model

    def name(self, tensor: int) -> str:
        return self.names.get(tensor, f"t{tensor}")

    def shape(self, tensor: int) -> tuple[int, ...]:
        """As in the graph: channels first."""
        shape = self.network.tensors[tensor].shape
        return tuple(shape[i] for i in CHANNELS_FIRST) if len(shape) == 4 else shape

    def constant(self, tensor: int) -> np.ndarray:
        """Values of a weight. Raises CheckpointError for what is computed."""
        if tensor not in self.folded:
            raise CheckpointError(
                f"tensor {self.network.tensors[tensor].name!r} is computed where a weight is "
                "expected: export the network with its weights"
            )
        return self.folded[tensor]

    def weight(self, name: str, values: np.ndarray) -> str:
        self.weights.append(self._from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        self.nodes.append(self._helper.make_node(kind, list(inputs), [output], **attributes))

    def activated(self, output: str, code: int) -> str:
        """What a node is to write, before the activation that is fused into it."""
        if not code:
            return output
        if code not in ACTIVATIONS:
            raise CheckpointError(
                f"activation {code!r} is fused into an operator, known are {ACTIVATIONS!r}"
            )
        return f"{output}_before"

    def activate(self, output: str, code: int) -> None:
        if code:
            self.add(ACTIVATIONS[code], [f"{output}_before"], output)

    def pads(self, tensor: int, options: Mapping[str, int], kernel: Sequence[int]) -> list[int]:
        """ONNX's padding (top, left, bottom, right): what TensorFlow calls "same", or none."""
        if options["padding"] != SAME:
            return [0, 0, 0, 0]
        before, after = [], []
        for axis, length, side in zip("hw", self.shape(tensor)[2:], kernel, strict=True):
            stride, dilation = options[f"stride_{axis}"], options.get(f"dilation_{axis}", 1)
            steps = -(-length // stride) - 1
            total = max(steps * stride + (side - 1) * dilation + 1 - length, 0)
            before.append(total // 2)
            after.append(total - total // 2)
        return [*before, *after]


def _dequantize(graph: _Graph, at: int, operator: Operator) -> None:
    graph.folded[operator.outputs[0]] = graph.constant(operator.inputs[0]).astype(np.float32)


def _convolution(graph: _Graph, at: int, operator: Operator) -> None:
    depthwise = operator.name == "DEPTHWISE_CONV_2D"
    options = chosen_options(operator.options, _DEPTHWISE if depthwise else _CONV)
    image, kernel, *bias = operator.inputs
    weights = graph.constant(kernel).transpose((3, 0, 1, 2) if depthwise else CHANNELS_FIRST)
    inputs = [graph.name(image), graph.weight(f"w{at}", weights.astype(np.float32))]
    inputs += [graph.weight(f"b{at}", graph.constant(b).astype(np.float32)) for b in bias if b >= 0]
    output = graph.name(operator.outputs[0])
    graph.add(
        "Conv",
        inputs,
        graph.activated(output, options["activation"]),
        kernel_shape=weights.shape[2:],
        strides=[options["stride_h"], options["stride_w"]],
        dilations=[options["dilation_h"], options["dilation_w"]],
        pads=graph.pads(image, options, weights.shape[2:]),
        group=graph.shape(image)[1] if depthwise else 1,
    )
    graph.activate(output, options["activation"])


def _max_pool(graph: _Graph, at: int, operator: Operator) -> None:
    options = chosen_options(operator.options, _POOL)
    kernel = [options["height"], options["width"]]
    output = graph.name(operator.outputs[0])
    graph.add(
        "MaxPool",
        [graph.name(operator.inputs[0])],
        graph.activated(output, options["activation"]),
        kernel_shape=kernel,
        strides=[options["stride_h"], options["stride_w"]],
        pads=graph.pads(operator.inputs[0], options, kernel),
    )
    graph.activate(output, options["activation"])


def _add(graph: _Graph, at: int, operator: Operator) -> None:
    activation = chosen_options(operator.options, {"activation": (0, "<b", 0)})["activation"]
    output = graph.name(operator.outputs[0])
    inputs = [graph.name(i) for i in operator.inputs]
    graph.add("Add", inputs, graph.activated(output, activation))
    graph.activate(output, activation)


def _prelu(graph: _Graph, at: int, operator: Operator) -> None:
    slope = graph.constant(operator.inputs[1]).astype(np.float32).reshape(-1, 1, 1)
    inputs = [graph.name(operator.inputs[0]), graph.weight(f"slope{at}", slope)]
    graph.add("PRelu", inputs, graph.name(operator.outputs[0]))


def _relu(graph: _Graph, at: int, operator: Operator) -> None:
    graph.add("Relu", [graph.name(operator.inputs[0])], graph.name(operator.outputs[0]))


def _pad(graph: _Graph, at: int, operator: Operator) -> None:
    widths = graph.constant(operator.inputs[1]).astype(np.int64)
    if len(widths) == 4:
        widths = widths[list(CHANNELS_FIRST)]
    inputs = [graph.name(operator.inputs[0]), graph.weight(f"pad{at}", widths.T.reshape(-1))]
    graph.add("Pad", inputs, graph.name(operator.outputs[0]))


def _reshape(graph: _Graph, at: int, operator: Operator) -> None:
    given, wanted = operator.inputs[0], graph.network.tensors[operator.outputs[0]].shape
    if wanted[:1] != (1,) or len(wanted) == 4:
        raise CheckpointError(
            f"an operator reshapes to {wanted!r}, expected one row an image and no image"
        )
    source = graph.name(given)
    if len(graph.shape(given)) == 4:  # rows are told in the file's order, channels last
        graph.add("Transpose", [source], f"last{at}", perm=CHANNELS_LAST)
        source = f"last{at}"
    rows = graph.weight(f"shape{at}", np.array([-1, *wanted[1:]], np.int64))
    graph.add("Reshape", [source, rows], graph.name(operator.outputs[0]))


def _concatenation(graph: _Graph, at: int, operator: Operator) -> None:
    options = chosen_options(operator.options, {"axis": (0, "<i", 0), "activation": (1, "<b", 0)})
    rank = len(graph.shape(operator.outputs[0]))
    axis = options["axis"] % rank
    output = graph.name(operator.outputs[0])
    graph.add(
        "Concat",
        [graph.name(i) for i in operator.inputs],
        graph.activated(output, options["activation"]),
        axis=CHANNELS_FIRST.index(axis) if rank == 4 else axis,
    )
    graph.activate(output, options["activation"])


_CONVERTERS: Mapping[str, Callable[[_Graph, int, Operator], None]] = {
    "ADD": _add,
    "CONCATENATION": _concatenation,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "DEQUANTIZE": _dequantize,
    "MAX_POOL_2D": _max_pool,
    "PAD": _pad,
    "PRELU": _prelu,
    "RELU": _relu,
    "RESHAPE": _reshape,
}
