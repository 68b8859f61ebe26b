"""Separating hyperplanes of every measured attribute, with their accuracy on held-out rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.analyses.inputs import Data, Fitted, Measured, hold_out
from pipelines.analyses.labels import Labels
from schemas.errors import DataError
from schemas.names import safe_names
from schemas.sections.svm import SvmSpec
from transforms.svm.fit import HyperplaneOptions
from transforms.svm.validation import (
    MARGIN_EDGES,
    FoldBlocks,
    Validated,
    ValidationSolver,
    assign_folds,
)


def fit_hyperplanes(data: Data, wanted: SvmSpec) -> Fitted:
    """A hyperplane for every chosen attribute of every annotator, fitted on all rows it measured.

    Accuracy and area under the ROC curve are those of fits that have not seen the rows measured:
    one that leaves the held-out rows out, or one a fold. Attributes without two classes are named
    in the facts and give no direction. The model's arrays have one row an attribute, in the order
    of the fact ``attributes``; NaN, and margins 0, where there is no hyperplane.
    """
    chosen = [
        (m, columns)
        for m in data.measurements("scores")
        if (columns := m.chosen(wanted.attributes))
    ]
    attributes = [m.names[i] for m, columns in chosen for i in columns]
    out = Fitted(
        facts={
            "attributes": attributes,
            "skipped": {},
            "held_out": [],
            "margin_edges": MARGIN_EDGES.tolist(),
        }
    )
    called = dict(zip(attributes, safe_names(f"svm.{name}" for name in attributes), strict=True))
    parts = []
    for m, columns in chosen:
        names = [m.names[i] for i in columns]
        try:
            path = _solve(data, wanted, m, Labels(tuple(columns), wanted.threshold))
        except DataError as e:  # no attribute has rows of both classes
            out.facts["skipped"] |= dict.fromkeys(names, str(e))
            parts.append(_no_hyperplanes(data, wanted, len(names)))
            continue
        best = best_of_path(path)
        for i, name in enumerate(names):
            _add(data, wanted, m, name, called[name], path[best[i]], i, out)
        parts.append(_hyperplanes(path, best))
    if len(out.facts["skipped"]) < len(attributes):
        rows = ("coef", "intercepts", "margins")
        out.arrays = {name: np.concatenate([part[name] for part in parts]) for name in rows}
        for name in ("path_auc", "path_accuracy"):
            out.arrays[name] = np.concatenate([part[name] for part in parts], axis=1)
        out.arrays["path_c"] = np.array(_path(wanted))
    return out


def _hyperplanes(path: tuple[Validated, ...], best: np.ndarray) -> dict[str, np.ndarray]:
    """One row an attribute, each from its best place in the path."""
    each = list(enumerate(best))
    return {
        "coef": np.stack([path[at].model.coef[i] for i, at in each]),
        "intercepts": np.stack([path[at].model.intercepts[i] for i, at in each]),
        "margins": np.stack([path[at].margins[:, i] for i, at in each]),
        "path_auc": np.stack([validated.mean_auc for validated in path]),
        "path_accuracy": np.stack([validated.mean_accuracy for validated in path]),
    }


def _no_hyperplanes(data: Data, wanted: SvmSpec, n: int) -> dict[str, np.ndarray]:
    """The rows of attributes without two classes."""
    return {
        "coef": np.full((n, int(np.prod(data.code_shape))), np.nan),
        "intercepts": np.full(n, np.nan),
        "margins": np.zeros((n, 2, len(MARGIN_EDGES) - 1), np.int64),
        "path_auc": np.full((len(_path(wanted)), n), np.nan),
        "path_accuracy": np.full((len(_path(wanted)), n), np.nan),
    }


def _path(wanted: SvmSpec) -> list[float]:
    """Values of C to try, ascending."""
    return sorted(set(wanted.path)) if wanted.path else [wanted.c]


def best_of_path(path: tuple[Validated, ...]) -> np.ndarray:
    """For each attribute the place in the path with the largest mean AUC, the first of equals."""
    auc = np.stack([validated.mean_auc for validated in path])
    return np.where(np.isfinite(auc), auc, -1.0).argmax(axis=0)


def _add(
    data: Data,
    wanted: SvmSpec,
    m: Measured,
    name: str,
    called: str,
    found: Validated,
    i: int,
    out: Fitted,
) -> None:
    """Attribute i's direction and what was measured of it."""
    model = found.model
    n = (int(model.n_positive[i]), int(model.n_negative[i]))
    if min(n) == 0:
        out.facts["skipped"][name] = f"{n[0]} positive and {n[1]} negative rows"
        return
    quality = {
        "positive": n[0],
        "negative": n[1],
        "accuracy": float(model.accuracy[i]),
        "objective": float(model.objective[i]),
        "relative_gradient": float(model.relative_gradient[i]),
        "passes": model.n_passes,
    }
    measured = _measured(found, i)
    if measured is not None:
        out.facts["held_out"].append({"attribute": name, **measured})
        quality |= {f"held_out_{k}": v for k, v in measured.items()}
    provenance = {"labels": m.array, "threshold": wanted.threshold, "c": found.c}
    out.directions.append(
        data.direction(
            called,
            model.coef[i],
            "svm",
            name,
            intercept=float(model.intercepts[i]),
            quality=quality,
            converged=bool(model.converged[i]),
            provenance=provenance,
        )
    )


def _measured(found: Validated, i: int) -> dict[str, Any] | None:
    """Accuracy, auc and row counts of attribute i on held-out rows, None without any."""
    accuracy, auc = float(found.mean_accuracy[i]), float(found.mean_auc[i])
    if not np.isfinite(accuracy):
        return None
    out = {
        "accuracy": accuracy,
        "auc": auc if np.isfinite(auc) else None,
        "rows": int(found.n_rows[:, :, i].sum()),
        "positive": int(found.n_rows[:, 1, i].sum()),
    }
    return out | ({"folds": len(found.accuracy)} if len(found.accuracy) > 1 else {})


def _solve(data: Data, wanted: SvmSpec, m: Measured, labels: Labels) -> tuple[Validated, ...]:
    options = HyperplaneOptions(
        tol=wanted.tolerance,
        penalise_intercept=wanted.penalise_intercept,
        balanced=wanted.balanced,
        max_newton=wanted.max_passes,
        degenerate="skip",
    )
    path = _path(wanted)
    n_folds = wanted.folds or 1
    source = FoldBlocks(data.blocks(m, labels, {"fold": _folds(data, wanted.folds)}), n_folds)
    return data.engine.run(ValidationSolver.start(options, path, n_folds), source).found


def _folds(data: Data, folds: int | None) -> np.ndarray:
    """Fold of every row of the store: of the cross-validation, else 0 for held-out rows, or -1."""
    holdout, seed = data.parameter("evaluate.holdout"), data.parameter("evaluate.seed")
    factor = holdout["factor"]
    if folds is None:
        held_out = hold_out(data, factor, holdout["fraction"], seed)
        if held_out.all():
            return np.full(data.n_rows, -1)
        return np.where(held_out, 0, -1)
    groups = None
    if factor is not None and factor in data.factors:
        groups = data.categorical(factor)[0]
    return assign_folds(data.n_rows, folds, seed, groups)
