"""Edits drawn and measured by actors, in pieces that outlive a killed run.

A piece is a range of codes edited along one direction. Its name is the digest of all that its
numbers depend on; what a worker measured lies under that name in a folder, so that nothing passes
through Ray but names and counts, and a run that goes on measures only what is missing. The ranges
are the same for any number of actors, and so are the bits.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

import generators
from generators.annotators.card import AnnotatorCard, read_card
from pipelines.engine.blocks import BlockEngine, run_blocks, use_threads
from pipelines.engine.writer_guard import Guard
from pipelines.evaluation.files import SO_FAR
from pipelines.evaluation.meter import (
    BATCH,
    Edited,
    Meter,
    Progress,
    Sweep,
    names_of,
    no_progress,
)
from pipelines.evaluation.samples import Samples
from pipelines.folder.likeness import EMBEDDING
from pipelines.sources.block_images import in_halves
from schemas.atomic import is_partial, replacing
from schemas.directions.direction_set import DirectionSet
from schemas.errors import LatentflowError, UsageError
from schemas.fingerprint import digest
from schemas.spec import RunSpec
from schemas.store.lock import StoreLock

#: Raised whenever what a piece measures changes for the same inputs.
VERSION = 1


@dataclass(frozen=True)
class Models:
    """What draws and what measures, as a worker finds it.

    generator : its source, whose model must have the fingerprint ``generator_fp``.
    annotators : uri and name of each; trust : TorchScript among them may be loaded.
    """

    generator: generators.Source
    generator_fp: str
    annotators: tuple[tuple[str, str | None], ...] = ()
    trust: bool = False

    @cached_property
    def cards(self) -> list[AnnotatorCard]:
        """Descriptions of the annotators."""
        return [read_card(uri, name) for uri, name in self.annotators]

    def load(self, device: str, threads: int, cuda: bool) -> Meter:
        """Raises UsageError when a model is not the one that it was when the work was listed."""
        from generators.annotators import load_annotator

        model = generators.load(self.generator, device)
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if cuda else None
        loaded = [
            load_annotator(uri, name, trust=self.trust, threads=threads, providers=providers)
            for uri, name in self.annotators
        ]
        was = [self.generator_fp, *(card.fingerprint for card in self.cards)]
        now = [model.facts.fingerprint, *(annotator.fingerprint for annotator in loaded)]
        sources = [self.generator, *(uri for uri, _ in self.annotators)]
        for source, found, expected in zip(sources, now, was, strict=True):
            if found != expected:
                raise UsageError(
                    f"{source!r} has fingerprint {found!r}, the run began with "
                    f"{expected!r}: the file changed; start again"
                )
        return Meter(model, loaded)


@dataclass(frozen=True)
class Piece:
    """Codes ``start`` to ``stop`` of an edit. key : see `pieces_of`. pictures : that it draws."""

    UNITS: ClassVar[str] = "pieces"

    edit: int
    start: int
    stop: int
    key: str
    pictures: int

    @property
    def title(self) -> str:
        """See `pipelines.engine.blocks.Work`."""
        return f"edit {self.edit!r} of codes {self.start!r} to {self.stop!r}"

    def __len__(self) -> int:
        return self.pictures

    def to_item(self) -> dict[str, Any]:
        """See `pipelines.engine.blocks.Work`."""
        return dict(vars(self))

    @classmethod
    def from_batch(cls, batch: Mapping[str, NDArray[Any]]) -> Self:
        """See `pipelines.engine.blocks.Work`."""
        edit, start, stop, pictures = (
            int(batch[name][0]) for name in ("edit", "start", "stop", "pictures")
        )
        return cls(edit, start, stop, str(batch["key"][0]), pictures)


def pieces_of(models: Models, samples: Samples, edits: Sequence[Sweep]) -> list[Piece]:
    """The work list, edit by edit, in ranges of `BATCH` codes."""
    common = [
        VERSION,
        models.generator_fp,
        samples.space,
        [[card.name, card.fingerprint] for card in models.cards],
        BATCH,
        list(samples.codes.shape),
        *(["likeness"] if names_of(models.cards, EMBEDDING) else []),
    ]
    ranges = {}
    for start in range(0, len(samples), BATCH):
        ranges[start] = digest([*common, *samples[start : start + BATCH].identity()])
    pieces = []
    for number, edit in enumerate(edits):
        d = edit.direction
        own = [d.space, d.sd, d.layers, list(edit.strengths), edit.measured]
        moved = digest([*own, np.ascontiguousarray(d.vector, "<f8").tobytes()])
        end = edit.count(len(samples))
        for start in range(0, end, BATCH):
            stop = min(start + BATCH, end)
            key = digest([ranges[start], moved, stop - start, shown(edit, start, stop)])
            pieces.append(Piece(number, start, stop, key, (stop - start) * len(edit.strengths)))
    return pieces


def shown(edit: Sweep, start: int, stop: int) -> int:
    """How many of a range's pictures are kept."""
    return min(max(edit.shown - start, 0), stop - start)


@dataclass(frozen=True, eq=False)
class EditTask:
    """How an actor draws and measures; see `pipelines.engine.blocks.Task`."""

    models: Models
    samples: Samples
    edits: tuple[Sweep, ...]
    folder: str
    threads: int = 1
    cuda: bool = False

    def build(self, guard: Guard) -> EditWorker:
        """Load the models."""
        return EditWorker(self, guard)


class EditWorker:
    """Holds generator and annotators; makes one piece at a time."""

    def __init__(self, task: EditTask, guard: Guard) -> None:
        self.task, self.guard = task, guard
        device = use_threads(task.threads, task.cuda)
        self.meter = task.models.load(device, task.threads, task.cuda)

    def process(self, work: Piece) -> dict[str, Any]:
        """Measure a piece and write it; see `pipelines.engine.blocks.Worker`."""
        edit, samples = self.task.edits[work.edit], self.task.samples[work.start : work.stop]
        kept = shown(edit, work.start, work.stop)

        def measure(rows: slice) -> Edited:
            return self.meter.edit(samples[rows], edit, max(kept - rows.start, 0))

        def give_up(position: int) -> None:
            raise LatentflowError(
                f"one code's {len(edit.strengths)!r} images do not fit into memory: let fewer "
                "actors share it, and run again"
            )

        parts, shrunk = in_halves(measure, slice(0, len(samples)), give_up)
        found = joined([part for _, part in parts])
        self.guard.check()
        write_piece(Path(self.task.folder), work.key, found)
        return {"shrunk": shrunk}


def joined(parts: Sequence[Edited]) -> Edited:
    """Consecutive ranges of one edit as a whole."""
    if len(parts) == 1:
        return parts[0]
    values = {name: np.concatenate([p.values[name] for p in parts]) for name in parts[0].values}
    like = {name: np.concatenate([p.likeness[name] for p in parts]) for name in parts[0].likeness}
    return Edited(values, np.concatenate([p.pictures for p in parts]), like)


def write_piece(folder: Path, key: str, found: Edited) -> None:
    """Write what was measured under its name, whole or not at all."""
    arrays: dict[str, np.ndarray] = {"pictures": found.pictures}
    for kind, by_name in (("", found.values), ("likeness_", found.likeness)):
        arrays[f"{kind}names"] = np.array(list(by_name), dtype=str)
        arrays[f"{kind}values"] = np.stack(list(by_name.values())) if by_name else np.zeros(0)
    with replacing(folder / f"{key}.npz") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_piece(folder: Path, key: str) -> Edited | None:
    """What was measured, None where nothing is or where a byte of it has changed."""
    try:
        with (
            open(folder / f"{key}.npz", "rb") as file,
            np.load(file, allow_pickle=False) as found,
        ):
            values, likeness = (
                dict(zip(found[f"{kind}names"].tolist(), found[f"{kind}values"], strict=True))
                for kind in ("", "likeness_")
            )
            return Edited(values, found["pictures"], likeness)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


@dataclass(eq=False)
class ActorsMeter:
    """An `pipelines.evaluation.meter.EditMeter` that works on an engine's actors.

    folder : where pieces lie, until `clear`; seen by all actors. lock : of the run that writes them
    actors, threads : number of actors, CPU threads of each
    """

    models: Models
    engine: BlockEngine
    lock: StoreLock
    folder: Path
    actors: int | None = None
    threads: int = 1
    found: dict[str, Edited] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        spec: RunSpec,
        directions: DirectionSet,
        engine: BlockEngine,
        lock: StoreLock | None,
        out: Path,
        trust: bool,
    ) -> Self:
        """Of the run in ``out``, with its inversion's actors.

        Raises RuntimeError without a lock.
        """
        if lock is None:
            raise RuntimeError("edits are measured under the lock of the run's store: take it")
        annotators = tuple((a.model, a.name) for a in spec.annotate)
        models = Models(spec.generator, directions.generator_fp, annotators, trust)
        return cls(models, engine, lock, out / SO_FAR, spec.invert_actors, spec.invert.threads)

    def names(self, kind: str) -> list[str]:
        """See `pipelines.evaluation.meter.EditMeter`."""
        return names_of(self.models.cards, kind)

    def edited(
        self,
        samples: Samples,
        edits: Sequence[Sweep],
        progress: Progress = no_progress,
    ) -> list[Edited]:
        """See `pipelines.evaluation.meter.EditMeter`. progress : in pictures.

        Raises what `pipelines.engine.blocks.run_blocks` raises.
        """
        pieces = pieces_of(self.models, samples, edits)
        self._forget({piece.key for piece in pieces})
        missing = [p for p in pieces if self._read(p.key) is None]
        task = EditTask(
            self.models,
            samples,
            tuple(edits),
            str(self.folder.absolute()),
            self.threads,
            self.engine.gpus_per_actor > 0,
        )
        run_blocks(
            self.engine,
            task,
            missing,
            self.lock,
            n_blocks=len(pieces),
            n_todo=len(missing),
            n_rows=sum(map(len, pieces)),
            actors=self.actors,
            progress=progress,
        )
        return [
            joined([self._made(p) for p in pieces if p.edit == number])
            for number in range(len(edits))
        ]

    def clear(self) -> None:
        """Remove the pieces: what they say is stored elsewhere by now."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _forget(self, keys: set[str]) -> None:
        """Remove pieces that nobody asks for any more, and what a killed worker was writing."""
        for path in _files(self.folder):
            if is_partial(path) or path.stem not in keys:
                path.unlink(missing_ok=True)

    def _read(self, key: str) -> Edited | None:
        if key not in self.found:
            piece = read_piece(self.folder, key)
            if piece is None:
                return None
            self.found[key] = piece
        return self.found[key]

    def _made(self, piece: Piece) -> Edited:
        found = self._read(piece.key)
        if found is None:
            raise LatentflowError(
                f"{piece.title} was measured and is not in {str(self.folder)!r}: all actors must "
                "see this folder; run again"
            )
        return found


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(folder.iterdir())
