"""The JSON Schema of specifications as text: sections, and type, default and meaning of keys."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from schemas.errors import UsageError
from schemas.suggest import suggestion

Schema = Mapping[str, Any]


def section_text(schema: Schema, name: str) -> str:
    """A section's keys as plain text.

    name : as in ``evaluate``, ``analyse.pca``; with all its alternatives, such as the methods of
        ``invert``. Raises UsageError for a section that the schema has not.
    """
    found = [(title.replace("[]", ""), text, own) for title, text, own in sections(schema)]
    parts = [
        f"{title}: {text}\n\n{_keys(section, schema)}"
        for title, text, section in found
        if title == name or title.startswith(f"{name}, ")
    ]
    if not parts:
        names = list(dict.fromkeys(title.partition(",")[0] for title, *_ in found[1:]))
        inner = next((title for title in names if title.endswith(f".{name}")), None)
        cure = f"did you mean {inner!r}?" if inner else suggestion(name, names)
        raise UsageError(f"there is no section {name!r}: {cure}")
    return "\n".join(parts)


def _keys(section: Schema, schema: Schema) -> str:
    """Every key with its type and default, and below it what it means."""
    lines = []
    for key, value in section["properties"].items():
        kind = type_of(value).replace("`", "")
        default = "required" if key in section.get("required", []) else default_of(value, schema)
        lines.append(f"  {key}: {kind}{default and f', {default}'}")
        meaning = " ".join([value.get("description", ""), *limits(value)])
        lines += textwrap.wrap(meaning, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join([*(lines or ["  no further keys"]), ""])


def default_of(value: Schema, schema: Schema) -> str:
    """ "default ..." of a plain key, "" of a section and where there is none."""
    shown = target(value, schema) is None or isinstance(value.get("default"), str)
    return f"default {yaml_value(value['default'])}" if shown and "default" in value else ""


def sections(schema: Schema) -> Iterator[tuple[str, str, Schema]]:
    """(path, description, object schema) of the root and of every section below it, in order."""

    def walk(path: str, section: Schema) -> Iterator[tuple[str, str, Schema]]:
        yield path or "Top level", section.get("description", ""), section
        for key, value in section["properties"].items():
            if choices := chosen_by_a_key(value):
                for name, one in each_choice(f"{path}.{key}".lstrip("."), value, choices):
                    yield from walk(name, one)
                continue
            inner = target(value, schema)
            if inner is not None:
                dots = "[]" if value.get("type") == "array" else ""
                yield from walk(f"{path}.{key}{dots}".lstrip("."), inner)

    return walk("", schema)


def chosen_by_a_key(value: Schema) -> list[Schema]:
    """The sections, one of which a key of the section chooses."""
    return [option for option in value.get("oneOf", []) if "properties" in option]


def each_choice(path: str, value: Schema, choices: list[Schema]) -> Iterator[tuple[str, Schema]]:
    """The keys that all choices have, then for each choice its own, and those of all that mean
    something else there."""
    keys = [
        {k: v for k, v in choice["properties"].items() if not v.get("deprecated")}
        for choice in choices
    ]
    shared = {k: v for k, v in keys[0].items() if all(k in other for other in keys)}
    key = next(k for k, v in shared.items() if "const" in v)
    names = [own[key]["const"] for own in keys]
    chooses = {**shared[key], "enum": names, "default": value["default"][key]}
    yield path, {"description": value["description"], "properties": {**shared, key: chooses}}
    for name, own, choice in zip(names, keys, choices, strict=True):
        rest = {k: v for k, v in own.items() if k != key and v != shared.get(k)}
        one = {"description": choice["description"], "properties": rest}
        yield f"{path}, {key}: {name}", one


def target(value: Schema, schema: Schema) -> Schema | None:
    """The section that a key holds, itself, in a list or as an alternative; None for plain keys."""
    for option in [value, value.get("items", {}), *alternatives(value)]:
        if "properties" in option:
            return option
        if "$ref" in option:
            return schema["$defs"][option["$ref"].rpartition("/")[2]]
    return None


def alternatives(value: Schema) -> list[Schema]:
    """What a key may hold, where it is one of several kinds."""
    return [*value.get("anyOf", []), *value.get("oneOf", [])]


def type_of(value: Schema) -> str:
    """A key's type in words."""
    if "enum" in value:
        return " or ".join(f"`{yaml_value(option)}`" for option in value["enum"])
    if "const" in value:
        return f"`{yaml_value(value['const'])}`"
    if chosen_by_a_key(value):
        return "section"
    if alternatives(value):
        return " or ".join(type_of(option) for option in alternatives(value))
    if "$ref" in value:
        return "section"
    kind = value.get("type", "any")
    if kind == "array":
        inner: Schema = value.get("items") or next(iter(value.get("prefixItems", [])), {})
        return "list of sections" if "$ref" in inner else f"list of {type_of(inner)}"
    return {"object": "mapping", "string": "text"}.get(str(kind), str(kind))


def limits(value: Schema) -> list[str]:
    """The bounds of a number."""
    words = {
        "minimum": "At least",
        "exclusiveMinimum": "More than",
        "maximum": "At most",
        "exclusiveMaximum": "Less than",
    }
    found = [value, *value.get("anyOf", [])]
    return [f"{text} {v[key]:g}." for v in found for key, text in words.items() if key in v]


def yaml_value(value: Any) -> str:
    """A value as it would stand in the file."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return '""' if value == "" else str(value).replace("'", '"')
