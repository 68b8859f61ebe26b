"""Planted faults: what is planted, what is not, which tests run against one, and that a test that
fails without the fault counts for nothing."""

import pytest

from benchmarks import mutants
from benchmarks.mutants import Copy, Mutant, Suite, Trial, compiles, mutants_of

CODE = '''"""Text with 1 + 1."""
from __future__ import annotations

__all__ = ["f"]
Pair = tuple[int, 2]
LIMIT = 3


@dataclass(frozen=True)
class Point:
    """Two numbers."""

    x: int = 0


def f(a: list[1], b) -> tuple[int, 2]:
    """Twice 2."""
    if a <= b and not a:
        raise ValueError(f"{a + 1} is not {b - 1}")
    for x, y in zip(a, b, strict=True):
        b += x ** 2
    b.close()
    return -a if b is None else a @ 0.5


if TYPE_CHECKING:
    from x import y as z

    N = 1
'''


def changes(code):
    return [(m.line, m.before, m.after) for m in mutants_of("x.py", code.encode())]


def test_what_is_planted_and_what_no_test_can_see_is_not():
    assert changes(CODE) == [
        (6, "3", "4"),
        (13, "0", "1"),
        (18, "<=", "<"),
        (18, "and", "or"),
        (18, "not ", ""),
        (19, 'raise ValueError(f"{a + 1} is not {b - 1}")', "pass"),
        (21, "b += x ** 2", "pass"),
        (21, "+", "-"),
        (21, "**", "*"),
        (21, "2", "3"),
        (22, "b.close()", "pass"),
        (23, "-", ""),
        (23, "is", "is not"),
        (23, "@", "*"),
        (23, "0.5", "1.0"),
    ]


@pytest.mark.parametrize(
    ("code", "mutated"),
    [
        ("x = a not in b", "x = a in b"),
        ("x = (é +  # +\n  b)", "x = (é -  # +\n  b)"),
        ("x = f(True)", "x = f(False)"),
        ("x = 0.0", "x = 1.0"),
        ("x = a // b", "x = a * b"),
    ],
)
def test_the_place_is_the_operator_s(code, mutated):
    (mutant,) = mutants_of("x.py", code.encode())
    assert mutant.source(code.encode()).decode() == mutated


def test_all_faults_are_programs_and_other_ones():
    text = CODE.encode()
    assert all(compiles(mutant, text) for mutant in mutants_of("x.py", text))
    assert not compiles(Mutant("x.py", 1, 0, 0, "", "if"), text)
    assert not compiles(Mutant("x.py", 6, text.index(b"3"), text.index(b"3") + 1, "3", "3 "), text)


def test_the_draw_is_seeded_and_has_as_many_of_each_area(tree, monkeypatch):
    monkeypatch.setattr(mutants, "AREAS", {"one": ("transforms/*.py",), "two": ("schemas/*.py",)})
    first = mutants.draw(tree, 4, 1)
    assert first == mutants.draw(tree, 4, 1) != mutants.draw(tree, 4, 2)
    assert [m.path.split("/")[0] for m in first] == ["transforms", "schemas"] * 2
    assert len({m.key for m in first}) == 4


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A working tree in small."""
    root = tmp_path_factory.mktemp("tree")
    files = {
        "schemas/__init__.py": "",
        "schemas/a.py": "def double(x):\n    y = 2 * x\n    return y - 0\n",
        "transforms/__init__.py": "",
        "transforms/b.py": "from schemas.a import double\n\n"
        "def four(x):\n    return double(x) * 2\n",
        "tests/helper.py": "from transforms import b\n",
        "tests/conftest.py": "",
        "tests/one/test_a.py": "from schemas.a import double\n\n"
        "def test_broken():\n    assert double(1) == 7\n\n"
        "def test_two():\n    assert double(3) == 6\n",
        "tests/test_b.py": "import helper\n\ndef test_four():\n    assert helper.b.four(1) == 4\n",
        "tests/test_other.py": "def test_nothing():\n    pass\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_tests_that_import_a_module_or_what_imports_it(tree):
    tests = Suite(tree)
    assert tests.of("schemas/a.py") == (["tests/one/test_a.py"], ["tests/test_b.py"])
    assert tests.of("transforms/b.py") == (["tests/test_b.py"], [])
    assert Suite(tree, ["test_b.py"]).of("schemas/a.py") == (["tests/one/test_a.py"], [])


def test_a_fault_is_noticed_by_a_test_that_passes_without_it(tree, tmp_path):
    text = (tree / "schemas" / "a.py").read_bytes()
    found = {(m.before, m.after): m for m in mutants_of("schemas/a.py", text)}
    trial = Trial(tree, tmp_path / "results.jsonl", Suite(tree), limit=60)
    copy = Copy(tree, tmp_path / "copy")
    noticed = trial.run(copy, found["*", "/"])
    assert noticed["by"] == "tests/one/test_a.py::test_two"
    assert trial.broken == {"tests/one/test_a.py::test_broken"}
    assert (noticed["before"], noticed["after"]) == ("y = 2 * x", "y = 2 / x")
    assert trial.run(copy, found["-", "+"])["by"] is None  # of ``- 0``
    assert (copy.folder / "schemas" / "a.py").read_bytes() == text
    again = Trial(tree, tmp_path / "results.jsonl", Suite(tree), limit=0)
    assert again.run(copy, found["*", "/"]) == noticed  # known: no test is run
