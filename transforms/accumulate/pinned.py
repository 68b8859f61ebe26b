"""Blocks kept in a worker's memory between passes: first come, first kept, up to a limit.

A solver scans the same blocks in the same order pass after pass; a least-recently-used cache would
miss every time once the data exceed it, while pinned blocks always hit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from transforms.accumulate.blocks import Arrays

DEFAULT_CACHE_BYTES = 1 << 30


def array_bytes(arrays: Arrays) -> int:
    """Bytes held by a block's arrays."""
    return int(sum(a.nbytes for a in arrays.values()))


@dataclass
class PinnedBlocks:
    """Prepared blocks by (source key, preparation, block); safe to share between threads."""

    _kept: dict[str, dict[tuple[str, int], Arrays]] = field(default_factory=dict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(
        self, source_key: str, token: str, block: int, limit: int, load: Callable[[], Arrays]
    ) -> Arrays:
        """The block's arrays, loaded unless kept; kept afterwards while `limit` bytes allow it.

        Another preparation of the same source replaces the older one, and blocks of sources not in
        use give way before the limit turns a block down.
        """
        with self._lock:
            found = self._kept.get(source_key, {}).get((token, block))
        if found is not None:
            return found
        arrays = load()
        size = array_bytes(arrays)
        with self._lock:
            own = self._kept.setdefault(source_key, {})
            for key in [k for k in own if k[1] == block]:
                self._bytes -= array_bytes(own.pop(key))
            if self._bytes + size > limit:
                for other in [k for k in self._kept if k != source_key]:
                    self._drop(other)
            if self._bytes + size <= limit:
                own[token, block] = arrays
                self._bytes += size
        return arrays

    def _drop(self, source_key: str) -> None:
        for arrays in self._kept.pop(source_key, {}).values():
            self._bytes -= array_bytes(arrays)

    def release(self, source_key: str) -> None:
        """Forget a source's blocks."""
        with self._lock:
            self._drop(source_key)

    @property
    def n_bytes(self) -> int:
        """Bytes kept now."""
        return self._bytes


PINNED = PinnedBlocks()
