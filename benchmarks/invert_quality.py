"""How well every inversion method does: pictures, codes, editability, time.

``python -m benchmarks.invert_quality [--work DIR] [--parts ...] [--rows N] [--jobs 2]
[--minutes M] [--encoders DIR]``. Rows that the bundled models never saw (faces of the rig),
inverted by every method of the catalog that can be used with what is there, each in every space it
gives; and a plain generator's own pictures, whose codes are known. Parts:

methods    the table of methods, on the rig
plain      that of a plain generator, "obtained:gan_face_generate" where it has been obtained
projector  `optimise` and the official projector's algorithm (`benchmarks.projector`) at equal
           steps and by the same loss, that of `optimise`; without noise images on either side
encoders   encoders by diverse similarity and by the pixels' squared error alone, of equal steps,
           from ``--encoders``, the folder in which `benchmarks.paper_002` trains them
edits      measured edits of the codes of "methods", against their editability

A piece of work is a file of ``--work`` and is not done again: a run that was ended, or stopped by
``--minutes``, goes on, and two runs of other parts may share the folder. Methods that take gradient
steps invert fewer rows than those that do not, by the steps they take; how many, the table tells.

``error`` counts the comparisons that do not hold; those that could not be made are told by name.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import generators
from benchmarks._inversions import (
    EDITED,
    HIGHER,
    MODEL,
    PLAIN,
    PROJECTOR,
    RIG,
    SAMPLED,
    Arrays,
    Piece,
    is_there,
    made,
    uri_of,
)
from schemas.errors import LatentflowError
from schemas.sections.invert import invert_section
from transforms.inversion.catalog import METHODS, method_named

PARTS = ("methods", "plain", "projector", "encoders", "edits")
COLUMNS = ("psnr", "ssim", "mse", "cosine", "code cosine", "lpips_star", "identity*", "editability")
PASSES = 3200
"""Backward passes that a method may take in all: of 100 steps a row, 32 rows are inverted."""
LEAST = 8
STEPS = {100: 16, 300: 8, 1000: 4}
"""Of the projector -> rows that each inverts with so many."""
SEEDS, LEAST_PSNR = (0, 1, 2), -0.3
MOVABLE = ("w", "w_plus", "s")
WORK = Path("runs/invert_quality")

Found = Mapping[Piece, Arrays]


def main() -> int:
    """Parse the arguments and run; the exit code is 1 where a comparison fails, 3 where time ran
    out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK, metavar="DIR")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rows", type=int, default=500, help="at most (default 500)")
    parser.add_argument(
        "--passes", type=int, default=PASSES, help=f"backward, of a method (default {PASSES})"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--minutes", type=float, default=600.0, help="to stop after")
    parser.add_argument("--encoders", type=Path, metavar="DIR", help="of benchmarks.paper_002")
    parser.add_argument("--smoke", action="store_true", help="a few rows and steps")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := sorted({*parts} - {*PARTS}):
        parser.error(f"--parts has {unknown!r}, expected some of {PARTS!r}")
    with tempfile.TemporaryDirectory(prefix="invert-quality-") as own:
        if options.smoke:
            options.work = Path(own) if options.work == WORK else options.work
            options.rows, options.jobs = 2, 1
        options.work.mkdir(parents=True, exist_ok=True)
        wanted = {part: pieces_of(part, options) for part in parts}
        pieces = list(dict.fromkeys(piece for each in wanted.values() for piece in each))
        end = time.monotonic() + 60 * options.minutes
        found, failed = compute(pieces, options.work, options.jobs, end)
    for part, own_pieces in wanted.items():
        show(part, [piece for piece in own_pieces if piece in found], found)
    held = comparisons(wanted, found)
    for name, holds in held.items():
        print(f"{'not made' if holds is None else 'holds' if holds else 'FAILS':<9} {name}")
    error = sum(holds is False for holds in held.values())
    result = {
        "name": "invert_quality",
        "error": error,
        "comparisons": held,
        "not_made": [name for name, holds in held.items() if holds is None],
        "left_out": failed,
        "complete": all(piece in found or label(piece) in failed for piece in pieces),
        "rows": [row_of(piece, found[piece]) for piece in found],
        "edits": edits_followed(found),
        "cores": os.cpu_count(),
        "threads": 1,
    }
    print(json.dumps(result))
    if not result["complete"]:
        return 3
    return int(error > 0 and not options.smoke)


# ---- what is to be done -------------------------------------------------------------------------


def pieces_of(part: str, options: argparse.Namespace) -> list[Piece]:
    """The pieces of a part."""
    if part == "methods":
        return list(of_methods(RIG, options))
    if part == "plain":
        return list(of_methods(PLAIN, options)) if is_there(PLAIN) else []
    if part == "projector":
        steps = {2: 1} if options.smoke else STEPS
        return [
            Piece(RIG, method, space, min(rows, options.rows), steps=n)
            for space in ("w", "w_plus")
            for n, rows in steps.items()
            for method in (PROJECTOR, "optimise")
        ]
    if part == "encoders":
        return [
            Piece(RIG, "encoder", space_of(file), options.rows, str(file))
            for pair in pairs(options.encoders).values()
            for file in pair
        ]
    codes = [Piece(RIG, SAMPLED, "w", min(EDITED, options.rows))]
    codes += [p for p in of_methods(RIG, options) if p.space in MOVABLE and not with_more(p)]
    return [replace(piece, edited=True) for piece in codes]


def with_more(piece: Piece) -> bool:
    """Whether codes of a method have something beside them that their edits need."""
    section = invert_section({"method": piece.method}).into(piece.space)
    return bool(method_named(piece.method).companions(section, generators.facts(MODEL)))


def of_methods(scene: str, options: argparse.Namespace) -> Iterator[Piece]:
    """Every method of the catalog that can be used on a scene, in every space that it gives."""
    facts = generators.facts(uri_of(scene))
    for name in METHODS.names():
        try:
            section, method = invert_section({"method": name}), method_named(name)
            encoder = MODEL if section.needs.encoder and scene == RIG else None
            if section.needs.encoder and encoder is None:
                continue
            spaces = [facts.default_space] if options.smoke else method.spaces(facts)
            for space in spaces:
                method.companions(section.into(space), facts)
            backward = method.cost(section).backward_passes
        except (LatentflowError, ValueError):  # it needs a key, such as a file
            continue
        rows = options.rows
        if backward:
            rows = min(rows, max(LEAST, options.passes // backward))
        steps = 1 if options.smoke and backward else None
        for space in spaces:
            if encoder is None or space in ("w", "w_plus"):
                yield Piece(scene, name, space, rows, encoder, steps)


def space_of(file: Path) -> str:
    """The space of an encoder's codes that has most numbers."""
    from generators.encoders.catalog import spaces_of
    from generators.encoders.files import read_encoder

    spaces = spaces_of(read_encoder(str(file)))
    return max(spaces, key=lambda name: int(np.prod(spaces[name])))


def pairs(folder: Path | None) -> dict[int, tuple[Path, Path]]:
    """Seed -> encoders by all terms and by the squared error alone, of the most equal steps."""
    if folder is None:
        return {}
    steps: dict[tuple[str, int], dict[int, Path]] = {}
    for file in folder.glob("*.safetensors"):
        if told := re.fullmatch(r"(DSE|MSE_only)-(\d+)-(\d+)", file.stem):
            steps.setdefault((told[1], int(told[2])), {})[int(told[3])] = file
    found = {}
    for seed in SEEDS:
        ours, theirs = (steps.get((name, seed), {}) for name in ("DSE", "MSE_only"))
        if both := ours.keys() & theirs.keys():
            found[seed] = ours[max(both)], theirs[max(both)]
    return found


def compute(
    pieces: Sequence[Piece], work: Path, jobs: int, end: float
) -> tuple[dict[Piece, Arrays], dict[str, str]]:
    """What was measured, and of pieces that could not be done why. None begins after `end`."""
    found: dict[Piece, Arrays] = {}
    failed: dict[str, str] = {}
    todo = []
    for piece in pieces:
        if (work / piece.file).exists():
            found[piece] = made(piece, work)
        else:
            todo.append(piece)
    with Pool(jobs) as pool:
        for piece, given in zip(todo, pool.map(partial(within, work, end), todo), strict=True):
            if isinstance(given, str):
                failed[label(piece)] = given
                print(f"left out  {label(piece)}: {given}", flush=True)
            elif given:
                found[piece] = given
                print(f"done      {label(piece)}, {piece.rows} rows", flush=True)
    return found, failed


def within(work: Path, end: float, piece: Piece) -> Arrays | str:
    """`made`, or why it cannot be; nothing after `end`, of this machine's clock."""
    try:
        return made(piece, work) if time.monotonic() < end else {}
    except Exception as e:  # a method that fails is one row less
        return f"{type(e).__name__}: {e}"


class Pool:
    """Processes that work on pieces, in their order; of 1, this one."""

    def __init__(self, jobs: int) -> None:
        self._pool = None
        if jobs > 1:
            self._pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def map(self, work: Any, pieces: Sequence[Piece]) -> Iterator[Any]:
        """What the work gives of each."""
        return map(work, pieces) if self._pool is None else self._pool.map(work, pieces)


# ---- what is told -------------------------------------------------------------------------------


def label(piece: Piece) -> str:
    """What a piece is called."""
    own = "" if piece.encoder in (None, MODEL) else f" {Path(str(piece.encoder)).stem}"
    steps = "" if piece.steps is None else f", {piece.steps} steps"
    where = "" if piece.scene == RIG else ", plain generator"
    return f"{piece.method} in {piece.space}{own}{steps}{where}{', edited' if piece.edited else ''}"


def row_of(piece: Piece, found: Arrays) -> dict[str, Any]:
    """Medians over the rows, those of which 5 % are worse, and seconds of one row."""
    told: dict[str, Any] = {"piece": label(piece), "rows": piece.rows}
    for name in (*COLUMNS, "loss"):
        if name in found:
            values = found[name][np.isfinite(found[name])]
            told[name] = float(np.median(values)) if len(values) else None
            q = 0.05 if name in HIGHER else 0.95
            told[f"{name}, 5 % worse"] = float(np.quantile(values, q)) if len(values) else None
    if "seconds" in found:
        told["seconds"] = float(found["seconds"][0])
    return told


def show(part: str, pieces: Sequence[Piece], found: Found) -> None:
    """The table of a part: medians."""
    print(f"\n{part}")
    if part == "edits":
        told = edits_followed({piece: found[piece] for piece in pieces})
        for name, row in told["pieces"].items():
            values = "".join(f"{row[key]:10.3f}" for key in ("editability", "moved"))
            print(f"{name:<44}{values}   {row['rows']} rows")
        print(f"rank correlation over all rows {told['spearman']}")
        return
    print(f"{'':<44}{'rows':>5}" + "".join(f"{name:>12}" for name in (*COLUMNS, "loss", "s/row")))
    for piece in pieces:
        row = row_of(piece, found[piece])
        cells = "".join(
            f"{'' if row.get(name) is None else format(row[name], '.4f'):>12}"
            for name in (*COLUMNS, "loss", "seconds")
        )
        print(f"{label(piece):<44}{piece.rows:>5}{cells}")


def edits_followed(found: Found) -> dict[str, Any]:
    """Medians of editability and of how far edits move what they are for, of 2 asked for; and
    Spearman's correlation of the two over all rows, and over the rows of one piece (median)."""
    from scipy.stats import spearmanr

    told, each = {}, []
    for piece, arrays in found.items():
        if "moved" in arrays:
            moved = arrays["moved"].mean(axis=1)
            told[label(piece).removesuffix(", edited")] = {
                "editability": float(np.median(arrays["editability"])),
                "moved": float(np.median(moved)),
                "rows": len(moved),
            }
            each.append(np.stack([arrays["editability"], moved]))
    if not each or sum(part.shape[1] for part in each) < 3:
        return {"pieces": told, "spearman": None}
    everything = np.concatenate(each, axis=1)
    within = [spearmanr(*part).statistic for part in each if len(np.unique(part[0])) > 2]
    return {
        "pieces": told,
        "spearman": round(float(spearmanr(*everything).statistic), 3),
        "spearman_within": round(float(np.nanmedian(within)), 3) if within else None,
    }


def comparisons(wanted: Mapping[str, Sequence[Piece]], found: Found) -> dict[str, bool | None]:
    """Name -> whether it holds; None where something is missing."""
    held: dict[str, bool | None] = {}
    if "projector" in wanted:
        pieces = wanted["projector"]
        for theirs, ours in zip(pieces[::2], pieces[1::2], strict=True):
            name = f"optimise at most the official projector's loss: {label(ours)}"
            held[name] = better("loss", ours, theirs, found)
    if "methods" in wanted:
        own = {(piece.method, piece.space): piece for piece in wanted["methods"]}
        steps = [("hybrid", "encoder"), *((m, "hybrid") for m in ("pivotal", "pivotal_tuning"))]
        for ours_named, theirs_named in steps:
            spaces = [space for method, space in own if method == ours_named]
            for space in spaces:
                pair = [own.get((name, space)) for name in (ours_named, theirs_named)]
                name = f"{ours_named} beats {theirs_named} in {space}: mse"
                held[name] = better("mse", *pair, found)
        if not any(name.startswith("pivotal") for name in held):
            held["pivotal tuning beats hybrid: mse"] = None
    if "encoders" in wanted:
        pieces = wanted["encoders"]
        made_pairs = list(zip(pieces[::2], pieces[1::2], strict=True))
        for k, seed in enumerate(SEEDS):
            ours, theirs = made_pairs[k] if k < len(made_pairs) else (None, None)
            for figure in ("ssim", "cosine", "identity*"):
                name = f"diverse similarity beats squared error, seed {seed}: {figure}"
                held[name] = better(figure, ours, theirs, found)
            name = f"diverse similarity within 0.3 dB of squared error, seed {seed}"
            held[name] = better("psnr", ours, theirs, found, margin=LEAST_PSNR)
    return held


def better(
    figure: str, ours: Piece | None, theirs: Piece | None, found: Found, margin: float = 0.0
) -> bool | None:
    """Whether ours is at least as good, in the mean over the rows that both have."""
    if ours not in found or theirs not in found or ours is None or theirs is None:
        return None
    n = min(ours.rows, theirs.rows)
    gain = float(np.mean(found[ours][figure][:n]) - np.mean(found[theirs][figure][:n]))
    return gain >= margin if figure in HIGHER else -gain >= margin


if __name__ == "__main__":
    sys.exit(main())
