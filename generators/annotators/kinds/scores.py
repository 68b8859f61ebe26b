"""Scores of attributes, such as logits or probabilities."""

from __future__ import annotations

import numpy as np

from generators.annotators.kinds.base import AnnotatorKind, Described


class Scores(AnnotatorKind):
    """One number a name; higher is more of it."""

    name = "scores"
    text = "one score for each attribute named; higher is more of it"
    role = "scores"
    unit = "score"
    keys = frozenset({"activation"})

    def finish(self, values: np.ndarray, card: Described, shape: tuple[int, int]) -> np.ndarray:
        return activated(values, card.activation)


def activated(values: np.ndarray, activation: str | None) -> np.ndarray:
    """Scores (n, k) after a description's ``activation``; "softmax" chooses between the columns."""
    if activation is None:
        return values
    x = values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # rows that are not finite stay so
        if activation == "sigmoid":
            x = 1.0 / (1.0 + np.exp(-x))
        else:
            x = np.exp(x - x.max(axis=1, keepdims=True))
            x /= x.sum(axis=1, keepdims=True)
    return x.astype(np.float32)


PLUGIN = Scores()
