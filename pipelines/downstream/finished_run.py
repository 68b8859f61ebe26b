"""What a finished run stored, for the commands that use it: edit and export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import generators
from generators.edits import axes_of, axis_direction, fitted_to
from generators.protocols import ModelFacts
from pipelines.downstream.export import Exported, export_rows, row_exports
from pipelines.evaluation.samples import Samples
from pipelines.folder.run_folder import RunFolder
from pipelines.folder.store_identity import labels_of
from pipelines.sources.paths import IMAGE_ENDINGS
from schemas.directions.direction import transfer_cure
from schemas.directions.direction_set import Direction, DirectionSet
from schemas.errors import DataError, DirectionMismatchError, StoreError, UsageError
from schemas.index import DatasetIndex
from schemas.spec import RunSpec
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Reason, Status, describe
from schemas.suggest import suggestion
from transforms.accumulate.sources import SelectBlocks, StoreBlocks, codes_of
from transforms.directions.algebra import keeping


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
            index = folder.needed("index", folder.index)
            store = folder.needed("store", folder.store)
            directions = folder.needed("directions", folder.directions)
            drawn_by = store.attrs.get("generator_fp")
            if drawn_by != directions.generator_fp:
                raise DirectionMismatchError(
                    f"the directions of run {spec.name!r} were made for generator "
                    f"{directions.generator_fp!r}, its codes are of {drawn_by!r}; "
                    f"{transfer_cure('NAME')}"
                )
            return cls(spec, index, store, directions)

    def codes(self, rows: Sequence[int]) -> np.ndarray:
        """Codes float32 (m, *row_shape) of the given rows, in the directions' space.

        Raises UsageError for rows the store does not have, DataError for those without a code.
        """
        self._check_rows(rows)
        return codes_of(self.store, self.directions.space, np.asarray(rows, np.int64))

    def samples(self, rows: Sequence[int], facts: ModelFacts) -> Samples:
        """`codes` with all that they are drawn with: companions and classes.

        facts : of the run's generator. Raises StoreError too, where the store lacks what the codes
        cannot be drawn without.
        """
        self._check_rows(rows)
        at, labels = np.asarray(rows, np.int64), labels_of(self.spec.dataset, self.index, facts)
        classes = None if labels is None else labels[at]
        return Samples.stored(self.store, facts.space(self.directions.space), at, classes)

    def _check_rows(self, rows: Sequence[int]) -> None:
        status, reason = self.store.status("invert"), self.store.reason("invert")
        for row in rows:
            if not 0 <= row < self.store.n_rows:
                raise UsageError(f"row {row!r} is not one of 0..{self.store.n_rows - 1!r}")
            if status[row] != Status.OK:
                why = {
                    Status.PENDING: "it is not inverted yet; run the specification again",
                    Status.REMOVED: "its image is not in the dataset any more; choose another row",
                }.get(status[row]) or f"{describe(Reason(int(reason[row])))}; choose another row"
                raise DataError(f"row {row!r} ({self.index.uris[row]!r}) has no code: {why}")

    def blocks(
        self, arrays: Sequence[str] = (), factors: Sequence[str] = (), where: Any = None
    ) -> SelectBlocks:
        """Rows block by block, as analyses read them; for `pipelines.downstream.latent_batches` or
        own loops.

        arrays : of the store, by default the codes. factors : of the index, joined by row: codes
            int16, -1 missing, or values float64. where : bool (n_rows,), rows to use.

        A block's ``read`` gives row numbers (m,) and arrays by name (m, ...): rows that are OK in
        every stage that writes one of the arrays, and whose image is still in the dataset.

        Raises StoreError for an array that no stage writes, DataError for an unknown factor.
        """
        chosen = tuple(arrays) or (f"latents/{self.directions.space}",)
        owners = {a: stage for stage in self.store.stages() for a in self.store.arrays(stage)}
        unknown = [name for name in chosen if name not in owners]
        if unknown:
            raise StoreError(
                f"arrays {unknown!r} are not in the store: use one of {list(owners)!r}"
            )
        source = StoreBlocks(self.store.path, chosen, tuple(sorted({owners[a] for a in chosen})))
        columns: dict[str, np.ndarray] = {}
        for name in factors:
            values = self.index.factor(name)
            columns[name] = values[0] if isinstance(values, tuple) else values
        taken = self.index.active if where is None else self.index.active & np.asarray(where, bool)
        return SelectBlocks(source, {name: name for name in chosen}, columns, taken)

    def direction(self, name: str) -> Direction:
        """A direction of the set by name, a style channel ("s.<attribute>", "s.b8.conv1.12"), or an
        axis of one of the generator's spaces ("placement.shift_x").

        Raises UsageError for an unknown name.
        """
        if name not in self.directions and name.startswith("s."):
            if "s_space" in self.directions.model_names():
                from pipelines.analyses.s_space.fit import channel_direction

                model = self.directions.load_model("s_space")
                return channel_direction(name, *model, self.directions.generator_fp)
        if name not in self.directions and "." in name:
            facts = generators.facts(self.spec.generator)
            axis = axis_direction(facts, name)
            if axis is not None:
                return axis
            try:
                return self.directions[name]
            except UsageError as e:
                raise _unknown(name, self.directions.names(), facts) from e
        return self.directions[name]

    def export(
        self, kind: str, out: Path, names: Sequence[str] = (), overwrite: bool = False
    ) -> Exported:
        """Write rows or directions for other tools: the kinds of `pipelines.downstream.export`.

        names : of the directions to write, by default all. overwrite : replace what an export
        wrote before.

        Raises UsageError for an unknown kind or a target that exists; see `export_rows` and
        `export_directions` for the others.
        """
        if kind in row_exports():
            return export_rows(self.store, self.index, kind, out, overwrite)
        if kind == "directions":
            from pipelines.downstream.directions import export_all_directions

            return Exported(export_all_directions(self, out, names, overwrite))
        from pipelines.downstream.directions import export_directions

        return Exported(export_directions(self, kind, out, names, overwrite))


def export_run(
    spec: RunSpec, kind: str, out: Path, names: Sequence[str] = (), overwrite: bool = False
) -> Exported:
    """`FinishedRun.export` for a specification; rows can be exported before there are directions.

    Raises StoreError where the run lacks what the export needs.
    """
    if kind not in row_exports():
        return FinishedRun.of(spec).export(kind, out, names, overwrite)
    with RunFolder.open(spec.output_path) as folder:
        index = folder.needed("index", folder.index)
        return export_rows(folder.needed("store", folder.store), index, kind, out, overwrite)


def edit_run(
    spec: RunSpec,
    names: Sequence[str],
    out: Path,
    rows: Sequence[int],
    strengths: Sequence[float],
    unit: str = "sd",
    layers: Sequence[int] | None = None,
    picture_weight: float | None = None,
    keep: Sequence[str] = (),
    mask: Path | None = None,
) -> Iterator[Path]:
    """Draw a strip of these rows along each direction, and yield its path.

    out : PNG file, or of several directions the folder. unit, layers : see `draw_strips`
    picture_weight : see `GradientEdit`, which then finds the codes; for "nrsfm.*" in all layers
    keep : directions along which nothing is to change, see `transforms.directions.algebra.keeping`
    mask : image of where to edit, for directions of feature maps, see `read_mask`

    Raises UsageError for unknown directions and rows, for a file that is to hold several strips,
    and where a picture weight does not fit.
    """
    from pipelines.evaluation.strips import draw_strips, read_mask

    if len(names) > 1 and (out.suffix.lower() in IMAGE_ENDINGS or out.is_file()):
        raise UsageError(
            f"{len(names)} directions give {len(names)} strips, {str(out)!r} is a file: name a "
            "folder for them, or give one direction"
        )
    finished = FinishedRun.of(spec)
    finished._check_rows(rows)
    found = [finished.direction(name) for name in names]
    others = [name for name in names if not name.startswith("nrsfm.")]
    if picture_weight is not None and (others or layers is not None or keep):
        raise UsageError(
            f"--picture-weight is given with directions {others!r}, layers {layers!r} and --keep "
            f"{list(keep)!r}: it is for directions 'nrsfm.*' in all layers, without --keep; leave "
            "it or the others out"
        )
    generator = generators.load(spec.generator)
    if keep:
        kept = [finished.direction(name) for name in keep]
        found = [_keeping(generator.facts, direction, kept, layers) for direction in found]
    samples = finished.samples(rows, generator.facts)
    options: list[dict[str, Any]] = [{} for _ in found]
    if mask is not None:
        options = [{"mask": read_mask(mask, d, generator.facts)} for d in found]
    refine, facts = None, {}
    if picture_weight is not None:
        from pipelines.evaluation.gradient_strips import GradientEdit

        refine = GradientEdit.of(generator, finished.directions, picture_weight)
        facts = {"picture_weight": picture_weight}
    for direction, own in zip(found, options, strict=True):
        path = out if len(found) == 1 else out / f"{direction.name}.png"
        yield draw_strips(
            generator,
            samples,
            direction,
            strengths,
            unit,
            path,
            labels=[f"row {row}" for row in rows],
            layers=layers,
            options=own,
            refine=refine,
            facts=facts | {k: direction.provenance[k] for k in ("keep", "left") if keep},
        )


def _unknown(name: str, directions: Sequence[str], facts: ModelFacts) -> UsageError:
    """The error for a name that neither the directions nor the axes of a model have."""
    axes = list(axes_of(facts))
    told = f"axes {', '.join(axes)}" if axes else f"no axes ({', '.join(facts.spaces)})"
    cure = suggestion(name, [*axes, *directions]) if axes or directions else "run an analysis first"
    return UsageError(
        f"there is no direction {name!r}: {cure}; spaces of the generator have {told}"
    )


def _keeping(
    facts: ModelFacts, direction: Direction, kept: Sequence[Direction], layers: Sequence[int] | None
) -> Direction:
    """`keeping`, of directions of which some stand for every layer of the space of the others."""
    spaces = dict.fromkeys(d.space for d in (direction, *kept))
    known = [name for name in spaces if name in facts.spaces]
    layered = [name for name in known if facts.repeated(name) in spaces]
    if len(spaces) == 2 and layered:
        direction, *kept = (fitted_to(facts, d, layered[0]) for d in (direction, *kept))
    return keeping(direction, kept, layers)
