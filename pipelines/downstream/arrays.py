"""Rows of a run as files of arrays: npz, safetensors, and the latent files of other projects.

An npz or safetensors file holds, of the n rows taken,

| name | type | contents |
|---|---|---|
| ``row`` | int64 (n,) | number in the index and the store |
| ``image_id`` | uint8 (n, 32) | sha256 of the image file: ``bytes(x).hex()`` |
| ``factors/<name>`` | int16 or float64 (n,) | category codes, -1 missing; values, NaN missing |
| ``latents/<space>``, ``quality/<metric>`` | as stored (n, ...) | codes and reconstruction errors |
| ``quality/<annotator>`` | float32 (n,) | cosine of the embeddings of original and render |
| ``annotations/<m>``, ``landmarks/<m>`` | as stored (n, ...) | NaN where not measured |

and ``facts``: JSON, in the npz an array of text, in safetensors an entry of the metadata, with
``categories`` by factor and ``names`` by array beside those of `ExportRows.facts`. Factor names are
percent-encoded, because they become names inside the file.

Everything is written a block at a time: memory does not grow with the number of rows.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from generators.annotators.kinds.catalog import role_of
from generators.peers.base import Codes, LatentFormat
from pipelines.analyses.measured import NAMED
from pipelines.downstream.export_rows import ExportRows
from pipelines.sources.paths import IMAGE_ENDINGS
from schemas.atomic import replacing
from schemas.errors import UsageError
from schemas.index import CATEGORICAL
from schemas.names import MAX_NAME, safe_name

_SAFETENSORS = {"f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i2": "I16",
                "i1": "I8", "u1": "U8"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Member:
    """One array of a file: its shape is known before its values are read."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[np.ndarray]]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def write(self, file: Any) -> None:
        """The values, little-endian in C order, a chunk at a time."""
        for chunk in self.chunks():
            file.write(np.ascontiguousarray(chunk, self.dtype).reshape(-1).view(np.uint8).data)


def members(rows: ExportRows) -> list[Member]:
    """All arrays of the rows; see the module's table."""
    index = rows.index
    numbers = np.flatnonzero(rows.taken)
    ids = index.image_ids
    digests = np.array([list(bytes.fromhex(ids[row])) for row in numbers], np.uint8)
    found = [_whole("row", numbers.astype(np.int64)), _whole("image_id", digests)]
    for name, info in index.factors.items():
        values = index.categorical(name)[0] if info.kind == CATEGORICAL else index.continuous(name)
        found.append(_whole(f"factors/{quote(name, safe='')}", values[rows.taken]))
    found += [_stored(rows, array) for array in rows.arrays]
    return found + [_likeness(rows, array) for array in rows.likenesses]


def facts(rows: ExportRows) -> dict[str, Any]:
    """Facts about the rows, with the names of categories and scores."""
    categories = {
        quote(name, safe=""): list(info.categories)
        for name, info in rows.index.factors.items()
        if info.kind == CATEGORICAL
    }
    attrs: dict[str, Mapping[str, Any]] = {a: rows.store.array(a).attrs for a in rows.arrays}
    names = {array: [str(v) for v in a["names"]] for array, a in attrs.items() if "names" in a}
    return {**rows.facts(), "categories": categories, "names": names}


def _whole(name: str, values: np.ndarray) -> Member:
    little = values.dtype.newbyteorder("<")
    return Member(name, little, values.shape, lambda: iter([values]))


def _stored(rows: ExportRows, array: str) -> Member:
    stored = rows.store.array(array)
    dtype = np.dtype(stored.dtype).newbyteorder("<")
    shape = (rows.n, *(int(size) for size in stored.shape[1:]))
    return Member(array, dtype, shape, lambda: rows.chunks(array))


def _likeness(rows: ExportRows, array: str) -> Member:
    return Member(array, np.dtype("<f4"), (rows.n,), lambda: rows.chunks(array))


# ---- files --------------------------------------------------------------------------------------


def write_npz(rows: ExportRows, path: str | os.PathLike[str]) -> None:
    """Write one ``.npz`` that `numpy.load` reads; the same rows give the same bytes."""
    text = np.array(json.dumps(facts(rows), sort_keys=True))
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for member in [*members(rows), _whole("facts", text)]:
            with archive.open(zipfile.ZipInfo(f"{member.name}.npy"), "w", force_zip64=True) as part:
                part.write(_npy_head(member))
                member.write(part)


def write_safetensors(rows: ExportRows, path: str | os.PathLike[str]) -> None:
    """Write one ``.safetensors``; the same rows give the same bytes."""
    found = sorted(members(rows), key=lambda m: -m.dtype.itemsize)  # so that all are aligned
    head: dict[str, Any] = {"__metadata__": {"facts": json.dumps(facts(rows), sort_keys=True)}}
    offset = 0
    for member in found:
        head[member.name] = {
            "dtype": _SAFETENSORS[member.dtype.str[1:]],
            "shape": list(member.shape),
            "data_offsets": [offset, offset + member.nbytes],
        }
        offset += member.nbytes
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for member in found:
            member.write(file)


def _npy_head(member: Member) -> bytes:
    memory = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(member.dtype)
    facts = {"descr": descr, "fortran_order": False, "shape": member.shape}
    np.lib.format.write_array_header_1_0(memory, facts)
    return memory.getvalue()


def write_latents(rows: ExportRows, form: LatentFormat, folder: Path) -> None:
    """Write the codes as another project's file of them, and ``rows.csv``: whose each is.

    Where the project has files of scores, each score and angle is in one, float32 (n, 1), named
    ``<stage>.<name>``, percent-encoded, and replaced by `schemas.names` where that is too long for
    a file; rows must then be OK in the stages of all of them.

    Raises UsageError for a run without codes of the format's spaces.
    """
    spaces = [space for space in rows.spaces if space in form.files]
    if not spaces:
        raise UsageError(
            f"the run has codes of {rows.spaces!r}, files of format {form.name!r} hold "
            f"{list(form.files)!r}; use 'npz'"
        )
    uris = rows.index.uris
    names = [uris[row] for row in np.flatnonzero(rows.taken).tolist()]
    for space in spaces:
        member = _stored(rows, f"latents/{space}")
        codes = Codes(space, member.shape, member.chunks, names, member.dtype.str)
        if form.one_a_file:
            _write_one_a_file(codes, form, folder)
            continue
        with open(folder / form.files[space], "xb") as file:
            form.write(file, codes)
    if form.list_file is not None:
        text = "".join(f"{name}\n" for name in names)
        (folder / form.list_file).write_text(text, encoding="utf-8")
    if form.scores is not None:
        _write_scores(rows, form.scores, folder)
    _write_rows(rows, folder)


def _write_one_a_file(codes: Codes, form: LatentFormat, folder: Path) -> None:
    """A file for each image, named after it. Raises UsageError where several have one name."""
    stems = [_stem(name) for name in codes.names or ()]
    again, often = Counter(stems).most_common(1)[0]
    if often > 1:
        raise UsageError(
            f"format {form.name!r} has a file for each image, named after its own, and {often!r} "
            f"images are called {again!r}: use 'restyle_latents' or 'npz'"
        )
    rows = (row for chunk in codes.chunks() for row in chunk)
    for stem, name, row in zip(stems, codes.names or (), rows, strict=True):
        path = folder / form.files[codes.space].format(stem=stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            form.write(file, Codes.of(row[None], codes.space, [name]))


def _stem(uri: str) -> str:
    """What a peer would call an image: its file's name without folders and ending."""
    stem, ending = os.path.splitext(uri.rsplit("/", 1)[-1])
    return stem if ending.lower() in IMAGE_ENDINGS else stem + ending


def _write_scores(rows: ExportRows, file_name: str, folder: Path) -> None:
    for array, stage in rows.arrays.items():
        if array.startswith("annotations/"):
            stored = rows.store.array(array)
            attrs: Mapping[str, Any] = stored.attrs
            if "kind" in attrs and role_of(str(attrs["kind"])) not in NAMED:
                continue  # an embedding's elements are no scores of anything
            labels = attrs.get("names", range(stored.shape[1]))
            scores = np.concatenate(list(rows.chunks(array)))
            for k, label in enumerate(labels):
                name = f"{stage}.{quote(str(label), safe=' ')}"
                if len(name) > MAX_NAME:
                    name = safe_name(f"{stage}.{label}")
                name = file_name.format(name=name)
                _write_npy(_whole(name, scores[:, k : k + 1]), folder / name)


def _write_npy(member: Member, path: Path) -> None:
    with open(path, "xb") as file:
        file.write(_npy_head(member))
        member.write(file)


def _write_rows(rows: ExportRows, folder: Path) -> None:
    """``rows.csv``: row, image_id and uri, in the order of the codes."""
    ids, uris = rows.index.image_ids, rows.index.uris
    with open(folder / "rows.csv", "x", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["row", "image_id", "uri"])
        for row in np.flatnonzero(rows.taken).tolist():
            table.writerow([row, ids[row], uris[row]])
