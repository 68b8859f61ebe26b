"""``latentflow export``: rows and directions of a run in files that other tools read.

| kind | target | contents |
|---|---|---|
| parquet | file | codes, annotations and factors: `pipelines.downstream.annotation_table` |
| huggingface | folder | Parquet shards with a dataset card: `pipelines.downstream.shards` |
| npz, safetensors | file | the same as arrays: `pipelines.downstream.arrays` |
| formats of codes of `generators.peers` | folder | the project's own file of codes |
| annotations | file | Parquet of all rows, without codes, with their status |
| directions | file | vectors and facts, npz or safetensors by the file's ending |
| formats of directions of `generators.peers` | file or folder | directions |

All but the last three hold the rows whose inversion is OK and that are still in the dataset (for
InterFaceGAN also measured by every annotator) and say how many others there are. Files and folders
appear under their names when they are complete; folders hold ``export.json``, the facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from generators.peers.catalog import latent_formats
from pipelines.downstream.annotation_table import RowTables, export_annotations, write_parquet
from pipelines.downstream.arrays import write_latents, write_npz, write_safetensors
from pipelines.downstream.export_rows import ExportRows, annotation_stages
from pipelines.downstream.shards import write_shards
from pipelines.folder.store_identity import INVERT
from schemas.atomic import delete_partials_of, replacing_folder, write_json
from schemas.errors import StoreError, UsageError
from schemas.expected_errors import expected
from schemas.index import DatasetIndex
from schemas.store.latent_store import LatentStore

MARK = "export.json"
"""File that every exported folder has; only folders with it are ever overwritten."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote. left_out : cause -> rows that it does not hold. not_measured :
    annotation stage -> rows that it holds without this stage's values."""

    paths: list[Path]
    rows: int | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    not_measured: dict[str, int] = field(default_factory=dict)


FILES: dict[str, Callable[[ExportRows, Path], None]] = {
    "parquet": lambda rows, path: write_parquet(RowTables(rows), path),
    "npz": write_npz,
    "safetensors": write_safetensors,
}


def row_exports() -> tuple[str, ...]:
    """Kinds that hold rows; they need an index and a store, no directions."""
    return (
        "annotations",
        *FILES,
        "huggingface",
        *(name for name, form in latent_formats().items() if form.files),
    )


def export_rows(
    store: LatentStore, index: DatasetIndex, kind: str, out: Path, overwrite: bool = False
) -> Exported:
    """Write rows as one of `row_exports`.

    overwrite : replace a file, or a folder that an export wrote.

    Raises UsageError for another kind and for a target that exists, StoreError when index and
    store do not match or another run writes the store meanwhile, FileSystemError for a full disk
    (nothing is then left of the export), DataError when no row is finished.
    """
    if kind not in row_exports():
        raise UsageError(f"export {kind!r} is not known: use one of {list(row_exports())!r}")
    peer = latent_formats().get(kind)
    check_target(out, peer is not None or kind == "huggingface", overwrite)
    required = [INVERT]
    if peer is not None and peer.scores is not None:
        required += annotation_stages(store, ["annotations"])
    rows = ExportRows.of(store, index, () if kind == "annotations" else required)
    with written(out):
        delete_partials_of(out)
        if kind == "annotations":
            export_annotations(store, index, out)
        elif kind in FILES:
            FILES[kind](rows, out)
        else:
            with replacing_folder(out) as folder:
                if peer is None:
                    write_shards(RowTables(rows), folder)
                else:
                    write_latents(rows, peer, folder)
                write_json(folder / MARK, {"export": kind, **rows.facts()})
    return Exported([out], rows.n, rows.left_out, rows.not_measured)


@contextmanager
def written(out: Path) -> Iterator[None]:
    """Tell that a target cannot be written, as StoreError."""
    try:
        yield
    except OSError as e:
        e.filename = str(out)
        raise expected(e) or StoreError(
            f"export {str(out)!r} cannot be written: {e.strerror or e}; choose another target"
        ) from e


def check_target(out: Path, folder: bool, overwrite: bool) -> None:
    """Raise UsageError unless ``out`` is free, or may be overwritten."""
    if not out.exists():
        return
    if not overwrite:
        raise UsageError(
            f"{str(out)!r} exists already: choose another target, or replace it with --overwrite"
        )
    if folder and out.is_dir() and not (out / MARK).is_file():
        raise UsageError(
            f"folder {str(out)!r} has no {MARK!r} and so is not an export: choose another target"
        )
    if folder != out.is_dir():
        other = "folder" if out.is_dir() else "file"
        raise UsageError(
            f"{str(out)!r} is a {other}, this export writes a {'folder' if folder else 'file'}: "
            "choose another target"
        )
