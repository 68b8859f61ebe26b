"""The loss that a diverse similarity encoder is trained by (Yu and Wang 2021, eqs. 1 to 8).

    L = L_IMG(x, x') + mu_1 L_IMG(AT1(x), AT1(x')) + mu_2 L_IMG(AT2(x), AT2(x')) + eps L_LV(w, w')
    L_IMG = KL + alpha MSE + beta COS + gamma LPIPS + delta SSIM
    L_LV  = KL + alpha MSE + beta COS

with x' = G(E(x)) and, by line 9 of Algorithm 1, w' = E(x') = E(G(E(x))). Line 12 takes one step for
both parts; line 5 ends training where x' is like x, without saying how like, and is left to whoever
trains.

Strategy 1 has mu = (1, 1), and "removed the gradients of image pixels" of the attentions; strategy
2 has mu = (5, 9) and keeps all gradients. Without any gradient of their pixels attentions would
change nothing at all (in the authors' code, where the compared pictures are detached, they do
not). Here strategy 1 takes as given *where* an attention lies, and strategy 2 lets gradients
through the network that finds it. Strategy 2 also has the encoder's `fused_scale`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from generators.perceptual.load import PerceptualDistance
from generators.similarity.attentions import Attention, CentreCrops, GradCam
from generators.similarity.measures import cosine, dissimilarity, divergence, mean_squared
from schemas.errors import UsageError

LEARNING_RATE, BETAS = 0.0015, (0.0, 0.99)
"""Of Adam, with which the paper trains."""
ATTENTION_WEIGHTS = {1: (1.0, 1.0), 2: (5.0, 9.0)}
"""mu_1 and mu_2 of the strategies."""


@dataclass(frozen=True)
class SimilarityWeights:
    """Weights of the distances; by default those of the paper.

    divergence : of KL. squared : alpha. cosine : beta. perceptual : gamma, of LPIPS.
    structural : delta, of 1 - SSIM. latent : epsilon, of the codes' part.
    attentions : mu_1 and mu_2; None takes those of the strategy.
    """

    divergence: float = 1.0
    squared: float = 5.0
    cosine: float = 3.0
    perceptual: float = 2.0
    structural: float = 1.0
    latent: float = 0.01
    attentions: tuple[float, float] | None = None


SQUARED_ONLY = SimilarityWeights(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, (0.0, 0.0))
"""The mean squared error of the pixels alone."""


class DiverseSimilarity:
    """Distance of every row of pictures and codes from their originals; rows are independent.

    perceptual : of LPIPS; None where its weight is 0
    attention : None for none
    strategy : 1 or 2, see the module text
    """

    def __init__(
        self,
        weights: SimilarityWeights | None = None,
        perceptual: PerceptualDistance | None = None,
        attention: Attention | None = None,
        strategy: Literal[1, 2] = 1,
    ) -> None:
        weights = weights or SimilarityWeights()
        if weights.attentions is None:
            weights = replace(weights, attentions=ATTENTION_WEIGHTS[strategy])
        if weights.perceptual and perceptual is None:
            raise UsageError(
                f"the perceptual distance weighs {weights.perceptual!r}, and there is none: give "
                "'perceptual', or weigh it 0"
            )
        self.weights, self.perceptual = weights, perceptual
        self.attention, self.strategy = attention, strategy

    @classmethod
    def of_settings(cls, settings: Any, perceptual: PerceptualDistance | None) -> Self:
        """As a specification has it: ``<term>_weight``, ``attention`` and ``strategy``."""
        attention: Attention | None = None
        if settings.attention == "centre":
            attention = CentreCrops()
        elif settings.attention == "grad_cam" and perceptual is not None:
            attention = GradCam.of(perceptual)
        weights = SimilarityWeights(
            divergence=settings.divergence_weight,
            squared=settings.pixel_weight,
            cosine=settings.cosine_weight,
            perceptual=settings.perceptual_weight,
            structural=settings.structural_weight,
            latent=settings.latent_weight,
        )
        return cls(weights, perceptual, attention, settings.strategy)

    def between_images(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Eqs. 6 and 7: of x and x', float32 (n, 3, h, w) in [-1, 1] -> (n,)."""
        loss = self._scale(images, drawn)
        weights = self.weights.attentions
        if self.attention is None or weights is None or not any(weights):
            return loss
        constant = self.strategy == 1
        with torch.no_grad():
            originals = self.attention(images, True)
        for weight, a, b in zip(weights, originals, self.attention(drawn, constant), strict=True):
            if weight:
                loss = loss + weight * self._scale(a, b)
        return loss

    def between_codes(self, codes: Tensor, found: Tensor) -> Tensor:
        """Eq. 5: of w and w', float32 (n, ...) -> (n,)."""
        weights = self.weights
        return (
            weights.divergence * divergence(codes, found)
            + weights.squared * mean_squared(codes, found)
            + weights.cosine * cosine(codes, found)
        )

    def _scale(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Eq. 7 of one scale."""
        weights = self.weights
        loss = weights.squared * mean_squared(images, drawn)
        if weights.divergence:
            loss = loss + weights.divergence * divergence(images, drawn)
        if weights.cosine:
            loss = loss + weights.cosine * cosine(images, drawn)
        if weights.structural:
            loss = loss + weights.structural * dissimilarity(images, drawn)
        if weights.perceptual and self.perceptual is not None:
            with torch.no_grad():
                maps = self.perceptual.maps(images)
            distance = self.perceptual.between_maps(maps, self.perceptual.maps(drawn))
            loss = loss + weights.perceptual * distance
        return loss

    def of_encoder(
        self,
        encode: Callable[[Tensor], Tensor],
        draw: Callable[[Tensor], Tensor],
        images: Tensor,
        codes: Tensor | None = None,
    ) -> Tensor:
        """Eq. 8 of one pass of Algorithm 1: the loss of every row, (n,), whose gradient moves the
        encoder.

        encode : images -> codes. draw : codes -> images, of a generator that stays as it is.
        images : x. codes : w, that they were drawn from; None for real pictures, whose code is the
            one that the encoder gives: then reconstructions are to have the codes of originals.
        """
        found = encode(images)
        drawn = draw(found)
        loss = self.between_images(images, drawn)
        if self.weights.latent:
            again = encode(drawn)
            loss = loss + self.weights.latent * self.between_codes(
                found if codes is None else codes, again
            )
        return loss
