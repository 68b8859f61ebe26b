"""Pages of the documentation that are made of other files, for ``mkdocs build``.

The front page is README.md, the changes CHANGELOG.md, the model cards lie beside the models, and
the specification's page is made of its schema: nothing is written twice.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CARDS = ROOT / "generators" / "bundled"

Schema = Mapping[str, Any]


def on_files(files: Any, config: Any) -> Any:
    """Add the made pages to those of the folder."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the tables of what is installed where a page asks for them."""
    tables = {
        "<!-- formats of directions -->": direction_table,
        "<!-- formats of codes -->": codes_table,
        "<!-- kinds of annotators -->": kind_table,
    }
    for mark, made in tables.items():
        if mark in markdown:
            markdown = markdown.replace(mark, made())
    return markdown


def kind_table() -> str:
    """Kinds of annotators."""
    sys.path.insert(0, str(ROOT))
    try:
        from generators.annotators.kinds.catalog import KINDS
    finally:
        sys.path.remove(str(ROOT))
    rows = [(f"`{k.name}`", k.text, k.unit, k.role or "nothing") for k in KINDS]
    return rows_of(("kind", "measures", "unit", "used for"), rows)


def direction_table() -> str:
    """Other projects' formats of directions."""
    sys.path.insert(0, str(ROOT))
    try:
        from generators.peers.catalog import direction_formats
    finally:
        sys.path.remove(str(ROOT))
    rows = [
        (f.name, f.files, f.contents, "read, written" if f.writes else "read")
        for f in direction_formats().values()
    ]
    return rows_of(("format", "file", "contents", ""), rows)


def codes_table() -> str:
    """Other projects' formats of codes."""
    sys.path.insert(0, str(ROOT))
    try:
        from generators.peers.catalog import latent_formats
    finally:
        sys.path.remove(str(ROOT))
    rows = [
        (f.name, ", ".join(f.files.values()) or "any", f.contents, ", ".join(f.files) or "any")
        for f in latent_formats().values()
    ]
    return rows_of(("format", "file", "contents", "spaces"), rows)


def rows_of(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [heads, tuple("---" for _ in heads), *(map(cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pages() -> dict[str, str]:
    """Path in the site -> Markdown."""
    sys.path.insert(0, str(ROOT))
    try:
        from schemas.spec import json_schema
    finally:
        sys.path.remove(str(ROOT))
    return {
        "index.md": relinked((ROOT / "README.md").read_text(encoding="utf-8")),
        "changelog.md": relinked((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")),
        **{
            f"models/{card.name}": card.read_text(encoding="utf-8") for card in CARDS.glob("*/*.md")
        },
        "specification.md": specification(json_schema()),
    }


def relinked(text: str) -> str:
    """Links of a file in the repository's root as links of a page in the site's root."""
    text = text.replace("](docs/", "](")
    return re.sub(r"\]\(generators/bundled/\w+/(\w+\.md)\)", r"](models/\1)", text)


# ---- the specification --------------------------------------------------------------------------

INTRODUCTION = """# Run specification

A YAML file. Paths in it are relative to the file's own folder. Unknown keys and wrong values are
answered with line, value and cure before anything is started. An analysis that is named without a
value (`pca:`) runs with its defaults; one that is not named does not run. This page is made from
the JSON Schema that `latentflow schema` prints for editors.
"""


def specification(schema: Schema) -> str:
    """Every section of the schema as a heading with a table of its keys."""
    parts = [INTRODUCTION]
    for title, text, section in sections(schema):
        keys = table(section, schema) if section["properties"] else "No further keys."
        parts.append(f"## {title}\n\n{text}\n\n{keys}\n")
    return "\n".join(parts)


def sections(schema: Schema) -> Iterator[tuple[str, str, Schema]]:
    """(path, description, object schema) of the root and of every section below it, in order."""

    def walk(path: str, section: Schema) -> Iterator[tuple[str, str, Schema]]:
        yield path or "Top level", cell(section.get("description", "")), section
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
    """The keys that all choices have, then for each choice its own."""
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
        rest = {k: v for k, v in own.items() if k not in shared}
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


def table(section: Schema, schema: Schema) -> str:
    """A row for each key: name, type, default, limits and description."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    required = section.get("required", [])
    for key, value in section["properties"].items():
        shown = target(value, schema) is None or isinstance(value.get("default"), str)
        default = "**required**" if key in required else "-"
        if shown and "default" in value:
            default = f"`{yaml_value(value['default'])}`"
        text = " ".join([value.get("description", ""), *limits(value)])
        lines.append(f"| `{key}` | {cell(type_of(value))} | {default} | {cell(text)} |")
    return "\n".join(lines)


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
        inner = value.get("items") or next(iter(value.get("prefixItems", [])), {})
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


def cell(text: str) -> str:
    """Plain text that fits into a table."""
    text = " ".join(text.split()).replace("<", "&lt;")
    return text.replace("|", "\\|").replace("*", "\\*")
