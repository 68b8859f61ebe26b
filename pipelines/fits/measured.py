"""Which measurements of a store an analysis reads. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.spec_models import AnnotateSpec
from schemas.store import LatentStore


@dataclass(frozen=True, eq=False)
class Measured:
    """A measurement in the store: array, its stage, kind ("scores", "pose"), names."""

    array: str
    stage: str
    kind: str
    names: tuple[str, ...]


def measurements(
    store: LatentStore, annotate: Sequence[AnnotateSpec], kind: str, labels: str = "render"
) -> list[Measured]:
    """Measurements of one kind, of the render where it is asked for (or of the image).

    Renders that a former specification asked for stay in the store, but nothing keeps them up to
    date: they are not read.
    """
    found = []
    for entry in annotate:
        for suffix in ("@render", "") if labels == "render" and entry.render else ("",):
            match = stage_of(store, entry.name + suffix)
            if match is None:
                continue
            stage, array = match
            attrs: dict[str, Any] = dict(store.array(array).attrs)
            if attrs.get("kind") == kind:
                found.append(Measured(array, stage, kind, tuple(attrs["names"])))
            break
    return found


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
    for suffix in ("@render", "") if labels == "render" and rendered else ("",):
        match = stage_of(store, name + suffix)
        if match is not None and match[1].startswith("landmarks/"):
            return match
    return None
