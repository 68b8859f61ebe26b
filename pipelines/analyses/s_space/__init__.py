"""Style channels of the measured attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.analyses.base import Analysis, Known, Selection
from pipelines.analyses.checks import (
    Problems,
    attribute_problems,
    style_problems,
    threshold_problems,
)
from pipelines.analyses.measured import attributes_of, chosen_measurements
from schemas.sections.s_space import SSpaceSpec

if TYPE_CHECKING:
    from pipelines.analyses.inputs import Data, Fitted


class SSpace(Analysis[SSpaceSpec]):
    """Relevance of every style channel for every attribute."""

    name = "s_space"
    section = SSpaceSpec
    version = 2
    title = "Style channels"
    labels = {"s_space": "Style channel"}

    def select(self, known: Known, own: SSpaceSpec) -> Selection:
        """Chosen attributes."""
        chosen = chosen_measurements(known.measurements("scores"), own.attributes)
        return Selection(measured=chosen, parameters=attributes_of(chosen, own.attributes))

    def problems(self, known: Known, own: SSpaceSpec) -> Problems:
        """Attributes that nothing measures."""
        scores = known.measurements("scores")
        yield from style_problems("analyse.s_space", known.space(own), known.spaces)
        yield from attribute_problems("analyse.s_space.attributes", own.attributes, scores)
        yield from threshold_problems("analyse.s_space.threshold", own.threshold, known.bounded)

    def fit(self, data: Data, own: SSpaceSpec) -> Fitted:
        """See `pipelines.analyses.s_space.fit`."""
        from pipelines.analyses.s_space.fit import fit_s_space

        return fit_s_space(data, own)


PLUGIN = SSpace()
