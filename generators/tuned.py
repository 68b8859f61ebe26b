"""Rows with parts of their own: weights that are added to the model's, and feature maps.

Two companions of codes, which every generator takes that is drawn by a torch network of ours:

``weights``
    What is added to the network's weights while this row is drawn, and converted to what the
    network makes of it (styles, feature maps): pivotal tuning (Roich et al. 2021), HyperStyle
    (Alaluf et al. 2022). float32 (length,): the tensors of `Companion.tensors` in the order of
    their names, each in C order. That is the full form; a tensor multiplied by ``1 + delta`` is
    given as ``weight * delta`` (`packed`). In the form of rank r a tensor of m rows and k other
    numbers a row comes as A (m, r) and B (r, k) on end, and A @ B is added to it, unless it is
    smaller itself: then it stands there in full. The length alone tells the form (`rank_of`).

``features/<layer>``
    What stands in for what the layer puts out while this row is drawn. The code then decides the
    layers after it. An edit while drawing changes the row's map by as much as it changes the map
    that the code itself gives: F + L(edited code) - L(code), as Yao et al. (2022, "A style-based
    GAN encoder for high fidelity reconstruction") do it; an edit in the layer's own space is added
    to F.

A row of NaN has none. Rows with weights of their own are drawn one by one, all others at once.
"""

from __future__ import annotations

import bisect
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from generators.edits import check_code
from generators.protocols import Code, Companion, Edit, ModelFacts
from schemas.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WEIGHTS = "weights"
FEATURES = "features/"
"""Of companions that are feature maps, before the layer's name."""

Shapes = Mapping[str, tuple[int, ...]]


def is_own(name: str) -> bool:
    """Whether the companion is a part of the network that a row has of its own."""
    return name == WEIGHTS or name.startswith(FEATURES)


# ---------------------------------------------------------------------------------------------
# What a model takes (no torch)


def tunable(facts: ModelFacts, tensors: Shapes) -> ModelFacts:
    """The facts, with `weights` and ``features/<layer>`` as companions of all codes that are drawn.

    tensors : what a row's weights may be added to, name -> shape; of none there are no weights
    """
    own = {WEIGHTS: Companion((None,), tensors=dict(sorted(tensors.items())))} if tensors else {}
    for space in facts.spaces.values():
        if space.injected_into is not None and space.name.startswith("features."):
            own[FEATURES + space.name.removeprefix("features.")] = Companion(space.shape)
    spaces = {
        name: space
        if space.injected_into is not None
        else replace(space, companions={**space.companions, **own})
        for name, space in facts.spaces.items()
    }
    return replace(facts, spaces=spaces)


def shapes_of(tensors: Mapping[str, np.ndarray], pattern: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors whose whole name is of the pattern."""
    return {name: v.shape for name, v in tensors.items() if re.fullmatch(pattern, name)}


def length(tensors: Shapes, rank: int | None = None) -> int:
    """Numbers of one row's weights. rank : None is the full form."""
    return sum(_sizes(shape, rank)[0] for shape in tensors.values())


def rank_of(tensors: Shapes, numbers: int) -> int | None:
    """The rank of weights of so many numbers, None for the full form.

    Raises UsageError for a length that neither has.
    """
    if numbers == length(tensors):
        return None
    most = max((min(_sides(shape)) for shape in tensors.values()), default=0)
    rank = 1 + bisect.bisect_left(range(1, most), numbers, key=lambda r: length(tensors, r))
    if length(tensors, rank) != numbers:
        raise UsageError(
            f"{WEIGHTS!r} of a code has {numbers!r} numbers, weights of this generator have "
            f"{length(tensors)!r}, or {length(tensors, 1)!r} at rank 1: the codes belong to "
            "another generator"
        )
    return rank


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows of a tensor, and other numbers of each."""
    rows = shape[0] if shape else 1
    return rows, math.prod(shape[1:])


def _sizes(shape: tuple[int, ...], rank: int | None) -> tuple[int, bool]:
    """Numbers that a tensor takes, and whether they are its factors."""
    full = math.prod(shape)
    factored = full if rank is None else rank * sum(_sides(shape))
    return min(full, factored), factored < full


# ---------------------------------------------------------------------------------------------
# Weights


def packed(companion: Companion, deltas: Mapping[str, Tensor]) -> Tensor:
    """Weights of rows in the full form, float32 (n, length).

    deltas : name -> (n, *shape of the tensor), what is added to it; 0 of tensors left out

    Raises UsageError for a tensor that the generator does not have, or of another shape.
    """
    import torch

    first = next(iter(deltas.values()))
    parts = []
    for name, delta in deltas.items():
        if tuple(delta.shape) != (len(first), *companion.tensors.get(name, ())) or (
            name not in companion.tensors
        ):
            raise UsageError(
                f"a change of {name!r} has shape {tuple(delta.shape)!r}, the generator has "
                f"{companion.tensors.get(name)!r}: it belongs to another generator"
            )
    for name, shape in companion.tensors.items():
        given = deltas.get(name)
        empty = first.new_zeros(len(first), math.prod(shape))
        parts.append(empty if given is None else given.reshape(empty.shape))
    return torch.cat(parts, dim=1).float()


def unpacked(tensors: Shapes, weights: Tensor) -> dict[str, Tensor]:
    """What one row's weights, (length,), add to each tensor; differentiable."""
    rank, at, found = rank_of(tensors, len(weights)), 0, {}
    for name, shape in tensors.items():
        size, factored = _sizes(shape, rank)
        part, at = weights[at : at + size], at + size
        if factored and rank is not None:
            rows, columns = _sides(shape)
            a, b = part.split([rows * rank, columns * rank])
            part = a.view(rows, rank) @ b.view(rank, columns)
        found[name] = part.view(shape)
    return found


def start_of(tensors: Shapes, rank: int | None = None) -> np.ndarray:
    """Weights from which a descent starts, and which change nothing: float32 (length,), 0 but for
    the first factors A, which are normal of variance 1 / rank, always the same."""
    random, parts = np.random.RandomState(0), []
    for shape in tensors.values():
        size, factored = _sizes(shape, rank)
        part = np.zeros(size, np.float32)
        if factored and rank is not None:
            count = _sides(shape)[0] * rank
            part[:count] = random.standard_normal(count) / math.sqrt(rank)
        parts.append(part)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


# ---------------------------------------------------------------------------------------------
# Drawing


class DrawsOwnParts:
    """A generator whose rows may have parts of their own: its `draw` and `convert` are decorated
    with `by_row`, and see codes without them.

    network : the module that draws. Others say where a tensor lies in `held`, and under which
        module the layers of feature maps do in `layers`.
    """

    network: Any

    @property
    def layers(self) -> nn.Module:
        """What ``features.<layer>`` is a submodule of."""
        found: nn.Module = self.network
        return found

    def held(self, name: str) -> tuple[dict[str, Any], str]:
        """Where the network reads the tensor of a name of `Companion.tensors`: a dict and a key."""
        at, _, leaf = name.rpartition(".")
        module = self.network.get_submodule(at)
        return (module._parameters if leaf in module._parameters else module._buffers), leaf


Draws = Callable[..., Any]


def by_row(method: Draws) -> Draws:
    """`Generator.draw` or `convert` of codes with parts of their own, of the method without."""

    @functools.wraps(method)
    def whole(
        self: Any,
        code: Code,
        *given: Any,
        labels: Any = None,
        edits: Sequence[Edit] = (),
        **options: Any,
    ) -> Any:
        own = {name: value for name, value in code.companions.items() if is_own(name)}
        if not own:
            now = {"edits": edits} if edits else {}
            return method(self, code, *given, labels=labels, **options, **now)
        import torch

        from generators.activations import replaced

        check_code(self.facts, code)
        found, parts = [], _parts(code)
        for rows, weights in parts:
            mine, maps = _without(code if rows is None else code[torch.from_numpy(rows)])
            some = labels if rows is None or labels is None else _some(labels, rows)
            draws = functools.partial(method, self, mine, *given, labels=some, **options)
            now = {"edits": [_of(edit, rows) for edit in edits]} if edits else {}
            with _weighted(self, code.space, weights), ExitStack() as stack:
                if maps:
                    plain = draws if edits else None
                    stack.enter_context(replaced(self.layers, maps, plain))
                found.append(draws(**now))
        return _joined(self.facts, found, [rows for rows, _ in parts], own)

    return whole


def _parts(code: Code) -> list[tuple[np.ndarray | None, Tensor | None]]:
    """Rows that are drawn at once, None for all, and the weights of a row that has some."""
    weights = code.companions.get(WEIGHTS)
    if weights is None:
        return [(None, None)]
    from generators.activations import has_none

    bare = has_none(weights).cpu().numpy()
    if bare.all():
        return [(None, None)]
    found: list[tuple[np.ndarray | None, Tensor | None]] = [
        (np.array([row]), weights[row]) for row in np.flatnonzero(~bare)
    ]
    return [*found, (np.flatnonzero(bare), None)] if bare.any() else found


def _without(code: Code) -> tuple[Code, dict[str, Tensor]]:
    """The codes without parts of their own, and these feature maps by space."""
    rest = {name: v for name, v in code.companions.items() if not is_own(name)}
    maps = {
        "features." + name.removeprefix(FEATURES): value
        for name, value in code.companions.items()
        if name.startswith(FEATURES)
    }
    return Code(code.space, code.main, rest), maps


def _some(labels: Any, rows: np.ndarray) -> Any:
    """The labels of some rows."""
    return labels[rows.tolist()] if hasattr(labels, "shape") else np.asarray(labels)[rows]


def _of(edit: Edit, rows: np.ndarray | None) -> Edit:
    """An edit of some rows."""
    strength = np.atleast_1d(np.asarray(edit.strength))
    if rows is None or strength.ndim > 1 or len(strength) == 1:
        return edit
    return replace(edit, strength=strength[rows])


@contextmanager
def _weighted(generator: Any, space: str, weights: Tensor | None) -> Iterator[None]:
    """With one row's weights added to the network's."""
    tensors = (
        generator.facts.space(space).companions[WEIGHTS].tensors if weights is not None else {}
    )
    deltas = {} if weights is None else unpacked(tensors, weights)
    kept = []
    try:
        for name, delta in deltas.items():
            place, key = generator.held(name)
            kept.append((place, key, place[key]))
            place[key] = place[key] + delta.to(place[key])
        yield
    finally:
        for place, key, value in kept:
            place[key] = value


def _joined(
    facts: ModelFacts, found: list[Any], at: list[np.ndarray | None], own: Mapping[str, Tensor]
) -> Any:
    """Images, or codes with what still belongs to them, in the order of the rows."""

    if not isinstance(found[0], Code):
        return _in_order(found, at)
    first = found[0]
    beside = {n: _in_order([c.companions[n] for c in found], at) for n in first.companions}
    main: torch.Tensor = _in_order([code.main for code in found], at)
    known = facts.space(first.space).companions
    kept = {name: value.to(main.device) for name, value in own.items() if name in known}
    return Code(first.space, main, {**beside, **kept})


def _in_order(parts: Sequence[Tensor], at: Sequence[np.ndarray | None]) -> Tensor:
    import torch

    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate([rows for rows in at if rows is not None]))
    return torch.cat(list(parts))[torch.from_numpy(order).to(parts[0].device)]
