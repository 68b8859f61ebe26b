"""What a run says about what is missing: rows that a stage set aside, analyses without a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.store.reasons import Status

SHOWN = 8
"""Names on one line."""


def quarantine_lines(counts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each stage that set rows aside: 'marks: 5 of 90 rows quarantined: no_face 5'.

    counts : stage -> what `counts_of` says
    """
    lines = []
    for stage, found in counts.items():
        if found["quarantined"]:
            rows = sum(found[member.name.lower()] for member in Status) - found["removed"]
            reasons = ", ".join(f"{name} {n}" for name, n in found["reasons"].items())
            lines.append(f"{stage}: {found['quarantined']} of {rows} rows quarantined: {reasons}")
    return lines


def failure_lines(failed: Mapping[str, tuple[str, str]]) -> list[str]:
    """One line for each stage whose model failed on images.

    failed : stage -> (one of the images, what the model said)
    """
    return [
        f"{stage}: the model failed on {uri!r}: {' '.join(said.split())}"
        for stage, (uri, said) in failed.items()
    ]


def without_direction_lines(report: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each analysis and reason for which something has no direction.

    report : analysis -> facts, with ``without_direction``: what has none -> why
    """
    lines = []
    for name, facts in report.items():
        why: dict[str, list[str]] = {}
        for what, reason in facts.get("without_direction", {}).items():
            why.setdefault(reason, []).append(what)
        for reason, what in why.items():
            more = f" and {len(what) - SHOWN} more" if len(what) > SHOWN else ""
            lines.append(f"{name}: none of {', '.join(what[:SHOWN])}{more}: {reason}")
    return lines
