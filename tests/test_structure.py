"""The house as it is built: no circles, no arrows upwards, no crowded folder, no endless module."""

import ast
from pathlib import Path

import pytest
from places import ROOT, TESTS

from benchmarks import structure

PATHS = structure.modules(ROOT)
GRAPH = structure.import_graph(PATHS)


def test_no_import_circle_among_modules():
    assert structure.circles(GRAPH) == []


def test_no_import_circle_among_folders():
    assert structure.circles(structure.folder_graph(GRAPH)) == []


def test_no_import_upwards():
    assert structure.upward(GRAPH) == []


def test_no_crowded_folder():
    tests = {str(path): path for path in TESTS.rglob("*.py")}
    sizes = structure.folder_sizes(PATHS) | {
        str(folder): sum(path.parent == folder for path in tests.values())
        for folder in {path.parent for path in tests.values()}
    }
    assert {folder: n for folder, n in sizes.items() if n > structure.MODULES} == {}


def test_no_two_test_modules_have_one_name():
    """pytest imports them by their names alone, and reads none of them where two have one."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert sorted(n for n in set(names) if names.count(n) > 1) == []


def test_no_endless_module():
    lengths = structure.lengths(PATHS)
    assert {name: n for name, n in lengths.items() if n > structure.LINES} == {}


def test_every_folder_is_a_package():
    folders = {path.parent for path in PATHS.values()}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


# ---- the checks themselves catch what they are for ----------------------------------------------

KNOWN = ["schemas.a", "schemas.b", "schemas.sub", "schemas.sub.c"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import schemas.a", ["schemas.a"]),
        ("from schemas import a as x, b", ["schemas.a", "schemas.b"]),
        ("from schemas.a import thing", ["schemas.a"]),
        ("from schemas.sub import c, thing", ["schemas.sub.c", "schemas.sub"]),
        ("def f():\n    from schemas.sub.c import g", ["schemas.sub.c"]),
        ("class A:\n    def f(self):\n        import schemas.b", ["schemas.b"]),
        ("import importlib\nimportlib.import_module('schemas.a')", ["schemas.a"]),
        ("if TYPE_CHECKING:\n    import schemas.a\nelse:\n    import schemas.b", ["schemas.b"]),
        ("if typing.TYPE_CHECKING:\n    from schemas import a", []),
        ("import numpy, os", []),
    ],
)
def test_imports_are_read_from_the_source(source, found):
    assert list(structure.imported(ast.parse(source), KNOWN)) == found


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"d", "f"}, "f": {"e"}}
    assert structure.circles(graph) == [["a", "b", "c"], ["e", "f"]]
    assert structure.circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_folders_and_what_is_wrong_with_them(tmp_path):
    sources = {
        "schemas/__init__.py": "",
        "schemas/a.py": "import transforms.one.x",
        "generators/__init__.py": "",
        "transforms/__init__.py": "",
        "transforms/one/__init__.py": "from transforms.one.x import f",
        "transforms/one/x.py": "def f():\n    import transforms.two.y",
        "transforms/one/z.py": "import schemas.a",
        "transforms/two/__init__.py": "",
        "transforms/two/y.py": "import transforms.one.z",
        "pipelines/__init__.py": "",
    }
    for name, source in sources.items():
        path = Path(tmp_path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    paths = structure.modules(tmp_path)
    graph = structure.import_graph(paths)
    assert structure.upward(graph) == ["schemas.a imports transforms.one.x"]
    assert structure.folder_graph(graph)["transforms.one"] == {"transforms.two", "schemas.a"}
    assert structure.circles(structure.folder_graph(graph)) == [
        ["schemas.a", "transforms.one", "transforms.two"]
    ]
    assert structure.folder_sizes(paths) == {"schemas": 1, "transforms.one": 2, "transforms.two": 1}
    assert structure.lengths(paths)["transforms.one.x"] == 2
