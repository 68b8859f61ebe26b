"""What an encoder's architecture says of itself, and encoders as read from files (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from generators.protocols import ModelFacts
from schemas.fingerprint import tensors_fingerprint
from schemas.sections.types import SpecModel

if TYPE_CHECKING:
    from torch import Tensor

    from generators.protocols import Code


@dataclass(frozen=True)
class EncoderCheckpoint:
    """An encoder as read: canonical architecture and float32 tensors under our names.

    architecture : JSON; "family" names the `EncoderArchitecture`.
    metadata : facts about the file that enter no fingerprint, as JSON; of them "assumed" holds what
        the file does not state, with what is to be told of each.
    """

    architecture: dict[str, Any]
    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """Name of its `EncoderArchitecture`."""
        return str(self.architecture.get("family"))

    @property
    def assumed(self) -> dict[str, str]:
        """What no file stated, with what is to be told of each."""
        return dict(self.metadata.get("assumed", {}))

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits over architecture and tensors, the same for every file format; that of the
        loaded encoder."""
        return tensors_fingerprint(self.architecture, self.tensors)


class EncoderNetwork(Protocol):
    """The `torch.nn.Module` of an encoder.

    size : (height, width) in pixels of the images that it takes; None for any.
    classes : may be left out; of an encoder that takes the images' class labels, too, as a third
        argument of ``encode``.
    """

    @property
    def size(self) -> tuple[int, int] | None:
        """See above."""

    def architecture(self) -> dict[str, Any]:
        """As in its checkpoint."""

    def encode(self, images: Tensor, space: str) -> Tensor:
        """Codes float32 (n, *shape of the space) of images (n, 3, *size) in [-1, 1]."""


class RefiningNetwork(EncoderNetwork, Protocol):
    """One that is also shown what its last code draws, and finds a better one."""

    @property
    def mean(self) -> Tensor | None:
        """The code that is refined first, float32 (*shape of a space) or one that is repeated over
        its layers; None for the generator's mean."""

    def refine(self, images: Tensor, drawn: Tensor, code: Code) -> Code:
        """A better code; see `generators.protocols.RefiningEncoder`."""


@runtime_checkable
class EncoderArchitecture(Protocol):
    """Encoders that are read and built alike: a plug-in, whose name is its "family" in files.

    The module that defines one imports no torch.
    """

    def recognise(self, contents: Any) -> EncoderCheckpoint | None:
        """The encoder that another project's file holds; None where it is none of these.

        contents : as for `generators.families.base.GeneratorFamily.recognise`

        Raises CheckpointError, with what is wrong, where it nearly is one.
        """

    def spaces(self, architecture: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """The spaces into which such an encoder encodes, with the shape of a row's code."""

    def build(self, checkpoint: EncoderCheckpoint) -> EncoderNetwork:
        """The network with its tensors, on the CPU; here torch may be imported.

        Raises ValueError, KeyError, TypeError or RuntimeError where they do not fit.
        """


@runtime_checkable
class TrainableArchitecture(EncoderArchitecture, Protocol):
    """An architecture that can be trained anew, for any generator.

    settings : keys of its own in a specification's ``train_encoder.architecture``
    """

    settings: type[SpecModel]

    def design(self, facts: ModelFacts, space: str, settings: Any) -> dict[str, Any]:
        """The architecture of an encoder of a generator's images into one of its spaces.

        settings : of the class `settings`

        Raises UsageError for a generator or space that it has no encoder for.
        """

    def fresh(self, architecture: Mapping[str, Any], codes: Tensor) -> EncoderNetwork:
        """Such a network with weights from torch's random numbers, on the CPU.

        codes : of the generator, float32 (n, *shape of the space): what the untrained network
            gives lies around their mean.
        """
