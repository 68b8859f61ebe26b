"""The rooms and the arrows between them, read from the source: DESIGN section 1, STYLE 1, 2, 4.

Modules are parsed, never imported (but for one test), so that a wrong import is found whether or
not the library behind it is installed.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

ROOMS = ("schemas", "generators", "transforms", "pipelines")

# Our rooms that a room may import besides itself.
ARROWS = {
    "schemas": set(),
    "generators": {"schemas"},
    "transforms": {"schemas"},
    "pipelines": {"schemas", "generators", "transforms"},
}
# The transforms that run models, and so may import generators and torch.
MODEL_TRANSFORMS = ("inversion", "images.annotate", "directions.jacobian")

# Other people's libraries in each room; None allows everything. Ray is for pipelines alone.
LIBRARIES: dict[str, set[str] | None] = {
    "schemas": {
        "numpy",
        "zarr",
        "numcodecs",
        "google_crc32c",
        "pyarrow",
        "pydantic",
        "pydantic_core",
        "yaml",
    },
    "generators": {
        "numpy",
        "scipy",
        "torch",
        "safetensors",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "diffusers",
        "PIL",
        "pydantic",
        "yaml",
    },
    "transforms": {"numpy", "scipy"},
    "pipelines": None,
}
# Exceptions inside transforms, by module: what reads pixels, and the protocol of a peer.
EXTRA = {
    "images.preprocess": {"PIL"},
    "images.pixels": {"PIL"},
    "svm.interfacegan": {"sklearn"},
}

HEAVY = ("torch", "ray", "apache_beam", "sklearn", "onnxruntime", "pandas", "matplotlib")
FORBIDDEN_SUFFIXES = ("Transform", "Reader", "Writer", "Manager", "Helper")


def sources() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def module_of(path: Path) -> tuple[str, str]:
    """Room of a file, and the rest of its dotted name."""
    room, *rest = path.relative_to(ROOT).with_suffix("").parts
    return room, ".".join(rest)


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and full name of everything that a module imports, at any depth of its code."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found.append((node.lineno, base))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
            found += [(node.lineno, str(name)) for name in names]
    return found


def wrong_imports(room: str, name: str, tree: ast.AST) -> list[str]:
    """What a module of a room imports and may not."""
    rooms = ARROWS[room] | {room}
    libraries = LIBRARIES[room]
    if room == "transforms":
        libraries = {"numpy", "scipy"} | EXTRA.get(name, set())
        if name.startswith(MODEL_TRANSFORMS):
            rooms, libraries = rooms | {"generators"}, libraries | {"torch"}
        if "beam" in name.split("."):
            libraries = libraries | {"apache_beam"}
    wrong = []
    for line, target in imported(tree):
        top = target.split(".")[0]
        if target.startswith("."):
            wrong.append(f"{line}: relative import {target!r}")
        elif top in ROOMS:
            if top not in rooms:
                wrong.append(f"{line}: {room} imports {target!r}")
        elif top in ("tests", "benchmarks", "examples"):
            wrong.append(f"{line}: {room} imports {target!r}")
        elif top not in sys.stdlib_module_names and libraries is not None:
            if top not in libraries:
                wrong.append(f"{line}: {room}.{name} imports {target!r}")
    return wrong


def is_ptransform(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).split(".")[-1] == "PTransform" for base in node.bases)


def wrong_classes(tree: ast.Module) -> list[str]:
    """Classes that break STYLE 2: names, PTransforms that are not configured by fields."""
    wrong = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        if node.name.endswith(FORBIDDEN_SUFFIXES):
            wrong.append(f"{node.lineno}: class {node.name} ends in one of {FORBIDDEN_SUFFIXES}")
        if is_ptransform(node):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            if not any(d.split(".")[-1] == "dataclass(eq=False)" for d in decorators):
                wrong.append(f"{node.lineno}: {node.name} is not @dataclass(eq=False)")
            if "expand" not in {f.name for f in node.body if isinstance(f, ast.FunctionDef)}:
                wrong.append(f"{node.lineno}: {node.name} has no expand")
            wrong += unlabelled_steps(node)
    guards = [n for n in tree.body if isinstance(n, ast.If) and "__main__" in ast.unparse(n.test)]
    if guards and any(isinstance(node, ast.ClassDef) for node in tree.body):
        wrong.append(
            f"{guards[0].lineno}: an entry point defines classes, which then do not pickle"
        )
    return wrong


def unlabelled_steps(transform: ast.ClassDef) -> list[str]:
    """Steps ``x | Step()`` of ``expand`` that lack the label of ``x | "label" >> Step()``."""
    expands = [f for f in transform.body if isinstance(f, ast.FunctionDef) and f.name == "expand"]
    wrong = []
    for node in (n for expand in expands for statement in expand.body for n in ast.walk(statement)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            step = node.right
            if not (isinstance(step, ast.BinOp) and isinstance(step.op, ast.RShift)):
                wrong.append(f"{node.lineno}: {transform.name} has a step without a label")
    return wrong


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_follow_the_arrows(path):
    room, name = module_of(path)
    assert wrong_imports(room, name, ast.parse(path.read_text())) == []


def test_classes_follow_the_style():
    wrong = {
        path.relative_to(ROOT).as_posix(): found
        for path in sources()
        if (found := wrong_classes(ast.parse(path.read_text())))
    }
    assert wrong == {}


def test_every_room_is_a_package_with_modules():
    assert {module_of(path)[0] for path in sources()} == set(ROOMS)
    assert all((ROOT / room / "__init__.py").exists() for room in ROOMS)


def test_schemas_load_none_of_the_heavy_libraries():
    """A plan and an unchanged run read stores, indexes and specs only; they must stay quick."""
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in (ROOT / "schemas").glob("*.py")
    ]
    script = (
        f"import importlib, sys; [importlib.import_module(m) for m in {modules!r}]; "
        f"loaded = sorted(set({HEAVY!r}) & set(sys.modules)); sys.exit(str(loaded or ''))"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""


# ---- the checks themselves catch what they are for ----------------------------------------------


@pytest.mark.parametrize(
    ("room", "name", "source"),
    [
        ("schemas", "x", "import generators.families.stylegan2.network"),
        ("schemas", "x", "def f():\n    import torch"),
        ("schemas", "x", "from . import store"),
        ("generators", "x", "from transforms.pca.fit import fit_pca"),
        ("generators", "x", "import ray"),
        ("transforms", "pca", "import torch"),
        ("transforms", "pca", "import apache_beam as beam"),
        ("transforms", "pca", "from generators import load"),
        ("transforms", "pca", "import pipelines"),
        ("transforms", "pca", "import importlib\nimportlib.import_module('ray.data')"),
        ("transforms", "pca.beam", "import ray"),
        ("transforms", "svm", "from sklearn.svm import LinearSVC"),
        ("transforms", "inversion.x", "import ray"),
        ("pipelines", "run", "import tests.digests"),
    ],
)
def test_wrong_imports_are_found(room, name, source):
    assert len(wrong_imports(room, name, ast.parse(source))) == 1


@pytest.mark.parametrize(
    ("room", "name", "source"),
    [
        ("schemas", "x", "import zarr.codecs, json\nfrom schemas.errors import StoreError"),
        (
            "transforms",
            "pca.beam",
            "import apache_beam as beam\nfrom transforms.pca.fit import fit",
        ),
        ("transforms", "beam.pca", "import apache_beam"),
        ("transforms", "inversion.x", "import torch\nfrom generators import load"),
        (
            "pipelines",
            "run",
            "import ray, sklearn\nfrom transforms.inversion.catalog import x",
        ),
    ],
)
def test_right_imports_pass(room, name, source):
    assert wrong_imports(room, name, ast.parse(source)) == []


@pytest.mark.parametrize(
    "source",
    [
        "class BlockReader: pass",
        "class SumTransform: pass",
        "class Sum(beam.PTransform):\n    def expand(self, p): return p",
        "@dataclass\nclass Sum(beam.PTransform):\n    def expand(self, p): return p",
        "@dataclass(eq=False, frozen=True)\n"
        "class Sum(beam.PTransform):\n    def expand(self, p): return p",
        "@dataclass(eq=False)\nclass Sum(PTransform): pass",
        "@dataclass(eq=False)\n"
        "class Sum(beam.PTransform):\n    def expand(self, p): return p | beam.Map(f)",
        "class A: pass\nif __name__ == '__main__':\n    main()",
    ],
)
def test_wrong_classes_are_found(source):
    assert len(wrong_classes(ast.parse(source))) == 1


def test_right_classes_pass():
    source = (
        "@dataclasses.dataclass(eq=False)\n"
        "class SumBlocks(beam.PTransform):\n"
        "    n: int | None = None\n"
        "    def expand(self, p: A | B):\n"
        "        return p | 'read' >> beam.Map(f) | f'sum {self.n}' >> beam.CombineGlobally(g)\n"
    )
    assert wrong_classes(ast.parse(source)) == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "conformance").glob("*.py")), ids=lambda p: p.stem
)
def test_installed_suites_need_nothing_that_is_not_installed(path):
    beside = {p.stem for p in (ROOT / "tests").glob("*.py")}
    names = {name.split(".")[0] for _, name in imported(ast.parse(path.read_text()))}
    assert names & beside == set()
