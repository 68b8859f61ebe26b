"""Whether a direction of an old model may be used in a new one: the rule, on measured changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.errors import DataError

SHARE = 0.5
"""Least share of the reference's effect that a direction must still have."""
SIGMAS = 2.0
"""An effect counts when it exceeds so many standard errors of its mean."""


@dataclass(frozen=True)
class Verdict:
    """effect, reference : mean changes of the direction's own measure; noise : standard error of
    the effect; share : effect / reference, None where the reference has no effect beyond noise."""

    survives: bool
    reason: str
    effect: float
    reference: float
    noise: float
    share: float | None


def judge(
    reused: np.ndarray, reference: np.ndarray, share: float = SHARE, sigmas: float = SIGMAS
) -> Verdict:
    """Judge by the changes of one measure in the same samples.

    reused : (n,), by the old direction in the new model, in the sense that the direction should
        move the measure
    reference : (n,), by what it would be replaced with: the new direction in the new model, or,
        where there is none of that name and target, the old direction in the old model

    It survives when its mean change is more than `sigmas` standard errors above zero and at least
    `share` of the reference's. A reference that has no effect beyond noise asks for nothing more.
    """
    effect, noise = mean_and_error(reused)
    wanted, wanted_noise = mean_and_error(reference)
    part = effect / wanted if wanted > sigmas * wanted_noise else None
    if not effect > sigmas * noise:
        opposite = effect < -sigmas * noise
        reason = "does the opposite" if opposite else "has no effect beyond noise"
        return Verdict(False, reason, effect, wanted, noise, part)
    if part is not None and part < share:
        reason = f"keeps only {part:.0%} of the effect"
        return Verdict(False, reason, effect, wanted, noise, part)
    reason = (
        "works, and nothing better is known" if part is None else f"keeps {part:.0%} of the effect"
    )
    return Verdict(True, reason, effect, wanted, noise, part)


def mean_and_error(changes: np.ndarray) -> tuple[float, float]:
    """Mean of changes (n,) and its standard error. Raises DataError for fewer than 2."""
    changes = np.asarray(changes, np.float64)
    if changes.ndim != 1 or len(changes) < 2 or not np.isfinite(changes).all():
        raise DataError(
            f"changes have shape {changes.shape!r}: give at least 2 samples, all of them finite"
        )
    return float(changes.mean()), float(changes.std(ddof=1) / np.sqrt(len(changes)))
