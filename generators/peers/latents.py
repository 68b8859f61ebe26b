"""Codes in other projects' files: read any of them, write any of them.

Such files say neither whose codes they are (but for names of images in some) nor of which
generator: both are the caller's to know. They are recognised by their contents, and nothing in
them is executed. The formats are those of `generators.peers`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from generators.peers.base import Codes
from generators.peers.catalog import latent_formats, only
from generators.unpickle.plain import read_foreign
from schemas.atomic import replacing
from schemas.errors import DirectionMismatchError, InputError, UsageError

_CURE = "save the codes as one array (n, dim) or (n, layers, dim) in a .npy or .pt"


def read_latents(
    path: str | os.PathLike[str],
    *,
    space: str,
    row_shape: Sequence[int] | None = None,
    file_format: str | None = None,
) -> Codes:
    """The codes in a file of any known format, float32 (n, *row_shape).

    space : that they are of, a claim of the caller.
    row_shape : of the space, which the codes must have; a code without the axis of rows is one row.
    file_format : the format's name, for contents that several formats, or none, would claim.

    Raises InputError for files of another kind and codes that are not finite,
    DirectionMismatchError for codes of another shape.
    """
    path = Path(path)
    chosen, value = only(read_foreign(path), str(path), latent_formats(), file_format, _CURE)
    try:
        values, names = chosen.read(value, path)
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{str(path)!r} cannot be read as {chosen.name!r} ({e!r}): {_CURE}") from e
    if row_shape is not None:
        shape = tuple(int(size) for size in row_shape)
        if values.shape[1:] != shape:
            raise DirectionMismatchError(
                f"{str(path)!r} holds codes of shape {values.shape!r}, those of space {space!r} "
                f"are (n, {', '.join(map(str, shape))}): they are of another space or generator"
            )
    if not values.size or not np.isfinite(values).all():
        wrong = "NaN or infinity" if values.size else "no codes"
        raise InputError(f"{str(path)!r} holds {wrong}: make the file again")
    return Codes.of(values, space, names)


def write_latents(
    codes: Codes | np.ndarray,
    path: str | os.PathLike[str],
    file_format: str,
    *,
    space: str = "w_plus",
    names: Sequence[str] | None = None,
) -> None:
    """Write codes in a peer's format, atomically; the same input gives the same bytes.

    codes : (n, ...), or what gives them chunk by chunk. space, names : of an array; the names are
        those of the images, for formats that keep them.

    Raises UsageError for an unknown format, and for a space or codes that it has no file for.
    """
    given = codes if isinstance(codes, Codes) else Codes.of(codes, space, names)
    formats = {name: each for name, each in latent_formats().items() if each.files}
    if file_format not in formats:
        raise UsageError(
            f"format {file_format!r} cannot be written: use one of {sorted(formats)!r}"
        )
    chosen = formats[file_format]
    if given.space not in chosen.files:
        raise UsageError(
            f"the codes are of space {given.space!r}, files of format {file_format!r} hold "
            f"{list(chosen.files)!r}"
        )
    if not math.prod(given.shape):
        raise UsageError(f"there are no codes to write as {file_format!r}")
    with replacing(path) as file:
        chosen.write(file, given)
