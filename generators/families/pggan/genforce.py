"""Generators of GenForce's PyTorch codes (InterFaceGAN, HiGAN, genforce), converted or trained.

================================  =========================================================
tensor                            where
================================  =========================================================
layer0.conv.weight                the first layer as a convolution of one pixel with 3 of
                                  padding, (C, in, 4, 4): the kernel turned around
layer<i>.conv.weight              (out, in, 3, 3); before even ones every pixel is repeated
layer<i>.weight                   repetition and convolution in one, (3, 3, in, out)
output<i>.conv.weight             (channels, in, 1, 1); the full side is the last
layer<i>.wscale.bias, output<i>.  added after the weight's scale
lod                               level of detail of the training
================================  =========================================================

The code named genforce writes ``layer<i>.weight`` and ``layer<i>.bias`` for all of them, and
transposed kernels as (in, out, 3, 3), which only blocks of unequal widths tell from the other ones.
Its tensors do not tell labels from z: a generator is taken for one without.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.families.pggan.layers import (
    Layers,
    Source,
    all_known,
    as_plain,
    he_constant,
    level_of_detail,
    tensor,
)
from generators.unpickle.find_network import Candidate, arrays_of, find_network
from generators.unpickle.interpreter import Inert
from schemas.errors import CheckpointError

MARKERS = ("output0.wscale.bias", "output0.bias")
#: Smallest root mean square of scaled weights that is believed: they begin with 1, those of a
#: training without scales with sqrt(2 / inputs).
_SCALED = 0.3
_NAME = re.compile(r"(layer|output)(\d+)(\.conv)?\.weight")


def find(contents: Any) -> Source | None:
    """The generator in a file; None where it is of another code."""
    found = find_network(contents, MARKERS)
    if found is None or isinstance(found.state, Inert) or not _is_one(found):
        return None
    tensors = arrays_of(found)
    wrapped = "output0.wscale.bias" in tensors
    transposed = False if wrapped else _transposed(tensors)
    if not wrapped:
        _check_scaled(tensor(tensors, "layer1.weight", 4))
    layers: Layers = {}
    known = {"lod"}
    for name in tensors:
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        kind, number = match[1], int(match[2])
        bias = f"{kind}{number}.wscale.bias" if wrapped else f"{kind}{number}.bias"
        fused = wrapped and match[3] is None
        weight = tensor(tensors, name, 4)
        if transposed and _upsamples(kind, number):
            weight = as_plain(weight)
        layer, weight = _layer(kind, number, weight, fused)
        shift = tensor(tensors, bias, 1)
        layers[layer] = weight, np.repeat(shift, 16) if layer == "b4.dense" else shift
        known |= {name, bias}
    all_known(set(tensors), known)
    lod = level_of_detail(tensors)
    return Source(
        layers=layers,
        # InterFaceGAN's and HiGAN's code do not blend: between two levels they draw the finer one.
        lod=math.floor(lod) if wrapped and math.isfinite(lod) else lod,
        settings={},
        facts={
            "source": "interfacegan" if wrapped else "genforce",
            **({"entry": found.where} if found.where else {}),
        },
        assumed={
            "output_activation": "linear",
            **({"fused_scale": False} if transposed is None else {}),
        },
    )


def _upsamples(kind: str, number: int) -> bool:
    return kind == "layer" and number > 0 and number % 2 == 0


def _transposed(tensors: Mapping[str, np.ndarray]) -> bool | None:
    """Whether upsampling kernels are (in, out, 3, 3); None where widths do not tell."""
    for name in tensors:
        match = _NAME.fullmatch(name)
        if match is None or not _upsamples(match[1], int(match[2])):
            continue
        first, second = tensor(tensors, name, 4).shape[:2]
        if first != second:
            outputs = tensor(tensors, f"layer{match[2]}.bias", 1).size
            return first != outputs
    return None if "layer2.weight" in tensors else False


def _check_scaled(weight: np.ndarray) -> None:
    """Of the code named genforce, which can train with weights as they act."""
    scale = float(np.sqrt(np.square(weight, dtype=np.float64).mean()))
    if scale < _SCALED:
        raise CheckpointError(
            f"tensor 'layer1.weight' has root mean square {scale:.2g}, as of a training with "
            "use_wscale False, which is not implemented: use a generator that was trained with the "
            "default"
        )


def _is_one(found: Candidate) -> bool:
    """Whether the first layer makes 4 x 4 pixels of one; StyleGANs of the same code begin with a
    constant."""
    shapes = (_shape_of(found.state, name) for name in ("layer0.conv.weight", "layer0.weight"))
    return any(len(shape) == 4 and shape[2:] == (4, 4) for shape in shapes)


def _shape_of(state: Mapping[str, Any], name: str) -> tuple[int, ...]:
    value = state.get(name)
    shape = value.shape if isinstance(value, np.ndarray) else getattr(value, "size", ())
    return shape if isinstance(shape, tuple) else ()


def _layer(kind: str, number: int, weight: np.ndarray, fused: bool) -> tuple[str, np.ndarray]:
    """Our name and the weight as it acts."""
    if kind == "output":
        return f"b{4 << number}.torgb", weight * he_constant(weight.shape[1], 1.0)
    if number == 0:
        inputs = weight.shape[1]
        turned = weight[:, :, ::-1, ::-1].transpose(0, 2, 3, 1).reshape(-1, inputs)
        return "b4.dense", turned * he_constant(inputs, math.sqrt(2.0) / 4)
    block, second = divmod(number, 2)
    layer = f"conv{second}" if block else "conv"
    if fused:
        if weight.shape[:2] != (3, 3):
            raise CheckpointError(
                f"tensor 'layer{number}.weight' has shape {weight.shape!r}, expected (3, 3, in, "
                "out) of a fused convolution"
            )
        weight = weight[::-1, ::-1].transpose(3, 2, 0, 1)
    return f"b{4 << block}.{layer}", weight * he_constant(math.prod(weight.shape[1:]))
