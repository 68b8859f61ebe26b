"""Pages of the documentation that are made of other files, for ``mkdocs build``.

The front page is README.md, the changes CHANGELOG.md, the model cards lie beside the models, and
the specification's page is made of its schema: nothing is written twice.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
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
            f"models/{card.relative_to(CARDS).as_posix()}": card.read_text(encoding="utf-8")
            for card in CARDS.glob("*/*.md")
        },
        "specification.md": specification(json_schema()),
    }


def relinked(text: str) -> str:
    """Links of a file in the repository's root as links of a page in the site's root."""
    text = text.replace("](docs/", "](")
    return re.sub(r"\]\(generators/bundled/(\w+/\w+\.md)\)", r"](models/\1)", text)


# ---- the specification --------------------------------------------------------------------------

INTRODUCTION = """# Run specification

A YAML file. Paths in it are relative to the file's own folder. Unknown keys and wrong values are
answered with line, value and cure before anything is started. An analysis that is named without a
value (`pca:`) runs with its defaults; one that is not named does not run. This page is made from
the JSON Schema that `latentflow schema` prints for editors.
"""


def specification(schema: Schema) -> str:
    """Every section of the schema as a heading with a table of its keys."""
    from schemas.schema_text import sections

    parts = [INTRODUCTION]
    for title, text, section in sections(schema):
        keys = table(section, schema) if section["properties"] else "No further keys."
        parts.append(f"## {title}\n\n{cell(text)}\n\n{keys}\n")
    return "\n".join(parts)


def table(section: Schema, schema: Schema) -> str:
    """A row for each key: name, type, default, limits and description."""
    from schemas.schema_text import limits, target, type_of, yaml_value

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


def cell(text: str) -> str:
    """Plain text that fits into a table."""
    text = " ".join(text.split()).replace("<", "&lt;")
    return text.replace("|", "\\|").replace("*", "\\*")
