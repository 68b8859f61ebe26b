"""Field types and the base model of the run specification."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from schemas.cron import check_cron

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
LABEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
BUNDLED = "bundled:"

_SAME_TO_YAML = (("true", "yes", "on", "y"), ("false", "no", "off", "n"))
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")


def is_uri(text: str) -> bool:
    """True for "bundled:..." and URLs such as "s3://...", which are not file paths."""
    return bool(_URL.match(text)) and not re.match(r"^[A-Za-z]:[\\/]", text)


def _resolve(text: str, info: ValidationInfo) -> str:
    if not text.strip():
        raise ValueError("must not be empty: give a path")
    if "\0" in text:
        raise ValueError("holds a null character, which no path may: remove it")
    if is_uri(text):
        return text
    base = (info.context or {}).get("base")
    path = Path(text).expanduser()
    return os.path.normpath(Path(base) / path) if base is not None else str(path)


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _level(value: Any) -> Any:
    """A factor level as the index spells it: YAML reads 3 and true where the level is "3"."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def as_levels(value: Any) -> Any:
    """One level or a list of levels -> list of levels."""
    return [_level(v) for v in value] if isinstance(value, list) else [_level(value)]


def level_named(level: str, categories: Sequence[str]) -> str | None:
    """The category that a specification means by ``level``, None where there is none.

    YAML reads yes, no, on and off as true and false, so these name each other, too, where only one
    category can be meant.
    """
    if level in categories:
        return level
    alike = next((words for words in _SAME_TO_YAML if level.lower() in words), ())
    found = [category for category in categories if category.lower() in alike]
    return found[0] if len(found) == 1 else None


SpecPath = Annotated[str, AfterValidator(_resolve)]
Integer = Annotated[int, BeforeValidator(_not_bool)]
Number = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Label = Annotated[str, Field(pattern=LABEL_PATTERN)]
Level = Annotated[str, BeforeValidator(_level)]
Cron = Annotated[str, AfterValidator(check_cron)]
Strings = Annotated[list[str], BeforeValidator(_as_list)]
Space = Literal["w", "w_plus"]


class SpecModel(BaseModel):
    """Base of all sections: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)
