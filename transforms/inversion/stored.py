"""Codes as a store holds them: with everything that belongs to them.

A row is never drawn, nor converted, without its companions: whoever wants a stored code reads it
here. Companions of one row may be tens of megabytes, so that rows are read when they are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from generators.protocols import Code, Space
from generators.tuned import is_own
from schemas.errors import StoreError
from schemas.store.latent_store import LatentStore
from schemas.store.layout import companion_path
from schemas.store.sibling import companions_held, companions_of
from transforms.accumulate.sources import codes_of

STAGE = "invert"


def stored_space(store: LatentStore) -> str:
    """The space of the codes that a store holds."""
    codes = (name for name in store.arrays(STAGE) if name.startswith("latents/"))
    return next(codes).removeprefix("latents/")


def companions_stored(store: LatentStore, space: Space) -> list[str]:
    """Names of what the store holds beside the codes of a space.

    Raises StoreError where a companion is missing without which they draw another image.
    """
    held = list(companions_held(store, STAGE, space.name))
    missing = [name for name in space.required if name not in held]
    if missing:
        raise StoreError(
            f"store {store.path!r} holds codes of {space.name!r} without {missing!r}, and they "
            "draw another image without: delete the store, or choose an 'invert.method' that "
            "gives them, and run the specification again"
        )
    return held


def own_numbers(store: LatentStore, space: str) -> int:
    """Numbers a row of weights and feature maps of its own that a store holds with the codes of a
    space (`generators.tuned`): what the codes are converted to depends on them, too."""
    held = companions_held(store, STAGE, space)
    paths = {companion_path(space, name): place for name, place in held.items() if is_own(name)}
    return sum(math.prod(place.array(path).shape[1:]) for path, place in paths.items())


def stored_code(
    store: LatentStore, space: Space, rows: np.ndarray, *, required: bool = False
) -> Code:
    """The codes of some rows, in their order, with their companions; on the CPU.

    space : of the store's generator. rows : int64 (m,), OK in the store, some perhaps twice.
    required : read only what the codes cannot do without, which is enough to convert them.

    Raises StoreError where something that belongs to a code is missing, or is of another one.
    """
    import torch

    names = companions_stored(store, space)
    if required:
        names = [n for n in names if n in space.required]
    main = torch.from_numpy(codes_of(store, space.name, rows))
    beside = companions_of(store, STAGE, space.name, rows, names) if names else {}
    return Code(space.name, main, {name: torch.from_numpy(v) for name, v in beside.items()})


@dataclass(frozen=True, eq=False)
class StoredCompanions:
    """What belongs to the codes of some rows, read when it is asked for; small and picklable.

    rows : int64 (m,)
    """

    store: LatentStore
    space: str
    rows: np.ndarray

    def __getitem__(self, at: slice | np.ndarray) -> StoredCompanions:
        return StoredCompanions(self.store, self.space, self.rows[at])

    def read(self) -> dict[str, np.ndarray]:
        """name -> (m, *shape)."""
        return companions_of(self.store, STAGE, self.space, self.rows)

    @cached_property
    def identity(self) -> list[object]:
        """What tells them from others without reading them: store, rows and their blocks'
        commits."""
        blocks = np.unique(self.rows // self.store.block_rows)
        commits = [self.store.commit_of(STAGE, int(block)).hex() for block in blocks]
        return [self.store.store_fp, self.rows.tolist(), commits]
