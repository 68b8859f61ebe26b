"""Random edits, each followed by a run, against a run from scratch on the same index.

``python -m benchmarks.equivalence`` makes 200 sequences, ``--smoke`` 3. A sequence begins with a
finished run on tiny models and a small folder of pictures and makes a few random edits: pictures
added, removed, changed, broken, doubled, renamed or touched, factor values changed, parameters,
analyses, annotators, encoder or generator changed. After each edit the specification is run; after
an edit without new content nothing may have been computed. At the end a second run begins with an
empty folder and the first one's index, whose order of rows and removed rows are part of the input.
Stores, saved statistics, directions and the annotations' table must be equal: the first three bit
for bit.

``error`` is the number of sequences with a difference. ``ours_s`` is the time of the last run of
each sequence and ``peer_s`` that of the runs from scratch. ``beam_difference`` is the largest
relative difference of a direction computed by Beam in several processes (``--beam`` sequences).
``--first`` begins with another sequence, so that the work can be done in parts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

NOTHING_NEW = ("rename", "touch")
EXPRESSIONS = ("calm", "glad", "sad")


@dataclass
class World:
    """The inputs of a run, and what has been done to them. Everything random comes from ``rng``.

    factors : file name -> person, expression, view, light, as they stand in factors.csv.
    """

    root: Path
    rng: np.random.Generator
    spec: dict[str, Any]
    factors: dict[str, list[str]]
    done: list[str] = field(default_factory=list)
    counter: int = 1000

    @classmethod
    def begin(cls, base: Path, root: Path, seed: list[int]) -> World:
        """A copy of a finished run's folder."""
        from tiny_run import factors_of, spec_of

        shutil.copytree(base, root)
        names = sorted(p.name for p in (root / "images").iterdir())
        factors = {name: factors_of(int(name[:4])) for name in names}
        return cls(root, np.random.default_rng(seed), spec_of(root), factors)

    def edit(self, kind: str) -> None:
        """One edit, by its name in EDITS."""
        from tiny_run import write_factors, write_spec

        EDITS[kind](self)
        self.done.append(kind)
        write_factors(self.root, self.factors)
        write_spec(self.root, self.spec)

    def run(self) -> tuple[str, float]:
        """Run the specification; its outcome and its seconds."""
        return outcome(self.root / "spec.yaml")

    # ---- pictures

    def images(self) -> list[Path]:
        """All pictures there are now."""
        return sorted((self.root / "images").iterdir())

    def some(self, most: int) -> list[Path]:
        """A few of them, at random."""
        found = self.images()
        count = min(len(found), int(self.rng.integers(1, most + 1)))
        return [found[i] for i in sorted(self.rng.choice(len(found), count, replace=False))]

    def new_name(self) -> Path:
        """A name that was never used; before and behind the others by turns."""
        self.counter += 1
        prefix = "a" if self.rng.random() < 0.5 else "z"
        return self.root / "images" / f"{prefix}{self.counter}.png"


def add(world: World) -> None:
    """1 to 70 new pictures, most of them with factors."""
    from tiny_run import factors_of, write_image

    most = 70 if world.rng.random() < 0.2 else 5
    for _ in range(int(world.rng.integers(1, most + 1))):
        path = world.new_name()
        write_image(path, world.counter)
        if world.rng.random() < 0.8:
            world.factors[path.name] = factors_of(int(world.rng.integers(1000)))


def remove(world: World) -> None:
    """Pictures that are gone; their factors may stay behind."""
    for path in world.some(4) if len(world.images()) > 50 else []:
        path.unlink()
        if world.rng.random() < 0.5:
            world.factors.pop(path.name, None)


def change(world: World) -> None:
    """Other pictures under the same names."""
    from tiny_run import write_image

    for path in world.some(3):
        world.counter += 1
        write_image(path, world.counter)


def damage(world: World) -> None:
    """Pictures that cannot be decoded: empty, cut short, or something else."""
    for path in world.some(2):
        contents = [b"", path.read_bytes()[:60], b"no picture"]
        path.write_bytes(contents[int(world.rng.integers(3))])


def double(world: World) -> None:
    """The same bytes under a second name."""
    for path in world.some(2):
        shutil.copyfile(path, world.new_name())


def rename(world: World) -> None:
    """Other names, the same bytes. The factor table goes by the names and follows."""
    for path in world.some(3):
        new = world.new_name()
        path.rename(new)
        if path.name in world.factors:
            world.factors = {
                new.name if name == path.name else name: row for name, row in world.factors.items()
            }


def touch(world: World) -> None:
    """Other times of change, the same bytes."""
    for path in world.some(5):
        os.utime(path, (1e9 + world.counter, 1e9 + world.counter))


def values(world: World) -> None:
    """Other values of a factor; sometimes a level that is new."""
    column = int(world.rng.integers(4))
    for name in world.rng.choice(list(world.factors), 4):
        row = list(world.factors[str(name)])
        if column == 3:
            row[3] = f"{world.rng.normal():.3f}"
        elif column == 1 and world.rng.random() < 0.2:
            row[1] = "wild"
        else:
            donor = world.rng.choice(list(world.factors))
            row[column] = world.factors[str(donor)][column]
        world.factors[str(name)] = row


def forget(world: World) -> None:
    """Rows of the factor table that are gone."""
    for name in world.rng.choice(list(world.factors), 2, replace=False):
        del world.factors[str(name)]


def parameters(world: World) -> None:
    """Another parameter of an analysis, or of the held-out rows."""
    choices: list[tuple[str, str, list[Any]]] = [
        ("pca", "n_components", [4, 5, 6, None]),
        ("pca", "layers", [None, "each"]),
        ("mean_difference", "pair_by", [[], ["person"]]),
        ("mean_difference", "ridge", [0.001, 0.1]),
        ("svm", "c", [0.1, 1.0]),
        ("svm", "threshold", [0.0, 0.1]),
        ("hosvd", "energy", [0.7, 0.95]),
        ("hosvd", "repeats", ["mean", "weighted"]),
        ("nrsfm", "n_shapes", [1, 2, 3]),
        ("nrsfm", "labels", ["image", "render"]),
        ("holdout", "fraction", [0.2, 0.4]),
    ]
    section, key, options = choices[int(world.rng.integers(len(choices)))]
    value = options[int(world.rng.integers(len(options)))]
    if section == "holdout":
        world.spec["evaluate"]["holdout"][key] = value
    elif section in world.spec["analyse"]:
        world.spec["analyse"][section][key] = value


def analyses(world: World) -> None:
    """An analysis more or less."""
    from tiny_run import spec_of

    every = spec_of(world.root)["analyse"]
    name = str(world.rng.choice(["pca", "mean_difference", "svm", "hosvd", "sefa"]))
    if name in world.spec["analyse"]:
        del world.spec["analyse"][name]
    else:
        world.spec["analyse"][name] = every.get(name, {"n_components": 3})


def annotators(world: World) -> None:
    """Other weights under the same name, another target, or one annotator more or less."""
    from tiny_run import spec_of, write_annotators

    kind = int(world.rng.integers(3))
    if kind == 0:
        write_annotators(world.root, "" if world.rng.random() < 0.3 else "x")
    elif kind == 1:
        model = world.spec["annotate"][int(world.rng.integers(2))]
        model["render"] = not model.get("render", True)
    elif len(world.spec["annotate"]) == 3:
        world.spec["annotate"].pop()
    else:
        world.spec["annotate"].append(spec_of(world.root)["annotate"][2])


def models(world: World) -> None:
    """Another generator or encoder; often the first one again."""
    from tiny_run import write_model

    name = str(world.rng.choice(["generator", "encoder"]))
    write_model(world.root / f"{name}.safetensors", int(world.rng.integers(2)))


EDITS: dict[str, Callable[[World], None]] = {
    "add": add,
    "remove": remove,
    "change": change,
    "damage": damage,
    "double": double,
    "rename": rename,
    "touch": touch,
    "values": values,
    "forget": forget,
    "parameters": parameters,
    "analyses": analyses,
    "annotators": annotators,
    "models": models,
}


# ---------------------------------------------------------------------------------------------
# Runs and comparisons


def outcome(spec: Path) -> tuple[str, float]:
    """Exit code or kind of error of a run, as text, and its seconds."""
    from tiny_run import run_tiny

    from schemas.errors import LatentflowError

    started = time.monotonic()
    try:
        said = str(run_tiny(spec).exit_code)
    except LatentflowError as e:
        said = e.kind
    return said, time.monotonic() - started


def facts_of(out: Path) -> dict[str, Any]:
    """run.json."""
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


def anything_done(out: Path) -> list[str]:
    """Stages behind the index that the last run did not skip."""
    stages = facts_of(out)["stages"]
    return [s["name"] for s in stages if s["name"] != "index" and not s["skipped"]]


def from_scratch(world: World) -> tuple[Path, str, float]:
    """A run into an empty folder on the world's index: its folder, outcome and seconds."""
    from tiny_run import write_spec

    scratch = world.root / "scratch"
    scratch.mkdir()
    shutil.copyfile(world.root / "out/index.parquet", scratch / "index.parquet")
    write_spec(world.root, {**world.spec, "output": "scratch"})
    said, seconds = outcome(world.root / "spec.yaml")
    write_spec(world.root, world.spec)
    return scratch, said, seconds


def differences(world: World, said: str, scratch: Path, expected: str) -> list[str]:
    """What is not equal between the world's run and the one from scratch."""
    from inversion_fixture import tree

    if said != expected:
        return [f"the run ended with {said}, from scratch with {expected}"]
    ours, theirs = world.root / "out", scratch
    found = []
    if (ours / "index.parquet").read_bytes() != (theirs / "index.parquet").read_bytes():
        found.append("index.parquet")
    parts = ["store"] if said not in ("0", "3") else ["store", "directions"]
    for part in parts:
        place, other = facts_of(ours).get(part), facts_of(theirs).get(part)
        if place != other or place is None:
            found.append(f"{part} {place} and {other}")
            continue
        mine, wanted = tree(ours / place), tree(theirs / other)
        members = {"/".join(name.split("/")[:2]) for name in wanted}
        if part == "store":  # former annotators stay until 'latentflow gc' or another store
            mine = {n: h for n, h in mine.items() if "/".join(n.split("/")[:2]) in members}
        found += [f"{part}: {n}" for n in sorted(mine | wanted) if mine.get(n) != wanted.get(n)]
    mine, wanted = tree(ours / "statistics"), tree(theirs / "statistics")
    found += [f"statistics: {n}" for n in wanted if mine.get(n) != wanted[n]]
    if said in ("0", "3"):
        found += tables_differ(ours / "annotations.parquet", theirs / "annotations.parquet")
    return found


def tables_differ(ours: Path, theirs: Path) -> list[str]:
    """Columns of the second table that the first one lacks or holds otherwise."""
    import pyarrow.parquet as pq

    if not theirs.exists():
        return []
    mine, wanted = pq.read_table(ours), pq.read_table(theirs)
    found = []
    for name in wanted.column_names:
        same = name in mine.column_names and repr(mine.column(name).to_pylist()) == repr(
            wanted.column(name).to_pylist()
        )
        if not same:
            found.append(f"annotations.parquet: column {name}")
    return found


def sequence(base: Path, root: Path, seed: list[int]) -> tuple[World, list[str], float, float]:
    """One sequence: the world afterwards, differences, seconds of its last run and from scratch."""
    world = World.begin(base, root, seed)
    found: list[str] = []
    said, seconds = "0", 0.0
    for _ in range(int(world.rng.integers(1, 5))):
        kind = str(world.rng.choice(list(EDITS)))
        before = said
        world.edit(kind)
        said, seconds = world.run()
        if kind in NOTHING_NEW and before in ("0", "3") and len(world.done) > 1:
            found += [f"{kind} made {name} run" for name in anything_done(world.root / "out")]
    scratch, expected, scratch_s = from_scratch(world)
    return world, found + differences(world, said, scratch, expected), seconds, scratch_s


def through_beam(world: World, scratch: Path) -> float:
    """The largest relative difference of a direction from one of Beam in several processes."""
    from unittest.mock import patch

    import tiny_run

    from schemas.directions.direction_set import DirectionSet
    from transforms.beam.engine import BeamEngine

    options = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    engine = BeamEngine("FnApiRunner", options)
    path = facts_of(scratch).get("directions")
    if path is None or not (scratch / path).exists():
        return 0.0
    mine = DirectionSet.load(scratch / path)
    shutil.rmtree(scratch / "directions")
    shutil.rmtree(scratch / "statistics", ignore_errors=True)
    tiny_run.write_spec(world.root, {**world.spec, "output": "scratch"})
    with patch.object(tiny_run, "Sums", lambda: engine):
        outcome(world.root / "spec.yaml")
    theirs = DirectionSet.load(scratch / path)
    if theirs.names() != mine.names():
        return float("inf")
    gaps = [np.abs(theirs[d.name].vector - d.vector).max() / np.abs(d.vector).max() for d in mine]
    gaps += [abs(theirs[d.name].sd - d.sd) / d.sd for d in mine if d.sd]
    return float(max(gaps, default=0.0))


def main() -> int:
    """Parse the arguments and run; the exit code is 1 when a sequence differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="3 sequences")
    parser.add_argument("--sequences", type=int, default=None, help="number (default 200)")
    parser.add_argument("--first", type=int, default=0, help="number of the first sequence")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--beam", type=int, default=None, help="sequences for Beam (default 2)")
    parser.add_argument("--keep", type=Path, help="keep differing sequences in this folder")
    options = parser.parse_args()
    count = options.sequences if options.sequences is not None else (3 if options.smoke else 200)
    beam = options.beam if options.beam is not None else (0 if options.smoke else 2)
    result = compare(count, options.first, options.seed, beam, options.keep)
    print(f"{'':14}{'seconds':>10}{'runs':>7}")
    print(f"{'from scratch':14}{result['peer_s']:>10.1f}{count:>7}")
    print(f"{'after edits':14}{result['ours_s']:>10.1f}{count:>7}")
    print(f"{count} sequences, {result['edits']} edits; {result['error']} sequences differ")
    print(json.dumps(result))
    return int(result["error"] != 0)


def compare(count: int, first: int, seed: int, beam: int, keep: Path | None) -> dict[str, Any]:
    """All sequences, in a temporary folder (or in ``keep``, where differing ones stay)."""
    from tiny_run import make_tiny, run_tiny

    from pipelines.engine.memory import tree_pss

    ours_s = peer_s = gap = 0.0
    peak, edits, differing = 0, 0, 0
    kinds: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    place = tempfile.TemporaryDirectory(prefix="equivalence-") if keep is None else None
    with place if place is not None else nullcontext(keep) as folder:
        base = Path(str(folder)) / "base"
        run_tiny(make_tiny(base))
        for number in range(first, first + count):
            root = Path(str(folder)) / f"sequence{number}"
            world, found, last_s, scratch_s = sequence(base, root, [seed, number])
            ours_s, peer_s = ours_s + last_s, peer_s + scratch_s
            edits += len(world.done)
            for kind in world.done:
                kinds[kind] = kinds.get(kind, 0) + 1
            code = facts_of(root / "out")["exit_code"]
            outcomes[str(code)] = outcomes.get(str(code), 0) + 1
            differing += bool(found)
            for text in found[:10]:
                print(f"sequence {number} ({', '.join(world.done)}): {text}", flush=True)
            if number - first < beam:
                gap = max(gap, through_beam(world, root / "scratch"))
            peak = max(peak, tree_pss())
            if keep is None or not found:
                shutil.rmtree(root)
        if keep is not None:
            shutil.rmtree(base)
    return {
        "name": "equivalence",
        "ours_s": round(ours_s, 2),
        "peer_s": round(peer_s, 2),
        "ratio": round(peer_s / ours_s, 3) if ours_s else 0.0,
        "peak_mb": round(peak / 1e6),
        "error": differing,
        "sequences": count,
        "edits": edits,
        "beam_difference": gap if beam else None,
        "rows": [{"kinds": kinds, "exit_codes": outcomes, "seed": seed, "first": first}],
        "cores": os.cpu_count(),
        "threads": 1,
    }


if __name__ == "__main__":
    sys.exit(main())
