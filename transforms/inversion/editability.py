"""How like codes of the prior a code is: what an edit of it can be expected to do, without editing.

Directions are found in codes that the generator draws pictures from as it was trained to, and move
a code as they move those. The farther from all of them an inversion has gone to match its image,
the less of an edit comes about (Tov et al. 2021 on distortion and editability; Zhu et al. 2020,
"Improved StyleGAN embedding", on codes in a normalised space).

With every coordinate of a space normalised by the mean and the standard deviation of sampled
codes, let u be a code, of D coordinates, and p the nearest to it of all points that lie in the span
of the sampled codes and no farther from their mean than those do on average, sqrt(D). Then

    editability = |p| / |u|

It is the cosine of u and p wherever u is no longer than sampled codes are, and falls with 1 / |u|
beyond. 1 at best, also of the mean code and of codes truncated towards it. Sampled codes score 1
at the median, and above sqrt(D / q) in 95 % of cases, where q is the 95 % quantile of their squared
length; of a standard normal z, chi-squared of D degrees of freedom. In w_plus the sampled codes are
the same in every layer, and what a code's layers have apart from one another lies off their span,
as do styles that no w gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from generators.protocols import Code, Generator

SAMPLES, FEWEST = 1024, 64
NUMBERS = 1 << 24
"""Samples of a space: as many as hold so many numbers, within these bounds."""
VARYING = 1e-9
"""Directions in which sampled codes vary by less of their largest variance are none of theirs."""
STILL = 1e-3
"""Of the mean standard deviation: the least by which a coordinate is divided."""


def editability(generator: Generator, code: Code) -> Tensor:
    """Editability of every row, float32 (n,), from 0 to 1; NaN of rows that are not finite.

    See the module text. A row's value depends on its main array alone, and is compared with codes
    of all classes where the model has any. The space's samples are drawn once in a process.

    Raises UsageError for a space that the model does not sample.
    """
    import torch

    rows = code.main.detach().flatten(1).cpu().double().numpy()
    return torch.from_numpy(_sampled(generator, code.space).editability(rows).astype(np.float32))


@dataclass(frozen=True, eq=False)
class SampledCodes:
    """What sampled codes of a space have in common, over their D coordinates.

    mean, scale : of every coordinate, (D,)
    span : orthonormal (D, r), of all normalised samples; None where they go in every direction
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    span: NDArray[np.float64] | None

    @classmethod
    def of(cls, samples: NDArray[np.floating]) -> SampledCodes:
        """samples : (n, D). Fewer than there are directions to go in span them all."""
        x = np.asarray(samples, np.float64)
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        least = STILL * math.sqrt(float(np.square(deviation).mean()))
        scale = np.maximum(deviation, least) if least else np.ones_like(deviation)
        return cls(mean, scale, _span((x - mean) / scale))

    def editability(self, codes: NDArray[np.float64]) -> NDArray[np.float64]:
        """codes : float64 (n, D) -> (n,)."""
        with np.errstate(invalid="ignore", over="ignore"):
            u = (codes - self.mean) / self.scale
            whole = np.linalg.norm(u, axis=1)
            within = whole if self.span is None else np.linalg.norm(u @ self.span, axis=1)
            nearest = np.minimum(within, math.sqrt(u.shape[1]))
            found = np.divide(nearest, whole, where=whole != 0, out=np.ones_like(whole))
        return np.where(np.isfinite(whole), np.minimum(found, 1.0), np.nan)


def _span(u: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Orthonormal directions (D, r) in which centred rows (n, D) vary; None for all."""
    n, d = u.shape
    values, vectors = np.linalg.eigh(u @ u.T if n < d else u.T @ u)
    varying = values > VARYING * values[-1]
    if varying.sum() >= min(d, n - 1):
        return None
    found = vectors[:, varying]
    return (u.T @ found) / np.sqrt(values[varying]) if n < d else found


def _sampled(generator: Generator, space: str) -> SampledCodes:
    import torch

    facts = generator.facts
    key = facts.fingerprint, space
    if key not in _SAMPLED:
        n = max(FEWEST, min(SAMPLES, NUMBERS // math.prod(facts.space(space).shape)))
        with torch.no_grad():
            drawn = generator.sample(space, range(n)).main
        _SAMPLED[key] = SampledCodes.of(drawn.flatten(1).cpu().double().numpy())
    return _SAMPLED[key]


_SAMPLED: dict[tuple[str, str], SampledCodes] = {}
