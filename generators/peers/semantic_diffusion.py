"""semantic-diffusion (renhaa/semantic-diffusion): components and Jacobian subspaces of h."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from generators.peers.base import (
    SPACE_AXES,
    DirectionFormat,
    Entry,
    Peer,
    is_array,
    norm_of,
    of_axes,
)
from generators.unpickle.writer import torch_file
from schemas.directions.direction import Direction


class Components(DirectionFormat):
    """Principal components of all steps together and of each."""

    name = "h_pca"
    files = ".pt"
    contents = "dict: all, indv -> (components, singular values, scaled components)"
    not_of = frozenset(SPACE_AXES)

    def recognise(self, value: Any) -> bool:
        if not isinstance(value, dict) or set(value) != {"all", "indv"}:
            return False
        return all(isinstance(v, list | tuple) and len(v) == 3 for v in value.values())

    def read(self, value: Any, path: Path) -> list[Entry]:
        found = re.search(r"samples-(\d+)", path.name)
        n = int(found[1]) if found else 0
        entries = []
        for label, prefix in (("all", "pc"), ("indv", "step-pc")):
            # The third is scaled by the singular values, sqrt(n - 1) deviations, of each step.
            for i, vector in enumerate(value[label][2]):
                sd = norm_of(vector) / np.sqrt(n - 1) if n > 1 else None
                entries.append(Entry(f"{prefix}{i:03d}", vector, sd))
        return entries


class Jacobian(DirectionFormat):
    """Singular values and right singular vectors of the Jacobian at each step."""

    name = "h_jacobian"
    files = ".pt"
    contents = "list: singular values (k, steps), vectors (k, steps, c, h, w)"
    not_of = frozenset(SPACE_AXES)

    def recognise(self, value: Any) -> bool:
        if not isinstance(value, list | tuple) or len(value) != 2:
            return False
        values, vectors = value
        return is_array(values, 2) and is_array(vectors, 5) and vectors.shape[:2] == values.shape

    def read(self, value: Any, path: Path) -> list[Entry]:
        values, vectors = value
        scaled = vectors * values[:, :, None, None, None]
        norms = np.linalg.norm(scaled.reshape(len(scaled), -1).astype(np.float64), axis=1)
        return [
            Entry(f"jacobian{i:03d}", v, float(n), quality={"singular_values": s.tolist()})
            for i, (v, n, s) in enumerate(zip(scaled, norms, values, strict=True))
        ]

    def write(self, directions: Sequence[Direction], mean: np.ndarray | None) -> bytes:
        stack = np.stack([of_axes(d, 4, self.name) * d.sd for d in directions])
        norms = np.linalg.norm(stack.reshape(*stack.shape[:2], -1), axis=2)
        unit = stack / np.where(norms > 0, norms, 1.0)[:, :, None, None, None]
        return torch_file([norms.astype("<f4"), unit.astype("<f4")])


PLUGIN = Peer("semantic-diffusion", directions=(Components(), Jacobian()))
