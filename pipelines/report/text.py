"""How the report writes numbers, times and names."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
_THIN = "\N{NARROW NO-BREAK SPACE}"
_SECRET_KEYS = re.compile(
    r"(?<![a-z])pass(?![a-z])|password|passwd|passphrase|secret|token|credential|api_?key|"
    r"access_?key",
    re.I,
)
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(\w+://[^\s?#]+)\?[^\s#]+")
EXIT_MEANINGS = {
    0: ("good", "finished, all rows ok"),
    3: ("fair", "finished, some rows left out"),
    4: ("bad", "too many rows left out, analyses not run"),
    1: ("bad", "ended with an error"),
    2: ("bad", "ended: wrong usage"),
    75: ("bad", "ended: another run held the store"),
    130: ("bad", "interrupted"),
}


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value read from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits, no exponent between 1e-4 and 1e7; a dash for
    anything that is not a finite number."""
    if not is_number(value):
        return DASH
    if isinstance(value, int):
        return count(value)
    magnitude = abs(value)
    if magnitude and not 1e-4 <= magnitude < 1e7:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    places = digits if magnitude == 0 else digits - 1 - math.floor(math.log10(magnitude))
    text = f"{value:,.{max(0, min(places, 8))}f}" if magnitude else "0"
    return text.replace(",", _THIN).replace("-", MINUS)


def fixed(value: Any, places: int = 2, sign: bool = False) -> str:
    """A number with so many decimals, with ``sign`` also a plus sign."""
    if not is_number(value):
        return DASH
    text = f"{value:+.{places}f}" if sign else f"{value:.{places}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def count(value: Any) -> str:
    """A whole number with thin spaces between thousands: 70 000."""
    if not is_number(value):
        return DASH
    return f"{round(value):,}".replace(",", _THIN).replace("-", MINUS)


def percent(value: Any, places: int = 1) -> str:
    """0.945 as "94.5 %"."""
    return DASH if not is_number(value) else fixed(100 * value, places) + _THIN + "%"


def duration(seconds: Any) -> str:
    """Seconds as people say them: "0.42 s", "58.1 s", "2 min 28 s", "3 h 05 min"."""
    if not is_number(seconds) or seconds < 0:
        return DASH
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(megabytes: Any) -> str:
    """Megabytes as "812 MB" or "3.12 GB" (1 GB = 1000 MB)."""
    if not is_number(megabytes):
        return DASH
    return f"{megabytes / 1000:.2f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def pictured_rows(evaluation: Mapping[str, Any], of: str) -> list[int]:
    """Row numbers of the pictures of an evaluation's "samples" or "strips"; [] where an older
    release did not note them, and of strips of draws from the prior."""
    told = evaluation.get("pictured_rows")
    rows = told.get(of) if isinstance(told, dict) else None
    return [row for row in rows if isinstance(row, int)] if isinstance(rows, list) else []


def plain(name: Any) -> str:
    """A name from the data as people read it: underscores become spaces."""
    return str(name).replace("_", " ")


#: What a stage counted -> in words; other counts go by their names.
_COUNTED = {
    "n_files": "images listed",
    "n_rows": "rows in the index",
    "n_active": "active rows",
    "added": "rows added",
    "removed": "rows removed",
    "moved": "rows whose file moved",
    "unchanged": "rows unchanged",
    "n_changed": "files changed",
    "n_duplicates": "groups of identical files",
    "n_duplicate_rows": "duplicate rows",
    "n_unreadable": "unreadable images",
    "n_refused": "files refused",
    "n_damaged": "damaged shards or folders",
    "n_left_out": "kinds of files left out",
    "n_notes": "notes",
    "blocks_done": "blocks computed",
    "blocks_skipped": "blocks already complete",
    "batches_halved_for_memory": "batch size halved for lack of memory",
    "directions": "directions",
    "measured": "directions measured",
    "bytes": "bytes written",
}


def counted(counts: Mapping[str, Any], sampled: bool = False) -> list[tuple[str, str]]:
    """(what was counted, how many) of each finite number, in the order of the words above.

    sampled : the rows are drawn, there are no files
    """
    words = _COUNTED | ({"n_files": "rows drawn"} if sampled else {})
    known = [key for key in words if key in counts]
    names = [*known, *(key for key in counts if key not in words)]
    return [
        (words.get(key, plain(key)), number(counts[key])) for key in names if is_number(counts[key])
    ]


def _singular(what: str) -> str:
    return re.sub(
        r"\b(image|row|file|group|shard|kind|note|block|direction)s\b", r"\1", what, count=1
    )


def tally(detail: Mapping[str, Any], sampled: bool = False) -> str:
    """What a stage counted, in one line: "20 blocks computed, 3 rows removed". Nothing is said of
    zeros, nor of what is false. sampled : see `counted`"""
    counts = counted({k: v for k, v in detail.items() if v}, sampled)
    found = [f"{amount} {_singular(what) if amount == '1' else what}" for what, amount in counts]
    found += [_COUNTED.get(k, plain(k)) for k, v in detail.items() if v is True]
    found += [f"{plain(k)} {v}" for k, v in detail.items() if isinstance(v, str) and v]
    return ", ".join(found)


def moment(text: Any) -> str:
    """An ISO time as "2026-11-21 08:04 UTC"; anything else as it is."""
    found = re.fullmatch(
        r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?", str(text or "")
    )
    if not found:
        return str(text or DASH)
    zone = found[5] or ""
    zone = " UTC" if zone in ("Z", "+00:00") else f" UTC{zone.replace('-', MINUS)}" if zone else ""
    return f"{found[1]} {found[2]}{zone}"


def redacted(value: Any, key: str = "") -> Any:
    """A specification without passwords: userinfo and query of URLs, and values under keys that
    sound secret, are replaced by an ellipsis."""
    if isinstance(value, dict):
        return {k: redacted(v, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [redacted(v, key) for v in value]
    if value is not None and not isinstance(value, bool) and _SECRET_KEYS.search(key):
        return "\N{HORIZONTAL ELLIPSIS}"
    if isinstance(value, str):
        return _QUERY.sub(r"\1?…", _USERINFO.sub("…@", value))
    return value


def specification(value: Any) -> str:
    """A specification as indented text."""
    return json.dumps(redacted(value), indent=2, ensure_ascii=False)
