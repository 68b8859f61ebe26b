"""What the pipeline asks of a generator, an encoder and an annotator.

Foreign models sit behind these. Tensors are torch tensors; this module itself imports
torch for type checking only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


@runtime_checkable
class Generator(Protocol):
    """A model that draws images from latent codes."""

    @property
    def fingerprint(self) -> str:
        """64 hex digits over architecture and tensors, the same whatever file the model is from."""

    @property
    def architecture(self) -> Mapping[str, Any]:
        """Canonical-JSON description."""

    @property
    def resolution(self) -> int:
        """Width and height of the images in pixels."""

    @property
    def spaces(self) -> Mapping[str, tuple[int, ...]]:
        """Name -> shape of one row's code, e.g. ``{"z": (512,), "w_plus": (18, 512)}``."""

    @property
    def w_avg(self) -> Tensor:
        """Mean of w, (w_dim,), float32: the centre of truncation."""

    def z(self, seeds: Sequence[int]) -> Tensor:
        """One standard normal z row for each seed, float32 (n, z_dim), independent of batching."""

    def map(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """z (n, z_dim), labels c (n, c_dim) -> w_plus codes float32 (n, num_ws, w_dim)."""

    def synthesise(self, codes: Tensor, space: str = "w_plus", noise_mode: str = "const") -> Tensor:
        """Codes of `space`, (n, *spaces[space]) -> images float32 NCHW, about [-1, 1], unclipped.

        Three channels; a model that draws grey gives it in each of them.
        Differentiable with respect to the codes. A row's image does not depend on the other rows.
        """

    def to(self, device: torch.device | str) -> Self:
        """Move the model to a device; returns itself."""


def labels_in_turn(generator: Generator, seeds: Sequence[int]) -> Tensor | None:
    """One-hot labels c, float32 (n, c_dim), for draws without a label of their own; None where the
    generator has no classes.

    The class of a seed is its remainder by the number of classes: it depends on the seed alone,
    and seeds that follow one another take all classes in turn.
    """
    import torch

    c_dim = int(generator.architecture.get("c_dim", 0))
    if not c_dim:
        return None
    classes = torch.tensor([int(seed) % c_dim for seed in seeds], dtype=torch.int64)
    return torch.nn.functional.one_hot(classes, c_dim).float()


@runtime_checkable
class Encoder(Protocol):
    """A model that guesses codes of `space` from images."""

    @property
    def fingerprint(self) -> str:
        """64 hex digits, the same for the same model."""

    @property
    def space(self) -> str:
        """The space of the codes."""

    def encode(self, images: Tensor) -> Tensor:
        """Images float32 NCHW in [-1, 1] -> codes float32 (n, *shape of the space)."""


@runtime_checkable
class Annotator(Protocol):
    """A model that describes images: scores, landmarks or pose."""

    @property
    def fingerprint(self) -> str:
        """64 hex digits, the same for the same model."""

    @property
    def name(self) -> str:
        """What its annotations are called."""

    @property
    def kind(self) -> Literal["scores", "landmarks", "pose"]:
        """What it measures."""

    @property
    def names(self) -> Sequence[str]:
        """Of the scores or points, in the order of the result's second axis."""

    def annotate(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 NHWC -> float32 (n, len(names)), for landmarks (n, len(names), 2)."""
