"""Statistics that outlive a run: what has been summed once is not read again.

A layer over the engine of the analyses. A sum is kept as the partials of its groups of 16 blocks,
each in a file of its own, named by what it was computed from: the statistics' version, the request
and all its parameters, and what the group's blocks hold (`KeyedSource.part_key`). A group that has
its file is not read, and the sum over the groups has the bits of a pass over everything. So a
parameter of the solve costs no pass, and new, changed or removed rows cost their groups.

The folder holds files that nobody needs to keep: whatever is missing is computed again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas.atomic import write_bytes
from schemas.errors import DataError
from schemas.fingerprint import digest
from transforms.accumulate.blocks import Accumulator, BlockSource, group_blocks, sum_in_order
from transforms.accumulate.groups import GroupsOfBlocks, StatisticOfGroups
from transforms.accumulate.passes import Engine, PassRequest, S
from transforms.accumulate.stored import statistic_bytes, statistic_of_bytes

STATISTICS_VERSION = 1
"""Raised whenever a block's statistic or the order of a sum changes by a bit."""

FOLDER = "statistics"
SUM_BYTES = 256 * 2**20
"""Partials of a sum are kept up to this size together, above it only their total; a statistic
larger than this is not kept."""
FOLDER_BYTES = 2 * 2**30
"""Above this size the files that were used longest ago go."""


SEAL_BYTES = 64
_FILE = re.compile(r"[0-9a-f]{32}\.npz")


def is_statistic(path: str | os.PathLike[str]) -> bool:
    """Whether a file of the folder is, by its name, one that `StatisticFolder` wrote."""
    return _FILE.fullmatch(Path(path).name) is not None


def sealed(content: bytes) -> bytes:
    """An npz file with the sha256 of its bytes as the comment that ends every zip file."""
    mark = hashlib.sha256(content).hexdigest().encode()
    return content[:-2] + len(mark).to_bytes(2, "little") + mark


def opened(data: bytes) -> bytes | None:
    """What was `sealed`; None where a byte of it is another one."""
    content = data[: -2 - SEAL_BYTES] + bytes(2)  # the length of a comment that is not there
    return content if sealed(content) == data else None


def check_sums(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files of a folder that are not what `StatisticFolder` wrote, and those of earlier releases,
    which have no digest (an npz without a comment)."""
    damaged, unsealed = [], []
    for path in sorted(filter(is_statistic, folder.glob("*.npz"))):
        data = path.read_bytes()
        if data[-22:-18] == b"PK\5\6" and data.endswith(bytes(2)):
            unsealed.append(path)
        elif opened(data) is None:
            damaged.append(path)
    return damaged, unsealed


def request_key(request: Any) -> str:
    """Identity of a request: its kind and all its parameters. DataError for one without."""
    return digest(_plain(request))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return ["array", value.dtype.str, list(value.shape), content]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = vars(type(value)).get("kind")  # one that is inherited is another class'
        if not isinstance(kind, str):
            raise DataError(
                f"{type(value).__qualname__!r} has no kind of its own, so that nothing can be kept "
                "under it: give the class a constant 'kind'"
            )
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return [kind, fields]
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(entry) for entry in value]
    return value


class StatisticFolder:
    """Statistics by name in ``<name>.npz``, up to `limit` bytes.

    A file is there in whole or not at all; a damaged one counts as missing.
    """

    def __init__(self, path: str | os.PathLike[str], limit: int = FOLDER_BYTES) -> None:
        self.path = Path(path)
        self.limit = limit

    def load(self, name: str) -> Accumulator | None:
        """The statistic of that name, None where there is none."""
        file = self.path / f"{name}.npz"
        try:
            found = statistic_of_bytes(opened(file.read_bytes()) or b"")
        except (OSError, DataError):
            return None
        with contextlib.suppress(OSError):
            os.utime(file)  # the ones used longest ago go first
        return found

    def save(self, name: str, content: bytes) -> None:
        """Write one; older ones give way where the folder would pass its limit."""
        content = sealed(content)
        if len(content) > self.limit:
            return
        self._make_room(self.limit - len(content))
        write_bytes(self.path / f"{name}.npz", content)

    def _make_room(self, limit: int) -> None:
        files = []
        for file in filter(is_statistic, self.path.glob("*.npz")):
            with contextlib.suppress(OSError):
                stat = file.stat()
                files.append((stat.st_mtime_ns, file.name, stat.st_size))
        total = sum(size for _, _, size in files)
        for _, name, size in sorted(files):
            if total <= limit:
                return
            (self.path / name).unlink(missing_ok=True)
            total -= size


class SavedStatistics:
    """An engine that keeps what it sums, and reads only what it does not have.

    names : of the files that what was asked for since the last `take_names` rests on
    blocks_read, blocks_saved : blocks that single sums had to read, and did not have to
    passes, passes_saved : passes of solvers that read their source, and that did not have to
    """

    def __init__(self, engine: Engine, folder: str | os.PathLike[str]) -> None:
        self.engine = engine
        self.folder = StatisticFolder(folder)
        self.names: set[str] = set()
        self.blocks_read = self.blocks_saved = 0
        self.passes = self.passes_saved = 0

    def take_names(self) -> list[str]:
        """The names, sorted; the next ones start anew."""
        names, self.names = sorted(self.names), set()
        return names

    def take_work(self) -> dict[str, int]:
        """What the sums and passes since the last call read, and did not have to; counts anew."""
        names = ("blocks_read", "blocks_saved", "passes", "passes_saved")
        counts = {name: getattr(self, name) for name in names}
        for name in names:
            setattr(self, name, 0)
        return counts

    def sum(self, source: BlockSource, request: PassRequest) -> Any:
        """As the engine's `sum`, to the bit; only groups of blocks without a file are read."""
        groups = group_blocks(source.n_blocks)
        names = _names(source, request, groups)
        if not names:
            self.blocks_read += source.n_blocks
            return self.engine.sum(source, request)
        whole = names[0] if len(names) == 1 else digest(["total", names])[:32]
        total = self.folder.load(whole)
        if total is not None:
            self.names.add(whole)
            self.blocks_saved += source.n_blocks
            return total
        known = {i: self.folder.load(name) for i, name in enumerate(names)}
        partials = {i: partial for i, partial in known.items() if partial is not None}
        missing = tuple(i for i in range(len(groups)) if i not in partials)
        if missing and len(groups) > 1 and _large(source, request, groups[missing[0]], len(groups)):
            self.blocks_read += source.n_blocks
            return self._keep(whole, self.engine.sum(source, request))
        if missing:
            made = self.engine.sum(GroupsOfBlocks(source, missing), StatisticOfGroups(request))
            partials |= made.groups
        read = sum(len(groups[i]) for i in missing)
        self.blocks_read += read
        self.blocks_saved += source.n_blocks - read
        size = sum(_size(partial) for partial in partials.values())
        if size > SUM_BYTES:
            return self._keep(whole, sum_in_order(partials[i] for i in range(len(groups))))
        for i in missing:
            partials[i] = self._keep(names[i], partials[i])
        self.names |= set(names)
        return sum_in_order(partials[i] for i in range(len(groups)))

    def run(self, solver: S, source: BlockSource) -> S:
        """As the engine's `run`. The leading passes that the solver says to be worth keeping
        (`PassSolver`) are not made again where their statistics are there."""
        wanted = getattr(solver, "saved_passes", 0)
        for _ in range(wanted):
            names = None if solver.done else _names(source, solver.request(), _whole(source))
            total = self.folder.load(names[0]) if names else None
            if names is None or total is None:
                break
            self.names.add(names[0])
            self.passes_saved += 1
            wanted -= 1
            solver = solver.step(total)
        made = 0

        def seen(request: PassRequest, total: Accumulator) -> None:
            nonlocal made
            made += 1
            self.passes += 1
            names = _names(source, request, _whole(source)) if made <= wanted else None
            if names:
                self._keep(names[0], total)

        return solver if solver.done else self.engine.run(solver, source, seen=seen)

    def _keep(self, name: str, statistic: Any) -> Any:
        """The statistic as it will be read again, kept unless it is too large."""
        if _size(statistic) > SUM_BYTES:
            return statistic
        content = statistic_bytes(statistic)
        self.folder.save(name, content)
        self.names.add(name)
        return statistic_of_bytes(content)


def _names(source: BlockSource, request: PassRequest, groups: Sequence[range]) -> list[str] | None:
    """Names of the groups' files; None for a source whose content has no lasting identity."""
    part_key = getattr(source, "part_key", None)
    if part_key is None:
        return None
    wanted = [STATISTICS_VERSION, request_key(request)]
    return [digest([*wanted, part_key(group)])[:32] for group in groups]


def _whole(source: BlockSource) -> list[range]:
    return [range(source.n_blocks)]


def _size(statistic: Accumulator) -> int:
    return sum(np.asarray(array).nbytes for array in statistic.to_arrays().values())


def _large(source: BlockSource, request: PassRequest, group: range, n_groups: int) -> bool:
    """Whether statistics of all groups, each as large as that of two rows, would be too large."""
    rows = {name: array[:2] for name, array in source.read(group.start)[1].items()}
    return _size(request.statistic(request.prepare(rows))) * n_groups > SUM_BYTES
