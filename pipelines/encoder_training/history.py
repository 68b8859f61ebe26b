"""How a training went: means of the loss's terms, and measurements on samples that it never saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class History:
    """Curves of a training; saved and resumed with it.

    every : steps over which terms are averaged

    losses : [{"step", term: mean over the steps since the entry before}]
    measured : [{"step", what: value}]
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.losses: list[dict[str, float]] = []
        self.measured: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, step: int, terms: Mapping[str, float]) -> None:
        """The terms of one step; step : how many were made with it."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if self._count >= self.every:
            means = {name: total / self._count for name, total in self._sums.items()}
            self.losses.append({"step": step, **means})
            self._sums, self._count = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """See `pipelines.training.resumable.Resumable`."""
        return {"losses": self.losses, "measured": self.measured, "sums": self._sums,
                "count": self._count}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.losses, self.measured = list(state["losses"]), list(state["measured"])
        self._sums, self._count = dict(state["sums"]), state["count"]
