"""What the pipeline asks of a generator, an encoder and an annotator.

Foreign models sit behind these. Tensors are torch tensors; this module itself imports
torch for type checking only, so that what a model is can be told without loading one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

from schemas.directions.direction import Direction
from schemas.errors import UsageError
from schemas.fingerprint import digest
from schemas.suggest import suggestion

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    Labels = Sequence[int] | np.ndarray | Tensor | None
else:
    Labels = Any

Prior = Literal["normal", "truncated_normal", "uniform", "derived", "none"]

#: What a model can do beyond drawing.
GRADIENTS, NOISE = "gradients", "noise"


# ---------------------------------------------------------------------------------------------
# What a model is (no torch)


@dataclass(frozen=True)
class Companion:
    """A tensor that belongs to a code, such as a noise image of one layer.

    shape : of one row's; a None in it is left to the method that gives it.
    required : a code without it cannot be drawn.
    tensors : of a row's own weights, what they are added to: name -> shape, see `generators.tuned`.
    """

    shape: tuple[int | None, ...]
    required: bool = False
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of one that is the same for every code."""
        known = tuple(n for n in self.shape if n is not None)
        if len(known) < len(self.shape):
            raise UsageError(f"a companion of shape {self.shape!r} has that of its method: ask it")
        return known

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether one row's may have this shape."""
        pairs = zip(self.shape, shape, strict=False)
        return len(shape) == len(self.shape) and all(own in (None, n) for own, n in pairs)


@dataclass(frozen=True)
class Space:
    """A space of latent codes.

    shape : of one row's code.
    prior : how codes are drawn at random: "normal" (standard normal), "truncated_normal" (within
        2), "uniform" (on [-1, 1]), "derived" (converted from a draw of ``derived_from``), or
        "none".
    layered : the first axis of a code counts layers (or steps).
    derived_from : the space whose codes are converted to this one's.
    injected_into : the space of the codes that are drawn where this space holds what a part of the
        model puts out meanwhile (activations, which `Generator.convert` gives): a vector of it is
        added there while drawing.
    conditional : a code is drawn or converted with a class label.
    companions : by name, what belongs to a code beside its main array.
    options : of edits in this space, by name; see `Edit`.
    axes : names of the entries of a code that mean something each by itself; "<space>.<axis>" is a
        direction of every such model (`generators.edits.axis_direction`). units : of the axes, in
        their order, for people ("px"); none where they have no unit.
    """

    name: str
    shape: tuple[int, ...]
    prior: Prior = "none"
    layered: bool = False
    derived_from: str | None = None
    injected_into: str | None = None
    conditional: bool = False
    companions: Mapping[str, Companion] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    @property
    def n_layers(self) -> int:
        """Layers of a code, 0 where it has none."""
        return self.shape[0] if self.layered else 0

    @property
    def required(self) -> list[str]:
        """Names of the companions without which a code cannot be drawn."""
        return [name for name, companion in self.companions.items() if companion.required]


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a generator without loading it.

    family : of the models that are read and drawn alike, such as "stylegan2".
    network_fp : 64 hex digits over architecture and tensors, the same whatever file it is from.
    sampler_fp : of what draws with the network (steps, spacing, ...), None where one pass does.
    size : (height, width) of the images in pixels. channels : of what the model itself draws.
    value_range : of the drawn values; they may lie outside, and are clipped when shown.
    classes : of labels, 0 for a model without.
    spaces : by name. default_space : the one that images are inverted into unless said otherwise.
    capabilities : `GRADIENTS` (drawings can be differentiated), `NOISE` (has noise inputs).
    assumed : settings that its file does not state, with what is to be told of each.
    version : raised whenever the family's code draws or samples otherwise from the same file: what
        was made before is then stale.
    """

    family: str
    network_fp: str
    size: tuple[int, int]
    spaces: Mapping[str, Space]
    default_space: str
    channels: int = 3
    value_range: tuple[float, float] = (-1.0, 1.0)
    classes: int = 0
    capabilities: frozenset[str] = frozenset({GRADIENTS})
    sampler_fp: str | None = None
    assumed: Mapping[str, str] = field(default_factory=dict)
    version: int = 1

    @property
    def fingerprint(self) -> str:
        """What the identity of a store of codes is made of: network, sampler and version.

        No sampler and a first version are left out: they add nothing to the network.
        """
        more: dict[str, Any] = {} if self.sampler_fp is None else {"sampler": self.sampler_fp}
        if self.version > 1:
            more["version"] = self.version
        return digest({"network": self.network_fp, **more}) if more else self.network_fp

    def space(self, name: str) -> Space:
        """A space by name. Raises UsageError, with the names there are, for an unknown one."""
        if name not in self.spaces:
            raise UsageError(
                f"space {name!r} is not one of this {self.family} generator: "
                f"{suggestion(name, list(self.spaces))}"
            )
        return self.spaces[name]

    def repeated(self, name: str) -> str | None:
        """The space whose code stands in every layer of a code of this one, if there is such a
        space: a direction of it is also one of this space, the same in all layers."""
        space = self.space(name)
        if not space.layered or space.derived_from is None:
            return None
        base = self.space(space.derived_from)
        return base.name if base.shape == space.shape[1:] else None


# ---------------------------------------------------------------------------------------------
# What goes in


@dataclass(frozen=True, eq=False)
class Code:
    """Latent codes with everything that belongs to them; always passed whole.

    space : the space of ``main``, a tensor (n, *shape of the space).
    companions : name -> tensor (n, *shape of the companion). A row of NaN has none.
    """

    space: str
    main: Tensor
    companions: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.main)

    def __getitem__(self, rows: slice | Tensor) -> Code:
        """Some rows, with their companions."""
        return self.changed(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Code:
        """The same codes on a device."""
        return self.changed(lambda tensor: tensor.to(device))

    def changed(self, change: Callable[[Tensor], Tensor]) -> Code:
        """Every tensor changed in the same way."""
        companions = {name: change(tensor) for name, tensor in self.companions.items()}
        return Code(self.space, change(self.main), companions)

    def moved(self, main: Tensor) -> Code:
        """The same rows with another main array of the same space."""
        return dataclasses.replace(self, main=main)


@dataclass(frozen=True, eq=False)
class Edit:
    """Codes moved along a direction: ``code + strength * sd * vector``.

    In an injected space the codes stay, and the vector is added while drawing to what that part of
    the model puts out.

    strength : of all rows, or float64 (n,), one a row; in standard deviations, or with unit
        "raw" in units of the space.
    layers : edit only these layers, by the amount by which the whole direction would edit them.
    options : of injected spaces, by name (`Space.options`).
    """

    direction: Direction
    strength: float | np.ndarray
    unit: str = "sd"
    layers: Sequence[int] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Generator(Protocol):
    """A model that draws images from latent codes.

    labels : class numbers, one a row, or float32 (n, classes) rows of weights; used where
        `Space.conditional` says so, and when a code is sampled.
    """

    @property
    def facts(self) -> ModelFacts:
        """What the model is."""

    def sample(
        self,
        space: str,
        seeds: Sequence[int],
        *,
        labels: Labels = None,
        truncation: float | None = None,
    ) -> Code:
        """One code of the model's prior for each seed, independent of batching.

        Without labels the classes of a conditional model take turns, see `labels_in_turn`.
        truncation : moves codes to the centre, from 1 (not at all) to 0 (all the way).
        Raises UsageError for a space without a prior.
        """

    def centre(self, space: str, labels: Labels = None) -> Tensor:
        """The mean code, float32 (*shape of the space); of labels, (n, *shape), where the model has
        one for each class."""

    def convert(
        self,
        code: Code,
        target: str,
        *,
        labels: Labels = None,
        truncation: float | None = None,
        cutoff: int | None = None,
        noise: str = "const",
    ) -> Code:
        """Codes of another space that draw the same images (with truncation: ones nearer the
        centre, in the first `cutoff` layers).

        noise : as of `draw`, for activations, which are recorded while drawing. It is given only
            where the target is injected.

        Raises UsageError where no way leads from one space to the other.
        """

    def draw(
        self,
        code: Code,
        *,
        labels: Labels = None,
        edits: Sequence[Edit] = (),
        noise: str = "const",
    ) -> Tensor:
        """Images float32 (n, 3, height, width), about `ModelFacts.value_range`, unclipped, on the
        model's device.

        A model that draws grey gives it in each of three channels, one with opacity its colours
        over mid-grey, as pictures with opacity are read. Differentiable with respect to
        the code where the capabilities say so. A row's image does not depend on the other rows.

        noise : "const" takes a row's own noise inputs, else those that the model holds, "none"
            takes zeros; nothing to a model without noise inputs.

        Raises UsageError for an unknown space or a missing companion, DirectionMismatchError for an
        edit by a direction of another model or space.
        """

    def to(self, device: torch.device | torch.dtype | str) -> Self:
        """Move the model to a device, or change its precision; returns itself."""


def labels_in_turn(classes: int, seeds: Iterable[int]) -> list[int] | None:
    """Class numbers for draws without a label of their own; None for a model without classes.

    The class of a seed is its remainder by the number of classes: it depends on the seed alone,
    and seeds that follow one another take all classes in turn.
    """
    return [int(seed) % classes for seed in seeds] if classes else None


@runtime_checkable
class Encoder(Protocol):
    """A model that guesses codes of `space` from images.

    One that has an attribute ``classes`` above 0 is given the images' class labels, too:
    ``encode(images, labels)``.
    """

    @property
    def fingerprint(self) -> str:
        """64 hex digits, the same for the same model."""

    @property
    def space(self) -> str:
        """The space of the codes."""

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels of the images that it takes; None for any."""

    def encode(self, images: Tensor) -> Tensor:
        """Images float32 (n, 3, *size) in [-1, 1] -> codes float32 (n, *shape of the space)."""


@runtime_checkable
class RefiningEncoder(Encoder, Protocol):
    """An encoder that betters a code by what the generator draws from it."""

    @property
    def mean(self) -> Tensor | None:
        """The code that is refined first, float32 (*shape of the space) or one that is repeated
        over its layers; None for the generator's mean."""

    def refine(self, images: Tensor, drawn: Tensor, code: Code) -> Code:
        """A better code of images float32 (n, 3, *size) than the one that draws `drawn`, float32
        (n, 3, height, width) as the generator gives it."""


@runtime_checkable
class Annotator(Protocol):
    """A model that describes images: scores, landmarks, pose, or another kind of numbers."""

    @property
    def fingerprint(self) -> str:
        """64 hex digits, the same for the same model."""

    @property
    def name(self) -> str:
        """What its annotations are called."""

    @property
    def kind(self) -> str:
        """What it measures."""

    @property
    def names(self) -> Sequence[str]:
        """Of the scores or points, in the order of the result's second axis."""

    def annotate(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 NHWC -> float32 (n, len(names)), for landmarks (n, len(names), 2)."""
