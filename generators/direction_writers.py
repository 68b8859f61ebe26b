"""Directions written as other projects' files; the formats are those of `direction_files`."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from generators.direction_formats import EXPRESSIONS
from generators.unpickle.writer import object_npy, pickle_file, torch_file
from schemas.atomic import write_bytes
from schemas.directions.direction import Direction
from schemas.errors import DirectionMismatchError, UsageError

Many = Sequence[Direction]


def _of_axes(direction: Direction, axes: int, what: str) -> np.ndarray:
    """The vector, which must have this many axes: 1, 2 (layers) or 4 (steps of h)."""
    if direction.vector.ndim != axes:
        fits = {1: "'interfacegan' or 'anycost'", 2: "'e4e' or 'idinvert'", 4: "'h_jacobian'"}
        raise DirectionMismatchError(
            f"direction {direction.name!r} has shape {direction.vector.shape!r} and does not fit "
            f"into a file of format {what!r}, whose vectors have {axes!r} axes; use "
            f"{fits.get(direction.vector.ndim, 'DirectionSet.save')}"
        )
    return direction.vector


def _flat(direction: Direction, what: str) -> np.ndarray:
    return _of_axes(direction, 1, what)


def _one(directions: Many, what: str) -> Direction:
    if len(directions) != 1:
        raise UsageError(
            f"a file of format {what!r} holds one direction, not {len(directions)!r}: write each "
            "into a file of its own"
        )
    return directions[0]


def _interfacegan(directions: Many, mean: np.ndarray | None) -> bytes:
    vector = _flat(_one(directions, "interfacegan"), "interfacegan")
    memory = io.BytesIO()
    np.save(memory, vector[None].astype("<f8"), allow_pickle=False)
    return memory.getvalue()


def _idinvert(directions: Many, mean: np.ndarray | None) -> bytes:
    direction = _one(directions, "idinvert")
    vector = _of_axes(direction, 2, "idinvert")
    meta = {"manipulate_layers": direction.layers, "space": direction.space, "sd": direction.sd}
    return object_npy({"boundary": vector[None].astype("<f4"), "meta_data": meta})


def _e4e(directions: Many, mean: np.ndarray | None) -> bytes:
    direction = _one(directions, "e4e")
    vector = _of_axes(direction, min(direction.vector.ndim, 2), "e4e")
    return torch_file(vector[None].astype("<f4"))


def _anycost(directions: Many, mean: np.ndarray | None) -> bytes:
    return torch_file({d.name: _flat(d, "anycost")[None].astype("<f4") for d in directions})


def _centre(directions: Many, mean: np.ndarray | None, what: str) -> tuple[np.ndarray, np.ndarray]:
    """(components float32 (k, 1, dim), mean float32 (1, dim)) of directions of one space."""
    vectors = [_flat(d, what) for d in directions]
    shapes, own = {v.shape for v in vectors}, () if mean is None else mean.shape
    if len({d.space for d in directions}) > 1 or shapes != {own}:
        raise DirectionMismatchError(
            f"directions have spaces {sorted({d.space for d in directions})!r} and shapes "
            f"{sorted(shapes)!r}, the mean {own!r}: format {what!r} needs one space and "
            "the mean code of it"
        )
    return np.stack(vectors)[:, None].astype("<f4"), np.asarray(mean, "<f4")[None]


def _ganspace(directions: Many, mean: np.ndarray | None) -> bytes:
    components, center = _centre(directions, mean, "ganspace")
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


def _ganspace_direction(directions: Many, mean: np.ndarray | None) -> bytes:
    direction = _one(directions, "ganspace_direction")
    sd, layers = direction.sd, direction.layers
    vector = _of_axes(direction, min(direction.vector.ndim, 2), "ganspace_direction")
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


def _ganspace_pca(directions: Many, mean: np.ndarray | None) -> bytes:
    components, center = _centre(directions, mean, "ganspace_pca")
    deviations = np.array([d.sd for d in directions], "<f4")
    return torch_file({"comp": components, "mean": center, "std": deviations})


def _sefa(directions: Many, mean: np.ndarray | None) -> bytes:
    vectors = np.stack([_flat(d, "sefa") for d in directions], axis=1)
    return torch_file({"ckpt": "", "eigvec": vectors.astype("<f4")})


def _tensorgan(directions: Many, mean: np.ndarray | None) -> bytes:
    scaled = []
    for wanted in (*EXPRESSIONS, "rotation"):
        found = [d for d in directions if d.name.rpartition(".")[2] == wanted]
        if len(found) != 1:
            raise UsageError(
                f"a file of format 'tensorgan' holds one direction each of "
                f"{[*EXPRESSIONS, 'rotation']!r}, named so up to a prefix; for {wanted!r} there "
                f"are {[d.name for d in found]!r}: choose the seven, or use 'e4e'"
            )
        scaled.append((found[0].vector * found[0].sd).ravel().astype("<f4"))
    return torch_file([scaled[:-1], scaled[-1]])


def _steps(directions: Many, what: str) -> np.ndarray:
    return np.stack([_of_axes(d, 4, what) * d.sd for d in directions])


def _asyrp(directions: Many, mean: np.ndarray | None) -> bytes:
    direction = _one(directions, "asyrp")
    (stack,) = _steps(directions, "asyrp")
    steps = direction.quality.get("timesteps", list(range(len(stack) - 1, -1, -1)))
    return torch_file({str(t): v.astype("<f4") for t, v in zip(steps, stack, strict=True)})


def _h_jacobian(directions: Many, mean: np.ndarray | None) -> bytes:
    stack = _steps(directions, "h_jacobian")
    norms = np.linalg.norm(stack.reshape(*stack.shape[:2], -1), axis=2)
    unit = stack / np.where(norms > 0, norms, 1.0)[:, :, None, None, None]
    return torch_file([norms.astype("<f4"), unit.astype("<f4")])


WRITERS: dict[str, Callable[[Many, np.ndarray | None], bytes]] = {
    "interfacegan": _interfacegan,
    "idinvert": _idinvert,
    "e4e": _e4e,
    "anycost": _anycost,
    "ganspace": _ganspace,
    "ganspace_direction": _ganspace_direction,
    "ganspace_pca": _ganspace_pca,
    "sefa": _sefa,
    "tensorgan": _tensorgan,
    "asyrp": _asyrp,
    "h_jacobian": _h_jacobian,
}
SUFFIXES = {
    "interfacegan": "_boundary.npy",
    "idinvert": ".npy",
    "e4e": ".pt",
    "ganspace_direction": ".pkl",
    "asyrp": ".pth",
}
"""File name endings of the formats that hold one direction a file."""


def write_directions(
    directions: Many,
    path: str | os.PathLike[str],
    file_format: str,
    *,
    mean: np.ndarray | None = None,
) -> None:
    """Write directions in a peer's format, atomically; the same input gives the same bytes.

    mean : (dim,), the mean code, for the two formats of principal components.
    Files keep vectors in float32, interfacegan's in float64.

    Raises UsageError for an unknown format or no directions, DirectionMismatchError for directions
    of several generators or that the format cannot hold.
    """
    if file_format not in WRITERS:
        raise UsageError(
            f"format {file_format!r} cannot be written: use one of {sorted(WRITERS)!r}"
        )
    if not directions:
        raise UsageError(f"there are no directions to write as {file_format!r}: name some")
    made_for = sorted({str(d.provenance.get("generator_fp")) for d in directions})
    if len(made_for) > 1:
        raise DirectionMismatchError(
            f"directions to write as {file_format!r} were made for generators {made_for!r}, and "
            "the file cannot say which is whose; write those of one generator a file"
        )
    write_bytes(Path(path), WRITERS[file_format](directions, mean))
