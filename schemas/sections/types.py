"""Field types and the base model of the run specification."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
)
from pydantic.fields import FieldInfo

from schemas.sections.cron import check_cron
from schemas.suggest import suggestion

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
LABEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
BUNDLED = "bundled:"
OBTAINED = "obtained:"
AUTO: Literal["auto"] = "auto"

_SAME_TO_YAML = (("true", "yes", "on", "y"), ("false", "no", "off", "n"))
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_WINDOWS = re.compile(r"^[A-Za-z]:[\\/]")


def local_path(text: str) -> Path:
    """A path of this machine, with "~" written out; "file:///data" is "/data".

    Raises ValueError for what would become a folder of an odd name here: URLs (object stores), a
    shell's variables, another system's drives, and what no file can be called.
    """
    if not text.strip():
        raise ValueError("must not be empty: give a path")
    if "\0" in text:
        raise ValueError("holds a null character, which no path may: remove it")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as e:
        raise ValueError(f"holds {text[e.start]!r}, which no path may: remove it") from e
    if text.startswith("file:///"):
        return Path(urllib.parse.unquote(text.removeprefix("file://")))
    if _URL.match(text):
        raise ValueError(
            "only files and folders of this machine are read and written: give a path here, or "
            "mount it as a folder"
        )
    if text.startswith("$") or "${" in text:
        raise ValueError("variables of a shell are not replaced: write the path out, or use '~'")
    if os.name != "nt" and _WINDOWS.match(text):
        raise ValueError("drives are Windows' alone: give the path that this machine has for it")
    try:
        return Path(text).expanduser()
    except RuntimeError as e:
        raise ValueError(f"{text.split('/')[0]!r} is no user's home: write the path out") from e


def resolved(text: str, info: ValidationInfo) -> str:
    """A path of a specification, relative ones to its folder; bundled and obtained names stay."""
    if text.startswith((BUNDLED, OBTAINED)):
        return text
    path, base = local_path(text), (info.context or {}).get("base")
    return os.path.normpath(Path(base) / path) if base is not None else str(path)


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _as_list(value: Any) -> Any:
    """One value -> a list of it."""
    return [value] if isinstance(value, str | bool | int | float) else value


def once(names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names {twice!r} more than once: keep each once")
    return names


def _level(value: Any) -> Any:
    """A factor level as the index spells it: YAML reads 3 and true where the level is "3"."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


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


SpecPath = Annotated[str, AfterValidator(resolved)]
Integer = Annotated[int, BeforeValidator(_not_bool)]
BatchSize = Annotated[
    Annotated[Integer, Field(ge=1, le=8192), Tag("rows")] | Annotated[Literal["auto"], Tag("auto")],
    Discriminator(lambda value: "auto" if isinstance(value, str) else "rows"),
]
"""Rows in one forward pass, or "auto": as many as 'ray.actor_memory_mb' allows."""
Number = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Label = Annotated[str, Field(pattern=LABEL_PATTERN)]
Level = Annotated[str, BeforeValidator(_level)]
Cron = Annotated[str, AfterValidator(check_cron)]
Levels = Annotated[list[Level], BeforeValidator(_as_list)]
Strings = Annotated[list[str], BeforeValidator(_as_list)]
Names = Annotated[Strings, AfterValidator(once)]
Space = Annotated[str, Field(pattern=NAME_PATTERN)]


class SpecModel(BaseModel):
    """Base of all sections: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @classmethod
    def fields_for(cls, data: Any) -> Mapping[str, FieldInfo]:
        """The keys of the section ``data``: more than the model's own where plug-ins bring some."""
        return cls.model_fields

    @classmethod
    def about_unknown(cls, key: str, data: Any) -> str:
        """The cure for a key in the section ``data`` that the model does not know."""
        return suggestion(key, list(cls.fields_for(data)))
