"""What every training keeps so that a run that was ended goes on where it was."""

from pathlib import Path
from typing import ClassVar

import torch

from schemas.atomic import replacing


class Resumable:
    """A trainer whose networks and optimisers are saved and resumed as one file.

    PARTS : their attributes' names. step : steps that were made.
    """

    PARTS: ClassVar[tuple[str, ...]]
    step: int

    def save(self, path: Path) -> None:
        """Write networks, optimisers and the step to `path`, atomically."""
        state = {name: getattr(self, name).state_dict() for name in self.PARTS}
        with replacing(path) as file:
            torch.save({"step": self.step, **state}, file)

    def load(self, path: Path) -> None:
        """Continue from `path`, on whatever device it was written."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.step = state.pop("step")
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)
