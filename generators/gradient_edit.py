"""The gradient edit of Paper III (eq. 15): parameters reach a target, the image changes little.

    min_w |(phi(w) - q_target) / scale|^2 + weight D(G(w), G(w_0))

phi is the linear regressor of `transforms.nrsfm.regressor`; the gradient of D goes through the
generator. Where the analytic edit (eq. 14) takes the shortest way in the space of codes, this one
takes the way on which the picture, in the sense of D, stays most alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from schemas.errors import UsageError

Draw = Callable[[torch.Tensor], torch.Tensor]
Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ShapeEdit:
    """Edited codes (n, ...) and the objective's value before and after, float64 (n,) each."""

    codes: np.ndarray
    value_before: np.ndarray
    value_after: np.ndarray


def mean_square(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of each pair of images (n, ...), (n,)."""
    return ((images - others) ** 2).flatten(1).mean(1)


def gradient_edit(
    draw: Draw,
    codes: np.ndarray,
    target: np.ndarray,
    *,
    mean: np.ndarray,
    weights: np.ndarray,
    intercept: np.ndarray,
    scale: np.ndarray,
    weight: float = 1.0,
    distance: Distance = mean_square,
    steps: int = 100,
    learning_rate: float = 0.02,
    start: np.ndarray | None = None,
) -> ShapeEdit:
    """Edit codes by Adam; of all steps each row keeps the best, so no row gets worse.

    draw : float32 codes (n, ...) -> images (n, 3, H, W), differentiable, in evaluation mode
    codes : (n, ...);  target : (n, P), attribute vectors to reach
    mean (D,), weights (D, P), intercept (P,) : phi(w) = intercept + W'(w - mean)
    scale : (P,), how far apart parameters are that count as one, such as their standard deviations
    weight : of the distance (n, ...), (n, ...) -> (n,) between images, 0 or more
    learning_rate : of Adam, in units of the codes' root mean square about `mean`
    start : codes to start from, such as those of the analytic edit; default `codes`
    """
    if weight < 0 or steps < 1:
        raise UsageError(
            f"weight is {weight!r} and steps {steps!r}: give a weight of 0 or more and at least "
            "one step"
        )
    if target.shape != (len(codes), len(intercept)) or not (np.asarray(scale) > 0).all():
        raise UsageError(
            f"target has shape {target.shape!r} for {len(codes)!r} codes and {len(intercept)!r} "
            "parameters: give one vector a code, and a scale above 0 for each parameter"
        )

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.array(array), dtype=torch.float32)

    original, unit = tensor(codes), tensor(scale)
    matrix, middle, goal = tensor(weights) / unit, tensor(mean), tensor(target - intercept) / unit
    with torch.no_grad():
        images = draw(original)
    size = float(np.sqrt(np.mean((codes.reshape(len(codes), -1) - mean) ** 2))) or 1.0

    def value(moving: torch.Tensor) -> torch.Tensor:
        missed = (moving.flatten(1) - middle) @ matrix - goal
        total = (missed**2).sum(1)
        return total + weight * distance(draw(moving), images) if weight else total

    moving = tensor(codes if start is None else start).requires_grad_()
    optimiser = torch.optim.Adam([moving], lr=learning_rate * size)
    best = original.clone()
    with torch.no_grad():
        before = value(original)
    lowest = before.clone()
    for step in range(steps + 1):
        optimiser.zero_grad()
        found = value(moving)
        with torch.no_grad():
            better = found < lowest
            lowest = torch.where(better, found, lowest)
            best[better] = moving[better]
        if step < steps:
            found.sum().backward()
            optimiser.step()
    return ShapeEdit(
        best.numpy().astype(np.float64),
        before.numpy().astype(np.float64),
        lowest.detach().numpy().astype(np.float64),
    )
