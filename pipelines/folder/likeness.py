"""How like its original a reconstruction is to a model that sees both: the cosine of embeddings.

An annotator of the role `EMBEDDING` that measured an image and its render gives every row a quality
of the annotator's name, beside those that inversion stores. It is computed where it is asked for:
nothing is stored twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from generators.annotators.kinds.catalog import KINDS, role_of
from schemas.store.latent_store import LatentStore

EMBEDDING = "embedding"
"""Role of annotators' kinds whose every row is one vector that is compared with another row's."""
RENDER = "@render"


def likenesses(store: LatentStore) -> list[str]:
    """Annotators that measured embeddings of the images and of their renders."""
    stages = embedding_stages(store)
    return [stage for stage in stages if stage + RENDER in stages]


def embedding_stages(store: LatentStore) -> list[str]:
    """Stages that hold embeddings, of images and of renders."""
    return [stage for stage in store.stages() if _holds_embeddings(store, stage)]


def likeness(store: LatentStore, name: str, block: int) -> np.ndarray:
    """`cosines` of a block's rows that were measured twice, float64 (m,)."""
    of = (f"annotations/{name}", f"annotations/{name}{RENDER}")
    found = store.ok_rows(of, block, [name, name + RENDER]).arrays
    return cosines(*(found[array] for array in of))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of vectors (..., d) of equal shapes, float64 (...); NaN where one has no length."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
        found: np.ndarray = np.clip((a * b).sum(-1) / lengths, -1.0, 1.0)
    return found


def _holds_embeddings(store: LatentStore, stage: str) -> bool:
    array = f"annotations/{stage}"
    if array not in store.arrays(stage):
        return False
    attrs: dict[str, Any] = dict(store.array(array).attrs)
    kind = str(attrs.get("kind"))
    return kind in KINDS and role_of(kind) == EMBEDDING
