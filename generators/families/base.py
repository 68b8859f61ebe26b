"""What a family of generators says of itself, and its models as read from files (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from schemas.fingerprint import tensors_fingerprint
from schemas.sections.types import SpecModel

if TYPE_CHECKING:
    from generators.protocols import Generator, ModelFacts


@dataclass(frozen=True)
class Checkpoint:
    """A generator as read: canonical architecture and float32 tensors under its family's names.

    architecture : JSON; "family" names the family.
    estimated : tensors that the file it first came from did not have and that follow from the
        others, by name, with how they are estimated (JSON). They are missing from `tensors`, or
        hold an estimate.
    trusted : code in it may be run; from the command line only, never from a file.
    metadata : facts about the file that enter no fingerprint, as JSON; of them "assumed" holds the
        settings that no file stated, with the values that are used, and "left_out" texts for people
        of what the file says of the model and this does not keep.
    """

    architecture: dict[str, Any]
    tensors: dict[str, np.ndarray]
    estimated: Mapping[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    trusted: bool = False

    @property
    def family(self) -> str:
        """Name of its family."""
        return str(self.architecture.get("family"))

    @property
    def assumed(self) -> dict[str, Any]:
        """Settings that no file stated, with the values that are used."""
        return dict(self.metadata.get("assumed", {}))

    @cached_property
    def fingerprint(self) -> str:
        """Generator fingerprint, 64 hex digits (DESIGN section 2).

        What is estimated follows from the other tensors, but only up to rounding, so it is left
        out, and how it is estimated enters in its place: "a.b" as "b_estimated".
        """
        tensors = {name: v for name, v in self.tensors.items() if name not in self.estimated}
        how = {f"{name.rpartition('.')[2]}_estimated": v for name, v in self.estimated.items()}
        return tensors_fingerprint({**self.architecture, **how}, tensors)


@dataclass(frozen=True, eq=False)
class Declared:
    """What a file holds, and what a JSON of the same name beside it says of it.

    description : its "family" names the one family that is asked.
    """

    contents: Any
    description: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Configured:
    """The weights in a folder as Hugging Face writes it, and what its ``config.json`` says."""

    contents: Any
    config: Mapping[str, Any]


@runtime_checkable
class GeneratorFamily(Protocol):
    """Generators that are read and drawn alike. The module that defines one imports no torch.

    name : as in the architecture's "family" and under ``family`` in a specification.
    settings : keys of the specification's generator section that stand in for what a file does not
        state; every one is optional.
    bundled : models that come with the package, name -> file.
    """

    name: str
    settings: type[SpecModel]
    bundled: Mapping[str, Path]

    def recognise(self, contents: Any) -> Checkpoint | None:
        """The generator that a file holds; None where it is none of this family.

        contents : dicts, lists, numbers, arrays and stand-ins of tensors with ``shape`` and
            ``dtype``, as they lie in the file; of objects their state (`Inert`), never themselves.
            An ONNX, torch.export or TorchScript file is a `generators.programs.Program`; a file
            with a JSON beside it that names this family is a `Declared`, a folder with a
            ``config.json`` a `Configured`.
        Raises CheckpointError, with what is wrong, where it nearly is one. Another family may then
        claim the file.
        """

    def checked(self, checkpoint: Checkpoint) -> Checkpoint:
        """A checkpoint in our own format, its tensors checked against its architecture.

        Raises CheckpointError where they do not fit."""

    def facts(self, checkpoint: Checkpoint) -> ModelFacts:
        """What the generator is, of its architecture alone."""

    def build(self, checkpoint: Checkpoint) -> Generator:
        """The generator, on the CPU; here torch may be imported."""


class Stored(Protocol):
    """A generator that can be written to a file."""

    def checkpoint(self) -> Checkpoint:
        """Architecture, tensors and metadata, as a checkpoint file holds them."""
