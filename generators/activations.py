"""What parts of a model put out while it draws: recorded, and added to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from generators.protocols import Edit
from schemas.errors import UsageError

PREFIX = "features."
"""Of the spaces of activations, before the layer's name."""


class _Recorded(Exception):
    """Ends a drawing of which only a layer's output is wanted."""


def recorded(layer: nn.Module, draw: Callable[[], object]) -> Tensor:
    """What a layer puts out while ``draw`` runs, which is ended there."""
    found: list[Tensor] = []

    def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(output)
        raise _Recorded

    with suppress(_Recorded), _hooked(layer, stop):
        draw()
    return found[0].contiguous()


@contextmanager
def added(layer: nn.Module, edit: Edit, step: Tensor) -> Iterator[None]:
    """With ``step``, (1 or n, channels, height, width), added to what a layer puts out, weighted by
    the edit's option "mask", (height, width) from 0 to 1.

    Raises UsageError for a mask of another size or range.
    """
    with _hooked(layer, partial(_plus, step * _mask(edit, step))):
        yield


@contextmanager
def _hooked(layer: nn.Module, hook: Any) -> Iterator[None]:
    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _plus(step: Tensor, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output + step


def _mask(edit: Edit, step: Tensor) -> Tensor:
    mask = torch.as_tensor(edit.options.get("mask", 1.0)).to(step)
    if mask.ndim and mask.shape != step.shape[-2:] or not ((mask >= 0) & (mask <= 1)).all():
        raise UsageError(
            f"mask has shape {tuple(mask.shape)!r} and values from {float(mask.min())!r} to "
            f"{float(mask.max())!r}: space {edit.direction.space!r} expects "
            f"{tuple(step.shape[-2:])!r}, from 0 to 1"
        )
    return mask
