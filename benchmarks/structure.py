"""How the house is built: ``python -m benchmarks.structure``.

Every import of every module is read from its source, those inside functions too; what stands under
``if TYPE_CHECKING`` is none. Printed are import circles among modules and among folders, arrows
from a lower room to a higher one, folders and modules that are too large; ``error`` is their
number.

A folder is a folder of a room with its own modules. A module that lies in a room itself, in no
folder, counts as a folder of its own.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("schemas", "generators", "transforms", "pipelines")
"""From the lowest to the highest; a room imports lower ones alone."""
HIGHER = {
    "schemas": {"generators", "transforms", "pipelines"},
    "generators": {"transforms", "pipelines"},
    "transforms": {"pipelines"},
    "pipelines": set[str](),
}
MODULES, LINES = 20, 500
"""Largest number of modules of a folder, without ``__init__``, and of lines of a module."""

Graph = dict[str, set[str]]


def main() -> int:
    """Print what is wrong and the figures as JSON; the exit code is 1 when anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="another working copy")
    parser.add_argument("--smoke", action="store_true", help="no difference: it takes a second")
    root = parser.parse_args().root
    paths = modules(root)
    graph = import_graph(paths)
    found = {
        "circles of modules": [" - ".join(circle) for circle in circles(graph)],
        "circles of folders": [" - ".join(circle) for circle in circles(folder_graph(graph))],
        "imports upwards": upward(graph),
        "large folders": [f"{f}: {n}" for f, n in folder_sizes(paths).items() if n > MODULES],
        "long modules": [f"{m}: {n}" for m, n in lengths(paths).items() if n > LINES],
    }
    for what, items in found.items():
        for item in items:
            print(f"{what}: {item}")
    result = {
        "name": "structure",
        "error": sum(map(len, found.values())),
        "modules": len(paths),
        "folders": len(folder_graph(graph)),
        "imports": sum(map(len, graph.values())),
        **{what.replace(" ", "_"): len(items) for what, items in found.items()},
    }
    print(json.dumps(result))
    return int(result["error"] > 0)


def modules(root: Path, rooms: Iterable[str] = ROOMS) -> dict[str, Path]:
    """Dotted name -> file of every module of the rooms; a package is named as it is imported."""
    found = {}
    for room in rooms:
        for path in sorted((root / room).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def import_graph(paths: Mapping[str, Path]) -> Graph:
    """Module -> those of the given modules that it imports, anywhere in its code."""
    return {
        name: set(imported(ast.parse(path.read_text()), paths)) - {name}
        for name, path in paths.items()
    }


def imported(tree: ast.AST, known: Iterable[str]) -> Iterator[str]:
    """Modules among the known ones that a module's code imports.

    ``from a.b import c`` imports ``a.b.c`` where that is a module, else ``a.b``.
    """
    known = set(known)
    for node in _run_code(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in whole]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant)]
        yield from (name for name in names if name in known)


def _run_code(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    yield node
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for child in node.orelse if typing_only else ast.iter_child_nodes(node):  # type: ignore[attr-defined]
        yield from _run_code(child)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, each sorted: Tarjan's components of two and more."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], number[other])
        if lowest[node] == number[node]:
            at = stack.index(node)
            group = sorted(stack[at:])
            del stack[at:]
            if len(group) > 1:
                found.append(group)

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return sorted(found)


def packages(names: Iterable[str]) -> set[str]:
    """Those of the modules that are folders with modules."""
    return {name.rpartition(".")[0] for name in names} & set(names)


def folder_of(name: str, folders: Iterable[str]) -> str:
    """Folder of a module; a package lies in itself, a module of a room itself is its own folder."""
    if name in folders:
        return name
    above = name.rpartition(".")[0]
    return above if "." in above else name


def folder_graph(graph: Mapping[str, set[str]]) -> Graph:
    """Folder -> other folders that its modules import."""
    own_folders = packages(graph)
    found: Graph = {}
    for name, targets in graph.items():
        own = folder_of(name, own_folders)
        found.setdefault(own, set()).update(folder_of(target, own_folders) for target in targets)
    return {folder: targets - {folder} for folder, targets in found.items()}


def upward(graph: Mapping[str, set[str]]) -> list[str]:
    """Imports of a module in a room above its own."""
    return [
        f"{name} imports {target}"
        for name, targets in sorted(graph.items())
        for target in sorted(targets)
        if target.split(".")[0] in HIGHER[name.split(".")[0]]
    ]


def folder_sizes(paths: Mapping[str, Path]) -> dict[str, int]:
    """Folder, as a dotted name -> its modules, without ``__init__`` and sub-folders."""
    sizes: dict[str, int] = {}
    for name, path in paths.items():
        if path.name != "__init__.py":
            folder = name.rpartition(".")[0]
            sizes[folder] = sizes.get(folder, 0) + 1
    return sizes


def lengths(paths: Mapping[str, Path]) -> dict[str, int]:
    """Module -> lines."""
    return {name: len(path.read_text().splitlines()) for name, path in paths.items()}


if __name__ == "__main__":
    sys.exit(main())
