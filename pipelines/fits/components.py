"""Principal components of the codes."""

from __future__ import annotations

import numpy as np

from pipelines.fits.inputs import Fitted, Inputs
from schemas.errors import UsageError
from transforms.pca import COVARIANCE_MAX_FEATURES, solve_pca
from transforms.requests import MomentsOfRows

SHOWN_COMPONENTS = 8
"""Components that become directions of the set; all that were asked for stand in the model."""


def fit_pca(inputs: Inputs) -> Fitted:
    """Principal components by the centred second moment, which is kept beside them."""
    wanted = inputs.spec.analyse.pca
    n_features = int(np.prod(inputs.code_shape))
    if n_features > COVARIANCE_MAX_FEATURES:
        raise UsageError(
            f"codes of space {inputs.space!r} have {n_features!r} coordinates, more than the "
            f"{COVARIANCE_MAX_FEATURES!r} of a covariance solve: analyse space 'w'"
        )
    moments = inputs.engine.sum(inputs.blocks(), MomentsOfRows())
    most = min(n_features, moments.count)
    wanted_components = wanted.n_components or most
    found = solve_pca(moments, min(wanted_components, most))
    out = Fitted(
        arrays={
            "mean": found.mean,
            "components": found.components,
            "explained_variance": found.explained_variance,
            "explained_variance_ratio": found.explained_variance_ratio,
            "singular_values": found.singular_values,
            **{f"moments_{name}": value for name, value in moments.to_arrays().items()},
        },
        facts={"noise_variance": found.noise_variance, "rows": found.n_rows},
    )
    for i, component in enumerate(found.components[:SHOWN_COMPONENTS]):
        ratio = float(found.explained_variance_ratio[i])
        quality = {"explained_variance_ratio": ratio}
        out.directions.append(
            inputs.direction(f"pca.{i:03d}", component, "pca", None, quality=quality)
        )
    return out
