"""Inversion into a code and a feature map (F/W+ of Kang et al. 2021, FS of Zhu et al. 2021).

From the code that another method gives, steps are taken of the code and of what one layer puts out,
the companion ``features/<layer>`` (`generators.tuned`), which begins as what the code itself gives
there and is held near that. Where things lie is then decided by the map, and it holds what the
generator has never drawn; the code decides the layers after it.

Edits while drawing (`Generator.draw`) change the map by as much as they change the one that the
code itself gives (Yao et al. 2022). A code that is moved first and drawn then keeps its map: such
an edit changes the later layers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from generators.protocols import Code, ModelFacts
from generators.tuned import FEATURES
from schemas.errors import UsageError
from schemas.sections.inversion.feature_style import FeatureStyleSpec
from schemas.suggest import suggestion
from transforms.inversion.method import Cost, Images, Inverted
from transforms.inversion.pivot import FromPivot, pivots

if TYPE_CHECKING:
    from torch import Tensor

MOST_HIGH, SHARE = 32, 4


class FeatureStyle(FromPivot):
    """Adam on the code and one feature map."""

    section = FeatureStyleSpec

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        """All that take feature maps. Raises UsageError where none does."""
        found = [n for n in super().spaces(facts) if maps_of(facts, n)]
        if not found:
            raise UsageError(
                "'invert.method' is 'feature_style', and this generator takes no feature maps: use "
                "'optimise' or another method"
            )
        return found

    def own(self, settings: Any, facts: ModelFacts) -> dict[str, tuple[int, ...]]:
        maps = maps_of(facts, settings.space)
        return {FEATURES + layer_of(settings, facts): maps[layer_of(settings, facts)]}

    def cost(self, settings: Any) -> Cost:
        return self.from_pivot(settings, 2 * (settings.steps + 1), 2 * settings.steps)

    def invert(self, images: Images) -> Inverted:
        import torch

        from transforms.inversion.descent import descend

        generator, settings = images.generator, images.settings
        pivot, qualities = pivots(images)
        layer = layer_of(settings, generator.facts)
        name, space = FEATURES + layer, f"features.{layer}"

        def given(code: Code) -> Tensor:
            beside = {n: v for n, v in code.companions.items() if n != name}
            bare = replace(code, companions=beside)
            return generator.convert(bare, space, noise=settings.noise_mode).main.float()

        with torch.no_grad():
            unit = scale_of(generator, settings.space, space, settings.noise_mode)
            start = {**pivot.code.companions, name: given(pivot.code)}

        def away(code: Code, drawn: Tensor) -> Tensor:
            differences = (code.companions[name] - given(code)) / unit
            return settings.feature_penalty * differences.square().flatten(1).mean(dim=1)

        found = descend(
            replace(images, settings=settings.descent()),
            replace(pivot.code, companions=start),
            extra=away if settings.feature_penalty else None,
            move={
                settings.space: settings.learning_rate,
                name: settings.feature_learning_rate * unit,
            },
        )
        return Inverted(found.code, {**qualities, **found.qualities})


def scale_of(generator: Any, space: str, features: str, noise: str) -> float:
    """Root mean square of the feature map that the mean code gives, of the first class where there
    are classes: the same for all rows."""
    bare = getattr(generator, "generator", generator)  # whose rows have no labels
    labels = [0] if bare.facts.classes else None
    centre = bare.centre(space, labels).reshape(1, *bare.facts.space(space).shape)
    found = bare.convert(Code(space, centre), features, labels=labels, noise=noise)
    return max(float(found.main.float().square().mean().sqrt()), 1e-12)


def maps_of(facts: ModelFacts, space: str) -> dict[str, tuple[int, ...]]:
    """The layers whose feature maps codes of a space take, with the shape of one."""
    return {
        name.removeprefix(FEATURES): companion.sizes
        for name, companion in facts.space(space).companions.items()
        if name.startswith(FEATURES)
    }


def layer_of(settings: Any, facts: ModelFacts) -> str:
    """The layer that the settings name, or the default. Raises UsageError for one that is not."""
    maps = maps_of(facts, settings.space)
    if settings.layer is None:
        most = min(MOST_HIGH, facts.size[0] // SHARE)
        small = [name for name, shape in maps.items() if shape[-2] <= most]
        return small[-1] if small else next(iter(maps))
    if settings.layer not in maps:
        raise UsageError(
            f"'invert.layer' is {settings.layer!r}, no layer of this generator: "
            f"{suggestion(settings.layer, list(maps))}"
        )
    return str(settings.layer)


PLUGIN = FeatureStyle()
