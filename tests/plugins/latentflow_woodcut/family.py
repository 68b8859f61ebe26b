"""The family: a print is a paper by class, and blocks that are inked by a latent code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generators.families.base import Checkpoint
from generators.protocols import ModelFacts, Space
from schemas.errors import CheckpointError
from schemas.sections.types import SpecModel

if TYPE_CHECKING:
    from latentflow_woodcut.press import Press


class WoodcutFamily:
    """See `generators.families.base.GeneratorFamily`.

    Tensors: ``paper`` float32 (classes, 3, height, width), ``blocks`` (k, 3, height, width).
    """

    name = "woodcut"
    settings = SpecModel  # a file states everything
    bundled: Mapping[str, Path] = {}

    def recognise(self, contents: Any) -> Checkpoint | None:
        """A state dict with just these two tensors."""
        if not isinstance(contents, Mapping) or set(contents) != {"paper", "blocks"}:
            return None
        return self.checked(Checkpoint({"family": self.name}, dict(contents)))

    def checked(self, checkpoint: Checkpoint) -> Checkpoint:
        """Both tensors are there, of prints of one size."""
        paper, blocks = (checkpoint.tensors.get(name) for name in ("paper", "blocks"))
        shapes = [None if t is None else tuple(t.shape) for t in (paper, blocks)]
        if paper is None or blocks is None or {len(s or ()) for s in shapes} != {4}:
            raise CheckpointError(
                f"'paper' and 'blocks' have shapes {shapes!r}: give (classes, 3, height, width) "
                "and (k, 3, height, width)"
            )
        if paper.shape[1:] != blocks.shape[1:]:
            raise CheckpointError(f"'paper' and 'blocks' are of prints of two sizes, {shapes!r}")
        return checkpoint

    def facts(self, checkpoint: Checkpoint) -> ModelFacts:
        """One space, of as many coordinates as there are blocks."""
        classes, channels, height, width = checkpoint.tensors["paper"].shape
        latent = Space("latent", checkpoint.tensors["blocks"].shape[:1], "normal", conditional=True)
        return ModelFacts(
            family=self.name,
            network_fp=checkpoint.fingerprint,
            size=(height, width),
            channels=channels,
            classes=classes,
            spaces={"latent": latent},
            default_space="latent",
        )

    def build(self, checkpoint: Checkpoint) -> Press:
        """The generator; torch is imported here and not before."""
        from latentflow_woodcut.press import Press

        return Press(self.facts(checkpoint), checkpoint)


PLUGIN = WoodcutFamily()
