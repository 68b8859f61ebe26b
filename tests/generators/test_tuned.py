"""Weights of rows: full and low-rank forms, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from generators.protocols import Companion
from generators.tuned import length, packed, rank_of, start_of, unpacked
from schemas.errors import UsageError

SHAPES = {"a.bias": (6,), "a.weight": (6, 4, 3, 3), "b.gain": (), "b.weight": (5, 2)}
FULL = 6 + 6 * 36 + 1 + 10


def test_a_length_tells_its_form() -> None:
    assert length(SHAPES) == FULL and rank_of(SHAPES, FULL) is None
    assert length(SHAPES, 1) == 6 + (6 + 36) + 1 + 7
    lengths = [length(SHAPES, rank) for rank in range(1, 6)]
    assert sorted(set(lengths)) == lengths and lengths[-1] < FULL
    assert [rank_of(SHAPES, n) for n in lengths] == [1, 2, 3, 4, 5]
    assert length(SHAPES, 6) == FULL  # factors would take more than what they stand for
    for n in (0, FULL - 1, FULL + 1, lengths[0] + 1):
        with pytest.raises(UsageError, match=f"has {n} numbers, weights .* have {FULL}"):
            rank_of(SHAPES, n)


def test_factors_stand_one_after_the_other() -> None:
    rank, random = 2, np.random.default_rng(0)
    a, b = random.normal(size=(6, rank)), random.normal(size=(rank, 36))
    bias, gain, small = random.normal(size=6), random.normal(size=1), random.normal(size=10)
    flat = torch.from_numpy(np.concatenate([bias, a.ravel(), b.ravel(), gain, small]))
    found = {name: value.numpy() for name, value in unpacked(SHAPES, flat).items()}
    np.testing.assert_allclose(found["a.weight"], (a @ b).reshape(6, 4, 3, 3), rtol=1e-12)
    np.testing.assert_array_equal(found["a.bias"], bias)
    np.testing.assert_array_equal(found["b.gain"], gain[0])
    np.testing.assert_array_equal(found["b.weight"], small.reshape(5, 2))


def test_packed_weights_are_unpacked_again() -> None:
    companion = Companion((None,), tensors=SHAPES)
    given = {"a.weight": torch.randn(2, 6, 4, 3, 3), "b.gain": torch.randn(2)}
    weights = packed(companion, given)
    assert weights.shape == (2, FULL)
    for row in (0, 1):
        found = unpacked(SHAPES, weights[row])
        for name, value in found.items():
            assert torch.equal(value, given[name][row] if name in given else value * 0)
    for wrong in ({"a.wait": torch.zeros(2, 6)}, {"a.bias": torch.zeros(2, 7)}):
        with pytest.raises(UsageError, match="it belongs to another generator"):
            packed(companion, wrong)


@pytest.mark.parametrize("rank", [None, 1, 3])
def test_a_descent_starts_where_nothing_changes_but_gradients_come_through(
    rank: int | None,
) -> None:
    start = torch.from_numpy(start_of(SHAPES, rank)).requires_grad_()
    assert len(start) == length(SHAPES, rank)
    deltas = unpacked(SHAPES, start)
    assert not any(bool(delta.any()) for delta in deltas.values())
    sum(delta.sum() for delta in deltas.values()).backward()  # type: ignore[union-attr]
    assert start.grad is not None and bool(start.grad.any())
