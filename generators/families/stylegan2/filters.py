"""Resampling filters as files hold them: taps, or the two-dimensional filter that they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.families.stylegan2.config import MAX_TAPS
from generators.unpickle.plain import plain
from schemas.errors import CheckpointError

#: Taps that are these fractions of the smallest one count as such.
_DENOMINATORS = range(1, 9)


def taps_of(name: str, value: Any, total: float | None = None) -> tuple[float, ...]:
    """Taps of a filter, the same for every scale and form that it is stored in.

    value : taps (k,), or the filter (k, k), the same in both directions; one number leaves every
        pixel as it is. total : what they must sum to, where they are used as they are.
    Whole numbers without a common factor where they are such, as [1, 3, 3, 1]; else with sum 1, to
    six digits. Raises CheckpointError for what is no such filter.
    """
    try:
        found = value if isinstance(value, np.ndarray) else plain(value)
        found = np.atleast_1d(np.asarray(found, np.float64))
    except (TypeError, ValueError) as e:
        raise _refused(name, value, f"is not made of numbers ({e})") from e
    summed = float(found.sum()) if found.size else 0.0
    if found.ndim > 2 or not np.isfinite(summed) or abs(summed) < 1e-6:
        raise _refused(name, found, f"has shape {found.shape!r} and sum {summed!r}")
    if total is not None and not np.isclose(summed, total, rtol=1e-4):
        raise _refused(name, found, f"has sum {summed!r}, expected {total!r}")
    if max(found.shape) > MAX_TAPS:
        raise _refused(name, found, f"has shape {found.shape!r}")
    taps = found / summed if found.ndim == 1 else found.sum(axis=1) / summed
    if found.ndim == 2:
        same = found.shape[0] == found.shape[1] and np.allclose(
            found / summed, np.outer(taps, taps), rtol=1e-5, atol=1e-7
        )
        if not same:
            raise _refused(name, found, "is not the same in both directions")
    smallest = np.abs(taps[np.abs(taps) > 1e-7]).min()
    for factor in _DENOMINATORS:
        scaled = taps * (factor / smallest)
        whole = np.round(scaled)
        if np.abs(whole).max() < 1e5 and np.allclose(scaled, whole, rtol=1e-5, atol=1e-5):
            return tuple(map(float, whole))
    return tuple(float(f"{tap:.6g}") for tap in taps)


def one_filter(found: Mapping[tuple[float, ...], str]) -> tuple[float, ...]:
    """The one filter of a network, of taps -> a name. Raises CheckpointError for several."""
    if len(found) > 1:
        listed = ", ".join(f"{list(taps)!r} in {name!r}" for taps, name in found.items())
        raise CheckpointError(
            f"'resample_filter' is {listed}: only one for the whole network is implemented"
        )
    return next(iter(found))


def _refused(name: str, value: Any, why: str) -> CheckpointError:
    shown = value.tolist() if isinstance(value, np.ndarray) and value.size <= 16 else ""
    return CheckpointError(
        f"'resample_filter' {shown}of {name[:80]!r} {why}: only filters that are the same taps "
        f"along rows and columns, at most {MAX_TAPS}, are implemented"
    )
