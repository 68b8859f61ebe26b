"""Separating hyperplanes of every measured attribute, with their accuracy on rows kept back."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.analyses.inputs import Fitted, Inputs, Measured, categorical
from pipelines.analyses.known import refuse
from pipelines.analyses.labels import Labels
from pipelines.analyses.problems import svm_problems
from schemas.errors import DataError
from schemas.names import safe_names
from schemas.spec_analyses import SvmSpec
from transforms.svm.fit import HyperplaneOptions
from transforms.svm.validation import (
    MARGIN_EDGES,
    FoldBlocks,
    Validated,
    ValidationSolver,
    assign_folds,
)


def fit_hyperplanes(inputs: Inputs, wanted: SvmSpec) -> Fitted:
    """A hyperplane for every chosen attribute of every annotator, fitted on all rows it measured.

    Accuracy and area under the ROC curve are those of fits that have not seen the rows measured:
    one that leaves the held-out rows out, or one a fold. Attributes without two classes are named
    in the facts and give no direction. The model's arrays have one row an attribute, in the order
    of the fact ``attributes``; NaN, and margins 0, where there is no hyperplane.
    """
    refuse(svm_problems(inputs, wanted))
    chosen = [
        (m, columns)
        for m in inputs.measurements("scores", wanted.labels)
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
            path = _solve(inputs, wanted, m, Labels(tuple(columns), wanted.threshold))
        except DataError as e:  # no attribute has rows of both classes
            out.facts["skipped"] |= dict.fromkeys(names, str(e))
            parts.append(_no_hyperplanes(inputs, wanted, len(names)))
            continue
        best = best_of_path(path)
        for i, name in enumerate(names):
            _add(inputs, wanted, m, name, called[name], path[best[i]], i, out)
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


def _no_hyperplanes(inputs: Inputs, wanted: SvmSpec, n: int) -> dict[str, np.ndarray]:
    """The rows of attributes without two classes."""
    return {
        "coef": np.full((n, int(np.prod(inputs.code_shape))), np.nan),
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
    inputs: Inputs,
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
        inputs.direction(
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
    """Accuracy, auc and row counts of attribute i on the rows kept back, None without any."""
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


def _solve(inputs: Inputs, wanted: SvmSpec, m: Measured, labels: Labels) -> tuple[Validated, ...]:
    options = HyperplaneOptions(
        tol=wanted.tolerance,
        penalise_intercept=wanted.penalise_intercept,
        balanced=wanted.balanced,
        max_newton=wanted.max_passes,
        degenerate="skip",
    )
    path = _path(wanted)
    n_folds = wanted.folds or 1
    source = FoldBlocks(inputs.blocks(m, labels, {"fold": _folds(inputs, wanted.folds)}), n_folds)
    return inputs.engine.run(ValidationSolver.start(options, path, n_folds), source).found


def _folds(inputs: Inputs, folds: int | None) -> np.ndarray:
    """Fold of every row of the store: of the cross-validation, else 0 for held-out rows, or -1."""
    holdout = inputs.spec.evaluate.holdout
    if folds is None:
        held_out = inputs.held_out
        if held_out is None or held_out.all():
            return np.full(inputs.store.n_rows, -1)
        return np.where(held_out, 0, -1)
    groups = None
    if holdout.factor is not None and holdout.factor in inputs.index.factors:
        groups = categorical(inputs.index, [holdout.factor])[holdout.factor]
    seed = inputs.spec.evaluate_seed
    return assign_folds(inputs.store.n_rows, folds, seed, groups)
