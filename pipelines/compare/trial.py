"""What a change of the model did to directions: geometry, measured effects, verdicts.

Everything here works on two sides in memory; `pipelines.compare.diff` makes them of two runs. Old
and new directions are tried on the same samples. The verdict is computed from one half of the
samples and confirmed on the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.analyses.measured import NAMED
from pipelines.evaluation.meter import Edited, EditMeter, Progress, Sweep, mean_of, no_progress
from pipelines.evaluation.samples import Samples
from schemas.directions.direction_set import Direction, DirectionSet
from schemas.errors import DataError, UsageError
from transforms.directions.algebra import cosines, principal_angles
from transforms.drift.latent_maps import LatentMap
from transforms.drift.verdict import SHARE, SIGMAS, judge, mean_and_error

SURVIVES, REFUSED, UNKNOWN = "survives", "must not be reused", "not measured"
Changes = dict[str, np.ndarray]
"""Measure -> float64 (samples,): its change between strength 0 and the strength of the trial, NaN
where it could not be measured at both."""


@dataclass(frozen=True)
class Rule:
    """How directions are tried and judged; see `transforms.drift.verdict.judge`.

    strength : of the trial, in standard deviations of each direction
    """

    strength: float = 2.0
    share: float = SHARE
    sigmas: float = SIGMAS

    def __post_init__(self) -> None:
        if not (self.strength > 0 and np.isfinite(self.strength)):
            raise UsageError(f"strength is {self.strength!r}: give a positive number")

    def __str__(self) -> str:
        return (
            f"A direction survives when, at +{self.strength:g} sd in the new model, it changes its "
            f"target by more than {self.sigmas:g} standard errors and by at least "
            f"{self.share:.0%} of the effect that the new run's direction of the same name has "
            "there (of its own effect in the old model, where the new run has none of that name "
            "and target)."
        )


@dataclass(frozen=True, eq=False)
class Side:
    """A model with its directions and the samples.

    samples : the same on both sides, each in this model's codes
    meter : draws with this model and measures; None where the model is not available
    """

    directions: DirectionSet
    samples: Samples
    meter: EditMeter | None

    @property
    def codes(self) -> np.ndarray:
        """float32 (samples, *row_shape)."""
        return self.samples.codes

    def names(self, kind: str) -> list[str]:
        """Names of all that is measured of one role: "scores", "pose" (angles), "quantities"."""
        return [] if self.meter is None else self.meter.names(kind)


@dataclass(eq=False)
class Drift:
    """entries : one a direction, JSON; strips : "<name>/<trial>" -> uint8 (rows, 3, R, R, 3)."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    strips: dict[str, np.ndarray] = field(default_factory=dict)


TRIALS = {
    "old": "old model, old direction",
    "reused": "new model, old direction",
    "mapped": "new model, old direction mapped",
    "new": "new model, new direction",
}


class _Trials:
    """Trials of directions on one side: all are asked for, then all are drawn and measured."""

    def __init__(self, side: Side, rule: Rule, strip_rows: int) -> None:
        self.side, self.rule, self.strip_rows = side, rule, strip_rows
        self._tried: list[Direction] = []
        self._still: Edited | None = None
        self._found: list[tuple[Edited, Edited]] = []

    def ask(self, direction: Direction) -> int:
        """The number of a trial of this direction, for `result`."""
        self._tried.append(direction)
        return len(self._tried) - 1

    def run(self, progress: Progress) -> None:
        """Draw and measure what was asked for; the codes as they are once."""
        if not self._tried or self.side.meter is None:
            return
        rows, strength = self.strip_rows, self.rule.strength
        edits = [Sweep(self._tried[0], (0.0,), rows)]
        for direction in self._tried:
            edits.append(Sweep(direction, (strength,), rows))
            edits.append(Sweep(direction, (-strength,), rows, rows, measured=False))
        side, meter = self.side, self.side.meter
        self._still, *found = meter.edited(side.samples, edits, progress)
        self._found = list(zip(found[::2], found[1::2], strict=True))

    def result(self, number: int) -> tuple[Changes, np.ndarray]:
        """Changes of every measure, and the strip at minus, zero and plus the strength."""
        if self._still is None:
            raise RuntimeError("the trials have not been run yet")
        there, back = self._found[number]
        still = self._still
        changes = {name: (v - still.values[name])[:, 0] for name, v in there.values.items()}
        strip = np.concatenate([back.pictures, still.pictures, there.pictures], axis=1)
        return changes, strip

    def scales(self) -> dict[str, float]:
        """Standard deviation of every measure over the samples that have it; 0 without any."""
        values = self._still.values if self._still is not None else {}
        measured = {name: v[np.isfinite(v)] for name, v in values.items()}
        return {name: float(v.std()) if len(v) else 0.0 for name, v in measured.items()}


def on_trial(direction: Direction, generator_fp: str) -> Direction:
    """The direction as one of another model, to be measured there and nowhere else.

    Applying directions to models that they were not made for is refused; finding out what they do
    there is what a drift report is for. Nothing stores the result.
    """
    made_for = direction.provenance.get("generator_fp")
    provenance = {**direction.provenance, "generator_fp": generator_fp, "trial_of": made_for}
    return dataclasses.replace(direction, provenance=provenance)


def mapped_direction(direction: Direction, link: LatentMap, generator_fp: str) -> Direction:
    """The direction through a map of codes, for a trial: a strength moves as far as it did, mapped.

    Raises DataError where the map takes the direction to zero.
    """
    vector = link.direction(direction.vector)
    length = float(np.linalg.norm(vector))
    if not length > 0:
        raise DataError(f"the map takes direction {direction.name!r} to zero; compute it again")
    trial = on_trial(direction, generator_fp)
    layers = direction.layers if vector.shape == direction.shape else None
    if layers is not None and np.any(np.delete(vector, layers, axis=0)):
        layers = None
    return dataclasses.replace(
        trial, vector=vector / length, layers=layers, sd=direction.sd * length, intercept=None
    )


def compare(
    old: Side,
    new: Side,
    link: LatentMap | None = None,
    rule: Rule | None = None,
    *,
    strip_rows: int = 3,
    progress: Progress = no_progress,
) -> Drift:
    """Try every old direction in the new model and judge it.

    link : takes old codes to new ones; None (or the identity) where nothing is to be mapped

    Even samples are the evidence for the verdicts, odd ones confirm them.
    """
    rule = rule or Rule()
    if len(old.codes) != len(new.codes) or len(new.codes) < 4:
        raise UsageError(
            f"{len(old.codes)!r} old and {len(new.codes)!r} new codes: give the codes of the same "
            "samples, at least 4"
        )
    if link is not None and link.kind == "identity":
        link = None
    trials = (_Trials(old, rule, strip_rows), _Trials(new, rule, strip_rows))
    found = Drift(groups=angles_of_groups(old.directions, new.directions, link))
    asked = [_asked(direction, new.directions, link, trials) for direction in old.directions]
    for side in trials:
        side.run(progress)
    for direction, (entry, numbers) in zip(old.directions, asked, strict=True):
        ran = {name: side.result(number) for name, (side, number) in numbers.items()}
        changes = {name: c for name, (c, _) in ran.items()}
        found.entries.append(_entry(direction, entry, changes, new.directions, trials, rule))
        found.strips |= {f"{direction.name}/{trial}": s for trial, (_, s) in ran.items()}
    return found


def _asked(
    direction: Direction,
    renewed: DirectionSet,
    link: LatentMap | None,
    trials: tuple[_Trials, _Trials],
) -> tuple[dict[str, Any], dict[str, tuple[_Trials, int]]]:
    """What is known of a direction without drawing, and its trials by name."""
    in_old, in_new = trials
    fp = renewed.generator_fp
    again = renewed[direction.name] if direction.name in renewed else None
    shape = in_new.side.codes.shape[1:]
    fits = direction.space == renewed.space and direction.shape == shape
    target = direction.provenance.get("target")
    entry: dict[str, Any] = {
        "name": direction.name,
        "method": direction.method,
        "target": target,
        "in_new": again is not None,
    }
    stored = in_old.side.directions.space
    if direction.space != stored:
        return {
            **entry,
            "verdict": REFUSED,
            "reason": f"is of space {direction.space!r}, the old run's codes of {stored!r}: only "
            "directions of the stored space are tried",
        }, {}
    if again is not None and again.space != renewed.space:
        again = None
    if again is not None and fits:
        entry["cosine"] = float(cosines(direction.vector[None], again.vector[None])[0, 0])
    mapped = None
    if link is not None:
        mapped = mapped_direction(direction, link, fp)
        if again is not None:
            entry["cosine_mapped"] = float(cosines(mapped.vector[None], again.vector[None])[0, 0])
    wanted: dict[str, tuple[_Trials, Direction]] = {}
    if in_old.side.meter is not None:
        wanted["old"] = (in_old, direction)
    if in_new.side.meter is not None:
        if fits:
            wanted["reused"] = (in_new, on_trial(direction, fp))
        if mapped is not None:
            wanted["mapped"] = (in_new, mapped)
        if again is not None:
            wanted["new"] = (in_new, again)
    return entry, {name: (side, side.ask(tried)) for name, (side, tried) in wanted.items()}


def _entry(
    direction: Direction,
    entry: dict[str, Any],
    changes: Mapping[str, Changes],
    renewed: DirectionSet,
    trials: tuple[_Trials, _Trials],
    rule: Rule,
) -> dict[str, Any]:
    """A direction's entry with what its trials changed, and the verdict."""
    in_old, in_new = trials
    shape = in_new.side.codes.shape[1:]
    if direction.space != renewed.space or direction.shape != shape:
        return {
            **entry,
            "verdict": REFUSED,
            "reason": f"is of space {direction.space!r} {direction.shape!r}, codes are now "
            f"of {renewed.space!r} {tuple(shape)!r}",
        }
    again = renewed[direction.name] if direction.name in renewed else None
    target = direction.provenance.get("target")
    same_target = again is not None and again.provenance.get("target") == target
    measure, sign, why = _own_measure(target, changes, in_old.scales())
    entry["measure"] = measure
    reference = "new" if target is not None and same_target else "old"
    if measure is None or reference not in changes or "reused" not in changes:
        why = why or f"there is no effect of the {reference} direction to compare with"
        return {**entry, "verdict": UNKNOWN, "reason": why}
    own = {name: sign * c[measure] for name, c in changes.items()}
    roles = [role for role in NAMED if measure in in_new.side.names(role)]
    entry["kind"] = roles[0] if roles else "scores"
    entry |= _judged(own, reference, rule)
    entry["side_effect"] = _side_effect(
        changes["reused"], [n for n in in_new.side.names("scores") if n != measure]
    )
    return entry


def _own_measure(
    target: str | None, changes: Mapping[str, Changes], scales: Mapping[str, float]
) -> tuple[str | None, float, str]:
    """(measure, sign in which the direction should move it, why there is none).

    That of the target; without one the measure that the direction moved most in the old model's
    evidence, in standard deviations over the samples.
    """
    some = next(iter(changes.values()), {})
    if not some:
        return None, 1.0, "no annotator of scores, pose or quantities measured it"
    if target is not None and target in some:
        return target, 1.0, ""
    if "old" not in changes:
        return None, 1.0, "its effect in the old model is not known"
    means = _means(changes["old"])
    sizes = {name: abs(m) / scales[name] for name, m in means.items() if scales[name] > 0}
    if not sizes or not max(sizes.values()) > 0:
        return None, 1.0, "it changed nothing in the old model"
    best = max(sizes, key=lambda name: sizes[name])
    return best, float(np.sign(means[best])), ""


def _judged(own: Mapping[str, np.ndarray], reference: str, rule: Rule) -> dict[str, Any]:
    both = np.isfinite(own["reused"]) & np.isfinite(own[reference])
    measured = [int(both[start::2].sum()) for start in (0, 1)]
    entry: dict[str, Any] = {"reference": reference, "measured": measured, "effects": {}}
    for name, values in own.items():
        known = values[::2][np.isfinite(values[::2])]
        mean, error = mean_and_error(known) if len(known) > 1 else (None, None)
        entry["effects"][name] = {"mean": mean, "standard_error": error}
    if min(measured) < 2:
        reason = (
            f"{sum(measured)} of {len(both)} samples could be measured with both directions, and "
            "at least 2 are needed in each half"
        )
        return {**entry, "verdict": UNKNOWN, "reason": reason}
    halves = []
    for start in (0, 1):
        half = {name: own[name][start::2][both[start::2]] for name in ("reused", reference)}
        halves.append(judge(half["reused"], half[reference], rule.share, rule.sigmas))
    evidence, check = halves
    return {
        **entry,
        "share": evidence.share,
        "verdict": SURVIVES if evidence.survives else REFUSED,
        "reason": evidence.reason,
        "held_out": {
            "effect": check.effect,
            "reference": check.reference,
            "share": check.share,
            "verdict": SURVIVES if check.survives else REFUSED,
            "agrees": check.survives == evidence.survives,
        },
    }


def _means(changes: Changes) -> dict[str, float]:
    """Mean changes in the evidence, of the measures that have one."""
    means = {name: mean_of(c[::2]) for name, c in changes.items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def _side_effect(changes: Changes, names: Sequence[str]) -> dict[str, Any] | None:
    """The one of these measures that moves most, and its mean change."""
    means = _means({n: changes[n] for n in names})
    if not means:
        return None
    worst = max(means, key=lambda name: abs(means[name]))
    return {"attribute": worst, "change": means[worst]}


def angles_of_groups(
    old: DirectionSet, new: DirectionSet, link: LatentMap | None = None
) -> list[dict[str, Any]]:
    """Principal angles, in degrees ascending, between the spans of each method's directions.

    For methods with at least two directions in both sets, of the spaces that the runs store;
    ``angles_mapped`` are those of the old directions taken through the map.
    """
    found = []
    for method in dict.fromkeys(d.method for d in old):
        before = [d.vector for d in old.of_space(old.space) if d.method == method]
        after = [d.vector for d in new.of_space(new.space) if d.method == method]
        if len(before) < 2 or len(after) < 2:
            continue
        entry: dict[str, Any] = {"method": method, "old": len(before), "new": len(after)}
        if before[0].shape == after[0].shape:
            entry["angles"] = _degrees(np.stack(before), np.stack(after))
        if link is not None:
            moved = np.stack([link.direction(v) for v in before])
            entry["angles_mapped"] = _degrees(moved, np.stack(after))
        found.append(entry)
    return found


def _degrees(a: np.ndarray, b: np.ndarray) -> list[float]:
    return [float(angle) for angle in np.degrees(principal_angles(a, b))]
