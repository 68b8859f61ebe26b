"""What methods share that begin with the codes of another method, the pivots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from generators.protocols import ModelFacts
from schemas.errors import UsageError
from transforms.inversion.catalog import invert_batch, method_named
from transforms.inversion.method import (
    DESCENT,
    Cost,
    Images,
    InversionMethod,
    Inverted,
    companion_shapes,
)


class FromPivot(InversionMethod):
    """A method whose settings, a `PivotSpec`, name another that gives it codes to start from."""

    def versions(self, settings: Any) -> int | list[int]:
        pivot = method_named(settings.pivot.method).version
        return 1 if pivot == self.version == 1 else [self.version, pivot]

    def companions(self, settings: Any, facts: ModelFacts) -> Mapping[str, tuple[int, ...]]:
        """Those of the pivot, and the method's `own`. Raises UsageError for a pivot that gives no
        codes of the space, or some of `own` already."""
        pivot, space = settings.pivot_settings(), settings.space
        method = method_named(pivot.method)
        if space not in method.spaces(facts):
            raise UsageError(
                f"'invert.space' is {space!r}, and 'invert.pivot', {pivot.method!r}, gives codes "
                f"of {', '.join(map(repr, method.spaces(facts)))} for this generator: name one of "
                "these, or another pivot"
            )
        given, own = companion_shapes(method, pivot, facts), self.own(settings, facts)
        twice = sorted(set(given) & set(own))
        if twice:
            raise UsageError(
                f"'invert.pivot', {pivot.method!r}, gives {twice!r} already, which method "
                f"{settings.method!r} finds: name another pivot"
            )
        return {**given, **own}

    def named(self, settings: Any, facts: ModelFacts, uris: Sequence[str]) -> Sequence[str] | None:
        """What the pivot knows beforehand, such as codes that are imported."""
        pivot = settings.pivot_settings()
        return method_named(pivot.method).named(pivot, facts, uris)

    def own(self, settings: Any, facts: ModelFacts) -> dict[str, tuple[int, ...]]:
        """The companions that the method adds, with the shape of one row's."""
        raise NotImplementedError

    def qualities(self, settings: Any) -> Sequence[str]:
        """Of the pivot's, as ``pivot_<name>``; then the loss there and at the end, and the steps
        between."""
        pivot = method_named(settings.pivot.method)
        return [*(f"pivot_{name}" for name in pivot.qualities(settings.pivot_settings())), *DESCENT]

    def from_pivot(self, settings: Any, forward_passes: int, backward_passes: int) -> Cost:
        """What the pivot takes, and what follows."""
        pivot = settings.pivot_settings()
        cost = method_named(pivot.method).cost(pivot)
        return Cost(
            cost.encoder_passes,
            cost.forward_passes + forward_passes,
            cost.backward_passes + backward_passes,
        )


def pivots(images: Images) -> tuple[Inverted, dict[str, Any]]:
    """The pivots of a batch, and their qualities under the names that they are stored by."""
    found = invert_batch(replace(images, settings=images.settings.pivot_settings()))
    return found, {f"pivot_{name}": values for name, values in found.qualities.items()}
