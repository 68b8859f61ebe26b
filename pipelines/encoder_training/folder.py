"""The folder of a training: its encoder, what it was made with, and what a resumed one needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.atomic import read_json, write_json
from schemas.errors import UsageError
from schemas.spec import RunSpec
from schemas.spec_models import TRAINED_FILE
from schemas.store.lock import StoreLock

GENERATOR = "generator_fp"
FRESH = "add '--anew' to train another in its place, or give another 'output'"


@dataclass(frozen=True)
class TrainingFolder:
    """Files of a training in a run folder."""

    path: Path

    @classmethod
    def of(cls, spec: RunSpec) -> TrainingFolder:
        """That of a specification's run folder."""
        return cls(Path(spec.output_path, TRAINED_FILE[0]))

    @property
    def encoder(self) -> Path:
        """The result; its description is beside it."""
        return self.path / TRAINED_FILE[1]

    @property
    def checkpoint(self) -> Path:
        """There while the training has not ended."""
        return self.path / "training.pt"

    @property
    def settings(self) -> Path:
        """What decides the result, as JSON."""
        return self.path / "training.json"

    @property
    def report(self) -> Path:
        """What was measured, as JSON; the page is beside it."""
        return self.path / "report.json"

    @property
    def page(self) -> Path:
        """The report for people."""
        return self.path / "report.html"

    def lock(self) -> StoreLock:
        """Held by the process that trains here."""
        return StoreLock(self.path / "training")

    @property
    def finished(self) -> bool:
        """Whether all is there that a training leaves."""
        left = (self.encoder, self.encoder.with_suffix(".json"), self.report, self.page)
        return not self.checkpoint.exists() and all(path.is_file() for path in left)

    def clear(self) -> None:
        """Remove what an earlier training left."""
        for path in (self.checkpoint, self.settings, self.encoder,
                     self.encoder.with_suffix(".json"), self.report, self.page):  # fmt: skip
            path.unlink(missing_ok=True)

    def agreed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of the training that is here, which are to be these; {} where none is.

        Raises UsageError, with both values, where they are others.
        """
        held = read_json(self.settings)
        if not held:
            return {}
        if held.get(GENERATOR) != settings[GENERATOR]:
            raise UsageError(
                f"the training in {str(self.path)!r} is of generator {held.get(GENERATOR)!r}, the "
                f"specification's is {settings[GENERATOR]!r}: {FRESH}"
            )
        other = [key for key in settings if key != "steps" and held.get(key) != settings[key]]
        if settings["steps"] not in (None, held.get("steps")):
            other.append("steps")
        if other:
            told = ", ".join(f"{k!r} {held.get(k)!r} (now {settings[k]!r})" for k in other)
            raise UsageError(f"the training in {str(self.path)!r} has {told}: {FRESH}")
        return held

    def note(self, settings: Mapping[str, Any]) -> None:
        """Write what decides the result."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.settings, dict(settings))
