"""Edits measured in pieces: same bits whoever works, nothing measured twice, nothing stale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from inversion_fixture import CONFIG, adapter, annotator

import generators
from pipelines.engine.blocks import InProcess
from pipelines.evaluation.actors_meter import (
    ActorsMeter,
    Models,
    pieces_of,
    read_piece,
    write_piece,
)
from pipelines.evaluation.meter import BATCH, Edited, Meter, Sweep
from pipelines.evaluation.samples import Samples
from schemas.directions.direction_set import Direction
from schemas.errors import LatentflowError, RunInterruptedError, UsageError
from schemas.store.lock import StoreLock

SHAPE = (CONFIG.num_ws, CONFIG.w_dim)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Models:
    root = tmp_path_factory.mktemp("models")
    generators.save_safetensors(adapter(), root / "generator.safetensors")
    paths = [
        annotator(root, "marks", "scores", ["smile", "glasses"])[0],
        annotator(root, "angle", "pose", ["yaw"])[0],
        annotator(root, "points", "landmarks", ["a", "b"])[0],
        annotator(root, "identity", "embedding", ["0", "1", "2", "3"])[0],
    ]
    uri = str(root / "generator.safetensors")
    fp = generators.fingerprint(uri)
    return Models(uri, fp, tuple((path, None) for path in paths))


@pytest.fixture
def codes(rng) -> Samples:
    return Samples("w_plus", rng.standard_normal((2 * BATCH + 7, *SHAPE)).astype(np.float32))


@pytest.fixture
def edits(rng, models) -> list[Sweep]:
    vectors = rng.standard_normal((2, *SHAPE))
    first, second = (
        Direction(f"d{i}", "w_plus", v / np.linalg.norm(v), None, "planted", 0.5,
                  provenance={"generator_fp": models.generator_fp})
        for i, v in enumerate(vectors)
    )  # fmt: skip
    return [
        Sweep(first, (0.0,), 3),
        Sweep(first, (-2.0, 1.0, 2.0), BATCH + 2),
        Sweep(second, (1.0,)),
        Sweep(second, (-1.0,), 4, 4, measured=False),
    ]


class Counting(InProcess):
    """Keeps what was sent, and stops after so many results."""

    def __init__(self, stop_after: int | None = None, backwards: bool = False) -> None:
        super().__init__(backwards=backwards)
        object.__setattr__(self, "sent", [])
        object.__setattr__(self, "stop_after", stop_after)

    def map_blocks(self, actor, arguments, items, actors=None):
        self.sent.extend(items)
        for done, result in enumerate(super().map_blocks(actor, arguments, items, actors)):
            if done == self.stop_after:
                raise KeyboardInterrupt
            yield result


def measured(models: Models, root: Path, codes, edits, engine=None) -> list[Edited]:
    with StoreLock(root / "store") as lock:
        meter = ActorsMeter(models, engine or InProcess(), lock, root / "pieces")
        return meter.edited(codes, edits)


def same(a: list[Edited], b: list[Edited]) -> None:
    for left, right in zip(a, b, strict=True):
        assert left.values.keys() == right.values.keys()
        for name in left.values:
            np.testing.assert_array_equal(left.values[name], right.values[name])
        np.testing.assert_array_equal(left.pictures, right.pictures)
        np.testing.assert_equal(dict(left.likeness), dict(right.likeness))


def test_pieces_give_the_bits_of_one_go_in_any_order(models, codes, edits, tmp_path):
    meter = models.load("cpu", 1, False)
    whole = meter.edited(codes, edits)
    assert [set(e.values) for e in whole] == [{"smile", "glasses", "yaw"}] * 3 + [set()]
    assert whole[1].values["yaw"].shape == (len(codes), 3)
    assert [len(e.pictures) for e in whole] == [3, BATCH + 2, 0, 4]
    cosine = whole[1].likeness["identity"]
    assert cosine.shape == (len(codes), 3) and cosine[:, 2].mean() < cosine[:, 1].mean() < 1
    np.testing.assert_allclose(whole[0].likeness["identity"], 1.0, atol=1e-6)
    assert len(pieces_of(models, codes, edits)) == 3 * 3 + 1
    same(measured(models, tmp_path / "a", codes, edits), whole)
    same(measured(models, tmp_path / "b", codes, edits, InProcess(backwards=True)), whole)
    names = ActorsMeter(models, InProcess(), StoreLock(tmp_path / "c"), tmp_path)
    assert names.names("scores") == meter.names("scores") == ["smile", "glasses"]
    assert names.names("pose") == meter.names("pose") == ["yaw"]
    assert names.names("embedding") == meter.names("embedding") == ["identity"]


def test_what_a_killed_run_measured_is_not_measured_again(models, codes, edits, tmp_path):
    killed = Counting(stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        measured(models, tmp_path, codes, edits, killed)
    assert len(killed.sent) == 10
    on = Counting()
    found = measured(models, tmp_path, codes, edits, on)
    assert len(on.sent) == 5
    same(found, models.load("cpu", 1, False).edited(codes, edits))
    once_more = Counting()
    same(measured(models, tmp_path, codes, edits, once_more), found)
    assert not once_more.sent


def test_a_run_that_is_asked_to_stop_finishes_the_piece_in_hand(models, codes, edits, tmp_path):
    with StoreLock(tmp_path / "store") as lock:
        meter = ActorsMeter(models, InProcess(), lock, tmp_path / "pieces")
        with pytest.raises(RunInterruptedError, match="1 of 10 pieces made"):
            meter.edited(codes, edits, lambda done, total: lock.ask_to_stop() if done else None)
    on = Counting()
    measured(models, tmp_path, codes, edits, on)
    assert len(on.sent) == 9


def test_damaged_pieces_and_those_of_other_inputs_are_not_used(models, codes, edits, tmp_path):
    before = measured(models, tmp_path, codes, edits)
    damaged = sorted((tmp_path / "pieces").iterdir())[2]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    assert read_piece(tmp_path / "pieces", damaged.stem) is None
    engine = Counting()
    same(measured(models, tmp_path, codes, edits, engine), before)
    assert [item["key"] for item in engine.sent] == [damaged.stem]
    other = replace(codes, codes=codes.codes.copy())
    other.codes[0, 0, 0] += 1  # in the first range alone
    stronger = [replace(edits[0], strengths=(0.5,)), *edits[1:]]
    engine = Counting()
    measured(models, tmp_path, other, stronger, engine)
    sent = [(item["edit"], item["start"]) for item in engine.sent]
    assert sent == [(0, 0), (0, BATCH), (0, 2 * BATCH), (1, 0), (2, 0), (3, 0)]
    assert len(list((tmp_path / "pieces").iterdir())) == 10


def test_short_memory_halves_a_piece(models, codes, edits, tmp_path, monkeypatch):
    whole = models.load("cpu", 1, False).edited(codes, edits)
    edit, most = Meter.edit, [20]

    def tight(self, given, *rest):
        if len(given) > most[0]:
            raise MemoryError("of the device")
        return edit(self, given, *rest)

    monkeypatch.setattr(Meter, "edit", tight)
    found = measured(models, tmp_path, codes, edits)
    for a, b in zip(found, whole, strict=True):
        for name in a.values:
            np.testing.assert_allclose(a.values[name], b.values[name], atol=1e-4)
        assert np.abs(a.pictures.astype(int) - b.pictures).max(initial=0) <= 1
    most[0] = 0
    with pytest.raises(LatentflowError, match="3 images do not fit into memory"):
        measured(models, tmp_path / "none", codes, edits[1:2])


def test_changed_models_and_lost_pieces_are_told(models, codes, edits, tmp_path, monkeypatch):
    stale = replace(models, generator_fp="0" * 64)
    with pytest.raises(UsageError, match="the file changed; start again"):
        measured(stale, tmp_path, codes, edits)
    monkeypatch.setattr("pipelines.evaluation.actors_meter.write_piece", lambda *a: None)
    with pytest.raises(LatentflowError, match="all actors must see this folder"):
        measured(models, tmp_path, codes, edits[:1])


def test_a_piece_keeps_what_was_not_measured(tmp_path):
    values = {"a": np.array([[np.nan, 1.0]]), "b": np.array([[2.0, -0.0]])}
    found = Edited(values, np.zeros((0, 2, 4, 4, 3), np.uint8), {"m": np.array([[np.nan, 0.5]])})
    write_piece(tmp_path, "k", found)
    same([read_piece(tmp_path, "k")], [found])
