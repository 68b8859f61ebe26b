"""The tensor model over declared factors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.analyses.base import Analysis, Known, Model, Selection
from pipelines.analyses.checks import Problems
from pipelines.analyses.figures import Figure
from pipelines.analyses.hosvd.check import hosvd_problems
from pipelines.analyses.hosvd.figures import subspace_figures
from schemas.sections.hosvd import HosvdSpec

if TYPE_CHECKING:
    from pipelines.analyses.inputs import Data, Fitted


class Hosvd(Analysis[HosvdSpec]):
    """Cell means of the declared factors as a tensor, decomposed mode by mode."""

    name = "hosvd"
    section = HosvdSpec
    version = 2
    title = "Tensor model (HOSVD)"
    labels = {"hosvd": "HOSVD"}

    def select(self, known: Known, own: HosvdSpec) -> Selection:
        """Factors of the modes and of the selection, and the baseline levels of these."""
        modes = {n for mode in own.mode_names for n in mode}
        md = known.spec.analyse.mean_difference
        baseline = {} if md is None else md.baseline
        return Selection(
            factors=frozenset(modes | set(own.where)),
            parameters={
                "baseline": {n: v for n, v in baseline.items() if n in modes},
                "attributes": known.attributes(),
            },
        )

    def problems(self, known: Known, own: HosvdSpec) -> Problems:
        """Factors and levels that are not there, missing cells, too many ranks or folds."""
        return hosvd_problems(known, own)

    def fit(self, data: Data, own: HosvdSpec) -> Fitted:
        """See `pipelines.analyses.hosvd.fit`."""
        from pipelines.analyses.hosvd.fit import fit_hosvd

        return fit_hosvd(data, own)

    def figures(self, model: Model) -> list[Figure]:
        """The levels of one mode in two dimensions."""
        return subspace_figures(model)


PLUGIN = Hosvd()
