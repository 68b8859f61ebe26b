"""Directions in other projects' files: InterFaceGAN boundaries and GANSpace component caches.

Files carry neither their generator nor (for boundaries) their space, so both are given by the
caller and kept as a claim. The standard deviation, the unit of an edit's strength, is measured on
codes of that generator wherever the file has none that can be trusted.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas import atomic
from schemas.direction import Direction, unit_direction
from schemas.errors import DirectionMismatchError, InputError
from schemas.fingerprint import file_sha256


def import_interfacegan(
    path: str | os.PathLike[str],
    *,
    space: str,
    generator_fp: str,
    codes: np.ndarray,
    name: str | None = None,
) -> Direction:
    """A boundary file: .npy of float (1, dim).

    space, generator_fp : what the boundary is for (a claim; z boundaries usually have no mark,
        w ones end in ``_w_boundary.npy``). codes : (n, dim), codes of that generator in that
        space, on which sd is measured. name : by default the file's, without ``_boundary``.

    Raises InputError when the file is something else.
    """
    path = Path(path)
    try:
        with open(path, "rb") as opened:
            vector = np.load(opened, allow_pickle=False)
    except (ValueError, EOFError, OSError) as e:
        raise InputError(
            f"{str(path)!r} is not a boundary file: {e}; expected a .npy of shape (1, dim)"
        ) from e
    if not isinstance(vector, np.ndarray) or vector.dtype.kind != "f" or vector.ndim != 2:
        raise InputError(f"{str(path)!r} holds {_shown(vector)}; expected a float (1, dim)")
    if len(vector) != 1:
        raise InputError(f"{str(path)!r} holds {_shown(vector)}; expected a single row, (1, dim)")
    return unit_direction(
        name or path.stem.removesuffix("_boundary"),
        space,
        vector[0],
        method="imported",
        codes=codes,
        provenance=_claim(path, generator_fp, "interfacegan"),
    )


def export_interfacegan(direction: Direction, path: str | os.PathLike[str]) -> None:
    """Write a direction of a space without layers as a boundary file: float64 (1, dim).

    Raises DirectionMismatchError for a direction with layers.
    """
    _check_flat(direction, "a boundary file")
    memory = io.BytesIO()
    np.save(memory, direction.vector[None].astype("<f8"), allow_pickle=False)
    atomic.write_bytes(path, memory.getvalue())


def import_ganspace(
    path: str | os.PathLike[str],
    *,
    space: str,
    generator_fp: str,
    prefix: str = "pc",
    codes: np.ndarray | None = None,
) -> list[Direction]:
    """The components of a GANSpace cache (.npz), as ``<prefix>000``, ``<prefix>001``, ...

    ``lat_comp`` float (k, 1, dim) are the vectors; they need not be unit or orthogonal. sd is
    ``lat_stdev`` (k,), the deviation of the file's own samples along the unit vector, or measured
    on ``codes`` (n, dim). ``var_ratio`` becomes quality["explained_variance_ratio"].

    Raises InputError when the file is something else.
    """
    path = Path(path)
    needed = ("lat_comp", "lat_stdev", "var_ratio")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            components, deviations, ratios = (np.asarray(file[key], np.float64) for key in needed)
    except (ValueError, EOFError, OSError, KeyError, TypeError, zipfile.BadZipFile) as e:
        raise InputError(
            f"{str(path)!r} is not a GANSpace cache: {e}; expected a .npz with {needed!r}"
        ) from e
    k = len(components) if components.ndim else 0
    if components.ndim != 3 or components.shape[1] != 1 or deviations.shape != (k,):
        raise InputError(
            f"{str(path)!r} has lat_comp {components.shape!r} and lat_stdev "
            f"{deviations.shape!r}; expected (k, 1, dim) and (k,)"
        )
    if ratios.shape != (k,):
        raise InputError(f"{str(path)!r} has var_ratio {ratios.shape!r}; expected ({k!r},)")
    claim = _claim(path, generator_fp, "ganspace")
    return [
        unit_direction(
            f"{prefix}{i:03d}",
            space,
            components[i, 0],
            method="imported",
            sd=float(deviations[i]) if codes is None else None,
            codes=codes,
            quality={"explained_variance_ratio": float(ratios[i])},
            provenance={**claim, "component": i},
        )
        for i in range(k)
    ]


def export_ganspace(
    directions: Sequence[Direction], mean: np.ndarray, path: str | os.PathLike[str]
) -> None:
    """Write directions of a space without layers as a GANSpace cache of that latent space.

    mean : (dim,), the mean code. ``var_ratio`` is taken from each direction's
    quality["explained_variance_ratio"], NaN where it has none; ``random_stdevs``, which only
    GANSpace's own plots read, is NaN. All float32, the same input gives the same bytes.

    Raises DirectionMismatchError for directions with layers or of different spaces.
    """
    for direction in directions:
        _check_flat(direction, "a GANSpace cache")
    spaces = sorted({direction.space for direction in directions})
    if len(spaces) != 1:
        raise DirectionMismatchError(
            f"a GANSpace cache holds directions of one space, got {spaces!r}; export each alone"
        )
    shape = directions[0].vector.shape
    if np.shape(mean) != shape or any(d.vector.shape != shape for d in directions):
        raise DirectionMismatchError(
            f"the mean has shape {np.shape(mean)!r}, directions have "
            f"{sorted({d.vector.shape for d in directions})!r}; give codes of one space"
        )
    components = np.stack([d.vector for d in directions])[:, None].astype("<f4")
    deviations = np.array([d.sd for d in directions], dtype="<f4")
    ratios = [d.quality.get("explained_variance_ratio", np.nan) for d in directions]
    center = np.asarray(mean, dtype="<f4")[None]
    memory = io.BytesIO()
    np.savez(
        memory,
        act_comp=components,
        act_mean=center,
        act_stdev=deviations,
        lat_comp=components,
        lat_mean=center,
        lat_stdev=deviations,
        var_ratio=np.array(ratios, dtype="<f4"),
        random_stdevs=np.full(len(directions), np.nan, dtype="<f4"),
    )
    atomic.write_bytes(path, memory.getvalue())


def _claim(path: Path, generator_fp: str, file_format: str) -> dict[str, Any]:
    return {
        "generator_fp": generator_fp,
        "claimed": True,
        "format": file_format,
        "source": path.name,
        "source_sha256": file_sha256(path),
    }


def _check_flat(direction: Direction, what: str) -> None:
    if direction.vector.ndim != 1:
        raise DirectionMismatchError(
            f"direction {direction.name!r} has shape {direction.vector.shape!r} and does not fit "
            f"into {what}, which holds one vector without layers; export a z or w direction"
        )


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name} {value.shape!r}"
    return f"a {type(value).__name__}"
