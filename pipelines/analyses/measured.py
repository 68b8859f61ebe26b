"""Which measurements of a store an analysis reads, and what they are called. Imports nothing heavy.

An attribute is called as its annotator calls it. Where two annotators of a run have one of the same
name, both are told apart as ``<annotator>.<name>``, in directions, models and the evaluation alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from generators.annotators.card import AnnotatorCard, read_description
from generators.annotators.kinds.catalog import role_of
from schemas.spec_models import AnnotateSpec
from schemas.store.latent_store import LatentStore

NAMED = ("scores", "pose", "quantities")
"""Roles of annotators' kinds whose every number is a label or a measure with its own name."""
RENDER = "@render"


@dataclass(frozen=True, eq=False)
class Measured:
    """A measurement in the store: array, its stage, and what it is taken for as ``kind``, a role of
    `generators.annotators.kinds.base.AnnotatorKind`.

    names : of its columns, no two of a run alike. own : the same as the annotator calls them.
    """

    array: str
    stage: str
    kind: str
    names: tuple[str, ...]
    own: tuple[str, ...] = ()

    @property
    def annotator(self) -> str:
        """Name of the model under 'annotate'."""
        return self.stage.removesuffix(RENDER)

    @property
    def render(self) -> bool:
        """Whether it is of what the code draws."""
        return self.stage.endswith(RENDER)

    def chosen(self, wanted: Collection[str] | None) -> list[int]:
        """Columns that are wanted by either name; all of them for None."""
        own = self.own or self.names
        return [
            i
            for i, names in enumerate(zip(self.names, own, strict=True))
            if wanted is None or not set(names).isdisjoint(wanted)
        ]


def chosen_measurements(
    every: Sequence[Measured], wanted: Collection[str] | None
) -> tuple[Measured, ...]:
    """Those with a column that is wanted; all for None."""
    return tuple(m for m in every if m.chosen(wanted))


def attributes_of(
    chosen: Sequence[Measured], wanted: Collection[str] | None
) -> dict[str, list[list[str]]]:
    """``annotated``: the attributes of each of several annotators that share one model; {} of one.

    What one annotator measures, its blocks tell.
    """
    if len(chosen) < 2:
        return {}
    return {"annotated": [[m.names[i] for i in m.chosen(wanted)] for m in chosen]}


def told_apart(names: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Annotator -> what its attributes are called in a run: no two alike.

    names : annotator -> its own names, each once. Annotators' names hold no dot.
    """
    called = {(annotator, name): name for annotator, own in names.items() for name in own}
    while True:
        times = Counter(called.values())
        alike = [key for key, name in called.items() if times[name] > 1]
        if not alike:
            break
        called |= {key: ".".join(key) for key in alike}
    return {a: tuple(called[a, name] for name in own) for a, own in names.items()}


def measurements(
    store: LatentStore, annotate: Sequence[AnnotateSpec], kind: str, labels: str = "render"
) -> list[Measured]:
    """Measurements of one kind, of the render where it is asked for (or of the image).

    Renders that a former specification asked for stay in the store, but nothing keeps them up to
    date: they are not read.
    """
    found: list[tuple[str, str, str, str, tuple[str, ...]]] = []
    for entry in annotate:
        for suffix in (RENDER, "") if labels == "render" and entry.render else ("",):
            match = stage_of(store, entry.name + suffix)
            if match is None:
                continue
            attrs: dict[str, Any] = dict(store.array(match[1]).attrs)
            marks = match[1].startswith("landmarks/")
            known = not marks and "kind" in attrs
            own = "landmarks" if marks else (role_of(str(attrs["kind"])) if known else None) or ""
            found.append((entry.name, *match, own, tuple(attrs.get("names", ()))))
            break
    return _of_kind(kind, found)


def _of_kind(
    kind: str, found: Sequence[tuple[str, str, str, str, tuple[str, ...]]]
) -> list[Measured]:
    """Of (annotator, stage, array, kind, names) those of one kind, their names told apart."""
    called = told_apart({name: own for name, _, _, k, own in found if k in NAMED})
    return [
        Measured(array, stage, kind, called.get(name, own), own)
        for name, stage, array, k, own in found
        if k == kind
    ]


def promised(
    annotate: Sequence[AnnotateSpec],
    cards: Mapping[str, AnnotatorCard],
    kind: str,
    labels: str = "render",
) -> list[Measured]:
    """What `measurements` will find once all annotators have run. cards : by annotator's name."""
    found = []
    for entry in annotate:
        card = cards[entry.name]
        stage = entry.name + (RENDER if labels == "render" and entry.render else "")
        found.append(
            (entry.name, stage, f"{card.group}/{stage}", role_of(card.kind) or "", card.names)
        )
    return _of_kind(kind, found)


def scheme_of(annotate: Sequence[AnnotateSpec], name: str) -> str | None:
    """What the order of a model's landmarks is called, None where its description names none."""
    models = [entry.model for entry in annotate if entry.name == name]
    return read_description(models[0]).scheme if models else None


def stage_of(store: LatentStore, name: str) -> tuple[str, str] | None:
    """(stage, array) of a model's measurement by its name in the store, None without one."""
    for stage in store.stages():
        for array in store.arrays(stage):
            group, _, leaf = array.partition("/")
            if leaf == name and group in ("annotations", "landmarks"):
                return stage, array
    return None


def landmarks_of(
    store: LatentStore, annotate: Sequence[AnnotateSpec], name: str, labels: str
) -> tuple[str, str] | None:
    """(stage, array) of landmarks by their model's name, of the render where it is asked for."""
    rendered = any(entry.name == name and entry.render for entry in annotate)
    for suffix in (RENDER, "") if labels == "render" and rendered else ("",):
        match = stage_of(store, name + suffix)
        if match is not None and match[1].startswith("landmarks/"):
            return match
    return None
