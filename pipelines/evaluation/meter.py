"""Measure what each direction does: edit samples, annotate the pictures, compare.

Samples are codes of random rows of the store, of held-out levels of the hold-out factor where
there is one, so that a direction is measured on persons it need not have been fitted on, or draws
from the generator's own prior. The numbers are of the drawn pictures, never of the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
from scipy.stats import rankdata

from generators.annotators.kinds.catalog import role_of
from pipelines.analyses.measured import NAMED, told_apart
from pipelines.evaluation.samples import Samples
from pipelines.evaluation.strips import Edits, drawn
from pipelines.folder.likeness import EMBEDDING, cosines
from schemas.directions.direction_set import Direction, DirectionSet
from schemas.fingerprint import digest
from transforms.images.annotate import annotate_batch

if TYPE_CHECKING:
    from generators.annotators.card import AnnotatorCard
    from generators.protocols import Annotator, Generator

Progress = Callable[[int, int], None]

Effects = Mapping[str, tuple[dict[str, Any], np.ndarray]]
"""Of each direction by name: its effect, see `describe_effect`, and pictures of some samples."""
RISE = 0.3
"""A sample counts as changed when the target's probability rises by at least this much."""
BATCH = 50
"""Pictures drawn and measured at a time."""


def no_progress(done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """Codes to be edited along a direction, drawn and measured at some strengths.

    strengths : in standard deviations. shown : of so many of the first codes the pictures are kept.
    rows : of so many of the first codes at all, None for every one. measured : or only drawn.
    """

    direction: Direction
    strengths: tuple[float, ...]
    shown: int = 0
    rows: int | None = None
    measured: bool = True

    def count(self, n: int) -> int:
        """Of n codes those that are edited."""
        return n if self.rows is None else min(self.rows, n)


class Edited(NamedTuple):
    """values : float64 (rows, strengths) by name, NaN where an annotator finds no face or gives no
    finite number. pictures : uint8 (shown, strengths, h, w, 3). likeness : of each annotator of
    embeddings the cosine to the picture before the edit, float64 (rows, strengths)."""

    values: dict[str, np.ndarray]
    pictures: np.ndarray
    likeness: Mapping[str, np.ndarray] = {}


class EditMeter(Protocol):
    """What draws and measures edits: a `Meter`, here or on actors
    (`pipelines.evaluation.actors_meter.ActorsMeter`)."""

    def names(self, kind: str) -> list[str]:
        """Names of all that is measured of one role: "scores", "pose" (angles), "quantities"; of
        "embedding" the annotators' names."""
        ...

    def edited(
        self,
        samples: Samples,
        edits: Sequence[Sweep],
        progress: Progress = no_progress,
    ) -> list[Edited]:
        """Every edit of the samples, in the edits' order."""
        ...


Named = TypeVar("Named", "Annotator", "AnnotatorCard")


def attributes(annotators: Sequence[Named]) -> list[tuple[Named, tuple[str, ...]]]:
    """Annotators of scores, pose and quantities with the names of what they measure; names that two
    of them share are told apart as in the analyses, see `pipelines.analyses.measured`."""
    used = [a for a in annotators if role_of(a.kind) in NAMED]
    called = told_apart({a.name: a.names for a in used})
    return [(a, called[a.name]) for a in used]


def names_of(annotators: Sequence[Named], role: str) -> list[str]:
    """See `EditMeter.names`."""
    if role == EMBEDDING:
        return [a.name for a in annotators if role_of(a.kind) == EMBEDDING]
    return [n for a, names in attributes(annotators) for n in names if role_of(a.kind) == role]


@dataclass(frozen=True, eq=False)
class Meter:
    """Draws edited codes and measures the pictures, in this process.

    annotators : see `attributes`, and those of embeddings; others are ignored. batch_size :
        pictures drawn at a time. Pieces of `BATCH` codes therefore end in full batches, whatever
        the strengths.
    """

    generator: Generator
    annotators: Sequence[Annotator]
    batch_size: int = BATCH

    def names(self, kind: str) -> list[str]:
        """See `EditMeter`."""
        return names_of(self.annotators, kind)

    def measure(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Measurements of uint8 images (n, h, w, 3): name -> float64 (n,), NaN where an annotator
        finds no face, or gives no finite number."""
        starts = range(0, len(images), self.batch_size)
        return _joined([self._measured(images[s : s + self.batch_size]) for s in starts])

    def edited(
        self,
        samples: Samples,
        edits: Sequence[Sweep],
        progress: Progress = no_progress,
    ) -> list[Edited]:
        """See `EditMeter`."""
        done = []
        for edit in edits:
            own = samples[: edit.count(len(samples))]
            done.append(self.edit(own, edit, edit.shown))
            progress(len(done), len(edits))
        return done

    def edit(self, samples: Samples, edit: Sweep, shown: int) -> Edited:
        """An edit of these samples; pictures of the first `shown` ones."""
        strengths = len(edit.strengths)
        edits = Edits(edit.direction, np.asarray(edit.strengths, np.float64))
        measured: list[dict[str, np.ndarray]] = []
        seen: list[dict[str, np.ndarray]] = []
        kept: list[np.ndarray] = []
        left = shown * strengths
        for images in drawn(self.generator, samples, self.batch_size, edits):
            if edit.measured:
                measured.append(self._measured(images))
                seen.append(self._embedded(images))
            if left > 0 or not kept:
                kept.append(images[: max(left, 0)].copy())
            left -= len(images)
        pictures = np.concatenate(kept)
        values, vectors = _joined(measured), _joined(seen)
        before = self._before(samples) if vectors else {}
        return Edited(
            {name: v.reshape(-1, strengths) for name, v in values.items()},
            pictures.reshape(-1, strengths, *pictures.shape[1:]),
            {
                name: cosines(v, np.repeat(before[name], strengths, 0)).reshape(-1, strengths)
                for name, v in vectors.items()
            },
        )

    def _measured(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """`measure` of one batch."""
        out: dict[str, np.ndarray] = {}
        for annotator, names in self._called:
            columns = annotate_batch(annotator, images).values.astype(np.float64).T
            out.update(zip(names, columns, strict=True))
        return out

    def _embedded(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Embeddings of one batch by annotator, float32 (n, d), NaN where there is no face."""
        used = [a for a in self.annotators if role_of(a.kind) == EMBEDDING]
        return {a.name: annotate_batch(a, images).values for a in used}

    def _before(self, samples: Samples) -> dict[str, np.ndarray]:
        """Embeddings of the samples as they are. The next direction edits the same ones."""
        key = digest(samples.identity())
        if key not in self._unedited:
            pictures = drawn(self.generator, samples, self.batch_size)
            self._unedited[key] = _joined([self._embedded(images) for images in pictures])
        return self._unedited[key]

    @cached_property
    def _unedited(self) -> dict[str, dict[str, np.ndarray]]:
        return {}

    @cached_property
    def _called(self) -> list[tuple[Annotator, tuple[str, ...]]]:
        return attributes(self.annotators)


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    names = list(parts[0]) if parts else []
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def spearman(strengths: Sequence[float], values: np.ndarray) -> np.ndarray:
    """Rank correlation of each row of values (n, strengths) with the strengths, float64 (n,).

    Rows without any change have correlation 0.
    """
    a = rankdata(np.asarray(strengths, dtype=np.float64))
    b = rankdata(values, axis=1)
    a = a - a.mean()
    b = b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum() * (b * b).sum(axis=1))
    return np.divide(b @ a, scale, out=np.zeros(len(b)), where=scale > 0)


def mean_of(values: np.ndarray) -> float | None:
    """Mean of those of values (n,) that were measured (are not NaN); None where none was."""
    return means_of(values[:, None])[0]


def means_of(values: np.ndarray) -> list[float | None]:
    """`mean_of` each column of values (n, k)."""
    measured = np.isfinite(values)
    counts = measured.sum(axis=0)
    sums = np.where(measured, values, 0.0).sum(axis=0)
    return [float(s / n) if n else None for s, n in zip(sums, counts, strict=True)]


def describe_effect(
    direction: Direction,
    strengths: Sequence[float],
    scores: Mapping[str, np.ndarray],
    pose: Mapping[str, np.ndarray],
    quantities: Mapping[str, np.ndarray] | None = None,
    likeness: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """What a direction did, from measurements (samples, strengths) by name, NaN for none.

    The change is measured between strength 0 and the largest strength, in the samples that were
    measured at both: ``pairs`` counts these, by name. ``rise_fraction`` is the share of them whose
    target rose by at least ``RISE``; ``rise_fraction_of_possible`` is the share among those that
    could rise that far (a probability above 0.7 cannot). The means in ``scores``, ``pose`` and
    ``quantities`` are of the samples measured at that strength, rank correlations of those measured
    at every one; ``likeness`` is the mean cosine to the picture before the edit, and of how many
    samples it is at the largest strength. What no sample tells is None.
    """
    zero, top = int(np.argmin(np.abs(strengths))), int(np.argmax(strengths))
    quantities = quantities or {}
    every = {**scores, **pose, **quantities}
    changes = {k: v[:, top] - v[:, zero] for k, v in every.items()}
    change = {k: mean_of(changes[k]) for k in scores}
    target: str | None = direction.provenance.get("target")
    row: dict[str, Any] = {
        "name": direction.name,
        "method": direction.method,
        "space": direction.space,
        "target": target,
        "sd": direction.sd,
        "layers": direction.layers,
        "scores": {k: means_of(v) for k, v in scores.items()},
        "pose": {k: means_of(v) for k, v in pose.items()},
        "mean_change": change,
        "pose_change": {k: mean_of(changes[k]) for k in pose},
        "pairs": {k: int(np.isfinite(c).sum()) for k, c in changes.items()},
    }
    if quantities:
        row["quantities"] = {k: means_of(v) for k, v in quantities.items()}
        row["quantities_change"] = {k: mean_of(changes[k]) for k in quantities}
    if likeness:
        row["likeness"] = {
            k: {"mean": means_of(v), "pairs": int(np.isfinite(v[:, top]).sum())}
            for k, v in likeness.items()
        }
    others = {k: c for k, c in change.items() if k != target and c is not None}
    if others:
        worst = max(others, key=lambda k: abs(others[k]))
        row["largest_other"] = {"attribute": worst, "change": others[worst]}
    if target is not None and target in scores:
        known = np.isfinite(changes[target])
        rise = changes[target][known] >= RISE
        possible = scores[target][known, zero] <= 1 - RISE
        row["rise_fraction"] = _share(rise)
        row["rise_fraction_of_possible"] = _share(rise[possible])
        row["samples_that_could_rise"] = int(possible.sum())
    if target is not None and (target in pose or target in quantities):
        whole = np.isfinite(every[target]).all(axis=1)
        row["spearman"] = {target: mean_of(spearman(strengths, every[target][whole]))}
    return row


def _share(flags: np.ndarray) -> float | None:
    return float(flags.mean()) if len(flags) else None


def evaluate_directions(
    meter: EditMeter,
    directions: DirectionSet,
    samples: Samples,
    strengths: Sequence[float],
    strip_rows: int,
    progress: Progress = no_progress,
    known: Effects | None = None,
) -> Effects:
    """Edit samples along every direction and measure.

    known : of directions that were measured before in the very same way

    Returns of each direction its effect and the first `strip_rows` samples' pictures, uint8
    (strip_rows, strengths, R, R, 3). The codes as they are, at strength 0, are drawn once.
    """
    known = known or {}
    strengths = sorted(float(s) for s in {*strengths, 0.0})
    zero = strengths.index(0.0)
    moved = tuple(s for s in strengths if s != 0.0)
    missing = [d for d in directions if d.name not in known]
    edits = [Sweep(d, (0.0,), strip_rows) for d in missing[:1]]
    edits += [Sweep(d, moved, strip_rows) for d in missing]
    found = meter.edited(samples, edits, progress)
    still, of = found[:1], dict(zip([d.name for d in missing], found[1:], strict=True))
    roles = [meter.names(role) for role in NAMED]
    measured: dict[str, tuple[dict[str, Any], np.ndarray]] = {}
    for direction in directions:
        if direction.name in known:
            measured[direction.name] = known[direction.name]
            continue
        values, pictures, likeness = of[direction.name]
        like = {
            k: np.insert(v, zero, still[0].likeness[k][:, 0], axis=1) for k, v in likeness.items()
        }
        full = {k: np.insert(v, zero, still[0].values[k][:, 0], axis=1) for k, v in values.items()}
        scores, pose, quantities = ({name: full[name] for name in names} for names in roles)
        effect = describe_effect(direction, strengths, scores, pose, quantities, like)
        strip = np.insert(pictures, zero, still[0].pictures[:, 0], axis=1)
        measured[direction.name] = effect, strip
    return measured
