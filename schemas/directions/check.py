"""Is a stored direction set whole? Every direction and every model is read and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import zarr
from zarr.core.sync import sync

from schemas.directions.direction import FOREIGN_METHODS, Direction
from schemas.directions.direction_set import (
    DIRECTIONS_LAYOUT_VERSION,
    KIND,
    LARGE_LAYOUT_VERSION,
    array_layout,
    chunks_of,
    content_of,
    direction_layout,
    model_dims,
    spaces_of,
)
from schemas.directions.large import DIGEST, digest_of
from schemas.errors import LatentflowError
from schemas.store.handle import (
    METADATA,
    damage_of,
    group_metadata,
    members,
    metadata_problem,
    open_group,
    write_metadata,
)
from schemas.store.layout import check_layout

_GROUP = group_metadata({"layout_version": DIRECTIONS_LAYOUT_VERSION})
_KEYS = frozenset({"kind", "layout_version", "generator_fp", "space", "spaces", "names",
                   "contents", "complete"})  # fmt: skip
_MODEL_KEYS = ("layout_version", "attrs", "content", "complete")


@dataclass
class SetCheck:
    """What was found in a direction set.

    problems : with the set as a whole. attributes : of the set, as its directions give them.
    unreadable : why the whole set cannot be used, else None.
    directions, models : name -> problems, empty lists for good ones.
    space_of : direction -> its space, of readable ones.
    analysis_of, fingerprints : direction -> its analysis; analysis -> its model's fingerprint.
    foreign : names of imported and transferred directions.
    """

    unreadable: str | None = None
    problems: list[str] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)
    directions: dict[str, list[str]] = field(default_factory=dict)
    models: dict[str, list[str]] = field(default_factory=dict)
    space_of: dict[str, str] = field(default_factory=dict)
    analysis_of: dict[str, str] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)


def check_directions(path: str | os.PathLike[str]) -> SetCheck:
    """Read the set at ``path`` completely; never raises for what is wrong with it."""
    found = SetCheck()
    try:
        group = open_group(path)
        attrs = dict(group.attrs)
        check_layout(attrs, KIND, LARGE_LAYOUT_VERSION, os.fspath(path))
        if not attrs.get("complete"):
            found.unreadable = "it is half-written"
            return found
        contents = dict(cast("dict[str, str]", attrs.get("contents", {})))
        names = [str(name) for name in cast("list[str]", attrs["names"])]
    except (LatentflowError, ValueError, TypeError, KeyError, FileNotFoundError) as e:
        found.unreadable = str(e)
        return found
    unknown = sorted(attrs.keys() - _KEYS)
    if unknown:
        found.problems.append(f"the set has attributes of other names than ours: {unknown!r}")
    for name in members(group):
        found.problems += metadata_problem(group, name, _GROUP)
    made_by: dict[str, str] = {}
    generators: set[str] = set()
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
        sha256 = facts.get(DIGEST)
        if sha256 is not None and digest_of(vector) != sha256:
            problems.append("its values are not those that were saved")
            continue
        try:
            own = {key: value for key, value in facts.items() if key != DIGEST}
            held = Direction(name=name, vector=vector, **own)
        except (LatentflowError, TypeError, ValueError) as e:
            problems.append(str(e))
            continue
        made_for = held.provenance.get("generator_fp")
        if made_for is not None and made_for != attrs.get("generator_fp"):
            generators.add(str(made_for))
        found.space_of[name] = held.space
        layout = direction_layout(held.space, vector)
        problems += metadata_problem(group, f"directions/{name}", layout.metadata(facts))
        if name not in contents and ("contents" in attrs or unknown):
            problems.append("the set has no checksum of it")
        arrays = {} if sha256 is not None else {"": vector}
        if name in contents and content_of(facts, arrays) != contents[name]:
            problems.append("its attributes are not those that were saved")
    if generators:
        text = f"of its directions {sorted(generators)!r}"
        found.problems.append(f"'generator_fp' of the set is {attrs.get('generator_fp')!r}, {text}")
        found.attributes |= {"generator_fp": min(generators)} if len(generators) == 1 else {}
    if found.space_of.keys() == set(names):  # else some will be taken out
        _check_spaces(attrs, found)
    _check_models(group, found)
    for name, analysis in found.analysis_of.items():
        fingerprint = found.fingerprints.get(analysis)
        if fingerprint is None and analysis not in found.models:
            found.directions[name].append(f"the set has no model {analysis!r} that it came from")
        elif fingerprint is not None and fingerprint != made_by[name]:
            text = f"it has fingerprint {made_by[name]!r}, its analysis {analysis!r} has"
            found.directions[name].append(f"{text} {fingerprint!r}")
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
    for name in bad - {*found.analysis_of, *found.foreign}:  # whose it was, others of its kind tell
        kind = name.partition(".")[0]
        alike = {a for n, a in found.analysis_of.items() if n.partition(".")[0] == kind}
        again |= alike or found.models.keys()
    for name in sorted(bad):
        sync(group.store.delete_dir(_key(group, f"directions/{name}")))
    for name in sorted(again):
        sync(group.store.delete(_key(group, f"models/{name}/{METADATA}")))
        sync(group.store.delete_dir(_key(group, f"models/{name}")))
    for name in members(group) if found.problems else ():
        write_metadata(group, name, _GROUP)
    if bad or found.problems:
        attrs = {key: value for key, value in group.attrs.items() if key in _KEYS}
        attrs |= found.attributes
        names = [n for n in cast("list[str]", attrs["names"]) if n not in bad]
        spaces = spaces_of(str(attrs["space"]), (found.space_of[n] for n in names))
        if len(spaces) > 1:
            attrs["spaces"] = spaces
        else:
            attrs.pop("spaces", None)
        contents = {n: c for n, c in cast("dict[str, str]", attrs.get("contents", {})).items()}
        attrs |= {"names": names, "contents": {n: c for n, c in contents.items() if n in names}}
        group.attrs.put(attrs)


# ---------------------------------------------------------------------------------------------


def _check_spaces(attrs: Mapping[str, Any], found: SetCheck) -> None:
    """Whether the set lists the spaces that its directions are of; where it does not, one of its
    two attributes may still tell which space is its own."""
    own, listed = attrs.get("space"), attrs.get("spaces")
    theirs = sorted(set(found.space_of.values()))
    if not theirs or (listed or [own]) == spaces_of(str(own), theirs):
        return
    found.problems.append(
        f"'space' and 'spaces' of the set are {own!r} and {listed!r}, its directions are of "
        f"{theirs!r}"
    )
    first = listed[0] if isinstance(listed, list) and listed else None
    right = [s for s in (own, first, theirs[0] if len(theirs) == 1 else None) if s in theirs]
    found.attributes |= {"space": right[0]} if right else {}


def _check_models(group: zarr.Group, found: SetCheck) -> None:
    for name in members(group, "models"):
        problems: list[str] = []
        try:
            attrs = dict(group[f"models/{name}"].attrs)
            written = {key: attrs[key] for key in _MODEL_KEYS if key in attrs}
            wanted = group_metadata({**written, "layout_version": DIRECTIONS_LAYOUT_VERSION})
            problems += metadata_problem(group, f"models/{name}", wanted)
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
                layout = array_layout(value, model_dims(key, value))
                problems += metadata_problem(group, f"models/{name}/{key}", layout.metadata({}))
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
    try:
        counts = chunks_of(array)
    except ValueError as e:
        problems.append(f"{array.path!r} cannot be read: {e}")
        return None
    for place in np.ndindex(*counts):
        key = "/".join([array.path, "c", *map(str, place)])
        if not sync(array.store.exists(key)):
            problems.append(f"{key!r} is missing")
            return None
    try:
        return np.asarray(array[...])
    except Exception as e:  # whatever zarr and its codecs raise for bytes that are not theirs
        problems.append(f"{array.path!r} cannot be read: {damage_of(e)}")
        return None
