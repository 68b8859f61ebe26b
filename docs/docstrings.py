"""How docstrings are shown: their lines ``name : meaning`` become a list."""

from __future__ import annotations

import re
from typing import Any

import griffe

_LINE = re.compile(r"([*\w]+(?:, [*\w]+)*|``[^`]+``) : ")


def as_list(text: str) -> str:
    """Markdown with every paragraph of ``name : meaning`` lines as a list."""
    found: list[str] = []
    inside = False
    for line in text.splitlines():
        # several parameters may stand in one line, one after a full stop
        line = re.sub(r"(?<=\.) ([a-z_]+ : )", r"\n\1", line) if _LINE.match(line) else line
        for part in line.split("\n"):
            match = _LINE.match(part)
            if match:
                name = match[1].strip("`")
                found += ([] if inside else [""]) + [f"- `{name}`: {part[match.end() :]}"]
                inside = True
            else:
                inside = inside and bool(part.strip())
                found.append(f"  {part.strip()}" if inside else part)
    return "\n".join(found)


class ParameterLists(griffe.Extension):
    """Applies `as_list` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_list(obj.docstring.value)
