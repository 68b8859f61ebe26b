"""What an analysis is: what it reads, what it makes of it, and what a report shows of that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from generators.protocols import GRADIENTS
from pipelines.analyses.checks import active_rows
from pipelines.analyses.figures import Figure
from pipelines.analyses.measured import Measured
from pipelines.analyses.spaces import Spaces
from pipelines.folder.store_identity import labels_of
from schemas.index import DatasetIndex
from schemas.sections.base import AnalysisSection
from schemas.spec import RunSpec

if TYPE_CHECKING:
    from pipelines.analyses.inputs import Data, Fitted

Own = TypeVar("Own", bound=AnalysisSection)


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a run's data before an array is read: with a store, or before there is one.

    spaces : latent space -> shape of a row's code, of the codes that the run stores and then of
        those that they can be converted to
    measured : of a kind ("scores", "pose", "landmarks") and of "render" or "image", what the
        annotators measure
    bounded : the activation that holds all scores within 0 to 1, None where they are not, or where
        it is not known
    """

    spec: RunSpec
    index: DatasetIndex
    spaces: Mapping[str, tuple[int, ...]]
    measured: Callable[[str, str], list[Measured]]
    bounded: str | None = None

    def measurements(self, kind: str, labels: str = "render") -> list[Measured]:
        """Measurements of one kind, of the render where there is one (or of the image)."""
        return self.measured(kind, labels)

    def attributes(self) -> list[str]:
        """Measured attributes, sorted: they name the directions that should move them."""
        return sorted({name for m in self.measurements("scores") for name in m.names})

    @property
    def stored(self) -> str:
        """The space of the codes that the run stores; "" where its generator is not known."""
        return self.spec.invert.space or next(iter(self.spaces), "")

    def space(self, own: AnalysisSection) -> str:
        """The latent space that an analysis reads."""
        return own.space if own.space is not None else self.stored

    def code_shape(self, own: AnalysisSection) -> tuple[int, ...]:
        """Shape of a row's code in that space."""
        return self.spaces[self.space(own)]

    def layered(self, space: str) -> bool:
        """Whether the first axis of a space's codes counts layers."""
        spaces = self.spaces
        return spaces.layered(space) if isinstance(spaces, Spaces) else len(spaces[space]) == 2

    def recorded(self, space: str) -> bool:
        """Whether codes of a space are recorded while stored ones are drawn."""
        return isinstance(self.spaces, Spaces) and self.spaces.recorded(space)

    def without_gradients(self) -> bool:
        """Whether it is known that what the generator draws cannot be differentiated."""
        facts = self.spaces.facts if isinstance(self.spaces, Spaces) else None
        return facts is not None and GRADIENTS not in facts.capabilities

    def without_labels(self, space: str) -> bool:
        """Whether codes are converted to a space with class labels that the rows do not have."""
        spaces = self.spaces
        if not isinstance(spaces, Spaces) or spaces.facts is None or space in spaces.stored:
            return False
        needed = spaces.needs_labels(space)
        return needed and labels_of(self.spec.dataset, self.index, spaces.facts) is None

    def n_rows(self) -> int:
        """Rows that are not removed. Which of them cannot be read is told by inversion."""
        return int(active_rows(self.index).sum())


@dataclass(frozen=True)
class Selection:
    """What an analysis reads: the inputs that its fingerprint is of, and all that it can reach.

    spaces : of the codes, beside the one that its section names
    measured : measurements, each with all its columns
    factors : columns of the index; names that it does not have are left out
    parameters : what it takes from other sections of the specification, by any name
    """

    spaces: tuple[str, ...] = ()
    measured: tuple[Measured, ...] = ()
    factors: frozenset[str] = frozenset()
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Model:
    """A fitted model as it is stored, for what a report shows of it.

    summary : what the run's summary says under the analysis' name, {} without any
    """

    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    summary: Mapping[str, Any] = field(default_factory=dict)


class Analysis(ABC, Generic[Own]):
    """A kind of analysis: base class of ours and of other packages'.

    name : key of its section under 'analyse', of its model, and in its directions' provenance
    section : the model of that section
    version : raised whenever the same inputs give another result; older ones are then stale
    title : what it is called on a page
    labels : method of its directions -> what these are called on a page

    The module of an analysis is imported by `latentflow plan`: what is large (scipy, torch) it
    imports inside of `fit`.
    """

    name: ClassVar[str]
    section: ClassVar[type[AnalysisSection]]
    version: ClassVar[int]
    title: ClassVar[str]
    labels: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def select(self, known: Known, own: Own) -> Selection:
        """What it reads. Reads no array, and raises nothing: see `problems`."""

    def problems(self, known: Known, own: Own) -> Iterable[str]:
        """What its section asks for and the data cannot give, each with key, value and cure.

        Asked before the first image is inverted, and again of what there is before `fit`.
        """
        return ()

    def notes(self, known: Known, own: Own) -> Iterable[str]:
        """Numbers of the section that the data cannot fill, as ``key: asked, used and why``."""
        return ()

    def pictures(self, known: Known, own: Own) -> int:
        """How many pictures `fit` draws and measures of its own, beside those of the run's rows:
        `plan` tells it before they are."""
        return 0

    def parameters(self, known: Known, own: Own) -> dict[str, Any]:
        """Its section as its fingerprint has it: by default all of it."""
        return {**own.model_dump(mode="json"), "space": known.space(own)}

    @abstractmethod
    def fit(self, data: Data, own: Own) -> Fitted:
        """Directions, arrays of the model, and facts. data : what was selected, and nothing else.

        Raises DataError where the data do not define a result.
        """

    def figures(self, model: Model) -> list[Figure]:
        """What a report shows of the model: texts, tables, curves, pictures; [] shows nothing.

        Raises `NotShownError` where it cannot be shown.
        """
        return []
