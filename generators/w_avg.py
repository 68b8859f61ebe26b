"""The mean of w of StyleGANs whose file has none (no torch)."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

#: The tensor, in the names of every StyleGAN here.
NAME = "mapping.w_avg"
#: z that are drawn for it, and their seed.
ESTIMATE: Mapping[str, int] = {"n": 10_000, "seed": 0}


def estimate_of_w_avg(tensors: Container[str]) -> dict[str, Any]:
    """What `Checkpoint.estimated` says of a StyleGAN with these tensors."""
    return {} if NAME in tensors else {NAME: dict(ESTIMATE)}
