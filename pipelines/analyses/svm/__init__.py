"""Separating hyperplanes of the measured attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipelines.analyses.base import Analysis, Known, Model, Selection
from pipelines.analyses.checks import (
    Problems,
    attribute_problems,
    label_problems,
    present_levels,
    threshold_problems,
)
from pipelines.analyses.figures import (
    Bar,
    Count,
    Figure,
    Fixed,
    Name,
    NotShownError,
    Percent,
    Table,
    Text,
    Value,
)
from pipelines.analyses.measured import attributes_of, chosen_measurements
from pipelines.analyses.svm.levels import factors_of, level_problems
from schemas.index import CATEGORICAL
from schemas.sections.svm import SvmSpec

if TYPE_CHECKING:
    from pipelines.analyses.inputs import Data, Fitted

FACTORS = "factors"
COUNTS = ("rows", "positive", "persons")


class Svm(Analysis[SvmSpec]):
    """A linear hyperplane an attribute, all in one solve, measured on held-out rows."""

    name = "svm"
    section = SvmSpec
    version = 2
    title = "Hyperplanes"
    labels = {"svm": "SVM hyperplane"}

    def select(self, known: Known, own: SvmSpec) -> Selection:
        """Chosen attributes, and which rows are held out."""
        holdout = known.spec.evaluate.holdout
        held_out = frozenset() if holdout.factor is None else frozenset({holdout.factor})
        parameters: dict[str, Any] = {
            "evaluate.holdout": holdout.model_dump(mode="json"),
            "evaluate.seed": known.spec.evaluate_seed,
        }
        if own.labels == FACTORS:
            factors = factors_of(known.index, own.attributes)
            parameters |= {"factors": factors, "annotated": known.attributes()}
            return Selection(factors=held_out | set(factors), parameters=parameters)
        chosen = chosen_measurements(known.measurements("scores", own.labels), own.attributes)
        return Selection(
            measured=chosen,
            factors=held_out,
            parameters=parameters | attributes_of(chosen, own.attributes),
        )

    def problems(self, known: Known, own: SvmSpec) -> Problems:
        """Attributes that nothing measures; more folds than there are rows or groups."""
        yield from svm_problems(known, own)
        if own.labels != FACTORS:
            yield from threshold_problems("analyse.svm.threshold", own.threshold, known.bounded)

    def notes(self, known: Known, own: SvmSpec) -> Iterator[str]:
        """Held-out rows that are none, or all."""
        holdout, index = known.spec.evaluate.holdout, known.index
        if own.folds is None and holdout.fraction > 0:
            factor = holdout.factor if holdout.factor in index.factors else None
            n = known.n_rows() if factor is None else len(present_levels(index, factor))
            of = "rows" if factor is None else f"levels of factor {factor!r}"
            kept = round(holdout.fraction * n)
            if kept in (0, n):
                yield (
                    f"evaluate.holdout.fraction: {holdout.fraction} of {n} {of} are {kept}: "
                    "accuracy of hyperplanes is not measured; change it, or set "
                    "'analyse.svm.folds'"
                )

    def fit(self, data: Data, own: SvmSpec) -> Fitted:
        """See `pipelines.analyses.svm.fit`."""
        from pipelines.analyses.svm.fit import fit_hyperplanes

        return fit_hyperplanes(data, own)

    def figures(self, model: Model) -> list[Figure]:
        """Accuracy and area under the ROC curve on held-out rows."""
        entries = [e for e in model.facts.get("held_out") or [] if isinstance(e, dict)]
        if not entries:
            raise NotShownError("no held-out scores of hyperplanes were measured")
        keys = [k for k in COUNTS if any(k in e for e in entries)]
        with_classes = any(_classes(e)[0] is not None for e in entries)
        larger_class = ["Larger class"] if with_classes else []
        rows: list[list[Value | Bar]] = []
        for entry in entries:
            larger, lacks = _classes(entry)
            accuracy = None if lacks else entry.get("accuracy")
            shown: Value = f"\N{EN DASH} ({lacks})" if lacks else Percent(accuracy)
            cells: list[Value | Bar] = [Name(entry.get("attribute", "")), shown, Bar(accuracy)]
            cells += [Percent(larger)] if with_classes else []
            rows.append([*cells, Fixed(entry.get("auc")), *(Count(entry.get(k)) for k in keys)])
        return [
            Text(
                "Accuracy and area under the ROC curve of each separating hyperplane on held-out "
                "rows, which it was not fitted to. Where the dataset has the hold-out factor (by "
                "default the person), all rows of a level are held out together. The larger class "
                "is the accuracy of always giving its answer; where a class has no held-out row, "
                "there is no accuracy to tell."
            ),
            Table(
                ["Attribute", "Accuracy", "", *larger_class, "AUC", *map(str.capitalize, keys)],
                rows,
            ),
        ]


def _classes(entry: dict[str, Any]) -> tuple[float | None, str]:
    """The larger class's share of the held-out rows, None where it is not told, and which class
    has no row there."""
    n, positive = entry.get("rows"), entry.get("positive")
    if not isinstance(n, int) or not isinstance(positive, int) or not 0 <= positive <= n or not n:
        return None, ""
    lacks = {0: "no positive row", n: "no negative row"}.get(positive, "")
    return max(positive, n - positive) / n, lacks


def svm_problems(known: Known, own: SvmSpec) -> Problems:
    """Attributes that nothing tells of; more folds than there are rows or groups."""
    if own.labels == FACTORS:
        yield from level_problems(known, own)
    else:
        scores = known.measurements("scores", own.labels)
        yield from attribute_problems("analyse.svm.attributes", own.attributes, scores)
        used = [m for m in scores if own.attributes is None or set(own.attributes) & set(m.names)]
        yield from label_problems("analyse.svm.labels", own, used)
    if own.folds is None:
        return
    factor, index = known.spec.evaluate.holdout.factor, known.index
    if factor is None or factor not in index.factors:
        n, what = known.n_rows(), "rows"
    elif index.factors[factor].kind != CATEGORICAL:
        return  # told of 'evaluate.holdout.factor'
    else:
        n, what = len(present_levels(index, factor)), f"levels of factor {factor!r}"
    if own.folds > n:
        yield (
            f"'analyse.svm.folds' is {own.folds!r}, but there are {n!r} {what}, which stay whole: "
            "give fewer folds, or another 'evaluate.holdout.factor'"
        )


PLUGIN = Svm()
