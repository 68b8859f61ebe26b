"""Tensors of rosinality's StyleGAN2 ``.pt`` files under the official names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.families.stylegan2.filters import one_filter, taps_of
from schemas.errors import CheckpointError

_LAYER_PARTS = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}


def rosinality_name(name: str) -> str | None:
    """Our name of a tensor in rosinality's state dict; None for derived filters.

    Stored values mean the same in both: equalised learning rate divides initial values alike,
    modulation biases include their initial 1, kernels of upsampling layers are not flipped, and
    rosinality's scale 1/sqrt(fan-in) cancels in the demodulation (up to its epsilon) and equals
    the gain of ToRGB. Raises CheckpointError for a name that belongs to no StyleGAN2.
    """
    if name.endswith((".blur.kernel", ".upsample.kernel")):
        return None
    if name == "input.input":
        return "synthesis.b4.const"
    if match := re.fullmatch(r"style\.(\d{1,2})\.(weight|bias)", name):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}"
    if match := re.fullmatch(r"noises\.noise_(\d{1,2})", name):
        k = int(match[1])
        return f"synthesis.b{4 << (k + 1) // 2}.conv{(k + 1) % 2}.noise_const"
    if match := re.fullmatch(r"(conv1|to_rgb1|convs\.\d{1,2}|to_rgbs\.\d{1,2})\.(.+)", name):
        kind, _, index = match[1].partition(".")
        part = _LAYER_PARTS.get(match[2])
        layer = {
            "conv1": "b4.conv1",
            "to_rgb1": "b4.torgb",
            "convs": f"b{8 << int(index or 0) // 2}.conv{int(index or 0) % 2}",
            "to_rgbs": f"b{8 << int(index or 0)}.torgb",
        }[kind]
        if part is not None:
            return f"synthesis.{layer}.{part}"
    raise CheckpointError(
        f"tensor {name[:80]!r} belongs to no rosinality StyleGAN2 generator: where it changes no "
        "image, take it out of the state dict and save that with torch.save"
    )


def from_rosinality(
    state: Mapping[str, np.ndarray], latent_avg: np.ndarray | None
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """Tensors under the official names, what the file states beside, and facts about it.

    state : tensors of ``g_ema``. latent_avg : mean of w, (w_dim,), or the same for every layer,
        (num_ws, w_dim); None where the file has none.
    Files older than the stored noise images get zero ones: their "const" noise is no noise.
    Raises CheckpointError for a foreign name, shape or filter.
    """
    tensors: dict[str, np.ndarray] = {}
    filters: dict[tuple[float, ...], str] = {}
    for name, value in state.items():
        ours = rosinality_name(name)
        if ours is None:
            filters.setdefault(taps_of(name, value, total=4.0), name)
            continue
        if ours.endswith(("const", "torgb.weight")) or ours.endswith(
            ("conv0.weight", "conv1.weight")
        ):
            value = _without_leading(name, value, 2 if ours.endswith("noise_const") else 1)
        elif ours.endswith(("noise_strength", "torgb.bias")):
            value = value.reshape(() if ours.endswith("noise_strength") else -1)
        tensors[ours] = value
    said = {"resample_filter": one_filter(filters)} if filters else {}
    facts: dict[str, Any] = {}
    if latent_avg is not None:
        tensors["mapping.w_avg"] = _one_mean(latent_avg)
    if not any(name.startswith("noises.") for name in state):
        facts["noise_const"] = "absent in the file: zeros"
        for name in [name for name in tensors if name.endswith(".noise_strength")]:
            resolution = int(name.split(".")[1][1:])
            image = np.zeros((resolution, resolution), np.float32)
            tensors[name.replace("noise_strength", "noise_const")] = image
    return tensors, said, facts


def _one_mean(latent_avg: np.ndarray) -> np.ndarray:
    """The mean of w, (w_dim,), also where it is repeated for every layer (pSp, e4e)."""
    rows = latent_avg.reshape(-1, latent_avg.shape[-1]) if latent_avg.size else latent_avg
    if rows.ndim != 2 or not (rows == rows[0]).all():
        raise CheckpointError(
            f"'latent_avg' of shape {latent_avg.shape!r} is not one mean of w: save the generator "
            "with one mean, (w_dim,)"
        )
    return np.asarray(rows[0])


def _without_leading(name: str, value: np.ndarray, count: int) -> np.ndarray:
    if value.shape[:count] != (1,) * count:
        raise CheckpointError(
            f"{name!r} has shape {value.shape!r}, expected {count} leading axes of length 1"
        )
    return value.reshape(value.shape[count:])
