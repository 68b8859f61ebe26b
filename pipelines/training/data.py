"""The training set of the bundled models: freely sampled rig faces, cached as plain arrays.

Persons are disjoint from every other set by the seed: a person is a function of (seed, number).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from generators.facerig import EXPRESSIONS, random_faces, render
from generators.facerig.factors import COLUMNS, Faces

TRAIN_SEED = 1001
VALIDATION_SEED = 2002
PART = 2000
RAISE = 0.5
"""How much more of an expression's intensity the second picture of a pair shows."""


def rendered(
    folder: Path,
    seed: int,
    n: int,
    resolution: int = 64,
    processes: int = 2,
    alter: Callable[[Faces, int], Faces] | None = None,
) -> dict:
    """`n` pictures and their truth as memory-mapped arrays; parts already on disk are kept.

    alter : what is done to the faces, a function of them and the seed, before they are drawn

    Returns images uint8 (n, R, R, 3), landmarks float32 (n, 68, 2), attributes float32 (n, 10),
    pose float32 (n, 3) in degrees (yaw, pitch, roll).
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[np.ndarray]] = {}
    for first in range(0, n, PART):
        name = alter.__name__ if alter else "faces"
        path = folder / f"{name}-{resolution}-{seed}-{first:07d}"
        if not (path / "done").exists():
            faces = random_faces(PART, seed, first=first)
            faces = alter(faces, seed) if alter else faces
            drawn = render(faces, resolution, processes)
            path.mkdir(exist_ok=True)
            pose = np.stack([faces.column(c) for c in ("yaw", "pitch", "roll")], axis=1)
            np.save(path / "images.npy", drawn.images)
            np.save(path / "landmarks.npy", drawn.landmarks)
            np.save(path / "attributes.npy", faces.attributes())
            np.save(path / "pose.npy", pose.astype(np.float32))
            (path / "done").touch()
        for name in ("images", "landmarks", "attributes", "pose"):
            parts.setdefault(name, []).append(np.load(path / f"{name}.npy", mmap_mode="r"))
    return {name: np.concatenate(column)[:n] for name, column in parts.items()}


def expressive(faces: Faces, seed: int) -> Faces:
    """The same faces in the same scenes, each with one expression stronger by `RAISE`.

    Which one is drawn at random among those that leave room for it; a function of (seed, person).
    """
    values = faces.values.copy()
    columns = [COLUMNS.index(name) for name in EXPRESSIONS]
    for row, person in zip(values, faces.person, strict=True):
        rng = np.random.default_rng(np.random.SeedSequence([seed, 4, int(person)]))
        room = [c for c in columns if row[c] + RAISE <= 1]
        row[rng.choice(room)] += RAISE
    return Faces(values, faces.person)


def as_input(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, R, R, 3) -> float32 (n, 3, R, R) in [-1, 1], the channels last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
