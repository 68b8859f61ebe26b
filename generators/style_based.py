"""What the StyleGANs share behind the `Generator` protocol: z -> w -> w_plus -> s -> features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from generators.activations import added, recorded
from generators.edits import check_code, class_weights, edited
from generators.families.base import Checkpoint
from generators.protocols import Code, Edit, Labels, ModelFacts, labels_in_turn
from generators.seeds import drawn
from generators.tuned import DrawsOwnParts, by_row
from generators.w_avg import ESTIMATE, NAME
from schemas.errors import UsageError

WAY = ("z", "w", "w_plus", "s")
"""Spaces in the order in which a code is converted."""


GREY = 128 / 127.5 - 1
"""Mid-grey of images in [-1, 1], over which pictures with opacity are read (128 of 255)."""


@dataclass(frozen=True)
class StyleSlice:
    """Where one layer's style lies: name, w_plus row that drives it, columns start:stop of s.

    to_rgb : it is of a layer that puts out a picture.
    """

    name: str
    ws_index: int
    start: int
    stop: int
    to_rgb: bool = False


def as_rgb(images: Tensor) -> Tensor:
    """Images (n, 3, h, w) of ones with 1, 3 or 4 channels: grey in all three channels, RGB, or RGB
    with opacity (from -1, none, to 1) over mid-grey, as pictures with opacity are read."""
    if images.shape[1] == 1:
        return images.expand(-1, 3, -1, -1)
    if images.shape[1] == 4:
        opacity = ((images[:, 3:] + 1) / 2).clamp(0, 1)
        return torch.lerp(torch.full_like(images[:, :3], GREY), images[:, :3], opacity)
    return images


def estimate_w_avg(network: Any) -> Tensor:
    """Mean of w over z drawn as `w_avg.ESTIMATE` says, float32 (w_dim,); labels, if any, take
    turns. network : its ``config`` tells z_dim, w_dim and c_dim."""
    config, device = network.config, network.mapping.w_avg.device
    n, random = ESTIMATE["n"], np.random.RandomState(ESTIMATE["seed"])
    draws = random.standard_normal((n, config.z_dim)).astype(np.float32)
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


class _Unfilled(TorchFunctionMode):  # type: ignore[misc]
    """Inside, random numbers are whatever the memory holds: a network's weights are replaced.

    Tensors without memory ("meta") would do as well, but arithmetic on them imports torch's
    compiler: half of the time that loading a small model takes.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = torch.empty if func in (torch.randn, torch.rand) else func
        return made(*args, **(kwargs or {}))


def loaded(make: Callable[[], nn.Module], checkpoint: Checkpoint) -> Any:
    """The network that ``make`` gives, on the CPU with the tensors of a checkpoint; w_avg is
    estimated where it has none."""
    with _Unfilled():
        network: Any = make()
    missing = NAME not in checkpoint.tensors
    state = {name: torch.from_numpy(value.copy()) for name, value in checkpoint.tensors.items()}
    if missing:
        state[NAME] = torch.zeros(network.mapping.w_avg.shape)
    network.load_state_dict(state, strict=True)
    if missing:
        network.mapping.w_avg.copy_(estimate_w_avg(network))
    return network


class StyleBasedGenerator(DrawsOwnParts):
    """Implements `generators.protocols.Generator` over a network with these parts:

    ``mapping(z, c)`` : z (n, z_dim) and class weights (n, classes) or None -> w (n, w_dim).
    ``mapping.w_avg`` : mean of w, (w_dim,).
    ``synthesis.styles(w_plus)`` : (n, layers, w_dim) -> styles of every layer, a list of (n, k).
    ``synthesis.style_slices`` : where each of them lies in s, see `StyleSlice`.
    ``synthesis.<layer>`` : the module whose output the space ``features.<layer>`` is.

    A subclass sets ``facts`` and gives `synthesised`, and `mean_w` where classes have their own.

    network : taken over: put in evaluation mode, its parameters no longer require gradients; its
        ``config.architecture()`` is that of the checkpoint.
    estimated : see `Checkpoint`; of w_avg it says that it comes from `estimate_w_avg`.
    metadata : facts about the file (format, ...) that enter no fingerprint.
    """

    def __init__(
        self,
        network: Any,
        estimated: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.config = network.config
        self.style_slices: tuple[StyleSlice, ...] = tuple(network.synthesis.style_slices)
        self.estimated: dict[str, Any] = dict(estimated or {})
        self.metadata: dict[str, Any] = {
            **(metadata or {}),
            "w_avg_estimated": self.w_avg_estimated,
        }
        self.architecture: dict[str, Any] = self.config.architecture()

    @property
    def layers(self) -> nn.Module:
        """See `DrawsOwnParts`."""
        synthesis: nn.Module = self.network.synthesis
        return synthesis

    @property
    def facts(self) -> ModelFacts:
        """What the model is."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits over architecture and tensors, the same for every file format."""
        return self.checkpoint().fingerprint

    def tensors(self) -> dict[str, np.ndarray]:
        """Every stored tensor by name, float32, on the CPU."""
        return {
            name: value.detach().cpu().numpy().astype(np.float32)
            for name, value in self.network.state_dict().items()
        }

    def checkpoint(self) -> Checkpoint:
        """Architecture, tensors and metadata, as a checkpoint file holds them."""
        return Checkpoint(self.architecture, self.tensors(), self.estimated, self.metadata)

    @property
    def w_avg_estimated(self) -> bool:
        """Whether the mean of w is not of the training, see `estimate_w_avg`."""
        return NAME in self.estimated

    def synthesised(self, code: Code, noise: str) -> Tensor:
        """Images (n, 3, height, width) of codes of s, with their companions."""
        raise NotImplementedError

    def mean_w(self, weights: Tensor | None) -> Tensor:
        """Mean of w, (w_dim,), or of classes (n, w_dim). weights : of the classes, (n, classes)."""
        return self.w_avg

    @property
    def w_avg(self) -> Tensor:
        """Mean of w, float32 (w_dim,)."""
        mean: Tensor = self.network.mapping.w_avg
        return mean

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.w_avg.device

    def to(self, device: torch.device | torch.dtype | str) -> Any:
        """Move the model, or change its precision; returns itself."""
        self.network.to(device)
        return self

    # ---- codes

    def sample(
        self,
        space: str,
        seeds: Sequence[int],
        *,
        labels: Labels = None,
        truncation: float | None = None,
    ) -> Code:
        """Codes of the prior: of z drawn by `generators.seeds.drawn`, of w, w_plus and s converted
        from it."""
        if self.facts.space(space).prior == "none":
            having = [s.name for s in self.facts.spaces.values() if s.prior != "none"]
            raise UsageError(
                f"space {space!r} cannot be sampled from the prior: use one of {having!r}"
            )
        z = Code("z", torch.from_numpy(drawn("normal", seeds, self.facts.space("z").shape)))
        if labels is None:
            labels = labels_in_turn(self.facts.classes, seeds)
        return self.convert(z, space, labels=labels, truncation=truncation)

    def centre(self, space: str, labels: Labels = None) -> Tensor:
        """w_avg, in every layer of w_plus; its styles; 0 of z."""
        shape = self.facts.space(space).shape
        weights = None
        if labels is not None:
            weights = class_weights(self.facts, labels, len(labels), self.device)
        if space == "z":
            found = torch.zeros(shape, device=self.device)
        elif space in WAY:
            mean = self.mean_w(weights).detach()
            found = mean if mean.ndim > 1 else mean[None]
            if space == "w_plus":
                found = found[:, None].expand(-1, *shape)
            elif space == "s":
                found = self.convert(Code("w", found), "s").main
            found = found if len(found) > 1 else found[0]
        else:
            raise UsageError(f"space {space!r} has no mean code: use one of {[*WAY]!r}")
        return found if labels is None else found.expand(len(labels), *shape)

    @by_row
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
        ``mean + psi (w - mean)``, in the first `cutoff` layers of w_plus."""
        check_code(self.facts, code)
        injected = self.facts.space(target).injected_into
        if injected and code.space != target:
            styles = self.convert(code, "s", labels=labels, truncation=truncation, cutoff=cutoff)
            found = recorded(
                self.network.synthesis, target, lambda: self.synthesised(styles, noise)
            )
            return Code(target, found.to(self.w_avg.dtype))
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
        weights = None
        if code.space == "z" or (truncates and labels is not None):
            weights = class_weights(self.facts, labels, len(main), self.device)
            weights = None if weights is None else weights.to(main)
        if code.space == "z":
            main = self.network.mapping(main, weights)
        if code.space != "s":
            if code.space != "w_plus":
                main = main[:, None].expand(-1, self.facts.space("w_plus").n_layers, -1)
            if truncates:
                last = main.shape[1] if cutoff is None else cutoff
                mean = self.mean_w(weights)
                mean = mean[:, None] if mean.ndim > 1 else mean
                near = mean.lerp(main[:, :last], float(truncation or 0.0))
                main = torch.cat([near, main[:, last:]], dim=1)
            if target == "w":
                main = main[:, 0]
            elif target == "s":
                main = torch.cat(self.network.synthesis.styles(main), dim=1)
        known = self.facts.space(target).companions
        kept = {name: value for name, value in code.companions.items() if name in known}
        return Code(target, main, kept)

    def mix(self, w_a: Tensor, w_b: Tensor, layers: Iterable[int]) -> Tensor:
        """Style mixing: w_plus codes of `w_a` with the rows `layers` of `w_b`.

        w_a, w_b : (n, layers, w_dim); a single row of either is used for all. Coarse styles are
        the first layers. Raises UsageError for a layer that there is not.
        """
        w_a, w_b = (self.convert(Code("w_plus", w), "w_plus").main for w in (w_a, w_b))
        count = self.facts.space("w_plus").n_layers
        chosen = torch.zeros(count, dtype=torch.bool, device=self.device)
        for layer in layers:
            if not 0 <= layer < count:
                raise UsageError(
                    f"layer {layer!r} is outside 0..{count - 1}: give w_plus rows of this generator"
                )
            chosen[layer] = True
        return torch.where(chosen[:, None], w_b, w_a)

    # ---- pictures

    @by_row
    def draw(
        self,
        code: Code,
        *,
        labels: Labels = None,
        edits: Sequence[Edit] = (),
        noise: str = "const",
    ) -> Tensor:
        """Images of codes of z, w, w_plus or s; of a model that draws no RGB see `as_rgb`."""
        code, injected = edited(self.facts, code.to(self.device), edits)
        styles = self.convert(code, "s", labels=labels)
        with added(self.network.synthesis, injected):
            return self.synthesised(styles, noise)
