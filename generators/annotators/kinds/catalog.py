"""All kinds of annotators: those of this folder and those that other packages bring."""

from __future__ import annotations

from generators.annotators.kinds.base import AnnotatorKind, Role
from schemas.catalog import Catalog
from schemas.errors import LatentflowError

KINDS: Catalog[AnnotatorKind] = Catalog(
    "annotator kind", "generators.annotators.kinds", "latentflow.annotators"
)


def role_of(kind: str) -> Role | None:
    """What analyses take the numbers of a kind for; None also for one that is not installed, as
    a store may hold what another environment measured."""
    try:
        return KINDS.load(kind).role
    except LatentflowError:
        return None
