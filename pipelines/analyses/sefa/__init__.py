"""Directions of the generator's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.analyses.base import Analysis, Known, Selection
from pipelines.analyses.checks import Problems, most_problems, style_problems
from schemas.sections.sefa import SefaSpec

if TYPE_CHECKING:
    from pipelines.analyses.inputs import Data, Fitted


class Sefa(Analysis[SefaSpec]):
    """Eigenvectors of the affine layers' weights; reads no codes but their spread."""

    name = "sefa"
    section = SefaSpec
    version = 2
    title = "Directions of the weights"
    labels = {"sefa": "SeFa"}

    def select(self, known: Known, own: SefaSpec) -> Selection:
        """Nothing: the store's identity holds the generator's."""
        return Selection()

    def problems(self, known: Known, own: SefaSpec) -> Problems:
        """Rows of w_plus that are not there; more components than coordinates."""
        return sefa_problems(known, own)

    def fit(self, data: Data, own: SefaSpec) -> Fitted:
        """See `pipelines.analyses.sefa.fit`."""
        from pipelines.analyses.sefa.fit import fit_sefa

        return fit_sefa(data, own)


def sefa_problems(known: Known, own: SefaSpec) -> Problems:
    """Rows of w_plus that are not there; more components than the latent has coordinates."""
    key, shape = "analyse.sefa", known.code_shape(own)
    yield from style_problems(key, known.space(own), known.spaces)
    if own.layers is not None and not known.layered(known.space(own)):
        yield (
            f"'{key}.layers' is {own.layers!r}, but codes of space {known.space(own)!r} have no "
            "layers: leave it out, or invert into 'w_plus'"
        )
    elif own.layers is not None:
        beyond = [layer for layer in own.layers if not 0 <= layer < shape[0]]
        last = shape[0] - 1  # drives the last output of pixels alone, whose weights are left out
        if beyond or set(own.layers) == {last}:
            yield (
                f"'{key}.layers' has {beyond or own.layers!r}, but of the {shape[0]!r} layers of a "
                f"code {[0, last - 1]!r} and those between drive styles: give some of these"
            )
    yield from most_problems(f"{key}.n_components", own, shape[-1], "coordinates of a layer's code")


PLUGIN = Sefa()
