"""Blocks that several actors make: in parts, which lie in files until their block is whole.

The unit of work is not the storage block. With small codes 5,000 rows are one block, with large
ones 1,000 are, and one actor would make it alone. So blocks are cut into parts of whole batches;
an actor writes what it made of one into a file beside the store, and the driver puts a block's
files together and commits it. A row's place in its batch is its place in the block modulo the
batch size, so parts give the bits of whole blocks, whoever makes them, in whatever order. Parts of
a run that was killed are there for the next.
"""

from __future__ import annotations

import shutil
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rich.filesize import decimal

from pipelines.engine.blocks import (
    BlockEngine,
    BlockWork,
    Done,
    Progress,
    StageWork,
    Task,
    run_blocks,
)
from schemas.atomic import PARTIAL_SUFFIX, is_partial, replacing
from schemas.errors import StoreError
from schemas.fingerprint import digest
from schemas.store.latent_store import LatentStore
from schemas.store.lock import StoreLock
from schemas.store.reasons import TRANSIENT

# ---------------------------------------------------------------------------------------------
# Sharing out


@dataclass(frozen=True)
class Sharing:
    """How blocks are cut.

    actors : that work at a time
    at_once : rows that must stay together: a part has a whole number of them, but for the block's
        last one
    most : rows of a part, so that what a kill loses is made anew soon
    probe : the first part is a single batch, which tells what the others will cost
    """

    actors: int
    at_once: int
    most: int = 1 << 30
    probe: bool = False

    def parts(
        self, blocks: Sequence[BlockWork], held: Mapping[int, Sequence[slice]] | None = None
    ) -> list[BlockWork]:
        """The parts to make, in the blocks' order.

        held : block -> its rows that are made already

        A part is half of an actor's share of the rows that are left: large at first (where there
        are many more blocks than actors, whole blocks), small at the end, so that all actors end
        together (guided self-scheduling, Polychronopoulos and Kuck 1987).
        """
        gaps = [
            (work, rows) for work in blocks for rows in _gaps(work, (held or {}).get(work.block))
        ]
        left = sum(rows.stop - rows.start for _, rows in gaps)
        found: list[BlockWork] = []
        for work, rows in gaps:
            start = rows.start
            if self.probe and not found and left > self.at_once:
                start = min(start + self.at_once, rows.stop)
                found.append(work.part(slice(rows.start, start)))
                left -= start - rows.start
            while start < rows.stop:
                stop = start + self._size(rows.stop - start, left)
                found.append(work.part(slice(start, stop)))
                left -= stop - start
                start = stop
        return found

    def _size(self, gap: int, left: int) -> int:
        """Rows of the next part, of a gap that is cut evenly."""
        share = -(-left // (2 * self.actors)) if self.actors > 1 else left
        most = min(max(self.most // self.at_once, 1), -(-share // self.at_once))
        batches = -(-gap // self.at_once)
        parts = -(-batches // most)
        return min(gap, -(-batches // parts) * self.at_once)


def _gaps(work: BlockWork, held: Sequence[slice] | None) -> Iterator[slice]:
    """The rows of a block between those that are made already."""
    start = 0
    for rows in [*(held or ()), slice(len(work), len(work))]:
        if start < rows.start:
            yield slice(start, rows.start)
        start = rows.stop


@dataclass(frozen=True)
class Probe:
    """What the first batch of a run took, and what the rest will by that.

    rows, seconds : of the batch. left : rows in all, with it
    actors : that have work. row_bytes : stored of a row
    """

    rows: int
    seconds: float
    left: int
    actors: int
    row_bytes: int

    @property
    def total_s(self) -> float:
        """Of all rows, on all actors."""
        return self.left * self.seconds / self.rows / self.actors

    def __str__(self) -> str:
        each, many = self.seconds / self.rows, "s" if self.actors > 1 else ""
        took = f"{_two_digits(each)} s" if each >= 1 else f"{_two_digits(1000 * each)} ms"
        whole = f"{self.total_s:.0f} s" if self.total_s < 60 else f"{self.total_s / 60:.1f} min"
        return (
            f"{took} an image in a batch of {self.rows}: about {whole} for "
            f"{self.left} images on {self.actors} actor{many}, about "
            f"{decimal(self.left * self.row_bytes)} before compression"
        )


def _two_digits(value: float) -> str:
    """Of at least two significant digits, never with an exponent."""
    return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"


# ---------------------------------------------------------------------------------------------
# Files of parts


@dataclass(frozen=True)
class PartFiles:
    """What was made of blocks that are not whole yet, in a folder beside their store.

    It is named as what is half-written, so that `gc` takes away what a killed run left of it.
    """

    folder: Path

    @classmethod
    def beside(cls, store_path: str) -> Self:
        """Of a store."""
        return cls(Path(f"{store_path}.{digest('parts')[:32]}{PARTIAL_SUFFIX}"))

    def write(
        self,
        store: LatentStore,
        stage: str,
        work: BlockWork,
        batch_size: int,
        arrays: Mapping[str, NDArray[Any]],
        status: NDArray[np.uint8],
        reason: NDArray[np.uint8],
    ) -> None:
        """Commit a whole block; of a part keep a file until the others are there.

        batch_size : what it was computed with; the rest of the block must be, too
        """
        fp = work.stages[stage].fp
        if work.whole:
            store.write_block(stage, work.block, arrays, status, reason, fp)
            return
        path = self._path(stage, _key(fp, batch_size), work.rows)
        with replacing(path, durable=False) as file:  # its checksums tell what a power cut left
            np.savez(file, allow_pickle=False, **{"status": status, "reason": reason, **arrays})

    def held(self, stage: str, work: StageWork, batch_size: int) -> list[slice]:
        """Rows of the files of a block that are whole, in order, none twice; none that hold rows
        which could not be read then, and perhaps can be now."""
        found: list[slice] = []
        for path in self.folder.glob(f"{stage}.{_key(work.fp, batch_size)}.*.npz"):
            first, _, stop = path.name.split(".")[-2].partition("-")
            found.append(slice(int(first), int(stop)))
        kept: list[slice] = []
        for rows in sorted(found, key=lambda rows: (rows.start, -rows.stop)):
            if kept and rows.start < kept[-1].stop:
                continue
            part = self.read(stage, work, batch_size, rows)
            if part is not None and not np.isin(part["reason"], list(TRANSIENT)).any():
                kept.append(rows)
        return kept

    def read(
        self, stage: str, work: StageWork, batch_size: int, rows: slice
    ) -> dict[str, NDArray[Any]] | None:
        """What lies in a file; None where it is damaged or missing."""
        try:
            path = self._path(stage, _key(work.fp, batch_size), rows)
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None

    def drop(self, stage: str, work: StageWork, batch_size: int) -> None:
        """Delete the files of a block."""
        for path in self.folder.glob(f"{stage}.{_key(work.fp, batch_size)}.*"):
            path.unlink(missing_ok=True)

    def keep(self, stage: str, work: Iterable[StageWork], batch_size: int) -> None:
        """Delete a stage's files but those of blocks that are still to be made."""
        kept = {f"{stage}.{_key(one.fp, batch_size)}" for one in work}
        for path in self.folder.glob(f"{stage}.*"):
            if is_partial(path) or ".".join(path.name.split(".")[:-2]) not in kept:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Delete the folder, where it is empty."""
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, stage: str, key: str, rows: slice) -> Path:
        return self.folder / f"{stage}.{key}.{rows.start}-{rows.stop}.npz"


def _key(fp: bytes, batch_size: int) -> str:
    return f"{fp.hex()[:32]}.{batch_size}"


# ---------------------------------------------------------------------------------------------
# The driver's side


@dataclass
class _Block:
    """A block that is to be made.

    held : rows of the files that an earlier run left
    parts : to be made now. missing : of them, not made yet. made : stage -> rows of those that are
    """

    work: BlockWork
    held: list[slice]
    parts: int = 0
    missing: int = 0
    made: dict[str, list[slice]] = field(default_factory=lambda: defaultdict(list))


class SharedBlocks:
    """Blocks that are to be made, as they are cut and put together again.

    batch_sizes : of each stage
    waiting : stage -> all that its blocks need, also those that are not made now: files of others
        are deleted
    """

    def __init__(
        self,
        store: LatentStore,
        blocks: Sequence[BlockWork],
        sharing: Sharing,
        batch_sizes: Mapping[str, int],
        waiting: Mapping[str, Sequence[StageWork]],
    ) -> None:
        self.store, self.batch_sizes = store, batch_sizes
        self.files = PartFiles.beside(store.path)
        self.n_blocks = len(blocks)
        if blocks:
            for stage, work in waiting.items():
                self.files.keep(stage, work, batch_sizes[stage])
        self._blocks = {work.block: _Block(work, self._held(work)) for work in blocks}
        self.parts = sharing.parts(blocks, {n: block.held for n, block in self._blocks.items()})
        for part in self.parts:
            self._blocks[part.block].parts += 1
            self._blocks[part.block].missing += 1

    def _held(self, work: BlockWork) -> list[slice]:
        """Rows of a block of which there are files of all its stages."""
        found = [self.files.held(s, w, self.batch_sizes[s]) for s, w in work.stages.items()]
        return [rows for rows in found[0] if all(rows in other for other in found[1:])]

    def complete(self) -> int:
        """Commit the blocks whose parts are all there already; how many these are."""
        ready = [block for block in self._blocks.values() if not block.parts]
        return sum(self._finish(block) for block in ready)

    def add(self, part: BlockWork, receipt: Mapping[str, Any]) -> bool | None:
        """Note what a worker made, and commit its block when that was the last part.

        None while parts are missing; else whether anything of the block has changed.
        """
        block = self._blocks[part.block]
        block.missing -= 1
        if part.whole:
            return not receipt.get("unchanged")
        for stage in receipt.get("stages", ()):
            block.made[stage].append(part.rows)
        return None if block.missing else self._finish(block)

    def _finish(self, block: _Block) -> bool:
        """Commit the stages of which all parts were made, and delete the files; whether there are
        any. Parts that were left as they are, for their rows still cannot be read, leave the block
        as it is."""
        work = block.work
        stages = [stage for stage in work.stages if len(block.made[stage]) == block.parts]
        for stage in stages:
            arrays = self._together(block, stage)
            flags = arrays.pop("status"), arrays.pop("reason")
            self.store.write_block(stage, work.block, arrays, *flags, work.stages[stage].fp)
        for stage, own in work.stages.items():
            self.files.drop(stage, own, self.batch_sizes[stage])
        self.files.close()
        return bool(stages)

    def _together(self, block: _Block, stage: str) -> dict[str, NDArray[Any]]:
        """All rows of a block, with their status and reason."""
        work, found = block.work, dict[str, NDArray[Any]]()
        for rows in [*block.held, *block.made[stage]]:
            part = self.files.read(stage, work.stages[stage], self.batch_sizes[stage], rows)
            if part is None:
                raise StoreError(
                    f"rows {rows.start!r} to {rows.stop!r} of {work.title} cannot be read from "
                    f"{str(self.files.folder)!r}, where they were written: run the same command "
                    "again to make them anew"
                )
            if found and part.keys() != found.keys():
                raise StoreError(
                    f"parts of {work.title} in {str(self.files.folder)!r} hold "
                    f"{sorted(found.keys() ^ part.keys())!r} in some rows alone: delete that "
                    "folder, and run the same command again"
                )
            for name, values in part.items():
                if name not in found:
                    found[name] = np.empty((len(work), *values.shape[1:]), values.dtype)
                found[name][rows] = values
        return found


def run_shared(
    engine: BlockEngine,
    task: Task,
    shared: SharedBlocks,
    lock: StoreLock,
    *,
    n_blocks: int,
    n_rows: int,
    actors: int | None,
    progress: Progress | None,
    tell: Callable[[Mapping[str, Any]], None] | None = None,
) -> Done:
    """`run_blocks`, for blocks that are shared out.

    tell : is told the first receipt, of a batch
    """
    ready = shared.complete()
    untold = [] if tell is None else [tell]

    def made(part: BlockWork, receipt: Mapping[str, Any]) -> bool | None:
        if untold and not receipt.get("unchanged"):
            untold.pop()(receipt)
        return shared.add(part, receipt)

    done = run_blocks(
        engine,
        task,
        shared.parts,
        lock,
        n_blocks=n_blocks,
        n_todo=shared.n_blocks,
        n_rows=n_rows,
        actors=actors,
        progress=progress,
        made=made,
    )
    done.blocks_done += ready
    return done
