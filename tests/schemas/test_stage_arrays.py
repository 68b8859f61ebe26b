"""A model that gives other numbers than before takes its stages over, wherever it is killed."""

import shutil

import numpy as np
import pytest
import stores
import zarr
from digests import tree_files

from schemas.errors import StoreError
from schemas.store.latent_store import ArraySpec, LatentStore
from schemas.store.layout import Layout
from schemas.store.stage_arrays import lay_out_stages


def scores(stage, n=2, **attrs):
    return ArraySpec("annotations", stage, (n,), attrs={"names": [f"a{i}" for i in range(n)]})


def points(stage, n=5):
    return ArraySpec("landmarks", stage, (n, 2))


def both(make, *sizes):
    return {stage: [make(stage, *sizes)] for stage in ("m", "m@render")}


CHANGES = {
    "one attribute more": both(scores, 3),
    "another kind": both(points, 2),
    "another kind, and no renders": {"m": [points("m", 2)]},
    "fewer, and no renders": {"m": [scores("m", 1)]},
}


def write(store, wanted):
    for stage, (spec,) in wanted.items():
        for block in range(store.n_blocks):
            n = stores.n_of(store, block)
            values = {spec.path: np.full((n, *spec.row_shape), block, "f4")}
            store.write_block(
                stage, block, values, *stores.flags(n), stores.fp_of(store, block, stage)
            )


def made(path, wanted):
    store = stores.create(path, n_rows=10)
    stores.write_all(store)
    lay_out_stages(store, wanted)
    write(store, wanted)
    return store


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_takes_its_stages_over(tmp_path, change):
    store, wanted = made(tmp_path / "s", both(scores, 2)), CHANGES[change]
    codes = tree_files(tmp_path / "s" / "latents")
    lay_out_stages(store, wanted)
    assert store.committed("invert").any(axis=1).all()
    for stage in ("m", "m@render"):
        assert not store.committed(stage).any()
        assert store.arrays(stage) == [spec.path for spec in wanted.get(stage, [])]
    write(store, wanted)
    assert tree_files(tmp_path / "s" / "latents") == codes
    for (spec,) in wanted.values():
        assert store.array(spec.path).shape == (10, *spec.row_shape)
        assert not np.isnan(store.array(spec.path)[:]).any()
    left = {f"{g}/{n}" for g in ("annotations", "landmarks") for n in store._open().get(g) or ()}
    assert left == {spec.path for (spec,) in wanted.values()}


def test_what_did_not_change_stays(tmp_path):
    wanted = both(scores, 2) | {"other": [points("other")]}
    made(tmp_path / "s", wanted)
    before = tree_files(tmp_path / "s")
    lay_out_stages(LatentStore.open(tmp_path / "s", "r+"), wanted)
    lay_out_stages(LatentStore.open(tmp_path / "s", "r+"), {"other": [points("other")]})
    assert tree_files(tmp_path / "s") == before
    lay_out_stages(LatentStore.open(tmp_path / "s", "r+"), both(scores, 4))
    store = LatentStore.open(tmp_path / "s")
    assert store.committed("other").any(axis=1).all() and not store.committed("m").any()
    with pytest.raises(StoreError, match="reading only"):
        lay_out_stages(store, wanted)


@pytest.mark.parametrize("change", ["one attribute more", "another kind, and no renders"])
def test_every_point_of_death_leads_to_the_same_bytes(tmp_path, monkeypatch, change):
    wanted = CHANGES[change]
    undisturbed = made(tmp_path / "undisturbed", both(scores, 2))
    lay_out_stages(undisturbed, wanted)
    write(undisturbed, wanted)
    expected = tree_files(tmp_path / "undisturbed")
    made(tmp_path / "before", both(scores, 2))
    died, at = True, 0
    while died:
        shutil.copytree(tmp_path / "before", tmp_path / f"{at}")
        steps = iter(range(at))

        def dying(real, steps=steps):
            def step(*arguments, **keys):
                if next(steps, None) is None:
                    raise KeyboardInterrupt
                return real(*arguments, **keys)

            return step

        with monkeypatch.context() as patched:
            for owner, name in (
                (LatentStore, "_write_commit"),
                (zarr.core.attributes.Attributes, "put"),
                (zarr.Group, "__delitem__"),
                (Layout, "create"),
            ):
                patched.setattr(owner, name, dying(getattr(owner, name)))
            try:
                lay_out_stages(LatentStore.open(tmp_path / f"{at}", "r+"), wanted)
                died = False
            except KeyboardInterrupt:
                pass
        store = LatentStore.open(tmp_path / f"{at}", "r+")
        for stage in store.stages():
            assert {store.array(path).shape[0] for path in store.arrays(stage)} <= {10}
        lay_out_stages(store, wanted)
        write(store, wanted)
        assert tree_files(tmp_path / f"{at}") == expected, at
        at += 1
    assert at > 5
