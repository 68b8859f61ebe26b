"""How good a perceptual distance and its features are, on pictures that are no part of training.

All truth is planted: of two spoiled pictures the one that was spoiled less must be nearer. Nobody
was asked what looks more alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from generators.facerig import random_faces, render
from generators.facerig.factors import COLUMNS, Faces
from generators.perceptual.distance import channel_distance
from generators.perceptual.network import FeatureNetwork
from pipelines.training.data import VALIDATION_SEED, as_input, expressive
from pipelines.training.pictures import KEPT_ASIDE, Distortion, light, shift, tint

ANGLES = (4.0, 8.0, 16.0, 32.0)
SEVERITIES = (0.2, 0.6, 1.0)
SMALL, LARGE = (0.05, 0.3), (0.7, 1.0)
PICTURES, MANY = 32, 300
"""Of each set, in comparisons of pairs and in Fréchet distances."""
SEED = 99


@dataclass(frozen=True)
class Compared:
    """Something to compare pictures with.

    distance : two batches in [-1, 1] -> (n,). features : a batch -> (n, d).
    """

    distance: Callable[[Tensor, Tensor], Tensor]
    features: Callable[[Tensor], Tensor]


def by_network(network: FeatureNetwork) -> Compared:
    """LPIPS* and features of a network."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return channel_distance(network.maps(a), network.maps(b))

    return Compared(distance, lambda x: torch.cat([network(part) for part in x.split(100)]))


def by_pixels() -> Compared:
    """Mean squared error, and as features the 192 averages over 8 x 8 squares."""
    return Compared(
        lambda a, b: (a - b).square().flatten(1).mean(dim=1),
        lambda x: F.avg_pool2d(x, 8).flatten(1),
    )


def right_order(measured: Compared, images: Tensor) -> dict[str, float]:
    """Shares of pairs of which the picture that was spoiled less is nearer, in kinds that were kept
    aside: "one kind" of severities 0.2, 0.6 and 1; "two kinds" of one of at most 0.3 and another of
    at least 0.7."""
    noise = torch.Generator().manual_seed(SEED)
    kinds, n = list(KEPT_ASIDE.values()), len(images)
    one: list[np.ndarray] = []
    low: list[np.ndarray] = []
    high: list[np.ndarray] = []
    for kind in kinds:
        by_step = [_spoiled(measured, images, kind, torch.full((n,), s), noise) for s in SEVERITIES]
        one += [a < b for i, a in enumerate(by_step) for b in by_step[i + 1 :]]
        for found, limits in ((low, SMALL), (high, LARGE)):
            severities = torch.empty(n).uniform_(*limits, generator=noise)
            found.append(_spoiled(measured, images, kind, severities, noise))
    two = [a < b for i, a in enumerate(low) for j, b in enumerate(high) if i != j]
    return {"one kind": float(np.mean(one)), "two kinds": float(np.mean(two))}


def _spoiled(
    measured: Compared,
    images: Tensor,
    kind: Distortion,
    severities: Tensor,
    noise: torch.Generator,
) -> np.ndarray:
    with torch.no_grad():
        return measured.distance(images, kind(images, severities, noise).clamp(-1, 1)).numpy()


def of_faces(measured: Compared, drawn: list[Tensor]) -> dict[str, float]:
    """Shares of right order among the rig's faces: "expression", the same face moved, lit or tinted
    a little is nearer than with another expression; "turned", the less it is turned, the nearer.

    drawn : of `faces_and_changes`
    """
    noise = torch.Generator().manual_seed(SEED)
    images, stronger, *turned = drawn
    severities = torch.linspace(0.05, 0.25, len(images))
    with torch.no_grad():
        changed = measured.distance(images, stronger).numpy()
        angles = [measured.distance(images, other).numpy() for other in turned]
    gentle = [_spoiled(measured, images, kind, severities, noise) for kind in (shift, light, tint)]
    ordered = [a < b for i, a in enumerate(angles) for b in angles[i + 1 :]]
    right = float(np.mean([near < changed for near in gentle]))
    return {"expression": right, "turned": float(np.mean(ordered))}


def faces_and_changes(n: int) -> list[Tensor]:
    """Faces of persons who are in no training set: as they are, with a stronger expression, and
    turned by each of `ANGLES` to the side that they do not look to."""
    faces = random_faces(n, VALIDATION_SEED, first=100_000)
    yaw = COLUMNS.index("yaw")
    tables = [faces, expressive(faces, VALIDATION_SEED)]
    for angle in ANGLES:
        values = faces.values.copy()
        values[:, yaw] -= np.where(values[:, yaw] > 0, angle, -angle)
        tables.append(Faces(values, faces.person))
    return [as_input(render(table, 64, 1).images) for table in tables]


def rising_frechet(measured: Compared, images: Tensor) -> float:
    """Share of the steps from the pictures themselves to severities 0.2, 0.6 and 1 in which the
    Fréchet distance to the pictures rises, in kinds that were kept aside."""
    noise = torch.Generator().manual_seed(SEED)
    rising = []
    with torch.no_grad():
        plain = measured.features(images).double().numpy()
        for kind in KEPT_ASIDE.values():
            distances = [0.0]
            for severity in SEVERITIES:
                given = kind(images, torch.full((len(images),), severity), noise).clamp(-1, 1)
                distances.append(frechet(plain, measured.features(given).double().numpy()))
            rising += [a < b for a, b in zip(distances, distances[1:], strict=False)]
    return float(np.mean(rising))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of the normal distributions of two samples, float64 (n, d)."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(ca)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ cb @ root)
    spread = np.trace(ca) + np.trace(cb) - 2 * np.sqrt(np.maximum(inner, 0)).sum()
    return float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum() + spread)


def figures(
    measured: Compared, sets: Mapping[str, Tensor], faces: list[Tensor]
) -> dict[str, float]:
    """Everything that the card shows of one way to compare: name -> share of right order.

    sets : pictures by name. faces : of `faces_and_changes`
    """
    found = of_faces(measured, faces)
    for name, images in sets.items():
        shares = right_order(measured, images[:PICTURES])
        shares["Fréchet"] = rising_frechet(measured, images[:MANY])
        found |= {f"{name}, {what}": share for what, share in shares.items()}
    return found
