"""An engine of analyses that keeps codes of derived spaces between the passes of a solver."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.atomic import PARTIAL_SUFFIX
from schemas.fingerprint import digest
from transforms.accumulate.blocks import BlockSource
from transforms.accumulate.derived import with_scratch
from transforms.accumulate.passes import Engine, PassRequest, S, Seen


@dataclass(frozen=True)
class ScratchEngine:
    """Single sums stream; solvers, which read their source again and again, find what was made.

    folder : of what was made, see `transforms.accumulate.derived`. Nobody needs it but the analysis
        that goes on.
    """

    engine: Engine
    folder: Path

    @classmethod
    def beside(cls, engine: Engine, path: Path) -> ScratchEngine:
        """With a folder beside a direction set, empty. It is named as what is half-written, so that
        `gc` takes away what a killed run left of it."""
        made = cls(engine, path.with_name(f"{path.name}.{digest('scratch')[:32]}{PARTIAL_SUFFIX}"))
        made.clear()
        return made

    def clear(self) -> None:
        """Delete what was made."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def sum(self, source: BlockSource, request: PassRequest) -> Any:
        """See `transforms.accumulate.passes.Engine`."""
        return self.engine.sum(source, request)

    def run(self, solver: S, source: BlockSource, *, seen: Seen | None = None) -> S:
        """See `transforms.accumulate.passes.Engine`."""
        return self.engine.run(solver, with_scratch(source, self.folder), seen=seen)
