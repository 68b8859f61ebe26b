"""The demonstration: the built-in face set through the whole path, and how good the result is."""

from __future__ import annotations

import importlib.resources
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pipelines.demo.faces import write_faces
from pipelines.engine.interruption import Interruption
from pipelines.engine.progress import stage_progress
from pipelines.folder.checksums import noted
from pipelines.folder.run_folder import RunFolder
from pipelines.report.page import write_report
from pipelines.runs.run import run
from schemas.atomic import write_bytes, write_json
from schemas.index import DatasetIndex
from schemas.spec import load_spec
from schemas.store.latent_store import LatentStore
from transforms.accumulate.landmarks import points_of_landmarks
from transforms.nrsfm.errors import similarity_error
from transforms.nrsfm.fit import NRSfM, ShapeModel

FACES_SEED = 0
"""Persons of the demonstration; the bundled models were trained on persons of other seeds."""


def run_demo(out: Path, people: int, console: Console) -> int:
    """Write faces into `out`/faces, run the bundled specification, write `out`/summary.json.

    Returns the run's exit code. Run again, it computes only what is missing.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    wanted = {"people": people, "seed": FACES_SEED}
    marker = out / "faces" / "done.json"
    if not marker.exists() or json.loads(marker.read_text()) != wanted:
        with stage_progress(console, "faces") as progress:
            n = write_faces(out / "faces", people=people, seed=FACES_SEED, progress=progress)
        write_json(marker, wanted)
        console.print(f"faces: {n} images, {time.monotonic() - started:.1f} s")
    template = importlib.resources.files("pipelines") / "specs" / "demo.yaml"
    spec_path = out / "demo.yaml"
    write_bytes(spec_path, template.read_bytes())
    with Interruption() as stop:
        result = run(load_spec(spec_path), console=console, stop=stop)
    summary = summarise(out)
    summary["seconds"] = round(time.monotonic() - started, 1)
    with noted(out, "summary.json"):
        write_json(out / "summary.json", summary)
    write_report(out)  # once more, now with the errors against the rig's truth
    _print(summary, out, console)
    return result.exit_code


def summarise(out: Path) -> dict[str, Any]:
    """Figures of a finished demonstration: reconstruction, directions, hyperplanes, 3D shapes.

    Everything but ``nrsfm`` is read from the run; the 3D error is measured against the rig's truth.
    """
    with RunFolder.open(out) as folder:
        run_facts, evaluation = folder.run, folder.evaluation
        store = folder.needed("store", folder.store)
        index = folder.needed("index", folder.index)
        arrays, facts = folder.model("nrsfm")
    directions = {d["name"]: d for d in evaluation["directions"]}
    expressions = {
        name: {
            "rise_fraction": row["rise_fraction"],
            "rise_fraction_of_possible": row["rise_fraction_of_possible"],
            "samples_that_could_rise": row["samples_that_could_rise"],
            "mean_rise": row["mean_change"][row["target"]],
            "largest_other": row["largest_other"],
        }
        for name, row in directions.items()
        if row["method"] in ("mean_difference", "hosvd") and row.get("rise_fraction") is not None
    }
    glasses = [row for row in evaluation["svm"] if row["attribute"] == "glasses"]
    return {
        "images": int(store.n_rows),
        "peak_memory_mb": run_facts["peak_memory_mb"],
        "stages": {s["name"]: s["seconds"] for s in run_facts["stages"]},
        "reconstruction": evaluation["reconstruction"],
        "directions": expressions,
        "yaw_spearman": directions["linear.yaw"]["spearman"]["yaw"],
        "svm_glasses": glasses[0] if glasses else None,
        "comparison": evaluation["comparison"],
        "nrsfm": shape_errors(out, store, index, arrays, facts),
    }


def shape_errors(
    out: Path,
    store: LatentStore,
    index: DatasetIndex,
    arrays: dict[str, np.ndarray],
    facts: dict[str, Any],
) -> dict[str, float]:
    """Relative 3D error after per-frame similarity alignment: of the non-rigid and the rigid fit.

    Both are fitted to predicted landmarks; the truth is the rig's.
    """
    truth = np.load(out / "faces" / "truth.npz", allow_pickle=False)
    row_of = {f"{path}": i for i, path in enumerate(truth["path"].tolist())}
    array = facts["landmarks"]
    rows = arrays["rows"]
    true = truth["landmarks3d"][[row_of[index.uris[row]] for row in rows.tolist()]]
    values = np.asarray(store.array(array)[:])[rows]
    points = points_of_landmarks(values.astype(np.float64))
    model = ShapeModel(
        rigid=arrays["rigid"],
        axes=arrays["axes"],
        modes=arrays["modes"],
        readout=arrays["readout"],
        ridge=arrays["ridge"],
        noise=facts["noise"],
        n_frames=facts["frames"],
        flags=facts["flags"],
    )
    fit = model.fit(points)
    rigid = NRSfM(model, fit.cameras, np.zeros_like(fit.coefficients), fit.translation)
    errors = {name: similarity_error(f.shapes(), true)[0] for name, f in
              (("relative_error", fit), ("rigid_error", rigid))}  # fmt: skip
    return {name: float(np.nanmean(value)) for name, value in errors.items()}


def _print(summary: dict[str, Any], out: Path, console: Console) -> None:
    quality = summary["reconstruction"]
    lines = [
        f"{summary['images']} images in {summary['seconds']:.0f} s, "
        f"peak memory {summary['peak_memory_mb'] / 1024:.1f} GB",
        f"reconstruction: PSNR {quality['psnr_median']:.1f} dB, SSIM {quality['ssim_median']:.3f}",
        f"3D shape: relative error {summary['nrsfm']['relative_error']:.3f} "
        f"(rigid {summary['nrsfm']['rigid_error']:.3f})",
        f"report: {out / 'report.html'}",
        f"figures: {out / 'summary.json'}",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False)
