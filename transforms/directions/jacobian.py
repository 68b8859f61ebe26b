"""Subspaces of the Jacobian of any differentiable generator, with respect to any latent.

G = mean over codes of J' M^2 J, with J the Jacobian of the drawing at a code and M a mask of the
output: its leading eigenvectors are the directions that change the masked picture most (Ramesh et
al. 2018; Zhu et al. 2021, eq. 2; Haas, Paper V, for the h-space of diffusion models). G is only
applied, by three backward passes a vector; `jacobian_gram` forms it where the latent is small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from schemas.errors import DataError, UsageError
from transforms.directions.subspaces import Subspace, region_subspace, subspace_iteration

Draw = Callable[[Tensor], Tensor]
"""Codes (n, *row_shape) -> drawings (n, ...), each row of its own code only."""


def gram_product(draw: Draw, codes: Tensor, vectors: Tensor, mask: Tensor | None = None) -> Tensor:
    """J' M^2 J v for every row of codes and vectors, both (n, *row_shape).

    J v is the derivative of the backward pass, u -> J' u, which is linear in u; so any model that
    can be differentiated twice will do, and one drawing serves both products.
    """
    with torch.enable_grad():
        x = codes.detach().requires_grad_()
        drawn = draw(x)
        weights = torch.zeros_like(drawn, requires_grad=True)
        (pulled,) = torch.autograd.grad(drawn, x, weights, create_graph=True)
        (moved,) = torch.autograd.grad(pulled, weights, vectors, retain_graph=True)
        if mask is not None:
            moved = moved * mask.to(moved) ** 2
        return torch.autograd.grad(drawn, x, moved)[0]


@dataclass(frozen=True, eq=False)
class JacobianGram:
    """The matrix G, applied to rows float64 (b, D).

    draw : see `Draw`; one for all codes, or one for each, such as with its class label.
    codes : tensor (n, *row_shape), on the generator's device.
    mask : tensor that broadcasts to one drawing, with values from 0 to 1; None for all of it
    batch_size : rows drawn at once
    """

    draw: Draw | Sequence[Draw]
    codes: Tensor
    mask: Tensor | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.codes.ndim < 2 or 0 in self.codes.shape:
            raise DataError(f"codes have shape {tuple(self.codes.shape)!r}; give (n, *row_shape)")

    def draw_of(self, i: int) -> Draw:
        """How the i-th code is drawn."""
        return self.draw if callable(self.draw) else self.draw[i]

    @property
    def dimension(self) -> int:
        """D, coordinates of one code."""
        return self.codes[0].numel()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Each row's product with G. Raises DataError for rows of another length."""
        if rows.ndim != 2 or rows.shape[1] != self.dimension:
            raise DataError(f"rows have shape {rows.shape!r}; give (b, {self.dimension!r})")
        total = np.zeros(rows.shape)
        shape = self.codes.shape[1:]
        for i, code in enumerate(self.codes):
            for start in range(0, len(rows), self.batch_size):
                part = slice(start, start + self.batch_size)
                vectors = torch.from_numpy(rows[part]).to(code.device, code.dtype)
                vectors = vectors.reshape(-1, *shape)
                here = code[None].expand(len(vectors), *shape).contiguous()
                pulled = gram_product(self.draw_of(i), here, vectors, self.mask).cpu().double()
                total[part] += pulled.reshape(len(vectors), -1).numpy()
        return total / len(self.codes)


def jacobian_gram(gram: JacobianGram) -> np.ndarray:
    """G itself, float64 (D, D), by D products: for latents of up to about a thousand coordinates.

    `transforms.directions.subspaces.robust_pca` takes its sparse part away.
    """
    matrix = gram(np.eye(gram.dimension))
    return (matrix + matrix.T) / 2


def gram_diagonal(gram: JacobianGram, n_probes: int = 32, seed: int = 0) -> np.ndarray:
    """How much each coordinate changes the (masked) drawing: diagonal of G, float64 (D,).

    One backward pass for each code and probe of random signs u, with E[(J'M u)_c^2] = G_cc; the
    relative error is about sqrt(2 / probes). For S space its share of the unmasked one tells which
    channels are local to a region (Wu et al. 2021, section 4.1, with gradients of pixels).
    """
    random = torch.Generator().manual_seed(seed)
    total = np.zeros(gram.dimension)
    for i, code in enumerate(gram.codes):
        for start in range(0, n_probes, gram.batch_size):
            n = min(gram.batch_size, n_probes - start)
            with torch.enable_grad():
                x = code.detach().expand(n, *code.shape).clone().requires_grad_()
                drawn = gram.draw_of(i)(x)
                signs = torch.randint(0, 2, drawn.shape, generator=random).to(drawn) * 2 - 1
                if gram.mask is not None:
                    signs = signs * gram.mask.to(signs)
                (pulled,) = torch.autograd.grad(drawn, x, signs)
            total += (pulled.cpu().double() ** 2).reshape(n, -1).sum(dim=0).numpy()
    return total / (len(gram.codes) * n_probes)


def jacobian_subspace(
    gram: JacobianGram,
    k: int,
    *,
    background: Tensor | None = None,
    background_rank: int = 16,
    tolerance: float = 1e-3,
    max_iterations: int = 30,
    seed: int = 0,
) -> Subspace:
    """The k directions of the latent that change the (masked) drawing most.

    One code gives that image's directions, several give directions shared by them. Singular
    values of J are the roots of the eigenvalues (for several codes: of the mean of J'J).
    background : mask of what must not change; its `background_rank` leading directions are taken
        out first (`transforms.directions.subspaces.region_subspace`). Needs a mask in `gram`.
    """
    if background is None:
        return subspace_iteration(
            gram, gram.dimension, k, tolerance=tolerance, max_iterations=max_iterations, seed=seed
        )
    if gram.mask is None:
        raise UsageError("a background needs a foreground: give the mask of what should change")
    behind = JacobianGram(gram.draw, gram.codes, background, gram.batch_size)
    found, _ = region_subspace(
        gram,
        behind,
        gram.dimension,
        k,
        background_rank=background_rank,
        tolerance=tolerance,
        max_iterations=max_iterations,
        seed=seed,
    )
    return found


def rectangle_mask(
    size: tuple[int, int], left: float, top: float, right: float, bottom: float
) -> Tensor:
    """Mask (1, height, width) float32 of a rectangle given in shares of width and height, edges
    included in proportion. Raises UsageError unless 0 <= left < right <= 1 and so for top and
    bottom."""
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise UsageError(
            f"region {[left, top, right, bottom]!r} is not a rectangle in the image: give left, "
            "top, right, bottom as shares from 0 to 1"
        )

    def covered(low: float, high: float, side: int) -> Tensor:
        edges = torch.arange(side + 1, dtype=torch.float64)
        low_edge, high_edge = low * side, high * side
        return (edges[1:].clamp(max=high_edge) - edges[:-1].clamp(min=low_edge)).clamp(min=0)

    height, width = size
    rows, columns = covered(top, bottom, height), covered(left, right, width)
    return torch.outer(rows, columns).float()[None]
