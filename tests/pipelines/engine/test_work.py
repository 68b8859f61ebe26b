"""What a worker could not do arrives in the driver with the words that help."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from pipelines.engine.blocks import (
    BlockWork,
    InProcess,
    InWorkerError,
    Prepared,
    run_blocks,
)
from pipelines.engine.ray import _failure
from pipelines.engine.writer_guard import Guard
from schemas.errors import CheckpointError, FileSystemError, LatentflowError
from schemas.store.lock import StoreLock


class Fails:
    """A task whose worker fails at the first block."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def build(self, guard: Guard) -> Fails:
        return self

    def process(self, work: BlockWork) -> dict[str, object]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (CheckpointError("as it was"), CheckpointError, "^as it was$"),
        (KeyError("w"), LatentflowError, "^block 7 could not be made: KeyError: 'w'$"),
        (MemoryError("8 GB"), LatentflowError, r"^block 7 needs more memory: lower .* \(8 GB\)$"),
        (OSError(errno.ENOSPC, "full", "/x"), FileSystemError, "'/x'.*free space"),
    ],
)
def test_a_workers_error_keeps_its_words(tmp_path: Path, error, kind, text):
    work = BlockWork(7, ["a"], ["a.png"], ["active"], {})
    with StoreLock(tmp_path / "store") as lock, pytest.raises(LatentflowError, match=text) as told:
        run_blocks(
            InProcess(),
            Fails(error),
            [work],
            lock,
            n_blocks=8,
            n_todo=1,
            n_rows=1,
            actors=1,
            progress=None,
        )
    assert type(told.value) is kind
    if kind is LatentflowError:
        assert isinstance(told.value.__cause__, InWorkerError)
        assert "in process" in str(told.value.__cause__)


def test_only_what_may_pass_is_to_be_run_again():
    trace = "Traceback\njson.decoder.JSONDecodeError: no\n\nray.exceptions.UserCodeException: UDF"
    for error, cure in (
        (RayTaskError("f", trace, ValueError("no")), "JSONDecodeError: no; the actors' environ"),
        (ActorDiedError(), "actor died.*; run again"),
    ):
        with pytest.raises(LatentflowError, match=cure):
            raise _failure(error)


def test_what_comes_before_the_first_block_comes_once():
    done: list[str] = []

    class Engine(InProcess):
        def map_blocks(self, actor, arguments, items, actors=None):
            done.append(f"map {len(items)}")
            return iter(())

    engine = Prepared(Engine(), lambda: done.append("prepare"))
    for items in ([], [{}], [{}, {}]):
        engine.map_blocks(object, {}, items)
    assert done == ["map 0", "prepare", "map 1", "map 2"]

    def refuse() -> None:
        raise CheckpointError("not this model")

    with pytest.raises(CheckpointError):
        Prepared(Engine(), refuse).map_blocks(object, {}, [{}])
    assert len(done) == 4
