"""Perceptual path lengths, drawn and measured in pieces that outlive a killed run."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.analyses.inputs import Data, Fitted
from pipelines.analyses.path_length.network import name_of
from pipelines.analyses.path_length.steps import Steps, StepsOfPath
from schemas.sections.path_length import PathLengthSpec
from transforms.generator_metrics.path_length import CollectPathLengths, trimmed_mean, trimmed_part

PIECE = 4096
"""Steps whose lengths are kept as soon as they are measured."""


def fit_path_length(data: Data, wanted: PathLengthSpec) -> Fitted:
    """Makes no direction. Arrays: the length of every step of each path, float64 (samples,).

    Facts: ``paths``, of each the trimmed mean, its standard error, and the median of all steps.
    Raises DataError where a length is not finite.
    """
    name = name_of(wanted.network, wanted.linear)
    distance = "LPIPS" + name.removeprefix("PPL")
    out = Fitted(
        facts={
            "name": name,
            "distance": distance,
            "n": wanted.samples,
            "epsilon": wanted.epsilon,
            "crop": wanted.crop,
            "paths": {},
        }
    )
    for path in data.parameter("measured"):
        space, _, part = path.rpartition("_")
        steps = Steps(
            generator=data.generator_source,
            generator_fp=data.generator_fp,
            network=wanted.network,
            linear=wanted.linear,
            network_fp=str(data.parameter("distance")),
            space=space,
            full=part == "full",
            epsilon=wanted.epsilon,
            crop=wanted.crop,
            noise=data.noise_mode if wanted.noise == "run" else None,
            seed=wanted.seed,
        )
        found = np.concatenate(
            [
                data.engine.sum(
                    StepsOfPath(steps, first, min(first + PIECE, wanted.samples)),
                    CollectPathLengths(),
                ).distances
                for first in range(0, wanted.samples, PIECE)
            ]
        )
        out.facts["paths"][path] = _summary(found)
        out.keep(path, found)
    return out


def _summary(lengths: np.ndarray) -> dict[str, Any]:
    value = trimmed_mean(lengths)
    kept = trimmed_part(lengths)
    return {
        "value": value,
        "standard_error": float(kept.std(ddof=1) / np.sqrt(len(kept))) if len(kept) > 1 else None,
        "median": float(np.median(lengths)),
    }
