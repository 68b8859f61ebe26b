"""Settings of the specification's generator section: of each family its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from schemas.errors import SpecError
from schemas.sections.types import Number, SpecModel
from schemas.suggest import suggestion


class NoSettings(SpecModel):
    """Of a family whose files state everything."""


class StyleGAN2Settings(SpecModel):
    """What a StyleGAN2 file may leave open. A state dict alone says neither."""

    lr_multiplier: Number | None = Field(
        default=None,
        gt=0,
        description="Learning-rate multiplier of the mapping layers ('mapping_kwargs' of the "
        "official code, 'lr_mlp' of rosinality's), which scales their weights. Default: what the "
        "file states, else 0.01.",
    )
    conv_clamp: Number | None = Field(
        default=None,
        gt=0,
        description="Clamp of the layers' activations ('conv_clamp' of the official code, 256 in "
        "many of its trainings). Default: what the file states, else none.",
    )


class PlainSettings(SpecModel):
    """Of a network of another maker without a declaration beside it, or whose declaration does not
    say it."""

    prior: Literal["normal", "uniform", "truncated_normal"] | None = Field(
        default=None,
        description="What codes are drawn from: 'normal', 'uniform' on [-1, 1], or "
        "'truncated_normal' between -2 and 2. Default: what the declaration says, else what is "
        "usual for the architecture.",
    )


def checked_settings(
    model: type[SpecModel], family: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """What is given, as the settings of a family.

    Raises SpecError for an unknown one or a value that it cannot have.
    """
    known = list(model.model_fields)
    for name in given:
        if name not in known:
            cure = suggestion(name, known) if known else "leave it out, there are none"
            raise SpecError(f"'generator.{name}' is no setting of family {family!r}: {cure}")
    try:
        return model.model_validate(dict(given)).model_dump(exclude_none=True)
    except ValidationError as e:
        first = e.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"'generator.{name}' is {first['input']!r}: {first['msg']}") from e
