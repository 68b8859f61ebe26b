"""Separating hyperplanes of every measured attribute, with their accuracy on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipelines.analyses.inputs import Data, Fitted, hold_out, target_of
from pipelines.analyses.labels import LabelledBlocks, Labels
from pipelines.analyses.svm.levels import levels_of
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
    """A hyperplane for every chosen attribute of every annotator, fitted on all rows it measured,
    or for the levels of factors, fitted on all rows that have them.

    Accuracy and area under the ROC curve are those of fits that have not seen the rows measured:
    one that leaves the held-out rows out, or one a fold. Attributes without two classes are named
    in the facts and give no direction. The model's arrays have one row an attribute, in the order
    of the fact ``attributes``; NaN, and margins 0, where there is no hyperplane.
    """
    labelled = _of_factors(data) if wanted.labels == "factors" else _measured(data, wanted)
    attributes = [a.name for some in labelled for a in some.attributes]
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
    for some in labelled:
        names = [a.name for a in some.attributes]
        try:
            path = _solve(data, wanted, some)
        except DataError as e:  # no attribute has rows of both classes
            out.facts["skipped"] |= dict.fromkeys(names, str(e))
            parts.append(_no_hyperplanes(data, wanted, len(names)))
            continue
        best = best_of_path(path)
        for i, attribute in enumerate(some.attributes):
            _add(data, attribute, called[attribute.name], path[best[i]], i, out)
        parts.append(_hyperplanes(path, best))
    if len(out.facts["skipped"]) < len(attributes):
        rows = ("coef", "intercepts", "margins")
        out.arrays = {name: np.concatenate([part[name] for part in parts]) for name in rows}
        for name in ("path_auc", "path_accuracy"):
            out.arrays[name] = np.concatenate([part[name] for part in parts], axis=1)
        out.arrays["path_c"] = np.array(_path(wanted))
    return out


@dataclass(frozen=True)
class Attribute:
    """One label of every row.

    target : the measured attribute that its direction should move. provenance : of the labels
    """

    name: str
    target: str | None
    provenance: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Attributes that are solved together, of the same rows.

    blocks : of columns to join -> codes and labels y, a column an attribute
    """

    attributes: Sequence[Attribute]
    blocks: Callable[[Mapping[str, np.ndarray]], LabelledBlocks]


def _measured(data: Data, wanted: SvmSpec) -> list[Labelled]:
    """The chosen attributes of every annotator."""
    found = []
    for m in data.measurements("scores"):
        if columns := m.chosen(wanted.attributes):
            labels = Labels(tuple(columns), wanted.threshold)
            facts = {"labels": m.array, "threshold": wanted.threshold}
            attributes = [Attribute(m.names[i], m.names[i], facts) for i in columns]
            found.append(Labelled(attributes, partial(data.blocks, m, labels)))
    return found


def _of_factors(data: Data) -> list[Labelled]:
    """The levels of the chosen factors, all together."""
    levels = levels_of(data, data.parameter("factors"))
    annotated = set(data.parameter("annotated"))
    attributes = [
        Attribute(
            level.name,
            target_of(level.level, level.factor, annotated),
            {"factor": level.factor, "level": level.level},
        )
        for level in levels
    ]
    y = np.stack([level.of(data) for level in levels], axis=1)

    def blocks(columns: Mapping[str, np.ndarray]) -> LabelledBlocks:
        return data.blocks(columns={"y": y, **columns})

    return [Labelled(attributes, blocks)]


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
    data: Data, attribute: Attribute, called: str, found: Validated, i: int, out: Fitted
) -> None:
    """Attribute i's direction and what was measured of it."""
    name = attribute.name
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
    measured = _held_out(found, i)
    if measured is not None:
        out.facts["held_out"].append({"attribute": name, **measured})
        quality |= {f"held_out_{k}": v for k, v in measured.items()}
    provenance = {**attribute.provenance, "c": found.c}
    out.directions.append(
        data.direction(
            called,
            model.coef[i],
            "svm",
            attribute.target,
            intercept=float(model.intercepts[i]),
            quality=quality,
            converged=bool(model.converged[i]),
            provenance=provenance,
        )
    )


def _held_out(found: Validated, i: int) -> dict[str, Any] | None:
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


def _solve(data: Data, wanted: SvmSpec, labelled: Labelled) -> tuple[Validated, ...]:
    options = HyperplaneOptions(
        tol=wanted.tolerance,
        penalise_intercept=wanted.penalise_intercept,
        balanced=wanted.balanced,
        max_newton=wanted.max_passes,
        degenerate="skip",
    )
    path = _path(wanted)
    folds = _folds(data, wanted.folds)
    n_folds = wanted.folds or int(folds.max()) + 1  # none where no row is held out
    source = FoldBlocks(labelled.blocks({"fold": folds}), n_folds)
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
