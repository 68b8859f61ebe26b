"""What a file or store is, in a few lines, and where it is used. Nothing in it is executed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.sources.base import RUN_FILES
from pipelines.sources.paths import IMAGE_ENDINGS, kind_of, suffix
from schemas.directions.direction_set import DirectionSet
from schemas.errors import CheckpointError, InputError, LatentflowError, UnsafeCheckpointError
from schemas.index import DatasetIndex
from schemas.sections.dataset import KIND_OF_ENDING
from schemas.spec import DatasetSpec
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Status

if TYPE_CHECKING:
    from generators.encoders.base import EncoderCheckpoint
    from generators.peers.base import DirectionFormat, LatentFormat

_GIVE = (
    "'latentflow inspect' describes an index, a store, a direction set, a checkpoint, an encoder, "
    "an annotator, a file of directions, a table or a dataset"
)
_TABLE = "under 'dataset.factors' of a specification"
_DIRECTIONS = "latentflow import SPEC FILE --space SPACE --generator GENERATOR"
_TABLES = (".csv", ".tsv", ".tab", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".pq")
_LISTED = 10_000
"""Files of a folder that are looked at."""
_SHOWN = 50
"""Directions of a file that are named."""


def describe(path: Path) -> dict[str, Any]:
    """Facts about a file or folder of any kind that latentflow reads or writes, name -> value.

    "used", where it is there, says what takes it. Raises InputError when it is none of these, and
    the reader's own error when it is damaged.
    """
    if not path.exists():
        from generators.file_kinds import missing

        raise InputError(missing(path, "path"))
    if path.is_dir():
        return _folder(path)
    return _by_ending(path) or _model(path)


def _by_ending(path: Path) -> dict[str, Any] | None:
    """Facts about a file of a kind that its ending tells; None where only its contents do."""
    from generators.annotators.card import ONNX_ENDINGS

    ending = suffix(path.name)
    if KIND_OF_ENDING.get(ending) == "parquet" and _is_index(path):
        return _index(path)
    if ending in ONNX_ENDINGS:
        return _program(path, "ONNX model")
    if ending in IMAGE_ENDINGS:
        return {"kind": "image", "used": "the folder it lies in, as 'dataset.path'"}
    if ending in (".html", ".htm"):
        return {"kind": "web page", "used": "open it in a browser"}
    if ending in (".yaml", ".yml"):
        return {"kind": "specification", "used": "latentflow plan SPEC, latentflow run SPEC"}
    if ending in _TABLES and (table := _table(path)):
        return table
    if ending in KIND_OF_ENDING and ending not in _TABLES:
        return _dataset(KIND_OF_ENDING[ending], ending)
    return None


def _is_index(path: Path) -> bool:
    try:
        DatasetIndex.load(path)
    except LatentflowError as e:
        return "not a dataset index" not in str(e)
    return True


def _dataset(kind: str, ending: str, of: str = "file") -> dict[str, Any]:
    used = f"as 'dataset.path', with 'kind: {kind}'"
    return {"kind": f"{ending} {of}, a dataset if it holds images", "used": used}


def _table(path: Path) -> dict[str, Any] | None:
    from pipelines.sources.factor_tables import read_factor_table

    try:
        table = read_factor_table(DatasetSpec(path=str(path.parent), factors=str(path)))
    except LatentflowError:
        return None
    rows = max(map(len, table.columns.values()), default=0)
    if rows == 0 or (rows == 1 and suffix(path.name) == ".json"):
        return None
    used = _TABLE
    if KIND_OF_ENDING.get(suffix(path.name)) == "parquet":
        used += "; if it holds the images themselves, as 'dataset.path', with 'kind: parquet'"
    return {"kind": "table", "used": used, "rows": rows, "columns": ", ".join(table.columns)}


def _folder(path: Path) -> dict[str, Any]:
    from generators.model_folder import weights_of
    from pipelines.folder.run_folder import RunFolder, no_run

    if (path / "run.json").exists():
        with RunFolder.open(path) as run:
            facts = {"kind": "run folder", "name": run.run.get("name", "")}
            facts["exit code"] = run.run.get("exit_code")
            facts["stages"] = ", ".join(s["name"] for s in run.run.get("stages", []))
            for part in ("index", "store", "directions"):
                facts[part] = run.run.get(part, run.absent.get(part, ""))
            return facts
    if (path / "zarr.json").exists():
        problems = []
        for read in (_store, _directions):
            try:
                return read(path)
            except LatentflowError as e:
                problems.append(str(e))
        raise InputError(
            f"{str(path)!r} is neither a latent store nor a direction set: {'; '.join(problems)}"
        )
    if any((path / name).exists() for name in RUN_FILES):
        raise InputError(no_run(path))
    return _files(path) if weights_of(path) is None else _checkpoint(path)


def _files(path: Path) -> dict[str, Any]:
    """Facts about a folder that is not ours: a dataset, if most of its files can be one."""
    from generators.file_kinds import checkpoints_in

    walked = (Path(where, name) for where, _, names in os.walk(path) for name in names)
    found = sorted(islice(walked, _LISTED))
    counts = Counter(kind_of(file.name) for file in found)
    images = sum(counts[ending] for ending in IMAGE_ENDINGS)
    holders = [ending for ending in counts if ending in KIND_OF_ENDING]
    if images:
        return {"kind": "folder of images", "used": "as 'dataset.path' of a specification"}
    stores = sorted(group.parent.name for group in path.glob("*/zarr.json"))
    if inner := [*checkpoints_in(path), *stores]:
        raise InputError(f"{str(path)!r} is a folder: it holds {inner[0]!r}: inspect that")
    if holders:
        ending = max(holders, key=lambda ending: counts[ending])
        return _dataset(KIND_OF_ENDING[ending], ending, "folder")
    such = f"it holds {str(found[0].relative_to(path))!r}: inspect that" if found else "it is empty"
    raise InputError(f"{str(path)!r} is a folder without images: {such}; {_GIVE}")


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
        space = f", space {direction.space}" if direction.space != found.space else ""
        facts[direction.name] = (
            f"{direction.method}, sd {direction.sd:.4g}, target {target}{space}"
            f"{_measured(direction.quality)}"
        )
    return facts


def _measured(quality: Mapping[str, Any]) -> str:
    """How well a direction predicts what it was fitted to: on held-out rows where it was tried."""
    shown = ""
    for key, word in (("r2", "R2"), ("auc", "AUC"), ("accuracy", "accuracy")):
        for among, words in (("held_out_", "held-out "), ("", "")):
            value = quality.get(among + key)
            if isinstance(value, float):
                shown += f", {words}{word} {value:.3f}"
                break
    return shown


def _model(path: Path) -> dict[str, Any]:
    """A checkpoint, an encoder, a TorchScript annotator or a file of directions, by its contents.

    Raises InputError for a file of another kind, naming it, and the reader's own error for a
    damaged or unsafe one.
    """
    from generators.exported import is_exported
    from generators.file_kinds import is_torchscript, other_kind, said_of

    if is_torchscript(path):
        return _program(path, "TorchScript model")
    if is_exported(path):
        return _program(path, "torch.export archive")
    try:
        return _checkpoint(path)
    except UnsafeCheckpointError:
        raise
    except CheckpointError:
        if found := _peer_file(path):
            return found
        if kind := other_kind(path, _GIVE):
            raise InputError(said_of(path, kind)) from None
        raise


def _program(path: Path, kind: str) -> dict[str, Any]:
    """A network as a program: a generator, where a JSON beside it describes one; else what it is
    of use for, and what would have to be said of it."""
    try:
        return _checkpoint(path)
    except UnsafeCheckpointError:
        raise
    except CheckpointError as e:
        used = {
            "ONNX model": "under 'annotate[].model' of a specification",
            "TorchScript model": "under 'annotate[].model', with --trust",
        }.get(kind)
        facts = {"kind": kind, "used": used} if used else {"kind": kind}
        return {**facts, "as a generator": str(e).removeprefix(f"{str(path)!r} ")}


def _peer_file(path: Path) -> dict[str, Any] | None:
    """A file of directions or of codes of any project; None for what is neither."""
    from generators.peers.base import Evidence
    from generators.peers.catalog import claims, direction_formats, latent_formats
    from generators.unpickle.plain import read_foreign

    try:
        contents = read_foreign(path)
    except LatentflowError:
        return None
    directions, inner = claims(contents, direction_formats("w_plus"))
    codes, codes_inner = claims(contents, latent_formats())
    least = Evidence.KEYS if directions else Evidence.SHAPES
    if codes and (codes[0].evidence or Evidence.NUMBERS) >= least:
        shape = codes[0].read(codes_inner, path)[0].shape
        return {"kind": "file of codes", "layout": _layouts(codes), "codes": f"{tuple(shape)}"}
    if len(directions) > 1:
        used = f"{_DIRECTIONS} --format FORMAT"
        return {"kind": "file of directions", "used": used, "layout": _layouts(directions)}
    return _directions_of(directions[0], inner, path) if directions else None


def _layouts(formats: Sequence[DirectionFormat] | Sequence[LatentFormat]) -> str:
    return " or ".join(each.name for each in formats)


def _directions_of(layout: DirectionFormat, inner: Any, path: Path) -> dict[str, Any] | None:
    from generators.peers.base import Evidence
    from generators.peers.directions import entries_of

    try:
        entries = entries_of(layout, inner, path)
    except LatentflowError:
        return None
    shapes = {entry.vector.shape for entry in entries}
    several = len(shapes) > 1 or any(len(shape) > 2 for shape in shapes)
    if several and layout.evidence != Evidence.ITS_WORD:
        return None  # pictures, or tensors of a network
    name = layout.name
    facts: dict[str, Any] = {"kind": "file of directions", "used": _DIRECTIONS, "layout": name}
    for i, entry in enumerate(entries[:_SHOWN]):
        facts[f"  {entry.name or i}"] = f"{entry.vector.dtype} {tuple(entry.vector.shape)}"
    if len(entries) > _SHOWN:
        facts["  ..."] = f"{len(entries)} directions in all"
    return facts


def _checkpoint(path: Path) -> dict[str, Any]:
    from generators.encoders.files import is_encoder, read_encoder
    from generators.families.catalog import facts_of
    from generators.model_file import read_checkpoint

    if path.is_file() and is_encoder(path):
        return _encoder(read_encoder(str(path)))
    encoder = _encoder_in(path)
    try:
        found = read_checkpoint(path)
    except UnsafeCheckpointError:
        raise
    except CheckpointError:
        if encoder:
            return encoder
        raise
    model = facts_of(found)
    shapes = [f"{s.name} {' x '.join(map(str, s.shape))}" for s in model.spaces.values()]
    facts = {
        "kind": "generator checkpoint",
        "fingerprint": found.fingerprint,
        "family": model.family,
        "spaces": ", ".join(shapes),
        "default space": model.default_space,
        "images": f"{model.size[0]} x {model.size[1]}",
    }
    facts |= {key: found.metadata[key] for key in ("source", "entry") if key in found.metadata}
    if found.metadata.get("left_out"):
        facts["left out"] = "; ".join(found.metadata["left_out"])
    for name in found.estimated:
        facts[name.rpartition(".")[2]] = "not in the file: estimated"
    described = {**{k: _short(v) for k, v in found.architecture.items()}, **model.assumed}
    facts |= {f"  {k}": v for k, v in described.items()}
    if encoder:
        facts |= {"encoder beside it": encoder.pop("kind")}
        facts |= {f"encoder's {k.strip()}": v for k, v in encoder.items()}
    return facts


def _encoder(found: EncoderCheckpoint) -> dict[str, Any]:
    from generators.encoders.catalog import spaces_of

    shapes = [f"{name} {' x '.join(map(str, shape))}" for name, shape in spaces_of(found).items()]
    described = {f"  {k}": v for k, v in {**found.architecture, **found.assumed}.items()}
    facts = {"kind": "encoder", "fingerprint": found.fingerprint, "spaces": ", ".join(shapes)}
    facts |= {key: found.metadata[key] for key in ("source",) if key in found.metadata}
    return {**facts, **described}


def _encoder_in(path: Path) -> dict[str, Any]:
    """What is to be told of the encoder in another project's file; nothing where it has none."""
    from generators.encoders.files import encoder_in

    try:
        found = encoder_in(path) if path.is_file() else None
    except CheckpointError as e:
        return {"kind": "encoder", "cannot be used": str(e)}
    return {} if found is None else _encoder(found)


def _short(value: Any) -> Any:
    """What an architecture says; of parts that have names these alone."""
    named = isinstance(value, list) and all(isinstance(v, dict) and "name" in v for v in value)
    return ", ".join(str(v["name"]) for v in value) if named and value else value
