"""Directions of the generator's Jacobian at stored codes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pipelines.analyses.inputs import Data, Fitted
from schemas.errors import DataError
from schemas.sections.jacobian import JacobianSpec

if TYPE_CHECKING:
    from torch import Tensor


def fit_jacobian(data: Data, wanted: JacobianSpec) -> Fitted:
    """Leading directions of the mean of J'J over codes spread evenly over the store's rows."""
    import torch

    from transforms.directions.jacobian import JacobianGram, jacobian_subspace, rectangle_mask

    rows = data.ok_rows()
    if not len(rows):
        raise DataError("the store has no finished row to differentiate at: invert some first")
    out = Fitted()
    samples = out.limit("jacobian.samples", wanted.samples, len(rows), "rows with codes")
    at = np.unique(np.linspace(0, len(rows) - 1, samples).astype(np.int64))
    generator = data.generator()
    code, labels = data.code_of(rows[at]), data.labels(rows[at])
    codes = code.main

    def draw(row: int, rows: Tensor) -> Tensor:
        """Codes near the row's, drawn with what belongs to it."""
        alike = code[torch.full((len(rows),), row)].moved(rows)
        own = None if labels is None else [int(labels[row])] * len(rows)
        image: Tensor = generator.draw(alike, labels=own, noise=data.noise_mode)
        return image

    draws = [partial(draw, row) for row in range(len(codes))]
    front: Tensor | None = None
    behind: Tensor | None = None
    if wanted.region is not None:
        front = rectangle_mask(generator.facts.size, *wanted.region)
        behind = 1 - front
    gram = JacobianGram(draws, codes, front)
    background_rank, left = wanted.background_rank, gram.dimension - wanted.n_components
    if behind is not None:
        why = "coordinates that the components leave"
        background_rank = out.limit("jacobian.background_rank", background_rank, left, why)
    found = jacobian_subspace(
        gram,
        wanted.n_components,
        background=behind,
        background_rank=background_rank,
    )
    values = np.sqrt(found.eigenvalues)
    out.arrays = {"vectors": found.vectors, "singular_values": values, "rows": rows[at]}
    out.facts |= {"residual": found.residual, "converged": found.converged}
    for i, vector in enumerate(found.vectors):
        out.directions.append(
            data.direction(
                f"jacobian.{i:03d}",
                vector,
                "jacobian",
                None,
                quality={"singular_value": float(values[i])},
                converged=found.converged,
                provenance={"region": wanted.region},
            )
        )
    return out
