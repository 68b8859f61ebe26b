"""Rows drawn from the generator's own prior: a dataset without images.

A row is a seed and, of a class-conditional generator, a class: ``image_id`` is their hash, so that
more rows are appended and none of before changes. The picture itself is drawn when it is asked for.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

from generators.protocols import ModelFacts
from pipelines.sources.base import Item, Listing
from schemas.class_labels import class_number
from schemas.errors import InputError, SpecError
from schemas.sections.dataset import IN_TURN, LABEL, DatasetSpec

SEED_UNIT = "seed/"


def open_dataset(dataset: DatasetSpec, facts: ModelFacts | None) -> SampledSource:
    """See `pipelines.sources.open`."""
    return SampledSource.of(dataset, 0 if facts is None else facts.classes)


@dataclass(frozen=True)
class SampledSource:
    """``n`` rows of the seeds ``seed``, ``seed + 1``, ...

    classes, parts : the class of a seed is found in ``parts[0]`` times ``classes[0]``, ``parts[1]``
        times ``classes[1]``, ... at the seed's remainder by their sum; empty without classes
    names : of the model's classes, () where it has none
    """

    n: int
    seed: int = 0
    classes: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, dataset: DatasetSpec, n_classes: int, names: tuple[str, ...] = ()) -> SampledSource:
        """The source of a specification. Raises SpecError for labels that the model has not.

        n_classes, names : of the generator's classes, 0 and () where it has none
        """
        if dataset.n is None:
            raise SpecError("'dataset.n' is missing: add it (number of rows to draw)")
        wanted = dataset.labels
        if not n_classes:
            if wanted is not None:
                raise SpecError(
                    f"'dataset.labels' is {wanted!r}, but the generator has no classes: leave it "
                    "out"
                )
            return cls(dataset.n, dataset.seed)
        parts: dict[str, int] = {}
        if isinstance(wanted, dict):
            parts = wanted
        elif wanted is not None and wanted != IN_TURN:
            parts = dict.fromkeys([wanted] if isinstance(wanted, str) else wanted, 1)
        found = {name: class_number(name, n_classes, names) for name in parts}
        unknown = [name for name, number in found.items() if number is None]
        if unknown:
            known = f"0 to {n_classes - 1}" + (f", {', '.join(names[:6])}, ..." if names else "")
            raise SpecError(
                f"'dataset.labels' names {unknown!r}, but the generator's {n_classes} classes are "
                f"{known}: name some of these, or leave it out for all classes in turn"
            )
        numbers = tuple(number for number in found.values() if number is not None)
        if not numbers:
            return cls(dataset.n, dataset.seed, tuple(range(n_classes)), (1,) * n_classes, names)
        common = math.gcd(*parts.values())
        shares = tuple(part // common for part in parts.values())
        return cls(dataset.n, dataset.seed, numbers, shares, names)

    @property
    def root(self) -> str:
        """No folder: what uris are relative to."""
        return "/"

    def list(self) -> Listing:
        """All rows, in the order of their seeds."""
        listing = Listing(columns=(LABEL,) if self.classes else ())
        seeds = range(self.seed, self.seed + self.n)
        if not self.classes:
            listing.items = [Item(f"{SEED_UNIT}{s}", str(s), image_id=row_id(s)) for s in seeds]
            return listing
        ends = list(itertools.accumulate(self.parts))
        for seed in seeds:
            number = self.classes[bisect.bisect_right(ends, seed % ends[-1])]
            level = self.names[number] if self.names else number
            row = row_id(seed, number)
            listing.items.append(Item(f"{SEED_UNIT}{seed}", str(seed), None, {LABEL: level}, row))
        return listing

    def read(self, uri: str) -> bytes:
        """Raises InputError: there is no file."""
        raise InputError(f"row {uri!r} is drawn from the generator, it has no image file")

    def local_path(self, uri: str) -> Path | None:
        """None: there is no file."""
        return None


def row_id(seed: int, number: int | None = None) -> str:
    """``image_id`` of the row with this seed and class number, 64 hex digits."""
    # as `schemas.fingerprint.digest` of the list, which takes ten times as long
    last = "null" if number is None else number
    return hashlib.sha256(f'["latentflow sampled row",{seed},{last}]'.encode()).hexdigest()


def seed_of(uri: str) -> int:
    """The seed of a sampled row. Raises InputError for a uri of another kind of dataset."""
    before, unit, digits = uri.partition(SEED_UNIT)
    if before or not unit or not digits.isdigit():
        raise InputError(f"uri {uri!r} is not of the form '{SEED_UNIT}<number>': index again")
    return int(digits)
