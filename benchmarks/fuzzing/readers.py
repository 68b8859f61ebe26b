"""What a user does with a file of each kind, through the functions that the commands call.

A reader runs in a folder of its own, with the files in ``in/``. It returns how the file was taken
and raises the product's own errors for one that is refused. `first` is the check of format alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.fuzzing import data, models
from benchmarks.fuzzing.seeds import Seed

OK, REFUSED, QUARANTINED = "ok", "refused", "quarantined"
INPUT, OUTPUT = Path("in"), Path("out")


@dataclass(frozen=True)
class Case:
    """A file to read. world : folder of what the kind's readers share."""

    format: str
    path: Path
    world: Path


@dataclass(frozen=True)
class Kind:
    """seeds : makes the valid files. first : raises where not even the format is right.
    steps : what is done with the file, each of which may refuse it or return an outcome."""

    seeds: Callable[[Path], list[Seed]]
    first: Callable[[Case], Any]
    steps: tuple[Callable[[Case], str | None], ...]


class UnsoundError(Exception):
    """A result that was accepted and is not what it says."""


def sound(condition: Any, text: str) -> None:
    """Raise UnsoundError where a result is not what it should be."""
    if not condition:
        raise UnsoundError(text)


# ---- pictures and tables -------------------------------------------------------------------------


def _index(dataset: Any) -> str:
    from pipelines.sources.base import read_checked
    from pipelines.sources.open import open_source
    from pipelines.stages.index import build_index
    from transforms.images.preprocess import decode, fit
    from transforms.images.quarantine import Quarantine

    path = OUTPUT / "index.parquet"
    build_index(dataset, path, threads=1)
    index, report = build_index(dataset, path, threads=1)  # the file that was written
    sound(not (report.added or report.removed or report.moved), "a second index differs")
    json.dumps(report.to_dict(20))
    index.decoded()
    for name in index.factor_names:
        index.factor(name)
        index.factor_fp(name)
    outcome, source = OK, open_source(dataset)
    for row in range(index.n_rows):
        try:
            pixels = decode(read_checked(source, index.uris[row], index.image_ids[row]))
            picture = fit(pixels, 16)
            sound(picture.shape == (16, 16, 3) and picture.dtype == np.uint8, str(picture.shape))
            size = tuple(index.sizes[row].tolist())
            sound(size == pixels.shape[1::-1], f"header says {size}, picture {pixels.shape}")
        except Quarantine:
            outcome = QUARANTINED
    return outcome


def _folder(case: Case) -> Any:
    from schemas.spec import DatasetSpec

    return DatasetSpec.model_validate(
        {"path": str(INPUT), "pattern": "*"}, context={"base": Path.cwd()}
    )


def _header(case: Case) -> None:
    from transforms.images.preprocess import probe

    with case.path.open("rb") as file:
        probe(file)


def _dataset(case: Case) -> Any:
    from schemas.spec import DatasetSpec

    keys = json.loads((INPUT / "dataset.json").read_bytes())
    return DatasetSpec.model_validate(keys, context={"base": INPUT.absolute()})


def _table(case: Case) -> None:
    from pipelines.sources.factor_tables import read_factor_table
    from pipelines.sources.open import open_source

    dataset = _dataset(case)
    if dataset.factors is not None:
        read_factor_table(dataset)
    elif not open_source(dataset).list().items:
        raise ValueError("no pictures")


# ---- specifications ------------------------------------------------------------------------------


def _mapping(case: Case) -> None:
    import yaml

    sound(isinstance(yaml.safe_load(case.path.read_bytes()), dict), "no mapping")


def _plan(case: Case) -> None:
    from rich.console import Console

    from pipelines.runs.plan import plan
    from schemas.spec import RunSpec, load_spec

    spec = load_spec(case.path)
    again = RunSpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json"))))
    sound(again == spec, "the specification that run.json holds differs")
    plan(spec, Console(file=io.StringIO()))


# ---- models --------------------------------------------------------------------------------------


def _model_and_card(case: Case) -> None:
    import onnx

    sound(isinstance(json.loads(case.path.with_suffix(".json").read_bytes()), dict), "no mapping")
    onnx.load_model_from_string(case.path.read_bytes())


def _annotate(case: Case) -> None:
    from generators.annotators import load_annotator

    annotator = load_annotator(str(case.path))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    found = annotator.predict(pictures)
    sound(found.values.shape == (2, *annotator.card.row_shape), str(found.values.shape))
    sound(found.values.dtype == np.float32, str(found.values.dtype))
    sound(found.reasons.shape == (2,) and found.reasons.dtype == np.uint8, str(found.reasons))
    json.dumps(annotator.card.identity())


def _contents(case: Case) -> None:
    from generators.unpickle.torch_files import read_any

    for path in INPUT.iterdir():
        if path.suffix == ".safetensors":
            contents = path.read_bytes()
            size = int.from_bytes(contents[:8], "little")
            sound(isinstance(json.loads(contents[8 : 8 + size]), dict), "no mapping")
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        else:
            read_any(path)


def _inspect(case: Case) -> None:
    from pipelines.upkeep.inspect import describe

    if case.format != "encoder":
        for key, value in describe(case.path).items():
            str(key), str(value)


def _draw(case: Case) -> None:
    import torch

    import generators
    from generators.encoders.load import load_encoder
    from transforms.images.preprocess import to_uint8

    pictures = torch.zeros(2, 3, 16, 16)
    with torch.no_grad():
        if case.format == "encoder":
            encoder = load_encoder(str(case.path))
            side = encoder.size[0]
            codes = encoder.encode(torch.zeros(2, 3, side, side) if side <= 64 else pictures)
            sound(codes.shape == (2, *encoder.spaces["w_plus"]), str(codes.shape))
            sound(len(encoder.fingerprint) == 64, encoder.fingerprint)
            return
        model = generators.load(case.path)
        sound(model.fingerprint == generators.fingerprint(case.path), "fingerprints")
        drawn = model.draw(model.sample(model.facts.default_space, [1]))
    sound(drawn.shape[2:] == model.facts.size, str(drawn.shape))
    to_uint8(drawn.expand(1, 3, -1, -1).numpy())  # refuses what is not finite


# ---- directions ----------------------------------------------------------------------------------


def _foreign(case: Case) -> None:
    from generators.unpickle.plain import read_foreign

    read_foreign(case.path)


def _import(case: Case) -> None:
    from generators.peers.directions import read_directions
    from generators.peers.models import read_rankonegan, read_styleclip
    from pipelines.downstream.directions import import_directions
    from schemas.directions.direction_set import DirectionSet
    from schemas.store.latent_store import LatentStore

    if case.format == "rankonegan":
        read_rankonegan(case.path)
        return
    if case.format == "styleclip":
        np.save("fs3.npy", np.ones((6, 4)))
        read_styleclip("fs3.npy", case.path)
        return
    fp, path = models.GENERATOR_FP, str(OUTPUT / "directions")
    if case.format.startswith("h_") or case.format == "asyrp":
        own = DirectionSet(fp, "h", read_directions(case.path, space="h", generator_fp=fp))
        own.save(path)
    else:
        own = DirectionSet(fp, "w_plus")
        own.save(path)
        run: Any = SimpleNamespace(directions=own, store=LatentStore.open(case.world / "store"))
        import_directions(run, case.path, "w_plus", fp)
    found = DirectionSet.load(path)
    sound(found.names() == own.names() and len(found), f"saved {own.names()}, read {found.names()}")
    for direction in found:
        sound(np.isfinite(direction.vector).all(), f"{direction.name!r} is not finite")


# ---- stores --------------------------------------------------------------------------------------


def _metadata(case: Case) -> None:
    if case.path.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.read_table(case.path)
    elif case.path.suffix == ".npz":
        with np.load(case.path, allow_pickle=False) as arrays:
            sound(arrays.files, "no arrays")
    else:
        for path in case.path.parent.rglob("zarr.json"):
            sound(isinstance(json.loads(path.read_bytes()), dict), "no mapping")


def _read_store(case: Case) -> str | None:
    from pipelines.engine.saved_sums import StatisticFolder
    from schemas.directions.direction_set import DirectionSet
    from schemas.index import DatasetIndex
    from schemas.store.latent_store import LatentStore
    from transforms.accumulate.moments import Moments

    if case.format == "index":
        index = DatasetIndex.load(case.path)
        index.decoded()
        for name in index.factor_names:
            index.factor(name)
        index.save(OUTPUT / "index.parquet")
        sound(DatasetIndex.load(OUTPUT / "index.parquet").equals(index), "it is read otherwise")
    elif case.format == "statistics":
        found = StatisticFolder(INPUT).load(case.path.stem)
        if found is None:
            return REFUSED
        sound(isinstance(found, Moments), "another statistic")
    elif case.format == "direction set":
        directions = DirectionSet.load(case.path.parent)
        for name in directions.model_names():
            directions.load_model(name)
        directions.save(OUTPUT / "again")
    else:
        store = LatentStore.open(case.path.parent)
        for stage in store.stages():
            store.contents(stage)
            for block in range(min(store.n_blocks, 50)):
                rows = store.ok_rows(store.arrays(stage), block, [stage])
                counted = len(rows.rows) + sum(rows.left_out.values())
                slice_ = store.block_slice(block)
                sound(counted == slice_.stop - slice_.start, "a row is neither read nor left out")
    return None


def _inspect_store(case: Case) -> None:
    from pipelines.upkeep.inspect import describe

    if case.format != "statistics":
        folder = case.path.name == "zarr.json"
        for key, value in describe(case.path.parent if folder else case.path).items():
            str(key), str(value)


def _verify(case: Case) -> str | None:
    from pipelines.upkeep.verify import verify

    if case.path.name != "zarr.json":
        return None
    found = verify(case.path.parent)
    json.dumps(found.to_dict())
    return None if found.ok else REFUSED


KINDS = {
    "images": Kind(data.images, _header, (lambda case: _index(_folder(case)),)),
    "tables": Kind(data.tables, _table, (lambda case: _index(_dataset(case)),)),
    "specifications": Kind(data.specifications, _mapping, (_plan,)),
    "cards": Kind(models.cards, _model_and_card, (_annotate,)),
    "checkpoints": Kind(models.checkpoints, _contents, (_inspect, _draw)),
    "directions": Kind(models.directions, _foreign, (_import,)),
    "stores": Kind(data.stores, _metadata, (_inspect_store, _read_store, _verify)),
}
