"""What an index build found, for the console, the report and ``index_report.json``."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.sources.factors import JoinReport
from pipelines.sources.paths import IMAGE_ENDINGS, SIDECAR_ENDINGS, UNREAD_ENDINGS

SHOWN = 3
LISTED = 1000
"""Longest list in index_report.json."""
CONVERT = "convert to PNG, JPEG, WebP or TIFF"
_CURES = {"archive": "unpack, or name as 'dataset.path'", "video": "take pictures out of it"}


@dataclass
class Unreadable:
    """A row whose header says already that it will be quarantined."""

    uri: str
    reason: str
    text: str


@dataclass
class LeftOut:
    """Files of one kind that became no rows.

    what : the kind, as in "HEIC files (.heic)"; n : how many; examples : some of their paths
    why : why they are not taken, and what to do
    ordinary : nobody expects them to be images
    """

    what: str
    n: int
    why: str
    examples: list[str] = field(default_factory=list)
    ordinary: bool = False

    def line(self) -> str:
        """In one sentence."""
        names = ", ".join(map(repr, self.examples))
        more = f" and {self.n - len(self.examples)} more" if self.n > len(self.examples) else ""
        return f"{self.n} {self.what}" + (f" ({names}{more})" if names else "") + f": {self.why}"


@dataclass
class IndexReport:
    """What an index build found. Lists are complete; `to_dict` can shorten them.

    n_files : images that the source listed
    n_rows, n_active : rows of the index now, and those not removed
    unchanged, added, moved, removed : rows; a changed file counts as removed and as added
    changed : uris of files whose bytes changed
    duplicates : active rows that share their bytes with another, grouped as lists of uris
    unreadable : rows whose header cannot be read
    skipped : files that are not images by name or pattern, counted by ending
    refused : (path, why) of what looks like an image but is not taken
    damaged : (path, why) of shards and folders whose images could not all be listed
    factors : the join with the factor table, None without one
    notes : what people should know about the dataset and its table, in whole sentences
    drawn : the rows are of no files
    """

    n_files: int = 0
    n_rows: int = 0
    n_active: int = 0
    unchanged: int = 0
    added: int = 0
    moved: int = 0
    removed: int = 0
    changed: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    factors: JoinReport | None = None
    notes: list[str] = field(default_factory=list)
    drawn: bool = False

    @property
    def n_duplicates(self) -> int:
        """Active rows beyond the first of each group with the same bytes."""
        return sum(len(group) - 1 for group in self.duplicates)

    def left_out(self) -> list[LeftOut]:
        """Files that became no rows, by kind: damaged ones first, what is no picture last."""
        return [
            *_grouped(self.damaged, "damaged shard or folder", "damaged shards or folders"),
            *_grouped(self.refused, "path", "paths"),
            *self._unread(),
        ]

    def _unread(self) -> list[LeftOut]:
        """Files that were not taken for their endings, those that may be pictures first."""
        of_format: dict[str, list[str]] = {}
        for ending in self.skipped:
            if ending in UNREAD_ENDINGS:
                of_format.setdefault(UNREAD_ENDINGS[ending], []).append(ending)
        found = []
        for name, endings in of_format.items():
            n = sum(self.skipped[ending] for ending in endings)
            what = f"{name} {_files(n)} ({', '.join(endings)})"
            found.append(LeftOut(what, n, f"not read: {_CURES.get(name, CONVERT)}"))
        for ending, n in self.skipped.items():
            if ending in UNREAD_ENDINGS:
                continue
            ordinary = ending in SIDECAR_ENDINGS | IMAGE_ENDINGS
            why = "not pictures by their names"
            if ending in IMAGE_ENDINGS:
                why = "left out by 'dataset.pattern' or 'dataset.exclude'"
            elif not ordinary:
                why += ": name them under 'dataset.pattern' if they are"
            what = f"{ending} {_files(n)}" if ending else f"{_files(n)} without ending"
            found.append(LeftOut(what, n, why, ordinary=ordinary))
        return found

    def lines(self, planned: bool = False) -> list[str]:
        """What people should be told, each in one line: what was left out, what will be
        quarantined, how the factor table met the images.

        planned : nothing is written, so that no file can be named that tells more.
        """
        found = [f"left out: {kind.line()}" for kind in self.left_out() if not kind.ordinary]
        if self.removed:
            rows = f"{self.removed} row{'' if self.removed == 1 else 's'}"
            gone = "the images are gone, left out or changed"
            if self.drawn:
                gone = "'dataset' no longer lists their seeds, or lists them with another class"
            found.append(f"{rows} removed for ever: {gone}")
        reasons = Counter(row.reason for row in self.unreadable)
        if reasons:
            counts = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
            first = self.unreadable[0]
            images = "image" if len(self.unreadable) == 1 else "images"
            found.append(
                f"{len(self.unreadable)} {images} will be quarantined ({counts}), such as "
                f"{first.uri!r}: {first.text}"
            )
        join = self.factors
        if join is not None and (join.unmatched_rows or join.unmatched_table):
            one, many = ("seed", "seeds") if self.drawn else ("image", "images")
            found.append(
                f"factor table: {len(join.unmatched_table)} of its rows match no {one} and "
                f"{len(join.unmatched_rows)} {many} have no row, "
                + ("'latentflow index' lists them in" if planned else "see")
                + " index_report.json"
            )
        if join is not None:
            why: dict[str, list[str]] = {}
            for name, reason in join.skipped_columns.items():
                why.setdefault(reason, []).append(name)
            for reason, names in why.items():
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                shown = ", ".join(map(repr, names[:SHOWN])) + more
                found.append(f"factor table: {shown} left out ({reason})")
        return [*found, *self.notes]

    def to_dict(self, limit: int | None = None) -> dict[str, Any]:
        """As JSON values. limit : longest list to keep; a shortened one is followed by its full
        length under ``n_<name>``, which every list has."""
        result: dict[str, Any] = {}
        _flatten_lists(dataclasses.asdict(self), limit, result)
        del result["drawn"]  # as the specification says
        kinds = [dataclasses.asdict(kind) for kind in self.left_out()]
        result["left_out"] = kinds if limit is None else kinds[:limit]
        result["n_duplicate_rows"] = self.n_duplicates
        return result


def _files(n: int) -> str:
    return "file" if n == 1 else "files"


def _grouped(pairs: Sequence[tuple[str, str]], one: str, many: str) -> list[LeftOut]:
    """Paths by why they are left out, in order of first appearance."""
    groups: dict[str, list[str]] = {}
    for path, why in pairs:
        groups.setdefault(why, []).append(path)
    return [
        LeftOut(one if len(paths) == 1 else many, len(paths), why, paths[:SHOWN])
        for why, paths in groups.items()
    ]


def _flatten_lists(value: dict[str, Any], limit: int | None, out: dict[str, Any]) -> None:
    for name, entry in value.items():
        if isinstance(entry, list):
            out[name] = entry if limit is None else entry[:limit]
            out[f"n_{name}"] = len(entry)
        elif isinstance(entry, dict):
            out[name] = {}
            _flatten_lists(entry, limit, out[name])
        else:
            out[name] = entry
