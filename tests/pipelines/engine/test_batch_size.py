"""``batch_size: auto``: the most rows that stay below what an actor may take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from inversion_fixture import annotator, make

from pipelines.engine import batch_size as auto
from pipelines.engine.batch_size import MB, PeakOfProcess, Trial, largest_batch
from pipelines.engine.blocks import InProcess
from pipelines.stages.annotate import annotate
from pipelines.stages.invert import invert
from schemas.errors import SpecError, UsageError
from schemas.spec import parse_spec
from schemas.spec_models import AnnotateSpec
from schemas.store.latent_store import LatentStore

ROW_MB = 12


@dataclass
class Planted:
    """Takes `ROW_MB` a row, as `Meter` counts it, and has no more than `room` rows."""

    room: int = 1000
    device: str = "cpu"
    tried: list[int] = field(default_factory=list)

    def attempt(self, rows: int) -> None:
        self.tried.append(rows)
        if rows > self.room:
            raise MemoryError("cannot allocate memory")
        Meter.taken = rows * ROW_MB


class Meter:
    """Stands in for `PeakOfProcess`, which other tests' memory would move: 100 MB, and what a
    `Planted` worker took since."""

    taken = 0

    def __init__(self, device: str) -> None:
        self.peak = 0

    def __enter__(self) -> Meter:
        Meter.taken = 0
        return self

    def __exit__(self, *error: object) -> None:
        self.peak = (100 + Meter.taken) * MB


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "PeakOfProcess", Meter)


def allowed(rows: float) -> int:
    """Bytes of a process with so many rows of `Planted`, by `Meter`."""
    return int((100 + rows * ROW_MB) * MB)


@pytest.mark.usefixtures("counted")
def test_the_largest_power_of_two_that_is_allowed_is_found_and_none_larger_is_tried():
    for rows, expected in ((1.0, 1), (1.99, 1), (2.0, 2), (5.5, 4), (8.0, 8), (10.5, 8)):
        worker = Planted()
        assert largest_batch(worker, Trial(allowed(rows), 0, 64)) == expected
        assert max(worker.tried) == expected


def test_the_peak_is_that_of_what_the_process_held():
    with PeakOfProcess() as before:
        pass
    with PeakOfProcess() as memory:
        held = np.ones(300 * MB, np.uint8)
        time.sleep(0.02)
        assert held[-1] == 1
    assert memory.peak > before.peak + 150 * MB


@pytest.mark.usefixtures("counted")
def test_what_blocks_take_beside_a_batch_is_left_free():
    kept = 6 * ROW_MB * MB
    assert largest_batch(Planted(), Trial(allowed(10.5), kept, 64)) == 4


@pytest.mark.usefixtures("counted")
def test_no_more_rows_are_taken_than_a_block_has_or_than_fit():
    assert largest_batch(Planted(), Trial(allowed(100), 0, 2)) == 2
    assert largest_batch(Planted(room=3), Trial(allowed(100), 0, 64)) == 2


def test_no_batch_is_tried_that_is_more_than_twice_the_rows_there_are():
    most = [Trial.of_blocks(1, 256, 1, n).most for n in (1, 2, 12, 16, 17, 1000)]
    assert most == [1, 2, 16, 16, 32, 256]
    assert Trial.of_blocks(1, 4096, 1, 10**6).most == 512


@pytest.mark.usefixtures("counted")
def test_a_row_that_takes_more_than_is_allowed_is_told_with_what_it_takes():
    with pytest.raises(UsageError, match="'ray.actor_memory_mb' is .* with one row at a time"):
        largest_batch(Planted(), Trial(allowed(0.5), 0, 64))


@pytest.mark.usefixtures("counted")
def test_an_error_of_the_model_is_not_taken_for_lack_of_memory():
    class Broken(Planted):
        def attempt(self, rows: int) -> None:
            raise ValueError("not a model")

    with pytest.raises(ValueError, match="not a model"):
        largest_batch(Broken(), Trial(allowed(9), 0, 64))


def test_a_store_has_the_same_codes_and_measures_and_notes_the_batch(tmp_path):
    setting = make(tmp_path, 6)
    model, _ = annotator(tmp_path, "marks", "scores", ["smile"])
    found = {}
    for batch_size in (16, "auto"):
        root = tmp_path / str(batch_size)
        identity = setting.identity(root, batch_size=batch_size)
        made = invert(setting.index, setting.source, identity, engine=InProcess())
        measured = annotate(
            setting.index,
            setting.source,
            identity.path,
            [AnnotateSpec(name="marks", model=model, batch_size=batch_size)],
            generator_uri=setting.generator,
            engine=InProcess(),
        )
        store = LatentStore.open(identity.path)
        values = [
            np.asarray(store.array(f"annotations/{name}")) for name in ("marks", "marks@render")
        ]
        codes = np.asarray(store.array("latents/w_plus"))
        found[batch_size] = identity.store_fp, made.batch_size, measured.batch_sizes, codes, values
    fixed, auto = found.values()
    assert fixed[:3] == (auto[0], 16, {"marks": 16, "marks@render": 16})
    assert auto[1:3] == (8, {"marks": 8, "marks@render": 8})  # all six rows
    np.testing.assert_allclose(auto[3], fixed[3], atol=1e-5)
    np.testing.assert_allclose(auto[4], fixed[4], atol=0.02)


def test_a_run_that_may_take_too_little_says_so_before_its_first_block(tmp_path):
    setting = make(tmp_path, 2)
    identity = setting.identity(tmp_path / "runs", batch_size="auto")
    with pytest.raises(UsageError, match="'ray.actor_memory_mb' is 1, .* raise it"):
        invert(setting.index, setting.source, identity, engine=InProcess(), actor_memory_mb=1)
    assert not LatentStore.open(identity.path).committed("invert").any()


def test_a_batch_size_is_a_number_or_auto():
    text = "name: a\ndataset: {path: .}\ninvert: {batch_size: %s}\n"
    assert parse_spec(text % "auto", ".").invert.batch_size == "auto"
    assert parse_spec(text % "8", ".").invert.batch_size == 8
    for wrong in ("fast", "0", "9000", "true", "1.5", "[]"):
        with pytest.raises(SpecError, match=r"line 3: 'invert.batch_size'"):
            parse_spec(text % wrong, ".")
