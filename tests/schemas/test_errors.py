"""The error tree, and the numbers that are stored: both only ever grow."""

from __future__ import annotations

import inspect
import pickle
from enum import IntEnum

import pytest

from schemas import errors
from schemas.store.reasons import TRANSIENT, Reason, Status, describe

# Released kinds and exit codes. Lines are added, never changed or removed.
GOLDEN_KINDS = {
    "error": 1,
    "usage": 2,
    "spec": 2,
    "missing_extra": 2,
    "plugin": 2,
    "input": 1,
    "checkpoint": 1,
    "unsafe_checkpoint": 1,
    "untrusted": 1,
    "store": 1,
    "newer_layout": 1,
    "unaligned_write": 1,
    "file_system": 1,
    "direction_mismatch": 1,
    "data": 1,
    "not_converged": 1,
    "quarantine_exceeded": 4,
    "locked": 75,
    "interrupted": 130,
}

# Released numbers of statuses and reasons, as stored on disk.
GOLDEN_STATUSES = {"PENDING": 0, "OK": 1, "QUARANTINED": 2, "REMOVED": 3}
GOLDEN_REASONS = {
    "NONE": 0,
    "CORRUPT": 1,
    "TRUNCATED": 2,
    "EMPTY": 3,
    "NOT_AN_IMAGE": 4,
    "TOO_LARGE": 5,
    "UNSUPPORTED": 6,
    "MISSING": 7,
    "CHANGED": 8,
    "NO_FACE": 9,
    "NOT_FINITE": 10,
    "SEVERAL_FACES": 11,
    "MODEL_FAILED": 12,
    "NO_LABEL": 13,
    "NO_CODE": 14,
    "IO_ERROR": 20,
    "OUT_OF_MEMORY": 21,
}


def classes() -> list[type[errors.LatentflowError]]:
    found = (value for _, value in inspect.getmembers(errors, inspect.isclass))
    return [value for value in found if issubclass(value, errors.LatentflowError)]


def test_kinds_are_the_released_ones():
    assert {cls.kind: cls.exit_code for cls in classes()} == GOLDEN_KINDS


def test_texts_steer_no_terminal():
    error = errors.InputError("cannot be read: 'a\x1b[31m\x07\u202eb\ud800'\ngive 'ä名'")
    assert str(error) == "cannot be read: 'a\\x1b[31m\\x07\\u202eb\\ud800'\ngive 'ä名'"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 (from here)
    assert errors.InputError(3, "x").args == (3, "x")


def test_every_class_has_its_own_kind():
    assert all("kind" in vars(cls) for cls in classes())
    kinds = [cls.kind for cls in classes()]
    assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        (errors.SpecError, errors.UsageError),
        (errors.UnsafeCheckpointError, errors.CheckpointError),
        (errors.CheckpointError, errors.InputError),
        (errors.NewerLayoutError, errors.StoreError),
        (errors.UnalignedWriteError, errors.StoreError),
    ],
)
def test_handlers_of_a_group_catch_its_members(child, parent):
    assert issubclass(child, parent)


@pytest.mark.parametrize(
    ("enumeration", "golden"), [(Status, GOLDEN_STATUSES), (Reason, GOLDEN_REASONS)]
)
def test_stored_numbers_are_the_released_ones(enumeration: type[IntEnum], golden):
    assert {member.name: int(member) for member in enumeration} == golden
    assert max(enumeration) < 256


def test_reasons_are_described():
    texts = [describe(reason) for reason in Reason]
    assert len(set(texts)) == len(texts)
    assert describe(99).startswith("reason 99")
    assert {Reason.IO_ERROR, Reason.OUT_OF_MEMORY, Reason.MISSING} == TRANSIENT
