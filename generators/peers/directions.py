"""Directions in other projects' files: read any of them, write any of them.

Most files say neither generator nor space: both are the caller's claim, kept as such, and what a
file does say is compared with it. Files are recognised by their contents, so that any of .npy,
.npz, .pt, .pkl and .safetensors may hold any of the formats. Nothing in them is executed. The
formats are those of `generators.peers`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from generators.peers.base import SPACE_AXES, DirectionFormat, Entry
from generators.peers.catalog import direction_formats, only
from generators.unpickle.plain import read_foreign
from schemas.atomic import write_bytes
from schemas.directions.direction import Direction, unit_direction
from schemas.errors import DirectionMismatchError, InputError, UsageError
from schemas.fingerprint import file_sha256
from schemas.names import safe_name, safe_names

MAX_DIRECTIONS = 4096
"""Of one file."""
_SAYS_NOTHING = re.compile(
    r"|((latent|edit|w_?plus|wp|w|z|unit)[_-]?)?(boundary|boundaries|directions?|vectors?|normals?|axis)"
    r"|latents?|delta|data|array|tensor|arr_\d+|weights?|coef_?|z|w|wp|w_plus",
    re.IGNORECASE,
)
"""Names of files and keys that any direction could have."""
_CURE = (
    "save real numbers of shape (dim,) or (layers, dim), alone in a .npy or .pt, or several by "
    "name in a .npz"
)
_ELSEWHERE = (
    "import it into a run of the generator that it was made for, and map it from there with "
    "'latentflow transfer OLD_RUN NEW_RUN -d NAME'"
)


def read_directions(
    path: str | os.PathLike[str],
    *,
    space: str,
    generator_fp: str,
    made_in: str | None = None,
    codes: np.ndarray | None = None,
    sd: float | None = None,
    row_shape: Sequence[int] | None = None,
    name: str | None = None,
    file_format: str | None = None,
) -> list[Direction]:
    """The directions in a file of any known format.

    space, generator_fp : what they are for, a claim of the caller.
    made_in : the space of the file's vectors where that is another, whose code each layer of
        `space` repeats (w, of w_plus).
    codes : (n, *row_shape), codes of that generator in that space, on which sd is measured.
    sd : of every direction, instead. Without either it is the peer's own unit of strength, where
        the file has one.
    row_shape : of the space, by default that of the codes or of the file's vectors. A vector
        (dim,) for a space (L, dim) is used in every layer, or in those that the file names; a flat
        one of L dim values is folded; axes of length 1 come and go.
    name : of a single direction, or the prefix of several ("<name>.<name in the file>"). By
        default a lone vector has its file's name, or its folder's where the file is called
        "boundary", "direction" or the like. Other texts become names by `schemas.names`, and the
        provenance keeps them as ``name_in_file``.
    file_format : the format's name, for contents that several formats, or none, would claim.

    Raises InputError for files of another kind and for vectors that are no directions, UsageError
    where sd cannot be known, DirectionMismatchError for vectors that do not fit the space, and
    where the file itself names another space or generator.
    """
    path = Path(path)
    chosen, entries = recognise(read_foreign(path), path, space, file_format)
    if len(entries) > MAX_DIRECTIONS:
        raise InputError(
            f"{str(path)!r} holds {len(entries)!r} vectors, more than {MAX_DIRECTIONS!r}: save "
            "those that are needed in a file of their own"
        )
    if codes is not None:
        row_shape = np.shape(codes)[1:]
    claim = {
        "generator_fp": generator_fp,
        "claimed": True,
        "format": chosen.name,
        "source": path.name,
        "source_sha256": file_sha256(path),
    }
    found = []
    for i, (entry, label) in enumerate(zip(entries, _labels(entries, path, name), strict=True)):
        _check_claim(entry, path, made_in or space, space, generator_fp)
        if sd is not None:
            entry = dataclasses.replace(entry, sd=sd)
        facts = {**claim, "component": i}
        if entry.name not in ("", label):
            facts["name_in_file"] = entry.name
        direction = _direction(entry, label, space, made_in or space, codes, row_shape, facts)
        found.append(direction if sd is None else dataclasses.replace(direction, sd=sd))
    return found


def recognise(
    value: Any, path: Path, space: str, file_format: str | None = None
) -> tuple[DirectionFormat, list[Entry]]:
    """The format that a file's contents have, and the vectors in them.

    file_format : the only one to be asked.

    Raises InputError for contents that no format has, or several have.
    """
    formats = direction_formats(space if file_format is None else None)
    chosen, inner = only(value, str(path), formats, file_format, _CURE)
    return chosen, entries_of(chosen, inner, path)


def entries_of(chosen: DirectionFormat, value: Any, path: Path) -> list[Entry]:
    """The vectors in contents that a format claims. Raises InputError where it cannot read them."""
    try:
        return chosen.read(value, path)
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise InputError(
            f"{str(path)!r} has the layout {chosen.name!r}, but cannot be read as one ({e!r}): "
            "save its vectors alone, in a .npy or .npz"
        ) from e


def _labels(entries: Sequence[Entry], path: Path, name: str | None) -> list[str]:
    """Names of the entries' directions, all different."""
    own = path.stem.removesuffix("_boundary")
    folder = path.absolute().parent.name
    if _SAYS_NOTHING.fullmatch(own) and not _SAYS_NOTHING.fullmatch(folder):
        own = folder
    if len(entries) == 1:
        text = entries[0].name
        return [name or safe_name(own if _SAYS_NOTHING.fullmatch(text) else text)]
    texts = [
        f"{own}.{e.name}".rstrip(".") if _SAYS_NOTHING.fullmatch(e.name) else e.name
        for e in entries
    ]
    return [label if name is None else f"{name}.{label}" for label in safe_names(texts)]


def _check_claim(entry: Entry, path: Path, made_in: str, space: str, generator_fp: str) -> None:
    """Raise DirectionMismatchError for a claim that the file itself denies."""
    if entry.generator_fp not in (None, generator_fp):
        raise DirectionMismatchError(
            f"{str(path)!r} says that its directions were made for generator "
            f"{entry.generator_fp!r}, the one claimed is {generator_fp!r}: {_ELSEWHERE}"
        )
    if entry.space not in (None, made_in, "w" if space == "w_plus" else None):
        cure = f"claim {entry.space!r}" if entry.space == space else other_space(entry.space)
        raise DirectionMismatchError(
            f"{str(path)!r} says that its directions were made in space {entry.space!r}, the one "
            f"claimed is {made_in!r}: {cure}"
        )


def other_space(space: str) -> str:
    """What can be done with a direction of a space that the run's analyses do not read."""
    return f"import it into a run whose analyses read space {space!r}"


def _direction(
    entry: Entry,
    label: str,
    space: str,
    made_in: str,
    codes: np.ndarray | None,
    row_shape: Sequence[int] | None,
    claim: dict[str, Any],
) -> Direction:
    given = np.asarray(entry.vector, np.float64)
    what = f"direction {entry.name or label!r} of {claim['source']!r}, shape {given.shape!r},"
    if not np.isfinite(given).all() or not given.any():
        wrong = "is zero" if np.isfinite(given).all() else "holds NaN or infinity"
        raise InputError(f"{what} {wrong}: make the file again, right or without it")
    shape = given.shape if row_shape is None else tuple(int(size) for size in row_shape)
    axes = SPACE_AXES.get(space, len(shape))
    vector, sd = _folded(given, shape), entry.sd
    layers = _layers(entry.layers, shape, what, space)
    if vector is not None and made_in != space and len(shape) == 2:
        raise DirectionMismatchError(
            f"{what} has layers, codes of space {made_in!r} have none: claim space {space!r} for it"
        )
    if vector is None and len(shape) == 2 and _longer(given.shape) == _longer(shape[1:]):
        vector = np.zeros(shape)
        vector[:] = given.reshape(-1)
        claim = {**claim, "broadcast_from": made_in if made_in != space else "w"}
        sd = None if sd is None else sd * math.sqrt(shape[0] if layers is None else len(layers))
    if vector is None or len(shape) != axes:
        raise DirectionMismatchError(f"{what} {_misfit(given.shape, shape, space)}")
    if layers is not None and not vector[layers].any():
        raise InputError(f"{what} is zero in its layers {layers!r}: leave it out")
    if codes is None and sd is None:
        raise UsageError(
            f"{claim['source']!r} does not say how strong an edit along {label!r} is: give codes "
            "of the generator to measure the standard deviation on"
        )
    return unit_direction(
        label,
        space,
        vector,
        method="imported",
        sd=sd if codes is None else None,
        codes=codes,
        layers=layers,
        quality=entry.quality,
        provenance=claim,
    )


def _longer(shape: Sequence[int]) -> tuple[int, ...]:
    """The axes that are longer than 1."""
    return tuple(int(size) for size in shape if size != 1)


def _folded(vector: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """The vector as one code of this shape: axes of length 1 come and go, a flat one is folded."""
    lengths = _longer(vector.shape)
    if lengths != _longer(shape) and lengths != (math.prod(shape),):
        return None
    return vector.reshape(shape)


def _layers(
    layers: list[int] | None, shape: tuple[int, ...], what: str, space: str
) -> list[int] | None:
    """Layers that the file names, None for all of them."""
    if layers is None:
        return None
    if len(shape) != 2:
        raise DirectionMismatchError(
            f"{what} is for layers {layers!r}, codes of space {space!r} have none: "
            f"{other_space('w_plus')}"
        )
    if not layers or min(layers) < 0 or max(layers) >= shape[0]:
        raise DirectionMismatchError(
            f"{what} is for layers {layers!r}, codes of space {space!r} have {shape[0]!r}: "
            f"{_ELSEWHERE}"
        )
    return None if layers == list(range(shape[0])) else layers


def _misfit(given: tuple[int, ...], shape: tuple[int, ...], space: str) -> str:
    """Why a vector is no code of the space, and what can be done."""
    found, wanted = _longer(given), _longer(shape)
    axes = SPACE_AXES.get(space)
    if axes not in (None, len(shape)):
        return f"does not fit space {space!r}, whose codes have {axes!r} axes: name its own space"
    cause = f"is no code of space {space!r}, which has shape {shape!r}"
    if len(found) > 1 and sorted(found) == sorted(wanted):
        return f"{cause}: its axes are in another order, save it transposed"
    apart = "save each row by its name, as numpy.savez('x.npz', smile=row) does"
    if found[1:] == wanted and len(wanted) == 2:
        return f"{cause}: it holds {found[0]!r}; if they are directions, {apart}"
    if axes is not None and len(found) != 1 and len(found) != 2:
        return f"{cause}: it is something else than a direction, such as a network's weights"
    if len(found) == 2 and found[1] == shape[-1] and len(shape) <= 2:
        if len(shape) == 1:
            other = other_space("w_plus")
            return f"{cause}: if its rows are layers, {other}; if they are directions, {apart}"
        return (
            f"{cause}: if its rows are the layers of another generator, {_ELSEWHERE}; if they are "
            f"directions, {apart}"
        )
    return f"{cause}, so it was made for another generator or space: {_ELSEWHERE}"


def write_directions(
    directions: Sequence[Direction],
    path: str | os.PathLike[str],
    file_format: str,
    *,
    mean: np.ndarray | None = None,
) -> None:
    """Write directions in a peer's format, atomically; the same input gives the same bytes.

    mean : (dim,), the mean code, for the formats of principal components.
    Files keep vectors in float32, interfacegan's in float64.

    Raises UsageError for an unknown format or no directions, DirectionMismatchError for directions
    of several generators or that the format cannot hold.
    """
    formats = {name: each for name, each in direction_formats().items() if each.writes}
    if file_format not in formats:
        raise UsageError(
            f"format {file_format!r} cannot be written: use one of {sorted(formats)!r}"
        )
    if not directions:
        raise UsageError(f"there are no directions to write as {file_format!r}: name some")
    made_for = sorted({str(d.provenance.get("generator_fp")) for d in directions})
    if len(made_for) > 1:
        raise DirectionMismatchError(
            f"directions to write as {file_format!r} were made for generators {made_for!r}, and "
            "the file cannot say which is whose; write those of one generator a file"
        )
    write_bytes(Path(path), formats[file_format].write(directions, mean))
