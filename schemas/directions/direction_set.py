"""Direction sets: named unit vectors in a latent space, with how they were made and checked.

DESIGN section 2, "Direction set". A set is one Zarr group:

    directions/<name>            float64, the vector, everything else about it in its attributes;
                                 above 1 MB float32, one chunk a step, read where it is used
    models/<analysis>/<array>    fitted models and saved statistics beside the directions

Every direction names its space in its attributes. The set's attribute ``space`` is that of the
codes that the run stores; where any direction is of another one, ``spaces`` lists them all, the
set's own first (a set without it has directions of its own space alone).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import zarr

from schemas.directions.direction import (
    FOREIGN_METHODS,
    Direction,
    apply,
    broadcast_layers,
    check_applies,
    fix_sign,
    unit_direction,
)
from schemas.directions.large import (
    DIGEST,
    NOT_SAVED,
    REPAIR,
    StoredVector,
    digest_of,
    step_chunks,
)
from schemas.errors import DataError, DirectionMismatchError, StoreError, UsageError
from schemas.fingerprint import canonical_json
from schemas.store.handle import damage_told, members, open_group
from schemas.store.layout import Layout, check_layout, check_name, default_dims
from schemas.suggest import suggestion

__all__ = [
    "DIRECTIONS_LAYOUT_VERSION",
    "FOREIGN_METHODS",
    "Direction",
    "DirectionSet",
    "apply",
    "broadcast_layers",
    "check_applies",
    "fix_sign",
    "unit_direction",
]

DIRECTIONS_LAYOUT_VERSION = 1
LARGE_LAYOUT_VERSION = 2
"""Of sets that hold vectors as float32."""
KIND = "direction_set"
_MODEL_CHUNK_BYTES = 32 * 2**20
_RENEW = "delete it and run again; what was imported must be imported again"


class DirectionSet:
    """Named directions of one generator, in order, with the models they came from.

    space : of the codes that the run stores. Each direction says which space it is of, and all of
    one space have one shape.

    ``models/<analysis>`` are written and read one by one (``save_model``, ``load_model``) once
    the set has a path; they can be far larger than the directions.
    """

    def __init__(self, generator_fp: str, space: str, directions: Iterable[Direction] = ()) -> None:
        self.generator_fp = generator_fp
        self.space = space
        self.path: str | None = None
        self._directions: dict[str, Direction] = {}
        for direction in directions:
            self.add(direction)

    def add(self, direction: Direction) -> None:
        """Append a direction. Raises StoreError when its name is taken, DirectionMismatchError
        when it is of another generator, or not of the shape of the others of its space."""
        if direction.name in self._directions:
            raise StoreError(
                f"the set already has a direction {direction.name!r}; use replace, or another name"
            )
        self.replace(direction)

    def replace(self, direction: Direction) -> None:
        """Like ``add``, but a direction of the same name gives way (and keeps its place)."""
        made_for = direction.provenance.get("generator_fp")
        if made_for is None:
            provenance = {**direction.provenance, "generator_fp": self.generator_fp}
            direction = dataclasses.replace(direction, provenance=provenance)
        check_applies(direction, self.generator_fp, direction.space)
        for other in self.of_space(direction.space):
            if other.name != direction.name and other.shape != direction.shape:
                raise DirectionMismatchError(
                    f"direction {direction.name!r} of space {direction.space!r} has shape "
                    f"{direction.shape!r}, but {other.name!r} of that space has "
                    f"{other.shape!r}; keep them apart"
                )
        self._directions[direction.name] = direction

    def names(self) -> list[str]:
        """Names of the directions, in order."""
        return list(self._directions)

    def spaces(self) -> list[str]:
        """The set's own space, then the others that directions are of, sorted."""
        return spaces_of(self.space, (d.space for d in self))

    def of_space(self, space: str) -> list[Direction]:
        """The directions of one space, in order."""
        return [d for d in self if d.space == space]

    def __getitem__(self, name: str) -> Direction:
        if name in self._directions:
            return self._directions[name]
        of_text = [d for d in self if name in _texts_of(d)]
        if len(of_text) != 1:
            known = self.names()
            cure = suggestion(name, known) if known else "the set has none"
            raise UsageError(f"there is no direction {name!r}: {cure}")
        return of_text[0]

    def __contains__(self, name: object) -> bool:
        return name in self._directions

    def __iter__(self) -> Iterator[Direction]:
        return iter(self._directions.values())

    def __len__(self) -> int:
        return len(self._directions)

    # ---- on disk ----------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the directions to the Zarr group at ``path``; models already there stay.

        The same set gives the same bytes. A set whose saving was cut short is refused by
        ``load``; saving it again repairs it. Directions that are stored already are not touched.
        Vectors above 1 MB are no longer held: they are read from there.
        """
        group = open_group(path, "a")
        old = dict(group.attrs)
        if old:
            check_layout(old, KIND, LARGE_LAYOUT_VERSION, os.fspath(path))
            self._check_same(old, path)
        single = any(d.single for d in self)
        attrs: dict[str, Any] = {
            "kind": KIND,
            "layout_version": LARGE_LAYOUT_VERSION if single else DIRECTIONS_LAYOUT_VERSION,
            "generator_fp": self.generator_fp,
            "space": self.space,
            **({"spaces": self.spaces()} if len(self.spaces()) > 1 else {}),
            "names": self.names(),
            "contents": {d.name: _content_of(d) for d in self},
        }
        group.attrs.put({**attrs, "complete": False})
        folder = _subgroup(group, "directions")
        for name in sorted(set(members(folder)) - set(self.names())):
            del folder[name]
        for direction in self:
            if _holds(folder, direction):  # a kill now must not cost what is there already
                continue
            vector = direction.vector
            layout = direction_layout(direction.space, vector)
            _write_array(folder, direction.name, vector, layout, _attrs_of(direction))
        group.attrs.put({**attrs, "complete": True})
        self.path = os.fspath(path)
        for direction in [d for d in self if d.single]:
            lies = StoredVector.of(
                self.path, direction.name, direction.shape, direction.vector_sha256
            )
            self._directions[direction.name] = dataclasses.replace(
                direction, vector=cast("np.ndarray", lies)
            )

    def _check_same(self, attrs: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
        mine = (self.generator_fp, self.space)
        theirs = (attrs.get("generator_fp"), attrs.get("space"))
        if mine != theirs:
            raise DirectionMismatchError(
                f"the set at {os.fspath(path)!r} is of generator and space {theirs!r}, not "
                f"{mine!r}; save to another path"
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DirectionSet:
        """Read a set. Raises StoreError when there is none, when its saving was cut short and where
        a direction is not what was saved, NewerLayoutError when a newer release wrote it."""
        group = _open(path)
        attrs = dict(group.attrs)
        if not attrs.get("complete"):
            raise StoreError(
                f"the direction set at {os.fspath(path)!r} is half-written; run its analysis again"
            )
        with damage_told(f"the direction set at {os.fspath(path)!r}", _RENEW):
            found = cls(str(attrs["generator_fp"]), str(attrs["space"]))
            spaces = [str(space) for space in cast("list[str]", attrs.get("spaces", [found.space]))]
            contents = dict(cast("dict[str, str]", attrs.get("contents", {})))
            names = [str(name) for name in cast("list[str]", attrs["names"])]
        for name in names:
            with damage_told(f"direction {name!r} of {os.fspath(path)!r}", REPAIR):
                found.add(_read_direction(os.fspath(path), group, name, contents.get(name)))
        if found.spaces() != spaces:
            raise StoreError(
                f"the direction set at {os.fspath(path)!r} lists the spaces {spaces!r}, its "
                f"directions are of {found.spaces()!r}; put it right with 'latentflow verify RUN "
                "--repair', then run again"
            )
        found.path = os.fspath(path)
        return found

    @staticmethod
    def foreign_in(path: str | os.PathLike[str]) -> list[Direction]:
        """Directions of FOREIGN_METHODS that a set holds whose saving was cut short: they come
        from elsewhere, and no analysis could make them again."""
        try:
            group, folder = open_group(path), open_group(path, name="directions")
        except (ValueError, FileNotFoundError):
            return []
        # a cut one may still hold what the new contents were to replace
        contents = group.attrs.get("contents", {}) if group.attrs.get("complete") else {}
        found = []
        for name in members(folder):
            try:
                content = cast("dict[str, str]", contents).get(name)
                direction = _read_direction(os.fspath(path), group, name, content)
            except (TypeError, ValueError, RuntimeError, DataError, StoreError):
                continue  # the one that was being written
            if direction.method in FOREIGN_METHODS:
                found.append(direction)
        return found

    def save_model(
        self, name: str, arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any]
    ) -> None:
        """Write ``models/<name>``: named arrays of numbers, any shape, and JSON attributes.

        What was there under that name is replaced. Raises StoreError before the set is saved.
        """
        check_name(name, "model")
        canonical_json(dict(attrs))
        for key, value in arrays.items():
            check_name(key, "model array")
            if np.asarray(value).dtype.kind not in "fiub":
                raise StoreError(
                    f"array {key!r} of model {name!r} has dtype {np.asarray(value).dtype.name!r}; "
                    "store numbers, and put text into attrs"
                )
        models = _subgroup(open_group(self._saved(), "r+"), "models")
        state: dict[str, Any] = {"layout_version": DIRECTIONS_LAYOUT_VERSION, "attrs": dict(attrs)}
        folder = _subgroup(models, name)
        state["content"] = content_of(dict(attrs), arrays)
        folder.attrs.put({**state, "complete": False})
        for key in sorted(set(members(folder)) - set(arrays)):
            del folder[key]
        for key in sorted(arrays):
            value = np.asarray(arrays[key])
            _write_array(folder, key, value, array_layout(value, model_dims(key, value)), {})
        folder.attrs.put({**state, "complete": True})

    def load_model(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and attributes of ``models/<name>``.

        Raises StoreError when there is none, when its saving was cut short and when it is not what
        was saved.
        """
        folder = self._model(name)
        with damage_told(f"model {name!r} of {self.path!r}", REPAIR):
            arrays = {key: _whole(cast("zarr.Array[Any]", folder[key])) for key in members(folder)}
            attrs = dict(cast("dict[str, Any]", folder.attrs["attrs"]))
            saved = folder.attrs.get("content")
            if saved is not None and content_of(attrs, arrays) != saved:
                raise ValueError(NOT_SAVED)
        return arrays, attrs

    def model_facts(self, name: str) -> dict[str, Any]:
        """Attributes of ``models/<name>`` without its arrays; errors as of `load_model`."""
        folder = self._model(name)
        with damage_told(f"model {name!r} of {self.path!r}", REPAIR):
            return dict(cast("dict[str, Any]", folder.attrs["attrs"]))

    def delete_model(self, name: str) -> None:
        """Take ``models/<name>`` away, complete or not; nothing happens where there is none."""
        group = open_group(self._saved(), "r+")
        if f"models/{name}" in group:
            models = open_group(group, "r+", "models")
            folder = models[name]
            folder.attrs.put({**dict(folder.attrs), "complete": False})  # a crash leaves no half
            del models[name]

    def _model(self, name: str) -> zarr.Group:
        group = _open(self._saved())
        with damage_told(f"model {name!r} of {self.path!r}", REPAIR):
            folder = open_group(group, name=f"models/{name}") if f"models/{name}" in group else None
        if folder is None or not folder.attrs.get("complete"):
            raise StoreError(
                f"the set at {self.path!r} has no complete model {name!r}; it has "
                f"{self.model_names()!r}; run the analysis again"
            )
        return folder

    def model_names(self) -> list[str]:
        """Names of the completely written models, sorted."""
        group = _open(self._saved())
        found = []
        with damage_told(f"the direction set at {self.path!r}", REPAIR):
            for name in members(group, "models") if "models" in group else ():
                if group[f"models/{name}"].attrs.get("complete"):
                    found.append(name)
        return found

    def _saved(self) -> str:
        if self.path is None:
            raise StoreError("the set is in memory only and holds no models; save it first")
        return self.path


def spaces_of(own: str, others: Iterable[str]) -> list[str]:
    """The spaces of a set, as it lists them: its own first, then the others, sorted."""
    return [own, *sorted(set(others) - {own})]


def _texts_of(direction: Direction) -> set[str]:
    """What a direction would be called if its name held the data's own texts unchanged."""
    factor, level, first, target = (
        direction.provenance.get(key) for key in ("factor", "level", "baseline", "target")
    )
    kind = direction.name.partition(".")[0]
    return {f"{kind}.{target}", f"{kind}.{factor}-{level}", f"{kind}.{factor}-{first}-to-{level}"}


def content_of(attrs: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over attributes and arrays, 64 hex digits: tells when a stored one was changed.

    Arrays have checksums of their own on disk; attributes do not.
    """
    hasher = hashlib.sha256(canonical_json(dict(attrs)))
    for key in sorted(arrays):
        value = np.asarray(arrays[key])
        little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        hasher.update(canonical_json([key, value.dtype.name, list(value.shape)]))
        hasher.update(little.tobytes())
    return hasher.hexdigest()


def chunks_of(array: zarr.Array[Any]) -> list[int]:
    """Number of chunks along each axis of an array of a set. Raises ValueError where they are more
    than any array of this shape is written in: its metadata are damaged."""
    counts = [-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True)]
    size = math.prod(array.shape) * array.dtype.itemsize
    if DIGEST in array.attrs and array.chunks == step_chunks(array.shape):
        return counts
    if math.prod(counts) > 1 + 2 * size // _MODEL_CHUNK_BYTES:
        raise ValueError(f"its shape {array.shape!r} is not that of its chunks {array.chunks!r}")
    return counts


def _whole(array: zarr.Array[Any]) -> np.ndarray:
    chunks_of(array)
    return np.asarray(array[...])


def _read_direction(path: str, group: zarr.Group, name: str, content: str | None) -> Direction:
    """A stored direction; one above 1 MB without its vector, where a content tells what it is.

    Raises ValueError where its content is another one."""
    array = group[f"directions/{name}"]
    if not isinstance(array, zarr.Array):
        raise ValueError("it is not an array")
    facts = cast("dict[str, Any]", dict(array.attrs))
    if DIGEST in facts:
        if content is not None and content_of(facts, {}) != content:
            raise ValueError(NOT_SAVED)
        lies = StoredVector.of(path, name, array.shape, str(facts.pop(DIGEST)))
        if content is None:
            lies.read()
        return Direction(name=name, vector=cast("np.ndarray", lies), **facts)
    vector = _whole(array)
    if content is not None and content_of(facts, {"": vector}) != content:
        raise ValueError(NOT_SAVED)
    return Direction(name=name, vector=vector, **facts)


def _attrs_of(direction: Direction) -> dict[str, Any]:
    fields = (f.name for f in dataclasses.fields(direction) if f.name not in ("name", "vector"))
    attrs = {name: getattr(direction, name) for name in fields}
    return {**attrs, DIGEST: direction.vector_sha256} if direction.single else attrs


def _content_of(direction: Direction) -> str:
    return content_of(_attrs_of(direction), {} if direction.single else {"": direction.vector})


def _holds(folder: zarr.Group, direction: Direction) -> bool:
    """Whether a direction is stored already, exactly as it is."""
    try:
        array = folder.get(direction.name)
        if not isinstance(array, zarr.Array):
            return False
        facts = dict(array.attrs)
        single = DIGEST in facts
        if single and digest_of(_whole(array)) != facts[DIGEST]:
            return False
        stored = content_of(facts, {} if single else {"": _whole(array)})
    except (TypeError, ValueError, RuntimeError):
        return False
    return stored == _content_of(direction)


def _open(path: str | os.PathLike[str]) -> zarr.Group:
    try:
        group = open_group(path)
        attrs = group.attrs.asdict()
    except FileNotFoundError as e:
        raise StoreError(f"there is no direction set at {os.fspath(path)!r}; check the path") from e
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise StoreError(
            f"{os.fspath(path)!r} is no readable direction set ({e}); check the path"
        ) from e
    check_layout(attrs, KIND, LARGE_LAYOUT_VERSION, os.fspath(path))
    return group


def _subgroup(group: zarr.Group, name: str) -> zarr.Group:
    """The group ``name`` of a group opened for writing, made where there is none."""
    if name in group:
        return open_group(group, "r+", name)
    return group.create_group(name, attributes={"layout_version": DIRECTIONS_LAYOUT_VERSION})


def _write_array(
    group: zarr.Group,
    name: str,
    value: np.ndarray,
    layout: Layout,
    attributes: dict[str, Any],
) -> None:
    """Write an array anew."""
    if name in group:
        del group[name]
    key = f"{group.path}/{name}" if group.path else name
    layout.create(group.store, key, attributes=attributes)[...] = value


def array_layout(value: np.ndarray, dims: tuple[str, ...]) -> Layout:
    """How an array lies in a set: in chunks of at most 32 MiB along its first axis."""
    chunk = tuple(max(1, size) for size in value.shape)
    if chunk:
        row_bytes = value.itemsize * math.prod(chunk[1:])
        chunk = (max(1, min(chunk[0], _MODEL_CHUNK_BYTES // row_bytes)), *chunk[1:])
    kind = value.dtype.kind
    fill = math.nan if kind == "f" else False if kind == "b" else 0
    return Layout(value.shape, chunk, chunk, value.dtype.name, fill, dims)


def direction_layout(space: str, value: np.ndarray) -> Layout:
    """How a direction's vector lies in a set: float32 in one chunk a step."""
    layout = array_layout(value, default_dims("directions", space, value.ndim)[1:])
    chunk = step_chunks(value.shape) if value.dtype == np.float32 else None
    return layout if chunk is None else dataclasses.replace(layout, shard=chunk, inner=chunk)


def model_dims(key: str, value: np.ndarray) -> tuple[str, ...]:
    """Names of the axes of a model's array."""
    return tuple(f"{key}_axis{i}" for i in range(value.ndim))
