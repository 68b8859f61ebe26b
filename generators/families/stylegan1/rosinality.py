"""rosinality's ``style-based-gan-pytorch``: its state dicts as our tensors.

Its layers compute what the official ones do, with other constants: matrices and the colour layer
have the gain sqrt 2 of convolutions, noise weights one of sqrt(2 / channels), transposed kernels
are divided by 4, the mapping has no rate of its own, and the 1 of a style's scale is in its bias.
These are multiplied into the tensors. Two differences stay, and are part of the architecture: the
bias of an upsampling layer is added before the blur, which lessens it at the border, and instance
normalisation adds 1e-5. Noise is always drawn anew: none is stored, and "const" noise is none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from generators.families.stylegan1.config import fused_scale_of
from generators.families.stylegan1.layouts import Rule, layer_name, single, translated
from schemas.errors import CheckpointError

#: The learned constant, which each such file has, and no other network.
ROSINALITY = "generator.progression.0.conv1.input"
SQRT2 = np.float32(math.sqrt(2.0))
_BLOCK = r"generator\.(?:progression|to_rgb)\.([0-8])\."


def _layer(part: str) -> Callable[[re.Match[str]], str]:
    """Name of a tensor of layer 1 or 2 of a block."""
    return lambda m: f"synthesis.{layer_name(2 * int(m[1]) + int(m[2]) - 1)}.{part}"


def _noise(value: np.ndarray) -> np.ndarray:
    return value.reshape(-1) * np.float32(math.sqrt(2.0 / max(value.size, 1)))


def _transposed(value: np.ndarray) -> np.ndarray:
    """A kernel (in, out, height, width) of which the mean is taken where we take the sum."""
    return value.swapaxes(0, 1) / np.float32(4) if value.ndim == 4 else value


def _without_one(value: np.ndarray) -> np.ndarray:
    """Biases of scales and shifts, without the 1 of the scales."""
    return value - (np.arange(value.size) < value.size // 2).reshape(value.shape)


def _matrix(value: np.ndarray) -> np.ndarray:
    return value * SQRT2


def _mapping(match: re.Match[str]) -> str:
    return f"mapping.fc{(int(match[1]) - 1) // 2}.{match[2]}"


RULES: Sequence[Rule] = (
    (r"style\.(\d{1,2})\.linear\.(weight)_orig", _mapping, None),
    (r"style\.(\d{1,2})\.linear\.(bias)", _mapping, None),
    (_BLOCK + r"conv\.weight_orig", r"synthesis.torgb\1.weight", _matrix),
    (_BLOCK + r"conv\.bias", r"synthesis.torgb\1.bias", None),
    (_BLOCK + r"conv(1)\.input", _layer("input"), single),
    (_BLOCK + r"conv(1)\.0\.weight", _layer("weight"), _transposed),
    (_BLOCK + r"conv([12])\.(?:1\.)?conv\.weight_orig", _layer("weight"), None),
    (_BLOCK + r"conv([12])\.(?:0\.|(?:1\.)?conv\.)bias", _layer("bias"), None),
    (_BLOCK + r"noise([12])\.weight_orig", _layer("noise_strength"), _noise),
    (_BLOCK + r"adain([12])\.style\.linear\.weight_orig", _layer("affine.weight"), _matrix),
    (_BLOCK + r"adain([12])\.style\.linear\.bias", _layer("affine.bias"), _without_one),
)


def from_rosinality(
    state: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]]:
    """Tensors under our names without a mean of w, settings, and what is left out, for people.

    A file holds blocks up to 1,024 px from the start of a training: those that it has not reached
    have noise weights and biases that are all 0, as they began, and are left out.
    Raises CheckpointError for a foreign name or filter, and where no block was trained.
    """
    blocks = {name: int(m[1]) for name in state if (m := re.match(_BLOCK, name))}
    begun = [
        block
        for name, block in blocks.items()
        if re.search(r"(noise[12]\.weight_orig|conv.*\.bias)$", name) and np.any(state[name])
    ]
    if not begun:
        raise CheckpointError(
            "file holds a generator of which no block was trained: noise weights and biases are 0"
        )
    last = max(begun)
    reached = {name: value for name, value in state.items() if blocks.get(name, 0) <= last}
    tensors = translated(reached, RULES)
    for i in range(2 * last + 2):
        side = 4 << i // 2
        tensors[f"synthesis.{layer_name(i)}.noise_const"] = np.zeros((side, side), np.float32)
    constant = f"synthesis.{layer_name(0)}"
    tensors[f"{constant}.bias"] = np.zeros(tensors[f"{constant}.input"].shape[:1], np.float32)
    left_out = [] if last == max(blocks.values()) else [
        f"blocks from {8 << last!r} px on, which the training had not reached"
    ]  # fmt: skip
    fused = {4 << blocks[name] for name in reached if name.endswith("conv1.0.weight")}
    try:
        fused_scale = fused_scale_of(fused, 4 << last)
    except ValueError as e:
        raise CheckpointError(str(e)) from e
    settings = {
        "lr_multiplier": 1.0,
        "fused_scale": fused_scale,
        "norm_epsilon": 1e-5,
        "bias_before_blur": True,
    }
    return tensors, settings, left_out
