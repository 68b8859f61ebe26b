"""Inversion by the encoder of a variational autoencoder (Kingma and Welling 2014).

The code is the mean of q(z | x); the logarithm of its variance is stored beside it, where encoder
and generator have one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from generators.families.plain.vae_encoder import VaeEncoder, VaeEncoderFile, read_vae_encoder
from generators.protocols import Code, ModelFacts
from schemas.errors import UsageError
from schemas.sections.inversion.vae import VaeSpec
from transforms.inversion.method import Cost, Images, InversionMethod, Inverted

LOG_VARIANCE = "log_variance"


class VaeInversion(InversionMethod):
    """Mean and log-variance as the encoder gives them."""

    section = VaeSpec

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        return (facts.default_space,)

    def companions(self, settings: Any, facts: ModelFacts) -> Sequence[str]:
        """The log-variance, where both have one. Raises UsageError for another generator's
        encoder, or none."""
        space = facts.space(settings.space)
        file = _file(settings)
        if file.shape != space.shape:
            raise UsageError(
                f"'invert.model' is {settings.model!r}, which gives codes of shape {file.shape!r}, "
                f"space {space.name!r} of the generator has {space.shape!r}: give the encoder of "
                "this generator"
            )
        both = file.log_variance and LOG_VARIANCE in space.companions
        return (LOG_VARIANCE,) if both else ()

    def cost(self, settings: Any) -> Cost:
        return Cost(encoder_passes=1)

    def invert(self, images: Images) -> Inverted:
        settings = images.settings
        space = images.generator.facts.space(settings.space)
        mean, log_variance = _encoder(settings, _stamp(settings)).encode(images.pixels)
        beside = {}
        if log_variance is not None and LOG_VARIANCE in space.companions:
            beside[LOG_VARIANCE] = log_variance
        return Inverted(Code(settings.space, mean, beside))


def _file(settings: Any) -> VaeEncoderFile:
    if settings.model is None:
        raise UsageError(
            "'invert.model' is missing, and method 'vae' needs the encoder: give its file, the "
            "state dict of a VAE or an ONNX model"
        )
    return read_vae_encoder(settings.model, settings.mean, settings.log_variance)


def _stamp(settings: Any) -> tuple[int, int]:
    """What changes when the encoder's file does."""
    told = Path(settings.model).stat()
    return told.st_mtime_ns, told.st_size


@functools.lru_cache(maxsize=2)
def _encoder(settings: Any, stamp: tuple[int, int]) -> VaeEncoder:
    return VaeEncoder(_file(settings), (settings.black, settings.white))


PLUGIN = VaeInversion()
