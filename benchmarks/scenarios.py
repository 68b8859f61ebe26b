"""What a change of the inputs costs: scenario, stages run, blocks read, seconds.

``python -m benchmarks.scenarios`` makes the bundled demonstration (100 persons, 5,000 pictures) in
a temporary folder, or goes on with the finished one in ``--at FOLDER``, and then changes one thing
after the other, running the command line after each: nothing, a parameter of the components, of
the tensor model, of the hyperplanes, a file renamed and another touched, 100 pictures added, one
taken away, an annotator with other weights, a generator with slightly other weights. ``--smoke``
does the same with tiny models and 90 pictures in this process.

Every scenario names what may be computed, and what may be read; ``error`` is the number of
scenarios that computed or read something else. ``ours_s`` is the run after which nothing had
changed, ``peer_s`` the first one, which had everything to make.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parent.parent
COMPUTED = ("invert", "annotate", "analyse", "evaluate", "report")
NUDGE = 1.001
"""Factor on some weights of the other generator and annotator."""


@dataclass(frozen=True)
class Scenario:
    """One change.

    stages : that may, and must, compute something;  analyses : of these, None for any
    reads : whether an analysis may read the store
    """

    name: str
    change: str
    stages: tuple[str, ...]
    analyses: tuple[str, ...] | None = None
    reads: bool = True


AFTER = ("analyse", "evaluate", "report")
READERS = "those that read the scores"
SCENARIOS = (
    Scenario("nothing changed", "nothing", (), ()),
    Scenario("file renamed, file touched", "rename", (), ()),
    Scenario("components: n_components", "components", AFTER, ("pca",), False),
    Scenario("tensor model: energy", "tensor", AFTER, ("hosvd",), False),
    Scenario("hyperplanes: c", "hyperplanes", AFTER, ("svm",)),
    Scenario("pictures added", "add", ("invert", "annotate", *AFTER)),
    Scenario("one picture removed", "remove", ("invert", "annotate", *AFTER)),
    Scenario("other annotator", "annotator", ("annotate", *AFTER), (READERS,)),
    Scenario("other generator", "generator", ("invert", "annotate", *AFTER)),
)


class Subject(Protocol):
    """A run whose inputs can be changed: a method for every `Scenario.change`."""

    out: Path
    readers_of_scores: tuple[str, ...]

    def run(self) -> None:
        """Bring it up to date."""


@dataclass
class Measured:
    """What a run did."""

    scenario: str
    seconds: float
    stages: list[str] = field(default_factory=list)
    analyses: list[str] = field(default_factory=list)
    blocks_inverted: int = 0
    blocks_annotated: int = 0
    blocks_read: int = 0
    passes: int = 0


def main() -> int:
    """Parse the arguments and run; the exit code is 1 when a scenario did something else."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="90 pictures, tiny models")
    parser.add_argument("--people", type=int, default=100, help="persons, 50 pictures each")
    changes = [s.change for s in SCENARIOS]
    told = "changes to make after 'nothing', by default all: %(choices)s"
    parser.add_argument("--only", nargs="*", metavar="CHANGE", choices=changes, help=told)
    parser.add_argument("--at", type=Path, help="folder of a demonstration to copy and go on with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scenarios-") as folder:
        root = Path(folder) / "run"
        if options.smoke:
            subject: Any = Tiny(root)
        else:
            subject = Demonstration(root, options.people, options.at)
        wanted = changes if options.only is None else ["nothing", *options.only]
        chosen = [s for s in SCENARIOS if s.change in wanted]
        result = measure(subject, print_row, chosen)
    print(json.dumps(result))
    return int(result["error"] != 0)


def measure(
    subject: Any, show: Callable[[Sequence[Any]], None], scenarios: Sequence[Scenario] = SCENARIOS
) -> dict[str, Any]:
    """Run the scenarios; the JSON of the last line."""
    show(("scenario", "stages run", "analyses", "blocks", "read", "passes", "seconds"))
    rows: list[Measured] = []
    wrong: list[str] = []
    peak = 0.0
    for scenario in [None, *scenarios]:
        if scenario is not None:
            getattr(subject, scenario.change)()
        row = observe(subject, "first run" if scenario is None else scenario.name)
        rows.append(row)
        peak = max(peak, peak_mb(subject.out))
        if scenario is not None:
            found = unexpected(scenario, row, subject.readers_of_scores)
            wrong += [f"{scenario.name}: {text}" for text in found]
        blocks = f"{row.blocks_inverted}+{row.blocks_annotated}"
        stages, analyses = ",".join(row.stages) or "none", ",".join(row.analyses) or "none"
        seconds = f"{row.seconds:.2f}"
        show((row.scenario, stages, analyses, blocks, row.blocks_read, row.passes, seconds))
    for text in wrong:
        print(f"unexpected: {text}")
    first, ours_s = rows[0], rows[1].seconds
    return {
        "name": "scenarios",
        "ours_s": round(ours_s, 3),
        "peer_s": round(first.seconds, 3),
        "ratio": round(first.seconds / ours_s, 2),
        "peak_mb": peak,
        "error": len(wrong),
        "rows": [{**vars(row), "seconds": round(row.seconds, 3)} for row in rows],
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")),
    }


def print_row(cells: Sequence[Any]) -> None:
    """One line of the table."""
    widths = (28, 40, 44, 8, 6, 7, 9)
    print("".join(f"{cell!s:<{width}}" for cell, width in zip(cells, widths, strict=True)))


def observe(subject: Subject, name: str) -> Measured:
    """Run, and what its run.json tells."""
    started = time.monotonic()
    subject.run()
    row = Measured(name, time.monotonic() - started)
    stages = {s["name"]: s for s in json.loads((subject.out / "run.json").read_text())["stages"]}
    row.stages = [name for name in COMPUTED if not stages.get(name, {"skipped": True})["skipped"]]
    row.blocks_inverted = stages["invert"]["detail"]["blocks_done"]
    row.blocks_annotated = stages["annotate"]["detail"]["blocks_done"]
    for analysis, detail in stages["analyse"]["detail"].items():
        if not detail["skipped"]:
            row.analyses.append(analysis)
            row.blocks_read += detail["blocks_read"]
            row.passes += detail["passes"]
    return row


def unexpected(scenario: Scenario, row: Measured, readers: Sequence[str]) -> list[str]:
    """How a run differs from what its scenario allows. readers : analyses that read scores."""
    found = []
    analyses = readers if scenario.analyses == (READERS,) else scenario.analyses
    if tuple(row.stages) != scenario.stages:
        found.append(f"ran {row.stages!r}, not {list(scenario.stages)!r}")
    if analyses is not None and set(row.analyses) != set(analyses):
        found.append(f"computed {row.analyses!r}, not {list(analyses)!r}")
    if not scenario.reads and (row.blocks_read or row.passes):
        found.append(f"read {row.blocks_read!r} blocks in sums and made {row.passes!r} passes")
    return found


def peak_mb(out: Path) -> float:
    """Peak memory that the last run noted, over its process tree."""
    return float(json.loads((out / "run.json").read_text())["peak_memory_mb"])


class Edited(ABC):
    """Changes of a specification file that both subjects make alike."""

    root: Path
    spec_path: Path
    spec: dict[str, Any]

    @property
    def out(self) -> Path:
        """The run's folder."""
        return self.root / self.spec["output"]

    @property
    @abstractmethod
    def images(self) -> Path:
        """Folder of the pictures."""

    def write(self) -> None:
        """The specification, as it is now."""
        import yaml

        self.spec_path.write_text(yaml.safe_dump(self.spec, sort_keys=False))

    def set(self, section: str, **keys: Any) -> None:
        """Keys of an analysis."""
        own = self.spec["analyse"].get(section) or {}
        self.spec["analyse"][section] = {**own, **keys}
        self.write()

    def nothing(self) -> None:
        """No change."""
        return

    def rename(self) -> None:
        """One picture elsewhere, another with a new time."""
        first, second = sorted(self.images.iterdir())[3:5]
        first.rename(first.with_name(f"renamed{first.suffix}"))
        os.utime(second)

    def remove(self) -> None:
        """One picture less."""
        sorted(self.images.iterdir())[-2].unlink()

    def components(self) -> None:
        """Fewer components."""
        self.set("pca", n_components=self.spec["analyse"]["pca"]["n_components"] // 2)

    def tensor(self) -> None:
        """Smaller ranks."""
        self.set("hosvd", energy=0.8)

    def hyperplanes(self) -> None:
        """A weaker penalty."""
        self.set("svm", c=0.5)


class Tiny(Edited):
    """The tests' tiny run, in this process."""

    readers_of_scores = ("mean_difference", "svm")

    def __init__(self, root: Path) -> None:
        sys.path.insert(0, str(ROOT / "tests"))
        import tiny_run

        self.tiny = tiny_run
        self.root, self.count = root, 90
        self.spec_path = tiny_run.make_tiny(root, self.count)
        self.spec = tiny_run.spec_of(root)

    @property
    def images(self) -> Path:
        """Folder of the pictures."""
        return self.root / "images"

    def run(self) -> None:
        """In this process, all stages."""
        self.tiny.run_tiny(self.spec_path, "report")

    def add(self) -> None:
        """Ten more."""
        for number in range(self.count, self.count + 10):
            self.tiny.write_image(self.images / f"{number:04}.png", number)
        self.count += 10
        rows = {f"{i:04}.png": self.tiny.factors_of(i) for i in range(self.count)}
        self.tiny.write_factors(self.root, rows)

    def annotator(self) -> None:
        """Another model of scores."""
        other = self.root / "other"
        other.mkdir()
        self.tiny.write_annotators(other, "more")
        for ending in (".onnx", ".json"):
            shutil.copy(other / f"marks{ending}", self.root / f"marks{ending}")

    def generator(self) -> None:
        """Another generator."""
        self.tiny.write_model(self.root / "generator.safetensors", 5)


class Demonstration(Edited):
    """The bundled demonstration through the command line.

    at : folder of a finished one, to copy and go on with; its first run is then the time it takes
        to bring the copy up to date
    """

    readers_of_scores = ("svm",)  # its mean differences are those of two factors

    def __init__(self, root: Path, people: int, at: Path | None) -> None:
        import yaml

        from pipelines.demo.faces import write_faces

        self.root, self.people = root, people
        self.spec_path = root / "demo.yaml"
        if at is None:
            write_faces(root / "faces", people=people)
            shutil.copy(ROOT / "pipelines" / "specs" / "demo.yaml", self.spec_path)
        else:
            shutil.copytree(at, root, copy_function=shutil.copy2)
            self.people = len(list((root / "faces" / "images").iterdir())) // 50
        self.spec = yaml.safe_load(self.spec_path.read_text())
        self.set("hosvd", missing="drop_person")  # of whom a picture is removed

    @property
    def images(self) -> Path:
        """Folder of the pictures."""
        return self.root / "faces" / "images"

    def run(self) -> None:
        """`latentflow run`, a process of its own."""
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", "run", str(self.spec_path)],
            capture_output=True, text=True, check=False, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        if done.returncode not in (0, 3):
            raise SystemExit(f"the run ended with code {done.returncode}:\n{done.stderr}")

    def add(self) -> None:
        """Two more persons: 100 pictures, and their factors."""
        from pipelines.demo.faces import write_faces

        more, faces = self.root / "more", self.root / "faces"
        write_faces(more, people=self.people + 2)
        known = set((faces / "factors.csv").read_text().splitlines())
        lines = (more / "factors.csv").read_text().splitlines()
        added = [line for line in lines if line not in known]
        for line in added:
            shutil.copy(more / line.split(",")[0], self.images)
        with open(faces / "factors.csv", "a", encoding="utf-8") as table:
            table.write("\n".join(added) + "\n")
        shutil.rmtree(more)

    def annotator(self) -> None:
        """The bundled attributes with slightly other weights."""
        import onnx
        from onnx import numpy_helper

        from generators.annotators.card import resolve_uri

        old = resolve_uri("bundled:faces64/attributes")
        model = onnx.load(str(old))
        weight = max(model.graph.initializer, key=lambda w: len(w.raw_data))
        nudged = (numpy_helper.to_array(weight) * NUDGE).astype("float32")
        weight.CopyFrom(numpy_helper.from_array(nudged, weight.name))
        onnx.save(model, str(self.root / "attributes.onnx"))
        shutil.copy(old.with_suffix(".json"), self.root / "attributes.json")
        self.spec["annotate"][0]["model"] = "attributes.onnx"
        self.write()

    def generator(self) -> None:
        """The bundled generator with slightly other weights, as a file of our own."""
        import torch

        import generators

        made = generators.load(self.spec["generator"])
        with torch.no_grad():
            for name, parameter in made.network.named_parameters():
                if name.endswith("weight"):
                    parameter.mul_(NUDGE)
        generators.save_safetensors(made, self.root / "generator.safetensors")
        self.spec |= {"generator": "generator.safetensors", "encoder": "bundled:faces64"}
        self.write()


if __name__ == "__main__":
    sys.exit(main())
