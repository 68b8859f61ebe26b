"""How methods ask an encoder for codes, in one pass, or in several of an encoder that is shown what
its last code draws (Alaluf et al. 2021, ReStyle)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from generators.protocols import Code, Encoder, Labels, ModelFacts, RefiningEncoder
from schemas.errors import UsageError
from transforms.inversion.method import Images, render

if TYPE_CHECKING:
    from torch import Tensor


def refines(encoder: Any) -> TypeGuard[RefiningEncoder]:
    """Whether an encoder is shown what its last code draws."""
    return hasattr(encoder, "refine")


def as_taken(images: Tensor, encoder: Any) -> Tensor:
    """Images (n, 3, h, w), resized to the encoder's own size where it has one."""
    import torch.nn.functional as F

    size = encoder.size
    if size is None or size == tuple(images.shape[-2:]):
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def mean_code(images: Images) -> Code:
    """The code of every row from which the first pass begins: the mean that the encoder was trained
    from, where it has one, else the generator's."""
    import torch

    space = images.generator.facts.space(images.settings.space)
    mean = images.encoder.mean if refines(images.encoder) else None
    if mean is None:
        mean = images.generator.centre(space.name)
    mean = mean.detach().to(images.pixels.device, torch.float32)
    return Code(space.name, mean.expand(len(images), *space.shape).contiguous())


def drawn_mean(images: Images, code: Code) -> Tensor:
    """What `mean_code` draws, (n, 3, height, width); of a model without classes drawn once."""
    noise, n = images.settings.noise_mode, len(images)
    if images.generator.facts.classes:
        return render(images.generator, code, noise)
    return render(images.generator, code[:1], noise).expand(n, -1, -1, -1)


def refined(images: Images, encoder: RefiningEncoder, code: Code, drawn: Tensor) -> Code:
    """The encoder's next code of the images, without gradient."""
    import torch

    with torch.no_grad():
        return encoder.refine(as_taken(images.pixels, encoder), drawn, code)


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
