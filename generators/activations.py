"""What parts of a model put out while it draws: recorded, and added to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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


def recorded(network: nn.Module, space: str, draw: Callable[[], object]) -> Tensor:
    """What the network's layer of a space puts out while ``draw`` runs, which is ended there."""
    found: list[Tensor] = []

    def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(output)
        raise _Recorded

    with suppress(_Recorded), _hooked(_layer(network, space), stop):
        draw()
    return found[0].contiguous()


@contextmanager
def added(network: nn.Module, edits: Iterable[tuple[Edit, Tensor]]) -> Iterator[None]:
    """With each step, (1 or n, channels, height, width), added to what the layer of its edit's
    space puts out, weighted by the edit's option "mask", (height, width) from 0 to 1.

    edits : those of injected spaces, as `generators.edits.edited` gives them.
    Raises UsageError for a mask of another size or range.
    """
    with ExitStack() as hooks:
        for edit, step in edits:
            hook = partial(_plus, step * _mask(edit, step))
            hooks.enter_context(_hooked(_layer(network, edit.direction.space), hook))
        yield


def _layer(network: nn.Module, space: str) -> nn.Module:
    return network.get_submodule(space.removeprefix(PREFIX))


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
