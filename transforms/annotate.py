"""Images to named numbers: which rows of a batch an annotator could measure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from generators.protocols import Annotator
from schemas.reasons import Reason


class Measured(NamedTuple):
    """values : float32 (n, k) or (n, points, 2), NaN where reasons, uint8 (n,), are not 0."""

    values: NDArray[np.float32]
    reasons: NDArray[np.uint8]


def annotate_batch(annotator: Annotator, images: NDArray[np.uint8]) -> Measured:
    """Measure images uint8 (n, h, w, 3).

    Rows in which the model found no face (where its description declares how it says so) get
    NO_FACE, rows with values that are not finite NOT_FINITE. Both are permanent.
    """
    predict = getattr(annotator, "predict", None)
    if predict is None:
        values, present = annotator.annotate(images), np.ones(len(images), dtype=bool)
    else:
        values, present = predict(images)
    values = np.array(values, dtype=np.float32)
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    reasons = np.where(present, np.where(finite, Reason.NONE, Reason.NOT_FINITE), Reason.NO_FACE)
    values[reasons != Reason.NONE] = np.nan
    return Measured(values, reasons.astype(np.uint8))
