"""The one error tree. Classes are grouped by what a handler would do about them.

Every class has a stable ``kind`` (a string that scripts, logs and reports may rely on; kinds are
never renamed or removed) and the ``exit_code`` with which the command line ends.
Messages start in lower case, show names and values with ``!r``, and end with the cure.
"""

from __future__ import annotations


class LatentflowError(Exception):
    """Base of every error that this package raises on purpose.

    Texts may quote a file, or a library that quotes one: characters that would steer a terminal
    are shown as escapes.
    """

    kind = "error"
    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(_shown(part) if isinstance(part, str) else part for part in args))


def _shown(text: str) -> str:
    """Text with every character that is not printed as its escape; line ends stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


class UsageError(LatentflowError):
    """A bad flag or argument: the caller corrects the call."""

    kind = "usage"
    exit_code = 2


class SpecError(UsageError):
    """A run specification that cannot be used: the caller corrects the file."""

    kind = "spec"


class MissingExtraError(UsageError):
    """An optional library is not installed; the message names the extra that brings it."""

    kind = "missing_extra"


class PluginError(UsageError):
    """A plug-in of another package that cannot be used; the message names plug-in and package."""

    kind = "plugin"


class InputError(LatentflowError):
    """Input data that cannot be read, or that is not what it claims to be."""

    kind = "input"


class CheckpointError(InputError):
    """A model file that cannot be read as the architecture it should hold."""

    kind = "checkpoint"


class UnsafeCheckpointError(CheckpointError):
    """A model file that tries to run code, or that exceeds the caps on bytes, depth or opcodes."""

    kind = "unsafe_checkpoint"


class UntrustedError(InputError):
    """A file that can only be loaded by running its code, and was not declared trusted."""

    kind = "untrusted"


class StoreError(LatentflowError):
    """A latent store, dataset index or direction set that cannot be read or written."""

    kind = "store"


class NewerLayoutError(StoreError):
    """Written by a newer release: upgrade to read it."""

    kind = "newer_layout"


class UnalignedWriteError(StoreError):
    """A write that does not cover exactly one whole row block."""

    kind = "unaligned_write"


class FileSystemError(LatentflowError):
    """A disk or folder that refuses: it is full, read-only, not allowed, or fails."""

    kind = "file_system"


class DirectionMismatchError(LatentflowError):
    """A direction used in a space, or on a generator, that it was not made for."""

    kind = "direction_mismatch"


class DataError(LatentflowError):
    """Numbers on which the requested computation is not defined (empty, constant, not finite)."""

    kind = "data"


class NotConvergedError(LatentflowError):
    """An iterative solver stopped before it met its tolerance."""

    kind = "not_converged"


class QuarantineExceededError(LatentflowError):
    """More rows were quarantined than the specification allows; analyses were not run."""

    kind = "quarantine_exceeded"
    exit_code = 4


class LockedError(LatentflowError):
    """Another run holds the store's lock, or took it from this one."""

    kind = "locked"
    exit_code = 75


class RunInterruptedError(LatentflowError):
    """The run was asked to stop (Ctrl-C, SIGTERM); the next one goes on from where it stopped."""

    kind = "interrupted"
    exit_code = 130


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of numpy, torch or onnxruntime says that an allocation failed."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    phrases = ("out of memory", "can't allocate memory", "failed to allocate memory")
    return any(phrase in text for phrase in phrases)
