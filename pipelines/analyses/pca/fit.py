"""Principal components of the codes: of all layers, of each, or of ranges of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipelines.analyses.inputs import Data, Fitted
from schemas.sections.pca import PcaSpec
from transforms.accumulate.requests import MomentsOfRows
from transforms.pca.fit import PCA, GramSolver, RandomisedSolver, RowSlabs, choose_solver, solve_pca
from transforms.pca.latent import LatentComponents, MomentsOfScores, solve_latent_components


@dataclass(frozen=True)
class LayerRange:
    """Codes that one PCA is about.

    layers : (start, stop), or None for all of them
    """

    layers: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """'', 'layer03' or 'layers00-03' (both included)."""
        if self.layers is None:
            return ""
        start, last = self.layers[0], self.layers[1] - 1
        return f"layer{start:02d}" if start == last else f"layers{start:02d}-{last:02d}"


def selections(
    layers: Literal["each"] | list[tuple[int, int]] | None, code_shape: tuple[int, ...]
) -> list[LayerRange]:
    """What 'layers' of the specification asks for, of codes of that shape.

    A range of all layers is the PCA over all.
    """
    if layers is None:
        return [LayerRange()]
    n_layers = code_shape[0]
    ranges = [(i, i + 1) for i in range(n_layers)] if layers == "each" else layers
    return [LayerRange(None if r == (0, n_layers) else r) for r in ranges]


def fit_pca(data: Data, wanted: PcaSpec) -> Fitted:
    """Principal components of every selection of layers."""
    n_rows = data.n_rows - sum(data.left_out().values())
    out = Fitted(facts={"rows": n_rows, "selections": []})
    for selection in selections(wanted.layers, data.code_shape):
        _fit_selection(data, wanted, selection, n_rows, out)
    first = out.facts["selections"][0]
    out.facts |= {name: first[name] for name in ("rows", "noise_variance")}
    return out


def _fit_selection(
    data: Data, wanted: PcaSpec, selection: LayerRange, n_rows: int, out: Fitted
) -> None:
    shape = data.code_shape
    if selection.layers is not None:
        shape = (selection.layers[1] - selection.layers[0], *shape[1:])
    n_features = math.prod(shape)
    most = max(min(n_features, n_rows), 1)
    n_components = wanted.n_components
    if n_components is not None:
        why = f"of {n_rows} rows and {n_features} coordinates"
        n_components = out.limit("pca.n_components", n_components, most, why)
    solver: str = wanted.solver
    if solver == "auto":
        solver = choose_solver(n_rows, n_features, n_components)
    facts: dict[str, Any] = {"name": selection.name, "solver": solver}
    prefix = f"{selection.name}_" if selection.name else ""
    if solver == "gram":
        found = data.engine.run(GramSolver(n_components), _slabs(data, selection)).result()
    elif solver == "randomised":
        iteration = RandomisedSolver(n_features, n_components or most)
        found = data.engine.run(iteration, data.codes(selection.layers)).result()
    else:
        moments = data.engine.sum(data.codes(selection.layers), MomentsOfRows())
        found = solve_pca(moments, n_components)
    facts |= {
        "layers": list(range(*selection.layers)) if selection.layers else None,
        "rows": found.n_rows,
        "noise_variance": found.noise_variance,
        "converged": found.converged,
    }
    arrays = found.to_arrays()
    for name in ("n_rows", "noise_variance", "converged"):
        del arrays[name]
    if wanted.regress_to is not None:
        latent = _regress(data, wanted.regress_to, selection, found)
        facts["latent_r2"] = latent.r2
        arrays |= {
            f"{wanted.regress_to}_{name}": getattr(latent, name)
            for name in ("mean", "coefficients", "directions", "sd")
        }
    out.arrays |= {f"{prefix}{name}": value for name, value in arrays.items()}
    out.facts["selections"].append(facts)
    _add_directions(data, wanted, selection, found, out)


def _add_directions(
    data: Data, wanted: PcaSpec, selection: LayerRange, found: PCA, out: Fitted
) -> None:
    label = f"{selection.name}." if selection.name else ""
    baseline = float(np.mean(found.random_sd)) if found.random_sd is not None else None
    for i, component in enumerate(found.components[: wanted.n_directions]):
        vector, layers = component.reshape(-1), None
        if selection.layers is not None:
            layers = list(range(*selection.layers))
            whole = np.zeros(data.code_shape)
            whole[layers] = component.reshape(len(layers), *data.code_shape[1:])
            vector = whole
        quality = {
            "explained_variance_ratio": float(found.explained_variance_ratio[i]),
            "random_sd": baseline,
        }
        sd = float(found.sd[i])
        direction = data.direction(
            f"pca.{label}{i:03d}", vector, "pca", None, quality=quality, sd=sd, layers=layers
        )
        out.directions.append(direction)


def _slabs(data: Data, selection: LayerRange) -> RowSlabs:
    """All rows, a layer at a time."""
    width = data.width
    if not data.n_layers:
        return RowSlabs((data.codes(),), (0, width))
    layers = range(*(selection.layers or (0, data.n_layers)))
    slabs = tuple(data.codes((i, i + 1)) for i in layers)
    return RowSlabs(slabs, tuple(width * i for i in range(len(layers) + 1)))


def _regress(data: Data, space: str, selection: LayerRange, found: PCA) -> LatentComponents:
    """The components as directions of another latent, of `space`, of the same rows."""
    both = data.read({"x": data.space, "targets": space}, layers=selection.layers)
    request = MomentsOfScores(found.mean, found.components)
    return solve_latent_components(data.engine.sum(both, request), len(found.components))
