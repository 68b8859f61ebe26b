"""What a file or store is, in a few lines. Nothing in it is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schemas.directions import DirectionSet
from schemas.errors import InputError, LatentflowError
from schemas.index import DatasetIndex
from schemas.reasons import Status
from schemas.store import LatentStore


def describe(path: Path) -> dict[str, Any]:
    """Facts about an index, a store, a direction set, a checkpoint or an encoder, name -> value.

    Raises InputError when it is none of these, and the reader's own error when it is damaged.
    """
    if not path.exists():
        from generators.file_kinds import missing

        raise InputError(missing(path, "path"))
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".parquet":
        return _index(path)
    return _checkpoint(path)


def _folder(path: Path) -> dict[str, Any]:
    if (path / "run.json").exists():
        from pipelines.run_folder import RunFolder

        with RunFolder.open(path) as run:
            facts = {"kind": "run folder", "name": run.run.get("name", "")}
            facts["exit code"] = run.run.get("exit_code")
            facts["stages"] = ", ".join(s["name"] for s in run.run.get("stages", []))
            for part in ("index", "store", "directions"):
                facts[part] = run.run.get(part, run.absent.get(part, ""))
            return facts
    problems = []
    for read in (_store, _directions):
        try:
            return read(path)
        except LatentflowError as e:
            problems.append(str(e))
    from generators.file_kinds import checkpoints_in

    raise InputError(
        f"{str(path)!r} is neither a latent store nor a direction set nor a run folder: "
        + "; ".join(
            [*problems, *(f"it holds {name!r}: inspect that" for name in checkpoints_in(path)[:1])]
        )
    )


def _index(path: Path) -> dict[str, Any]:
    index = DatasetIndex.load(path)
    facts: dict[str, Any] = {
        "kind": "dataset index",
        "rows": index.n_rows,
        "active": int(index.active.sum()),
    }
    for name, info in index.factors.items():
        levels = f", {len(info.categories)} levels" if info.categories else ""
        facts[f"factor {name}"] = info.kind + levels
    return facts


def _store(path: Path) -> dict[str, Any]:
    store = LatentStore.open(path)
    facts: dict[str, Any] = {
        "kind": "latent store",
        "fingerprint": store.store_fp,
        "generator": store.attrs.get("generator_fp"),
        "method": store.attrs.get("method"),
        **{f"generator {k}": v for k, v in store.attrs.get("generator_assumed", {}).items()},
        "rows": store.n_rows,
        "blocks": f"{store.n_blocks} of {store.block_rows} rows",
    }
    for stage in store.stages():
        status = store.status(stage)
        counts = {s.name.lower(): int((status == s).sum()) for s in Status}
        facts[f"stage {stage}"] = ", ".join(f"{n} {k}" for k, n in counts.items() if n)
        for name in store.arrays(stage):
            array = store.array(name)
            facts[f"  {name}"] = f"{array.dtype} {tuple(array.shape)}"
    return facts


def _directions(path: Path) -> dict[str, Any]:
    found = DirectionSet.load(path)
    facts: dict[str, Any] = {
        "kind": "direction set",
        "generator": found.generator_fp,
        "space": found.space,
        "models": ", ".join(found.model_names()),
    }
    for direction in found:
        target = direction.provenance.get("target") or "-"
        facts[direction.name] = f"{direction.method}, sd {direction.sd:.4g}, target {target}"
    return facts


def _checkpoint(path: Path) -> dict[str, Any]:
    from generators.checkpoints import assumptions, read_checkpoint
    from generators.encoder_files import is_encoder, read_encoder

    if is_encoder(path):
        encoder = read_encoder(str(path))
        described = {f"  {k}": v for k, v in encoder.architecture.items()}
        return {"kind": "encoder", "fingerprint": encoder.fingerprint, **described}
    found = read_checkpoint(path)
    facts = {"kind": "generator checkpoint", "fingerprint": found.fingerprint}
    facts |= {key: found.metadata[key] for key in ("source", "entry") if key in found.metadata}
    if found.w_avg_estimated:
        facts["w_avg"] = "not in the file: estimated"
    told = assumptions(found)
    architecture = {f"  {k}": told.get(k, v) for k, v in found.architecture.items()}
    return {**facts, **architecture}
