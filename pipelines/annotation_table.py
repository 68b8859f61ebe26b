"""A store's annotations as one Parquet table, for pandas."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.invert import QUALITIES
from pipelines.invert import STAGE as INVERT
from schemas.atomic import write_bytes
from schemas.errors import StoreError
from schemas.index import DatasetIndex
from schemas.reasons import Reason, Status
from schemas.store import LatentStore

GROUPS = ("annotations", "landmarks")


def annotation_stages(store: LatentStore) -> list[str]:
    """Names of the store's annotation stages, sorted."""
    return [
        stage
        for stage in store.stages()
        if any(array.split("/")[0] in GROUPS for array in store.arrays(stage))
    ]


def export_annotations(
    store: LatentStore, index: DatasetIndex, path: str | os.PathLike[str]
) -> list[str]:
    """Write one row an image, in the order of the index; returns the names of the columns.

    ``row``, ``image_id``, ``uri``, ``status`` and ``reason`` of the inversion (words), every
    factor of the index (categories as words, null where missing), ``quality.<metric>``, and for
    every annotation stage ``<stage>.<name>`` float32 for each score or angle; landmarks are one
    column ``<stage>`` of fixed-size lists (x0, y0, x1, y1, ...) in pixels, their names in the
    column's metadata. Rows that a stage did not measure hold null, lists NaN (pyarrow does not
    read null lists of fixed size back).

    Raises StoreError when the store has another number of rows than the index.
    """
    if store.n_rows != index.n_rows:
        raise StoreError(
            f"store {store.path!r} has {store.n_rows!r} rows, the index {index.n_rows!r}; "
            "bring the store up to date first"
        )
    stages = annotation_stages(store)
    fixed = _index_columns(index)
    buffer, writer = io.BytesIO(), None
    names: list[str] = []
    for block in range(store.n_blocks):
        table = _block_table(store, fixed, block, stages)
        names = list(table.column_names)
        if writer is None:
            writer = pq.ParquetWriter(buffer, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()
    write_bytes(path, buffer.getvalue())
    return names


def _index_columns(index: DatasetIndex) -> pa.Table:
    """row, image_id, uri and the factors; a factor named like another column gets a prefix."""
    table = index.decoded()
    kept = {name: table.column(name) for name in ("row", "image_id", "uri")}
    for name in index.factor_names:
        taken = name in ("status", "reason") or "." in name or "@" in name
        kept[f"factor.{name}" if taken else name] = table.column(name)
    return pa.table(kept)


def _block_table(
    store: LatentStore, fixed: pa.Table, block: int, stages: Sequence[str]
) -> pa.Table:
    rows = store.block_slice(block)
    n = rows.stop - rows.start
    part = fixed.slice(rows.start, n)
    status, reason, _ = _flags(store, INVERT, block, n)
    columns: dict[str, Any] = {name: part.column(name) for name in ("row", "image_id", "uri")}
    columns["status"] = pa.array([Status(s).name.lower() for s in status], pa.string())
    columns["reason"] = pa.array([_reason(r) for r in reason], pa.string())
    columns |= {name: part.column(name) for name in part.column_names[3:]}
    fields = {name: pa.field(name, column.type) for name, column in columns.items()}

    def add(name: str, values: pa.Array, metadata: dict[str, str] | None = None) -> None:
        columns[name] = values
        fields[name] = pa.field(name, values.type, metadata=metadata)

    for quality in QUALITIES:
        array = f"quality/{quality}"
        if array in store.arrays(INVERT):
            ok = _flags(store, INVERT, block, n)[2]
            add(f"quality.{quality}", _masked(np.asarray(store.array(array)[rows]), ok))
    for stage in stages:
        ok = _flags(store, stage, block, n)[2]
        for path in store.arrays(stage):
            array = store.array(path)
            values = np.asarray(array[rows])
            labels = [str(v) for v in array.attrs.get("names", range(values.shape[1]))]
            if values.ndim == 2:
                for k, label in enumerate(labels):
                    add(f"{stage}.{label}", _masked(np.ascontiguousarray(values[:, k]), ok))
            else:
                values[~ok] = np.nan
                flat = pa.array(np.ascontiguousarray(values).reshape(-1))
                lists = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
                add(stage, lists, {"names": ",".join(labels), "order": "x0,y0,x1,y1,..."})
    return pa.table(columns, schema=pa.schema(list(fields.values())))


def _flags(
    store: LatentStore, stage: str, block: int, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """status, reason, and whether a row is ok; all pending while the block is not committed."""
    if stage not in store.stages() or not any(store.commit_of(stage, block)):
        return np.zeros(n, np.uint8), np.zeros(n, np.uint8), np.zeros(n, bool)
    rows = store.block_slice(block)
    status = np.asarray(store.array(f"status/{stage}")[rows])
    return status, np.asarray(store.array(f"reason/{stage}")[rows]), status == Status.OK


def _reason(number: int) -> str | None:
    return None if number == Reason.NONE else Reason(number).name.lower()


def _masked(values: np.ndarray, ok: np.ndarray) -> pa.Array:
    return pa.array(values, mask=~ok)
