"""A small latent store with made-up contents, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from schemas.index import DatasetIndex, NewRow
from schemas.store.latent_store import ArraySpec, LatentStore
from schemas.store.reasons import Reason, Status

W_PLUS, PSNR, COUNT = "latents/w_plus", "quality/psnr", "quality/steps"
ARRAYS = [
    ArraySpec("latents", "w_plus", (3, 4)),
    ArraySpec("quality", "psnr"),
    ArraySpec("quality", "steps", dtype="int32"),
]
IDENTITY: dict[str, Any] = {
    "name": "faces",
    "generator_fp": "ab" * 32,
    "method": {"method": "optimise", "steps": 10},
    "seed": 3,
}


def create(path: Path, n_rows: int = 20, block_rows: int = 8, **changes: Any) -> LatentStore:
    facts = {**IDENTITY, "arrays": ARRAYS, "stages": ["invert"], **changes}
    return LatentStore.create(path, n_rows=n_rows, block_rows=block_rows, **facts)


def n_of(store: LatentStore, block: int) -> int:
    rows = store.block_slice(block)
    return rows.stop - rows.start


def values(store: LatentStore, block: int) -> dict[str, np.ndarray]:
    """Made-up results of a block: a pure function of its row numbers."""
    rows = store.block_slice(block)
    codes = [np.random.default_rng(row).normal(size=(3, 4)) for row in range(rows.start, rows.stop)]
    numbers = np.arange(rows.start, rows.stop)
    return {W_PLUS: np.array(codes, "f4"), PSNR: numbers + 0.5, COUNT: numbers.astype("i4")}


def flags(n: int, **set_aside: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Status and reason of n rows, OK but for those named."""
    status, reason = np.full(n, Status.OK, "u1"), np.zeros(n, "u1")
    for name, rows in set_aside.items():
        status[rows] = Status[name.upper()]
        if name == "quarantined":
            reason[rows] = Reason.CORRUPT
    return status, reason


def fp_of(store: LatentStore, block: int, stage: str = "invert", version: int = 1) -> bytes:
    rows = store.block_slice(block)
    identity = [(f"image-{row}", "active") for row in range(rows.start, rows.stop)]
    return store.block_fp(stage, block, identity, version)


def write(store: LatentStore, block: int, **set_aside: list[int]) -> None:
    status, reason = flags(n_of(store, block), **set_aside)
    store.write_block("invert", block, values(store, block), status, reason, fp_of(store, block))


def write_all(store: LatentStore) -> None:
    for block in range(store.n_blocks):
        write(store, block)


def write_golden(path: Path) -> None:
    """How ``tests/golden/store_v1`` was made."""
    store = create(path)
    spec = ArraySpec("annotations", "attr@render", (2,), attrs={"names": ["smile", "yaw"]})
    store.add_arrays("attr@render", [spec])
    write(store, 0, quarantined=[1], removed=[2])
    write(store, 1)
    scores = {spec.path: (np.arange(16).reshape(8, 2) / 16).astype("f4")}
    store.write_block("attr@render", 0, scores, *flags(8), fp_of(store, 0, "attr@render"))


def index_of(n: int) -> DatasetIndex:
    """n rows of made-up images."""
    return DatasetIndex.empty().append([NewRow(f"{i:064x}", f"{i}.png") for i in range(n)])
