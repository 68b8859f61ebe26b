"""The linear layers that turn w into styles, as plain arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.errors import UsageError


@dataclass(frozen=True)
class AffineLayer:
    """A layer's style is ``w_plus[ws_index] @ weight.T + bias``, columns start:stop of s.

    weight : float32 (channels, w_dim), gain included. bias : float32 (channels,).
    """

    name: str
    ws_index: int
    start: int
    stop: int
    weight: np.ndarray
    bias: np.ndarray


def affine_layers(
    generator: Any, layers: Iterable[int] | None = None, *, to_rgb: bool = True
) -> list[AffineLayer]:
    """Affine layers of a style-based generator, in the order of its S space.

    layers : w_plus rows that drive them, default all. to_rgb : with those of the image outputs.

    Raises UsageError for a generator without styles, or for layers that drive none.
    """
    slices = getattr(generator, "style_slices", None)
    if slices is None:
        raise UsageError(
            f"generator {type(generator).__name__!r} has no affine layers: use one with styles, "
            "such as StyleGAN2, or directions of its Jacobian"
        )
    chosen = None if layers is None else set(layers)
    found = []
    for part in slices:
        if (chosen is not None and part.ws_index not in chosen) or (not to_rgb and part.to_rgb):
            continue
        affine = generator.network.synthesis.get_submodule(f"{part.name}.affine")
        weight = affine.weight.detach().cpu().numpy().astype(np.float32) * affine.weight_gain
        bias = affine.bias.detach().cpu().numpy().astype(np.float32) * affine.bias_gain
        found.append(AffineLayer(part.name, part.ws_index, part.start, part.stop, weight, bias))
    if not found:
        rows = sorted({p.ws_index for p in slices if to_rgb or not p.to_rgb})
        raise UsageError(
            f"layers {sorted(chosen or ())!r} drive no style: give some of the w_plus rows {rows!r}"
        )
    return found
