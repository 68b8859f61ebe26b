"""Separating hyperplanes of every measured attribute, with their accuracy on rows kept back."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

from pipelines.fits.inputs import Fitted, Inputs, Measured
from pipelines.fits.labels import Labels
from schemas.errors import DataError, UsageError
from transforms.blocks import BlockSource
from transforms.svm import HyperplaneOptions, Hyperplanes, HyperplaneSolver


def fit_hyperplanes(inputs: Inputs) -> Fitted:
    """A hyperplane for every chosen attribute, fitted on all rows.

    Accuracy and area under the ROC curve are measured on held-out rows by a second fit that does
    not see them. Attributes without two classes are named in the facts and give no direction.
    """
    wanted = inputs.spec.analyse.svm
    out = Fitted(facts={"skipped": {}, "held_out": []})
    found_any = False
    for m in inputs.measurements("scores", wanted.labels):
        columns = _columns(m, wanted.attributes)
        if not columns:
            continue
        found_any = True
        labels = Labels(tuple(columns), wanted.threshold)
        names = [m.names[i] for i in columns]
        try:
            found = _solve(inputs, inputs.blocks(m, labels))
        except DataError as e:  # no attribute has rows of both classes
            out.facts["skipped"] |= dict.fromkeys(names, str(e))
            continue
        measured = _held_out(inputs, m, labels, names)
        out.facts["held_out"] += list(measured.values())
        for i, name in enumerate(names):
            n = (int(found.n_positive[i]), int(found.n_negative[i]))
            if min(n) == 0:
                out.facts["skipped"][name] = f"{n[0]} positive and {n[1]} negative rows"
                continue
            quality = {
                "positive": n[0],
                "negative": n[1],
                "accuracy": float(found.accuracy[i]),
                "objective": float(found.objective[i]),
                "relative_gradient": float(found.relative_gradient[i]),
                "passes": found.n_passes,
            }
            kept_back = measured.get(name, {})
            quality |= {f"held_out_{k}": v for k, v in kept_back.items() if k != "attribute"}
            out.directions.append(
                inputs.direction(
                    f"svm.{name}",
                    found.coef[i],
                    "svm",
                    name,
                    intercept=float(found.intercepts[i]),
                    quality=quality,
                    converged=bool(found.converged[i]),
                    provenance={"labels": m.array, "threshold": wanted.threshold, "c": wanted.c},
                )
            )
        out.arrays |= {"coef": found.coef, "intercepts": found.intercepts}
    if not found_any:
        raise UsageError(
            "no annotator of kind 'scores' measured the attributes "
            f"{wanted.attributes or 'to separate'!r}: add one under 'annotate'"
        )
    return out


def _columns(m: Measured, attributes: list[str] | None) -> list[int]:
    return [i for i, n in enumerate(m.names) if attributes is None or n in attributes]


def _solve(inputs: Inputs, source: BlockSource) -> Hyperplanes:
    wanted = inputs.spec.analyse.svm
    options = HyperplaneOptions(
        c=wanted.c,
        tol=wanted.tolerance,
        penalise_intercept=wanted.penalise_intercept,
        max_newton=wanted.max_passes,
        degenerate="skip",
    )
    return inputs.engine.run(HyperplaneSolver(options), source).result()


def _held_out(
    inputs: Inputs, m: Measured, labels: Labels, names: list[str]
) -> dict[str, dict[str, Any]]:
    """Per attribute: accuracy, auc and row counts on the rows kept back."""
    if inputs.held_out is None or not inputs.held_out.any() or inputs.held_out.all():
        return {}
    try:
        fitted = _solve(inputs, inputs.blocks(m, labels, where=~inputs.held_out))
    except DataError:
        return {}
    kept_back = inputs.blocks(m, labels, where=inputs.held_out)
    scores, labels = [], []
    for block in range(kept_back.n_blocks):
        _, arrays = kept_back.read(block)
        scores.append(fitted.decision_function(arrays["x"]))
        labels.append(arrays["y"])
    score, label = np.concatenate(scores), np.concatenate(labels)
    out: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(names):
        used = (label[:, i] != 0) & np.isfinite(score[:, i])
        if not used.any():
            continue
        y, s = label[used, i], score[used, i]
        out[name] = {
            "attribute": name,
            "accuracy": float(((s > 0) == (y > 0)).mean()),
            "auc": area_under_roc(s, y > 0),
            "rows": int(used.sum()),
            "positive": int((y > 0).sum()),
        }
    return out


def area_under_roc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive row scores above a negative one, ties counting one half.

    None where one of the classes has no rows.
    """
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive == 0 or n_negative == 0:
        return None
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))
