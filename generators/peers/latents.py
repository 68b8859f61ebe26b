"""Codes in other projects' files: read any of them, write any of them.

Such files say neither whose codes they are (but for names of images in some) nor of which
generator: both are the caller's to know. They are recognised by their contents, and nothing in
them is executed. The formats are those of `generators.peers`.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from generators.peers.base import Codes
from generators.peers.catalog import latent_formats, only
from generators.unpickle.plain import read_foreign
from schemas.atomic import replacing
from schemas.errors import DirectionMismatchError, InputError, UsageError

_CURE = "save the codes as one array (n, dim) or (n, layers, dim) in a .npy or .pt"
_ENDINGS = (".npy", ".npz", ".pt", ".pth", ".pkl", ".safetensors")
NAME_COLUMNS = ("uri", "path", "file", "file_name", "filename", "image")
CODE_COLUMN = "code"


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
    values, names = _read(Path(path), space, row_shape, file_format)
    if not np.isfinite(values).all():
        raise InputError(f"{str(path)!r} holds NaN or infinity: make the file again")
    return Codes.of(values, space, names)


def _read(
    path: Path, space: str, row_shape: Sequence[int] | None, file_format: str | None
) -> tuple[np.ndarray, list[str] | None]:
    """See `read_latents`; the values may not be finite."""
    chosen, value = only(read_foreign(path), str(path), latent_formats(), file_format, _CURE)
    try:
        values, names = chosen.read(value, path)
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{str(path)!r} cannot be read as {chosen.name!r} ({e!r}): {_CURE}") from e
    if row_shape is not None:
        shape = tuple(int(size) for size in row_shape)
        if values.shape == shape and names is None:
            values = values[None]
        if values.shape[1:] != shape:
            raise DirectionMismatchError(
                f"{str(path)!r} holds codes of shape {values.shape!r}, those of space {space!r} "
                f"are (n, {', '.join(map(str, shape))}): they are of another space or generator"
            )
    if not values.size:
        raise InputError(f"{str(path)!r} holds no codes: make the file again")
    return values.astype("<f4", copy=False), names


# ---- codes of many images ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ForeignCodes:
    """Codes of many images, as another project left them; make one with `open_latents`.

    path : of a file of all of them, or of a folder. names : of the images, in the order of the
    codes; None where nobody says. space, row_shape : of the codes.
    """

    path: Path
    names: list[str] | None
    space: str
    row_shape: tuple[int, ...]
    file_format: str | None
    _values: np.ndarray | None
    _files: list[Path]

    def __len__(self) -> int:
        return len(self._files) if self._values is None else len(self._values)

    def __getitem__(self, entries: Sequence[int]) -> np.ndarray:
        """float32 (m, *row_shape): codes by their numbers, as they are: perhaps not finite.

        Raises the errors of `read_latents`, and InputError for a file of several codes where each
        image should have its own.
        """
        if self._values is not None:
            return self._values[np.asarray(entries, np.int64)]
        found = np.empty((len(entries), *self.row_shape), np.float32)
        for at, entry in enumerate(entries):
            file = self._files[entry]
            values, _ = _read(file, self.space, self.row_shape, self.file_format)
            if len(values) != 1:
                raise InputError(
                    f"{str(file)!r} holds {len(values)!r} codes, and in a folder every image has a "
                    "file of its own: name that file, or a folder without it"
                )
            found[at] = values[0]
        return found


def open_latents(
    path: str | os.PathLike[str],
    *,
    space: str,
    row_shape: Sequence[int],
    file_format: str | None = None,
    names: str | os.PathLike[str] | None = None,
) -> ForeignCodes:
    """Codes of many images: in one file, which is read at once, or one file an image below a
    folder, read when they are asked for.

    names : file with the images' names. Of a file of codes that has none: a text with one a line
        (idinvert's image_list.txt), a .json list, or a table (.csv, .tsv) with a column of
        `NAME_COLUMNS` (an export's rows.csv), in the order of the codes. Of a folder: a table with
        a column "code", too, the file of each. Without it files of a folder are named after their
        images, or where all are called alike ("0.pt") their folders are.

    Raises the errors of `read_latents`, and InputError for names that do not fit the codes, or two
    codes of one image.
    """
    path, shape = Path(path), tuple(int(size) for size in row_shape)
    files: list[Path] = []
    known: list[str] | None
    if path.is_dir():
        files = _code_files(path)
        values, known = None, _names_of(path, files)
        if names is not None:
            known = _renamed(known, [f.relative_to(path) for f in files], Path(names))
    else:
        values, known = _read(path, space, shape, file_format)
        if names is not None:
            if known is not None:
                raise InputError(
                    f"{str(path)!r} names its images itself, such as {known[0]!r}: leave "
                    f"{str(names)!r} out"
                )
            known = _listed(Path(names))
            if len(known) != len(values):
                raise InputError(
                    f"{str(names)!r} has {len(known)!r} names, {str(path)!r} has {len(values)!r} "
                    "codes: give the list that the codes were made from"
                )
    if known is not None and len(set(known)) < len(known):
        again, often = Counter(known).most_common(1)[0]
        raise InputError(
            f"{str(names or path)!r} has {len(known)!r} codes for {len(set(known))!r} images, such "
            f"as {often!r} for {again!r}: keep one of each"
        )
    return ForeignCodes(path, known, space, shape, file_format, values, files)


def _code_files(folder: Path) -> list[Path]:
    found = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(_ENDINGS) and not name.startswith(".")
    )
    if not found:
        raise InputError(
            f"folder {str(folder)!r} holds no file of codes, which end in {list(_ENDINGS)!r}: name "
            "the folder that has them"
        )
    return found


def _names_of(folder: Path, files: Sequence[Path]) -> list[str]:
    inside = [PurePosixPath(file.relative_to(folder).as_posix()) for file in files]
    alike = len({path.name for path in inside}) == 1 and all(len(p.parts) > 1 for p in inside)
    return [str(path.parent if alike else path.with_suffix("")) for path in inside]


def _renamed(known: Sequence[str], files: Sequence[Path], table: Path) -> list[str]:
    """The names that a table gives the files of a folder."""
    columns = _table(table)
    if CODE_COLUMN not in columns:
        raise InputError(
            f"{str(table)!r} has the columns {list(columns)!r}: of a folder it must say in "
            f"{CODE_COLUMN!r} which file an image's code is in"
        )
    given = dict(zip(columns[CODE_COLUMN], _name_column(columns, table), strict=True))
    found = []
    for name, file in zip(known, files, strict=True):
        keys = (file.as_posix(), name, file.name)
        key = next((key for key in keys if key in given), None)
        if key is None:
            raise InputError(
                f"{str(table)!r} names {len(given)!r} of {len(files)!r} files of codes, and not "
                f"{file.as_posix()!r}: add it, or move it away"
            )
        found.append(given[key])
    return found


def _listed(path: Path) -> list[str]:
    """The names in a list of images, see `open_latents`."""
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        return _name_column(_table(path), path)
    text = _text(path)
    if ending == ".json":
        try:
            names = json.loads(text)
        except ValueError as e:
            raise InputError(f"{str(path)!r} is no JSON: {e}") from e
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{str(path)!r} holds no list of texts: write the images' names")
        return names
    return [line.strip() for line in text.splitlines() if line.strip()]


def _name_column(columns: dict[str, list[str]], path: Path) -> list[str]:
    name = next((name for name in NAME_COLUMNS if name in columns), None)
    if name is None:
        raise InputError(
            f"{str(path)!r} has the columns {list(columns)!r}, and none of {NAME_COLUMNS!r}: call "
            "the one that names the images so"
        )
    return columns[name]


def _table(path: Path) -> dict[str, list[str]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = list(csv.reader(_text(path).splitlines(), delimiter=delimiter))
    head, rows = (rows[0], [row for row in rows[1:] if row]) if rows else ([], [])
    wrong = next((i for i, row in enumerate(rows) if len(row) != len(head)), None)
    if wrong is not None:
        raise InputError(
            f"row {wrong + 1!r} of {str(path)!r} has {len(rows[wrong])!r} cells, the head has "
            f"{len(head)!r}: repair the table"
        )
    return {name.strip(): [row[at].strip() for row in rows] for at, name in enumerate(head)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{str(path)!r} cannot be read as text: {e}") from e


# ---- writing -------------------------------------------------------------------------------------


def write_latents(
    codes: Codes | np.ndarray,
    path: str | os.PathLike[str],
    file_format: str,
    *,
    space: str = "w_plus",
    names: Sequence[str] | None = None,
) -> None:
    """Write codes in a peer's format, atomically; the same input gives the same bytes.

    codes : (n, ...), or what gives them chunk by chunk; n is 1 for formats of one file an image.
    space, names : of an array; the names are those of the images, for formats that keep them.

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
    if chosen.one_a_file and given.shape[0] != 1:
        raise UsageError(
            f"a file of format {file_format!r} holds the code of one image, not of "
            f"{given.shape[0]!r}: write each into a file of its own"
        )
    with replacing(path) as file:
        chosen.write(file, given)
