"""Inversion by gradient steps of the encoder's weights, of each image from the trained ones.

DSE(E) of Yu and Wang (2021): where optimisation moves a code freely, here the encoder moves, and
only codes that it can give are reached. The tuned weights are thrown away, the code is kept. Any
encoder will do, of one that refines its first pass; the loss is that of
`generators.similarity.objective`, with the encoder's own code in place of the unknown one.

Every row has its own copy of the encoder and its own steps, one row after the other, so its result
is the same to the bit whatever rows are beside it. Of all steps the best code is kept.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from generators.protocols import Code, ModelFacts
from schemas.errors import UsageError
from schemas.sections.inversion.encoder_tuning import EncoderTuningSpec
from transforms.inversion.encoding import encoded_spaces, first_pass
from transforms.inversion.method import DESCENT, Cost, Images, InversionMethod, Inverted

if TYPE_CHECKING:
    from torch import Tensor

    from generators.similarity.objective import DiverseSimilarity


class EncoderTuning(InversionMethod):
    """Adam on a copy of the encoder for each row."""

    section = EncoderTuningSpec

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        return encoded_spaces(facts)

    def qualities(self, settings: Any) -> Sequence[str]:
        return DESCENT

    def cost(self, settings: Any) -> Cost:
        passes = 2 if settings.latent_weight else 1
        return Cost(passes * (settings.steps + 1), settings.steps + 1, settings.steps)

    def invert(self, images: Images) -> Inverted:
        import torch

        from generators.similarity.objective import DiverseSimilarity

        objective = DiverseSimilarity.of_settings(images.settings, images.perceptual)
        network = getattr(images.encoder, "network", None)
        if network is None or not any(True for _ in network.parameters()):
            raise UsageError(
                "this encoder has no weights that could be optimised: use method 'hybrid', or an "
                "encoder of one of the architectures"
            )
        tuned: Any = copy.deepcopy(images.encoder)
        tuned.network.requires_grad_(True)
        rows: list[tuple[Tensor, list[float]]] = []
        for i in range(len(images)):
            if images.repeats(i):
                rows.append(rows[-1])
                continue
            tuned.network.load_state_dict(network.state_dict())
            rows.append(_tuned(images[i : i + 1], tuned, objective))
        codes = torch.cat([code for code, _ in rows])
        told = torch.tensor([numbers for _, numbers in rows], device=codes.device)
        return Inverted(
            Code(images.settings.space, codes),
            {name: told[:, k] for k, name in enumerate(DESCENT)},
        )


def _tuned(image: Images, encoder: Any, objective: DiverseSimilarity) -> tuple[Tensor, list[float]]:
    """The best code of one image, (1, ...), and its `DESCENT`; the encoder's weights are moved.

    A row whose loss is never a number has a code that is none.
    """
    import torch

    from generators.similarity.objective import BETAS

    settings, generator, pixels = image.settings, image.generator, image.pixels
    shape = generator.facts.space(settings.space).shape
    found: list[Tensor] = []

    def encoded(pixels: Tensor) -> Tensor:
        found.append(first_pass(replace(image, pixels=pixels, encoder=encoder)))
        return found[-1]

    def draw(codes: Tensor) -> Tensor:
        return generator.draw(Code(settings.space, codes), noise=settings.noise_mode)

    optimiser = torch.optim.Adam(
        encoder.network.parameters(), lr=settings.learning_rate, betas=BETAS
    )
    first = best_loss = math.nan
    best = None
    for step in range(settings.steps + 1):
        last = step == settings.steps
        found.clear()
        with torch.set_grad_enabled(not last):
            loss = objective.of_encoder(encoded, draw, pixels).sum()
        value = float(loss.detach())
        if step == 0:
            first = value
        if best is None or value < best_loss:
            best, best_loss = found[0].detach().clone(), value
        if last or not math.isfinite(value):
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    if best is None or not math.isfinite(best_loss):
        best = torch.full((1, *shape), math.nan, device=pixels.device)
    return best, [first, best_loss, float(step)]


PLUGIN = EncoderTuning()
