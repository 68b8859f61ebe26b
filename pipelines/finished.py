"""What a finished run stored, for the commands that use it: edit and export."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.run_folder import RunFolder
from schemas.atomic import write_bytes
from schemas.direction import transfer_cure
from schemas.directions import Direction, DirectionSet
from schemas.errors import DataError, DirectionMismatchError, StoreError, UsageError
from schemas.index import DatasetIndex
from schemas.reasons import Reason, Status, describe
from schemas.spec import RunSpec
from schemas.store import LatentStore

EXPORTS = ("annotations", "directions")


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """Index, store and directions of a run."""

    spec: RunSpec
    index: DatasetIndex
    store: LatentStore
    directions: DirectionSet

    @classmethod
    def of(cls, spec: RunSpec) -> FinishedRun:
        """Open the run folder of a specification. Raises StoreError where a part is missing,
        DirectionMismatchError where directions and codes are of different generators."""
        with RunFolder.open(spec.output_path) as folder:
            parts = {"index": folder.index, "store": folder.store, "directions": folder.directions}
            for name, part in parts.items():
                if part is None:
                    raise StoreError(
                        f"run {spec.name!r} has no {name}: {folder.absent.get(name, 'missing')}; "
                        "run it first with 'latentflow run'"
                    )
            drawn_by = folder.store.attrs.get("generator_fp")
            if drawn_by != folder.directions.generator_fp:
                raise DirectionMismatchError(
                    f"the directions of run {spec.name!r} were made for generator "
                    f"{folder.directions.generator_fp!r}, its codes are of {drawn_by!r}; "
                    f"{transfer_cure('NAME')}"
                )
            return cls(spec, folder.index, folder.store, folder.directions)

    def codes(self, rows: Sequence[int]) -> np.ndarray:
        """Codes float32 (m, *row_shape) of the given rows, in the directions' space.

        Raises UsageError for rows the store does not have, DataError for quarantined ones.
        """
        status, reason = self.store.status("invert"), self.store.reason("invert")
        for row in rows:
            if not 0 <= row < self.store.n_rows:
                raise UsageError(f"row {row!r} is not one of 0..{self.store.n_rows - 1!r}")
            if status[row] != Status.OK:
                raise DataError(
                    f"row {row!r} ({self.index.uris[row]!r}) has no code: "
                    f"{describe(Reason(int(reason[row])))}; choose another row"
                )
        array = self.store.array(f"latents/{self.directions.space}")
        return np.stack([np.asarray(array[row]) for row in rows])

    def direction(self, name: str) -> Direction:
        """A direction of the set by name, or a style channel ("s.<attribute>", "s.b8.conv1.12").

        Raises UsageError for an unknown name.
        """
        if name not in self.directions and name.startswith("s."):
            if "s_space" in self.directions.model_names():
                from pipelines.fits.channels import channel_direction

                model = self.directions.load_model("s_space")
                return channel_direction(name, *model, self.directions.generator_fp)
        return self.directions[name]

    def export(self, kind: str, out: Path, names: Sequence[str] = ()) -> list[Path]:
        """Write an export; returns the files.

        kind : annotations, one Parquet table, a row an image; directions, one .npz of all vectors,
            the facts about each as JSON under ``facts``; or a format of
            `generators.direction_files`: a folder, with a file a direction where the format holds
            one vector.
        names : of the directions to write, by default all.
        """
        if kind == "annotations":
            from pipelines.annotation_table import export_annotations

            out.parent.mkdir(parents=True, exist_ok=True)
            export_annotations(self.store, self.index, out)
            return [out]
        if kind == "directions":
            return [self._npz(out)]
        from pipelines.exchange import export_directions

        return export_directions(self, kind, out, names)

    def _npz(self, out: Path) -> Path:
        facts = {
            d.name: {
                "space": d.space,
                "method": d.method,
                "sd": d.sd,
                "layers": d.layers,
                "target": d.provenance.get("target"),
                "generator_fp": self.directions.generator_fp,
            }
            for d in self.directions
        }
        buffer = io.BytesIO()
        vectors = {d.name: d.vector for d in self.directions}
        np.savez(buffer, allow_pickle=False, facts=np.array(json.dumps(facts)), **vectors)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, buffer.getvalue())
        return out
