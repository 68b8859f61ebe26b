"""Images to named numbers: which rows of a batch an annotator could measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from generators.protocols import Annotator
from schemas.store.reasons import Reason


class AnnotatedBatch(NamedTuple):
    """values : float32 (n, k) or (n, points, 2), NaN where reasons, uint8 (n,), are not 0.

    messages : row -> what the model said, of rows on which it failed.
    """

    values: NDArray[np.float32]
    reasons: NDArray[np.uint8]
    messages: Mapping[int, str]


def annotate_batch(
    annotator: Annotator, images: NDArray[np.uint8], size: tuple[int, int] | None = None
) -> AnnotatedBatch:
    """Measure images uint8 (n, h, w, 3).

    size : landmarks are in pixels of a picture of this (height, width), by default of the images.

    Rows in which the model found no face (none, or one below the presence that its description
    names) get NO_FACE, several of which none is meant SEVERAL_FACES, images on which the model
    fails MODEL_FAILED, values that are not finite NOT_FINITE. All are permanent.
    """
    predict = getattr(annotator, "predict", None)
    found: Any = None
    if predict is not None:
        found = predict(images) if size is None else predict(images, size)
    values = np.array(annotator.annotate(images) if found is None else found.values, np.float32)
    reasons = np.zeros(len(images), np.uint8) if found is None else np.array(found.reasons)
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    reasons[~finite & (reasons == Reason.NONE)] = Reason.NOT_FINITE
    values[reasons != Reason.NONE] = np.nan
    return AnnotatedBatch(values, reasons, {} if found is None else found.messages)
