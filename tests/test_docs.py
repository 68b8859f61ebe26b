"""What the documentation promises is there: links, names of the API, keys, examples.

``make docs`` builds the site with mkdocs in strict mode; this needs nothing but our own code.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT
from pydantic import BaseModel

from schemas.sections.catalog import OWN
from schemas.sections.invert import SECTIONS, UNUSED, section_of
from schemas.spec import RunSpec, json_schema

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
NAME = re.compile(r"^::: (\S+)", re.MULTILINE)
SNIPPET = re.compile(r'--8<-- "([^"]+)"')


def load_hooks() -> Any:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = load_hooks()
MADE = HOOKS.pages()


def names_of(page: Path) -> list[str]:
    return NAME.findall(page.read_text())


def resolved(name: str) -> Any:
    """The module, class or function of a dotted name."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


@pytest.mark.parametrize("page", [*PAGES, *MADE], ids=str)
def test_links_lead_to_pages_and_pictures(page):
    text = MADE[page] if isinstance(page, str) else page.read_text()
    folder = Path(page).parent if isinstance(page, str) else Path()
    for target in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if not target.startswith(("http://", "https://")):
            inside = (folder / target).as_posix()
            assert inside in MADE or (DOCS / inside).is_file(), (str(page), target)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_named_objects_exist_and_are_documented(page):
    for name in names_of(page):
        found = resolved(name)
        assert inspect.getdoc(found), name


def test_every_example_is_shown_on_a_page():
    marks = [line for page in PAGES for line in page.read_text().splitlines() if "8<" in line]
    shown = [SNIPPET.fullmatch(mark) for mark in marks]
    assert all(shown), marks  # a mark of another form is printed as text
    package = ROOT / "tests" / "plugins"
    paths = [*(ROOT / "examples").glob("*.py"), *package.glob("*/*.py"), *package.glob("*.toml")]
    files = {path.relative_to(ROOT).as_posix() for path in paths if path.name != "__init__.py"}
    files = files - {"examples/dagster_screenshot.py"} | {"tests/plugins/test_woodcut.py"}
    assert {match[1] for match in shown} == files
    assert len(marks) == len(files)


def test_the_api_page_names_members_that_exist():
    text = (DOCS / "api.md").read_text()
    listed = re.findall(r"^::: (\S+)\n    options:\n      members: \[(.+)\]", text, re.MULTILINE)
    assert len(listed) == 2
    for name, members in listed:
        found = resolved(name)
        assert [m for m in members.split(", ") if not hasattr(found, m)] == []
    assert len(names_of(DOCS / "api.md")) > 40


def test_the_specification_page_has_every_key_and_its_meaning():
    page = MADE["specification.md"]

    def check(model: type[BaseModel]) -> int:
        count = 0
        for name, field in model.model_fields.items():
            if UNUSED in field.metadata:
                continue
            assert f"| `{name}` |" in page, (model.__name__, name)
            if field.description:
                assert HOOKS.cell(field.description) in page, (model.__name__, name)
            count += 1
        return count

    found = [m for m in all_models(RunSpec)]
    assert sum(map(check, found)) > 80 and len(found) == len(json_schema()["$defs"]) + 2
    assert all(check(section_of(method)) for method in SECTIONS.own())
    methods = " or ".join(f"`{method}`" for method in SECTIONS.own())
    assert f"| `method` | {methods} | `encoder` |" in page and "`hybrid`" in methods
    assert "## invert, method: optimise" in page and "\nNo further keys.\n" in page
    assert "## invert.perceptual" in page and "| `perceptual` | section or null |" in page
    assert "## analyse.hosvd" in page and "## annotate[]" in page
    assert "| `name` | text | **required** |" in page
    assert "| `max_pixels` | integer | `67108864` |" in page


SPEC_MODULES = ("schemas.spec_models", "schemas.sections.invert", "schemas.sections.train_encoder")


def all_models(model: type[BaseModel], seen: list[type[BaseModel]] | None = None):
    seen = [] if seen is None else seen
    if model not in seen:
        seen.append(model)
        for field in model.model_fields.values():
            for name in re.findall(r"\w+Spec\b", str(field.annotation)):
                key = next((k for k, v in OWN.items() if v.__name__ == name), None)
                modules = map(importlib.import_module, SPEC_MODULES)
                found = [getattr(module, name) for module in modules if hasattr(module, name)]
                all_models(OWN[key] if key else found[0], seen)
    return seen


def test_every_page_is_in_the_navigation():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = [p for part in config["nav"] for value in part.values()
              for p in ([value] if isinstance(value, str) else
                        [page for entry in value for page in entry.values()])]  # fmt: skip
    assert set(listed) >= {page.name for page in PAGES} | set(MADE)
    assert len(listed) == len(set(listed))


def test_links_of_the_readme_are_turned_to_the_site():
    text = HOOKS.relinked("[a](docs/design.md) [b](generators/bundled/faces64/generator.md)")
    assert text == "[a](design.md) [b](models/faces64/generator.md)"


def test_every_bundled_model_has_a_page_of_its_own():
    cards = list((ROOT / "generators" / "bundled").glob("*/*.md"))
    texts = [text for page, text in MADE.items() if page.startswith("models/")]
    assert len(cards) > 3 and sorted(texts) == sorted(card.read_text() for card in cards)
