"""Differences of class means, and regressions of measured angles and continuous factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.analyses.base import Analysis, Known, Selection
from pipelines.analyses.checks import Problems
from pipelines.analyses.mean_difference.check import mean_difference_problems
from schemas.index import CATEGORICAL, CONTINUOUS
from schemas.sections.mean_difference import MeanDifferenceSpec

if TYPE_CHECKING:
    from pipelines.analyses.inputs import Data, Fitted

THRESHOLD = 0.5
"""Of scores, where 'analyse.svm' gives none."""


class MeanDifference(Analysis[MeanDifferenceSpec]):
    """A direction for every level of a factor, every attribute and every quantity."""

    name = "mean_difference"
    section = MeanDifferenceSpec
    version = 2
    title = "Mean differences"
    labels = {"mean_difference": "Mean difference", "regression": "Linear regression"}

    def select(self, known: Known, own: MeanDifferenceSpec) -> Selection:
        """Chosen factors and quantities, their pairs, chosen attributes, every angle."""
        every = known.index.factors
        factors = {n for n, f in every.items() if f.kind in (CATEGORICAL, CONTINUOUS)}
        scores = known.measurements("scores")
        if own.factors is not None:
            factors &= set(own.factors)
            scores = [m for m in scores if m.chosen(set(own.factors) - _categorical(known))]
        parameters: dict[str, Any] = {"attributes": known.attributes()}
        if own.held_out:
            holdout = known.spec.evaluate.holdout
            parameters["evaluate.holdout"] = holdout.model_dump(mode="json")
            parameters["evaluate.seed"] = known.spec.evaluate_seed
            factors |= {holdout.factor} - {None} if holdout.factor in every else set()
        if scores:
            svm = known.spec.analyse.svm
            parameters["threshold"] = THRESHOLD if svm is None else svm.threshold
        return Selection(
            measured=(
                *scores,
                *known.measurements("pose"),
                *known.measurements("quantities"),
            ),
            factors=frozenset(factors | set(own.pair_by)),
            parameters=parameters,
        )

    def parameters(self, known: Known, own: MeanDifferenceSpec) -> dict[str, Any]:
        """Without 'held_out' where it is not asked for: results made before there was one hold."""
        found = super().parameters(known, own)
        return found if own.held_out else {k: v for k, v in found.items() if k != "held_out"}

    def problems(self, known: Known, own: MeanDifferenceSpec) -> Problems:
        """Names that are neither factors nor attributes, and factors with nothing to compare."""
        return mean_difference_problems(known, own)

    def fit(self, data: Data, own: MeanDifferenceSpec) -> Fitted:
        """See `pipelines.analyses.mean_difference.fit`."""
        from pipelines.analyses.mean_difference.fit import fit_mean_differences

        return fit_mean_differences(data, own)


def _categorical(known: Known) -> set[str]:
    return {n for n, f in known.index.factors.items() if f.kind == CATEGORICAL}


PLUGIN = MeanDifference()
