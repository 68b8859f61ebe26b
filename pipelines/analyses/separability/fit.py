"""Linear separability from the surest rows of each attribute."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.analyses.inputs import Data, Fitted
from pipelines.analyses.labels import LabelledBlocks
from pipelines.analyses.measured import Measured
from schemas.errors import DataError
from schemas.sections.separability import SeparabilitySpec
from transforms.generator_metrics.separability import (
    Confusion,
    conditional_entropy,
    separability,
    surest_labels,
)
from transforms.svm.fit import HyperplaneOptions, HyperplaneSolver


def fit_separability(data: Data, wanted: SeparabilitySpec) -> Fitted:
    """Makes no direction. Facts: ``spaces``, of each the score, and of each attribute entropy (in
    nats), accuracy and rows.

    The hyperplanes are those of liblinear's default (squared hinge, C = 1, the intercept among the
    penalised), all attributes in one solve. Attributes without two classes among the surest rows
    are named in the facts and add nothing, as those that nothing is left to ask about.
    """
    names: list[str] = []
    labels = [np.zeros((data.n_rows, 0), np.int8)]
    for m in data.measurements("scores"):
        columns = m.chosen(wanted.attributes)
        names += [m.names[i] for i in columns]
        labels.append(_labels(data, m, columns, wanted))
    y = np.concatenate(labels, axis=1)
    counts = np.stack([(y == sign).sum(axis=0) for sign in (-1, 1)])
    both: np.ndarray = np.asarray(counts.min(axis=0) > 0)
    skipped = {
        name: f"{counts[1, i]} positive and {counts[0, i]} negative rows among the surest"
        for i, name in enumerate(names)
        if not both[i]
    }
    if not both.any():
        raise DataError(
            f"no attribute has rows of both classes among the surest: {skipped!r}; set another "
            "'separability.threshold', or name other attributes"
        )
    kept = [name for i, name in enumerate(names) if both[i]]
    out = Fitted(facts={"skipped": skipped, "spaces": {}})
    for space in wanted.spaces or [data.space]:
        out.facts["spaces"][space] = _of_space(data, space, y[:, both], kept, wanted, out)
    return out


def _labels(data: Data, m: Measured, columns: list[int], wanted: SeparabilitySpec) -> np.ndarray:
    scores = np.full((data.n_rows, len(columns)), np.nan, np.float32)
    source = data.read({}, {"scores": m})
    for block in range(source.n_blocks):
        rows, arrays = source.read(block)
        scores[rows] = arrays["scores"][:, columns]
    return surest_labels(scores, wanted.threshold, wanted.share)


def _of_space(
    data: Data, space: str, y: np.ndarray, names: list[str], wanted: SeparabilitySpec, out: Fitted
) -> dict[str, Any]:
    source = LabelledBlocks(data.read({"x": space}, columns={"y": y}))
    options = HyperplaneOptions(penalise_intercept=True, max_newton=wanted.max_passes)
    found = data.engine.run(HyperplaneSolver(options), source).result()
    counts = data.engine.sum(source, Confusion(found.coef, found.intercepts))["counts"]
    out.keep(f"confusion {space}", counts)
    right = np.trace(counts, axis1=1, axis2=2)
    return {
        "score": separability(counts),
        "attributes": names,
        "entropy": [conditional_entropy(each) for each in counts],
        "accuracy": (right / counts.sum(axis=(1, 2))).tolist(),
        "rows": counts.sum(axis=(1, 2)).astype(int).tolist(),
        "converged": np.asarray(found.converged).tolist(),
    }
