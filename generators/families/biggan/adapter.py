"""A BigGAN behind the `Generator` protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, cast

import torch
from torch import Tensor

from generators.activations import added, recorded
from generators.edits import check_code, class_weights, edited
from generators.families.base import Checkpoint
from generators.families.biggan.config import BigGANConfig
from generators.families.biggan.facts import Z_PLUS, ZC, C, Z
from generators.families.biggan.network import BigGAN
from generators.protocols import Code, Edit, Labels, ModelFacts, labels_in_turn
from generators.seeds import drawn
from generators.tuned import DrawsOwnParts, by_row
from schemas.errors import UsageError

#: The spaces that codes of each one are converted to, beside features.
WAYS = {
    Z: (Z, ZC, C, Z_PLUS),
    ZC: (ZC, C, Z_PLUS),
    C: (C, ZC, Z_PLUS),
    Z_PLUS: (Z_PLUS,),
}


class BigGANGenerator(DrawsOwnParts):
    """See `generators.protocols.Generator`. Its spaces: `generators.families.biggan.facts`."""

    def __init__(self, facts: ModelFacts, checkpoint: Checkpoint) -> None:
        self.facts = facts
        self._checkpoint = checkpoint
        self.config = BigGANConfig.from_architecture(checkpoint.architecture)
        self.network = BigGAN(self.config, checkpoint.tensors).eval()

    def checkpoint(self) -> Checkpoint:
        """What a file of it holds."""
        return self._checkpoint

    def to(self, device: torch.device | torch.dtype | str) -> Self:
        """Move the network, or change its precision; returns itself."""
        self.network.to(device)
        return self

    def sample(
        self,
        space: str,
        seeds: Sequence[int],
        *,
        labels: Labels = None,
        truncation: float | None = None,
    ) -> Code:
        """Codes of the prior: of z drawn, of the others converted from it and the class. Truncation
        shrinks z alone; which statistics the network uses is a setting of its own."""
        if self.facts.space(space).prior == "none":
            having = [s.name for s in self.facts.spaces.values() if s.prior != "none"]
            raise UsageError(
                f"space {space!r} cannot be sampled from the prior: use one of {having!r}"
            )
        if labels is None:
            labels = labels_in_turn(self.facts.classes, seeds)
        class_weights(self.facts, labels, len(seeds), "cpu")
        z = torch.from_numpy(drawn(self.config.prior, seeds, (self.config.z_dim,)))
        return self.convert(Code(Z, z), space, labels=labels, truncation=truncation)

    def centre(self, space: str, labels: Labels = None) -> Tensor:
        """0 of z; of c the embeddings' mean over the classes, or that of each label."""
        shape = self.facts.space(space).shape
        if self.facts.space(space).prior == "none":
            raise UsageError(f"space {space!r} has no mean code: use one of {list(WAYS)!r}")
        n = 1 if labels is None else len(labels)
        if labels is None:
            weights = torch.full((1, self.facts.classes), 1.0 / self.facts.classes)
        else:
            weights = self._weights(labels, n)
        z = self.network.like.new_zeros(n, self.config.z_dim)
        found = self._assembled(space, self._parts(z), self.network.embedded(weights)).main
        return found.reshape(shape) if labels is None else found

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
        """Codes along z -> zc <-> c, of all to z_plus and then to features, and not back."""
        check_code(self.facts, code)
        code = code.to(self._device)
        injected = self.facts.space(target).injected_into is not None
        if target == code.space and (injected or truncation is None):
            return code
        if target not in WAYS.get(code.space, ()) and not (injected and code.space in WAYS):
            known = [name for name in WAYS.get(code.space, ())[1:] if name in self.facts.spaces]
            raise UsageError(
                f"codes of {code.space!r} give none of {target!r}: "
                + (f"they give those of {known!r}" if known else "they give no others")
            )
        if cutoff is not None and target != Z_PLUS:
            raise UsageError(
                f"codes of {code.space!r} are not truncated in the first {cutoff!r} layers on "
                f"their way to {target!r}: leave truncation_cutoff out, or convert to {Z_PLUS!r}"
            )
        if target == Z:
            return code.moved(code.main * float(1.0 if truncation is None else truncation))
        parts, c = self._given(code, labels)
        if truncation is not None:
            near = parts[:, :cutoff] * float(truncation)
            parts = near if cutoff is None else torch.cat([near, parts[:, cutoff:]], dim=1)
        if injected:
            return Code(target, recorded(self.network, target, lambda: self.network(parts, c)))
        return self._assembled(target, parts, c)

    @by_row
    def draw(
        self,
        code: Code,
        *,
        labels: Labels = None,
        edits: Sequence[Edit] = (),
        noise: str = "const",
    ) -> Tensor:
        """See `Generator.draw`."""
        code, injected = edited(self.facts, code.to(self._device), edits)
        parts, c = self._given(code, labels)
        with added(self.network, injected):
            images: Tensor = self.network(parts, c)
        return images.expand(-1, 3, -1, -1)

    # ---- the two halves of a code

    @property
    def _device(self) -> torch.device:
        return self.network.like.device

    def _weights(self, labels: Labels, n: int) -> Tensor:
        return cast(Tensor, class_weights(self.facts, labels, n, self._device))

    def _given(self, code: Code, labels: Labels) -> tuple[Tensor, Tensor]:
        """Parts of z (n, layers, width) and class embeddings (n, c_dim) of codes of any space."""
        main = code.main.to(self._device, self.network.like.dtype)
        beside = {name: value.to(main) for name, value in code.companions.items()}
        if code.space == Z_PLUS:
            return main, beside[C]
        if code.space == ZC:
            return self._parts(main[:, : self.config.z_dim]), main[:, self.config.z_dim :]
        if code.space == C:
            return self._parts(beside[Z]), main
        if code.space != Z:
            raise UsageError(
                f"codes of {code.space!r} are not drawn: give codes of one of {list(WAYS)!r}"
            )
        return self._parts(main), self.network.embedded(self._weights(labels, len(main)))

    def _parts(self, z: Tensor) -> Tensor:
        """What each place takes of z."""
        layers, width = self.config.n_layers, self.config.layer_dim
        if self.config.latents == "chunks":
            return z.reshape(len(z), layers, width)
        return z[:, None].expand(-1, layers, -1)

    def _assembled(self, space: str, parts: Tensor, c: Tensor) -> Code:
        """Codes of their two halves; those of z_plus alone may have parts of several z."""
        if space == Z_PLUS:
            return Code(Z_PLUS, parts.contiguous(), {C: c})
        z = parts.flatten(1) if self.config.latents == "chunks" else parts[:, 0]
        if space == C:
            return Code(C, c, {Z: z})
        return Code(space, z if space == Z else torch.cat([z, c], dim=1))
