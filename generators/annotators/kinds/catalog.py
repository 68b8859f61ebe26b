"""All kinds of annotators: those of this folder and those that other packages bring."""

from __future__ import annotations

from generators.annotators.kinds.base import AnnotatorKind
from schemas.catalog import Catalog
from schemas.errors import UsageError

KINDS: Catalog[AnnotatorKind] = Catalog(
    "annotator kind", "generators.annotators.kinds", "latentflow.annotators", base=AnnotatorKind
)


def role_of(kind: str) -> str | None:
    """What analyses take the numbers of a kind for, None for nothing.

    Raises UsageError for a kind that is not installed, as a store may hold what another environment
    measured; PluginError for one that cannot be imported.
    """
    if kind not in KINDS:
        raise UsageError(
            f"annotations of kind {kind!r} are in use, which is not installed here (there are "
            f"{KINDS.names()!r}): install the package that brings it"
        )
    return KINDS.load(kind).role
