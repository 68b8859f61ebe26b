"""Inversion by one pass of the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from generators.protocols import Code, Encoder, Labels, ModelFacts
from schemas.errors import UsageError
from schemas.sections.inversion.encoder import EncoderSpec
from transforms.inversion.method import Cost, Images, InversionMethod, Inverted
from transforms.inversion.passes import as_taken, drawn_mean, mean_code, refines

if TYPE_CHECKING:
    from torch import Tensor


class EncoderInversion(InversionMethod):
    """The encoder's codes as they are."""

    section = EncoderSpec

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        return encoded_spaces(facts)

    def cost(self, settings: Any) -> Cost:
        return Cost(encoder_passes=1)

    def invert(self, images: Images) -> Inverted:
        return Inverted(Code(images.settings.space, encoded(images)))


def encoded_spaces(facts: ModelFacts) -> tuple[str, ...]:
    """The spaces that an encoder may have been trained for, the usual ones first: the model's
    default one, and the one whose code each of its layers repeats."""
    default = facts.default_space
    first = [name for name in (facts.repeated(default), default) if name is not None]
    drawn = [s.name for s in facts.spaces.values() if s.prior != "none" and not s.injected_into]
    return tuple(dict.fromkeys([*first, *drawn]))


def encoded(images: Images) -> Tensor:
    """The encoder's codes of the images, as of `first_pass`, without gradient."""
    import torch

    with torch.no_grad():
        return first_pass(images)


def first_pass(images: Images) -> Tensor:
    """The encoder's codes of the images, in the space and shape that is asked for; of one that
    refines, those of its first pass, from the mean code. Differentiable."""
    space = images.settings.space
    shape = images.generator.facts.space(space).shape
    if images.encoder is None:
        raise UsageError("this method needs an encoder: name one under 'encoder'")
    if refines(images.encoder):
        mean, pixels = mean_code(images), as_taken(images.pixels, images.encoder)
        return images.encoder.refine(pixels, drawn_mean(images, mean), mean).main
    return encode(images.pixels, images.encoder, space, shape, images.labels)


def encode(
    images: Tensor,
    encoder: Encoder,
    space: str,
    shape: tuple[int, ...],
    labels: Labels = None,
) -> Tensor:
    """The encoder's codes of `images` in `space`, float32 (n, *shape).

    Images are resized to the encoder's own size where it has one. Codes without
    layers are repeated over those of the space; for a space without, codes with layers are averaged
    over them (encoders that know that space themselves are loaded with it).

    labels : of the images, for an encoder that takes them.
    """
    images = as_taken(images, encoder)
    taken = (images, labels) if getattr(encoder, "classes", 0) else (images,)
    codes = encoder.encode(*taken).float()
    if tuple(codes.shape[2:]) == shape:
        codes = codes.mean(dim=1)
    elif tuple(codes.shape[1:]) == shape[1:]:
        codes = codes[:, None].expand(-1, *shape)
    if tuple(codes.shape[1:]) != shape:
        raise UsageError(
            f"the encoder gives codes of shape {tuple(codes.shape[1:])!r}, space {space!r} of the "
            f"generator has {shape!r}: use an encoder that was trained for this generator"
        )
    return codes.contiguous()


PLUGIN = EncoderInversion()
