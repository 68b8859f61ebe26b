"""Companions of codes that are too large for a store lie in its sibling, written row by row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from inversion_fixture import annotator, make, tree

from generators.protocols import Code
from pipelines.engine.blocks import InProcess
from pipelines.stages.annotate import annotate
from pipelines.stages.invert import InvertWorker, invert, plan_invert
from schemas.spec_models import AnnotateSpec
from schemas.store import sibling
from schemas.store.latent_store import ArraySpec, LatentStore
from schemas.store.reasons import Status
from schemas.store.sibling import siblings_of
from transforms.inversion.method import render

DELTA = ArraySpec("companions", "w_plus.delta", (3,))


@pytest.fixture(autouse=True)
def with_delta(monkeypatch):
    """As if the method gave three numbers beside each code, so large that 16 rows are a block."""
    codes = InvertWorker._codes

    def with_more(self, images, image_ids, rows):
        found = codes(self, images, image_ids, rows)
        main = found.arrays["latents/w_plus"]
        delta = main.reshape(len(main), -1)[:, :3] * 2
        return replace(found, arrays={**found.arrays, DELTA.path: delta})

    monkeypatch.setattr(InvertWorker, "_codes", with_more)
    monkeypatch.setattr(sibling, "BLOCK_BYTES", 16 * DELTA.row_bytes)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    found = make(tmp_path_factory.mktemp("images"), 75)
    found.file(4).write_bytes(b"no picture")
    return found


def identity_of(setting, root: Path):
    identity = setting.identity(root, batch_size=12, method="encoder")
    return replace(identity, large=(DELTA,))


def run(setting, identity):
    return invert(setting.index, setting.source, identity, engine=InProcess())


def test_every_row_has_what_belongs_to_its_code(setting, tmp_path):
    identity = identity_of(setting, tmp_path)
    run(setting, identity)
    store = LatentStore.open(identity.path)
    (beside,) = siblings_of(store)
    assert beside.block_rows == 16 and beside.arrays("invert") == [DELTA.path]
    ok = np.flatnonzero(store.status("invert") == Status.OK)
    codes = np.asarray(store.array("latents/w_plus")[:]).reshape(store.n_rows, -1)[ok, :3]
    np.testing.assert_array_equal(beside.rows(store, ok)[DELTA.path], codes * 2)
    assert not plan_invert(setting.index, identity).work
    # the store itself is the one that there would be without
    alone = setting.identity(tmp_path / "alone", batch_size=12, method="encoder")
    run(setting, alone)
    assert tree(alone.path) == tree(identity.path) and not siblings_of(LatentStore.open(alone.path))
    # what is taken out of the sibling is made again with its block of the store
    writable = siblings_of(store, "r+")[0]
    writable._write_commit("invert", 4, bytes(32))
    before = tree(identity.path)
    assert [work.block for work in plan_invert(setting.index, identity).work] == [1]
    run(setting, identity)
    assert not plan_invert(setting.index, identity).work and tree(identity.path) == before


class Died(BaseException):
    pass


@pytest.mark.parametrize("writes", [8, 24])
def test_killed_at_any_write_the_next_run_gives_the_same_bytes(
    setting, tmp_path, monkeypatch, writes
):
    whole, killed = (identity_of(setting, tmp_path / name) for name in ("whole", "killed"))
    run(setting, whole)
    put, left = LatentStore._put, [writes]

    def dying(self, key, data):
        if not left[0]:
            raise Died
        left[0] -= 1
        put(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(LatentStore, "_put", dying)
        with pytest.raises(Died):
            run(setting, killed)
    assert plan_invert(setting.index, killed).work
    run(setting, killed)
    for a, b in zip(*((i.path, siblings_of(LatentStore.open(i.path))[0].path)
                      for i in (whole, killed)), strict=True):  # fmt: skip
        assert tree(a) == tree(b)


def test_renders_are_drawn_with_what_belongs_to_the_codes(setting, tmp_path, monkeypatch):
    identity = identity_of(setting, tmp_path)
    run(setting, identity)
    store, seen = LatentStore.open(identity.path), []

    def watched(generator, code, *options):
        seen.append(code)
        return render(generator, Code(code.space, code.main), *options)

    monkeypatch.setattr("transforms.inversion.method.render", watched)
    model = annotator(setting.root, "bright", "scores", ["bright"])[0]
    spec = AnnotateSpec(name="bright", model=model, batch_size=16)
    annotate(
        setting.index,
        setting.source,
        identity.path,
        [spec],
        generator_uri=setting.generator,
        engine=InProcess(),
    )
    found = np.concatenate([code.companions["delta"].numpy() for code in seen])[: store.n_rows]
    codes = np.asarray(store.array("latents/w_plus")[:]).reshape(store.n_rows, -1)[:, :3]
    np.testing.assert_array_equal(found, np.nan_to_num(codes) * 2)
