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
        if line.startswith("    ") and not inside:  # code
            found.append(line)
            continue
        if inside or _LINE.match(line):  # several may stand in one line, each after a full stop
            line = re.sub(r"(?<=\.) ([a-z_]+ : )", r"\n\1", line)
        for part in escaped(line).split("\n"):
            match = _LINE.match(part)
            if match:
                name = match[1].strip("`")
                found += ([] if inside else [""]) + [f"- `{name}`: {part[match.end() :]}"]
                inside = True
            else:
                inside = inside and bool(part.strip())
                found.append(f"  {part.strip()}" if inside else part)
    return "\n".join(found)


def escaped(line: str) -> str:
    """The line with angle brackets outside of code shown as such."""
    parts = re.split(r"(`+[^`]*`+)", line)
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "".join(parts)


class ParameterLists(griffe.Extension):
    """Applies `as_list` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_list(obj.docstring.value)
