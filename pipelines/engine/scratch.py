"""An engine of analyses that keeps codes of derived spaces between the passes of a solver."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.atomic import PARTIAL_SUFFIX
from schemas.fingerprint import digest
from transforms.accumulate.blocks import BlockSource
from transforms.accumulate.derived import folder_of, with_scratch
from transforms.accumulate.passes import Engine, PassRequest, S, Seen
from transforms.accumulate.spilled import with_columns_in

COLUMNS = "columns"


@dataclass(frozen=True)
class ScratchEngine:
    """Single sums stream; solvers, which read their source again and again, keep what they made.

    So do sums of what was summed before, or of what a later analysis reads.

    folder : of what was made, see `transforms.accumulate.derived`, and of large columns. Nobody
        needs it but the analyses that go on.
    later : keys of the conversions (`Change.key`) that analyses to come read
    summed : keys of those that were summed
    """

    engine: Engine
    folder: Path
    later: set[str] = field(default_factory=set)
    summed: set[str] = field(default_factory=set)

    @classmethod
    def beside(cls, engine: Engine, path: Path) -> ScratchEngine:
        """With a folder beside a direction set, empty. It is named as what is half-written, so that
        `gc` takes away what a killed run left of it."""
        made = cls(engine, path.with_name(f"{path.name}.{digest('scratch')[:32]}{PARTIAL_SUFFIX}"))
        made.clear()
        return made

    def expect(self, later: Collection[str]) -> None:
        """An analysis begins, after which others read these conversions (`later`)."""
        self.later.clear()
        self.later.update(later)

    def clear(self) -> None:
        """Delete what was made, but for what analyses to come read."""
        kept = {folder_of(key) for key in self.later}
        for path in self.folder.glob("*"):
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
        if not kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def sum(self, source: BlockSource, request: PassRequest) -> Any:
        """See `transforms.accumulate.passes.Engine`."""
        return self.engine.sum(with_scratch(source, self.folder, self._again), request)

    def _again(self, key: str) -> bool:
        """Whether somebody else reads what a conversion makes for a sum."""
        again = key in self.later | self.summed or (self.folder / folder_of(key)).exists()
        self.summed.add(key)
        return again

    def run(self, solver: S, source: BlockSource, *, seen: Seen | None = None) -> S:
        """See `transforms.accumulate.passes.Engine`."""
        kept = with_columns_in(with_scratch(source, self.folder), self.folder / COLUMNS)
        try:
            return self.engine.run(solver, kept, seen=seen)
        finally:
            shutil.rmtree(self.folder / COLUMNS, ignore_errors=True)
