"""Directions of the generator's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.analyses.inputs import Data, Fitted
from schemas.sections.sefa import SefaSpec
from transforms.directions.sefa import sefa

if TYPE_CHECKING:
    pass


def fit_sefa(data: Data, wanted: SefaSpec) -> Fitted:
    """Eigenvectors of the affine layers' weights, the same in every w_plus row that they edit."""
    from generators.affine import affine_layers

    layers = affine_layers(data.generator(), wanted.layers, to_rgb=False)
    out = Fitted(facts={"layers": [a.name for a in layers]})
    most = data.code_shape[-1]
    k = out.limit("sefa.n_components", wanted.n_components, most, "coordinates of a layer's code")
    found = sefa([a.weight for a in layers], k)
    out.arrays = {"vectors": found.vectors, "eigenvalues": found.eigenvalues}
    for i, vector in enumerate(found.vectors):
        out.directions.append(
            data.direction(
                f"sefa.{i:03d}",
                np.broadcast_to(vector, data.code_shape),
                "sefa",
                None,
                layers=wanted.layers,
                quality={"explained_ratio": float(found.explained_ratio[i])},
            )
        )
    return out
