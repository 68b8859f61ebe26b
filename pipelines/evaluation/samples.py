"""Samples that are edited and drawn: codes with all that they are drawn with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from generators.protocols import Code, Generator, Space, labels_in_turn
from schemas.store.latent_store import LatentStore
from transforms.accumulate.sources import codes_of
from transforms.inversion.stored import StoredCompanions, companions_stored


@dataclass(frozen=True, eq=False)
class Samples:
    """Codes with all that they are drawn with; small and picklable.

    space : of the codes. codes : float32 (n, *row_shape)
    classes : class number of every code, int64 (n,), for a class-conditional generator
    companions : name -> (n, *shape), or where a store holds them
    noise : the generator's noise inputs, as of `generators.protocols.Generator.draw`
    """

    space: str
    codes: NDArray[Any]
    classes: NDArray[Any] | Sequence[int] | None = None
    companions: Mapping[str, NDArray[Any]] | StoredCompanions = field(default_factory=dict)
    noise: str = "const"

    @classmethod
    def stored(
        cls,
        store: LatentStore,
        space: Space,
        rows: NDArray[np.int64],
        classes: NDArray[np.int64] | None,
    ) -> Samples:
        """Rows of a store. space : of the store's generator.

        Raises StoreError where the store lacks what the codes cannot be drawn without.
        """
        codes = codes_of(store, space.name, rows)
        noise = store.attrs.get("method", {}).get("noise_mode", "const")
        if not companions_stored(store, space):
            return cls(space.name, codes, classes, noise=noise)
        return cls(space.name, codes, classes, StoredCompanions(store, space.name, rows), noise)

    @classmethod
    def of(
        cls, code: Code, classes: NDArray[Any] | Sequence[int] | None, noise: str = "const"
    ) -> Samples:
        """Codes that are in memory."""
        whole = code.changed(lambda tensor: tensor.detach().cpu())
        beside = {name: tensor.numpy() for name, tensor in whole.companions.items()}
        return cls(code.space, whole.main.numpy(), classes, beside, noise)

    @classmethod
    def of_prior(
        cls,
        generator: Generator,
        space: str,
        n: int,
        seed: int,
        truncation_psi: float,
        noise: str = "const",
    ) -> Samples:
        """`n` draws from the generator's prior, seeds ``seed, seed + 1, ...``.

        A class-conditional generator's classes take turns. Raises UsageError for a space without
        prior.
        """
        import torch

        seeds = range(seed, seed + n)
        with torch.no_grad():
            code = generator.sample(space, seeds, truncation=truncation_psi)
        turns = labels_in_turn(generator.facts.classes, seeds)
        return cls.of(code, None if turns is None else np.array(turns), noise)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, at: slice | NDArray[np.int64]) -> Samples:
        """Some of them; a number of ``at`` may stand there several times."""
        companions = self.companions
        if not isinstance(companions, StoredCompanions):
            companions = {name: values[at] for name, values in companions.items()}
        else:
            companions = companions[at]
        classes = None if self.classes is None else np.asarray(self.classes)[at]
        return Samples(self.space, self.codes[at], classes, companions, self.noise)

    def code(self) -> Code:
        """All of them whole."""
        import torch

        beside = self.companions
        if isinstance(beside, StoredCompanions):
            beside = beside.read()
        given = {name: torch.tensor(values) for name, values in beside.items()}
        return Code(self.space, torch.from_numpy(np.array(self.codes, np.float32)), given)

    def identity(self) -> list[Any]:
        """What tells them from others."""
        held: list[Any] = [np.ascontiguousarray(self.codes, "<f4").tobytes()]
        if self.classes is not None:
            held.append(np.ascontiguousarray(self.classes, "<i8").tobytes())
        if isinstance(self.companions, StoredCompanions):
            held.append(self.companions.identity)
        else:
            for name, values in sorted(self.companions.items()):
                held += [name, np.ascontiguousarray(values, "<f4").tobytes()]
        if self.noise != "const":
            held.append(self.noise)
        return held
