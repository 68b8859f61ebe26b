"""Do the tests notice a fault? ``python -m benchmarks.mutants [--n 200] [--seed 0]``.

Faults are planted by a seeded draw, one at a time, in a copy of the working tree: operators,
comparisons, constants and statements of the numerics, lineage, decoding and exports. Against each
run the test files that import the module, themselves or through one other module, those first that
came to an end soonest; the first failure ends it. What no test can see is not drawn: docstrings,
texts of errors, type hints, decorators, ``__all__``.

Results are appended to ``--work``; a run that was ended goes on there. ``error`` is the number of
survivors, each with its file, line, and the line before and after.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.structure import ROOMS, ROOT, import_graph, imported, modules

AREAS = {
    "numerics": ("transforms/**/*.py",),
    "lineage": ("pipelines/runs/lineage.py", "schemas/fingerprint.py"),
    "decoding": ("transforms/images/*.py", "pipelines/sources/block_images.py"),
    "exports": ("pipelines/downstream/*.py",),
}
"""Where faults are planted, the same number in each; a file belongs to the last that names it."""
COPIED = (*ROOMS, "tests", "benchmarks", "examples", "docs", "pyproject.toml", "setup.py",
          "README.md", "mkdocs.yml", "Makefile")  # fmt: skip
SLOWER = 8
"""Times the time of the whole files: a test run that takes longer has noticed, too."""

SWAPS = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*",
    ast.Pow: "*", ast.MatMult: "*", ast.BitAnd: "|", ast.BitOr: "&", ast.LShift: ">>",
    ast.RShift: "<<", ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=",
    ast.NotEq: "==", ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
    ast.And: "or", ast.Or: "and",
}  # fmt: skip
TOKENS = {
    ast.Add: r"\+", ast.Sub: "-", ast.Mult: r"\*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.Pow: r"\*\*", ast.MatMult: "@", ast.BitAnd: "&", ast.BitOr: r"\|", ast.LShift: "<<",
    ast.RShift: ">>", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==",
    ast.NotEq: "!=", ast.In: r"\bin\b", ast.NotIn: r"\bnot\s+in\b", ast.Is: r"\bis\b",
    ast.IsNot: r"\bis\s+not\b", ast.And: r"\band\b", ast.Or: r"\bor\b",
}  # fmt: skip
DELETED = (ast.AugAssign, ast.Raise, ast.Continue, ast.Break)
UNSEEN = {"strict", "stacklevel"}
"""Keywords that change nothing in a right program."""


@dataclass(frozen=True)
class Mutant:
    """One fault: bytes start to end of a file become `after`."""

    path: str
    line: int
    start: int
    end: int
    before: str
    after: str

    def source(self, text: bytes) -> bytes:
        """The file with the fault."""
        return text[: self.start] + self.after.encode() + text[self.end :]

    @property
    def key(self) -> str:
        """Identity of the fault in this state of the file."""
        return f"{self.path}:{self.start}:{self.before}:{self.after}"


# ---------------------------------------------------------------------------------------------
# Planting


def mutants_of(path: str, text: bytes) -> list[Mutant]:
    """All faults that can be planted in a file, by place."""
    tree = ast.parse(text)
    starts = [0]
    for line in text.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)

    def at(line: int, column: int) -> int:
        return starts[line - 1] + column

    def mutant(node: Any, start: int, end: int, after: str) -> Mutant:
        return Mutant(path, node.lineno, start, end, text[start:end].decode(), after)

    def between(left: Any, right: Any, op: ast.AST, node: Any) -> Iterator[Mutant]:
        first = at(left.end_lineno, left.end_col_offset)
        gap = text[first : at(right.lineno, right.col_offset)].decode()
        found = re.search(TOKENS[type(op)], gap) if type(op) in TOKENS else None
        if found:
            start = first + len(gap[: found.start()].encode())
            yield mutant(node, start, start + len(found[0].encode()), SWAPS[type(op)])

    found: list[Mutant] = []
    for node in _seen(tree):
        if isinstance(node, ast.BinOp):
            found += between(node.left, node.right, node.op, node)
        elif isinstance(node, ast.Compare):
            for left, op, right in zip(
                [node.left, *node.comparators], node.ops, node.comparators, strict=False
            ):
                found += between(left, right, op, node)
        elif isinstance(node, ast.BoolOp):
            for left, right in zip(node.values, node.values[1:], strict=False):
                found += between(left, right, node.op, node)
        elif isinstance(node, ast.AugAssign | ast.Expr | ast.Raise | ast.Continue | ast.Break):
            whole = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
            if not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call | ast.Await):
                found.append(mutant(node, *whole, "pass"))
            if isinstance(node, ast.AugAssign) and type(node.op) in SWAPS:
                found += between(node.target, node.value, node.op, node)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            start = at(node.lineno, node.col_offset)
            length = len("not ") if isinstance(node.op, ast.Not) else 1
            found.append(mutant(node, start, start + length, ""))
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            whole = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
            found.append(mutant(node, *whole, _other(node.value)))
    return sorted(found, key=lambda mutant: (mutant.start, mutant.after))


def _other(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return str(not value)
    return str(value + 1) if isinstance(value, int) else repr(value * 2 or 1.0)


def compiles(mutant: Mutant, text: bytes) -> bool:
    """Whether the fault leaves a program, and another one."""
    try:
        return ast.dump(ast.parse(mutant.source(text))) != ast.dump(ast.parse(text))
    except SyntaxError:
        return False


def _seen(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes whose change a test can see."""
    yield node
    for name, field in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST) and not _unseen(node, name, child):
                yield from _seen(child)


def _unseen(parent: ast.AST, name: str, child: ast.AST) -> bool:
    """Texts, messages, type aliases, and what only a type checker reads."""
    if isinstance(parent, ast.Raise) or isinstance(child, ast.JoinedStr):
        return True
    if isinstance(child, ast.keyword):
        return child.arg in UNSEEN
    if isinstance(child, ast.If):
        return ast.unparse(child.test).endswith(("TYPE_CHECKING", "__name__ == '__main__'"))
    if isinstance(child, ast.Assign) and isinstance(parent, ast.Module):
        names = [target.id for target in child.targets if isinstance(target, ast.Name)]
        return names == ["__all__"] or any(not n.isupper() and n[:1].isupper() for n in names)
    return isinstance(child, ast.FunctionDef) and child.name in ("__repr__", "__str__")


def files_of(root: Path) -> dict[str, list[Path]]:
    """Area -> its files."""
    area = {path: name for name, globs in AREAS.items() for g in globs for path in root.glob(g)}
    return {
        name: sorted(p for p, a in area.items() if a == name and "beam" not in p.parts)
        for name in AREAS
    }


def draw(root: Path, n: int, seed: int) -> list[Mutant]:
    """`n` different faults, the same number in each area, in the order of the draw."""
    rng = random.Random(seed)
    drawn = []
    for at, paths in enumerate(files_of(root).values()):
        texts = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
        pool = [mutant for path, text in texts.items() for mutant in mutants_of(path, text)]
        rng.shuffle(pool)
        share = n // len(AREAS) + (at < n % len(AREAS))
        drawn.append(list(islice((m for m in pool if compiles(m, texts[m.path])), share)))
    longest = max(map(len, drawn))
    return [area[i] for i in range(longest) for area in drawn if i < len(area)]


# ---------------------------------------------------------------------------------------------
# Which tests


class Tests:
    """Test files of a tree, and which of them import a module."""

    def __init__(self, root: Path) -> None:
        paths = modules(root)
        self.graph = import_graph(paths)
        self.names = {path: name for name, path in paths.items()}
        helpers = {path.stem: path for path in (root / "tests").glob("*.py")}
        trees = {p: ast.parse(p.read_text()) for p in (root / "tests").rglob("*.py")}
        own = {path: set(imported(tree, paths)) for path, tree in trees.items()}
        self.direct: dict[Path, set[str]] = {}
        """Test file -> modules that it, or a helper of the tests that it names, imports."""
        for path, tree in trees.items():
            if path.name.startswith("test_"):
                used = [helpers[name] for name in imported(tree, helpers)]
                self.direct[path] = own[path].union(*(own[helper] for helper in used))

    def of(self, path: Path) -> tuple[list[Path], list[Path]]:
        """Test files that import a module themselves, and those that do by one module between."""
        name = self.names[path]
        near = {test for test, found in self.direct.items() if name in found}
        users = {user for user, found in self.graph.items() if name in found}
        far = {test for test, found in self.direct.items() if found & users} - near
        return sorted(near), sorted(far)


class Copy:
    """A copy of a working tree in which tests run."""

    def __init__(self, root: Path, folder: Path, python: str = sys.executable) -> None:
        self.folder, self.python = folder, python
        for name in COPIED:
            source = root / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, folder / name, ignore=ignored)
            elif source.exists():
                shutil.copy(source, folder / name)

    def write(self, path: str, text: bytes) -> None:
        """Another content of a file; nothing compiled of it stays."""
        file = self.folder / path
        file.write_bytes(text)
        for old in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            old.unlink()

    def test(self, files: Sequence[Path], limit: float) -> tuple[str | None, float]:
        """The first test that fails ("time" where it takes longer than `limit` seconds), or None;
        and the seconds."""
        command = [self.python, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
        names = [str(file) for file in files]
        env = {**os.environ, "PYTHONPATH": str(self.folder), "CI": "1"}
        started = time.monotonic()
        child = subprocess.Popen(
            [*command, *names], cwd=self.folder, env=env, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            return "time", time.monotonic() - started
        seconds = time.monotonic() - started
        if child.returncode == 0:
            return None, seconds
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        return found[1] if found else output.strip().splitlines()[-1][:200], seconds


# ---------------------------------------------------------------------------------------------
# Running


class Trial:
    """Faults tried one after the other, and what is known of them already."""

    def __init__(self, root: Path, work: Path, left_out: Iterable[str], log: Any = print) -> None:
        self.root, self.work, self.log = root, work, log
        self.left_out = set(left_out)
        self.tests = Tests(root)
        self.seconds: dict[str, float] = {}
        self.done: dict[str, dict[str, Any]] = {}
        for line in work.read_text().splitlines() if work.exists() else []:
            record = json.loads(line)
            if "file" in record:
                self.seconds[record["file"]] = record["seconds"]
            else:
                self.done[record["key"]] = record

    def note(self, record: Mapping[str, Any]) -> None:
        """Append to the file of results."""
        self.work.parent.mkdir(parents=True, exist_ok=True)
        with self.work.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def known(self, copy: Copy, files: Iterable[Path]) -> list[Path]:
        """The files that pass without a fault, by their seconds; relative paths."""
        names = [file.relative_to(self.root).as_posix() for file in files]
        for name in names:
            if name not in self.seconds and Path(name).name not in self.left_out:
                failed, seconds = copy.test([Path(name)], 1200)
                self.seconds[name] = -1.0 if failed else round(seconds, 2)
                self.note({"file": name, "seconds": self.seconds[name], "failed": failed})
        fit = [name for name in names if self.seconds.get(name, -1) > 0]
        return [Path(name) for name in sorted(fit, key=lambda name: self.seconds[name])]

    def run(self, copy: Copy, mutant: Mutant, limit: float) -> dict[str, Any]:
        """Which test notices a fault, if any; files beyond `limit` seconds are left out."""
        if mutant.key in self.done:
            return self.done[mutant.key]
        path = self.root / mutant.path
        text = path.read_bytes()
        by, ran, spent = None, 0, 0.0
        for group in self.tests.of(path):
            files = []
            for file in self.known(copy, group):
                spent += self.seconds[str(file)]
                if spent <= limit or not files and not ran:
                    files.append(file)
            if not files or by:
                continue
            allowed = SLOWER * sum(self.seconds[str(file)] for file in files) + 30
            copy.write(mutant.path, mutant.source(text))
            try:
                by, _ = copy.test(files, allowed)
            finally:
                copy.write(mutant.path, text)
            ran += len(files)
        record = {
            "key": mutant.key, "path": mutant.path, "line": mutant.line, "by": by,
            "files": ran, **_lines(mutant, text),
        }  # fmt: skip
        self.done[mutant.key] = record
        self.note(record)
        return record


def _lines(mutant: Mutant, text: bytes) -> dict[str, str]:
    """The changed lines, before and after."""
    old, new = (t.decode().splitlines() for t in (text, mutant.source(text)))
    changed = [line for line in difflib.unified_diff(old, new, n=0, lineterm="")][3:]
    sides = {"before": "-", "after": "+"}
    return {
        side: " ".join(line[1:].strip() for line in changed if line[0] == mark)
        for side, mark in sides.items()
    }


def main() -> int:
    """Parse the arguments, try the faults, print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200, help="faults (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    parser.add_argument("--first", type=int, help="try only the first so many of the draw")
    parser.add_argument("--only", type=int, nargs="+", help="try only these numbers of the draw")
    parser.add_argument("--limit", type=float, default=150, help="seconds of tests a fault")
    parser.add_argument("--without", nargs="*", default=["test_ray.py"], help="test files left out")
    parser.add_argument("--work", type=Path, help="file of results (runs/mutants-SEED.jsonl)")
    parser.add_argument("--list", action="store_true", help="print the draw and end")
    parser.add_argument("--smoke", action="store_true", help="four faults")
    options = parser.parse_args()
    drawn = draw(ROOT, 4 if options.smoke else options.n, options.seed)
    numbers = options.only or range(len(drawn))[: options.first]
    if options.list:
        for i in numbers:
            print(i, drawn[i].key)
        return 0
    work = options.work or ROOT / "runs" / f"mutants-{options.seed}.jsonl"
    trial = Trial(ROOT, work, options.without)
    rows = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(ROOT, Path(folder))
        for i in numbers:
            row = trial.run(copy, drawn[i], options.limit)
            rows.append({"number": i, **row})
            print(f"{i} {row['path']}:{row['line']} {row['by'] or 'SURVIVED'}", flush=True)
    keys = ("number", "path", "line", "before", "after", "files")
    survivors = [{key: row[key] for key in keys} for row in rows if row["by"] is None]
    result = {
        "name": "mutants",
        "seed": options.seed,
        "killed": len(rows) - len(survivors),
        "survived": len(survivors),
        "share": round(1 - len(survivors) / max(len(rows), 1), 3),
        "error": len(survivors),
        "survivors": survivors,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
