"""StyleGAN2 behind the `Generator` protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.edits import check_code, class_weights, edited
from generators.families.base import W_AVG_ESTIMATE, Checkpoint
from generators.families.stylegan2.config import StyleGAN2Config
from generators.families.stylegan2.facts import facts_of
from generators.families.stylegan2.network import StyleGAN2, StyleSlice
from generators.protocols import Code, Edit, Labels, ModelFacts, labels_in_turn
from generators.seeds import streams
from schemas.errors import UsageError


def draw_z(seeds: Sequence[int], z_dim: int) -> np.ndarray:
    """One standard normal row for each seed, float32 (n, z_dim), of the seed's stream alone."""
    rows = np.empty((len(seeds), z_dim), np.float32)
    for row, stream in zip(rows, streams(seeds), strict=True):
        row[...] = stream.standard_normal(z_dim)
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


WAY = ("z", "w", "w_plus", "s")
"""Spaces in the order in which a code is converted."""


FEATURES = "features."


class _Recorded(Exception):
    """Ends a drawing of which only a layer's output is wanted."""


@contextmanager
def _hooked(module: torch.nn.Module, hook: Any) -> Iterator[None]:
    """With a forward hook on a module."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _plus(step: Tensor, module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output + step


class StyleGAN2Adapter:
    """Implements `generators.protocols.Generator`.

    network : taken over: put in evaluation mode, its parameters no longer require gradients.
    w_avg_estimated : the network's w_avg comes from `estimate_w_avg`, not from training.
    metadata : facts about the file (format, ...) that enter no fingerprint.

    Spaces: see `generators.families.stylegan2.facts`. `style_slices` gives each layer's name, the
    w_plus row that drives it, and its columns of s. A torgb style is the affine output before its
    constant gain 1/sqrt(channels).
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
        self.style_slices: tuple[StyleSlice, ...] = network.synthesis.style_slices

    @cached_property
    def facts(self) -> ModelFacts:
        """What the model is."""
        return facts_of(self.checkpoint())

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

    def to(self, device: torch.device | torch.dtype | str) -> StyleGAN2Adapter:
        """Move the model, or change its precision; returns itself."""
        self.network.to(device)
        return self

    # ---- the protocol

    def sample(
        self,
        space: str,
        seeds: Sequence[int],
        *,
        labels: Labels = None,
        truncation: float | None = None,
    ) -> Code:
        """Codes of the prior: of z drawn by `draw_z`, of w, w_plus and s converted from it."""
        if self.facts.space(space).prior == "none":
            having = [s.name for s in self.facts.spaces.values() if s.prior != "none"]
            raise UsageError(
                f"space {space!r} cannot be sampled from the prior: use one of {having!r}"
            )
        z = Code("z", torch.from_numpy(draw_z(seeds, self.config.z_dim)))
        if labels is None:
            labels = labels_in_turn(self.config.c_dim, seeds)
        return self.convert(z, space, labels=labels, truncation=truncation)

    def centre(self, space: str, labels: Labels = None) -> Tensor:
        """w_avg, in every layer of w_plus; its styles; 0 of z. The same for all classes."""
        shape = self.facts.space(space).shape
        if space == "z":
            found = torch.zeros(shape, device=self.device)
        elif space in ("w", "w_plus"):
            found = self.w_avg.detach().expand(shape)
        elif space == "s":
            found = self.convert(Code("w", self.w_avg[None]), "s").main[0]
        else:
            raise UsageError(f"space {space!r} has no mean code: use one of {['z', *WAY]!r}")
        return found if labels is None else found.expand(len(labels), *shape)

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
        """Codes along z -> w -> w_plus -> s -> features, never back. Truncation:
        ``w_avg + psi (w - w_avg)``, in the first `cutoff` layers of w_plus."""
        check_code(self.facts, code)
        injected = self.facts.space(target).injected_into
        if injected and code.space != target:
            styles = self.convert(code, "s", labels=labels, truncation=truncation, cutoff=cutoff)
            return Code(target, self._recorded(styles, target.removeprefix(FEATURES), noise))
        way = [*WAY[WAY.index(code.space) :]] if code.space in WAY else [code.space]
        if target not in way:
            raise UsageError(
                f"codes of {code.space!r} give none of {target!r}: "
                + (f"they give those of {way[1:]!r}" if way[1:] else "they give no others")
            )
        truncates = truncation is not None and truncation != 1.0
        if truncates and (target == "z" or code.space == "s" or (cutoff and target == "w")):
            raise UsageError(
                f"codes of {code.space!r} are not truncated on their way to {target!r}"
                + (f" in the first {cutoff!r} layers" if cutoff else "")
                + ": leave truncation out, or convert to 'w_plus'"
            )
        main = code.main.to(self.device, self.w_avg.dtype)
        if code.space == target and not truncates:
            return code.moved(main)
        if code.space == "z":
            main = self._mapped(main, labels)
        if code.space != "s":
            if code.space != "w_plus":
                main = main[:, None].expand(-1, self.config.num_ws, -1)
            if truncates:
                last = self.config.num_ws if cutoff is None else cutoff
                near = self.w_avg.lerp(main[:, :last], float(truncation or 0.0))
                main = torch.cat([near, main[:, last:]], dim=1)
            if target == "w":
                main = main[:, 0]
            elif target == "s":
                main = torch.cat(self.network.synthesis.styles(main), dim=1)
        known = self.facts.space(target).companions
        kept = {name: value for name, value in code.companions.items() if name in known}
        return Code(target, main, kept)

    def _mapped(self, z: Tensor, labels: Labels) -> Tensor:
        """w (n, w_dim) of z (n, z_dim)."""
        weights = class_weights(self.facts, labels, len(z), self.device)
        return self.network.mapping(z, None if weights is None else weights.to(self.w_avg))

    def draw(
        self,
        code: Code,
        *,
        labels: Labels = None,
        edits: Sequence[Edit] = (),
        noise: str = "const",
    ) -> Tensor:
        """Images of codes of z, w, w_plus or s."""
        code, injected = edited(self.facts, code.to(self.device), edits)
        styles = self.convert(code, "s", labels=labels)
        with ExitStack() as hooks:
            for edit, step in injected:
                layer = edit.direction.space.removeprefix(FEATURES)
                module = self.network.synthesis.get_submodule(layer)
                added = partial(_plus, step * self._mask(edit, step))
                hooks.enter_context(_hooked(module, added))
            return self._synthesised(styles, noise, None)

    def _mask(self, edit: Edit, step: Tensor) -> Tensor:
        """An edit's option "mask" (height, width), 1 where there is none."""
        mask = torch.as_tensor(edit.options.get("mask", 1.0)).to(step)
        if mask.ndim and mask.shape != step.shape[-2:] or not ((mask >= 0) & (mask <= 1)).all():
            raise UsageError(
                f"mask has shape {tuple(mask.shape)!r} and values from {float(mask.min())!r} to "
                f"{float(mask.max())!r}: space {edit.direction.space!r} expects "
                f"{tuple(step.shape[-2:])!r}, from 0 to 1"
            )
        return mask

    def _recorded(self, styles: Code, layer: str, noise: str) -> Tensor:
        """What a layer puts out while codes of s are drawn, (n, channels, height, width)."""
        found: list[Tensor] = []

        def stop(module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
            found.append(output)
            raise _Recorded

        with suppress(_Recorded), _hooked(self.network.synthesis.get_submodule(layer), stop):
            self._synthesised(styles, noise, None)
        return found[0].contiguous()

    # ---- what only StyleGAN2 has

    def synthesise(
        self,
        codes: Tensor,
        space: str = "w_plus",
        noise_mode: str = "const",
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """`draw` with noise images that are drawn anew: noise_mode "random".

        generator : of the noise; give one for each row where a row's image must not depend on the
            batch. Raises UsageError without one.
        """
        if noise_mode == "random" and generator is None:
            raise UsageError("noise_mode 'random' needs a generator: pass a seeded torch.Generator")
        return self._synthesised(self.convert(Code(space, codes), "s"), noise_mode, generator)

    def _synthesised(
        self,
        code: Code,
        noise: str,
        generator: torch.Generator | Sequence[torch.Generator] | None,
    ) -> Tensor:
        """Images float32 (n, 3, r, r) of codes of s; a grey model's in all three channels."""
        try:
            images = self.network.synthesis.from_styles(
                [code.main[:, part.start : part.stop] for part in self.style_slices],
                noise,  # type: ignore[arg-type]
                generator,
                {name.removeprefix("noise/"): n for name, n in code.companions.items()},
            )
        except ValueError as e:
            raise UsageError(str(e)) from e
        return images.expand(-1, 3, -1, -1) if self.config.img_channels == 1 else images

    def mix(self, w_a: Tensor, w_b: Tensor, layers: Iterable[int]) -> Tensor:
        """Style mixing: w_plus codes of `w_a` with the rows `layers` of `w_b`.

        w_a, w_b : (n, num_ws, w_dim); a single row of either is used for all. Coarse styles are
        the first layers. Raises UsageError for a layer outside [0, num_ws).
        """
        w_a, w_b = (self.convert(Code("w_plus", w), "w_plus").main for w in (w_a, w_b))
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
    # Uninitialised memory instead of random weights: every tensor is loaded below. Arithmetic on
    # "meta" out of place would import torch's compiler, which takes longer than all the rest.
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
