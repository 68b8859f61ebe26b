"""A small synthetic run folder, as `latentflow run` leaves it: for tests of the report.

The pictures are faces of the rig at true factor values, so that a person can judge the layout;
scores are made up from simple curves.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from generators.facerig import (
    EXPRESSIONS,
    INTENSITIES,
    complete_design,
    geometry,
    random_faces,
    render,
)
from schemas.directions.direction_set import DirectionSet, unit_direction
from schemas.index import DatasetIndex, NewRow, continuous_column, encode_categories
from schemas.store.latent_store import ArraySpec, LatentStore
from schemas.store.reasons import Reason, Status

GENERATOR_FP = "6f1d" * 16
ATTRIBUTES = (*EXPRESSIONS, "glasses", "beard", "long_hair", "old")
STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
LAYERS, CHANNELS = 4, 16


def make_run_folder(
    root: Path,
    *,
    resolution: int = 32,
    n_rows: int = 64,
    shown: int = 2,
    samples: int = 4,
    seed: int = 0,
    uris: dict[int, str] | None = None,
    attributes: tuple[str, ...] = ATTRIBUTES,
) -> Path:
    """Write a complete run folder at ``root`` and return it.

    uris : file names to use for some rows. attributes : names of the ten scores.
    Rows 3, 17 and 18 are quarantined, row 5 is removed.
    """
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    index = _index(n_rows, uris or {})
    index.save(root / "index.parquet")
    _store(root / "stores/faces-0123456789ab", n_rows, rng)
    directions = _directions(rng, attributes)
    target = root / "directions/faces-0123456789ab"
    directions.save(target)
    _models(directions, rng, attributes)
    evaluation = _evaluation(directions, attributes)
    (root / "evaluation.json").write_text(json.dumps(evaluation))
    np.savez_compressed(
        root / "evaluation.npz", **_pictures(directions, attributes, resolution, shown, samples)
    )
    (root / "index_report.json").write_text(
        json.dumps({"n_rows": n_rows, "duplicates": 0, "unmatched_factor_rows": 2})
    )
    (root / "run.json").write_text(json.dumps(_run(n_rows), indent=1))
    return root


def _index(n_rows: int, uris: dict[int, str]) -> DatasetIndex:
    rows = [
        NewRow(f"{row:064x}", uris.get(row, f"images/{row:05d}.png"), 64, 64)
        for row in range(n_rows)
    ]
    index = DatasetIndex.empty().append(rows)
    person = [f"p{row // 8:04d}" for row in range(n_rows)]
    expression = [("neutral", *EXPRESSIONS)[row % 7] for row in range(n_rows)]
    yaw = np.linspace(-30, 30, n_rows)
    yaw[0] = np.nan
    index = index.with_factors(
        {
            "person": encode_categories(person, None, "string"),
            "expression": encode_categories(expression, None, "string"),
            "yaw": continuous_column(list(yaw)),
        }
    )
    return index.remove([5])


def _store(path: Path, n_rows: int, rng: np.random.Generator) -> LatentStore:
    quality = [ArraySpec("quality", name) for name in ("mse", "psnr", "ssim")]
    arrays = [ArraySpec("latents", "w_plus", (LAYERS, CHANNELS)), *quality]
    store = LatentStore.create(
        path, name="faces", generator_fp=GENERATOR_FP, method={"name": "encoder"}, seed=0,
        n_rows=n_rows, arrays=arrays, block_rows=32, stages=["invert"],
    )  # fmt: skip
    psnr = rng.normal(27, 1.6, n_rows).astype(np.float32)
    values = {
        "latents/w_plus": rng.normal(size=(n_rows, LAYERS, CHANNELS)).astype(np.float32),
        "quality/psnr": psnr,
        "quality/mse": (10 ** (-psnr / 10)).astype(np.float32),
        "quality/ssim": np.clip(rng.normal(0.9, 0.025, n_rows), 0, 1).astype(np.float32),
    }
    status = np.full(n_rows, Status.OK, np.uint8)
    reason = np.full(n_rows, Reason.NONE, np.uint8)
    for row, why in ((3, Reason.TRUNCATED), (17, Reason.NOT_AN_IMAGE), (18, Reason.NOT_AN_IMAGE)):
        status[row], reason[row] = Status.QUARANTINED, why
    status[5] = Status.REMOVED
    for block in range(store.n_blocks):
        rows = store.block_slice(block)
        store.write_block(
            "invert", block, {name: value[rows] for name, value in values.items()},
            status[rows], reason[rows], fp=bytes([block + 1]) * 32,
        )  # fmt: skip
    return store


def _directions(rng: np.random.Generator, attributes: tuple[str, ...]) -> DirectionSet:
    found = DirectionSet(GENERATOR_FP, "w_plus")

    def add(name: str, method: str, **facts: object) -> None:
        vector = rng.normal(size=(LAYERS, CHANNELS))
        found.add(unit_direction(name, "w_plus", vector, method=method, sd=2.5, **facts))

    for name in EXPRESSIONS:
        add(f"hosvd.{name}", "hosvd")
        add(f"mean_difference.{name}", "mean_difference")
    for name in ("glasses", "beard", "long_hair", "old"):
        add(f"svm.{name}", "svm", converged=True, intercept=0.25)
    add("mean_difference.yaw", "mean_difference")
    add("pca.000", "pca")
    return found


def _models(
    directions: DirectionSet, rng: np.random.Generator, attributes: tuple[str, ...]
) -> None:
    held_out = [
        {"attribute": name, "accuracy": 0.985 - 0.02 * i, "auc": 0.995 - 0.01 * i,
         "rows": 1500, "persons": 30}
        for i, name in enumerate(attributes)
    ]  # fmt: skip
    directions.save_model("svm", {"coef": np.zeros((1, 2))}, {"held_out": held_out})
    spectrum = 40 * 0.8 ** np.arange(30)
    directions.save_model(
        "pca",
        {
            "explained_variance": spectrum,
            "explained_variance_ratio": spectrum / (spectrum.sum() + 8),
            "mean": np.zeros((LAYERS, CHANNELS)),
        },
        {"n_rows": 60},
    )
    levels, points = ["neutral/0"], [[0.03, -0.02]]
    for e, name in enumerate(EXPRESSIONS):
        angle = 2 * np.pi * e / len(EXPRESSIONS) + 0.3
        for k in range(1, INTENSITIES + 1):
            levels.append(f"{name}/{k}")
            bend = angle + 0.08 * k
            points.append([0.25 * k * np.cos(bend), 0.2 * k * np.sin(bend)])
    directions.save_model(
        "hosvd",
        {
            "subspace0": np.zeros((2, 2)),
            "subspace1": np.column_stack([points, np.zeros(len(points))]),
            "subspace2": np.zeros((2, 2)),
            "kept1": np.arange(len(points)),
        },
        {
            "modes": [["person"], ["expression", "intensity"], ["view"]],
            "levels": [["p0", "p1"], levels, ["left", "right"]],
            "ranks": [8, 7, 2],
        },
    )
    faces = random_faces(80, seed=1)
    shapes = np.stack([geometry.landmarks(geometry.describe(row)) for row in faces.values])
    shapes -= shapes.mean(axis=2, keepdims=True)
    mean = shapes.mean(axis=0)
    _, _, components = np.linalg.svd((shapes - mean).reshape(len(shapes), -1), full_matrices=False)
    directions.save_model(
        "nrsfm",
        {
            "rigid": mean,
            "basis": components[:4].reshape(4, 3, 68),
            "parameters": np.hstack(
                [rng.normal(size=(80, 4)) * [1.2, 0.8, 0.6, 0.5], np.zeros((80, 2))]
            ),
        },
        {
            "frames": 80,
            "parameter_names": ["alpha0", "alpha1", "alpha2", "alpha3", "tx", "ty"],
            "residual": 0.081,
            "residual_rigid": 0.147,
        },
    )


def _curve(direction: str, attribute: str, number: int) -> list[float]:
    """Made-up mean scores of an attribute over STRENGTHS."""
    base = 0.05 + 0.02 * number
    gain = 0.0
    if direction.endswith(attribute) and not direction.endswith("yaw"):
        gain = 1.0 if direction.startswith("hosvd") else 0.85
    slope = 0.03 * np.sin(number * 1.7 + len(direction))
    return [
        float(np.clip(base + slope * s + gain / (1 + np.exp(-2.4 * (s - 0.8))), 0, 1))
        for s in STRENGTHS
    ]


def _evaluation(directions: DirectionSet, attributes: tuple[str, ...]) -> dict:
    entries = []
    for direction in directions:
        target = direction.name.split(".", 1)[1]
        target = target if target in (*ATTRIBUTES, "yaw") else None
        scores = {a: _curve(direction.name, ATTRIBUTES[i], i) for i, a in enumerate(attributes)}
        change = {a: values[-1] - values[2] for a, values in scores.items()}
        others = {a: c for a, c in change.items() if a != target}
        largest = max(others, key=lambda a: abs(others[a]))
        yaw = [11.0 * s if target == "yaw" else 0.4 * s for s in STRENGTHS]
        entries.append(
            {
                "name": direction.name, "method": direction.method, "space": "w_plus",
                "target": target, "sd": direction.sd, "layers": None, "scores": scores,
                "pose": {"yaw": yaw, "pitch": [0.1] * 5, "roll": [0.0] * 5},
                "rise_fraction": 0.94 if target in ATTRIBUTES else None, "mean_change": change,
                "largest_other": {"attribute": largest, "change": others[largest]},
                "spearman": {"yaw": 0.997} if target == "yaw" else {},
            }
        )  # fmt: skip
    return {
        "samples": 200, "strengths": list(STRENGTHS), "unit": "sd",
        "attributes": list(attributes), "pose": ["yaw", "pitch", "roll"], "directions": entries,
        "comparison": [
            {"name": name, "hosvd": f"hosvd.{name}", "mean_difference": f"mean_difference.{name}",
             "cosine": 0.999 - 0.015 * i, "ranks": {"person": 8, "expression": 7, "view": 2}}
            for i, name in enumerate(EXPRESSIONS)
        ],
        "reconstruction": {"psnr_median": 27.02, "ssim_median": 0.901, "mse_median": 0.00199},
    }  # fmt: skip


def _pictures(
    directions: DirectionSet,
    attributes: tuple[str, ...],
    resolution: int,
    shown: int,
    samples: int,
) -> dict[str, np.ndarray]:
    design, _ = complete_design(range(max(shown, 1)), seed=4)
    cells = 2 * (1 + len(EXPRESSIONS) * INTENSITIES)
    neutral = design[np.arange(0, shown * cells, cells)]
    pictures: dict[str, np.ndarray] = {}
    drawn: dict[str, np.ndarray] = {}
    for direction in directions:
        factor = direction.name.split(".", 1)[1]
        column = {"old": "age", "long_hair": "hair_length", "000": "light_x"}.get(factor, factor)
        if column not in drawn:
            drawn[column] = np.stack(
                [_moved(neutral, column, s, resolution) for s in STRENGTHS], axis=1
            )
        pictures[f"strips/{direction.name}"] = drawn[column]
    original = render(random_faces(samples, seed=9), resolution).images
    noise = np.random.default_rng(0).normal(0, 6, original.shape)
    smooth = (original.astype(float) + np.roll(original, 1, axis=2)) / 2 + noise
    pictures["samples/original"] = original
    pictures["samples/reconstruction"] = np.clip(smooth, 0, 255).astype(np.uint8)
    return pictures


def _moved(faces, column: str, strength: float, resolution: int) -> np.ndarray:
    values = faces.values.copy()
    moved = type(faces)(values, faces.person)
    target = moved.column(column)
    if column == "yaw":
        target[:] = 14 * strength
    elif column in EXPRESSIONS or column in ("glasses", "beard"):
        target[:] = np.clip(strength / 2, 0, 1)
    else:
        target[:] = 0.5 + 0.25 * strength
    return render(moved, resolution).images


def _run(n_rows: int) -> dict:
    stages = [("index", 2.1), ("invert", 148.4), ("annotate", 61.0), ("analyse", 22.7),
              ("evaluate", 51.3), ("report", 4.2)]  # fmt: skip
    return {
        "name": "faces",
        "spec": {
            "name": "faces",
            "dataset": {"kind": "folder", "path": "data/faces", "factors": "factors.csv"},
            "generator": "bundled:faces64",
            "invert": {"method": "encoder", "space": "w_plus", "batch_size": 64},
            "analyse": {"pca": {}, "svm": {}, "hosvd": {}, "nrsfm": {}, "fidelity": None},
            "seed": 0,
            "max_quarantined": 0.05,
        },
        "index": "index.parquet",
        "store": "stores/faces-0123456789ab",
        "directions": "directions/faces-0123456789ab",
        "generator_fp": GENERATOR_FP,
        "stages": [
            {"name": name, "seconds": seconds, "rows": n_rows, "skipped": name == "index",
             "detail": {}}
            for name, seconds in stages
        ],
        "versions": {"latentflow": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0",
                     "apache-beam": "2.77.0", "zarr": "3.1.6", "numpy": "2.4.0"},
        "peak_memory_mb": 3120.4,
        "started": "2026-11-21T08:00:00+00:00",
        "finished": "2026-11-21T08:04:52+00:00",
        "exit_code": 3,
        "counts": {"ok": n_rows - 4, "quarantined": 3, "removed": 1,
                   "reasons": {"truncated": 1, "not_an_image": 2}},
    }  # fmt: skip
