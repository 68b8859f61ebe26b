"""Blocks made in parts have the bits of whole ones, whoever makes them and whatever happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from inversion_fixture import annotator, make, tree

from pipelines.engine.blocks import InProcess
from pipelines.engine.parts import PartFiles, Probe, Sharing
from pipelines.stages.annotate import annotate
from pipelines.stages.invert import InvertWorker, invert, plan_invert
from pipelines.stages.invert_plan import actors_busy, sharing_of
from schemas.errors import LatentflowError, RunInterruptedError, StoreError
from schemas.spec_models import AnnotateSpec
from schemas.store import sibling
from schemas.store.latent_store import ArraySpec, LatentStore
from schemas.store.sibling import GrowingBlocks, siblings_of


class Engine(InProcess):
    """Makes the first pieces only, in another order; counts them."""

    def __init__(self, actors=1, order=None, most=None):
        super().__init__(actors=actors)
        object.__setattr__(self, "order", order or list)
        object.__setattr__(self, "most", most)
        object.__setattr__(self, "made", [])

    def map_blocks(self, actor, arguments, items, actors=None) -> Iterator[dict]:
        chosen = list(self.order(items))[: self.most]
        for item in super().map_blocks(actor, arguments, chosen, actors):
            self.made.append(item)
            yield item
        if self.most is not None:
            raise RunInterruptedError("killed")


def rows_made(engine: Engine) -> int:
    return sum(json.loads(str(item["receipt"]))["rows"] for item in engine.made)


def odd_first(items):
    return [*items[1::2], *items[::2]]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make(tmp_path_factory.mktemp("parts"), 120)


@pytest.fixture(scope="module")
def whole(setting, tmp_path_factory):
    """The store as whole blocks make it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sharing, "parts", lambda self, blocks, held=None: list(blocks))
        return run(setting, tmp_path_factory.mktemp("whole"))


def run(setting, root: Path, engine=None, **spec) -> str:
    identity = setting.identity(root, **{"batch_size": 8, **spec})
    invert(setting.index, setting.source, identity, engine=engine or InProcess())
    return identity.path


@pytest.mark.parametrize("actors", [1, 2, 3])
@pytest.mark.parametrize("order", [list, lambda items: items[::-1], odd_first])
def test_parts_have_the_bits_of_whole_blocks(setting, whole, tmp_path, actors, order):
    engine = Engine(actors, order)
    path = run(setting, tmp_path, engine)
    assert len(engine.made) > 2 and tree(path) == tree(whole)
    assert not PartFiles.beside(path).folder.exists()


@pytest.mark.parametrize("made", [1, 3, 5])
def test_a_killed_run_goes_on_with_the_parts_that_there_are(setting, whole, tmp_path, made):
    with pytest.raises(RunInterruptedError):
        run(setting, tmp_path, Engine(3, most=made))
    folder = PartFiles.beside(setting.identity(tmp_path, batch_size=8).path).folder
    assert len(list(folder.iterdir())) in range(1, made + 1)
    (folder / f"invert.{'0' * 32}.8.0-8.npz").write_bytes(b"of another block")
    rest = Engine(2)
    path = run(setting, tmp_path, rest)
    assert tree(path) == tree(whole) and not folder.exists()
    assert 0 < rows_made(rest) <= 120 - 8 * made


def test_parts_that_are_all_there_need_no_actor(setting, whole, tmp_path, monkeypatch):
    class Died(BaseException):
        pass

    def die(self, *args):
        raise Died

    with monkeypatch.context() as patch:  # the driver dies before it commits
        patch.setattr(LatentStore, "write_block", die)
        with pytest.raises(Died):
            run(setting, tmp_path, Engine(3))
    folder = PartFiles.beside(setting.identity(tmp_path, batch_size=8).path).folder
    with monkeypatch.context() as patch:  # and so does the next, with the last block
        patch.setattr(LatentStore, "write_block", die)
        with pytest.raises(Died):
            run(setting, tmp_path, Engine(3, lambda items: items[::-1]))
    assert folder.exists()
    path = run(setting, tmp_path, Engine(3))
    assert tree(path) == tree(whole) and not folder.exists()


def test_a_part_that_fails_says_so_and_loses_no_other(setting, whole, tmp_path, monkeypatch):
    codes, left = InvertWorker._codes, [4]

    def failing(self, *args, **options):
        left[0] -= 1
        if left[0] == 0:
            raise ValueError("no such code")
        return codes(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(InvertWorker, "_codes", failing)
        with pytest.raises(LatentflowError, match=r"block 0, rows \d+ to \d+ could not be made"):
            run(setting, tmp_path, Engine(3))
    rest = Engine(3)
    path = run(setting, tmp_path, rest)
    assert tree(path) == tree(whole) and 0 < rows_made(rest) < 120


def test_rows_that_cannot_be_read_are_tried_again_in_parts(tmp_path):
    setting = make(tmp_path, 60)
    lost = setting.file(50)
    data = lost.read_bytes()
    lost.unlink()
    path = run(setting, tmp_path / "stores", Engine(3))
    before = tree(path)
    again = Engine(3)
    assert run(setting, tmp_path / "stores", again) == path
    assert len(again.made) > 1 and tree(path) == before
    lost.write_bytes(data)
    run(setting, tmp_path / "stores", Engine(3))
    fresh = run(setting, tmp_path / "fresh")
    assert tree(path) == tree(fresh) != before and not PartFiles.beside(path).folder.exists()


def test_parts_with_rows_that_could_not_be_read_are_not_used_again(tmp_path):
    setting = make(tmp_path, 60)
    lost = setting.file(3)
    data = lost.read_bytes()
    lost.unlink()
    with pytest.raises(RunInterruptedError):
        run(setting, tmp_path / "stores", Engine(3, most=3))
    lost.write_bytes(data)
    path = run(setting, tmp_path / "stores", Engine(3))
    assert tree(path) == tree(run(setting, tmp_path / "fresh"))


def test_parts_of_two_layouts_are_not_put_together(setting, tmp_path):
    with pytest.raises(RunInterruptedError):
        run(setting, tmp_path, Engine(3, most=2))
    path = setting.identity(tmp_path, batch_size=8).path
    part = sorted(PartFiles.beside(path).folder.iterdir())[0]
    with np.load(part) as held:
        fewer = {name: held[name] for name in held.files if name != "quality/ssim"}
    with open(part, "wb") as file:
        np.savez(file, **fewer)
    with pytest.raises(StoreError, match=r"\['quality/ssim'\] in some rows alone: delete"):
        run(setting, tmp_path, Engine(3))


def test_large_companions_go_with_the_parts(setting, tmp_path, monkeypatch):
    delta = ArraySpec("companions", "w_plus.delta", (3,))
    codes, held = InvertWorker._codes, []

    def with_more(self, *args, **options):
        found = codes(self, *args, **options)
        main = found.arrays["latents/w_plus"]
        more = {delta.path: main.reshape(len(main), -1)[:, :3] * 2}
        return replace(found, arrays={**found.arrays, **more})

    def watched(self, arrays, rows, put=GrowingBlocks.put):
        put(self, arrays, rows)
        held.append(sum(len(v) for block in self._held.values() for v in block.values()))

    monkeypatch.setattr(InvertWorker, "_codes", with_more)
    monkeypatch.setattr(GrowingBlocks, "put", watched)
    monkeypatch.setattr(sibling, "BLOCK_BYTES", 16 * delta.row_bytes)
    made = []
    for name, engine in (("a", Engine(1, most=2)), ("a", Engine(3, odd_first)), ("b", None)):
        identity = replace(setting.identity(tmp_path / name, batch_size=8), large=(delta,))
        try:
            invert(setting.index, setting.source, identity, engine=engine or InProcess())
        except RunInterruptedError:
            continue
        (beside,) = siblings_of(LatentStore.open(identity.path))
        assert not plan_invert(setting.index, identity).work
        made.append((tree(identity.path), tree(beside.path)))
    assert made[0] == made[1] and beside.block_rows == 16 and max(held) <= 16


def test_annotations_are_shared_out_too(setting, whole, tmp_path):
    trees = []
    spec = annotator(setting.root, "bright", "scores", ["bright"])[0]
    models = [AnnotateSpec(name="bright", model=spec, batch_size=8)]
    for number, engine in enumerate((InProcess(), Engine(3, odd_first), Engine(3, most=3))):
        path = run(setting, tmp_path / str(number))
        given = {"generator_uri": setting.generator}
        try:
            annotate(setting.index, setting.source, path, models, engine=engine, **given)
        except RunInterruptedError:
            rest = Engine(2)
            annotate(setting.index, setting.source, path, models, engine=rest, **given)
            assert rows_made(rest) + rows_made(engine) == 120
        trees.append(tree(path))
    assert trees[0] == trees[1] == trees[2]


def test_how_methods_are_shared_out(setting, tmp_path):
    def sharing(**spec):
        identity = setting.identity(tmp_path, block_rows=1024, batch_size=32, **spec)
        return sharing_of(identity, 32, 8)

    assert sharing().most > 8192
    costly = sharing(method="optimise", steps=1000)
    assert costly.most < 32 and costly.at_once == 32


def test_plan_tells_how_many_actors_have_work(setting, tmp_path):
    for batch_size, told in ((8, "15 parts of at most 8 rows: 8 of 8"), (64, "2 parts of")):
        identity = setting.identity(tmp_path, batch_size=batch_size)
        (line,) = actors_busy(identity, 8, plan_invert(setting.index, identity))
        assert line.startswith(told) and ("a smaller" in line) == (batch_size == 64)
    assert not actors_busy(setting.identity(tmp_path, batch_size="auto"), 8,
                           plan_invert(setting.index, identity))  # fmt: skip


def test_the_cost_is_told_after_the_first_batch(setting, tmp_path):
    told, done = [], []
    identity = setting.identity(tmp_path, batch_size=8)
    given = {"progress": lambda n, total: done.append(n), "engine": InProcess(actors=3)}
    invert(setting.index, setting.source, identity, tell=lambda p: told.append((p, len(done))),
           **given)  # fmt: skip
    ((probe, at),) = told
    assert (probe.rows, probe.left, probe.actors, at) == (8, 120, 3, 1)
    assert probe.total_s == pytest.approx(probe.seconds * 5)
    words = str(Probe(8, 0.4, 3000, 2, 1000))
    assert words == ("50 ms an image in a batch of 8: about 1.2 min for 3000 images on 2 actors, "
                     "about 3.0 MB before compression")  # fmt: skip
    assert str(Probe(2, 25.0, 4, 1, 1000)).startswith("12 s an image")
    short = str(Probe(8, 1.84, 50, 1, 1000))
    assert short.startswith("230 ms an image") and "about 12 s for 50 images" in short
    assert str(Probe(1, 240.0, 2, 1, 1000)).startswith("240 s an image")
