"""What an inversion method is: the base of all, what it is given, and what it gives back.

A method is a plug-in: a module of `transforms.inversion.methods` with its `InversionMethod` under
``PLUGIN``, or an entry point of the group ``latentflow.inversions`` in another package. Its
settings, and what it cannot do without, stand in its section of the specification
(`schemas.sections.invert`).

Importing a method must be cheap, for `plan` asks it for its arrays and its cost: torch is imported
where codes are computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from generators.labelled import Labelled
from generators.protocols import Code, Encoder, Generator, Labels, ModelFacts
from schemas.errors import PluginError, UsageError
from schemas.sections.invert import InvertSpec

if TYPE_CHECKING:
    from torch import Tensor

    from generators.perceptual import PerceptualDistance

#: Number of this stage in the seeds of its rows; other stages use other numbers.
STAGE = 1
#: What the names of companions begin with that are noise images.
NOISE_IMAGES = "noise/"
#: Codes of the prior of which each further start of a descent is the best.
CANDIDATES = 8
#: `InversionMethod.qualities` of methods that descend (`transforms.inversion.descent`).
DESCENT = ("loss_start", "loss_end", "steps")


@dataclass(frozen=True)
class Cost:
    """What one image takes.

    encoder_passes : through the encoder
    forward_passes, backward_passes : through the generator
    seconds : on the machine that it was measured on, where the method knows; None where not
    """

    encoder_passes: int = 0
    forward_passes: int = 0
    backward_passes: int = 0
    seconds: float | None = None

    @property
    def passes(self) -> int:
        """Through any model."""
        return self.encoder_passes + self.forward_passes + self.backward_passes

    def __str__(self) -> str:
        counted = (
            (self.encoder_passes, "through the encoder"),
            (self.forward_passes, "through the generator"),
            (self.backward_passes, "back through it"),
        )
        told = [f"{n} pass{'es' if n != 1 else ''} {where}" for n, where in counted if n]
        return ", ".join(told) or "no pass through a model"


@dataclass(frozen=True, eq=False)
class Images:
    """A batch of images, and all that a method may use to find their codes.

    pixels : float32 (n, 3, height, width) in [-1, 1], of the generator's size and on its device
    generator : where images have class labels, it draws these rows with theirs
    settings : the method's section of the specification
    encoder : of a method that needs one, else None
    rngs : of a method that needs random numbers, one for each row, else empty; a row's numbers
        are its own wherever it lies (`row_generator`)
    perceptual : distance of the settings' `compared_by`, where they have one
    entries : of a method that looks rows up, the number of each row's own (`InversionMethod.named`)
    """

    pixels: Tensor
    generator: Generator
    settings: Any
    encoder: Encoder | None = None
    rngs: Sequence[np.random.Generator] = ()
    perceptual: PerceptualDistance | None = None
    entries: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def labels(self) -> Labels:
        """Class numbers of the rows, int64 (n,), where they have any."""
        return self.generator.labels if isinstance(self.generator, Labelled) else None

    def __getitem__(self, rows: slice | Sequence[int]) -> Images:
        """Some of the rows, with all that belongs to them."""
        generator = self.generator
        if isinstance(generator, Labelled):
            generator = Labelled(generator.generator, generator.labels[rows])
        at = range(len(self))[rows] if isinstance(rows, slice) else rows
        return replace(
            self,
            pixels=self.pixels[rows],
            generator=generator,
            rngs=[self.rngs[i] for i in at] if self.rngs else (),
            entries=[self.entries[i] for i in at] if self.entries else (),
        )

    def repeats(self, row: int) -> bool:
        """Whether a row is the one before it again: batches are padded so, and whoever takes row
        by row need not take it twice."""
        labels: Any = self.labels
        if row == 0 or (labels is not None and labels[row] != labels[row - 1]):
            return False
        if self.entries and self.entries[row] != self.entries[row - 1]:
            return False
        states = [rng.bit_generator.state for rng in self.rngs[row - 1 : row + 1]]
        if states and states[0] != states[1]:
            return False
        return bool((self.pixels[row] == self.pixels[row - 1]).all())


@dataclass(frozen=True, eq=False)
class Inverted:
    """Codes of a batch of images.

    code : of the space that is asked for, with its companions; float32, without gradient. A row
        that diverged is not finite and touches no other: it is quarantined.
    qualities : what the method measured of each row, by name: float32 (n,); NaN where it did not
    """

    code: Code
    qualities: Mapping[str, Tensor] = field(default_factory=dict)


class InversionMethod(ABC):
    """A way from images to codes.

    section : of the specification, with the method's own keys; its ``needs`` tell what the method
        cannot do without
    version : raised whenever the method gives other codes for the same settings: stored ones are
        then stale
    """

    section: ClassVar[type[InvertSpec]]
    version: ClassVar[int] = 1

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        """The spaces of this generator that the method can give codes of; by default all that a
        code can be drawn from."""
        return tuple(name for name, space in facts.spaces.items() if space.injected_into is None)

    def companions(
        self, settings: Any, facts: ModelFacts
    ) -> Sequence[str] | Mapping[str, tuple[int, ...]]:
        """Which companions of the space each code comes with; by default none.

        A mapping to the shape of one row's, where the generator leaves one to the method
        (`Companion.shape`), such as weights of a rank that the settings name.
        """
        return ()

    def versions(self, settings: Any) -> int | list[int]:
        """The version, with those of other methods that the settings name."""
        return self.version

    def qualities(self, settings: Any) -> Sequence[str]:
        """Names of what the method measures of each row; by default nothing."""
        return ()

    def named(self, settings: Any, facts: ModelFacts, uris: Sequence[str]) -> Sequence[str] | None:
        """Names of the images of which the method knows something beforehand, such as codes that
        others found: its entries, in order. None, the default, for a method that looks nothing up.

        uris : of the dataset's images. Names are matched as a factor table's keys are; each row
        comes with the number of its entry (`Images.entries`), one that has none is quarantined.
        """
        return None

    @abstractmethod
    def cost(self, settings: Any) -> Cost:
        """What one image takes with these settings."""

    @abstractmethod
    def invert(self, images: Images) -> Inverted:
        """Codes of a batch.

        A row's result must depend on its image, its random numbers and the settings alone: not on
        the rows beside it. Batches are padded by repeating a row.
        """


class DescentMethod(InversionMethod):
    """A method that takes gradient steps by `transforms.inversion.descent`; its section is an
    `OptimiseSpec`."""

    def qualities(self, settings: Any) -> Sequence[str]:
        return DESCENT

    def companions(self, settings: Any, facts: ModelFacts) -> Sequence[str]:
        """The noise images, where they are moved. Raises UsageError where there are none."""
        if not settings.moves_noise:
            return ()
        names = [n for n in facts.space(settings.space).companions if n.startswith(NOISE_IMAGES)]
        if settings.noise_images and not names:
            raise UsageError(
                f"'invert.noise_images' is true, and codes of {settings.space!r} of this "
                f"{facts.family} generator come with no noise images: leave it out, or choose one "
                "of 'w', 'w_plus' and 's' of a generator with noise inputs"
            )
        return names

    def cost(self, settings: Any) -> Cost:
        """Of the steps alone."""
        further = settings.starts - 1
        drawings = settings.starts * (settings.steps + 1) + further * CANDIDATES
        if settings.needs.random:
            drawings += settings.starts  # what the start draws without noise
        return Cost(0, drawings, settings.starts * settings.steps)


def companion_shapes(
    method: InversionMethod, settings: Any, facts: ModelFacts
) -> dict[str, tuple[int, ...]]:
    """The companions of a method's codes, with the shape of one row's. settings : with a space.

    Raises PluginError for one that the space does not take.
    """
    space, given = facts.space(settings.space), method.companions(settings, facts)
    found = {}
    for name in given:
        known = space.companions.get(name)
        shape: tuple[int | None, ...] = () if known is None else known.shape
        if isinstance(given, Mapping):
            shape = tuple(given[name])
        sizes = tuple(n for n in shape if n is not None)
        if known is None or len(sizes) < len(shape) or not known.takes(sizes):
            raise PluginError(
                f"inversion method {settings.method!r} gives {name!r} of shape {shape!r} with "
                f"codes of {space.name!r}, which take "
                f"{ {n: c.shape for n, c in space.companions.items()}!r}: repair the method"
            )
        found[name] = sizes
    return found


def row_generator(seed: int, stage: int, image_id: str) -> np.random.Generator:
    """The random numbers of one row: ``SeedSequence([seed, stage, *image_id])``.

    image_id : hex digits; taken as 32-bit words, so that the stream follows the image and neither
        its position nor its batch.
    """
    words = np.frombuffer(bytes.fromhex(image_id.ljust(-(-len(image_id) // 8) * 8, "0")), ">u4")
    return np.random.default_rng(np.random.SeedSequence([seed, stage, *map(int, words)]))


def render(generator: Generator, code: Code, noise: str = "const", labels: Labels = None) -> Tensor:
    """What the generator draws from a code, float32 NCHW, without gradient."""
    import torch

    with torch.no_grad():
        return generator.draw(code, labels=labels, noise=noise)
