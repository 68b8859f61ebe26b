"""The state of a row in a stage, and why a row was set aside.

The numbers are stored (``status/<stage>`` and ``reason/<stage>``, uint8), so they never change
and are never used again for something else; new ones are appended.
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """What a stage did with a row."""

    PENDING = 0
    OK = 1
    QUARANTINED = 2
    REMOVED = 3


class Reason(IntEnum):
    """Why a row was quarantined. Below 20: a property of the input; from 20: of the machine."""

    NONE = 0
    CORRUPT = 1
    TRUNCATED = 2
    EMPTY = 3
    NOT_AN_IMAGE = 4
    TOO_LARGE = 5
    UNSUPPORTED = 6
    MISSING = 7
    CHANGED = 8
    NO_FACE = 9
    NOT_FINITE = 10
    SEVERAL_FACES = 11
    MODEL_FAILED = 12
    NO_LABEL = 13
    NO_CODE = 14
    IO_ERROR = 20
    OUT_OF_MEMORY = 21


#: Reasons that may be gone the next time: such rows are tried again by the next run.
TRANSIENT = frozenset({Reason.IO_ERROR, Reason.OUT_OF_MEMORY, Reason.MISSING})

_DESCRIPTIONS = {
    Reason.NONE: "no reason",
    Reason.CORRUPT: "the file's bytes cannot be decoded",
    Reason.TRUNCATED: "the file ends too early",
    Reason.EMPTY: "the file is empty",
    Reason.NOT_AN_IMAGE: "the file is not an image",
    Reason.TOO_LARGE: "the image has more pixels than allowed (decompression bomb)",
    Reason.UNSUPPORTED: "the image's format or colour mode is not supported",
    Reason.MISSING: "the file is gone",
    Reason.CHANGED: "the file's bytes no longer match its image_id",
    Reason.NO_FACE: "no face was found",
    Reason.NOT_FINITE: "a result is not finite",
    Reason.SEVERAL_FACES: "several faces were found, and nothing says which one is meant",
    Reason.MODEL_FAILED: "the annotator failed on the image",
    Reason.NO_LABEL: "the row has no class label, which the generator needs",
    Reason.NO_CODE: "no code was given for the image",
    Reason.IO_ERROR: "the file could not be read (input/output error)",
    Reason.OUT_OF_MEMORY: "the row did not fit into memory",
}


def describe(reason: int) -> str:
    """One short phrase for a reason. An unknown number (a newer release) is shown as such."""
    try:
        return _DESCRIPTIONS[Reason(reason)]
    except ValueError:
        return f"reason {int(reason)} (written by a newer release)"
