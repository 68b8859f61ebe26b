"""What parts of a model put out while it draws: recorded, added to, and replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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


@contextmanager
def replaced(
    network: nn.Module, maps: Mapping[str, Tensor], plain: Callable[[], object] | None = None
) -> Iterator[None]:
    """With what the layers of some spaces put out replaced, in the rows that are not NaN.

    maps : space -> (n, channels, height, width)
    plain : draws the same rows without what is drawn meanwhile: its difference to that is added
    """
    before: dict[str, Tensor] = {}
    if plain is not None:
        with ExitStack() as hooks, suppress(_Recorded):
            for space, own in maps.items():
                hook = partial(_record, before, len(maps), space, own)
                hooks.enter_context(_hooked(_layer(network, space), hook))
            plain()
    with ExitStack() as hooks:
        for space, own in maps.items():
            hook = partial(_instead, own, before.get(space))
            hooks.enter_context(_hooked(_layer(network, space), hook))
        yield


def _record(
    found: dict[str, Tensor],
    count: int,
    space: str,
    own: Tensor,
    module: nn.Module,
    inputs: Any,
    output: Tensor,
) -> Tensor:
    found[space] = output
    if len(found) == count:
        raise _Recorded
    return _instead(own, None, module, inputs, output)


def _instead(
    own: Tensor, before: Tensor | None, module: nn.Module, inputs: Any, output: Tensor
) -> Tensor:
    own, bare = own.to(output), has_none(own).to(output.device)[:, None, None, None]
    return torch.where(bare, output, own if before is None else own + (output - before))


def has_none(own: Tensor) -> Tensor:
    """Rows without a part of their own, bool (n,): of NaN, unless a descent has diverged."""
    if own.requires_grad:
        return own.new_zeros(len(own)).bool()
    return own.flatten(1).isnan().all(dim=1)


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
