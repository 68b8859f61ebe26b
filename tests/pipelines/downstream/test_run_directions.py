"""Directions of a finished run in files: what is replaced, what is refused, what is measured."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import stores
from places import GOLDEN

from pipelines.downstream import directions
from pipelines.downstream.directions import (
    export_all_directions,
    export_directions,
    import_directions,
)
from pipelines.downstream.finished_run import FinishedRun
from schemas.directions.direction import unit_direction
from schemas.directions.direction_set import DirectionSet
from schemas.errors import UsageError
from schemas.spec import load_spec
from schemas.store.latent_store import ArraySpec
from schemas.store.reasons import Status


@pytest.fixture
def run(tmp_path):
    shutil.copytree(GOLDEN / "run_v1", tmp_path / "run")
    return FinishedRun.of(load_spec(tmp_path / "run" / "spec.yaml"))


def boundary(folder, name, seed):
    """A vector of w in a file, and its unit vector in every layer."""
    folder.mkdir(exist_ok=True)
    vector = np.random.default_rng(seed).normal(size=8)
    np.save(folder / name, vector)
    return folder / name, np.tile(vector / np.linalg.norm(vector), (6, 1)) / np.sqrt(6)


@pytest.mark.parametrize(
    ("export", "target"),
    [
        (lambda run, out, **more: export_directions(run, "e4e", out, ["pca.000"], **more), "e4e"),
        (
            lambda run, out, **more: export_directions(run, "idinvert", out, ["pca.000"], **more),
            "b.npy",
        ),
        (lambda run, out, **more: export_all_directions(run, out, **more), "all.npz"),
        (lambda run, out, **more: export_all_directions(run, out, **more), "all.safetensors"),
    ],
)
def test_a_file_is_replaced_only_when_asked(run, tmp_path, export, target):
    (path,) = export(run, tmp_path / target)
    before = path.read_bytes()
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="--overwrite"):
        export(run, tmp_path / target)
    assert path.read_bytes() == b"mine"
    assert export(run, tmp_path / target, overwrite=True) == [path]
    assert path.read_bytes() == before


def test_all_or_the_named_directions_are_written(run, tmp_path):
    (path,) = export_all_directions(run, tmp_path / "all.npz")
    with np.load(path) as file:
        facts = json.loads(str(file["facts"]))
        assert sorted(facts) == sorted(run.directions.names()) == sorted({*file.files} - {"facts"})
        for direction in run.directions:
            np.testing.assert_array_equal(file[direction.name], direction.vector)
            assert facts[direction.name]["sd"] == direction.sd
    (path,) = export_all_directions(run, tmp_path / "one.npz", ["svm.smile"])
    with np.load(path) as file:
        assert sorted(file.files) == ["facts", "svm.smile"]


def test_an_imported_direction_is_measured_on_the_finished_rows(run, tmp_path):
    path, vector = boundary(tmp_path, "age.npy", 1)
    fp = run.directions.generator_fp
    assert import_directions(run, path, "w", fp) == ["age"]
    ok = run.store.status("invert") == Status.OK
    codes = np.asarray(run.store.array("latents/w_plus")[:], np.float64)[ok]
    found = DirectionSet.load(run.directions.path)["age"]
    np.testing.assert_allclose(found.vector, vector, atol=1e-12)
    along = np.einsum("nlc,lc->n", codes, vector)
    assert found.sd == pytest.approx(along.std(ddof=1), rel=1e-9)


@pytest.mark.parametrize(("count", "divisor"), [(1, 1), (2, 1), (3, 2)])
def test_two_rows_are_enough_to_measure_an_imported_direction(
    run, tmp_path, monkeypatch, count, divisor
):
    sums = SimpleNamespace(second=np.array([[8.0]]), count=count)
    monkeypatch.setattr(directions, "_moments", lambda run, request: sums)
    path, _ = boundary(tmp_path, "age.npy", 1)
    import_directions(run, path, "w", run.directions.generator_fp)
    assert run.directions["age"].sd == pytest.approx(np.sqrt(8 / divisor))


def test_what_an_import_replaces_and_what_it_refuses(run, tmp_path):
    fp = run.directions.generator_fp
    path, _ = boundary(tmp_path, "age.npy", 1)
    import_directions(run, path, "w", fp)
    other, vector = boundary(tmp_path / "other", "age.npy", 2)
    with pytest.raises(UsageError, match="'age' was imported from 'age.npy' before.*--name"):
        import_directions(run, other, "w", fp)
    copy, first = boundary(tmp_path / "copy", "age.npy", 1)
    assert import_directions(run, copy, "w", fp) == ["age"]  # the same contents, read again
    np.testing.assert_allclose(run.directions["age"].vector, first, atol=1e-12)
    assert import_directions(run, other, "w", fp, name="age") == ["age"]
    np.testing.assert_allclose(run.directions["age"].vector, vector, atol=1e-12)
    elsewhere, third = boundary(tmp_path / "more", "other.npy", 3)
    assert import_directions(run, elsewhere, "w", fp, name="age") == ["age"]
    np.testing.assert_allclose(run.directions["age"].vector, third, atol=1e-12)
    with pytest.raises(UsageError, match="'age' was imported from 'other.npy' before"):
        import_directions(run, path, "w", fp)
    mine, _ = boundary(tmp_path, "svm.smile.npy", 4)
    with pytest.raises(UsageError, match="analyses already made directions .'svm.smile'."):
        import_directions(run, mine, "w", fp)
    with pytest.raises(UsageError, match="analyses already made directions .'pca.000'."):
        import_directions(run, path, "w", fp, name="pca.000")
    assert set(run.directions.names()) - {"age"} == set(
        DirectionSet.load(GOLDEN / "run_v1" / "out" / "directions" / "golden-7ed340d87eca").names()
    )


def test_components_of_w_are_written_about_the_mean_of_the_finished_rows(tmp_path, rng):
    arrays = [ArraySpec("latents", "w", (4,))]
    store = stores.create(tmp_path / "store", arrays=arrays)
    codes = rng.normal(size=(20, 4)).astype("f4") + 3
    for block in range(store.n_blocks):
        rows = store.block_slice(block)
        flags = stores.flags(rows.stop - rows.start, quarantined=[1])
        fp = stores.fp_of(store, block)
        store.write_block("invert", block, {"latents/w": codes[rows]}, *flags, fp)
    parts = [
        unit_direction(f"pca.00{i}", "w", rng.normal(size=4), method="pca", sd=i + 1.0)
        for i in range(2)
    ]
    run = FinishedRun(None, None, store, DirectionSet("ab" * 32, "w", parts))
    ok = np.ones(20, bool)
    ok[[1, 9, 17]] = False
    (path,) = export_directions(run, "ganspace", tmp_path / "c.npz")
    with np.load(path) as file:
        for name in ("lat_mean", "act_mean"):
            np.testing.assert_allclose(file[name].ravel(), codes[ok].mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(file["lat_stdev"], [1, 2])
        np.testing.assert_allclose(file["lat_comp"][:, 0], [d.vector for d in parts], rtol=1e-6)
