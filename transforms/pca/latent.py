"""Components found at a layer, carried back to the latent the generator is fed with (GANSpace).

Harkonen, Hertzmann, Lehtinen, Paris (2020), section 3.2: with x_j the coordinates of row j on the
components of its activations and z_j its latent, the latent directions U minimise
sum_j |U x_j - z_j|^2. Both sides are centred first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import (
    DEFAULT_BLOCK_ROWS,
    TRANSFORMS,
    ArrayBlocks,
    Arrays,
    flatten_rows,
    sum_blocks,
)
from transforms.accumulate.moments import Moments, join_targets
from transforms.pca.result import PCA


@dataclass(frozen=True)
class LatentComponents:
    """Directions of a latent (T values) that move a row along each component of a layer.

    mean : float64 (T,), of the latents
    coefficients : float64 (k, T), change of the latent for one unit of the component's coordinate
    directions : float64 (k, T), the coefficients with unit length, not orthogonal in general;
        zero where a component does not depend on the latent
    sd : float64 (k,), standard deviation of the latents' projections on the directions
    r2 : share of the latents' variance that all k coordinates together explain
    """

    mean: np.ndarray
    coefficients: np.ndarray
    directions: np.ndarray
    sd: np.ndarray
    r2: float


@dataclass(frozen=True)
class MomentsOfScores:
    """Joint moments of the coordinates of array x (m, ...) and of array targets (m, ...).

    mean : (D,) and components : (k, D), of a PCA of x
    """

    kind = f"{TRANSFORMS}.pca_latent.MomentsOfScores"

    mean: np.ndarray
    components: np.ndarray
    token: str = "x-latent"

    def prepare(self, arrays: Arrays) -> Arrays:
        """x as (m, D) and targets as (m, T)."""
        return {"x": flatten_rows(arrays["x"]), "targets": flatten_rows(arrays["targets"])}

    def statistic(self, prepared: Arrays) -> Moments:
        """`Moments` of (k + T) values a row; rows with a NaN latent are left out."""
        scores = (prepared["x"].astype(np.float64) - self.mean) @ self.components.T
        return Moments.of(join_targets(scores, prepared["targets"]))


def solve_latent_components(moments: Moments, n_components: int) -> LatentComponents:
    """The least-squares directions from `MomentsOfScores` of `n_components` coordinates.

    Raises DataError for too few rows, or where coordinates do not vary independently.
    """
    k = n_components
    moments.check(k + 2)
    if not 0 < k < len(moments.mean):
        raise UsageError(
            f"n_components is {k!r} but the moments are of {len(moments.mean)!r} values: give the "
            "number of coordinates, the others are the latent's"
        )
    xx, xz, zz = moments.second[:k, :k], moments.second[:k, k:], moments.second[k:, k:]
    scale = np.sqrt(np.maximum(np.diagonal(xx), 0.0))
    if not (scale > 1e-12 * scale.max(initial=0.0)).all():
        raise DataError(
            f"{int((scale <= 1e-12 * scale.max()).sum())!r} of {k!r} components have no variance: "
            "ask for fewer components"
        )
    try:
        coefficients = np.linalg.solve(xx / np.outer(scale, scale), xz / scale[:, None])
    except np.linalg.LinAlgError as e:
        raise DataError(
            f"the coordinates of {k!r} components depend on one another: ask for fewer components"
        ) from e
    coefficients /= scale[:, None]
    length = np.linalg.norm(coefficients, axis=1)
    directions = coefficients / np.where(length > 0, length, 1.0)[:, None]
    along = np.einsum("kt,ts,ks->k", directions, zz, directions, optimize=True)
    total = float(np.trace(zz))
    explained = float(np.einsum("kt,kt->", coefficients, xz))
    return LatentComponents(
        mean=moments.mean[k:],
        coefficients=coefficients,
        directions=directions,
        sd=np.sqrt(np.maximum(along, 0.0) / (moments.count - 1)),
        r2=explained / total if total > 0 else 0.0,
    )


def regress_components(
    pca: PCA, x: np.ndarray, latents: np.ndarray, *, block_rows: int = DEFAULT_BLOCK_ROWS
) -> LatentComponents:
    """Latent directions of a layer's components, from rows that have both.

    pca : of x;  x : (n, D) or (n, ...), what the layer holds;  latents : (n, T), for instance z
    """
    request = MomentsOfScores(pca.mean, pca.components)
    source = ArrayBlocks({"x": np.asarray(x), "targets": np.asarray(latents)}, block_rows)

    def statistic(block: int) -> Moments:
        return request.statistic(request.prepare(source.read(block)[1]))

    return solve_latent_components(sum_blocks(source.n_blocks, statistic), len(pca.components))
