"""Two finished runs side by side: their parts, the images that both hold, and how their spaces
are linked."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from pydantic import ValidationError

import generators
from pipelines.folder.run_folder import no_run
from pipelines.folder.specification import load_run_spec, removed
from schemas.directions.direction_set import DirectionSet
from schemas.errors import DirectionMismatchError, InputError, LatentflowError, StoreError
from schemas.index import DatasetIndex
from schemas.spec import RunSpec
from schemas.spec_models import trusted
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Status
from transforms.accumulate.blocks import Arrays, sum_blocks
from transforms.accumulate.moments import Moments
from transforms.accumulate.paired import PairedBlocks, image_part, pair_rows
from transforms.accumulate.passes import PassRequest
from transforms.accumulate.requests import JointMoments
from transforms.accumulate.sources import SelectBlocks, StoreBlocks
from transforms.drift.latent_maps import MapChoice, choose_map

MIN_PAIRS = 10
"""Fewer images in both runs link no spaces."""
MAX_WIDTH = 8192
"""Coordinates of old and new codes together, where no layer corresponds to a layer."""
HELD_OUT_PART = 0
"""The fifth of the images (`image_part`) on which maps are measured and not fitted."""


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """What one side of a comparison stored.

    path : the run folder. generator_uri : of the very generator that the directions were made for,
        None where it is not available, which ``generator_absent`` explains.
    """

    path: Path
    spec: RunSpec
    index: DatasetIndex
    store: LatentStore
    directions: DirectionSet
    generator_uri: generators.Source | None
    generator_absent: str = ""

    def trusting(self, trust: bool) -> Self:
        """The same, whose generator's code may be run where `trust` says so."""
        if not trust or self.generator_uri is None:
            return self
        return replace(self, generator_uri=trusted(self.generator_uri))

    @classmethod
    def open(cls, path: str | Path, generator: str | None = None) -> ComparedRun:
        """Open a run by its specification, its folder, or one direction set of its folder.

        A run whose generator was changed has a direction set for each, beside one another:
        ``<run>/directions/<store>`` names the older one.
        generator : file or bundled name, where the specification no longer names the generator
            that the directions were made for.

        Raises InputError for anything else, StoreError where a part is missing, and
        DirectionMismatchError when ``generator`` is not the one of the directions.
        """
        path = Path(path)
        folder, store_name = _locate(path)
        try:
            facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            spec = RunSpec.model_validate(facts["spec"])
        except FileNotFoundError as e:
            raise InputError(no_run(folder)) from e
        except (OSError, ValueError, KeyError, TypeError) as e:
            if isinstance(e, ValidationError) and (gone := removed(facts)):
                raise InputError(f"the run in {str(folder)!r} {gone}") from e
            raise InputError(
                f"{str(folder)!r} has no readable 'run.json' with a specification: {e}; give a "
                "finished run, or run it again"
            ) from e
        if store_name is None:
            if not facts.get("directions"):
                raise StoreError(
                    f"run {spec.name!r} did not get as far as directions; run it first with "
                    "'latentflow run'"
                )
            store_name = Path(str(facts["directions"])).name
        directions = DirectionSet.load(folder / "directions" / store_name)
        store = LatentStore.open(folder / "stores" / store_name)
        if store.attrs["generator_fp"] != directions.generator_fp:
            raise DirectionMismatchError(
                f"directions {str(directions.path)!r} were made for generator "
                f"{directions.generator_fp!r}, the codes beside them are of "
                f"{store.attrs['generator_fp']!r}; run the specification again"
            )
        index = DatasetIndex.load(folder / "index.parquet")
        uri, absent = _generator(generator, spec.generator, directions.generator_fp)
        return cls(folder, spec, index, store, directions, uri, absent)

    @property
    def space(self) -> str:
        """Of the directions."""
        return self.directions.space

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Of one row's code."""
        return tuple(self.store.array(f"latents/{self.space}").shape[1:])

    def ok(self) -> np.ndarray:
        """Bool (index rows,): rows that have a code."""
        found = np.zeros(self.index.n_rows, bool)
        status = self.store.status("invert")[: self.index.n_rows]
        found[: len(status)] = status == Status.OK
        return found

    def blocks(self, layers: tuple[int, int] | None = None) -> SelectBlocks:
        """Codes of the rows that are OK, as ``x``."""
        array = f"latents/{self.space}"
        return SelectBlocks(
            StoreBlocks(self.store.path, (array,), ("invert",), layers=layers), {"x": array}
        )

    def facts(self) -> dict[str, Any]:
        """Who it is, for tables and files; no path of this machine."""
        return {
            "name": self.spec.name,
            "generator_fp": self.directions.generator_fp,
            "store": Path(self.store.path).name,
            "space": self.space,
            "code_shape": list(self.code_shape),
            "images": int(self.ok().sum()),
            "directions": len(self.directions),
            "generator_absent": self.generator_absent,
        }


def _locate(path: Path) -> tuple[Path, str | None]:
    """(run folder, name of the store, where a direction set names it)."""
    if path.is_file():
        return Path(load_run_spec(path).output_path), None
    if (path / "run.json").is_file():
        return path, None
    folder = path.absolute().parent.parent
    if path.absolute().parent.name == "directions" and (folder / "run.json").is_file():
        return folder, path.name
    raise InputError(
        f"{str(path)!r} is neither a specification, nor a run folder with a 'run.json', nor a "
        "direction set '<run>/directions/<store>': give one of these"
    )


def _generator(
    given: str | None, named: generators.Source, fingerprint: str
) -> tuple[generators.Source | None, str]:
    try:
        source = named if given is None else generators.like(given, named)
        found = generators.fingerprint(source)
    except LatentflowError as e:
        if given is not None:
            raise
        return None, f"the generator that the run names cannot be read ({e.kind})"
    if found == fingerprint:
        return source, ""
    if given is not None:
        raise DirectionMismatchError(
            f"generator {given!r} is {found!r}, the directions were made for {fingerprint!r}; "
            "give the file that they were made for, or leave it out"
        )
    return None, f"the run names a generator {found[:12]} now, the directions are of another"


class MomentsRequest(PassRequest, Protocol):
    """A request for `Moments`."""

    def statistic(self, prepared: Arrays) -> Moments:
        """`Moments` of the block."""
        ...


@dataclass(frozen=True, eq=False)
class Pairs:
    """The images that both runs hold.

    partner : int64 (new rows,), the old row of each, -1 for none
    held_out : bool (new rows,), pairs that maps are measured on
    """

    old: ComparedRun
    new: ComparedRun
    partner: np.ndarray
    held_out: np.ndarray

    @classmethod
    def of(cls, old: ComparedRun, new: ComparedRun) -> Pairs:
        """Pair the rows that have codes in both stores by their image."""
        partner = pair_rows(old.index.image_ids, new.index.image_ids)
        usable = (partner >= 0) & new.ok()
        usable[usable] = old.ok()[partner[usable]]
        partner = np.where(usable, partner, -1)
        return cls(old, new, partner, image_part(new.index.image_ids) == HELD_OUT_PART)

    @property
    def rows(self) -> np.ndarray:
        """New rows that have a partner, ascending."""
        return np.flatnonzero(self.partner >= 0)

    def sum(
        self, request: MomentsRequest, held_out: bool, layers: tuple[int, int] | None = None
    ) -> Moments:
        """A statistic of the pairs, block by block: those held out, or the others."""
        source = PairedBlocks(
            self.old.blocks(layers),
            self.new.blocks(layers),
            self.old.store.block_rows,
            self.partner,
            self.held_out if held_out else ~self.held_out,
        )

        def statistic(block: int) -> Moments:
            return request.statistic(request.prepare(source.read(block)[1]))

        return sum_blocks(source.n_blocks, statistic)

    def link(self) -> tuple[MapChoice | None, str]:
        """(the map from old to new codes and its errors, why there is none)."""
        x_shape, y_shape = self.old.code_shape, self.new.code_shape
        layered = len(x_shape) == len(y_shape) == 2 and x_shape[0] == y_shape[0]
        width = int(np.prod(x_shape) + np.prod(y_shape))
        n_held = int((self.held_out & (self.partner >= 0)).sum())
        if len(self.rows) < MIN_PAIRS or n_held < 2 or len(self.rows) - n_held < 2:
            return None, f"{len(self.rows)} images are in both runs, too few to link their spaces"
        if not layered and width > MAX_WIDTH:
            return None, f"codes of shapes {x_shape!r} and {y_shape!r} share no layers"
        slabs = [(i, i + 1) for i in range(x_shape[0])] if layered else [None]
        fitted = [self.sum(JointMoments(), False, layers) for layers in slabs]
        held = [self.sum(JointMoments(), True, layers) for layers in slabs]
        return choose_map(fitted, held, x_shape, y_shape), ""
