"""A latent store: layout, blocks and their commits, the lock, and what is whole of it."""

from typing import TYPE_CHECKING

from schemas.faces import face

if TYPE_CHECKING:
    from schemas.store.latent_store import ArraySpec as ArraySpec
    from schemas.store.latent_store import LatentStore as LatentStore
    from schemas.store.rows import OkRows as OkRows
    from schemas.store.sibling import GrowingBlocks as GrowingBlocks
    from schemas.store.sibling import SiblingStore as SiblingStore
    from schemas.store.sibling import siblings_of as siblings_of

__getattr__ = face(
    __name__,
    {
        "latent_store": ["LatentStore", "ArraySpec"],
        "rows": ["OkRows"],
        "sibling": ["SiblingStore", "GrowingBlocks", "siblings_of"],
    },
)
