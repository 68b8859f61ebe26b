"""3D shapes of the landmarks by non-rigid structure from motion."""

from __future__ import annotations

import numpy as np

from pipelines.analyses.inputs import Data, Fitted
from pipelines.analyses.measured import Measured
from schemas.errors import DataError
from schemas.landmark_schemes import IBUG68, SCHEMES
from schemas.sections.nrsfm import NrsfmSpec
from transforms.accumulate.blocks import BlockSource
from transforms.accumulate.sources import SelectBlocks
from transforms.nrsfm.fit import NRSfMSolver, sequence_result
from transforms.nrsfm.joint import JointSolver
from transforms.nrsfm.landmark_map import parameter_names
from transforms.nrsfm.model import NRSfM, SequenceModel, ShapeModel, default_front
from transforms.nrsfm.regressor import LatentShapeSolver
from transforms.nrsfm.sequence import SequenceSolver
from transforms.nrsfm.zoom import ZoomSolver

POSE = ("pitch", "yaw", "roll")


def landmark_blocks(data: Data) -> SelectBlocks:
    """Blocks with ``points`` (m, 2, L), y up, of the chosen landmarks."""
    (measured,) = data.measurements("landmarks")
    frames = {"frame": np.arange(data.n_rows)}
    return data.read({}, {"points": measured}, columns=frames, landmarks=("points",))


def fit_nrsfm(data: Data, wanted: NrsfmSpec) -> Fitted:
    """Rigid shape, basis shapes, and every row's camera and coefficients.

    The model's ``residual`` is the root mean square of the re-projection, ``residual_rigid`` that
    of the rigid shape alone, both in pixels. With a regressor there is a direction for every
    parameter of pose and shape, the change of a code that moves this parameter alone.
    """
    (measured,), source = data.measurements("landmarks"), landmark_blocks(data)
    array = measured.array
    try:
        model = solve_shapes(data, wanted, source, wanted.n_shapes)
        rigid = solve_shapes(data, wanted, source, 0)
    except DataError as e:
        n_measured = sum(len(source.read(block)[0]) for block in range(source.n_blocks))
        raise DataError(
            f"landmarks {wanted.landmarks!r}, measured in {n_measured!r} rows of {array!r}, give "
            f"no shape: {e}; annotate with another model, or leave 'nrsfm' out"
        ) from e
    rows, parts, error, error_rigid, n = [], [], 0.0, 0.0, 0
    for block in range(source.n_blocks):
        numbers, arrays = source.read(block)
        if not len(numbers):
            continue
        points = arrays["points"]
        fit = _fit(model, points, numbers)
        rows.append(numbers)
        parts.append(fit.parameters()[1])
        error += float(np.nansum((fit.project() - points) ** 2))
        error_rigid += float(np.nansum((_fit(rigid, points, numbers).project() - points) ** 2))
        n += int(np.isfinite(points).sum())
    out = Fitted(
        arrays={
            "rigid": model.rigid,
            "basis": model.basis,
            "ridge": model.ridge,
            "rows": np.concatenate(rows),
            "parameters": np.concatenate(parts),
        },
        facts={
            "flags": dict(model.flags),
            "noise": model.noise,
            "frames": model.n_frames,
            "n_shapes": len(model.basis),
            "parameter_names": list(parameter_names(len(model.basis))),
            "landmarks": array,
            "residual": float(np.sqrt(error / max(n, 1))),
            "residual_rigid": float(np.sqrt(error_rigid / max(n, 1))),
        },
    )
    out.limit("nrsfm.n_shapes", wanted.n_shapes, len(model.basis), "all that the motion has")
    if isinstance(model, SequenceModel):
        out.arrays["loadings"] = model.loadings
        if model.zoom.size:
            out.arrays["zoom"] = model.zoom
    else:
        out.arrays |= {"axes": model.axes, "modes": model.modes, "readout": model.readout}
    if wanted.regressor is not None:
        _regress(data, model, measured, wanted.regressor, out)
    return out


def _fit(model: ShapeModel | SequenceModel, points: np.ndarray, rows: np.ndarray) -> NRSfM:
    return model.fit(points, rows) if isinstance(model, SequenceModel) else model.fit(points)


def _regress(
    data: Data, model: ShapeModel | SequenceModel, measured: Measured, ridge: float, out: Fitted
) -> None:
    """The regressor from codes to parameters, and its directions."""
    source = data.read({"x": data.space}, {"points": measured}, landmarks=("points",))
    solver = data.engine.run(LatentShapeSolver(model, ridge), source)
    found = solver.regressor(data.code_shape)
    out.arrays |= {
        "regressor_mean": found.mean,
        "regressor_weights": found.weights,
        "regressor_intercept": found.intercept,
    }
    out.facts["regressor"] = {
        "rms": found.rms,
        "rms_start": found.rms_start,
        "rows": found.n_rows,
        "converged": found.converged,
        "ridge": ridge,
    }
    for name in found.names[3:-2]:
        vector = found.direction(name)
        size = float(np.linalg.norm(vector))
        if not np.isfinite(size) or size == 0:
            continue
        quality = {"codes_per_unit": size, "rms": found.rms}
        out.directions.append(
            data.direction(
                f"nrsfm.{name}",
                vector,
                "nrsfm",
                name if name in POSE else None,
                quality=quality,
                converged=found.converged,
                provenance={
                    "targets": measured.array,
                    "unit": "radian" if name in POSE else "coefficient",
                },
            )
        )


def solve_shapes(
    data: Data, wanted: NrsfmSpec, source: BlockSource, n_shapes: int
) -> ShapeModel | SequenceModel:
    """The landmark model with `n_shapes` basis shapes.

    The nose is in front where the landmarks' scheme is known; that 68 of no named scheme are iBUG's
    is assumed, and told in the flag ``depth_sign``.
    """
    front, missing = None, False
    for block in range(source.n_blocks):
        points = source.read(block)[1]["points"]
        if len(points):
            front = default_front(points.shape[2], None)
            missing = missing or not bool(np.isfinite(points).all())
    run = data.engine.run
    scheme = data.selection.parameters.get("scheme", None if front is None else IBUG68)
    if scheme is not None:
        front = SCHEMES[scheme].nose if scheme in SCHEMES else None
    first = NRSfMSolver(0 if wanted.temporal else n_shapes, front, assumed=scheme is None)
    start = run(first, source).model()
    if wanted.temporal:
        noise = start.noise if wanted.robust else None
        n_frames = data.n_rows
        zoom = run(ZoomSolver(start, n_frames, done=not wanted.zoom), source).zoom
        solver = SequenceSolver(start.rigid, n_frames, noise=noise, zoom=zoom)
        return sequence_result(run(solver, source), n_shapes, front, start.flags)
    if wanted.refine or wanted.robust or missing:
        return run(JointSolver(start, wanted.robust, front=front), source).model()
    return start
