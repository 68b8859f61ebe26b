"""The network whose distances are path lengths: what it is, and what they are called by it."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from schemas.errors import CheckpointError

if TYPE_CHECKING:
    from generators.perceptual.files import PerceptualFile

STAR, OFFICIAL = "PPL*", "PPL"


def network_fp(uri: str, linear: str | None) -> str:
    """Fingerprint of the distance. Raises CheckpointError for an unusable file."""
    return _read(uri, linear).fingerprint


def name_of(uri: str, linear: str | None) -> str:
    """What a path length is called: PPL by VGG16, PPL* by the project's own network.

    Raises CheckpointError for any other, or an unusable file.
    """
    architecture = _read(uri, linear).architecture.name
    if architecture not in ("vgg16", "features64"):
        raise CheckpointError(
            f"it is {architecture!r}, and path lengths are defined by 'vgg16': give that one, or "
            "'bundled:features64/features'"
        )
    return OFFICIAL if architecture == "vgg16" else STAR


def _read(uri: str, linear: str | None) -> PerceptualFile:
    stats = [_stat(file) for file in (uri, linear)]
    return _read_once(uri, linear, tuple(stats))


def _stat(file: str | None) -> tuple[int, int] | None:
    if file is None or file.startswith("bundled:"):
        return None
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=2)
def _read_once(
    uri: str, linear: str | None, stats: tuple[tuple[int, int] | None, ...]
) -> PerceptualFile:
    from generators.perceptual.files import read_perceptual

    return read_perceptual(uri, linear)
