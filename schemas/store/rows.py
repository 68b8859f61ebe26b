"""Rows of a store: those of a block checked before they are written and sorted out after they are
read, and rows from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from schemas.errors import StoreError, UnalignedWriteError
from schemas.store.layout import ArraySpec
from schemas.store.reasons import Reason, Status


class OkRows(NamedTuple):
    """What an analysis may use of a block, and how many rows it does not see.

    rows : int64 (m,), ascending row numbers. arrays : name -> (m, ...).
    left_out : counts of rows by cause: "pending" (also: block not committed), "quarantined",
        "removed". ``len(rows) + sum(left_out.values())`` is the block's number of rows.
    """

    rows: np.ndarray
    arrays: dict[str, np.ndarray]
    left_out: dict[str, int]


def check_flags(
    status: np.ndarray, reason: np.ndarray, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (rows,) status and reason, when they are of the known kinds and agree."""
    status, reason = np.asarray(status), np.asarray(reason)
    if status.ndim != 1 or reason.ndim != 1:
        raise UnalignedWriteError(
            f"{where}: status and reason have shapes {status.shape!r} and {reason.shape!r}; "
            "give one number a row"
        )
    for name, value, known in (("status", status, Status), ("reason", reason, Reason)):
        unknown = sorted({int(v) for v in np.unique(value)} - {int(k) for k in known})
        if unknown:
            raise StoreError(f"{where}: {name} holds {unknown!r}; use the values of {known!r}")
    quarantined = status == Status.QUARANTINED
    bad = np.flatnonzero((quarantined & (reason == 0)) | ((status == Status.OK) & (reason != 0)))
    if bad.size:
        first = int(bad[0])
        raise StoreError(
            f"{where}: row {first!r} of the block has status {int(status[first])!r} and reason "
            f"{int(reason[first])!r}; quarantined rows need a reason and OK rows have none"
        )
    return status.astype(np.uint8), reason.astype(np.uint8)


def check_values(value: np.ndarray, spec: ArraySpec, ok: np.ndarray, where: str) -> np.ndarray:
    """``value`` in the stored dtype, with fill values in rows that are not OK."""
    if value.shape[1:] != spec.row_shape:
        raise UnalignedWriteError(
            f"{where}: {spec.path!r} has row shape {spec.row_shape!r}, got {value.shape[1:]!r}; "
            "write whole rows"
        )
    if not np.can_cast(value.dtype, spec.dtype, "same_kind"):
        raise StoreError(
            f"{where}: {spec.path!r} holds {spec.dtype!r}, got {value.dtype.name!r}; convert it"
        )
    if ok.all():
        stored = value.astype(spec.dtype, copy=False)
    else:
        stored = np.full(value.shape, spec.fill_value, dtype=spec.dtype)
        stored[ok] = value[ok]
    if spec.group != "latents":
        return stored
    finite = np.isfinite(stored)
    if not finite.all() and not finite[ok].all():
        finite = finite.reshape(len(stored), -1).all(axis=1)
        first = int(np.flatnonzero(ok & ~finite)[0])
        raise StoreError(
            f"{where}: {spec.path!r} is not finite in row {first!r} of the block, whose status is "
            "OK; quarantine the row with reason NOT_FINITE"
        )
    return stored


def sort_out(status: Sequence[np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """Which rows are OK in every stage: bool (rows,), and counts of the others by cause.

    status : one uint8 (rows,) for each stage. A row that is removed in one stage counts as
        removed, else quarantined in one as quarantined, else as pending.
    """
    stacked = np.stack(list(status))
    ok = (stacked == Status.OK).all(axis=0)
    removed = (stacked == Status.REMOVED).any(axis=0)
    quarantined = (stacked == Status.QUARANTINED).any(axis=0) & ~removed
    return ok, {
        "pending": int(len(ok) - ok.sum() - removed.sum() - quarantined.sum()),
        "quarantined": int(quarantined.sum()),
        "removed": int(removed.sum()),
    }


def each_once(read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Values (m, ...) of rows (m,) in their order, of which none is read twice.

    read : called with ascending row numbers
    """
    once, places = np.unique(np.asarray(rows, np.int64), return_inverse=True)
    found = read(once)
    return found if np.array_equal(places, np.arange(len(found))) else found[places]


def in_runs(read: Callable[[slice], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """`each_once`, with one call for each run of rows that follow one another."""

    def runs(once: np.ndarray) -> np.ndarray:
        if not len(once):
            return np.asarray(read(slice(0, 0)))
        ends = np.flatnonzero(np.diff(once) != 1) + 1
        parts = [read(slice(int(r[0]), int(r[-1]) + 1)) for r in np.split(once, ends)]
        return np.concatenate(parts)

    return each_once(runs, rows)
