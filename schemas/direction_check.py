"""Is a stored direction set whole? Every direction and every model is read and checked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import zarr
from zarr.core.sync import sync

from schemas.direction import FOREIGN_METHODS, Direction
from schemas.directions import DIRECTIONS_LAYOUT_VERSION, KIND, content_of
from schemas.errors import LatentflowError
from schemas.handle import METADATA, members, open_group
from schemas.layout import check_layout


@dataclass
class SetCheck:
    """What was found in a direction set.

    unreadable : why the whole set cannot be used, else None.
    directions, models : name -> problems, empty lists for good ones.
    analysis_of, fingerprints : direction -> its analysis; analysis -> its model's fingerprint.
    foreign : names of imported and transferred directions.
    """

    unreadable: str | None = None
    directions: dict[str, list[str]] = field(default_factory=dict)
    models: dict[str, list[str]] = field(default_factory=dict)
    analysis_of: dict[str, str] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)


def check_directions(path: str | os.PathLike[str]) -> SetCheck:
    """Read the set at ``path`` completely; never raises for what is wrong with it."""
    found = SetCheck()
    try:
        group = open_group(path)
        attrs = dict(group.attrs)
        check_layout(attrs, KIND, DIRECTIONS_LAYOUT_VERSION, os.fspath(path))
        if not attrs.get("complete"):
            found.unreadable = "it is half-written"
            return found
        contents = dict(cast("dict[str, str]", attrs.get("contents", {})))
        names = [str(name) for name in cast("list[str]", attrs["names"])]
        for part in ("directions", "models"):  # a later run opens them, too
            if part in members(group):
                open_group(group, name=part)
    except (LatentflowError, ValueError, TypeError, KeyError, FileNotFoundError) as e:
        found.unreadable = str(e)
        return found
    made_by: dict[str, str] = {}
    for name in names:
        problems: list[str] = []
        found.directions[name] = problems
        array = _member(group, f"directions/{name}", problems)
        if array is None:
            continue
        facts = cast("dict[str, Any]", dict(array.attrs))
        provenance = facts.get("provenance")
        if facts.get("method") in FOREIGN_METHODS:
            found.foreign.append(name)
        elif isinstance(provenance, dict):
            if isinstance(provenance.get("analysis"), str):
                found.analysis_of[name] = provenance["analysis"]
                made_by[name] = str(provenance.get("fingerprint"))
        vector = _read(array, problems)
        if vector is None:
            continue
        try:
            Direction(name=name, vector=vector, **facts)
        except (LatentflowError, TypeError, ValueError) as e:
            problems.append(str(e))
            continue
        if name in contents and content_of(facts, {"": vector}) != contents[name]:
            problems.append("its attributes are not those that were saved")
    _check_models(group, found)
    for name, analysis in found.analysis_of.items():
        held = found.fingerprints.get(analysis)
        if held is None and analysis not in found.models:
            found.directions[name].append(f"the set has no model {analysis!r} that it came from")
        elif held is not None and held != made_by[name]:
            found.directions[name].append(
                f"it has fingerprint {made_by[name]!r}, its analysis {analysis!r} has {held!r}"
            )
    return found


def drop_damaged(path: str | os.PathLike[str], found: SetCheck) -> None:
    """Take damaged directions and models out of a set, so that the next run makes them again.

    An analysis of which anything is damaged is made again as a whole; the others, and foreign
    directions that are whole, stay. A set that cannot be read at all is left as it is.
    """
    if found.unreadable is not None:
        return
    group = open_group(path, "r+")
    bad = {name for name, problems in found.directions.items() if problems}
    again = {name for name, problems in found.models.items() if problems}
    again |= {found.analysis_of[name] for name in bad if name in found.analysis_of}
    if not bad <= {*found.analysis_of, *found.foreign}:  # whose direction it was cannot be told
        again |= found.models.keys()
    for name in sorted(again):
        sync(group.store.delete(_key(group, f"models/{name}/{METADATA}")))
        sync(group.store.delete_dir(_key(group, f"models/{name}")))
    if bad:
        attrs = dict(group.attrs)
        names = [n for n in cast("list[str]", attrs["names"]) if n not in bad]
        contents = {n: c for n, c in cast("dict[str, str]", attrs.get("contents", {})).items()}
        attrs |= {"names": names, "contents": {n: c for n, c in contents.items() if n in names}}
        group.attrs.put(attrs)


# ---------------------------------------------------------------------------------------------


def _check_models(group: zarr.Group, found: SetCheck) -> None:
    for name in members(group, "models"):
        problems: list[str] = []
        try:
            folder = group[f"models/{name}"]
            attrs = dict(folder.attrs)
            keys = members(group, f"models/{name}")
        except (KeyError, ValueError, TypeError) as e:
            found.models[name] = [f"it cannot be opened: {e}"]
            continue
        if not attrs.get("complete"):
            continue  # an analysis that was interrupted: the next run makes it
        found.models[name] = problems
        arrays = {}
        for key in keys:
            array = _member(group, f"models/{name}/{key}", problems)
            value = None if array is None else _read(array, problems)
            if value is not None:
                arrays[key] = value
        facts = cast("dict[str, Any]", attrs.get("attrs", {}))
        if not problems and "content" in attrs and content_of(facts, arrays) != attrs["content"]:
            problems.append("its arrays or attributes are not those that were saved")
        if isinstance(facts.get("fingerprint"), str):
            found.fingerprints[name] = facts["fingerprint"]


def _key(group: zarr.Group, path: str) -> str:
    return f"{group.path}/{path}" if group.path else path


def _member(group: zarr.Group, path: str, problems: list[str]) -> zarr.Array[Any] | None:
    try:
        array = group[path]
    except (KeyError, ValueError, TypeError) as e:
        problems.append(f"{path!r} cannot be opened: {e!r}")
        return None
    if not isinstance(array, zarr.Array):
        problems.append(f"{path!r} is not an array")
        return None
    return array


def _read(array: zarr.Array[Any], problems: list[str]) -> np.ndarray | None:
    """The whole array with its checksums; None, and a problem, where a chunk is bad or missing."""
    chunks = -(-np.array(array.shape, int) // np.array(array.chunks, int)) if array.shape else []
    for place in np.ndindex(*(int(n) for n in chunks)):
        key = "/".join([array.path, "c", *map(str, place)])
        if not sync(array.store.exists(key)):
            problems.append(f"{key!r} is missing")
            return None
    try:
        return np.asarray(array[...])
    except Exception as e:  # whatever zarr and its codecs raise for bytes that are not theirs
        text = str(e).splitlines()[0] if str(e) else type(e).__name__
        problems.append(f"{array.path!r} cannot be read: {text}")
        return None
