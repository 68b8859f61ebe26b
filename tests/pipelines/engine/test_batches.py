"""Rows go through a network in larger batches only where that changes no bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from generators.protocols import Code
from pipelines.engine import batches
from pipelines.engine.batches import in_batches

ROWS, MANY = 4, 16


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(batches, "_SAME", {})


class Network:
    """Codes of places, with a companion; `tilt` of each batch of `MANY`, as of other kernels."""

    def __init__(self, tilt: float = 0.0, of: str = "main") -> None:
        self.tilt, self.of, self.sizes = tilt, of, []

    def __call__(self, at: np.ndarray) -> Code:
        self.sizes.append(len(at))
        values = {"main": torch.from_numpy(at * 1.0)[:, None], "noise": torch.from_numpy(at + 0.5)}
        if len(at) == MANY:
            values[self.of] = values[self.of] * (1 + self.tilt)
        return Code("w", values["main"], {"noise": values["noise"]})

    def rows(self, n: int, what: str = "it") -> list[float]:
        found = list(in_batches(n, self, what, ROWS, MANY))
        assert [i for part, _ in found for i in range(part.start, part.stop)] == list(range(n))
        assert all(len(code.companions["noise"]) == len(code.main) for _, code in found)
        return [value for _, code in found for value in code.main.ravel().tolist()]


@pytest.mark.parametrize("n", [0, 1, 4, 15, 16, 17, 37, 50])
def test_every_row_comes_once_in_batches_of_two_sizes_only(n):
    network = Network()
    assert network.rows(n) == list(range(n))
    assert set(network.sizes) <= {ROWS, MANY}


def test_larger_batches_are_taken_after_they_were_tried():
    network = Network()
    network.rows(34)
    assert network.sizes == [4, 4, 4, 4, 16, 16, 4]
    network.sizes.clear()
    network.rows(34)
    assert network.sizes == [16, 16, 4]
    network.rows(16, "another")
    assert network.sizes[3:] == [4, 4, 4, 4, 16]


@pytest.mark.parametrize("of", ["main", "noise"])
def test_larger_batches_that_change_a_bit_are_not_taken(of):
    network = Network(tilt=1e-15, of=of)
    assert network.rows(34) == list(range(34))
    assert network.sizes == [4, 4, 4, 4, 16, 4, 4, 4, 4, 4]
    network.rows(34)
    assert network.sizes[10:] == [4] * 9


def test_few_rows_are_not_tried():
    network = Network(tilt=1.0)
    network.rows(15)
    assert network.sizes == [4] * 4 and not batches._SAME
