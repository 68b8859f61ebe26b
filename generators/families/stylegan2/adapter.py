"""StyleGAN2 behind the `Generator` protocol: spaces z, w, w_plus and s."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.families.stylegan2.config import StyleGAN2Config
from generators.families.stylegan2.network import StyleGAN2, StyleSlice
from generators.model_file import W_AVG_ESTIMATE, Checkpoint
from schemas.errors import UsageError


def draw_z(seeds: Sequence[int], z_dim: int) -> np.ndarray:
    """One standard normal row for each seed, float32 (n, z_dim).

    Row i depends on ``seeds[i]`` alone. The stream is numpy's frozen MT19937 one, as in the
    official ``generate.py``, so that seeds below 2**32 give the official images; larger seeds are
    split into 32-bit words.
    """
    rows = np.empty((len(seeds), z_dim), np.float32)
    for i, seed in enumerate(seeds):
        value = int(seed)
        if value < 0:
            raise UsageError(f"seed {value!r} is negative: give seeds from 0")
        words = [(value >> shift) & 0xFFFFFFFF for shift in range(0, value.bit_length() or 1, 32)]
        state = np.random.RandomState(words if len(words) > 1 else words[0])
        rows[i] = state.standard_normal(z_dim)
    return rows


def estimate_w_avg(
    network: StyleGAN2, n: int = W_AVG_ESTIMATE["n"], seed: int = W_AVG_ESTIMATE["seed"]
) -> Tensor:
    """Mean of w over `n` z drawn from `seed`, float32 (w_dim,); labels, if any, take turns."""
    config = network.config
    device = network.mapping.w_avg.device
    draws = np.random.RandomState(seed).standard_normal((n, config.z_dim)).astype(np.float32)
    total = torch.zeros(config.w_dim, dtype=torch.float64, device=device)
    with torch.no_grad():
        for start in range(0, n, 1000):
            z = torch.from_numpy(draws[start : start + 1000]).to(device)
            c = None
            if config.c_dim:
                labels = torch.arange(start, start + len(z), device=device) % config.c_dim
                c = torch.nn.functional.one_hot(labels, config.c_dim).float()
            total += network.mapping(z, c).double().sum(dim=0)
    return (total / n).float()


class StyleGAN2Adapter:
    """Implements `generators.protocols.Generator`.

    network : taken over: put in evaluation mode, its parameters no longer require gradients.
    w_avg_estimated : the network's w_avg comes from `estimate_w_avg`, not from training.
    metadata : facts about the file (format, ...) that enter no fingerprint.

    Spaces: z (z_dim,), w (w_dim,), w_plus (num_ws, w_dim) and s, the concatenated affine outputs
    of every layer in the order b4.conv1, b4.torgb, b8.conv0, b8.conv1, b8.torgb, ...
    `style_slices` gives each layer's name, the w_plus row that drives it, and its columns of s.
    A torgb style is the affine output before its constant gain 1/sqrt(channels).
    """

    def __init__(
        self,
        network: StyleGAN2,
        w_avg_estimated: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.config: StyleGAN2Config = network.config
        self.w_avg_estimated = w_avg_estimated
        self.metadata: dict[str, Any] = {**(metadata or {}), "w_avg_estimated": w_avg_estimated}
        self.architecture: dict[str, Any] = self.config.architecture()
        self.resolution = self.config.img_resolution
        self.style_slices: tuple[StyleSlice, ...] = network.synthesis.style_slices
        self.spaces: dict[str, tuple[int, ...]] = {
            "z": (self.config.z_dim,),
            "w": (self.config.w_dim,),
            "w_plus": (self.config.num_ws, self.config.w_dim),
            "s": (network.synthesis.style_dim,),
        }

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits over architecture and tensors, the same for every file format."""
        return self.checkpoint().fingerprint

    @property
    def w_avg(self) -> Tensor:
        """Mean of w, float32 (w_dim,)."""
        return self.network.mapping.w_avg

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.w_avg.device

    def tensors(self) -> dict[str, np.ndarray]:
        """Every stored tensor by its official name, float32, on the CPU."""
        return {
            name: value.detach().cpu().numpy().astype(np.float32)
            for name, value in self.network.state_dict().items()
        }

    def checkpoint(self) -> Checkpoint:
        """Architecture, tensors and metadata, as a checkpoint file holds them."""
        return Checkpoint(self.architecture, self.tensors(), self.w_avg_estimated, self.metadata)

    def to(self, device: torch.device | str) -> StyleGAN2Adapter:
        """Move the model; returns itself."""
        self.network.to(device)
        return self

    def z(self, seeds: Sequence[int]) -> Tensor:
        """z rows for `seeds`, float32 (n, z_dim); see `draw_z`."""
        return torch.from_numpy(draw_z(seeds, self.config.z_dim)).to(self.device)

    def map(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """w_plus codes, float32 (n, num_ws, w_dim), of z (n, z_dim) and labels c (n, c_dim).

        Truncation: ``w_avg + psi (w - w_avg)`` in the first `truncation_cutoff` layers (None: all).
        Raises UsageError for a wrong shape or missing labels.
        """
        try:
            w = self.network.mapping(z.to(self.device), None if c is None else c.to(self.device))
        except ValueError as e:
            raise UsageError(str(e)) from e
        ws: Tensor = w[:, None].repeat(1, self.config.num_ws, 1)
        if truncation_psi == 1.0:
            return ws
        last = self.config.num_ws if truncation_cutoff is None else truncation_cutoff
        truncated = self.w_avg.lerp(ws[:, :last], truncation_psi)
        return torch.cat([truncated, ws[:, last:]], dim=1)

    def _checked(self, codes: Tensor, space: str) -> Tensor:
        if space not in self.spaces:
            raise UsageError(f"space {space!r} is unknown, expected one of {list(self.spaces)!r}")
        if tuple(codes.shape[1:]) != self.spaces[space]:
            raise UsageError(
                f"codes have shape {tuple(codes.shape)!r}, space {space!r} expects "
                f"(n, {', '.join(map(str, self.spaces[space]))}): "
                "the codes belong to another space or generator"
            )
        return codes.to(self.device, torch.float32)

    def to_w_plus(self, codes: Tensor, space: str, c: Tensor | None = None) -> Tensor:
        """Codes of z, w or w_plus as w_plus codes (n, num_ws, w_dim), without truncation."""
        codes = self._checked(codes, space)
        if space == "s":
            raise UsageError("space 's' has no w_plus codes: the affine layers are not inverted")
        if space == "z":
            return self.map(codes, c)
        if space == "w":
            return codes[:, None].expand(-1, self.config.num_ws, -1)
        return codes

    def to_s(self, codes: Tensor, space: str = "w_plus", c: Tensor | None = None) -> Tensor:
        """Codes of any space as s codes, float32 (n, spaces["s"][0])."""
        if space == "s":
            return self._checked(codes, space)
        return torch.cat(self.network.synthesis.styles(self.to_w_plus(codes, space, c)), dim=1)

    def synthesise(
        self,
        codes: Tensor,
        space: str = "w_plus",
        noise_mode: str = "const",
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        c: Tensor | None = None,
    ) -> Tensor:
        """Images float32 (n, 3, r, r), about [-1, 1], unclipped, of codes of `space`.

        A grey model's picture stands in all three channels, so that it is compared with, measured
        and shown like any other.

        noise_mode : "const" (the stored noise images), "none", or "random", drawn from
            `generator`: give one torch.Generator for each row where a row's image must not
            depend on the batch.
        c : labels (n, c_dim), for space "z" of a class-conditional generator.

        Differentiable with respect to the codes. Raises UsageError for an unknown space or noise
        mode, a wrong shape, or random noise without a generator.
        """
        if noise_mode == "random" and generator is None:
            raise UsageError("noise_mode 'random' needs a generator: pass a seeded torch.Generator")
        s = self.to_s(codes, space, c)
        try:
            images = self.network.synthesis.from_styles(
                [s[:, part.start : part.stop] for part in self.style_slices],
                noise_mode,  # type: ignore[arg-type]
                generator,
            )
        except ValueError as e:
            raise UsageError(str(e)) from e
        return images.expand(-1, 3, -1, -1) if self.config.img_channels == 1 else images

    def mix(self, w_a: Tensor, w_b: Tensor, layers: Iterable[int]) -> Tensor:
        """Style mixing: w_plus codes of `w_a` with the rows `layers` of `w_b`.

        w_a, w_b : (n, num_ws, w_dim); a single row of either is used for all. Coarse styles are
        the first layers. Raises UsageError for a layer outside [0, num_ws).
        """
        w_a, w_b = self._checked(w_a, "w_plus"), self._checked(w_b, "w_plus")
        chosen = torch.zeros(self.config.num_ws, dtype=torch.bool, device=self.device)
        for layer in layers:
            if not 0 <= layer < self.config.num_ws:
                raise UsageError(
                    f"layer {layer!r} is outside 0..{self.config.num_ws - 1}: "
                    "give w_plus rows of this generator"
                )
            chosen[layer] = True
        return torch.where(chosen[:, None], w_b, w_a)


def from_checkpoint(checkpoint: Checkpoint) -> StyleGAN2Adapter:
    """Adapter from a checkpoint as read; estimates w_avg where the file has none."""
    config = StyleGAN2Config.from_architecture(checkpoint.architecture)
    # Uninitialised memory instead of random weights: every tensor is loaded below.
    with torch.device("meta"):
        network = StyleGAN2(config)
    network = network.to_empty(device="cpu")
    network.synthesis.reset_filters()
    missing = "mapping.w_avg" not in checkpoint.tensors
    state = {name: torch.from_numpy(value.copy()) for name, value in checkpoint.tensors.items()}
    if missing:
        state["mapping.w_avg"] = torch.zeros(config.w_dim)
    network.load_state_dict(state, strict=True)
    if missing:
        network.mapping.w_avg.copy_(estimate_w_avg(network))
    return StyleGAN2Adapter(network, checkpoint.w_avg_estimated, checkpoint.metadata)
