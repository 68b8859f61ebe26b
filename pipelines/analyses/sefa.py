"""Directions of the generator itself: of its weights, and of its Jacobian at stored codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.analyses.inputs import Fitted, Inputs
from pipelines.analyses.known import refuse
from pipelines.analyses.problems import jacobian_problems, sefa_problems
from schemas.errors import DataError
from schemas.spec_analyses import JacobianSpec, SefaSpec
from transforms.directions.sefa import sefa

if TYPE_CHECKING:
    from torch import Tensor


def fit_sefa(inputs: Inputs, wanted: SefaSpec) -> Fitted:
    """Eigenvectors of the affine layers' weights, the same in every w_plus row that they edit."""
    import generators
    from generators.families.stylegan2.affine import affine_layers

    refuse(sefa_problems(inputs, wanted))
    layers = affine_layers(generators.load(inputs.spec.generator), wanted.layers, to_rgb=False)
    out = Fitted(facts={"layers": [a.name for a in layers]})
    most = inputs.code_shape[-1]
    k = out.limit("sefa.n_components", wanted.n_components, most, "coordinates of a layer's code")
    found = sefa([a.weight for a in layers], k)
    out.arrays = {"vectors": found.vectors, "eigenvalues": found.eigenvalues}
    for i, vector in enumerate(found.vectors):
        out.directions.append(
            inputs.direction(
                f"sefa.{i:03d}",
                np.broadcast_to(vector, inputs.code_shape),
                "sefa",
                None,
                layers=wanted.layers,
                quality={"explained_ratio": float(found.explained_ratio[i])},
            )
        )
    return out


def fit_jacobian(inputs: Inputs, wanted: JacobianSpec) -> Fitted:
    """Leading directions of the mean of J'J over codes spread evenly over the store's rows."""
    import torch

    import generators
    from generators.protocols import Code
    from pipelines.evaluation.evaluate import codes_of, ok_rows
    from transforms.directions.jacobian import JacobianGram, jacobian_subspace, rectangle_mask

    refuse(jacobian_problems(inputs, wanted))
    rows = ok_rows(inputs.store)
    if not len(rows):
        raise DataError("the store has no finished row to differentiate at: invert some first")
    out = Fitted()
    samples = out.limit("jacobian.samples", wanted.samples, len(rows), "rows with codes")
    at = np.unique(np.linspace(0, len(rows) - 1, samples).astype(np.int64))
    generator = generators.load(inputs.spec.generator)
    codes = torch.from_numpy(codes_of(inputs.store, inputs.space, rows[at]))

    def draw(rows: Tensor) -> Tensor:
        return generator.draw(Code(inputs.space, rows), noise=inputs.spec.invert.noise_mode)

    front: Tensor | None = None
    behind: Tensor | None = None
    if wanted.region is not None:
        front = rectangle_mask(generator.facts.size, *wanted.region)
        behind = 1 - front
    gram = JacobianGram(draw, codes, front)
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
            inputs.direction(
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
