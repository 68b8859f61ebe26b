"""Directions of real latents: gender hyperplane, landmarks of left-out people, a noisy tensor.

``python -m benchmarks.real_latents`` reads ``giardina_wplus_landmarks68.npz`` (59 people inverted
into StyleGAN2's W+, 1,711 codes with 68 landmarks each; see the README beside it) from ``--data``;
``--smoke`` makes a tiny planted set of the same layout. People, not codes, are split everywhere:
there are 59 independent cases.

1. Gender: hyperplane on the training people's codes (those edited along the gender direction left
   out), accuracy on left-out people's own codes; beside ridge regression and the majority.
2. Landmarks of left-out people, mean distance in pixels and in per cent of the distance between
   the outer eye corners, by every method of ``LANDMARK_METHODS``: NRSfM with the latent regressor
   beside a ridge regression straight from latents to landmarks, penalties chosen by leaving
   training people out.
3. HOSVD over people x direction x magnitude, with noise of 0.3 x the standard deviation of each
   coordinate (without noise plain group means are exact) and 20 % of cells held out: |cosine| of
   each recovered direction with the one that made the codes, beside that of group means.

``ours_s`` is the time of our methods, ``peer_s`` of the baselines; ``error`` is 1 - the mean
|cosine| of the tensor model.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.engine.memory import PeakMemory
from transforms.accumulate.landmarks import points_of_landmarks
from transforms.hosvd.solve import hosvd
from transforms.nrsfm.cameras import IBUG68_NOSE
from transforms.nrsfm.fit import factorise
from transforms.nrsfm.landmark_map import landmarks_of
from transforms.nrsfm.regressor import fit_latent_shape
from transforms.svm.fit import fit_hyperplanes

DATA = Path(__file__).parents[2] / "shared" / "data" / "directions"
FILE = "giardina_wplus_landmarks68.npz"
EYES = (36, 45)
"""Outer eye corners of the 68 points."""
FOLDS = {"gender": 10, "landmarks": 5}
PENALTIES = 10.0 ** np.arange(-4, 5)
"""Ridge penalties tried, as shares of the mean eigenvalue of X'X."""
PLANTED_SHAPES = 2


@dataclass(frozen=True)
class Latents:
    """base (P, L, D), directions (K, L, D), male (P,); the codes of a person are its base, then
    base + magnitude * direction for every variation (V,); landmarks (P, 1 + V, 68, 2) pixels.
    """

    base: np.ndarray
    directions: np.ndarray
    names: list[str]
    male: np.ndarray
    variation: np.ndarray
    magnitude: np.ndarray
    landmarks: np.ndarray

    def codes(self) -> np.ndarray:
        """All codes, float64 (P, 1 + V, L D)."""
        moves = self.magnitude[:, None, None] * self.directions[self.variation]
        edited = self.base[:, None] + moves[None]
        every = np.concatenate([self.base[:, None], edited], axis=1)
        return every.reshape(*every.shape[:2], -1)


@dataclass
class Clock:
    """Seconds of our methods and of the baselines."""

    seconds: dict[str, float] = field(default_factory=lambda: {"ours": 0.0, "peer": 0.0})

    def timed(self, who: str, call: Callable, *arguments):
        started = time.perf_counter()
        result = call(*arguments)
        self.seconds[who] += time.perf_counter() - started
        return result


def read(path: Path) -> Latents:
    """The real latents. The photo itself ("aligned") has landmarks but no code and is left out."""
    with np.load(path, allow_pickle=False) as z:
        names = [str(n) for n in z["direction_names"]]
        label = [str(n) for n in z["variation_direction"]]
        edits = [i for i, n in enumerate(label) if n in names]
        original = label.index("projected")
        return Latents(
            base=z["w_base"].astype(np.float64),
            directions=z["directions"].astype(np.float64),
            names=names,
            male=z["male"].astype(bool),
            variation=np.array([names.index(label[i]) for i in edits]),
            magnitude=z["variation_magnitude"][edits].astype(np.float64),
            landmarks=z["landmarks_px"][:, [original, *edits]].transpose(0, 1, 3, 2),
        )


def planted(seed: int = 0) -> Latents:
    """A tiny set of the same layout: pose, shape and gender are linear in the latents."""
    rng = np.random.default_rng(seed)
    people, layers, width = 24, 3, 6
    base = rng.normal(size=(people, layers, width))
    male = np.arange(people) % 2 == 0
    base[:, 0, 0] += np.where(male, 2.0, -2.0)
    directions = rng.normal(size=(3, layers, width))
    directions /= np.linalg.norm(directions.reshape(3, -1), axis=1)[:, None, None]
    variation, magnitude = np.repeat(np.arange(3), 4), np.tile([-4.0, -2.0, 2.0, 4.0], 3)
    made = Latents(
        base, directions, ["age", "gender", "chin"], male, variation, magnitude, np.zeros(0)
    )
    codes = made.codes()
    rigid = rng.normal(size=(3, 68)) * [[150], [150], [60]]
    rigid[:, EYES] = [[-150, 150], [0, 0], [0, 0]]
    rigid[2, list(IBUG68_NOSE)] = 150
    taken = np.concatenate([np.ones((1, 68)), rigid, rng.normal(size=(PLANTED_SHAPES, 68))])
    modes = np.linalg.qr(taken.T)[0].T[4:]
    basis = np.eye(3)[:PLANTED_SHAPES, :, None] * modes[:, None]
    readout = rng.normal(size=(layers * width, 2 + PLANTED_SHAPES)) / np.sqrt(layers * width)
    moved = codes.reshape(-1, layers * width) @ readout
    q = np.zeros((len(moved), 8 + PLANTED_SHAPES))
    q[:, [0, 2]] = 1.0
    q[:, 3:5] = np.deg2rad(10) * moved[:, :2]
    q[:, 6:-2] = 40 * moved[:, 2:]
    points = pixels_of_points(landmarks_of(q, rigid, basis) + 500)
    points = points.reshape(people, 13, 68, 2)
    return Latents(base, directions, made.names, male, variation, magnitude, points)


def pixels_of_points(points: np.ndarray) -> np.ndarray:
    """Inverse of `points_of_landmarks`: (n, 2, L) with y up -> (n, L, 2) with y down."""
    return np.stack([points[:, 0], -points[:, 1]], axis=-1)


def people_folds(n: int, folds: int) -> list[np.ndarray]:
    """Bool (n,) masks of the people that each fold leaves out."""
    order = np.random.default_rng(5).permutation(n)
    return [np.isin(np.arange(n), part) for part in np.array_split(order, folds)]


Predictor = Callable[[float, np.ndarray], np.ndarray]
"""(penalty, new codes) -> predictions."""


def with_chosen_penalty(
    solve: Callable[[np.ndarray, np.ndarray], Predictor],
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    penalties: np.ndarray,
) -> Callable[[np.ndarray], np.ndarray]:
    """`solve`'s predictor of y (n, ...) from x (n, D), its penalty chosen by leaving groups out."""
    kinds = np.unique(groups)
    errors = np.zeros(len(penalties))
    for part in np.array_split(np.random.default_rng(6).permutation(kinds), 5):
        out = np.isin(groups, part)
        fitted = solve(x[~out], y[~out])
        errors += [((fitted(p, x[out]) - y[out]) ** 2).sum() for p in penalties]
    best = float(penalties[errors.argmin()])
    final = solve(x, y)
    return lambda new: final(best, new)


def ridge(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Ridge regression of y (n, T) on x (n, D); the penalty is chosen by leaving out groups."""

    def solve(a: np.ndarray, b: np.ndarray) -> Predictor:
        mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
        u, s, v = np.linalg.svd(a - mean_a, full_matrices=False)
        rotated, scale = u.T @ (b - mean_b), float((s**2).mean())

        def fitted(penalty: float, new: np.ndarray) -> np.ndarray:
            shrunk = (s / (s**2 + penalty * scale))[:, None] * rotated
            return mean_b + ((new - mean_a) @ v.T) @ shrunk

        return fitted

    return with_chosen_penalty(solve, x, y, groups, PENALTIES)


def span_coordinates(data: Latents) -> np.ndarray:
    """Codes (P, 1 + V, r) in an orthonormal basis of their own span, from the first mean on: every
    distance stays as it is, so hyperplanes and ridge regressions stay the same, and cost little.
    """
    people = len(data.base)
    base = data.base.reshape(people, -1)
    used = np.unique(data.variation)
    spanning = np.concatenate(
        [base - base.mean(axis=0), data.directions[used].reshape(len(used), -1)]
    )
    unit = spanning / np.linalg.norm(spanning, axis=1, keepdims=True)
    _, s, basis = np.linalg.svd(unit, full_matrices=False)
    return (data.codes() - base.mean(axis=0)) @ basis[s > 1e-9 * s[0]].T


# ---- 1. gender -----------------------------------------------------------------------------------


def gender(data: Latents, x: np.ndarray, clock: Clock) -> list[dict[str, object]]:
    """Accuracy on left-out people's own codes. x : (P, 1 + V, r)."""
    people, per = x.shape[:2]
    neutral = np.r_[True, data.variation != data.names.index("gender")]
    y = np.where(data.male, 1, -1)
    costs = {"hyperplane C=1": 1.0, "hyperplane C=1e-4": 1e-4}
    right = dict.fromkeys([*costs, "ridge"], 0)
    converged = True
    for out in people_folds(people, FOLDS["gender"]):
        train = x[~out][:, neutral].reshape(-1, x.shape[2])
        labels = np.repeat(y[~out], neutral.sum())
        groups = np.repeat(np.flatnonzero(~out), neutral.sum())
        new, truth = x[out][:, 0], y[out]
        for method, c in costs.items():
            planes = clock.timed("ours", fit_hyperplanes, train, labels[:, None], c)
            converged &= bool(np.all(planes.converged))
            side = np.sign(planes.decision_function(new)[:, 0])
            right[method] += int((side == truth).sum())
        predict = clock.timed("peer", ridge, train, labels[:, None].astype(float), groups)
        right["ridge"] += int((np.sign(predict(new)[:, 0]) == truth).sum())
    right["majority"] = max(int(data.male.sum()), int((~data.male).sum()))
    return [
        {"part": "gender", "method": m, "accuracy": n / people, "converged": converged}
        for m, n in right.items()
    ]


# ---- 2. landmarks --------------------------------------------------------------------------------


def mean_landmarks(
    x: np.ndarray, points: np.ndarray, groups: np.ndarray, new: np.ndarray, n_shapes: int
) -> np.ndarray:
    """The training people's mean landmarks for everybody."""
    return np.broadcast_to(points.mean(axis=0), (len(new), *points.shape[1:]))


def ridge_landmarks(
    x: np.ndarray, points: np.ndarray, groups: np.ndarray, new: np.ndarray, n_shapes: int
) -> np.ndarray:
    """Ridge regression straight from latents to landmarks."""
    predict = ridge(x, points.reshape(len(points), -1), groups)
    return predict(new).reshape(len(new), *points.shape[1:])


def shape_landmarks(
    x: np.ndarray, points: np.ndarray, groups: np.ndarray, new: np.ndarray, n_shapes: int
) -> np.ndarray:
    """The landmarks of the parameters that the latent regressor (Paper III) predicts."""

    def solve(a: np.ndarray, b: np.ndarray) -> Predictor:
        seen = points_of_landmarks(b)
        model = factorise(seen, n_shapes, front=IBUG68_NOSE).model

        def fitted(penalty: float, codes: np.ndarray) -> np.ndarray:
            found = fit_latent_shape(a, seen, model, ridge=penalty)
            return pixels_of_points(found.landmarks(codes))

        return fitted

    return with_chosen_penalty(solve, x, points, groups, SHAPE_PENALTIES)(new)


LANDMARK_METHODS: dict[str, tuple[str, Callable[..., np.ndarray]]] = {
    "mean": ("peer", mean_landmarks),
    "ridge, latents to landmarks": ("peer", ridge_landmarks),
    "NRSfM + latent regressor": ("ours", shape_landmarks),
}
"""Method -> (whose, function(x (n, r), points (n, 68, 2), groups (n,), new (m, r), n_shapes) ->
(m, 68, 2))."""
SHAPE_PENALTIES = np.array([1e-4, 1e-2])
"""Those of `PENALTIES` that are tried for the regressor, which takes longer."""


def landmarks(data: Latents, x: np.ndarray, clock: Clock, n_shapes: int) -> list[dict[str, object]]:
    """Distance of predicted landmarks on left-out people, and what the shape basis cannot reach."""
    people, per = x.shape[:2]
    points = data.landmarks.astype(np.float64)
    errors: dict[str, list[np.ndarray]] = {name: [] for name in LANDMARK_METHODS}
    floor: list[np.ndarray] = []
    for out in people_folds(people, FOLDS["landmarks"]):
        train, new = x[~out].reshape(-1, x.shape[2]), x[out].reshape(-1, x.shape[2])
        seen = points[~out].reshape(-1, 68, 2)
        truth = points[out].reshape(-1, 68, 2)
        groups = np.repeat(np.flatnonzero(~out), per)
        for name, (whose, method) in LANDMARK_METHODS.items():
            errors[name].append(
                distances(clock.timed(whose, method, train, seen, groups, new, n_shapes), truth)
            )
        found = clock.timed(
            "ours", lambda s: factorise(points_of_landmarks(s), n_shapes, front=IBUG68_NOSE), seen
        )
        model = found.model
        fitted = model.fit(points_of_landmarks(truth)).project()
        floor.append(distances(pixels_of_points(fitted), truth))
    errors[f"NRSfM K={n_shapes} fitted to them"] = floor
    return [
        {
            "part": "landmarks",
            "method": name,
            "pixels": float(np.concatenate(parts)[:, 0].mean()),
            "percent_of_eyes": float(np.concatenate(parts)[:, 1].mean() * 100),
        }
        for name, parts in errors.items()
    ]


def distances(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n, 2): mean distance of the points in pixels, and over the distance between the eyes."""
    away = np.linalg.norm(found - truth, axis=2).mean(axis=1)
    eyes = np.linalg.norm(truth[:, EYES[0]] - truth[:, EYES[1]], axis=1)
    return np.stack([away, away / eyes], axis=1)


# ---- 3. tensor -----------------------------------------------------------------------------------


def noisy_tensor(data: Latents, noise: float, missing: float):
    """(tensor (D, P, K, M) with NaN in held-out cells, names, magnitudes as shares (M,))."""
    used = list(dict.fromkeys(data.variation.tolist()))
    codes = data.codes()[:, 1:]
    columns = [np.flatnonzero(data.variation == k) for k in used]
    columns = [c[np.argsort(data.magnitude[c])] for c in columns]
    shares = data.magnitude[columns[0]] / np.abs(data.magnitude[columns[0]]).max()
    cells = np.stack([codes[:, c] for c in columns], axis=1)
    rng = np.random.default_rng(7)
    deviation = codes.reshape(-1, codes.shape[-1]).std(axis=0)
    cells = cells + noise * deviation * rng.standard_normal(cells.shape)
    people, kinds, steps = cells.shape[:3]
    held = rng.random((people, kinds, steps)) < missing
    cells[held] = np.nan
    return np.ascontiguousarray(np.moveaxis(cells, 3, 0)), used, shares


def tensor_directions(tensor: np.ndarray, shares: np.ndarray, ranks) -> np.ndarray:
    """A direction for every level of the second mode, (K, D): the slope over magnitude of the mean
    person, as the model has it.

    There are fewer cells than coordinates, so the model is made in an orthonormal basis of the
    present cells' span, where it is the same one.
    """
    present = tensor.reshape(len(tensor), -1)
    present = present[:, ~np.isnan(present[0])]
    values, vectors = np.linalg.eigh(present.T @ present)
    keep = values > 1e-10 * values[-1]
    basis = present @ (vectors[:, keep] / np.sqrt(values[keep]))
    small = np.einsum("dc,d...->c...", basis, tensor, optimize=True)
    model = hosvd(small, ranks, missing="complete", energy=1.0)
    person, kinds, steps = model.factors
    slope = (shares - shares.mean()) @ steps
    mean = person.mean(axis=0)
    return np.stack([model.contract([mean, kind, slope]) for kind in kinds]) @ basis.T


def group_means(tensor: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Mean of the present codes of rising magnitudes minus that of falling ones, (K, D)."""
    up = np.nanmean(tensor[..., shares > 0], axis=(1, 3))
    return (up - np.nanmean(tensor[..., shares < 0], axis=(1, 3))).T


def recovered(data: Latents, clock: Clock, ranks) -> list[dict[str, object]]:
    """|cosine| of the recovered directions with those that made the codes."""
    tensor, used, shares = noisy_tensor(data, noise=0.3, missing=0.2)
    truth = data.directions[used].reshape(len(used), -1)
    rows: list[dict[str, object]] = []
    for method, who, found in [
        ("HOSVD", "ours", lambda: tensor_directions(tensor, shares, ranks)),
        ("group means", "peer", lambda: group_means(tensor, shares)),
    ]:
        vectors = clock.timed(who, found)
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(truth, axis=1)
        cosines = np.abs((vectors * truth).sum(axis=1)) / lengths
        each = {data.names[k]: round(float(c), 4) for k, c in zip(used, cosines, strict=True)}
        rows.append(
            {"part": "tensor", "method": method, "mean_cosine": float(cosines.mean()), "each": each}
        )
    return rows


# --------------------------------------------------------------------------------------------------


def main() -> int:
    """Parse the arguments, run the three parts, print the tables and the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a tiny planted set")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real latents")
    parser.add_argument("--shapes", type=int, default=12, help="NRSfM basis shapes")
    options = parser.parse_args()
    if not options.smoke and not (options.data / FILE).exists():
        parser.error(f"there is no {FILE!r} in {str(options.data)!r}: give --data, or --smoke")
    data = planted() if options.smoke else read(options.data / FILE)
    clock = Clock()
    with PeakMemory() as memory:
        x = span_coordinates(data)
        people, per, rank = x.shape
        # What all people share is a small part of how they differ, and a truncated mode of people
        # loses it; along the magnitudes there is a constant and a slope.
        ranks = (None, len(set(data.variation.tolist())), 2)  # of persons as many as cells tell
        rows = gender(data, x, clock)
        rows += landmarks(data, x, clock, PLANTED_SHAPES if options.smoke else options.shapes)
        rows += recovered(data, clock, ranks)
    print(f"{people} people, {people * per} codes, which span {rank} dimensions")
    error_bar = float(np.sqrt(0.25 / people))
    for row in rows:
        shown = {k: v for k, v in row.items() if k not in ("part", "method")}
        text = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()
        )
        print(f"{row['part']:10} {row['method']!s:32} {text}")
    print(f"accuracies have a standard error of about {error_bar:.3f} ({people} people)")
    ours, peer = clock.seconds["ours"], clock.seconds["peer"]
    tensor = next(r for r in rows if r["method"] == "HOSVD")
    result = {
        "name": "real_latents",
        "ours_s": round(ours, 2),
        "peer_s": round(peer, 2),
        "ratio": round(peer / ours, 3),
        "peak_mb": round(memory.peak / 1e6),
        "error": round(1 - float(str(tensor["mean_cosine"])), 4),
        "rows": rows,
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
