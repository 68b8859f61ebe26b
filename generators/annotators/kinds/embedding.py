"""Embeddings, such as of a face's identity (ArcFace, Deng et al. 2019) or of CLIP."""

from __future__ import annotations

from typing import Any

import numpy as np

from generators.annotators.kinds.base import AnnotatorKind, Described, numbered


class Embedding(AnnotatorKind):
    """A vector an image, stored with length 1; a row of length 0 is not measured.

    Its cosine to that of the original is a quality of a reconstruction and of an edit.

    ``names`` of a description may be the number of its elements.
    """

    name = "embedding"
    text = (
        "a vector an image, such as of a face's identity, stored with"
        " length 1; `names` may be the number of its elements"
    )
    role = "embedding"
    unit = "unit vector"

    def names(self, value: Any) -> Any:
        return numbered(value)

    def finish(self, values: np.ndarray, card: Described, shape: tuple[int, int]) -> np.ndarray:
        x = values.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            return (x / np.sqrt((x**2).sum(axis=1, keepdims=True))).astype(np.float32)


PLUGIN = Embedding()
