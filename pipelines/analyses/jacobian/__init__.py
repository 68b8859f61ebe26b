"""Directions of the generator's Jacobian at stored codes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipelines.analyses.base import Analysis, Known, Selection
from pipelines.analyses.checks import Problems, most_problems
from schemas.sections.jacobian import JacobianSpec

if TYPE_CHECKING:
    from pipelines.analyses.inputs import Data, Fitted


class Jacobian(Analysis[JacobianSpec]):
    """Leading directions of the mean of J'J over codes spread evenly over the store's rows."""

    name = "jacobian"
    section = JacobianSpec
    version = 2
    title = "Directions of the Jacobian"
    labels = {"jacobian": "Jacobian"}

    def select(self, known: Known, own: JacobianSpec) -> Selection:
        """The codes alone: the store's identity holds the generator's."""
        return Selection()

    def problems(self, known: Known, own: JacobianSpec) -> Problems:
        """A model without gradients; more codes than rows, or directions than coordinates."""
        return jacobian_problems(known, own)

    def fit(self, data: Data, own: JacobianSpec) -> Fitted:
        """See `pipelines.analyses.jacobian.fit`."""
        from pipelines.analyses.jacobian.fit import fit_jacobian

        return fit_jacobian(data, own)


def jacobian_problems(known: Known, own: JacobianSpec) -> Problems:
    """More codes than rows; more directions than a code has coordinates."""
    key, n_rows = "analyse.jacobian", known.n_rows()
    if known.without_gradients():
        yield (
            f"'{key}' is given, which needs gradients of what the generator draws, and this one "
            "has none: leave it out, or give the network as a state dict or by torch.export"
        )
        return
    dimension = math.prod(known.code_shape(own))
    if known.recorded(known.space(own)):
        yield (
            f"'{key}.space' is {known.space(own)!r}, which is recorded while codes are drawn, and "
            "nothing is drawn of it alone: leave it out, or name a space of codes"
        )
        return
    yield from most_problems(f"{key}.samples", own, n_rows, "rows")
    yield from most_problems(f"{key}.n_components", own, dimension, "coordinates of a code")
    if own.region is None:
        if "background_rank" in own.model_fields_set:
            yield (
                f"'{key}.background_rank' is {own.background_rank!r}, but there is no background "
                "without 'region': give a region, or leave it out"
            )
        return
    left = max(dimension - own.n_components, 0)
    yield from most_problems(
        f"{key}.background_rank",
        own,
        left,
        "coordinates that 'n_components' leaves",
    )


PLUGIN = Jacobian()
