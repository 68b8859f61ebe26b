"""What the pipeline asks of a generator, an encoder and an annotator.

Foreign models sit behind these; one conformance suite runs on every adapter. Tensors are torch
tensors; this module itself imports torch for type checking only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@runtime_checkable
class Generator(Protocol):
    """A model that draws images from latent codes.

    fingerprint : 64 hex digits over architecture and tensors; equal for the same model whatever
        file it came from.
    architecture : canonical-JSON description.
    resolution : width and height of the images in pixels.
    spaces : name -> shape of one row's code, e.g. ``{"z": (512,), "w_plus": (18, 512)}``.
    """

    fingerprint: str
    architecture: dict[str, Any]
    resolution: int
    spaces: dict[str, tuple[int, ...]]

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

        Differentiable with respect to the codes. A row's image does not depend on the other rows.
        """

    def to(self, device: Any) -> Generator:
        """Move the model to a device; returns itself."""


@runtime_checkable
class Encoder(Protocol):
    """A model that guesses codes of `space` from images."""

    fingerprint: str
    space: str

    def encode(self, images: Tensor) -> Tensor:
        """Images float32 NCHW in [-1, 1] -> codes float32 (n, *shape of the space)."""


@runtime_checkable
class Annotator(Protocol):
    """A model that describes images: scores, landmarks or pose.

    names : of the scores or points, in the order of the result's second axis.
    """

    fingerprint: str
    name: str
    kind: Literal["scores", "landmarks", "pose"]
    names: Sequence[str]

    def annotate(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 NHWC -> float32 (n, len(names)), for landmarks (n, len(names), 2)."""
