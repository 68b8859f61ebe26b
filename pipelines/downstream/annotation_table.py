"""Rows of a store as Arrow tables: annotations for pandas, and codes with them for exports.

Columns, in this order; names with a dot belong to a stage or group:

| column | type | contents |
|---|---|---|
| ``row`` | int64 | the key, as in the index |
| ``image_id``, ``uri`` | string | as in the index |
| ``status``, ``reason`` | string | of the inversion, in words; only in tables of all rows |
| factors | string or double | categories as words, null where missing |
| ``latents.<space>`` | ``fixed_size_list<float>`` | the code in C order; only with codes |
| ``quality.<metric>`` | float or int32 | of the reconstruction |
| ``<stage>.<name>`` | float | a score or an angle |
| ``<stage>`` | ``fixed_size_list<float>`` | landmarks x0, y0, x1, y1, ... in pixels; an embedding |
| ``quality.<annotator>`` | float | cosine of the embeddings of original and reconstruction |

A factor whose name would collide is called ``factor.<name>``. Lists have the field metadata
``shape`` (JSON, the shape of one row), ``dims`` and, where the first axis has names, ``names``
(JSON). What a stage did not measure is null, in lists NaN (pyarrow does not read null lists of
fixed size back).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.downstream.export_rows import MEASURED, ExportRows, annotation_stages
from pipelines.folder.likeness import embedding_stages
from pipelines.folder.store_identity import INVERT
from schemas.atomic import replacing
from schemas.fingerprint import canonical_json
from schemas.index import DatasetIndex
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Reason, Status

__all__ = ["RowTables", "annotation_stages", "export_annotations"]

METADATA_KEY = b"latentflow.export"
GROUP_BYTES = 32 * 2**20
_BASE = ("row", "image_id", "uri")


@dataclass(frozen=True, eq=False)
class RowTables:
    """The rows of an export as one Arrow table a block, all of one schema.

    codes : with the columns ``latents.<space>``. flags : with ``status`` and ``reason``.
    """

    rows: ExportRows
    codes: bool = True
    flags: bool = False

    @cached_property
    def schema(self) -> pa.Schema:
        """Fields with their metadata; the schema's own metadata are the facts about the export."""
        fields = [pa.field(name, column.type) for name, column in self._fixed.items()]
        flags = [pa.field(name, pa.string()) for name in ("status", "reason") if self.flags]
        fields[len(_BASE) : len(_BASE)] = flags
        fields += [column.field for column in self._columns]
        facts = canonical_json(self.rows.facts())
        return pa.schema(fields, metadata={METADATA_KEY: facts})

    def block(self, block: int) -> pa.Table:
        """The rows of one block."""
        rows = self.rows.rows(block)
        taken = pa.array(rows)
        columns: dict[str, Any] = {n: column.take(taken) for n, column in self._fixed.items()}
        if self.flags:
            status = [Status(v).name.lower() for v in self._status[rows]]
            columns["status"] = pa.array(status, pa.string())
            columns["reason"] = pa.array([_reason(v) for v in self._reasons[rows]], pa.string())
        read: dict[str, np.ndarray] = {}
        for column in self._columns:
            if column.array not in read:
                read = {column.array: self.rows.read(column.array, block)}
            ok = self.rows.measured(column.array, block)
            columns[column.field.name] = column.values(read[column.array], ok)
        return pa.table([columns[name] for name in self.schema.names], schema=self.schema)

    def blocks(self) -> Iterator[pa.Table]:
        """Tables of the blocks that have rows, in order."""
        for block in range(self.rows.store.n_blocks):
            if len(self.rows.rows(block)):
                yield self.block(block)

    def pieces(self, sizes: Iterable[int]) -> Iterator[pa.Table]:
        """The rows in tables of these sizes, whatever the store's blocks are.

        One of them and a block are in memory at a time.
        """
        blocks, held = self.blocks(), self.schema.empty_table()
        for size in sizes:
            found = [held]
            while sum(table.num_rows for table in found) < size:
                found.append(next(blocks))
            whole = pa.concat_tables(found)
            held = whole.slice(size)
            yield whole.slice(0, size).combine_chunks()

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's values; 64 for a text."""
        total = 0
        for kind in self.schema.types:
            if pa.types.is_fixed_size_list(kind):
                total += kind.list_size * kind.value_type.bit_width // 8
            else:
                total += 64 if pa.types.is_string(kind) else kind.bit_width // 8
        return total

    @property
    def strings(self) -> list[str]:
        """Columns of text, which Parquet keeps as dictionaries."""
        return [field.name for field in self.schema if pa.types.is_string(field.type)]

    # ---- columns ----------------------------------------------------------------------------

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        """Columns of the index: row, image_id, uri and the factors."""
        index = self.rows.index
        table = index.decoded()
        kept = {name: table.column(name) for name in _BASE}
        others = {"status", "reason", *(c.field.name for c in self._columns)}
        for name in index.factor_names:
            taken = name in others or "." in name or "@" in name
            kept[f"factor.{name}" if taken else name] = table.column(name)
        return kept

    @cached_property
    def _columns(self) -> list[_Column]:
        """Columns of the store's arrays."""
        found: list[_Column] = []
        embeddings = embedding_stages(self.rows.store)
        groups = ("latents", "quality") if self.codes else ("quality",)
        for array, stage in self.rows.arrays.items():
            group, name = array.split("/")
            stored = self.rows.store.array(array)
            kind = pa.from_numpy_dtype(stored.dtype)
            if stage == INVERT and group in groups and stored.ndim == 1:
                found.append(_Column(pa.field(f"{group}.{name}", kind), array))
            elif stage == INVERT and group in groups:
                found.append(_Column(_list_field(f"{group}.{name}", stored), array))
            elif group in MEASURED and stored.ndim == 2 and stage not in embeddings:
                attrs: Mapping[str, Any] = stored.attrs
                labels = attrs.get("names", range(stored.shape[1]))
                found += [
                    _Column(pa.field(f"{stage}.{label}", kind), array, k)
                    for k, label in enumerate(labels)
                ]
            elif group in MEASURED:
                found.append(_Column(_list_field(stage, stored), array))
        for array in self.rows.likenesses:
            found.append(_Column(pa.field(array.replace("/", "."), pa.float32()), array))
        return found

    @cached_property
    def _status(self) -> np.ndarray:
        return self.rows.store.status(INVERT)

    @cached_property
    def _reasons(self) -> np.ndarray:
        return self.rows.store.reason(INVERT)


@dataclass(frozen=True, eq=False)
class _Column:
    """A column made of an array, or of its element ``label`` in every row."""

    field: pa.Field
    array: str
    label: int | None = None

    def values(self, read: np.ndarray, ok: np.ndarray) -> pa.Array:
        """The column of the rows ``read`` (m, *row_shape); null, or NaN, where not ok."""
        if self.label is not None:
            read = np.ascontiguousarray(read[:, self.label])
        if not pa.types.is_fixed_size_list(self.field.type):
            return pa.array(read, self.field.type, mask=~ok)
        flat = pa.array(np.ascontiguousarray(read).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, type=self.field.type)


def _list_field(name: str, stored: Any) -> pa.Field:
    shape = [int(size) for size in stored.shape[1:]]
    dims = [str(dim) for dim in stored.metadata.dimension_names[1:]]
    metadata = {"shape": canonical_json(shape), "dims": canonical_json(dims)}
    if "names" in stored.attrs:
        metadata["names"] = canonical_json([str(v) for v in stored.attrs["names"]])
    element = pa.from_numpy_dtype(stored.dtype)
    return pa.field(name, pa.list_(element, math.prod(shape)), metadata=metadata)


def _reason(number: int) -> str | None:
    return None if number == Reason.NONE else Reason(number).name.lower()


def write_parquet(tables: RowTables, path: str | os.PathLike[str]) -> None:
    """Write the rows as one Parquet file in row groups of 32 MB: memory does not grow with rows.

    The same rows give the same bytes.
    """
    with replacing(path) as file:
        write_groups(tables, file, tables.pieces(group_sizes(tables, tables.rows.n)))


def group_sizes(tables: RowTables, n: int) -> list[int]:
    """Rows of each row group of a file of n rows."""
    size = max(1, GROUP_BYTES // tables.row_bytes)
    return [min(size, n - start) for start in range(0, n, size)]


def write_groups(tables: RowTables, file: BinaryIO, groups: Iterable[pa.Table]) -> None:
    """Write a Parquet file of these row groups: zstd, dictionaries for text only."""
    with pq.ParquetWriter(
        file, tables.schema, compression="zstd", use_dictionary=tables.strings
    ) as writer:
        for group in groups:
            writer.write_table(group)


def export_annotations(
    store: LatentStore, index: DatasetIndex, path: str | os.PathLike[str]
) -> list[str]:
    """Write one row an image, in the order of the index; returns the names of the columns.

    All rows, with the status of their inversion, without codes: see the module's table.

    Raises StoreError when the store has another number of rows than the index.
    """
    tables = RowTables(ExportRows.of(store, index), codes=False, flags=True)
    write_parquet(tables, path)
    return list(tables.schema.names)
