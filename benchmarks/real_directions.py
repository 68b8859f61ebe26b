"""Directions that other projects published, through the readers, writers and the algebra.

``python -m benchmarks.real_directions`` reads the real boundaries and principal components of
``--data`` (see the README beside them), writes each into the file layout that its owner uses, reads
it back, and checks what must hold exactly: InterFaceGAN's conditional boundaries follow from the
unconditional ones by `transforms.directions.algebra.project_out`. ``--smoke`` does the same on
random boundaries.

``error`` is the largest difference of a conditional boundary from its projection, and of a vector
from what was read back (float32 formats: 1e-6 is the best there is); ``peer_s`` is the time of
projecting with numpy's least squares.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from generators.peers.directions import read_directions, write_directions
from pipelines.engine.memory import PeakMemory
from schemas.directions.direction import unit_direction
from transforms.directions.algebra import normalise, principal_angles, project_out

DATA = Path(__file__).parents[2] / "shared" / "data" / "directions"
BOUNDARIES, E4E = "interfacegan_boundaries.npz", "e4e_pti_stylegan2.npz"
CLAIM = "00" * 32


def made() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Random boundaries and components with the names of the real ones."""
    rng = np.random.default_rng(0)
    age, gender, glasses = normalise(rng.normal(size=(3, 32)) + rng.normal(size=32))
    found = {"x_age": age, "x_gender": gender, "x_eyeglasses": glasses}
    found["x_age_c_gender_eyeglasses"] = project_out(age, np.stack([gender, glasses]))
    components = {
        "ganspace_x_comp": rng.normal(size=(4, 32)).astype("f4"),
        "ganspace_x_mean": np.zeros(32, "f4"),
        "ganspace_x_std": np.arange(4, 0, -1).astype("f4"),
        "x_pose_wplus": rng.normal(size=(3, 32)).astype("f4"),
    }
    return found, components


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The real boundaries, and e4e's directions and components."""
    parts = []
    for name in (BOUNDARIES, E4E):
        with np.load(folder / name, allow_pickle=False) as z:
            parts.append({key: z[key] for key in z.files})
    return parts[0], parts[1]


def conditional(boundaries: dict[str, np.ndarray]) -> tuple[list[tuple[str, float]], float, float]:
    """(name, largest difference) of each conditional boundary; our seconds and the peer's."""
    rows, ours, peer = [], 0.0, 0.0
    for name, expected in boundaries.items():
        head, mark, conditions = name.partition("_c_")
        if not mark:
            continue
        model = head.rpartition("_")[0]
        others = np.stack([boundaries[f"{model}_{c}"] for c in conditions.split("_")])
        started = time.perf_counter()
        found = project_out(boundaries[head], others)
        ours += time.perf_counter() - started
        started = time.perf_counter()
        np.linalg.lstsq(others.T, boundaries[head], rcond=None)
        peer += time.perf_counter() - started
        rows.append((name, float(np.abs(found - expected).max())))
    return rows, ours, peer


def exchanged(
    boundaries: dict[str, np.ndarray], other: dict[str, np.ndarray], folder: Path
) -> list[tuple[str, int, float]]:
    """(format, directions, largest difference) of directions written and read back."""
    rng = np.random.default_rng(1)
    rows = []

    def check(what: str, file_format: str, vectors, space: str, mean=None) -> None:
        shape = np.shape(next(iter(vectors.values())))
        directions = [
            unit_direction(name, space, v, method="imported", sd=1.0) for name, v in vectors.items()
        ]
        codes = rng.normal(size=(50, *shape))
        worst, single = 0.0, file_format in ("interfacegan", "e4e", "idinvert")
        for part in [[d] for d in directions] if single else [directions]:
            path = folder / f"{part[0].name}.{file_format}"
            write_directions(part, path, file_format, mean=mean)
            found = read_directions(path, space=space, generator_fp=CLAIM, codes=codes)
            pairs = zip(part, found, strict=True)
            worst = max(worst, *(float(np.abs(a.vector - b.vector).max()) for a, b in pairs))
        rows.append((what, len(directions), worst))

    lengths = {len(v) for v in boundaries.values()}
    same = {k: v for k, v in boundaries.items() if len(v) == max(lengths)}
    for file_format in ("interfacegan", "anycost", "e4e"):
        check(f"boundaries as {file_format}", file_format, same, "z")
    for key in other:
        if key.endswith("_comp"):
            rows_of = {f"pc{i:03d}": v for i, v in enumerate(other[key])}
            mean = other[key.replace("_comp", "_mean")]
            for file_format in ("ganspace", "ganspace_pca", "sefa"):
                check(f"{key} as {file_format}", file_format, rows_of, "w", mean)
        elif key.endswith("_wplus"):
            for file_format in ("e4e", "idinvert"):
                check(f"{key} as {file_format}", file_format, {key: other[key]}, "w_plus")
    return rows


def main() -> int:
    """Read, project, exchange, print; the exit code is 1 when something does not follow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="random boundaries")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real files")
    options = parser.parse_args()
    missing = [n for n in (BOUNDARIES, E4E) if not (options.data / n).exists()]
    if missing and not options.smoke:
        parser.error(f"there is no {missing!r} in {str(options.data)!r}: give --data, or --smoke")
    boundaries, other = made() if options.smoke else read(options.data)
    with PeakMemory() as memory, tempfile.TemporaryDirectory(prefix="directions-") as folder:
        projected, ours, peer = conditional(boundaries)
        formats = exchanged(boundaries, other, Path(folder))
    for name, difference in projected:
        print(f"{name:44} differs from its projection by {difference:.1e}")
    for what, n, difference in formats:
        print(f"{what:44} {n:3} directions, read back to {difference:.1e}")
    for key, value in other.items():
        if key.endswith("_comp"):
            norms = np.linalg.norm(value.astype(np.float64), axis=1)
            gram = np.abs(normalise(value) @ normalise(value).T - np.eye(len(value)))
            half = len(value) // 2
            angle = np.degrees(principal_angles(value[:half], value[half:])[0])
            print(
                f"{key}: norms {norms.min():.2f} to {norms.max():.2f}, largest cosine "
                f"{gram.max():.2f}, smallest angle between its halves {angle:.0f} degrees"
            )
    error = max(d for _, d in projected)
    exchange = max(d for _, _, d in formats)
    result = {
        "name": "real_directions",
        "ours_s": round(ours, 5),
        "peer_s": round(peer, 5),
        "ratio": round(peer / ours, 3),
        "peak_mb": round(memory.peak / 1e6),
        "error": max(error, exchange),
        "projection_error": error,
        "directions": sum(n for _, n, _ in formats),
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
    }
    print(json.dumps(result))
    return int(error > 1e-12 or exchange > 1e-6)


if __name__ == "__main__":
    raise SystemExit(main())
