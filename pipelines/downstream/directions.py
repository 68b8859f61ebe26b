"""Directions of a run in other projects' files, and theirs in a run.

The formats are those of `generators.peers`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import generators
from generators.peers.catalog import direction_formats
from generators.peers.directions import other_space, read_directions, write_directions
from generators.tensor_files import safetensors_bytes
from pipelines.downstream.export import check_target, row_exports, written
from schemas.atomic import write_bytes
from schemas.directions.direction import FOREIGN_METHODS
from schemas.errors import DirectionMismatchError, UsageError
from transforms.accumulate.blocks import sum_blocks
from transforms.accumulate.requests import MomentsAlong, MomentsOfRows
from transforms.accumulate.sources import SelectBlocks, StoreBlocks

if TYPE_CHECKING:
    from pipelines.downstream.finished_run import FinishedRun
    from transforms.accumulate.moments import Moments


def export_directions(
    run: FinishedRun, kind: str, out: Path, names: Sequence[str] = (), overwrite: bool = False
) -> list[Path]:
    """Write directions in a peer's format; returns the files.

    out : a folder, with a file a direction, where the format holds one; else the file.
    names : of the directions, by default all of the run's set.

    overwrite : replace files that exist.

    Raises UsageError for an unknown format or files that exist, DirectionMismatchError for
    directions with layers in a format without them.
    """
    formats = {name: each for name, each in direction_formats().items() if each.writes}
    if kind not in formats:
        raise UsageError(
            f"export {kind!r} is not known: use one of {list(row_exports())!r}, 'directions' or "
            f"one of {sorted(formats)!r}"
        )
    chosen = [run.directions[name] for name in names] or list(run.directions)
    suffix = formats[kind].suffix
    if suffix is None:
        check_target(out, folder=False, overwrite=overwrite)
        mean = None
        if formats[kind].mean and all(len(d.shape) == 1 for d in chosen):
            mean = _moments(run, MomentsOfRows(diagonal=True)).mean
        with written(out):
            write_directions(chosen, out, kind, mean=mean)
        return [out]
    paths = [out / f"{d.name}{suffix}" for d in chosen]
    for path in paths:
        check_target(path, folder=False, overwrite=overwrite)
    for direction, path in zip(chosen, paths, strict=True):
        with written(path):
            write_directions([direction], path, kind)
    return paths


def export_all_directions(
    run: FinishedRun, out: Path, names: Sequence[str] = (), overwrite: bool = False
) -> list[Path]:
    """Write directions float64 by name into one ``.npz``, or ``.safetensors``; returns the file.

    ``facts`` is JSON: space, method, sd, layers, intercept, target and generator of each; an array
    of text in the npz, an entry of the metadata in safetensors. `import_directions` reads it.

    Raises UsageError for another ending or a file that exists.
    """
    check_target(out, folder=False, overwrite=overwrite)
    chosen = [run.directions[name] for name in names] or list(run.directions)
    facts = {
        d.name: {
            "space": d.space,
            "method": d.method,
            "sd": d.sd,
            "layers": d.layers,
            "intercept": d.intercept,
            "target": d.provenance.get("target"),
            "generator_fp": run.directions.generator_fp,
        }
        for d in chosen
    }
    vectors = {d.name: d.vector for d in chosen}
    if "facts" in vectors:
        raise UsageError("a direction 'facts' would hide the file's facts: choose the others by -d")
    if out.suffix == ".safetensors":
        data = safetensors_bytes(vectors, {"facts": json.dumps(facts)})
    elif out.suffix == ".npz":
        data = _npz({**vectors, "facts": np.array(json.dumps(facts))})
    else:
        raise UsageError(f"directions go into an '.npz' or a '.safetensors', not {out.name!r}")
    with written(out):
        write_bytes(out, data)
    return [out]


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A ``.npz`` of arrays of any names (`numpy.savez` takes some for its own arguments)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as part:
                np.lib.format.write_array(part, value, allow_pickle=False)
    return buffer.getvalue()


def import_directions(
    run: FinishedRun,
    path: Path,
    space: str,
    generator_fp: str,
    name: str | None = None,
    file_format: str | None = None,
) -> list[str]:
    """Read a file of any known format into the run's direction set; returns the names.

    space, generator_fp : what the file was made for, a claim. The space is the run's, one that is
        injected where its codes are drawn, or the one whose code each of its layers repeats (w of a
        w_plus run): such vectors are used in every layer.
    name : of a single direction, or prefix of several.
    file_format : the file's format, where its contents do not tell.

    The standard deviation, the unit of strength, is measured on the run's codes; that of a
    direction of a space that is injected (feature maps) is the file's own. A file of the same
    contents that is imported again replaces the directions of the first time, and one that is given
    a name those that were imported under it; those of analyses are not replaced.

    Raises UsageError for another space, for a name that an analysis uses, and where another file's
    directions have the names that this one's would get; DirectionMismatchError for another
    generator.
    """
    own = run.directions.space
    injected = _injected(run, space)
    if injected is None and space != own and space != _repeated(run):
        raise UsageError(
            f"the run stores codes of space {own!r}, on which directions are measured, and the "
            f"file's are of {space!r}: {_other_space(run, space)}"
        )
    if generator_fp != run.directions.generator_fp:
        raise DirectionMismatchError(
            f"the run's generator is {run.directions.generator_fp!r}, the one claimed for "
            f"{str(path)!r} is {generator_fp!r}: import it into a run of that generator, and map "
            "it from there with 'latentflow transfer OLD_RUN NEW_RUN -d NAME', or compute it again"
        )
    found = read_directions(
        path,
        space=own if injected is None else space,
        made_in=space,
        generator_fp=generator_fp,
        sd=0.0 if injected is None else None,
        row_shape=injected or run.store.array(f"latents/{own}").shape[1:],
        name=name,
        file_format=file_format,
    )
    taken = {d.name for d in run.directions if d.method not in FOREIGN_METHODS}
    both = sorted(taken & {d.name for d in found})
    if both:
        raise UsageError(
            f"the run's analyses already made directions {both!r}: choose another name with --name"
        )
    contents = {d.name: d.provenance["source_sha256"] for d in found}
    for held in run.directions if name is None else ():
        source = held.provenance.get("source")
        if held.name in contents and held.provenance.get("source_sha256") != contents[held.name]:
            origin = f"imported from {source!r}" if source else f"{held.method} from another run"
            raise UsageError(
                f"direction {held.name!r} was {origin} before, and that of {str(path)!r}, a file "
                "of other contents, would replace it: give another name with --name, or the same "
                "to replace it"
            )
    deviations = np.array([d.sd for d in found])
    if injected is None:
        along = _moments(run, MomentsAlong(np.stack([d.vector.ravel() for d in found])))
        deviations = np.sqrt(along.second.ravel() / max(along.count - 1, 1))
    for direction, sd in zip(found, deviations, strict=True):
        run.directions.replace(dataclasses.replace(direction, sd=float(sd)))
    run.directions.save(str(run.directions.path))
    return [d.name for d in found]


def _repeated(run: FinishedRun) -> str | None:
    """The space whose code stands in every layer of the run's codes; None without one."""
    facts = generators.facts(run.spec.generator)
    own = run.directions.space
    return facts.repeated(own) if own in facts.spaces else None


def _other_space(run: FinishedRun, space: str) -> str:
    """What can be done with a direction of a space that the run does not take."""
    facts, own = generators.facts(run.spec.generator), run.directions.space
    repeated = _repeated(run)
    taken = [own, *([repeated] if repeated else ())]
    taken += [name for name, each in facts.spaces.items() if each.injected_into == own]
    shown = ", ".join(map(repr, taken))
    if space in facts.spaces:
        return f"{other_space(space)}, or take a direction of one of {shown}"
    having = ", ".join(map(repr, facts.spaces))
    return f"the generator has {having}, and this run takes directions of {shown}"


def _injected(run: FinishedRun, space: str) -> tuple[int, ...] | None:
    """Shape of a space that is injected while the run's codes are drawn, None for any other."""
    if space == run.directions.space:
        return None
    found = generators.facts(run.spec.generator).spaces.get(space)
    return found.shape if found and found.injected_into == run.directions.space else None


def _moments(run: FinishedRun, request: MomentsOfRows | MomentsAlong) -> Moments:
    """A statistic of all finished codes of the run, block by block in this process."""
    array = f"latents/{run.directions.space}"
    source = SelectBlocks(StoreBlocks(run.store.path, (array,), ("invert",)), {"x": array})

    def statistic(block: int) -> Moments:
        return request.statistic(request.prepare(source.read(block)[1]))

    return sum_blocks(source.n_blocks, statistic)
