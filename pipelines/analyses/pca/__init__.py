"""Principal components of the codes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipelines.analyses.base import Analysis, Known, Model, Selection
from pipelines.analyses.checks import Problems
from pipelines.analyses.figures import Count, Figure, NotShownError, Percent, Shares, Text, Value
from schemas.sections.pca import PcaSpec

if TYPE_CHECKING:
    from pipelines.analyses.inputs import Data, Fitted

LEVELS = (0.5, 0.9, 0.95, 0.99)


class Pca(Analysis[PcaSpec]):
    """Principal components of all layers, of each, or of ranges of them."""

    name = "pca"
    section = PcaSpec
    version = 2
    title = "Principal components"
    labels = {"pca": "PCA"}

    def select(self, known: Known, own: PcaSpec) -> Selection:
        """The codes, and those of the space that components are carried back to."""
        held = own.regress_to is not None and own.regress_to in known.spaces
        return Selection(spaces=(own.regress_to,) if held and own.regress_to else ())

    def problems(self, known: Known, own: PcaSpec) -> Problems:
        """Layers that are not there; more components than rows or coordinates."""
        yield from pca_problems(known, own)
        if own.regress_to is not None and own.regress_to not in known.spaces:
            yield (
                f"'analyse.pca.regress_to' is {own.regress_to!r}, but the run has codes of "
                f"{sorted(known.spaces)!r} alone: leave it out"
            )

    def fit(self, data: Data, own: PcaSpec) -> Fitted:
        """See `pipelines.analyses.pca.fit`."""
        from pipelines.analyses.pca.fit import fit_pca

        return fit_pca(data, own)

    def figures(self, model: Model) -> list[Figure]:
        """The spectrum, and its running sum."""
        parts = [str(part.get("name")) for part in model.facts.get("selections") or []]
        if parts and "" not in parts:
            raise NotShownError(
                f"the PCA is of {', '.join(parts)} only; the model has each spectrum"
            )
        found = model.arrays.get("explained_variance_ratio", np.empty(0))
        ratio = np.asarray(found, dtype=np.float64).ravel()
        if len(ratio) == 0 or not np.isfinite(ratio).all():
            raise NotShownError("the PCA has no explained variance ratios (constant latents)")
        total = np.cumsum(ratio)
        reached = [level for level in LEVELS if total[-1] >= level]
        rows = model.facts.get("n_rows", model.facts.get("rows"))
        of = " of {rows} rows" if rows is not None else ""
        text = "{n} components" + of + " hold {total} of the variance, the first one {first}."
        values: dict[str, Value] = {
            "n": Count(len(ratio)),
            "rows": Count(rows),
            "total": Percent(float(total[-1])),
            "first": Percent(float(ratio[0])),
        }
        if reached:
            needed = ", ".join(f"{{n{i}}} for {{level{i}}}" for i in range(len(reached)))
            text += f" Components needed: {needed}."
            for i, level in enumerate(reached):
                values[f"n{i}"] = Count(int(np.argmax(total >= level)) + 1)
                values[f"level{i}"] = Percent(level, 0)
        return [Text(text, values), Shares(ratio)]


def layer_problems(
    layers: Literal["each"] | list[tuple[int, int]] | None,
    code_shape: tuple[int, ...],
    layered: bool,
) -> Problems:
    """Ranges of layers that codes of that shape do not have. layered : their first axis counts
    layers"""
    if layers is not None and not layered:
        yield (
            f"'analyse.pca.layers' is {layers!r}, but codes of shape {code_shape!r} have no "
            "layers: leave it out, or invert into 'w_plus'"
        )
    elif isinstance(layers, list):
        beyond = [list(r) for r in layers if r[1] > code_shape[0]]
        if beyond:
            yield (
                f"'analyse.pca.layers' has ranges {beyond!r}, but codes have {code_shape[0]!r} "
                f"layers: end them at {code_shape[0]!r}"
            )


def pca_problems(known: Known, own: PcaSpec) -> Problems:
    """Layers that are not there; more components than rows or coordinates."""
    shape = known.code_shape(own)
    wrong = list(layer_problems(own.layers, shape, known.layered(known.space(own))))
    if wrong:
        yield from wrong
        return
    n_features = math.prod(shape)
    if own.layers is not None:
        ranges = [(0, 1)] if own.layers == "each" else own.layers
        n_features = min(stop - start for start, stop in ranges) * math.prod(shape[1:])
    n_rows = known.n_rows()
    if n_rows < 2:
        yield f"'analyse.pca' compares 2 rows or more, and there is {n_rows!r}: leave it out"
        return
    most = min(n_features, n_rows)
    if own.n_components is not None and "n_components" in own.model_fields_set:
        if own.n_components > most:
            yield (
                f"'analyse.pca.n_components' is {own.n_components!r}, but {n_rows!r} rows of "
                f"{n_features!r} coordinates have at most {most!r}: give at most as many, or null "
                "for all there are"
            )
    kept = most if own.n_components is None else min(own.n_components, most)
    if own.n_directions > kept and "n_directions" in own.model_fields_set:
        yield (
            f"'analyse.pca.n_directions' is {own.n_directions!r} of {kept!r} components: raise "
            "'n_components', or lower it"
        )


PLUGIN = Pca()
