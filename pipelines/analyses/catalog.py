"""The analyses: ours, one a module of this folder, and those of other packages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.analyses.base import Analysis, Known, Selection
from schemas.catalog import Catalog
from schemas.errors import PluginError
from schemas.sections.catalog import GROUP
from schemas.spec import RunSpec

ANALYSES: Catalog[Analysis[Any]] = Catalog(
    "analysis",
    "pipelines.analyses",
    GROUP,
    apart=("base", "catalog", "checks", "figures", "inputs", "labels", "measured", "spaces"),
    base=Analysis,
)


def requested(spec: RunSpec) -> list[str]:
    """Analyses that the specification asks for, in the order in which they run.

    Ours run in the order of their sections (`AnalysisSection.order`), other packages' after them,
    by name.
    """
    sections = type(spec.analyse).model_fields
    return [name for name in sections if getattr(spec.analyse, name) is not None]


def analysis_of(name: str) -> Analysis[Any]:
    """The analysis of a name. PluginError for one of another package that is called otherwise."""
    found = ANALYSES.load(name)
    if found.name != name:
        raise PluginError(
            f"analysis {name!r} of another package has the name {found.name!r}: its entry point "
            "must have that name"
        )
    return found


def selected(known: Known, name: str) -> Selection:
    """What an analysis reads. Raises PluginError where it cannot tell."""
    with ANALYSES.blamed(name, "select"):
        found = analysis_of(name).select(known, getattr(known.spec.analyse, name))
    if not isinstance(found, Selection):
        raise PluginError(
            f"analysis {name!r} gives {type(found).__name__!r} in 'select', expected 'Selection': "
            "repair its package"
        )
    return found


def drawn_by(known: Known, name: str) -> int:
    """Pictures that an analysis draws of its own."""
    with ANALYSES.blamed(name, "pictures"):
        return int(analysis_of(name).pictures(known, getattr(known.spec.analyse, name)))


def problems_of(known: Known, name: str) -> Iterator[str]:
    """What an analysis asks for and its data cannot give."""
    own = getattr(known.spec.analyse, name)
    space = known.space(own)
    if space not in known.spaces:
        yield (
            f"'analyse.{name}.space' is {space!r}, but the run's codes are of, or converted to, "
            f"{sorted(known.spaces)!r}: name one of these, or leave it out"
        )
        return
    read = dict.fromkeys((space, *selected(known, name).spaces))
    for each in read:
        if known.without_labels(each):
            yield (
                f"'analyse.{name}' reads codes of {each!r}, which the generator makes with class "
                "labels: name their factor under 'dataset.labels', or read the stored codes"
            )
            return
    with ANALYSES.blamed(name, "problems"):
        yield from list(analysis_of(name).problems(known, own))
