"""Do the tests notice a fault? ``python -m benchmarks.mutants [--n 200] [--seed 0]``.

Faults are planted by a seeded draw, one at a time, in a copy of the working tree: operators,
comparisons, constants and statements of the numerics, lineage, decoding and exports. Against each
run the test files that import the module, themselves or through one other module, until a test
fails that passes without the fault. What no test can see is not drawn: docstrings, texts of errors,
type hints, decorators, ``__all__``.

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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import Queue
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


class Suite:
    """Test files of a tree, and which of them import a module."""

    def __init__(self, root: Path, left_out: Iterable[str] = ()) -> None:
        self.root = root
        paths = modules(root)
        self.graph = import_graph(paths)
        self.names = {path.relative_to(root).as_posix(): name for name, path in paths.items()}
        files = [f for f in (root / "tests").rglob("*.py") if f.name not in set(left_out)]
        trees = {file: ast.parse(file.read_text()) for file in files}
        helpers = {file.stem: file for file in files if file.parent == root / "tests"}
        own = {file: set(imported(tree, paths)) for file, tree in trees.items()}
        self.uses: dict[Path, set[str]] = {}
        """Test file -> modules that it, or a helper of the tests that it names, imports."""
        for file, tree in trees.items():
            if file.name.startswith("test_"):
                used = [helpers[name] for name in imported(tree, helpers)]
                self.uses[file] = own[file].union(*(own[helper] for helper in used))

    def of(self, path: str) -> tuple[list[str], list[str]]:
        """Test files that import a module themselves, and those that do by one module between.

        Those named like the module or its folder come first, then the small ones.
        """
        name = self.names[path]
        users = {user for user, found in self.graph.items() if name in found}
        near = {file for file, found in self.uses.items() if name in found}
        far = {file for file, found in self.uses.items() if found & users} - near
        words = set(name.split(".")[1:])

        def cost(file: Path) -> tuple[bool, int]:
            return not words & set(file.stem.split("_")), file.stat().st_size

        first, second = (sorted(files, key=cost) for files in (near, far))
        return self._relative(first), self._relative(second)

    def _relative(self, files: Iterable[Path]) -> list[str]:
        return [file.relative_to(self.root).as_posix() for file in files]


class Copy:
    """A copy of a working tree in which tests run."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
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

    def test(self, names: Sequence[str], without: Iterable[str], limit: float) -> str | None:
        """The first test that fails, "time" after `limit` seconds; None where all pass.

        names : test files or tests. without : tests that are not run
        """
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += [*(f"--deselect={test}" for test in without), *names]
        env = {**os.environ, "PYTHONPATH": str(self.folder), "CI": "1"}
        env |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(
            command, cwd=self.folder, env=env, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            return "time"
        if child.returncode == 0:
            return None
        found = re.search(r"^(?:FAILED|ERROR) ([^\n]+?)(?: - |$)", output, re.MULTILINE)
        return found[1] if found else output.strip()[-200:]


# ---------------------------------------------------------------------------------------------
# Trying


class Trial:
    """Faults tried one after the other, and what is known of them already."""

    def __init__(self, root: Path, work: Path, tests: Suite, limit: float) -> None:
        self.root, self.work, self.tests, self.limit = root, work, tests, limit
        self.sound: set[str] = set()
        """Tests that pass without a fault."""
        self.broken: set[str] = set()
        self.done: dict[str, dict[str, Any]] = {}
        for line in work.read_text().splitlines() if work.exists() else []:
            record = json.loads(line)
            self.done[record["key"]] = record

    def run(self, copy: Copy, mutant: Mutant, near_only: bool = False) -> dict[str, Any]:
        """Which test notices a fault, if any. near_only : of files that import the module."""
        text = (self.root / mutant.path).read_bytes()
        groups = self.tests.of(mutant.path)
        record = self.done.get(mutant.key)
        if record is not None and (record["by"] or near_only or record["far"]):
            return record
        tried = [groups[0]] if near_only else [groups[1]] if record else list(groups)
        by = None
        for names in tried:
            by = by or (self._noticed(copy, mutant, text, names) if names else None)
        record = {
            "key": mutant.key, "path": mutant.path, "line": mutant.line, "by": by,
            "far": not near_only, **lines(mutant, text),
        }  # fmt: skip
        self.done[mutant.key] = record
        self.work.parent.mkdir(parents=True, exist_ok=True)
        with self.work.open("a") as file:
            file.write(json.dumps(record) + "\n")
        return record

    def _noticed(self, copy: Copy, mutant: Mutant, text: bytes, names: list[str]) -> str | None:
        """The test that fails with the fault and passes without it."""
        while True:
            copy.write(mutant.path, mutant.source(text))
            try:
                by = copy.test(names, sorted(self.broken), self.limit)
            finally:
                copy.write(mutant.path, text)
            test = (by or "").split("[")[0]
            if "::" not in test or test in self.sound:
                return by
            if copy.test([test], (), self.limit) is None:
                self.sound.add(test)
                return by
            self.broken.add(test)


def lines(mutant: Mutant, text: bytes) -> dict[str, str]:
    """The changed lines, before and after."""
    old, new = (t.decode().splitlines() for t in (text, mutant.source(text)))
    changed = list(difflib.unified_diff(old, new, n=0, lineterm=""))[3:]
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
    parser.add_argument("--near", action="store_true", help="only tests that import the module")
    parser.add_argument("--jobs", type=int, default=1, help="faults at a time (default 1)")
    parser.add_argument("--limit", type=float, default=900, help="seconds a test run (default 900)")
    parser.add_argument("--without", nargs="*", default=["test_ray.py"], help="test files left out")
    parser.add_argument("--work", type=Path, help="file of results (runs/mutants-SEED.jsonl)")
    parser.add_argument("--list", action="store_true", help="print the draw and end")
    parser.add_argument("--smoke", action="store_true", help="four faults")
    options = parser.parse_args()
    drawn = draw(ROOT, options.n, options.seed)
    numbers = options.only or range(len(drawn))[: 4 if options.smoke else options.first]
    if options.list:
        for i in numbers:
            print(i, drawn[i].key)
        return 0
    work = options.work or ROOT / "runs" / f"mutants-{options.seed}.jsonl"
    trial = Trial(ROOT, work, Suite(ROOT, options.without), options.limit)
    with ExitStack() as stack, ThreadPoolExecutor(options.jobs) as pool:
        copies: Queue[Copy] = Queue()
        for _ in range(options.jobs):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-"))
            copies.put(Copy(ROOT, Path(folder)))

        def tried(number: int) -> dict[str, Any]:
            copy = copies.get()
            try:
                row = trial.run(copy, drawn[number], options.near)
            finally:
                copies.put(copy)
            print(f"{number} {row['path']}:{row['line']} {row['by'] or 'SURVIVED'}", flush=True)
            return {"number": number, **row}

        rows = list(pool.map(tried, numbers))
    keys = ("number", "path", "line", "before", "after")
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
