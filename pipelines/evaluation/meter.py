"""Measure what each direction does: edit samples, annotate the pictures, compare.

Samples are codes of random rows of the store, of held-out levels of the hold-out factor where
there is one, so that a direction is measured on persons it need not have been fitted on, or draws
from the generator's own prior. The numbers are of the drawn pictures, never of the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from pipelines.analyses.measured import NAMED, told_apart
from pipelines.evaluation.strips import edit_images
from schemas.directions.direction_set import Direction, DirectionSet
from schemas.errors import UsageError
from transforms.images.annotate import annotate_batch

if TYPE_CHECKING:
    from generators.protocols import Annotator, Generator

Effects = Mapping[str, tuple[dict[str, Any], np.ndarray]]
"""Of each direction by name: its effect, see `describe_effect`, and pictures of some samples."""
RISE = 0.3
"""A sample counts as changed when the target's probability rises by at least this much."""


@dataclass(frozen=True, eq=False)
class Meter:
    """Draws edited codes and measures the pictures.

    annotators : of kind "scores" and "pose"; others are ignored. Names that two of them share are
        told apart as in the analyses, see `pipelines.analyses.measured`.
    """

    generator: Generator
    annotators: Sequence[Annotator]
    space: str
    batch_size: int = 50

    def names(self, kind: str) -> list[str]:
        """Names of all measured scores ("scores") or angles ("pose")."""
        return [n for a, names in self._called for n in names if a.kind == kind]

    def measure(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Measurements of uint8 images (n, R, R, 3): name -> float64 (n,), NaN where an annotator
        finds no face, or gives no finite number."""
        out: dict[str, np.ndarray] = {}
        for annotator, names in self._called:
            starts = range(0, len(images), self.batch_size)
            parts = [
                annotate_batch(annotator, images[s : s + self.batch_size]).values for s in starts
            ]
            columns = np.concatenate(parts).astype(np.float64).T
            out.update(zip(names, columns, strict=True))
        return out

    @cached_property
    def _called(self) -> list[tuple[Annotator, tuple[str, ...]]]:
        used = [a for a in self.annotators if a.kind in NAMED]
        called = told_apart({a.name: a.names for a in used})
        return [(a, called[a.name]) for a in used]

    def edit(self, codes: np.ndarray, direction: Direction, strengths: Sequence[float]):
        """Pictures uint8 (rows, strengths, R, R, 3) and measurements, name -> (rows, strengths)."""
        images = edit_images(
            self.generator,
            codes,
            direction,
            strengths,
            space=self.space,
            batch_size=self.batch_size,
        )
        flat = images.reshape(-1, *images.shape[2:])
        shape = images.shape[:2]
        return images, {k: v.reshape(shape) for k, v in self.measure(flat).items()}


def prior_codes(generator: Generator, space: str, n: int, seed: int, truncation_psi: float):
    """`n` codes float32 drawn from the generator's prior, seeds ``seed, seed + 1, ...``.

    A class-conditional generator's classes take turns (`generators.protocols.labels_in_turn`).
    """
    import torch

    from generators.protocols import labels_in_turn

    seeds = [seed + i for i in range(n)]
    with torch.no_grad():
        labels = labels_in_turn(generator, seeds)
        codes = generator.map(generator.z(seeds), labels, truncation_psi).cpu().numpy()
    if space == "w_plus":
        return codes
    if space == "w":
        return codes[:, 0]
    raise UsageError(f"space {space!r} cannot be sampled from the prior: use 'w' or 'w_plus'")


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
) -> dict[str, Any]:
    """What a direction did, from measurements (samples, strengths) by name, NaN for none.

    The change is measured between strength 0 and the largest strength, in the samples that were
    measured at both: ``pairs`` counts these, by name. ``rise_fraction`` is the share of them whose
    target rose by at least ``RISE``; ``rise_fraction_of_possible`` is the share among those that
    could rise that far (a probability above 0.7 cannot). The means in ``scores`` and ``pose`` are
    of the samples measured at that strength, rank correlations of those measured at every one.
    What no sample tells is None.
    """
    zero, top = int(np.argmin(np.abs(strengths))), int(np.argmax(strengths))
    changes = {k: v[:, top] - v[:, zero] for k, v in {**scores, **pose}.items()}
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
    if target is not None and target in pose:
        whole = np.isfinite(pose[target]).all(axis=1)
        row["spearman"] = {target: mean_of(spearman(strengths, pose[target][whole]))}
    return row


def _share(flags: np.ndarray) -> float | None:
    return float(flags.mean()) if len(flags) else None


def evaluate_directions(
    meter: Meter,
    directions: DirectionSet,
    codes: np.ndarray,
    strengths: Sequence[float],
    strip_rows: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    known: Effects | None = None,
    keep: Callable[[Effects], None] = lambda effects: None,
) -> Effects:
    """Edit `codes` (samples, *row_shape) along every direction and measure.

    known : of directions that were measured before in the very same way
    keep : called with what is measured so far, after each direction

    Returns of each direction its effect and the first `strip_rows` samples' pictures, uint8
    (strip_rows, strengths, R, R, 3).
    """
    strengths = sorted(float(s) for s in {*strengths, 0.0})
    zero = strengths.index(0.0)
    moved = [s for s in strengths if s != 0.0]
    score_names, pose_names = meter.names("scores"), meter.names("pose")
    measured: dict[str, tuple[dict[str, Any], np.ndarray]] = {}
    still: tuple[np.ndarray, dict[str, np.ndarray]] | None = None
    for done, direction in enumerate(directions):
        if known and direction.name in known:
            measured[direction.name] = known[direction.name]
            continue
        if still is None:
            still = meter.edit(codes, direction, [0.0])
        images, values = meter.edit(codes, direction, moved)
        full = {k: np.insert(v, zero, still[1][k][:, 0], axis=1) for k, v in values.items()}
        effect = describe_effect(
            direction,
            strengths,
            {k: full[k] for k in score_names},
            {k: full[k] for k in pose_names},
        )
        strip = np.insert(images[:strip_rows], zero, still[0][:strip_rows, 0], axis=1)
        measured[direction.name] = effect, strip
        keep(measured)
        progress(done + 1, len(directions))
    return measured
