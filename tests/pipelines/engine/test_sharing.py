"""How blocks are shared out among actors, and put together again."""

from __future__ import annotations

import heapq
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.blocks import BlockWork, StageWork
from pipelines.engine.parts import PartFiles, Sharing

FP = bytes(range(32))


def blocks(*sizes: int) -> list[BlockWork]:
    return [
        BlockWork(number, ["id"] * n, [f"{i}" for i in range(n)], ["active"] * n, {})
        for number, n in enumerate(sizes)
    ]


def rows_of(parts: list[BlockWork]) -> dict[int, list[slice]]:
    found: dict[int, list[slice]] = {}
    for part in parts:
        found.setdefault(part.block, []).append(part.rows)
    return found


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=6),
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 400),
    st.booleans(),
    st.integers(0, 5),
)
def test_parts_are_whole_batches_and_cover_each_row_once(sizes, actors, at_once, most, probe, made):
    held = {0: [slice(0, min(made * at_once, sizes[0]))] if made else []}
    parts = Sharing(actors, at_once, most, probe).parts(blocks(*sizes), held)
    covered = rows_of(parts)
    for block, size in enumerate(sizes):
        rows = [*held.get(block, ()), *covered.get(block, ())]
        assert [i for r in rows for i in range(r.start, r.stop)] == list(range(size))
        assert all(r.start % at_once == 0 for r in rows)
    assert all(len(part) <= max(most, at_once) for part in parts)
    assert all(part.whole == (len(part) == sizes[part.block]) for part in parts)


@pytest.mark.parametrize(
    ("sizes", "actors", "at_once"),
    [([5000], 2, 32), ([1000], 8, 32), ([1024] * 20 + [500], 8, 32), ([8192] * 2 + [3616], 2, 32)],
)
def test_all_actors_end_together(sizes, actors, at_once):
    parts = Sharing(actors, at_once, probe=True).parts(blocks(*sizes))
    ends = [0] * actors
    for part in parts:  # each goes to the first actor that is free
        heapq.heapreplace(ends, min(ends) + -(-len(part) // at_once))
    fair = sum(-(-size // at_once) for size in sizes) / actors
    assert max(ends) <= np.ceil(fair) + 1
    assert len(parts) < 4 * actors * np.log2(2 + sum(sizes) / at_once / actors) + len(sizes)


def test_where_there_are_many_blocks_most_stay_whole():
    parts = Sharing(2, 32, probe=True).parts(blocks(*[1024] * 40))
    assert [len(part) for part in parts[:2]] == [32, 992]
    assert all(part.whole for part in parts[2:34]) and len(parts) < 60
    alone = Sharing(1, 32).parts(blocks(1024, 500))
    assert [part.whole for part in alone] == [True, True]


def test_costly_rows_are_saved_soon():
    assert {len(p) for p in Sharing(1, 32, most=100).parts(blocks(960))} == {96}


def test_a_part_travels_whole():
    work = BlockWork(3, ["aa", "bb", "cc"], ["x", "y", "z"], ["active"] * 3,
                     {"invert": StageWork(FP, [("bb", "y", 4)])}, [0, 1, -1])  # fmt: skip
    part = work.part(slice(1, 3))
    assert (part.title, part.uris, part.rows) == ("block 3, rows 1 to 3", ["y", "z"], slice(1, 3))
    item = part.to_item()
    again = BlockWork.from_batch({name: np.array([value]) for name, value in item.items()})
    assert again == part and not again.whole and again.labels == [1, -1]
    assert work.part(slice(0, 3)) is work


def test_files_that_are_damaged_or_overlap_do_not_count(tmp_path: Path):
    files, own = PartFiles.beside(str(tmp_path / "store")), StageWork(FP)
    work = BlockWork(0, ["id"] * 10, ["u"] * 10, ["active"] * 10, {"invert": own})
    flags = np.zeros(10, np.uint8)
    for rows in (slice(0, 4), slice(0, 2), slice(2, 6), slice(4, 6), slice(6, 10)):
        n = rows.stop - rows.start
        arrays = {"latents/w": np.arange(rows.start, rows.stop, dtype=np.float32)}
        files.write(None, "invert", work.part(rows), 2, arrays, flags[:n], flags[:n])
    assert files.held("invert", own, 2) == [slice(0, 4), slice(4, 6), slice(6, 10)]
    assert files.held("invert", own, 4) == files.held("invert", StageWork(bytes(32)), 2) == []
    path = files._path("invert", f"{FP.hex()[:32]}.2", slice(4, 6))
    path.write_bytes(path.read_bytes()[:-30])
    assert files.held("invert", own, 2) == [slice(0, 4), slice(6, 10)]
    assert files.read("invert", own, 2, slice(6, 10))["latents/w"].tolist() == [6, 7, 8, 9]
    files.keep("invert", [own], 2)
    assert files.held("invert", own, 2)
    files.keep("invert", [own], 3)
    files.close()
    assert not files.folder.exists()
