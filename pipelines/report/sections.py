"""Sections of the report: each is worked out from a run folder, or says why it cannot be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.folder.run_folder import RunFolder
from pipelines.report import plots, shape_plots
from pipelines.report import text as report_text
from pipelines.report.directions import comparison, direction_strips, hyperplanes, matrix
from pipelines.report.text import is_number

MAX_SAMPLES = 24
SHOWN_BASIS = 4
#: Without fitted coefficients a basis shape is drawn at this share of the rigid shape's size.
BASIS_SHARE = 0.08


class AbsentError(Exception):
    """A section that cannot be shown; the text says why in one line."""


@dataclass
class Section:
    """One section: ``kind`` names its part of the template, ``data`` what that part shows."""

    kind: str
    title: str
    data: dict[str, Any] = field(default_factory=dict)


def all_sections(folder: RunFolder) -> tuple[list[Section], list[tuple[str, str]]]:
    """The sections that can be shown, in order, and (title, reason) of those that cannot."""
    shown: list[Section] = []
    absent: list[tuple[str, str]] = []
    for kind, title, build in _SECTIONS:
        try:
            shown.append(Section(kind, title, build(folder)))
        except AbsentError as e:
            absent.append((title, str(e)))
    return shown, absent


def _why(folder: RunFolder, part: str, otherwise: str) -> AbsentError:
    return AbsentError(folder.absent.get(part, otherwise))


# ---- what ran -------------------------------------------------------------------------------


def _inputs(folder: RunFolder) -> dict[str, Any]:
    run, spec = folder.run, _mapping(folder.run.get("spec"))
    dataset, invert = _mapping(spec.get("dataset")), _mapping(spec.get("invert"))
    facts: list[tuple[str, Any, str]] = []
    if dataset:
        facts.append(("Dataset", dataset.get("path", ""), str(dataset.get("kind", ""))))
    if folder.index is not None:
        active = int(folder.index.active.sum())
        gone = folder.index.n_rows - active
        ids = np.array(folder.index.image_ids)[folder.index.active]
        doubles = active - len(np.unique(ids))
        notes = [(doubles, "with the bytes of another"), (gone, "more removed")]
        note = ", ".join(f"{report_text.count(n)} {what}" for n, what in notes if n)
        facts.append(("Images", report_text.count(active), note))
    facts.append(("Generator", spec.get("generator", report_text.DASH), ""))
    if run.get("generator_fp"):
        facts.append(("Generator fingerprint", run["generator_fp"], "fingerprint"))
    if invert:
        how = ", ".join(str(invert[k]) for k in ("method", "space") if invert.get(k))
        facts.append(("Inversion", how, ""))
    if folder.store is not None:
        note = f"{folder.store.n_blocks} blocks of {folder.store.block_rows} rows"
        facts.append(("Latent store", run.get("store", ""), note))
    if is_number(spec.get("seed")):
        facts.append(("Seed", str(spec["seed"]), ""))
    return {
        "facts": [(a, report_text.redacted(str(b)), c) for a, b, c in facts],
        "factors": _factors(folder),
        "indexing": [
            (report_text.plain(k), report_text.count(v))
            for k, v in folder.index_report.items()
            if is_number(v)
        ],
        "versions": sorted(_mapping(run.get("versions")).items()),
        "spec": report_text.specification(spec) if spec else "",
    }


def _factors(folder: RunFolder) -> list[dict[str, Any]]:
    if folder.index is None:
        return []
    rows = []
    for name in folder.index.factor_names:
        values = folder.index.factor(name)
        if isinstance(values, tuple):
            codes, categories = values
            listed = ", ".join(categories[:8])
            listed += ", \N{HORIZONTAL ELLIPSIS}" if len(categories) > 8 else ""
            kind, missing = f"{report_text.count(len(categories))} levels", int((codes < 0).sum())
        else:
            known = values[np.isfinite(values)]
            kind, missing = "number", len(values) - len(known)
            listed = "no values"
            if len(known):
                low, high = (report_text.number(float(f(known))) for f in (np.min, np.max))
                listed = f"{low} to {high}"
        rows.append({"name": name, "kind": kind, "values": listed, "missing": missing})
    return rows


def _stages(folder: RunFolder) -> dict[str, Any]:
    stages = [s for s in _list(folder.run.get("stages")) if isinstance(s, dict)]
    if not stages:
        raise AbsentError("run.json lists no stages")
    seconds = [float(s["seconds"]) if is_number(s.get("seconds")) else 0.0 for s in stages]
    longest, total = max(seconds), sum(seconds)
    rows = []
    for stage, took in zip(stages, seconds, strict=True):
        n = stage.get("rows")
        detail = _mapping(stage.get("detail"))
        parts = [(k, v) for k, v in detail.items() if is_number(_mapping(v).get("seconds"))]
        rows.append(
            {
                "name": str(stage.get("name", "")),
                "duration": report_text.duration(took),
                "share": 100 * took / longest if longest > 0 else 0.0,
                "rows": report_text.count(n),
                "rate": report_text.number(n / took) if is_number(n) and took > 0 else "",
                "skipped": bool(stage.get("skipped")),
                "parts": [
                    (report_text.plain(k), report_text.duration(v["seconds"]))
                    for k, v in parts
                    if not v.get("skipped")
                ],
                "detail": ", ".join(
                    f"{report_text.plain(k)} {report_text.number(v) if is_number(v) else v}"
                    for k, v in detail.items()
                    if isinstance(v, str | int | float) and v != ""
                ),
            }
        )
    return {
        "rows": rows,
        "total": report_text.duration(total),
        "memory": report_text.memory(folder.run.get("peak_memory_mb")),
    }


def _left_out(folder: RunFolder) -> dict[str, Any]:
    """Quarantined rows, and files of the dataset that became no rows."""
    found = folder.index_report
    files = [
        {
            "what": str(kind.get("what", "")),
            "why": str(kind.get("why", "")),
            "n": kind.get("n"),
            "examples": [str(e) for e in _list(kind.get("examples"))],
        }
        for kind in map(_mapping, _list(found.get("left_out")))
    ]
    notes = [str(note) for note in _list(found.get("notes"))]
    if folder.store is None:
        raise _why(folder, "store", "there is no latent store")
    return {
        "rows": folder.left_out(),
        "n_rows": folder.store.n_rows,
        "files": files,
        "notes": [report_text.redacted(note) for note in notes],
    }


# ---- reconstruction and spectrum ------------------------------------------------------------


def _reconstruction(folder: RunFolder) -> dict[str, Any]:
    histograms = []
    for metric, label, unit, places in (
        ("psnr", "PSNR, dB", " dB", 2),
        ("ssim", "SSIM", "", 3),
    ):
        values = folder.quality(metric)
        if len(values):
            median = f"median {report_text.fixed(float(np.median(values)), places)}{unit}"
            histograms.append(plots.histogram(values, label, median))
    pairs = []
    original = folder.pictures("samples/original")
    drawn = folder.pictures("samples/reconstruction")
    if original is not None and drawn is not None and original.shape == drawn.shape:
        wanted = _mapping(_mapping(folder.run.get("spec")).get("report")).get("samples")
        n = min(len(original), int(wanted) if is_number(wanted) else MAX_SAMPLES, MAX_SAMPLES)
        for above, below in zip(original[:n], drawn[:n], strict=True):
            pairs.append(plots.picture_uri(plots.tile(np.stack([above, below])[:, None])))
    alone = folder.pictures("samples/drawn")
    if alone is not None:
        pairs = [plots.picture_uri(plots.tile(image[None, None])) for image in alone[:MAX_SAMPLES]]
        dataset = _mapping(_mapping(folder.run.get("spec")).get("dataset"))
        facts = {key: dataset.get(key) for key in ("n", "seed", "truncation")}
        return {"pairs": pairs, "histograms": [], "sampled": facts}
    if not pairs and not histograms:
        if folder.store is None:
            raise _why(folder, "store", "there is no latent store")
        raise AbsentError("the store holds no quality of inverted rows")
    return {"pairs": pairs, "histograms": histograms, "sampled": None}


def _spectrum(folder: RunFolder) -> dict[str, Any]:
    arrays, attrs = _model(folder, "pca", "PCA")
    parts = [str(_mapping(s).get("name")) for s in attrs.get("selections") or []]
    if parts and "" not in parts:
        raise AbsentError(f"the PCA is of {', '.join(parts)} only; the model has each spectrum")
    ratio = np.asarray(arrays.get("explained_variance_ratio", []), dtype=np.float64).ravel()
    if len(ratio) == 0 or not np.isfinite(ratio).all():
        raise AbsentError("the PCA has no explained variance ratios (constant latents)")
    bars, total = plots.spectrum(ratio)
    cumulative = np.cumsum(ratio)
    levels = [
        (level, int(np.argmax(cumulative >= level)) + 1)
        for level in (0.5, 0.9, 0.95, 0.99)
        if cumulative[-1] >= level
    ]
    return {
        "figures": [bars, total],
        "n_components": len(ratio),
        "first": report_text.percent(float(ratio[0])),
        "total": report_text.percent(float(cumulative[-1])),
        "levels": [(report_text.percent(level, 0), n) for level, n in levels],
        "n_rows": _shown_count(attrs, "n_rows", "rows"),
    }


# ---- tensor model and shape -----------------------------------------------------------------


def level_groups(names: Any, n_levels: int) -> list[tuple[str, float | None]] | None:
    """(group, intensity) of each level of a tensor model's mode, None where names do not fit.

    names : a list with one entry a level, each a text such as "anger/3" (separator '/', ':', '|',
    ',' or space) or a list [expression, intensity].
    """
    if not isinstance(names, list) or len(names) != n_levels:
        return None
    return [_group(name) for name in names]


def _group(name: Any) -> tuple[str, float | None]:
    parts = [str(p) for p in name] if isinstance(name, list | tuple) else [str(name)]
    if len(parts) == 1:
        found = re.fullmatch(r"(.+?)\s*[/:|, ]\s*([0-9]*\.?[0-9]+)", parts[0])
        parts = [found[1], found[2]] if found else parts
    try:
        return " ".join(parts[:-1]) or parts[0], float(parts[-1]) if len(parts) > 1 else None
    except ValueError:
        return " ".join(parts), None


def _subspace(folder: RunFolder) -> dict[str, Any]:
    arrays, attrs = _model(folder, "hosvd", "HOSVD")
    mode, points, names = _expression_mode(arrays, attrs)
    if points.ndim != 2 or points.shape[0] < 3 or points.shape[1] < 2:
        raise AbsentError("the HOSVD has no mode beside the persons with at least three levels")
    groups = level_groups(names, len(points))
    if groups is None:
        raise AbsentError(f"the levels of the HOSVD's mode {mode!r} have no names")
    figure = plots.subspace(points[:, :2], groups)
    return {"figure": figure, "n_levels": len(points), "mode": report_text.plain(mode)}


def _expression_mode(
    arrays: dict[str, np.ndarray], attrs: dict[str, Any]
) -> tuple[str, np.ndarray, Any]:
    """(name of the mode, coordinates of its levels (levels, n), names of the levels).

    The mode with "expression" in its name, else the first composite one, else the one with most
    levels; never the first mode (persons). Models may also hold one "expression_subspace".
    """
    if "expression_subspace" in arrays:
        return "expression", _floats(arrays["expression_subspace"]), attrs.get("levels")
    modes = [m if isinstance(m, list) else [m] for m in _list(attrs.get("modes"))]
    found = [i for i in range(1, len(modes)) if f"subspace{i}" in arrays]
    if not found:
        return "expression", np.empty((0, 0)), None
    chosen = max(
        found,
        key=lambda i: (
            any("expression" in str(name).lower() for name in modes[i]),
            len(modes[i]) > 1,
            len(arrays[f"subspace{i}"]),
        ),
    )
    levels = _list(attrs.get("levels"))
    names = _list(levels[chosen]) if chosen < len(levels) else []
    kept = arrays.get(f"kept{chosen}")
    if kept is not None and len(kept) and int(np.max(kept)) < len(names):
        names = [names[int(k)] for k in kept]
    mode = " \N{MULTIPLICATION SIGN} ".join(str(name) for name in modes[chosen])
    return mode, _floats(arrays[f"subspace{chosen}"]), names


def _floats(value: np.ndarray) -> np.ndarray:
    return np.asarray(value, dtype=np.float64)


def _shape(folder: RunFolder) -> dict[str, Any]:
    arrays, attrs = _model(folder, "nrsfm", "NRSfM")
    rigid = np.asarray(arrays.get("mean_shape", arrays.get("rigid", np.empty(0))), dtype=np.float64)
    if rigid.ndim != 2 or rigid.shape[0] != 3 or not np.isfinite(rigid).all():
        raise AbsentError("the NRSfM model has no rigid shape")
    rigid = rigid - rigid.mean(axis=1, keepdims=True)
    size = float(np.sqrt((rigid**2).sum(axis=0).mean()))
    if size == 0:
        raise AbsentError("the NRSfM model's rigid shape is a single point")
    frame, mirrored = shape_plots.face_frame(rigid)
    shape = frame @ rigid / size
    basis = np.asarray(arrays.get("basis", np.empty((0, 3, 0))), dtype=np.float64)
    multiples, scaled = [], False
    if basis.ndim == 3 and basis.shape[1:] == rigid.shape and np.isfinite(basis).all():
        spread = _spread(arrays, attrs, len(basis))
        scaled = spread is not None
        for k, vector in enumerate(basis[:SHOWN_BASIS]):
            length = float(np.sqrt((vector**2).sum(axis=0).mean()))
            amount = 2 * spread[k] if spread is not None else 0.0
            if not amount and length:
                amount = BASIS_SHARE * size / length
            change = frame @ vector * amount / size
            multiples.append((k + 1, shape_plots.basis_views(shape, change, k + 1)))
    return {
        "views": shape_plots.shape_views(shape),
        "multiples": multiples,
        "scaled": scaled,
        "n_basis": len(basis),
        "n_points": rigid.shape[1],
        "mirrored": mirrored,
        "share": report_text.percent(BASIS_SHARE, 0),
        "errors": _shape_errors(folder),
        "n_frames": _shown_count(attrs, "n_frames", "frames"),
    }


def _spread(
    arrays: dict[str, np.ndarray], attrs: dict[str, Any], n_basis: int
) -> np.ndarray | None:
    """Standard deviation of each basis shape's coefficients over frames, None when not stored.

    They stand in "coefficients" (F, K), or in the columns "alpha0", "alpha1", ... of "parameters".
    """
    coefficients = _floats(arrays.get("coefficients", np.empty(0)))
    names, parameters = attrs.get("parameter_names"), arrays.get("parameters", np.empty(0))
    if isinstance(names, list) and parameters.ndim == 2 and len(names) == parameters.shape[1]:
        columns = [i for i, name in enumerate(names) if re.fullmatch(r"alpha\d+", str(name))]
        coefficients = _floats(parameters)[:, columns]
    if coefficients.ndim != 2 or coefficients.shape[1] != n_basis or n_basis == 0:
        return None
    kept = coefficients[np.isfinite(coefficients).all(axis=1)]
    return np.asarray(np.std(kept, axis=0)) if len(kept) > 1 else None


#: Groups of errors that are of one unit, so that their bars can be compared.
_ERRORS = (
    {
        "relative_error": "Relative 3D error after similarity alignment",
        "rigid_error": "The same, of the rigid shape alone",
    },
    {"reprojection": "Relative re-projection error"},
    {
        "residual": "Re-projection error, root mean square in pixels",
        "residual_rigid": "The same, of the rigid shape alone",
    },
    {"noise": "Noise estimate, pixels"},
)


def _shape_errors(folder: RunFolder) -> list[dict[str, Any]]:
    """Errors that evaluation measured; those against known 3D truth may stand in the summary."""
    found = {**_mapping(folder.summary.get("nrsfm")), **_mapping(folder.evaluation.get("nrsfm"))}
    numbers = {k: float(v) for k, v in found.items() if is_number(v)}
    rows = []
    for group in _ERRORS:
        present = {k: numbers.pop(k) for k in group if k in numbers}
        largest = max(present.values(), default=0.0)
        for key, value in present.items():
            share = 100 * value / largest if len(present) > 1 and largest > 0 else None
            rows.append({"name": group[key], "value": report_text.number(value), "share": share})
    for key, value in numbers.items():
        name = report_text.plain(key).capitalize()
        rows.append({"name": name, "value": report_text.number(value), "share": None})
    return rows


def _shown_count(attrs: dict[str, Any], *keys: str) -> str:
    found = [attrs[key] for key in keys if is_number(attrs.get(key))]
    return report_text.count(found[0]) if found else ""


def _model(
    folder: RunFolder, name: str, title: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if folder.directions is None:
        raise _why(folder, "directions", "there is no direction set")
    arrays, attrs = folder.model(name)
    if not arrays:
        raise AbsentError(f"{title} is not among this run's analyses")
    return arrays, attrs


# ---- what evaluation measured ---------------------------------------------------------------


def _evaluated(build: Callable[[RunFolder], dict[str, Any]], key: str, what: str) -> Any:
    def section(folder: RunFolder) -> dict[str, Any]:
        if not folder.evaluation:
            raise _why(folder, "evaluation", "directions were not evaluated")
        if not _list(folder.evaluation.get(key)):
            raise AbsentError(f"the evaluation holds no {what}")
        return build(folder)

    return section


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


_SECTIONS: tuple[tuple[str, str, Callable[[RunFolder], dict[str, Any]]], ...] = (
    ("inputs", "Inputs", _inputs),
    ("stages", "Stages and time", _stages),
    ("left-out", "Rows left out", _left_out),
    ("reconstruction", "Reconstruction", _reconstruction),
    ("spectrum", "Principal components", _spectrum),
    ("directions", "Directions", _evaluated(direction_strips, "directions", "directions")),
    ("changes", "What each direction changes", _evaluated(matrix, "directions", "directions")),
    (
        "comparison",
        "HOSVD and mean difference",
        _evaluated(comparison, "comparison", "comparison of HOSVD with mean difference"),
    ),
    ("svm", "Hyperplanes", _evaluated(hyperplanes, "svm", "held-out scores of hyperplanes")),
    ("subspace", "Expression subspace", _subspace),
    ("shape", "Landmark shape in 3D", _shape),
)
