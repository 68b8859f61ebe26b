"""What sections of methods have in common that begin with the codes of another method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from schemas.sections.inversion.optimise import OptimiseSpec, check_some_weight
from schemas.sections.invert import SAME_CODES, InvertSpec, Needs, invert_section
from schemas.sections.perceptual import PerceptualSpec
from schemas.sections.types import BatchSize, Integer, Number


def _own(spec: InvertSpec) -> list[str]:
    """The method, and the keys that are its alone."""
    return [k for k in type(spec).model_fields if k == "method" or k not in InvertSpec.model_fields]


def _read(value: Any, info: ValidationInfo) -> InvertSpec:
    if isinstance(value, InvertSpec):
        return value
    given = {"method": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or "method" not in given:
        raise ValueError(
            f"must be the name of a method, or its keys with 'method', got {value!r}: write "
            "'hybrid', or {method: hybrid, steps: 200}"
        )
    shared = [key for key in given if key in InvertSpec.model_fields and key != "method"]
    if shared:
        raise ValueError(f"{shared!r} stand in 'invert' for both methods: move them there")
    found = invert_section(given, (info.context or {}).get("base"))
    if isinstance(found, PivotSpec):
        raise ValueError(
            f"method {found.method!r} begins with the codes of another itself: name that one"
        )
    return found


def _shown(spec: InvertSpec) -> dict[str, Any]:
    return {key: value for key, value in spec.model_dump(mode="json").items() if key in _own(spec)}


Pivot = Annotated[
    InvertSpec,
    PlainValidator(_read),
    PlainSerializer(_shown),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}], "default": "hybrid"}),
]


class PivotSpec(InvertSpec):
    """Codes of another method, the pivots, and gradient steps from there."""

    pivot: Pivot = Field(
        default_factory=lambda: invert_section({"method": "hybrid"}),
        description="The method that finds the codes to start from: its name, or its keys with "
        "'method'. Keys that all methods have stand beside this one.",
    )
    steps: Integer = Field(
        default=100, ge=1, le=100_000, description="Gradient steps from the pivot."
    )
    learning_rate: Number = Field(
        default=0.05, gt=0, description="Step size of the optimiser (Adam)."
    )
    pixel_weight: Number = Field(
        default=1.0, ge=0, description="Weight of the mean squared pixel error in the loss."
    )
    feature_weight: Number = Field(
        default=0.0,
        ge=0,
        description="Weight of the feature distance in the loss: image gradients compared over a "
        "pyramid of scales.",
    )
    structural_weight: Number = Field(
        default=0.0, ge=0, description="Weight of 1 - SSIM in the loss."
    )
    perceptual_weight: Number = Field(
        default=0.125,
        ge=0,
        description="Weight of the perceptual distance in the loss: of 'perceptual', or where that "
        "is null of the project's own network. Papers take 1 of LPIPS; LPIPS*, of the project's "
        "network, is about 8 times as large.",
    )
    tolerance: Number = Field(
        default=0.0,
        ge=0,
        description="An image is done when ten steps lower its loss by no more than this share. "
        "Default: all steps are taken.",
    )
    batch_size: Annotated[BatchSize, SAME_CODES] = Field(
        default=8,
        description="Images in one forward pass, from 1 to 8192; does not change results beyond "
        "rounding. All that is stored of them is held at once.",
    )

    @property
    def needs(self) -> Needs:
        pivot = self.pivot.needs
        return Needs(encoder=pivot.encoder, gradients=True, random=pivot.random)

    @property
    def compared_by(self) -> PerceptualSpec | None:
        if self.perceptual is None and self.perceptual_weight:
            return PerceptualSpec()
        return self.perceptual or self.pivot.compared_by

    def brief(self) -> Self:
        return self.model_copy(
            update={"steps": min(self.steps, 2), "pivot": self.pivot_settings().brief()}
        )

    def identity(self) -> dict[str, Any]:
        pivot = self.pivot.identity()
        return super().identity() | {"pivot": {k: pivot[k] for k in _own(self.pivot) if k in pivot}}

    def pivot_settings(self) -> InvertSpec:
        """The pivot's section, with the keys that both share as they are here."""
        shared = {k: getattr(self, k) for k in InvertSpec.model_fields if k != "method"}
        return self.pivot.model_copy(update=shared)

    def descent(self) -> OptimiseSpec:
        """How the steps from the pivot are taken."""
        keys = [k for k in OptimiseSpec.model_fields if k in type(self).model_fields]
        given = {key: getattr(self, key) for key in keys}
        return OptimiseSpec.model_construct(**{**given, "method": "optimise"})

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        check_some_weight(self)
        return self
