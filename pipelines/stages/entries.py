"""Which entry of an inversion method's own belongs to which row of the index.

A method may know something of images beforehand, by their names: codes that another project found
(`transforms.inversion.method.InversionMethod.named`). Names find rows as the keys of a factor table
do, so that a name which fits several images fits none.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.folder.store_identity import StoreIdentity
from pipelines.sources.factor_keys import Images, Match, find_key, how_they_differ
from pipelines.sources.factor_tables import FactorTable
from schemas.errors import InputError
from schemas.index import DatasetIndex
from transforms.inversion.catalog import METHODS, method_named

NONE = -1
_COLUMN = "names of the codes"


@dataclass(frozen=True, eq=False)
class Entries:
    """entries : int64 (n_rows,), `NONE` where a row has none. notes : how names met images."""

    entries: NDArray[np.int64]
    notes: list[str] = field(default_factory=list)


def entries_of(identity: StoreIdentity, index: DatasetIndex) -> Entries | None:
    """The entry of every row; None for a method that looks nothing up.

    Raises InputError where the names fit no image, and the method's own errors.
    """
    if identity.sampled:
        return None
    method, active, uris = method_named(identity.spec.method), index.active, index.uris
    present = [uri for uri, there in zip(uris, active, strict=True) if there]
    with METHODS.blamed(identity.spec.method, "named"):
        names = method.named(identity.spec, identity.facts, present)
    if names is None:
        return None
    dataset = identity.dataset
    root = os.path.abspath(dataset.path) if dataset is not None and dataset.path else ""
    images = Images(uris, _keys(index), index.image_ids, active.tolist(), root)
    match = _match(images, list(names))
    entries = np.array([NONE if row is None else row for row in match.row_of], np.int64)
    return Entries(entries, [*match.notes, *_told(match, uris, active, len(names))])


def _keys(index: DatasetIndex) -> list[str]:
    """The paths of images that lie in larger files, within these."""
    return [uri.rpartition("#")[2] or uri for uri in index.uris]


def _match(images: Images, names: list[str]) -> Match:
    """By the names as they are, else by their last parts: lists hold paths of other machines."""
    try:
        return _found(images, names)
    except InputError:
        last = [name.replace("\\", "/").rsplit("/", 1)[-1] for name in names]
        if last != names and len(set(last)) == len(last):
            with suppress(InputError):
                return _found(images, last)
    first = next((uri for uri, there in zip(images.uris, images.active, strict=True) if there), "")
    why = how_they_differ(names, images.paths) or "give a list of these images under 'invert.names'"
    raise InputError(
        f"the names of the codes fit none of the images: the first is {names[0]!r}, images have "
        f"{first!r}: {why}"
    )


def _found(images: Images, names: Sequence[str]) -> Match:
    table = FactorTable("invert.codes", {_COLUMN: list(names)})
    return find_key(table, images, _COLUMN)


def _told(match: Match, uris: Sequence[str], active: NDArray[np.bool_], n: int) -> list[str]:
    without = [
        uri
        for uri, row, there in zip(uris, match.row_of, active, strict=True)
        if there and row is None
    ]
    found = [f"{match.n} of {int(active.sum())} images have one of the {n} codes"]
    if without:
        verb = "images have" if len(without) > 1 else "image has"
        found.append(f"{len(without)} {verb} no code, such as {without[0]!r}: quarantined")
    if match.unused:
        unused = len(match.unused)
        verb = "codes name" if unused > 1 else "code names"
        found.append(f"{unused} {verb} no image, such as {match.unused[0]!r}")
    return found
