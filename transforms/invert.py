"""Images to latent codes: by an encoder, by optimisation, or by both (torch numerics).

The loss of one row, of a rendered image x and its target t, both float32 in [-1, 1]:

    pixel_weight * mean((x - t)^2) + feature_weight * features(x, t)

``features`` compares image gradients over an average-pooling pyramid (see `feature_distance`): it
is fixed, has no weights and needs no other model, and like a perceptual distance it judges edges
at every scale and not the absolute brightness. Losses are summed over rows, never averaged, and
Adam works element by element, so a row's result does not depend on the other rows of its batch.

optimise
    Adam from the mean code, as the StyleGAN2 projector does it (Karras et al. 2020, appendix D):
    learning rate ramped up over the first 5 % and down over the last 25 % of the steps, and normal
    noise added to the code, of standard deviation 0.05 std(w) max(0, 1 - t / 0.75)^2 at time t.
hybrid
    Adam from the encoder's code, ramped down only, without noise.

Of the noise-free steps the best code of each row is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from generators.protocols import Code, Encoder, Generator, Labels
from schemas.errors import UsageError

Method = Literal["encoder", "optimise", "hybrid"]
METHODS = ("encoder", "optimise", "hybrid")
SPACES = ("w", "w_plus")
NOISE_MODES = ("const", "none")

NOISE_SCALE = 0.05
NOISE_RAMP = 0.75
RAMP_UP, RAMP_DOWN = 0.05, 0.25
PYRAMID_LEVELS = 4
SPREAD_SAMPLES = 1000

#: Number of this stage in the seeds of its rows; other stages use other numbers.
STAGE = 1


@dataclass(frozen=True)
class Inversion:
    """How to invert: the part of `schemas.spec.InvertSpec` that changes the codes.

    steps, learning_rate, pixel_weight, feature_weight : not used by method "encoder".
    Raises UsageError for anything that cannot be computed.
    """

    method: Method = "encoder"
    space: str = "w_plus"
    steps: int = 100
    learning_rate: float = 0.05
    pixel_weight: float = 1.0
    feature_weight: float = 0.5
    noise_mode: str = "const"

    def __post_init__(self) -> None:
        for name, known in (("method", METHODS), ("space", SPACES), ("noise_mode", NOISE_MODES)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name!r} is {getattr(self, name)!r}, expected one of {known!r}: "
                    "correct the 'invert' section"
                )
        if self.steps < 1 or self.learning_rate <= 0:
            raise UsageError(
                f"'steps' is {self.steps!r} and 'learning_rate' {self.learning_rate!r}: "
                "give at least one step and a positive rate"
            )
        if self.optimises and min(self.pixel_weight, self.feature_weight) < 0:
            raise UsageError("'pixel_weight' and 'feature_weight' must not be negative")
        if self.optimises and self.pixel_weight == 0 and self.feature_weight == 0:
            raise UsageError("'pixel_weight' and 'feature_weight' are both 0: raise one of them")

    @property
    def optimises(self) -> bool:
        """Whether gradient steps are taken."""
        return self.method != "encoder"

    @property
    def encodes(self) -> bool:
        """Whether an encoder is needed."""
        return self.method != "optimise"


def row_generator(seed: int, stage: int, image_id: str) -> np.random.Generator:
    """The random numbers of one row: ``SeedSequence([seed, stage, *image_id])``.

    image_id : hex digits; taken as 32-bit words, so that the stream follows the image and neither
        its position nor its batch.
    """
    words = np.frombuffer(bytes.fromhex(image_id.ljust(-(-len(image_id) // 8) * 8, "0")), ">u4")
    return np.random.default_rng(np.random.SeedSequence([seed, stage, *map(int, words)]))


def invert_batch(
    generator: Generator,
    images: Tensor,
    inversion: Inversion,
    encoder: Encoder | None = None,
    rngs: Sequence[np.random.Generator] | None = None,
) -> Tensor:
    """Codes of a batch of images.

    images : float32 (n, 3, height, width) in [-1, 1] of the generator's size, on its device.
    encoder : needed by "encoder" and "hybrid".
    rngs : one for each row, for the noise of "optimise"; see `row_generator`.

    Returns float32 (n, *shape of the space), without gradient. Rows that diverged are not
    finite; they do not touch the others. Raises UsageError when encoder or rngs are missing, or
    the encoder's codes do not fit the generator.
    """
    shape = generator.facts.space(inversion.space).shape
    if inversion.encodes:
        start = encode(images, encoder, inversion.space, shape)
        if inversion.method == "encoder":
            return start
        return optimise(generator, images, start, inversion, None)
    if rngs is None or len(rngs) != len(images):
        raise UsageError(
            f"'rngs' has {None if rngs is None else len(rngs)!r} entries for {len(images)!r} "
            "images: give one generator of random numbers for each row"
        )
    start = generator.centre(inversion.space).detach().to(images.device, torch.float32)
    return optimise(generator, images, start.expand(len(images), *shape), inversion, rngs)


def encode(images: Tensor, encoder: Encoder | None, space: str, shape: tuple[int, ...]) -> Tensor:
    """The encoder's codes of `images` in `space`, float32 (n, *shape).

    Images are resized to the encoder's own resolution where it has one. Codes of a w encoder are
    repeated over the layers of w_plus; for space w those of a w_plus encoder are averaged over
    layers (encoders that know w themselves are loaded with that space).
    """
    if encoder is None:
        raise UsageError("this method needs an encoder: name one under 'encoder'")
    side = getattr(encoder, "resolution", images.shape[-1])
    if side != images.shape[-1]:
        images = F.interpolate(
            images, (side, side), mode="bilinear", align_corners=False, antialias=True
        )
    with torch.no_grad():
        codes = encoder.encode(images).float()
    if codes.ndim == 3 and space == "w":
        codes = codes.mean(dim=1)
    elif codes.ndim == 2 and space == "w_plus":
        codes = codes[:, None].expand(-1, shape[0], -1)
    if tuple(codes.shape[1:]) != shape:
        raise UsageError(
            f"the encoder gives codes of shape {tuple(codes.shape[1:])!r}, space {space!r} of the "
            f"generator has {shape!r}: use an encoder that was trained for this generator"
        )
    return codes.contiguous()


def optimise(
    generator: Generator,
    images: Tensor,
    start: Tensor,
    inversion: Inversion,
    rngs: Sequence[np.random.Generator] | None,
) -> Tensor:
    """Adam from `start` (n, ...) towards `images`; noise on the codes where `rngs` are given.

    Returns each row's best code among the noise-free evaluations, float32 like `start`.
    """
    codes = start.detach().clone().requires_grad_(True)
    best, best_loss = start.detach().clone(), torch.full((len(start),), math.inf)
    best_loss = best_loss.to(start.device)
    scale = NOISE_SCALE * spread(generator, inversion.space) if rngs is not None else 0.0
    target = _pyramid(images)
    optimiser = torch.optim.Adam([codes], lr=inversion.learning_rate, betas=(0.9, 0.999))
    for step in range(inversion.steps + 1):
        t = step / inversion.steps
        noise = scale * max(0.0, 1.0 - t / NOISE_RAMP) ** 2
        used = codes
        if rngs is not None and noise > 0.0:
            draws = np.stack([rng.standard_normal(start.shape[1:], np.float32) for rng in rngs])
            used = codes + torch.from_numpy(draws).to(start.device) * noise
        last = step == inversion.steps
        with torch.set_grad_enabled(not last):
            drawn = generator.draw(Code(inversion.space, used), noise=inversion.noise_mode)
            losses = row_losses(drawn, target, inversion)
        if noise == 0.0:
            better = losses.detach() < best_loss  # False where the loss is not a number
            best[better], best_loss[better] = codes.detach()[better], losses.detach()[better]
        if last:
            break
        optimiser.param_groups[0]["lr"] = inversion.learning_rate * ramp(t, rngs is not None)
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()
    lost = ~torch.isfinite(best_loss)
    best[lost] = torch.nan
    return best


def ramp(t: float, warm_up: bool) -> float:
    """Factor of the learning rate at time t in [0, 1): cosine down at the end, linear up first."""
    down = min(1.0, (1.0 - t) / RAMP_DOWN)
    factor = 0.5 - 0.5 * math.cos(down * math.pi)
    return factor * min(1.0, (t + 1e-3) / RAMP_UP) if warm_up else factor


def row_losses(drawn: Tensor, target: list[Tensor], inversion: Inversion) -> Tensor:
    """Loss of every row, (n,): see the module text. target : pyramid of the images."""
    loss = inversion.pixel_weight * (drawn - target[0]).square().flatten(1).mean(dim=1)
    if inversion.feature_weight:
        loss = loss + inversion.feature_weight * _feature_distance(_pyramid(drawn), target)
    return loss


def feature_distance(a: Tensor, b: Tensor) -> Tensor:
    """Gradient pyramid distance of images (n, c, h, w) in [-1, 1] -> (n,).

    Mean over up to 4 levels (each half the size of the one before, by average pooling, down to
    4 pixels) of the mean squared difference of forward differences along x and y. At level k the
    differences span 2^k pixels, so levels weigh alike.
    """
    return _feature_distance(_pyramid(a), _pyramid(b))


def _pyramid(images: Tensor) -> list[Tensor]:
    levels = [images]
    while len(levels) < PYRAMID_LEVELS and min(levels[-1].shape[-2:]) >= 8:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _feature_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    total = torch.zeros(len(a[0]), device=a[0].device)
    for x, y in zip(a, b, strict=True):
        d = x - y  # differences are linear, so the gradient of d is the gradients' difference
        dx = (d[..., :, 1:] - d[..., :, :-1]).square().flatten(1).mean(dim=1)
        dy = (d[..., 1:, :] - d[..., :-1, :]).square().flatten(1).mean(dim=1)
        total = total + dx + dy
    return total / len(a)


def spread(generator: Generator, space: str) -> float:
    """Root mean squared distance per coordinate of the prior's codes from their centre, over 1,000
    fixed samples; of w where a code holds one of w in each layer.

    Karras et al. 2020, appendix D, take sqrt(sum |w - mean|^2 / n) over 10,000 samples, without
    dividing by the number of coordinates; per coordinate the noise has the same direction and a
    scale that does not grow with w_dim.
    """
    space = generator.facts.repeated(space) or space
    key = generator.facts.fingerprint, space
    kept = _SPREAD.get(key)
    if kept is None:
        with torch.no_grad():
            drawn = generator.sample(space, range(SPREAD_SAMPLES)).main
        kept = float((drawn - generator.centre(space)).double().square().mean().sqrt())
        _SPREAD[key] = kept
    return kept


_SPREAD: dict[tuple[str, str], float] = {}


def render(generator: Generator, code: Code, noise: str = "const", labels: Labels = None) -> Tensor:
    """What the generator draws from a code, float32 NCHW, without gradient."""
    with torch.no_grad():
        return generator.draw(code, labels=labels, noise=noise)
