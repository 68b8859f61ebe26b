"""What verifying a run found: problems with their cures, and counts of what was looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """where : part, stage and block. what : is wrong. cure : what to do about it."""

    where: str
    what: str
    cure: str


@dataclass
class StageCheck:
    """Counts of one stage's blocks. damaged, mismatched : block numbers; a mismatched block is
    whole, but its commit is not the fingerprint of what it should have been made from."""

    stage: str
    blocks: int
    good: int = 0
    waiting: int = 0
    damaged: list[int] = field(default_factory=list)
    mismatched: list[int] = field(default_factory=list)
    fingerprints: str = "checked"


@dataclass
class Verification:
    """What `verify` found. notes : what could not be checked, and why."""

    path: str
    stages: list[StageCheck] = field(default_factory=list)
    directions: dict[str, int] = field(default_factory=dict)
    index_rows: int | None = None
    bytes_read: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong. Blocks that wait for a run are not wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "path": self.path,
            "ok": self.ok,
            "bytes_read": self.bytes_read,
            "index_rows": self.index_rows,
            "stages": [vars(stage) for stage in self.stages],
            "directions": self.directions,
            "problems": [vars(problem) for problem in self.problems],
            "notes": self.notes,
            "repaired": self.repaired,
        }
