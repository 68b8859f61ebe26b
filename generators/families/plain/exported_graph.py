"""The graph of a torch.export archive, computed operator by operator.

Only operators that are named here run, each torch's own: what a file holds chooses among them and
gives their arguments. They are differentiable, on any device and in the precision of the tensors.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.exported import GRAPH, KINDS, TENSOR
from schemas.errors import CheckpointError

#: Names in ``torch.ops.aten``, without overloads.
KNOWN = frozenset(
    """
    abs absolute adaptive_avg_pool2d add add_ addcmul addmm alias amax amin arange argmax as_strided
    avg_pool2d baddbmm batch_norm bernoulli bmm broadcast_to cat celu chunk clamp clamp_ clamp_max
    clamp_min clone concat constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d convolution cos cumsum detach div div_ dot dropout einsum elu
    elu_ embedding eq erf exp expand expand_as eye feature_dropout flatten flip floor floor_divide
    full full_like gather ge gelu glu group_norm gt hardsigmoid hardswish hardtanh hardtanh_ hypot
    index index_select instance_norm layer_norm le leaky_relu leaky_relu_ lerp lift_fresh_copy
    linalg_vector_norm linear log log1p log_softmax logical_and logical_not logical_or lt
    masked_fill matmul max max_pool2d maximum mean min minimum mish mm movedim mul mul_ narrow
    native_group_norm native_layer_norm ne neg new_full new_ones new_zeros norm normal numpy_T
    one_hot ones ones_like outer pad permute pixel_shuffle pixel_unshuffle pow prelu prod rand
    rand_like randn randn_like reciprocal reflection_pad2d relu relu6 relu_ remainder repeat
    repeat_interleave replication_pad2d reshape rms_norm roll round rsqrt rsub scalar_tensor
    scaled_dot_product_attention select selu selu_ sigmoid sigmoid_ sign silu silu_ sin slice
    softmax softplus split split_with_sizes sqrt square squeeze stack std sub sub_ sum sym_numel
    sym_size t tan tanh tanh_ tile to transpose tril triu type_as unbind unflatten unsqueeze
    upsample_bicubic2d upsample_bilinear2d upsample_nearest2d var view view_as where zeros
    zeros_like _native_batch_norm_legit_no_training _to_copy _unsafe_view _upsample_bicubic2d_aa
    _upsample_bilinear2d_aa _upsample_nearest_exact2d
    """.split()
)
#: Operators of sizes.
SIZES: Mapping[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem", "truediv", "pow")
} | {"math.ceil": math.ceil, "math.floor": math.floor, "torch.sym_max": max, "torch.sym_min": min}
#: Checks of what a trial of the network shows as well.
SKIPPED = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async")
_ATEN = "torch.ops.aten."
_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d,
            4: torch.preserve_format}  # fmt: skip


class ExportedGraph:
    """Computes the graph of the parts that `generators.exported` reads."""

    def __init__(self, parts: Mapping[str, np.ndarray]) -> None:
        graph = json.loads(bytes(parts[GRAPH].astype(np.uint8)))
        self.inputs: list[str] = graph["inputs"]
        self.outputs: list[str] = graph["outputs"]
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self._nodes = [(_operator(target), given, out) for target, given, out in graph["nodes"]]
        self._tensors = {
            name: torch.from_numpy(np.array(parts[f"{TENSOR}{stored}"], order="C"))
            for name, stored in graph["tensors"].items()
        }
        self.to(torch.float32)

    def to(self, place: torch.device | torch.dtype | str) -> None:
        """Move the network, or change its precision."""
        if isinstance(place, torch.dtype):
            self.dtype = place
        else:
            self.device = torch.device(place)
        for name, tensor in self._tensors.items():
            dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
            self._tensors[name] = tensor.to(self.device, dtype)

    def __call__(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs for inputs by name."""
        values: dict[str, Any] = {**self._tensors, **given}
        for run, arguments, results in self._nodes:
            if run is None:
                continue
            plain = [self._value(arg, values) for name, arg in arguments if name is None]
            named = {n: self._value(arg, values) for n, arg in arguments if n is not None}
            found = run(*plain, **named)
            for name, value in zip(results, found if len(results) > 1 else [found], strict=True):
                if isinstance(name, list):
                    values.update(zip(name, value, strict=True))
                elif name is not None:
                    values[name] = value
        return [values[name] for name in self.outputs]

    def _value(self, arg: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        ((kind, held),) = arg.items()
        match kind:
            case "as_none":
                return None
            case "as_tensor" | "as_tensors" | "as_optional_tensors":
                each = [held] if kind == "as_tensor" else held
                found = [None if "as_none" in e else values[_named(e)] for e in each]
                return found[0] if kind == "as_tensor" else found
            case "as_sym_int" | "as_sym_float" | "as_sym_bool":
                return _size(held, values)
            case "as_sym_ints":
                return [_size(each, values) for each in held]
            case "as_float":
                return float(held)
            case "as_floats":
                return [float(each) for each in held]
            case "as_int" | "as_ints" | "as_bool" | "as_bools" | "as_string":
                return held
            case "as_scalar_type":
                dtype: torch.dtype = getattr(torch, KINDS[held])
                return self.dtype if dtype.is_floating_point else dtype
            case "as_device":
                return self.device
            case "as_memory_format":
                return _FORMATS[held]
            case "as_layout":
                return torch.strided
        raise CheckpointError(f"has an argument of the kind {kind!r}, which is not read")


def _named(held: Mapping[str, Any]) -> str:
    return str(held["name"] if "name" in held else held["as_tensor"]["name"])


def _size(held: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    if "as_name" in held:
        return values[held["as_name"]]
    ((_, value),) = held.items()
    return value


def _operator(target: str) -> Callable[..., Any] | None:
    """The operator of that name; None for a check. Raises CheckpointError for an unknown one."""
    if target in SIZES:
        return SIZES[target]
    name, _, overload = target.removeprefix(_ATEN).partition(".")
    if target.startswith(_ATEN):
        if name in SKIPPED:
            return None
        packet = getattr(torch.ops.aten, name, None) if name in KNOWN else None
        if packet is not None and overload in packet.overloads():
            found: Callable[..., Any] = getattr(packet, overload)
            return found
    raise CheckpointError(
        f"uses the operator {target!r}, which is none of those that are run from a file: export "
        "the network to ONNX, or save its state_dict() where it is of a known architecture"
    )
