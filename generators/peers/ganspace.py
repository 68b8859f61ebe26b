"""GANSpace (harskish/ganspace): its cache of components, its exported directions, and the
components that e4e ships."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from generators.peers.base import (
    DirectionFormat,
    Entry,
    Peer,
    has_arrays,
    of_axes,
    one_of,
    space_of,
)
from generators.unpickle.writer import pickle_file, torch_file
from schemas.directions.direction import Direction
from schemas.errors import DirectionMismatchError

MAX_LAYERS = 1 << 10


class Cache(DirectionFormat):
    """The components of one decomposition."""

    name = "ganspace"
    files = ".npz"
    contents = "lat_comp (k, 1, dim), lat_stdev, var_ratio, ..."
    mean = True

    def recognise(self, value: Any) -> bool:
        if not has_arrays(value, lat_comp=3, lat_stdev=1, var_ratio=1):
            return False
        components, deviations, ratios = (value[k] for k in ("lat_comp", "lat_stdev", "var_ratio"))
        return components.shape[1] == 1 and len(components) == len(deviations) == len(ratios)

    def read(self, value: Any, path: Path) -> list[Entry]:
        ratios = value["var_ratio"]
        known = [{"explained_variance_ratio": float(r)} if np.isfinite(r) else {} for r in ratios]
        parts = zip(value["lat_comp"], value["lat_stdev"], known, strict=True)
        return [Entry(f"pc{i:03d}", v[0], float(s), quality=q) for i, (v, s, q) in enumerate(parts)]

    def write(self, directions: Sequence[Direction], mean: np.ndarray | None) -> bytes:
        components, center = _centred(directions, mean, self.name)
        deviations = np.array([d.sd for d in directions], "<f4")
        ratios = [d.quality.get("explained_variance_ratio", np.nan) for d in directions]
        memory = io.BytesIO()
        np.savez(
            memory,
            act_comp=components,
            act_mean=center,
            act_stdev=deviations,
            lat_comp=components,
            lat_mean=center,
            lat_stdev=deviations,
            var_ratio=np.array(ratios, "<f4"),
            random_stdevs=np.full(len(directions), np.nan, "<f4"),  # read by its own plots only
        )
        return memory.getvalue()


class Exported(DirectionFormat):
    """One direction as its viewer exports it, over a range of layers."""

    name = "ganspace_direction"
    files = ".pkl"
    contents = "dict: lat_comp, lat_stdev, edit_start, edit_end (exclusive), ..."
    suffix = ".pkl"

    def recognise(self, value: Any) -> bool:
        known = has_arrays(value, lat_comp=2) and "edit_end" in value
        return known and len(value["lat_comp"]) == 1

    def read(self, value: Any, path: Path) -> list[Entry]:
        first, end = int(value["edit_start"]), int(value["edit_end"])
        if not 0 <= first <= end <= MAX_LAYERS:
            raise ValueError(f"'edit_start' is {first!r}, 'edit_end' {end!r}")
        kept = ("component_index", "latent_space", "model_name", "output_class", "truncation")
        quality = {k: value[k] for k in kept if isinstance(value.get(k), str | int | float)}
        name, sd = str(value.get("name", "")), float(np.asarray(value["lat_stdev"]))
        layers, space = list(range(first, end)) or None, space_of(value.get("latent_space"))
        return [Entry(name, value["lat_comp"][0], sd, layers, quality, space)]

    def write(self, directions: Sequence[Direction], mean: np.ndarray | None) -> bytes:
        direction = one_of(directions, self.name)
        sd, layers = direction.sd, direction.layers
        vector = of_axes(direction, min(len(direction.shape), 2), self.name)
        if vector.ndim == 2:
            layers = list(range(len(vector))) if layers is None else layers
            same = np.array_equal(layers, range(layers[0], layers[-1] + 1))
            if not same or not np.allclose(vector[layers], vector[layers[0]], atol=1e-12):
                raise DirectionMismatchError(
                    f"direction {direction.name!r} is not one w vector over a range of layers, as "
                    "'ganspace_direction' has it; use 'e4e'"
                )
            vector, sd = vector[layers[0]] * np.sqrt(len(layers)), sd / np.sqrt(len(layers))
        component = vector[None].astype("<f4")
        start, end = (0, 0) if layers is None else (layers[0], layers[-1] + 1)
        return pickle_file(
            {
                "name": direction.name,
                "sigma_range": 2.0,
                "component_index": int(direction.provenance.get("component", 0)),
                "act_comp": component,
                "lat_comp": component,
                "latent_space": "Z" if direction.space == "z" else "W",
                "act_stdev": sd,
                "lat_stdev": sd,
                "model_name": "",
                "output_class": "",
                "decomposition": {},
                "edit_type": "latent",
                "truncation": 1.0,
                "edit_start": start,
                "edit_end": end,
                "example_seed": 0,
            }
        )


class Shipped(DirectionFormat):
    """The components that e4e edits with."""

    name = "ganspace_pca"
    files = ".pt"
    contents = "dict: comp (k, 1, dim), mean (1, dim), std (k,); rows are not unit vectors"
    mean = True

    def recognise(self, value: Any) -> bool:
        return has_arrays(value, comp=3, mean=2, std=1) and len(value["comp"]) == len(value["std"])

    def read(self, value: Any, path: Path) -> list[Entry]:
        entries = []
        for i, (row, std) in enumerate(zip(value["comp"], value["std"], strict=True)):
            norm = float(np.linalg.norm(row))
            # The peer moves by strength * std * comp, with comp not of unit length.
            entries.append(Entry(f"pc{i:03d}", row[0], float(std) * norm, quality={"norm": norm}))
        return entries

    def write(self, directions: Sequence[Direction], mean: np.ndarray | None) -> bytes:
        components, center = _centred(directions, mean, self.name)
        deviations = np.array([d.sd for d in directions], "<f4")
        return torch_file({"comp": components, "mean": center, "std": deviations})


def _centred(
    directions: Sequence[Direction], mean: np.ndarray | None, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """(components float32 (k, 1, dim), mean float32 (1, dim)) of directions of one space."""
    vectors = [of_axes(d, 1, what) for d in directions]
    shapes, own = {v.shape for v in vectors}, () if mean is None else mean.shape
    if len({d.space for d in directions}) > 1 or shapes != {own}:
        raise DirectionMismatchError(
            f"directions have spaces {sorted({d.space for d in directions})!r} and shapes "
            f"{sorted(shapes)!r}, the mean {own!r}: format {what!r} needs one space and "
            "the mean code of it"
        )
    return np.stack(vectors)[:, None].astype("<f4"), np.asarray(mean, "<f4")[None]


PLUGIN = Peer("GANSpace", directions=(Cache(), Exported(), Shipped()))
