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
    abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d add add_
    addcmul addmm addmm_ affine_grid_generator alias amax amin any arange argmax argmin as_strided
    asin asinh atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bernoulli
    bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_to cat ceil celu channel_shuffle
    chunk clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ clone col2im concat concatenate
    constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d convolution copy copy_ cos cosh cross cumsum detach detach_ diagonal div div_
    divide dot dropout einsum elu elu_ embedding eq erf exp expand expand_as expm1 eye
    feature_dropout fft_fft2 fft_ifft2 fft_irfft2 fft_rfft2 fill fill_ flatten flip floor floor_
    floor_divide fmod full full_like gather ge gelu gelu_ glu grid_sampler grid_sampler_2d
    group_norm gt hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ hstack hypot
    im2col index index_put index_select instance_norm isinf isnan kron layer_norm le leaky_relu
    leaky_relu_ lerp lift_fresh_copy linalg_norm linalg_vector_norm linear linspace log log10 log1p
    log2 log_sigmoid log_sigmoid_forward log_softmax logical_and logical_not logical_or logical_xor
    logsumexp lt masked_fill masked_fill_ masked_scatter matmul max max_pool1d max_pool2d
    max_pool2d_with_indices maximum mean meshgrid min minimum mish mm movedim mul mul_ multiply
    narrow native_dropout native_group_norm native_layer_norm ne neg negative new_full new_ones
    new_zeros norm normal numel numpy_T one_hot ones ones_like outer pad permute pixel_shuffle
    pixel_unshuffle pow prelu prod rand rand_like randn randn_like randperm reciprocal
    reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 relu_ remainder repeat
    repeat_interleave replication_pad2d replication_pad3d reshape rms_norm roll round rsqrt rsub
    scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce select
    select_scatter selu selu_ sigmoid sigmoid_ sign silu silu_ sin sinh slice slice_scatter softmax
    softplus sort split split_with_sizes sqrt square squeeze squeeze_ stack std sub sub_ subtract
    sum sym_numel sym_size t tan tanh tanh_ tensordot threshold threshold_ tile to topk transpose
    tril triu true_divide trunc type_as unbind unflatten unfold unsqueeze unsqueeze_
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest2d upsample_trilinear3d
    var view view_as view_as_complex view_as_real vstack where zero_ zeros zeros_like
    _adaptive_avg_pool2d _cdist_forward _fft_c2r _fft_r2c _log_softmax _native_batch_norm_legit
    _native_batch_norm_legit_no_training _scaled_dot_product_flash_attention_for_cpu _softmax
    _to_copy _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact2d
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
