"""3D shapes of the landmarks by non-rigid structure from motion."""

from __future__ import annotations

import numpy as np

from pipelines.fits.inputs import Fitted, Inputs
from schemas.errors import UsageError
from transforms.blocks import BlockSource
from transforms.cameras import IBUG68_NOSE
from transforms.nrsfm import NRSfM, NRSfMSolver
from transforms.sources import SelectBlocks, StoreBlocks


def landmark_blocks(inputs: Inputs) -> tuple[str, SelectBlocks]:
    """(array in the store, blocks with ``points`` (m, 2, L), y up) of the chosen landmarks."""
    wanted = inputs.spec.analyse.nrsfm
    names = [wanted.landmarks + "@render", wanted.landmarks]
    for name in names if wanted.labels == "render" else names[1:]:
        match = inputs.stage_of(name)
        if match is not None and match[1].startswith("landmarks/"):
            stage, array = match
            source = StoreBlocks(inputs.store.path, (array,), ("invert", stage))
            return array, SelectBlocks(source, {"points": array}, landmarks=("points",))
    raise UsageError(
        f"the store has no landmarks {wanted.landmarks!r}: annotate with a model of kind "
        "'landmarks' of that name"
    )


def fit_nrsfm(inputs: Inputs) -> Fitted:
    """Rigid shape, basis shapes, and every row's camera and coefficients.

    The model's ``residual`` is the root mean square of the re-projection, ``residual_rigid`` that
    of the rigid shape alone, both in pixels.
    """
    wanted = inputs.spec.analyse.nrsfm
    array, source = landmark_blocks(inputs)
    model = solve_shapes(inputs, source, wanted.n_shapes)
    rigid = solve_shapes(inputs, source, 0)
    rows, parts, error, error_rigid, n = [], [], 0.0, 0.0, 0
    for block in range(source.n_blocks):
        numbers, arrays = source.read(block)
        if not len(numbers):
            continue
        fit = model.fit(arrays["points"])
        rows.append(numbers)
        parts.append(fit.parameters()[1])
        error += float(np.nansum((fit.project() - arrays["points"]) ** 2))
        error_rigid += float(
            np.nansum((rigid.fit(arrays["points"]).project() - arrays["points"]) ** 2)
        )
        n += int(np.isfinite(arrays["points"]).sum())
    names = NRSfM(
        model, np.zeros((0, 2, 3)), np.zeros((0, wanted.n_shapes)), np.zeros((0, 2))
    ).parameters()[0]
    return Fitted(
        arrays={
            "rigid": model.rigid,
            "basis": model.basis,
            "axes": model.axes,
            "modes": model.modes,
            "readout": model.readout,
            "ridge": model.ridge,
            "rows": np.concatenate(rows),
            "parameters": np.concatenate(parts),
        },
        facts={
            "flags": dict(model.flags),
            "noise": model.noise,
            "frames": model.n_frames,
            "n_shapes": wanted.n_shapes,
            "parameter_names": names,
            "landmarks": array,
            "residual": float(np.sqrt(error / max(n, 1))),
            "residual_rigid": float(np.sqrt(error_rigid / max(n, 1))),
        },
    )


def solve_shapes(inputs: Inputs, source: BlockSource, n_shapes: int):
    """`ShapeModel` with `n_shapes` basis shapes; for 68 landmarks the nose is in front."""
    n_points = None
    for block in range(source.n_blocks):
        rows, arrays = source.read(block)
        if len(rows):
            n_points = arrays["points"].shape[2]
            break
    front = IBUG68_NOSE if n_points == 68 else None
    return inputs.engine.run(NRSfMSolver(n_shapes, front=front), source).model()
