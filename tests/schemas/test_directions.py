"""Directions: unit vectors, edits, sets on disk, and other projects' files."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from digests import tree_files
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN

from schemas.directions import direction as module
from schemas.directions.check import check_directions, drop_damaged
from schemas.directions.direction_set import (
    DIRECTIONS_LAYOUT_VERSION,
    FOREIGN_METHODS,
    LARGE_LAYOUT_VERSION,
    Direction,
    DirectionSet,
    apply,
    broadcast_layers,
    check_applies,
    fix_sign,
    unit_direction,
)
from schemas.errors import (
    DataError,
    DirectionMismatchError,
    NewerLayoutError,
    StoreError,
    UsageError,
)

FP = "ab" * 32


def make(name: str = "smile", layers: list[int] | None = None, **changes) -> Direction:
    vector = np.arange(1.0, 13.0).reshape(3, 4)
    facts = {"method": "svm", "sd": 2.0, "intercept": 0.5, **changes}
    return unit_direction(name, "w_plus", vector, layers=layers, **facts)


def codes_of(n: int = 5, shape: tuple[int, ...] = (3, 4)) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, *shape)).astype("f4")


# ---- vectors ------------------------------------------------------------------------------------


def test_unit_direction_scales_zeroes_and_keeps_the_hyperplane():
    vector = np.random.default_rng(1).normal(size=(3, 4)) * 50
    codes = codes_of(200)
    d = unit_direction("a", "w_plus", vector, method="svm", codes=codes, intercept=7.0)
    assert math.isclose(np.linalg.norm(d.vector), 1, rel_tol=1e-14)
    plain = codes.reshape(200, -1) @ vector.ravel() + 7.0
    np.testing.assert_allclose(d.margin(codes) * np.linalg.norm(vector), plain, rtol=1e-12)
    assert math.isclose(d.sd, np.std(d.project(codes)))
    part = unit_direction("a", "w_plus", vector, method="svm", sd=1, layers=[2, 0, 2])
    assert part.layers == [0, 2]
    assert not part.vector[1].any()
    assert math.isclose(np.linalg.norm(part.vector), 1, rel_tol=1e-14)
    assert part.converged is None and part.intercept is None


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_unit_direction_survives_extreme_lengths(scale):
    d = unit_direction("a", "w", np.array([3.0, 4.0]) * scale, method="pca", sd=1)
    np.testing.assert_allclose(d.vector, [0.6, 0.8], rtol=1e-12)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (
            DataError,
            "largest loading 0.0",
            lambda: unit_direction("a", "w", [0, 0], method="", sd=1),
        ),
        (DataError, "nan", lambda: unit_direction("a", "w", [math.nan, 1], method="", sd=1)),
        (UsageError, "sd or codes", lambda: unit_direction("a", "w", [1.0], method="")),
        (DataError, "0 codes", lambda: unit_direction("a", "w", [1.0], method="", codes=[])),
        (DataError, "sd -1", lambda: make(sd=-1)),
        (DataError, "sd nan", lambda: make(sd=math.nan)),
        (DataError, "layers .3.", lambda: make(layers=[3])),
        (DataError, "layers ..", lambda: make(layers=[])),
        (DataError, "norm 5.0", lambda: Direction("a", "w", np.array([3.0, 4]), None, "", 1.0)),
        (
            DataError,
            "not zero outside",
            lambda: Direction("a", "w", np.eye(2) / 2**0.5, [0], "", 1),
        ),
        (DataError, "no layer axis", lambda: Direction("a", "w", np.eye(2)[0], [0], "", 1)),
        (DataError, "canonical JSON", lambda: make(quality={"auc": math.nan})),
        (StoreError, "not allowed", lambda: make(name="a/b")),
    ],
)
def test_bad_directions_are_refused(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_directions_cannot_be_changed_in_place():
    source = np.array([0.6, 0.8])
    d = Direction("a", "w", source, None, "pca", 1.0)
    with pytest.raises(ValueError, match="read-only"):
        d.vector[0] = 1
    source[0] = 9
    assert d.vector[0] == 0.6


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6).filter(lambda v: abs(v) > 1e-3), min_size=1, max_size=9),
    st.floats(1e-3, 1e3),
)
def test_fix_sign_is_idempotent_and_blind_to_sign_and_scale(loadings, scale):
    vector = np.array(loadings)
    fixed = fix_sign(vector)
    np.testing.assert_array_equal(fix_sign(-vector), fixed)
    np.testing.assert_array_equal(fix_sign(fixed), fixed)
    assert np.array_equal(np.sign(fix_sign(vector * scale)), np.sign(fixed)) or any(
        # a loading at the very edge of the tolerance may fall on either side after rounding
        abs(abs(v) / np.abs(vector).max() - (1 - module.SIGN_TOLERANCE)) < 1e-12
        for v in vector
    )


def test_fix_sign_takes_the_first_of_nearly_equal_loadings():
    np.testing.assert_array_equal(fix_sign(np.array([-1.0, 1 + 1e-7])), [1, -1 - 1e-7])
    np.testing.assert_array_equal(fix_sign(np.array([-1.0, 1 + 1e-5])), [-1, 1 + 1e-5])
    assert fix_sign(-np.eye(2)).shape == (2, 2)
    with pytest.raises(DataError, match="no sign to fix"):
        fix_sign(np.zeros(3))


# ---- edits --------------------------------------------------------------------------------------


def test_apply_moves_by_strength_in_sd_or_raw():
    codes, d = codes_of(), make()
    np.testing.assert_allclose(apply(codes, d, 1.5), codes + 3.0 * d.vector, rtol=1e-6)
    np.testing.assert_allclose(apply(codes, d, 1.5, unit="raw"), codes + 1.5 * d.vector, rtol=1e-6)
    moved = apply(codes, d, np.arange(5.0))
    np.testing.assert_allclose(d.project(moved) - d.project(codes), 2 * np.arange(5), atol=1e-5)
    assert moved.dtype == np.float32
    some = apply(codes, d, 1.0, layers=[1])
    np.testing.assert_array_equal(some[:, [0, 2]], codes[:, [0, 2]])
    np.testing.assert_array_equal(some[:, 1], apply(codes, d, 1.0)[:, 1])


def test_apply_refuses_what_does_not_fit():
    d = make()
    with pytest.raises(DirectionMismatchError, match=r"shape \(3, 4\).*codes have \(4,\)"):
        apply(codes_of(shape=(4,)), d, 1.0)
    with pytest.raises(UsageError, match="unit 'z'"):
        apply(codes_of(), d, 1.0, unit="z")
    with pytest.raises(UsageError, match="strength has shape"):
        apply(codes_of(), d, np.zeros(4))
    with pytest.raises(DirectionMismatchError, match="no hyperplane"):
        make(intercept=None).margin(codes_of())


@pytest.mark.parametrize("layers", [None, [0, 2]])
def test_a_broadcast_direction_edits_every_layer_as_it_edits_w(layers):
    w = codes_of(6, (4,)).astype("f8")
    d = unit_direction("age", "w", [1.0, 2, 3, 4], method="svm", codes=w, intercept=0.7)
    wide = broadcast_layers(d, 3, layers=layers)
    assert (wide.space, wide.layers) == ("w_plus", layers)
    assert wide.provenance["broadcast_from"] == "w"
    w_plus = np.repeat(w[:, None], 3, axis=1)
    edited = apply(w_plus, wide, 1.5)
    for layer in range(3):
        expected = apply(w, d, 1.5) if layers is None or layer in layers else w
        np.testing.assert_allclose(edited[:, layer], expected, rtol=1e-12)
    assert math.isclose(np.std(wide.project(w_plus)), wide.sd, rel_tol=1e-12)
    np.testing.assert_array_equal(np.sign(wide.margin(w_plus)), np.sign(d.margin(w)))
    with pytest.raises(DirectionMismatchError, match="cannot be broadcast"):
        broadcast_layers(wide, 3)


def test_check_applies_names_both_sides():
    d = make(provenance={"generator_fp": FP})
    check_applies(d, FP, "w_plus")
    with pytest.raises(DirectionMismatchError, match="space 'w_plus', not 'w'"):
        check_applies(d, FP, "w")
    with pytest.raises(DirectionMismatchError, match=f"'{FP}', not 'cd'"):
        check_applies(d, "cd", "w_plus")


# ---- sets ---------------------------------------------------------------------------------------


def make_set() -> DirectionSet:
    smile = make(quality={"auc": 0.9}, converged=True, provenance={"analysis_fp": "12"})
    return DirectionSet(FP, "w_plus", [smile, make("age", layers=[0, 1], intercept=None)])


def assert_equal(a: Direction, b: Direction) -> None:
    np.testing.assert_array_equal(a.vector, b.vector)
    for name in ("name", "space", "layers", "method", "sd", "intercept", "quality", "converged"):
        assert getattr(a, name) == getattr(b, name)
    assert a.provenance == b.provenance


def test_set_is_saved_and_loaded(tmp_path):
    made = make_set()
    made.save(tmp_path / "d.zarr")
    found = DirectionSet.load(tmp_path / "d.zarr")
    assert (found.generator_fp, found.space, found.names()) == (FP, "w_plus", ["smile", "age"])
    for a, b in zip(made, found, strict=True):
        assert_equal(a, b)
    assert found["smile"].provenance == {"analysis_fp": "12", "generator_fp": FP}
    assert "age" in found and "none" not in found and len(found) == 2
    with pytest.raises(UsageError, match="no direction 'none': use one of"):
        found["none"]
    with xr.open_zarr(tmp_path / "d.zarr", group="directions", consolidated=False) as data:
        np.testing.assert_array_equal(data.smile.values, made["smile"].vector)
        assert data.smile.dims == ("w_plus_layer", "w_plus_channel")
        assert data.smile.attrs["sd"] == 2.0


def test_saving_again_gives_the_same_bytes_and_drops_what_left(tmp_path):
    make_set().save(tmp_path / "a")
    make_set().save(tmp_path / "b")
    once = tree_files(tmp_path / "a")
    assert tree_files(tmp_path / "b") == once
    more = make_set()
    more.add(make("extra"))
    more.replace(make("age", sd=3.0))
    assert more.names() == ["smile", "age", "extra"]
    more.save(tmp_path / "b")
    assert DirectionSet.load(tmp_path / "b")["age"].sd == 3.0
    make_set().save(tmp_path / "b")
    assert tree_files(tmp_path / "b") == once


def test_set_keeps_out_what_does_not_belong(tmp_path):
    made = make_set()
    with pytest.raises(StoreError, match="already has a direction 'smile'"):
        made.add(make())
    with pytest.raises(DirectionMismatchError, match="generator 'cd'"):
        made.replace(make(provenance={"generator_fp": "cd"}))
    with pytest.raises(DirectionMismatchError, match="keep them apart"):
        made.add(unit_direction("x", "w_plus", np.eye(2), method="pca", sd=1))
    made.add(unit_direction("x", "w", [1.0, 0], method="pca", sd=1))
    with pytest.raises(DirectionMismatchError, match="'w' has shape .1,., but 'x'"):
        made.add(unit_direction("y", "w", [1.0], method="pca", sd=1))
    made.save(tmp_path / "d")
    with pytest.raises(DirectionMismatchError, match="another path"):
        DirectionSet("cd", "w_plus").save(tmp_path / "d")


def several_spaces() -> DirectionSet:
    made = make_set()
    made.add(unit_direction("pca.w.000", "w", np.arange(4.0), method="pca", sd=2.0))
    made.add(unit_direction("h.smile", "h", np.ones((2, 3, 4, 4)), method="asyrp", sd=1.0))
    return made


def test_a_set_holds_directions_of_several_spaces(tmp_path):
    made = several_spaces()
    assert made.spaces() == ["w_plus", "h", "w"]
    made.save(tmp_path / "d")
    found = DirectionSet.load(tmp_path / "d")
    assert found.space == "w_plus" and found.spaces() == made.spaces()
    for a, b in zip(made, found, strict=True):
        assert_equal(a, b)
    assert [d.name for d in found.of_space("w")] == ["pca.w.000"]
    check_applies(found["pca.w.000"], FP, "w")
    with pytest.raises(DirectionMismatchError, match="made in space 'h', not 'w_plus'"):
        check_applies(found["h.smile"], FP, found.space)
    with xr.open_zarr(tmp_path / "d", group="directions", consolidated=False) as data:
        assert data["pca.w.000"].dims == ("w_channel",)
    checked = check_directions(tmp_path / "d")
    assert checked.unreadable is None
    assert not any([checked.problems, *checked.directions.values()])
    # without the others it is again, to the byte, a set of one space
    make_set().save(tmp_path / "d")
    make_set().save(tmp_path / "one")
    assert tree_files(tmp_path / "d") == tree_files(tmp_path / "one")


@pytest.mark.parametrize("changed", ["space", "spaces"])
def test_a_set_that_lists_other_spaces_than_its_directions_is_refused_and_put_right(
    tmp_path, changed
):
    several_spaces().save(tmp_path / "d")
    before = tree_files(tmp_path / "d")
    file = tmp_path / "d/zarr.json"
    node = json.loads(file.read_text())
    node["attributes"][changed] = "w_plvs" if changed == "space" else ["w_plus", "i", "w"]
    file.write_text(json.dumps(node))
    with pytest.raises(StoreError, match="--repair"):
        DirectionSet.load(tmp_path / "d")
    checked = check_directions(tmp_path / "d")
    assert "its directions are of ['h', 'w', 'w_plus']" in checked.problems[0]
    drop_damaged(tmp_path / "d", checked)
    assert tree_files(tmp_path / "d") == before


def test_models_are_saved_beside(tmp_path):
    made = make_set()
    with pytest.raises(StoreError, match="save it first"):
        made.save_model("pca", {}, {})
    made.save(tmp_path / "d")
    arrays = {
        "mean": np.arange(12.0).reshape(3, 4),
        "n_rows": np.int64(7),
        "mask": np.array([True, False]),
        "empty": np.zeros((0, 4), "f4"),
        "nan": np.array([np.nan, np.inf]),
    }
    made.save_model("pca", arrays, {"version": 1, "names": ["a"]})
    before = tree_files(tmp_path / "d")
    made.save_model("pca", {**arrays, "old": np.ones(3)}, {})
    made.save_model("pca", arrays, {"version": 1, "names": ["a"]})
    made.save(tmp_path / "d")
    assert tree_files(tmp_path / "d") == before
    found, attrs = DirectionSet.load(tmp_path / "d").load_model("pca")
    assert attrs == {"version": 1, "names": ["a"]}
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == np.asarray(value).dtype
    assert made.model_names() == ["pca"]
    with pytest.raises(StoreError, match="no complete model 'svm'"):
        made.load_model("svm")
    with pytest.raises(StoreError, match="dtype 'str"):
        made.save_model("x", {"names": np.array(["a"])}, {})


def test_large_model_arrays_are_chunked(tmp_path, monkeypatch):
    monkeypatch.setattr("schemas.directions.direction_set._MODEL_CHUNK_BYTES", 64)
    made = make_set()
    made.save(tmp_path / "d")
    value = np.arange(40.0).reshape(10, 4)
    made.save_model("m", {"x": value, "wide": np.ones((2, 100))}, {})
    assert len(list((tmp_path / "d/models/m/x/c").iterdir())) == 5
    np.testing.assert_array_equal(made.load_model("m")[0]["x"], value)


def test_half_written_sets_and_models_are_refused_and_repaired(tmp_path, monkeypatch):
    made = make_set()
    made.save(tmp_path / "d")
    made.save_model("pca", {"mean": np.ones(3)}, {})

    class Died(BaseException):
        pass

    def die(*args):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr("schemas.directions.direction_set._write_array", die)
        with pytest.raises(Died):
            made.save_model("pca", {"mean": np.zeros(3)}, {})
        with pytest.raises(StoreError, match="no complete model"):
            made.load_model("pca")
        made.save(tmp_path / "d")  # what is stored already is not written again
        other = [dataclasses.replace(d, sd=2 * d.sd) for d in made]
        with pytest.raises(Died):
            DirectionSet(made.generator_fp, made.space, other).save(tmp_path / "d")
    with pytest.raises(StoreError, match="half-written"):
        DirectionSet.load(tmp_path / "d")
    made.save(tmp_path / "d")
    assert DirectionSet.load(tmp_path / "d").names() == ["smile", "age"]


def test_loading_what_is_not_a_set(tmp_path):
    with pytest.raises(StoreError, match="no direction set at"):
        DirectionSet.load(tmp_path / "none")
    make_set().save(tmp_path / "d")
    file = tmp_path / "d/zarr.json"
    node = json.loads(file.read_text())
    node["attributes"]["layout_version"] = LARGE_LAYOUT_VERSION + 1
    file.write_text(json.dumps(node))
    with pytest.raises(NewerLayoutError, match="install a newer"):
        DirectionSet.load(tmp_path / "d")
    with pytest.raises(NewerLayoutError):
        make_set().save(tmp_path / "d")
    node["attributes"].update(layout_version=1, kind="latent_store")
    file.write_text(json.dumps(node))
    with pytest.raises(StoreError, match="not a direction set"):
        DirectionSet.load(tmp_path / "d")


def test_a_damaged_direction_is_refused(tmp_path):
    make_set().save(tmp_path / "d")
    file = tmp_path / "d/directions/smile/zarr.json"
    node = json.loads(file.read_text())
    del node["attributes"]["method"]
    file.write_text(json.dumps(node))
    with pytest.raises(StoreError, match="'smile'.*damaged"):
        DirectionSet.load(tmp_path / "d")


@pytest.mark.parametrize(
    ("place", "spoil"),
    [
        ("models/pca/mean/zarr.json", lambda text: text.replace('"float64"', '"of_no_type"')),
        ("models/pca/mean/zarr.json", lambda text: text.replace('"zstd"', '"unknown"')),
        ("models/pca/mean/zarr.json", lambda text: text.replace("[\n    3\n", "[\n    null\n")),
        ("models/pca/mean/zarr.json", lambda text: text.replace("\n    3\n", f"\n    {1 << 70}\n")),
        ("directions/smile/zarr.json", lambda text: text.replace('ape": [\n', 'ape": [\n9999,')),
        ("models/pca/zarr.json", lambda text: text[:20]),
        ("models/zarr.json", lambda text: text.replace('"group"', '"page"')),
        ("directions/smile/zarr.json", lambda text: text.replace('"bytes"', '"unknown"')),
        ("zarr.json", lambda text: text.replace('"age"', '["age"]', 1)),
        ("zarr.json", lambda text: text.replace('"names"', '"called"')),
    ],
)  # fmt: skip
def test_damaged_metadata_is_told_in_one_line(tmp_path, place, spoil):
    made = make_set()
    made.save(tmp_path / "d")
    made.save_model("pca", {"mean": np.ones(3)}, {"k": 1})
    text = (tmp_path / "d" / place).read_text()
    (tmp_path / "d" / place).write_text(spoil(text))
    assert spoil(text) != text
    with pytest.raises(StoreError, match="damaged|no complete model|no readable"):
        found = DirectionSet.load(tmp_path / "d")
        assert found.model_names() == ["pca"]
        found.load_model("pca")
    checked = check_directions(tmp_path / "d")
    parts = [checked.problems, *checked.directions.values(), *checked.models.values()]
    assert checked.unreadable or any(parts)


def test_a_direction_or_model_that_was_changed_by_hand_is_refused(tmp_path):
    made = make_set()
    made.save(tmp_path / "d")
    made.save_model("pca", {"mean": np.ones(3)}, {"k": 1})
    for path, error in [("models/pca", "model 'pca'"), ("directions/age", "direction 'age'")]:
        file = tmp_path / "d" / path / "zarr.json"
        node = json.loads(file.read_text())
        node["attributes"] |= {"attrs": {"k": 2}} if "attrs" in node["attributes"] else {"sd": 3.0}
        file.write_text(json.dumps(node))
        with pytest.raises(StoreError, match=f"{error} .*not those that were saved.*--repair"):
            DirectionSet.load(tmp_path / "d").load_model("pca")


@pytest.mark.parametrize("part", ["", "directions", "models", "models/pca"])
def test_metadata_that_others_consolidated_is_not_believed(tmp_path, part):
    """People consolidate before they share a set; what is written later must be found."""
    for name in ("plain", "shared"):
        made = make_set()
        made.save(tmp_path / name)
        made.save_model("pca", {"mean": np.ones(3)}, {"k": 1})
        made.save_model("svm", {"mean": np.ones(3)}, {})
        if name == "shared":
            with warnings.catch_warnings():  # zarr's own: not part of its specification
                warnings.simplefilter("ignore")
                zarr.consolidate_metadata(tmp_path / name, path=part)
        again = DirectionSet.load(tmp_path / name)
        again.replace(make("smile", sd=5.0))
        again.add(make("new"))
        again.save(tmp_path / name)
        again.delete_model("svm")
        again.save_model("pca", {"other": np.zeros(2)}, {"k": 2})
        again.save_model("hosvd", {"core": np.zeros(2)}, {})
    found = DirectionSet.load(tmp_path / "shared")
    assert found.names() == ["smile", "age", "new"] and found["smile"].sd == 5.0
    assert found.model_names() == ["hosvd", "pca"]
    arrays, attrs = found.load_model("pca")
    assert list(arrays) == ["other"] and attrs == found.model_facts("pca") == {"k": 2}
    checked = check_directions(tmp_path / "shared")
    assert not checked.unreadable and list(checked.models) == ["hosvd", "pca"]
    assert not any([*checked.directions.values(), *checked.models.values()])
    # nothing out of date is left for other programs either
    assert tree_files(tmp_path / "shared") == tree_files(tmp_path / "plain")
    # what is damaged is taken out of a shared set, too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(tmp_path / "shared", path=part)
    node = tmp_path / "shared/directions/new/zarr.json"
    node.write_text(node.read_text().replace('"sd": 2.0', '"sd": 3.0'))
    checked = check_directions(tmp_path / "shared")
    assert [name for name, wrong in checked.directions.items() if wrong] == ["new"]
    drop_damaged(tmp_path / "shared", checked)
    assert DirectionSet.load(tmp_path / "shared").names() == ["smile", "age"]


def test_foreign_files_beside_ours_change_nothing(tmp_path):
    made = make_set()
    made.save(tmp_path / "d")
    made.save_model("pca", {"mean": np.ones(3)}, {"k": 1})
    folders = [tmp_path / "d", *(f for f in (tmp_path / "d").rglob("*") if f.is_dir())]
    for folder in folders:
        for name in (".DS_Store", "Thumbs.db", "zarr.json~"):
            (folder / name).write_bytes(b"somebody else's")
        (folder / "folder").mkdir()
    again = DirectionSet.load(tmp_path / "d")
    assert again.model_names() == ["pca"] and again.load_model("pca")[0].keys() == {"mean"}
    assert [d.name for d in DirectionSet.foreign_in(tmp_path / "d")] == [
        d.name for d in made if d.method in FOREIGN_METHODS
    ]
    again.save(tmp_path / "d")
    again.save_model("pca", {"other": np.ones(3)}, {"k": 1})
    assert again.load_model("pca")[0].keys() == {"other"}
    assert all((folder / "Thumbs.db").exists() for folder in folders if folder.exists())


def test_golden_set_of_every_released_layout_is_read():
    """``directions_v1`` was written by ``write_golden`` at layout version 1, for ever."""
    names = sorted(path.name for path in GOLDEN.glob("directions_v*"))
    assert names == [f"directions_v{v}" for v in range(1, DIRECTIONS_LAYOUT_VERSION + 1)]
    for name in names:
        found = DirectionSet.load(GOLDEN / name)
        for a, b in zip(found, make_set(), strict=True):
            np.testing.assert_allclose(a.vector, b.vector, atol=1e-15)
            assert (a.layers, a.sd, a.quality) == (b.layers, b.sd, b.quality)
        arrays, attrs = found.load_model("pca")
        np.testing.assert_array_equal(arrays["mean"], np.arange(12.0).reshape(3, 4))
        assert attrs == {"n_components": 2}


def write_golden(path: Path) -> None:
    """How ``tests/golden/directions_v1`` was made."""
    made = make_set()
    made.save(path)
    made.save_model("pca", {"mean": np.arange(12.0).reshape(3, 4)}, {"n_components": 2})


def test_a_direction_is_found_by_the_text_that_it_was_named_for():
    names = {"light brown": "mean.hair-light_brown", "light_brown": "mean.hair-light_brown-2"}
    found = DirectionSet("f" * 64, "w")
    for level, name in names.items():
        facts = {"factor": "hair/colour", "level": level}
        vector = np.ones(4)
        found.add(unit_direction(name, "w", vector, method="mean", sd=1.0, provenance=facts))
    for level, name in names.items():
        assert found[f"mean.hair/colour-{level}"].name == name
    with pytest.raises(UsageError, match="mean.hair-dark brown"):
        found["mean.hair-dark brown"]
