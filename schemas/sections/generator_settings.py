"""Settings of a section whose keys belong to the plug-in that it names, such as a generator's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from schemas.errors import SpecError
from schemas.sections.types import SpecModel
from schemas.suggest import suggestion


@dataclass(frozen=True)
class _Mark:
    """What a setting is; an entry of its annotation."""

    meaning: str


CHOICE = _Mark("how the model is drawn, which no file states and a specification may choose")


class NoSettings(SpecModel):
    """Of a family whose files state everything."""


def choices(model: type[SpecModel]) -> frozenset[str]:
    """Settings of a family that are a `CHOICE`."""
    return frozenset(n for n, field in model.model_fields.items() if CHOICE in field.metadata)


def checked_settings(
    model: type[SpecModel],
    family: str,
    given: Mapping[str, Any],
    section: str = "generator",
    kind: str = "family",
) -> dict[str, Any]:
    """What is given, as the settings of a family (or other kind of plug-in).

    section : of the specification, that holds them
    Raises SpecError for an unknown one or a value that it cannot have.
    """
    known = list(model.model_fields)
    for name in given:
        if name not in known:
            cure = suggestion(name, known) if known else "leave it out, there are none"
            raise SpecError(f"'{section}.{name}' is no setting of {kind} {family!r}: {cure}")
    try:
        return model.model_validate(dict(given)).model_dump(exclude_none=True)
    except ValidationError as e:
        first = e.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"'{section}.{name}' is {first['input']!r}: {first['msg']}") from e
