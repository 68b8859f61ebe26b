"""The report: one self-contained HTML page about a run, worked out from its folder alone.

The page holds no scripts and asks for nothing: pictures are data URIs, figures inline SVG, and a
content security policy forbids the rest. Everything from the run goes through the template's
autoescaping, so that no file name, factor level or attribute can become markup.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from pipelines.folder.checksums import noted
from pipelines.folder.run_folder import RunFolder
from pipelines.folder.store_identity import INVERT
from pipelines.report import text as report_text
from pipelines.report.sections import all_sections
from schemas.atomic import write_bytes

TEMPLATES = Path(__file__).parents[1] / "templates"


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into a run folder and return its path.

    Reads only the folder: run.json, the index, store and direction set that it names, and
    evaluation.json and .npz. Parts that are missing or damaged are left out, with one line on the
    page that says why. The same folder gives the same bytes.

    Raises InputError when the folder has no readable run.json.
    """
    run_dir = Path(run_dir)
    with RunFolder.open(run_dir) as folder:
        html = render_report(folder)
    path = run_dir / "report.html"
    with noted(run_dir, path.name):
        write_bytes(path, html.encode("utf-8"))
    return path


def render_report(folder: RunFolder) -> str:
    """The page as text."""
    sections, absent = all_sections(folder)
    template = page_environment().get_template("report.html.j2")
    html = template.render(header=_header(folder), sections=sections, absent=absent)
    return html.lstrip()


@functools.cache
def page_environment() -> jinja2.Environment:
    """Templates of pages, with autoescaping."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=report_text.count, plain=report_text.plain)
    return environment


def _header(folder: RunFolder) -> dict[str, Any]:
    run = folder.run
    spec: dict[str, Any] = run["spec"] if isinstance(run.get("spec"), dict) else {}
    report_spec = spec.get("report") if isinstance(spec.get("report"), dict) else {}
    name = str(run.get("name", folder.path.resolve().name))
    code = run.get("exit_code")
    if code == 0 and (_counts(run).get("quarantined") or folder.left_out()):
        code = 3  # an older release did not count what annotators could not measure
    tone, meaning = report_text.EXIT_MEANINGS.get(
        code if isinstance(code, int) else -1,
        ("fair", "still running" if code is None else f"ended with exit code {code}"),
    )
    return {
        "name": name,
        "title": str((report_spec or {}).get("title") or name),
        "tone": tone,
        "meaning": meaning,
        "exit_code": code,
        "started": report_text.moment(run.get("started")),
        "finished": report_text.moment(run.get("finished")),
        "tiles": _tiles(folder),
    }


def _counts(run: dict[str, Any]) -> dict[str, Any]:
    return run["counts"] if isinstance(run.get("counts"), dict) else {}


def _tiles(folder: RunFolder) -> list[tuple[str, str, str]]:
    """Key figures: (label, value, unit or note)."""
    run = folder.run
    counts = _counts(run)
    tiles = []
    if report_text.is_number(counts.get("ok")):
        tiles.append(("rows ok", report_text.count(counts["ok"]), ""))
    if report_text.is_number(counts.get("quarantined")):
        tiles.append(("quarantined", report_text.count(counts["quarantined"]), ""))
    missing = sum(found.rows for found in folder.left_out() if found.stage != INVERT)
    if missing:
        tiles.append(("not measured", report_text.count(missing), "rows"))
    for name, told in folder.qualities().items():
        values = folder.quality(name)
        if len(values) and told.first:
            median = report_text.fixed(float(np.median(values)), told.places)
            tiles.append((f"median {told.title}", median, told.unit))
    if folder.directions is not None:
        tiles.append(("directions", report_text.count(len(folder.directions)), ""))
    stages = run.get("stages")
    seconds = (
        [s.get("seconds") for s in stages if isinstance(s, dict)]
        if isinstance(stages, list)
        else []
    )
    total = sum(float(s) for s in seconds if report_text.is_number(s))
    if total > 0:
        tiles.append(("time", report_text.duration(total), ""))
    if report_text.is_number(run.get("peak_memory_mb")):
        value, unit = report_text.memory(run["peak_memory_mb"]).split(" ")
        tiles.append(("peak memory", value, unit))
    return tiles
