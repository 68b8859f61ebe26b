"""What a run would do, told before anything is done. Writes nothing; imports no heavy library."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.tree import Tree

from pipelines.analyse import requested, stale
from pipelines.annotate import plan_annotate, stages_of
from pipelines.index import update_index
from pipelines.invert import StoreIdentity, identify, plan_invert
from pipelines.sources import open_source
from schemas.errors import StoreError
from schemas.fingerprint import ContentHashCache
from schemas.index import DatasetIndex
from schemas.spec import RunSpec
from schemas.store import LatentStore


def plan(spec: RunSpec, console: Console) -> None:
    """Print the stages as a tree: what is current, what is stale or missing, what it will cost.

    Time is estimated from the last run's seconds a row, where there was one.
    """
    out = Path(spec.output_path)
    tree = Tree(f"{spec.name}  ({out})")
    index = _index(spec, out, tree)
    identity = identify(
        out / "stores",
        spec.invert,
        name=spec.name,
        seed=spec.seed,
        generator_uri=spec.generator,
        encoder_uri=spec.encoder,
    )
    rates = _rates(out)
    store = _invert(spec, index, identity, rates, tree)
    _annotate(spec, index, store, rates, tree)
    _analyse(spec, index, store, out, tree)
    console.print(tree, markup=False)


def _index(spec: RunSpec, out: Path, tree: Tree) -> DatasetIndex:
    path = out / "index.parquet"
    existing = DatasetIndex.load(path) if path.exists() else DatasetIndex.empty()
    source = open_source(spec.dataset)
    if out.exists():
        with ContentHashCache(out / "hashes.sqlite") as cache:
            index, report = update_index(
                existing, source, spec.dataset, max_pixels=spec.invert.max_pixels, cache=cache
            )
    else:
        index, report = update_index(
            existing, source, spec.dataset, max_pixels=spec.invert.max_pixels
        )
    changes = f"{report.added} new, {report.removed} gone, {report.moved} moved"
    state = "missing" if not path.exists() else "stale" if report.added else "current"
    node = tree.add(f"index: {state}: {report.n_active} images ({changes})")
    if report.unreadable:
        node.add(f"{len(report.unreadable)} files will be quarantined")
    return index


def _invert(
    spec: RunSpec,
    index: DatasetIndex,
    identity: StoreIdentity,
    rates: dict[str, float],
    tree: Tree,
) -> LatentStore | None:
    wanted = plan_invert(index, identity, spec.invert.max_pixels)
    rows = sum(len(work) for work in wanted.work)
    size = rows * sum(array.row_bytes for array in identity.arrays)
    exists = Path(identity.path, "zarr.json").exists()
    state = "current" if not rows else "stale" if exists else "missing"
    node = tree.add(f"invert: {state}: {len(wanted.work)} of {wanted.n_blocks} blocks to make")
    node.add(f"store {identity.path}")
    node.add(f"method {spec.invert.method} into {spec.invert.space}")
    if rows:
        node.add(
            f"{rows} rows, about {decimal(size)} before compression{_time(rows, rates, 'invert')}"
        )
    return LatentStore.open(identity.path) if exists else None


def _annotate(
    spec: RunSpec,
    index: DatasetIndex,
    store: LatentStore | None,
    rates: dict[str, float],
    tree: Tree,
) -> None:
    stages = stages_of(spec.annotate, trust=True)
    node = tree.add("annotate" if stages else "annotate: nothing asked for")
    if store is None or store.n_rows < index.n_rows:
        for stage in stages:
            node.add(f"{stage.name}: waits for invert{_time(index.n_rows, rates, 'annotate')}")
        return
    wanted = plan_annotate(index, store, stages, spec.invert.max_pixels)
    for stage in stages:
        blocks = [w for w in wanted.work if stage.name in w.stages]
        state = "current" if not blocks else "to make"
        node.add(f"{stage.name}: {state}: {len(blocks)} of {wanted.n_blocks} blocks")


def _analyse(
    spec: RunSpec, index: DatasetIndex, store: LatentStore | None, out: Path, tree: Tree
) -> None:
    names = requested(spec)
    node = tree.add("analyse" if names else "analyse: nothing asked for")
    todo: dict[str, str] = dict.fromkeys(names, "")
    if store is not None and set(store.stages()) >= {
        s.name for s in stages_of(spec.annotate, True)
    }:
        path = out / "directions" / Path(store.path).name
        todo = stale(spec, store, index, path)
    for name in names:
        node.add(f"{name}: {'to make' if name in todo else 'current'}")


def _rates(out: Path) -> dict[str, float]:
    """Seconds a row of the last run's stages that did something."""
    try:
        stages = json.loads((out / "run.json").read_text())["stages"]
    except (OSError, ValueError, KeyError, StoreError):
        return {}
    return {s["name"]: s["seconds"] / s["rows"] for s in stages if s["rows"] and not s["skipped"]}


def _time(rows: int, rates: dict[str, float], stage: str) -> str:
    if stage not in rates:
        return ""
    return f", about {rows * rates[stage] / 60:.1f} min at the last run's rate"
