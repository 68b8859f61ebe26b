"""The dataset index: what a row is, how files and factor tables become rows, and updates."""

import hashlib
import io
import json
import os
import random
import tarfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.sources.base import read_checked
from pipelines.sources.folder import FolderSource
from pipelines.sources.open import open_source
from pipelines.sources.paths import inside, matcher, natural_key
from pipelines.stages import index as index_module
from pipelines.stages.index import build_index, update_index
from schemas.errors import DataError, InputError, NewerLayoutError, SpecError, StoreError
from schemas.fingerprint import ContentHashCache
from schemas.index import DatasetIndex, FactorColumn, FactorInfo, NewRow
from schemas.spec import DatasetSpec
from schemas.store.reasons import Reason
from transforms.images.preprocess import Quarantine

STORED_ORDER = ["a1.png", "a2.png", "a10.png", "sub/a1.png", "sub/b.png"]


def image_bytes(value, width=6, height=4):
    buffer = io.BytesIO()
    pixels = np.full((height, width, 3), value % 256, np.uint8)
    pixels[0, 0] = value // 256
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for i, name in enumerate(STORED_ORDER):
        (root / name).write_bytes(image_bytes(i))
    return root


def spec_of(root, **options):
    return DatasetSpec(path=str(root), **options)


def table(path, header, *rows):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


# -- the table itself ------------------------------------------------------------------------


def test_indices_are_equal_by_every_value_factor_and_container():
    def index(values, uri="a.png"):
        info = FactorInfo("continuous", "float")
        column = FactorColumn(info, np.array(values, np.float64))
        rows = [NewRow("0" * 64, uri), NewRow("1" * 64, "b.png")]
        return DatasetIndex.empty().append(rows).with_factors({"yaw": column})

    one = index([0.0, np.nan])
    assert one.equals(index([0.0, np.nan]))
    others = [
        index([0.5, np.nan]),
        index([0.0, 1.0]),
        index([-0.0, np.nan]),
        index([0, np.nan], "c.png"),
    ]
    others += [one.remove([1]), one.with_containers({"a.zip": "2" * 64}), DatasetIndex.empty()]
    assert not any(one.equals(other) for other in others)


def test_folder_becomes_rows_in_natural_order(folder, tmp_path):
    index, report = build_index(spec_of(folder), tmp_path / "index.parquet")
    assert index.uris == STORED_ORDER
    assert index.image_ids == [sha(image_bytes(i)) for i in range(5)]
    assert index.states == ["active"] * 5
    np.testing.assert_array_equal(index.sizes, [[6, 4]] * 5)
    assert (report.n_files, report.added, report.n_rows, report.n_active) == (5, 5, 5, 5)
    assert index.identity(slice(1, 3)) == [(sha(image_bytes(i)), "active") for i in (1, 2)]
    loaded = DatasetIndex.load(tmp_path / "index.parquet")
    assert loaded.equals(index)
    plain = pq.read_table(tmp_path / "index.parquet")
    assert plain.column("row").to_pylist() == [0, 1, 2, 3, 4]
    assert plain.schema.field("row").type == pa.int64()


def test_same_index_gives_the_same_bytes(folder, tmp_path):
    files = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    build_index(spec_of(folder), files[0], threads=1)
    build_index(spec_of(folder), files[1], threads=7)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_result_does_not_depend_on_thread_timing(tmp_path, monkeypatch):
    root = tmp_path / "many"
    root.mkdir()
    for i in range(120):
        (root / f"{i}.png").write_bytes(image_bytes(i))
    calm, _ = build_index(spec_of(root), tmp_path / "calm.parquet", threads=1)
    original = index_module.probe

    def jittery(*args):
        time.sleep(random.random() * 0.002)
        return original(*args)

    monkeypatch.setattr(index_module, "probe", jittery)
    monkeypatch.setattr(index_module, "_BATCH", 3)
    steps = []
    hurried, _ = build_index(
        spec_of(root), tmp_path / "b.parquet", threads=8, progress=lambda *p: steps.append(p)
    )
    assert hurried.equals(calm)
    assert steps[0] == (0, 120) and steps[-1] == (120, 120)
    assert steps == sorted(steps)


def test_append_remove_move_keep_row_numbers():
    index = DatasetIndex.empty().append([NewRow("a", "x", 1, 2), NewRow("b", "y")])
    index = index.with_factors({"f": FactorColumn(FactorInfo("categorical", "string", ("p",)),
                                                  np.array([0, -1], np.int16)),
                                "g": FactorColumn(FactorInfo("continuous", "float"),
                                                  np.array([1.5, 2.5]))})  # fmt: skip
    later = index.remove([0]).append([NewRow("c", "x")]).move({1: "z"})
    assert later.states == ["removed", "active", "active"]
    assert later.uris == ["x", "z", "x"]
    codes, categories = later.factor("f")
    assert codes.tolist() == [0, -1, -1] and categories == ("p",)
    np.testing.assert_array_equal(later.factor("g"), [1.5, 2.5, np.nan])
    assert index.uris == ["x", "y"] and len(index) == 2
    assert later.active.tolist() == [False, True, True]


def test_factor_access_is_checked():
    info = FactorInfo("categorical", "string", ("p", "q"))
    index = DatasetIndex.empty().append([NewRow("a", "x")])
    index = index.with_factors({"f": FactorColumn(info, np.array([1], np.int16))})
    with pytest.raises(DataError, match=r"unknown factor 'h'.*\['f'\]"):
        index.factor("h")
    with pytest.raises(DataError, match="categorical, not continuous"):
        index.continuous("f")
    reordered = FactorInfo("categorical", "string", ("q", "p"))
    with pytest.raises(DataError, match="only be appended"):
        index.with_factors({"f": FactorColumn(reordered, np.array([1], np.int16))})
    with pytest.raises(DataError, match="is categorical in the index and continuous now"):
        index.with_factors({"f": FactorColumn(FactorInfo("continuous", "float"), np.zeros(1))})
    with pytest.raises(DataError, match="name of an index column"):
        index.with_factors({"uri": FactorColumn(info, np.array([1], np.int16))})
    with pytest.raises(DataError, match="2.* values for an index of 1 rows"):
        index.with_factors({"g": FactorColumn(info, np.zeros(2, np.int16))})


def test_factor_fingerprints_follow_the_values():
    def fp(values, categories=("p", "q")):
        index = DatasetIndex.empty().append([NewRow("a", "x"), NewRow("b", "y")])
        info = FactorInfo("categorical", "string", categories)
        column = FactorColumn(info, np.array(values, np.int16))
        return index.with_factors({"f": column}).factor_fp("f")

    assert fp([0, 1]) == fp([0, 1])
    assert len({fp([0, 1]), fp([1, 0]), fp([0, -1]), fp([0, 1], ("p", "r"))}) == 4


def test_decoded_table_shows_names():
    info = FactorInfo("categorical", "string", ("p", "q"))
    index = DatasetIndex.empty().append([NewRow(c, c) for c in "abc"])
    index = index.with_factors({"f": FactorColumn(info, np.array([1, -1, 0], np.int16))})
    assert index.decoded().column("f").to_pylist() == ["q", None, "p"]


def test_foreign_and_damaged_files_are_refused(folder, tmp_path):
    path = tmp_path / "index.parquet"
    index, _ = build_index(spec_of(folder), path)

    def rewritten(change=None, **meta):
        stored = json.loads(pq.read_schema(path).metadata[b"latentflow"]) | meta
        broken = change(index.table) if change else index.table
        out = tmp_path / "broken.parquet"
        pq.write_table(broken.replace_schema_metadata({b"latentflow": json.dumps(stored)}), out)
        return out

    with pytest.raises(StoreError, match="does not exist.*latentflow index"):
        DatasetIndex.load(tmp_path / "none.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(StoreError, match="cannot be read"):
        DatasetIndex.load(tmp_path / "junk.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    with pytest.raises(StoreError, match="not a dataset index"):
        DatasetIndex.load(tmp_path / "foreign.parquet")
    with pytest.raises(NewerLayoutError, match="version 2.*upgrade"):
        DatasetIndex.load(rewritten(layout_version=2))
    with pytest.raises(StoreError, match="damaged metadata"):
        DatasetIndex.load(rewritten(factors=[1]))
    with pytest.raises(StoreError, match="columns are"):
        DatasetIndex.load(rewritten(lambda t: t.drop_columns(["width"])))
    with pytest.raises(StoreError, match="does not count"):
        DatasetIndex.load(rewritten(lambda t: t.slice(1)))
    states = pa.array(["gone"] * 5)
    with pytest.raises(StoreError, match="unknown states"):
        DatasetIndex.load(rewritten(lambda t: t.set_column(5, "state", states)))
    nulls = pa.array([None] * 5, pa.string())
    with pytest.raises(StoreError, match="wrong type|missing values"):
        DatasetIndex.load(rewritten(lambda t: t.set_column(1, "image_id", nulls)))


# -- what is an image ------------------------------------------------------------------------


def test_broken_files_are_rows_and_others_are_counted(folder, tmp_path):
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "cut.png").write_bytes(image_bytes(1)[:20])
    (folder / "factors.csv").write_text("path\n")
    (folder / ".hidden.png").write_bytes(image_bytes(9))
    (folder / "README").write_text("x")
    index, report = build_index(spec_of(folder), tmp_path / "i.parquet")
    assert report.n_files == index.n_rows == 8
    reasons = {u.uri: u.reason for u in report.unreadable}
    assert reasons == {"empty.png": "EMPTY", "text.jpg": "NOT_AN_IMAGE", "cut.png": "TRUNCATED"}
    assert report.skipped == {"": 1, ".csv": 1, "hidden": 1}
    assert index.sizes[index.uris.index("empty.png")].tolist() == [-1, -1]
    assert index.active.all()


def test_bombs_are_reported(folder, tmp_path):
    _, report = build_index(spec_of(folder), tmp_path / "i.parquet", max_pixels=23)
    assert {u.reason for u in report.unreadable} == {"TOO_LARGE"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pattern": "a?.png"}, ["a1.png", "a2.png", "sub/a1.png"]),
        ({"pattern": "sub/*"}, ["sub/a1.png", "sub/b.png"]),
        ({"pattern": ["a1.png", "sub/b*"]}, ["a1.png", "sub/a1.png", "sub/b.png"]),
        ({"pattern": "./a*.png"}, ["a1.png", "a2.png", "a10.png"]),
        ({"exclude": "sub/**"}, ["a1.png", "a2.png", "a10.png"]),
        ({"pattern": "**/*.png", "exclude": ["a[12].png"]}, ["a10.png", "sub/b.png"]),
    ],
)
def test_patterns(folder, tmp_path, options, expected):
    index, _ = build_index(spec_of(folder, **options), tmp_path / "i.parquet")
    assert index.uris == expected


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.png", ["a.png", "x/y/a.png"], ["a.png.txt", "png"]),
        ("a/*.png", ["a/b.png"], ["a/b/c.png", "x/a/b.png"]),
        ("a/**/c", ["a/c", "a/b/c", "a/b/b/c"], ["a/bc", "c"]),
        ("a/**", ["a/b", "a/b/c"], ["b/a"]),
        ("[!a]?.x", ["bb.x"], ["ab.x", "b.x"]),
        ("a.b+c", ["a.b+c"], ["aXb+c", "a.bbc"]),
        ("[a", ["[a"], ["a"]),
        ("[]x]", ["]", "x"], ["y"]),
    ],
)
def test_globs(pattern, yes, no):
    matches = matcher([pattern])
    assert all(matches(path) for path in yes)
    assert not any(matches(path) for path in no)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("a01 9.²/", max_size=6), max_size=8))
def test_natural_order_is_a_total_order(names):
    ordered = sorted(names, key=natural_key)
    assert sorted(reversed(ordered), key=natural_key) == ordered
    assert natural_key("a2") < natural_key("a10") < natural_key("b")


def test_duplicates_are_counted_and_kept(folder, tmp_path):
    (folder / "copy.png").write_bytes(image_bytes(0))
    (folder / "copy2.png").write_bytes(image_bytes(0))
    index, report = build_index(spec_of(folder), tmp_path / "i.parquet")
    assert index.n_rows == 7
    assert report.duplicates == [["a1.png", "copy.png", "copy2.png"]]
    assert report.n_duplicates == 2
    shortened = report.to_dict(limit=0)
    assert shortened["duplicates"] == [] and shortened["n_duplicates"] == 1
    assert shortened["n_duplicate_rows"] == 2
    json.dumps(report.to_dict())


def test_nothing_to_index_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"no images.*1 \.txt.*'dataset.pattern'"):
        build_index(spec_of(tmp_path / "empty"), tmp_path / "i.parquet")
    with pytest.raises(SpecError, match="does not exist"):
        build_index(spec_of(tmp_path / "nowhere"), tmp_path / "i.parquet")
    with pytest.raises(SpecError, match="is a file.*'parquet' or 'webdataset'"):
        build_index(spec_of(tmp_path / "empty" / "a.txt"), tmp_path / "i.parquet")
    assert not (tmp_path / "i.parquet").exists()


# -- staying inside --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../../x", "a/..", "", "~/x", "C:\\x", "\\\\host\\x", "..\\x",
     "file:///etc/passwd", "http://host/x", "a\0b"],
)  # fmt: skip
def test_paths_that_leave_the_root_are_refused(tmp_path, path):
    with pytest.raises(InputError, match="outside the dataset's root|is a URL"):
        inside(tmp_path, path)
    with pytest.raises(InputError, match="outside the dataset's root|is a URL"):
        FolderSource(str(tmp_path)).read(path)


def test_links_that_leave_the_root_are_refused(folder, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(image_bytes(77))
    (folder / "link.png").symlink_to(secret)
    (folder / "fine.png").symlink_to(folder / "a1.png")
    (folder / "linked").symlink_to(tmp_path, target_is_directory=True)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    index, report = build_index(spec_of(folder), tmp_path / "i.parquet")
    assert "fine.png" in index.uris and "link.png" not in index.uris
    refused = dict(report.refused)
    assert set(refused) >= {"link.png", "linked"}
    assert "copy the file" in refused["link.png"]
    assert index.n_rows + len(refused) == 5 + 4
    with pytest.raises(InputError, match="link"):
        FolderSource(str(folder)).read("link.png")


def test_a_linked_root_is_fine(folder, tmp_path):
    (tmp_path / "alias").symlink_to(folder, target_is_directory=True)
    index, _ = build_index(spec_of(tmp_path / "alias"), tmp_path / "i.parquet")
    assert index.n_rows == 5


def test_names_that_parquet_cannot_store_are_an_error(folder, tmp_path):
    try:
        with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:
            file.write(image_bytes(1))
    except OSError:
        return  # this file system only takes UTF-8
    with pytest.raises(InputError, match="not UTF-8.*rename"):
        build_index(spec_of(folder), tmp_path / "i.parquet")
    index, _ = build_index(spec_of(folder, exclude="caf*"), tmp_path / "i.parquet")
    assert index.n_rows == 5


def test_files_that_cannot_be_read(folder):
    source = open_source(spec_of(folder))
    (folder / "a1.png").unlink()
    with pytest.raises(Quarantine) as caught:
        source.read("a1.png")
    assert caught.value.reason == Reason.MISSING
    (folder / "a1.png").mkdir()
    with pytest.raises(Quarantine) as caught:
        source.read("a1.png")
    assert caught.value.reason == Reason.IO_ERROR


# -- updates ---------------------------------------------------------------------------------


def test_update_keeps_moves_removes_and_appends(folder, tmp_path):
    path = tmp_path / "i.parquet"
    factors = table(tmp_path / "f.csv", "path,who", *[f"{n},{n[-5]}" for n in STORED_ORDER])
    dataset = spec_of(folder, factors=factors)
    before, _ = build_index(dataset, path)
    (folder / "a2.png").rename(folder / "zz.png")  # moved
    (folder / "a10.png").unlink()  # gone
    (folder / "sub/b.png").write_bytes(image_bytes(50))  # changed
    (folder / "0.png").write_bytes(image_bytes(60))  # new, sorts first
    after, report = build_index(dataset, path)
    assert after.uris == ["a1.png", "zz.png", "a10.png", "sub/a1.png", "sub/b.png", "0.png",
                          "sub/b.png"]  # fmt: skip
    assert after.states == ["active", "active", "removed", "active", "removed"] + ["active"] * 2
    assert after.image_ids[:5] == before.image_ids
    assert after.image_ids[5:] == [sha(image_bytes(60)), sha(image_bytes(50))]
    assert (report.unchanged, report.moved, report.removed, report.added) == (2, 1, 2, 2)
    assert report.changed == ["sub/b.png"]
    codes, categories = after.categorical("who")
    names = [categories[c] if c >= 0 else None for c in codes]
    assert names == ["1", "2", "0", "1", "b", None, "b"]
    assert set(report.factors.unmatched_rows) == {"zz.png", "0.png"}
    assert any(line.endswith("see index_report.json") for line in report.lines())
    assert any("'latentflow index' lists them" in line for line in report.lines(planned=True))
    assert report.factors.unmatched_table == ["a2.png", "a10.png"]


def test_a_removed_row_never_comes_back(folder, tmp_path):
    path, data = tmp_path / "i.parquet", (folder / "a2.png").read_bytes()
    build_index(spec_of(folder), path)
    (folder / "a2.png").unlink()
    build_index(spec_of(folder), path)
    (folder / "a2.png").write_bytes(data)
    index, report = build_index(spec_of(folder), path)
    assert index.states[1] == "removed" and index.uris[5] == "a2.png"
    assert report.added == 1 and index.n_rows == 6


def test_swapped_files_are_two_moves(folder, tmp_path):
    path = tmp_path / "i.parquet"
    before, _ = build_index(spec_of(folder), path)
    one, two = (folder / "a1.png").read_bytes(), (folder / "a2.png").read_bytes()
    (folder / "a1.png").write_bytes(two)
    (folder / "a2.png").write_bytes(one)
    after, report = build_index(spec_of(folder), path)
    assert after.image_ids == before.image_ids
    assert after.uris[:2] == ["a2.png", "a1.png"]
    assert (report.moved, report.added, report.removed) == (2, 0, 0)


def test_nothing_changed_writes_nothing(folder, tmp_path):
    path = tmp_path / "i.parquet"
    factors = table(tmp_path / "f.csv", "path,yaw,who", "a1.png,0.5,x", "a2.png,,")
    build_index(spec_of(folder, factors=factors), path)
    stamp = path.stat()
    _, report = build_index(spec_of(folder, factors=factors), path)
    assert path.stat().st_mtime_ns == stamp.st_mtime_ns and path.stat().st_ino == stamp.st_ino
    assert report.unchanged == 5 and report.added == report.removed == report.moved == 0


def test_cache_gives_the_same_index(folder, tmp_path):
    old = time.time() - 100
    for name in STORED_ORDER:
        os.utime(folder / name, (old, old))
    with ContentHashCache(tmp_path / "cache.sqlite") as cache:
        first, _ = build_index(spec_of(folder), tmp_path / "a.parquet", cache=cache)
        (folder / "a1.png").write_bytes(image_bytes(40))
        second, report = build_index(spec_of(folder), tmp_path / "a.parquet", cache=cache)
    assert first.image_ids[0] == sha(image_bytes(0))
    assert second.image_ids[-1] == sha(image_bytes(40)) and report.changed == ["a1.png"]


def test_everything_gone_is_an_error(folder, tmp_path):
    """Removed rows never come back, and the disk may only be out."""
    path = tmp_path / "i.parquet"
    build_index(spec_of(folder), path)
    for name in STORED_ORDER:
        (folder / name).unlink()
    with pytest.raises(InputError, match="the index has 5: is its disk mounted"):
        build_index(spec_of(folder), path)
    assert DatasetIndex.load(path).active.all()


def test_unreadable_files_keep_their_rows(folder, tmp_path, monkeypatch):
    path = tmp_path / "i.parquet"
    before, _ = build_index(spec_of(folder), path)
    (folder / "new.png").write_bytes(image_bytes(8))
    original = FolderSource.local_path

    def failing(self, uri):
        if uri in ("a1.png", "new.png"):
            raise Quarantine(Reason.IO_ERROR, "disk on fire")
        return original(self, uri)

    monkeypatch.setattr(FolderSource, "local_path", failing)
    during, report = build_index(spec_of(folder), path)
    assert during.image_ids[:5] == before.image_ids and during.n_rows == 6
    assert [(u.uri, u.reason) for u in report.unreadable] == [
        ("a1.png", "IO_ERROR"),
        ("new.png", "IO_ERROR"),
    ]
    monkeypatch.undo()
    after, report = build_index(spec_of(folder), path)
    assert after.states == ["active"] * 5 + ["removed", "active"]
    assert after.image_ids[6] == sha(image_bytes(8)) and report.changed == ["new.png"]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e"]), st.integers(0, 3), min_size=1),
        min_size=1,
        max_size=4,
    )
)
def test_any_history_of_a_folder(tmp_path_factory, history):
    """Rows only append; active rows are the folder, file by file; a row keeps its image_id."""
    root = tmp_path_factory.mktemp("history")
    index = DatasetIndex.empty()
    for files in history:
        for old in root.iterdir():
            old.unlink()
        for name, value in files.items():
            (root / f"{name}.png").write_bytes(image_bytes(value))
        dataset = spec_of(root)
        before, was_active = index.image_ids, index.active
        index, report = update_index(index, open_source(dataset), dataset, threads=1)
        assert index.image_ids[: len(before)] == before
        assert not (index.active[: len(before)] & ~was_active).any()
        now = {u: i for u, i, a in zip(index.uris, index.image_ids, index.active, strict=True) if a}
        assert now == {f"{n}.png": sha(image_bytes(v)) for n, v in files.items()}
        assert index.active.sum() == len(files) == report.n_active
        assert report.unchanged + report.moved + report.added == len(files)


# -- factor tables ---------------------------------------------------------------------------


def test_factor_types(folder, tmp_path):
    factors = table(
        tmp_path / "f.csv",
        "path,person,level,yaw,glasses,code,age",
        "sub/a1.png,bob,3,-1.5,true,007,40",
        "./a1.png,ann,1,2,False,010,30",
        "a2.png,bob,2,,true,007,20",
        "a10.png,NA,3,1e1,,x,",
    )
    index, report = build_index(
        spec_of(folder, factors=factors, continuous=["age"]), tmp_path / "i.parquet"
    )
    assert index.factor_names == ["person", "level", "yaw", "glasses", "code", "age"]
    assert index.categorical("person")[1] == ("ann", "bob")  # by index row, not by table row
    assert index.categorical("person")[0].tolist() == [0, 1, -1, 1, -1]
    assert index.categorical("level")[1] == ("1", "2", "3")
    assert index.factors["level"].type == "integer"
    assert index.categorical("glasses")[1] == ("false", "true")
    assert index.factors["glasses"].type == "boolean"
    assert index.categorical("code")[1] == ("010", "007", "x")
    np.testing.assert_array_equal(index.continuous("yaw"), [2, np.nan, 10, -1.5, np.nan])
    np.testing.assert_array_equal(index.continuous("age"), [30, 20, np.nan, 40, np.nan])
    assert (report.factors.matched, report.factors.key) == (4, "path")
    assert report.factors.unmatched_rows == ["sub/b.png"]
    assert report.factors.missing == {"person": 2, "level": 1, "yaw": 2, "glasses": 2, "code": 1,
                                      "age": 2}  # fmt: skip
    loaded = DatasetIndex.load(tmp_path / "i.parquet")
    assert loaded.equals(index)


def test_join_on_image_id(folder, tmp_path):
    (folder / "copy.png").write_bytes(image_bytes(0))
    ids = [sha(image_bytes(i)) for i in range(3)]
    rows = [f"{ids[0]},wrong/path.png,x", f"{ids[2]},a1.png,y", f"{'0' * 64},a2.png,z"]
    factors = table(tmp_path / "f.csv", "image_id,path,who", *rows)
    index, report = build_index(spec_of(folder, factors=factors), tmp_path / "i.parquet")
    codes, categories = index.categorical("who")
    names = [categories[c] if c >= 0 else None for c in codes]
    assert dict(zip(index.uris, names, strict=True)) == {
        "a1.png": "x", "copy.png": "x", "a10.png": "y", "a2.png": None, "sub/a1.png": None,
        "sub/b.png": None}  # fmt: skip
    assert report.factors.key == "image_id" and report.factors.unmatched_table == ["0" * 64]
    assert index.factor_names == ["who"]


def test_parquet_factor_table_with_absolute_paths(folder, tmp_path):
    frame = pa.table(
        {
            "name": [str(folder / "a1.png"), "sub\\b.png", None],
            "n": pa.array([1.0, None, 2.0]),
            "level": pa.array([1, 2, None], pa.int8()),
            "smile": [True, False, None],
            "kind": pa.array(["u", "v", None]).dictionary_encode(),
            "vector": [[1.0], [2.0], None],
        }
    )
    pq.write_table(frame, tmp_path / "f.parquet")
    dataset = spec_of(folder, factors=str(tmp_path / "f.parquet"), key="name", categorical=["n"])
    index, report = build_index(dataset, tmp_path / "i.parquet")
    assert index.factors["n"] == FactorInfo("categorical", "integer", ("1",))
    assert index.categorical("smile")[1] == ("true", "false")
    assert index.categorical("kind")[1] == ("u", "v")
    assert index.categorical("level")[1] == ("1", "2")
    assert report.factors.matched == 2
    assert report.factors.unmatched_table == ["row 2"]
    assert list(report.factors.skipped_columns) == ["vector"]


def test_factor_tables_with_tabs_and_byte_order_marks(folder, tmp_path):
    text = "file\twho\na1.png\tx y\na2.png\t\u00e9\n"
    (tmp_path / "f.tsv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    dataset = spec_of(folder, factors=str(tmp_path / "f.tsv"))
    index, _ = build_index(dataset, tmp_path / "i.parquet")
    assert index.categorical("who")[1] == ("x y", "\u00e9")


@pytest.mark.parametrize(
    ("text", "options", "error", "parts"),
    [
        ("name,who\na1,x\n", {}, SpecError, ["no column 'image_id'", "'dataset.key'"]),
        ("path,who\na1.png,x\n", {"key": "nam"}, SpecError, ["'nam'", "['path', 'who']"]),
        ("path,who\na1.png,x\n", {"continuous": ["who"]}, SpecError, ["'who'", "holds 'x'"]),
        ("path,width\na1.png,3\n", {}, SpecError, ["'width'", "rename", "'dataset.ignore'"]),
        (",path\nx,a1.png\n", {}, InputError, ["no name", "'dataset.ignore'"]),
        ("path,a,a\na1.png,1,2\n", {}, InputError, ["['a'] twice", "rename"]),
        ("path,who\nb1.png,x\n", {}, InputError, ["none of the images", "'b1.png'", "'a1.png'"]),
        (
            "path,who\na1.png,x\n./a1.png,y\n",
            {},
            InputError,
            ["'a1.png' in rows 0 and 1", "'x' and 'y'", "remove one"],
        ),
        ("path,who\na1.png,x,z\n", {}, InputError, ["cannot be read"]),
        ("", {}, InputError, ["is empty", "header"]),
    ],
)
def test_factor_table_problems(folder, tmp_path, text, options, error, parts):
    (tmp_path / "f.csv").write_text(text)
    dataset = spec_of(folder, factors=str(tmp_path / "f.csv"), **options)
    with pytest.raises(error) as caught:
        build_index(dataset, tmp_path / "i.parquet")
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert not (tmp_path / "i.parquet").exists()


def test_missing_factor_table(folder, tmp_path):
    for name in ("f.csv", "f.parquet"):
        with pytest.raises(SpecError, match="'dataset.factors'.*does not exist"):
            build_index(spec_of(folder, factors=str(tmp_path / name)), tmp_path / "i.parquet")


def test_the_same_row_twice_is_no_conflict(folder, tmp_path):
    factors = table(tmp_path / "f.csv", "path,who", "a1.png,x", "a1.png,x")
    _, report = build_index(spec_of(folder, factors=factors), tmp_path / "i.parquet")
    assert report.factors.matched == 1


def test_factor_table_in_the_folder_is_no_image(folder, tmp_path):
    factors = table(folder / "f.csv", "path,who", "a1.png,x")
    index, report = build_index(
        spec_of(folder, factors=factors, pattern="*"), tmp_path / "i.parquet"
    )
    assert index.n_rows == 5 and report.skipped == {".csv": 1}


def test_updated_factor_table(folder, tmp_path):
    path = tmp_path / "i.parquet"
    csv = tmp_path / "f.csv"
    table(csv, "path,who,n", "a1.png,b,1", "a2.png,a,2")
    dataset = spec_of(folder, factors=str(csv))
    build_index(dataset, path)
    table(csv, "path,who,n,new", "a1.png,0,1,5.5", "a10.png,a,3,")
    index, _ = build_index(dataset, path)
    codes, categories = index.categorical("who")
    assert categories == ("b", "a", "0")  # only ever appended
    assert codes.tolist() == [2, 1, 1, -1, -1]  # a2.png keeps what it had
    assert index.categorical("n")[1] == ("1", "2", "3")
    np.testing.assert_array_equal(index.continuous("new"), [5.5] + [np.nan] * 4)
    table(csv, "path,new", "a1.png,tall")
    with pytest.raises(InputError, match="continuous in the index and now holds 'tall'"):
        build_index(dataset, path)


def test_too_many_categories(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("schemas.index.MAX_CATEGORIES", 2)
    factors = table(tmp_path / "f.csv", "path,who", "a1.png,x", "a2.png,y", "a10.png,z")
    with pytest.raises(InputError, match="3 categories.*'dataset.ignore'"):
        build_index(spec_of(folder, factors=factors), tmp_path / "i.parquet")


# -- Parquet ---------------------------------------------------------------------------------


def parquet_dataset(root, cells, name="part.parquet", group=2, **columns):
    root.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": cells, **columns}), root / name, row_group_size=group)


def test_parquet_bytes(tmp_path):
    root = tmp_path / "set"
    images = [image_bytes(i) for i in range(5)]
    parquet_dataset(root, images[:3] + [None], label=["u", "v", "u", "v"], yaw=[0.5, 1, 2, 3])
    parquet_dataset(root, images[3:], "part10.parquet", label=["w", "u"], yaw=[4.0, 5])
    (root / "notes.txt").write_text("x")
    dataset = spec_of(root, kind="parquet", columns=["label", "yaw"])
    index, report = build_index(dataset, tmp_path / "i.parquet")
    assert index.uris == [f"part.parquet#{i}" for i in range(4)] + [
        "part10.parquet#0",
        "part10.parquet#1",
    ]
    assert index.image_ids[:3] + index.image_ids[4:] == [sha(i) for i in images]
    assert [(u.uri, u.reason) for u in report.unreadable] == [("part.parquet#3", "EMPTY")]
    assert index.categorical("label")[1] == ("u", "v", "w")
    assert index.continuous("yaw").tolist() == [0.5, 1, 2, 3, 4, 5]
    assert report.skipped == {".txt": 1}


def test_one_parquet_file_and_a_factor_table(tmp_path):
    images = [image_bytes(i) for i in range(3)]
    parquet_dataset(tmp_path, images, file_name=["x/1.png", "x/2.png", "x/3.png"])
    factors = table(tmp_path / "f.csv", "path,who", "x/1.png,a", "part.parquet#2,b")
    dataset = spec_of(tmp_path / "part.parquet", kind="parquet", factors=factors)
    index, report = build_index(dataset, tmp_path / "i.parquet")
    assert index.categorical("who")[0].tolist() == [0, -1, 1]
    assert report.factors.unmatched_rows == ["part.parquet#1"]


def test_unchanged_shards_are_not_read_again(tmp_path, monkeypatch):
    root = tmp_path / "set"
    parquet_dataset(root, [image_bytes(i) for i in range(3)])
    dataset = spec_of(root, kind="parquet")
    build_index(dataset, tmp_path / "i.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(
            "pipelines.sources.parquet.ParquetSource.read", lambda *a: pytest.fail("was read")
        )
        build_index(dataset, tmp_path / "i.parquet")
    parquet_dataset(root, [image_bytes(i) for i in (0, 9, 2)])
    index, report = build_index(dataset, tmp_path / "i.parquet")
    assert report.changed == ["part.parquet#1"] and index.n_rows == 4


def test_hugging_face_layout(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    (root / "beside.png").write_bytes(image_bytes(1))
    cells = [{"bytes": image_bytes(0), "path": "0.png"}, {"bytes": None, "path": "beside.png"}]
    parquet_dataset(root, cells)
    dataset = spec_of(root, kind="parquet")
    index, _ = build_index(dataset, tmp_path / "i.parquet")
    assert index.image_ids == [sha(image_bytes(0)), sha(image_bytes(1))]
    (root / "beside.png").write_bytes(image_bytes(2))  # the table itself did not change
    index, report = build_index(dataset, tmp_path / "i.parquet")
    assert report.changed == ["part.parquet#1"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.png", "a/../../secret.png", "link.png"])
@pytest.mark.parametrize("struct", [True, False])
def test_a_foreign_table_cannot_reach_outside(tmp_path, path, struct):
    root = tmp_path / "set"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(image_bytes(1))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    parquet_dataset(root, [{"bytes": None, "path": path}] if struct else [path])
    dataset = spec_of(root, kind="parquet")
    with pytest.raises(InputError, match="outside the dataset's root"):
        build_index(dataset, tmp_path / "i.parquet")
    with pytest.raises(InputError, match="outside the dataset's root"):
        open_source(dataset).read("part.parquet#0")
    with pytest.raises(InputError, match="outside"):
        open_source(dataset).read("../part.parquet#0")


def test_parquet_table_of_paths(tmp_path):
    root = tmp_path / "set"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "x.png").write_bytes(image_bytes(4))
    pq.write_table(pa.table({"file": ["x.png", "gone.png"]}), root / "deep" / "t.parquet")
    dataset = spec_of(root, kind="parquet", image_column="file")
    index, report = build_index(dataset, tmp_path / "i.parquet")
    assert index.image_ids[0] == sha(image_bytes(4))
    assert [(u.uri, u.reason) for u in report.unreadable] == [("deep/t.parquet#1", "MISSING")]


def test_parquet_problems(tmp_path):
    root = tmp_path / "set"
    parquet_dataset(root, [1, 2])
    dataset = spec_of(root, kind="parquet")
    with pytest.raises(InputError, match="holds 'int64'"):
        build_index(dataset, tmp_path / "i.parquet")
    with pytest.raises(InputError, match="no column 'picture'.*'image'"):
        build_index(spec_of(root, kind="parquet", image_column="picture"), tmp_path / "i.parquet")
    source = open_source(dataset)
    with pytest.raises(Quarantine) as caught:
        source.read("part.parquet#9")
    assert caught.value.reason == Reason.MISSING
    for uri in ("part.parquet#x", "part.png", "a.tar#b"):
        with pytest.raises(InputError, match="index again|another kind"):
            source.read(uri)


def test_a_parquet_column_that_stands_twice_is_told(tmp_path):
    (tmp_path / "set").mkdir()
    columns = [pa.array([b"x"]), pa.array(["a.png"]), pa.array(["b.png"])]
    pq.write_table(
        pa.Table.from_arrays(columns, ["image", "path", "path"]), tmp_path / "set/p.parquet"
    )
    dataset = spec_of(tmp_path / "set/p.parquet", kind="parquet")
    with pytest.raises(InputError, match="p.parquet' has columns .'path'. twice"):
        build_index(dataset, tmp_path / "i.parquet")


# -- WebDataset ------------------------------------------------------------------------------


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_webdataset(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    write_tar(
        root / "s-0.tar",
        [
            ("k1.png", image_bytes(1)),
            ("k1.json", b'{"who": "ann", "yaw": 1.5}'),
            ("k1.cls", b"7\n"),
            ("d/k2.png", image_bytes(2)),
            ("d/k2.json", b'{"who": "bob"}'),
            ("same.png", image_bytes(3)),
            ("same.png", image_bytes(4)),
            ("../../evil.png", image_bytes(5)),
            ("readme.txt", b"hello"),
        ],
    )
    write_tar(root / "s-10.tar", [("k9.png", image_bytes(9))])
    write_tar(root / "s-2.tar", [("k5.png", b"")])
    (root / "index.json").write_text("{}")
    dataset = spec_of(root, kind="webdataset", columns=["who", "yaw", "cls"])
    index, report = build_index(dataset, tmp_path / "i.parquet")
    assert index.uris == ["s-0.tar#k1.png", "s-0.tar#d/k2.png", "s-0.tar#same.png",
                          "s-0.tar#same.png#2", "s-0.tar#../../evil.png", "s-2.tar#k5.png",
                          "s-10.tar#k9.png"]  # fmt: skip
    numbers = [1, 2, 3, 4, 5, None, 9]
    expected = [sha(b"" if i is None else image_bytes(i)) for i in numbers]
    assert index.image_ids == expected
    assert [(u.uri, u.reason) for u in report.unreadable] == [("s-2.tar#k5.png", "EMPTY")]
    assert index.categorical("who")[0].tolist() == [0, 1] + [-1] * 5
    assert index.categorical("cls")[1] == ("7",)
    assert index.continuous("yaw")[0] == 1.5
    assert report.skipped == {".cls": 1, ".json": 3, ".txt": 1}
    source = open_source(dataset)
    for uri, image_id in zip(index.uris, index.image_ids, strict=True):
        read_checked(source, uri, image_id)
    with pytest.raises(Quarantine) as caught:
        source.read("s-0.tar#none.png")
    assert caught.value.reason == Reason.MISSING
    with pytest.raises(InputError, match="outside"):
        source.read("../s-0.tar#k1.png")


def test_members_of_one_name_join_by_uri_only(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for shard in (0, 1):
        write_tar(root / f"{shard}.tar", [("a.png", image_bytes(shard)), (f"{shard}.png", b"x")])
    factors = table(tmp_path / "f.csv", "path,who", "a.png,x", "1.tar#a.png,y", "0.png,z")
    dataset = spec_of(root, kind="webdataset", factors=factors)
    index, report = build_index(dataset, tmp_path / "i.parquet")
    codes, categories = index.categorical("who")
    names = {u: categories[c] if c >= 0 else None for u, c in zip(index.uris, codes, strict=True)}
    assert names == {"0.tar#a.png": None, "0.tar#0.png": "z", "1.tar#a.png": "y",
                     "1.tar#1.png": None}  # fmt: skip
    assert report.factors.unmatched_table == ["a.png"]


def test_damaged_and_compressed_shards(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    write_tar(root / "a.tar", [("1.png", image_bytes(1)), ("2.png", image_bytes(2, 300, 300))])
    whole = (root / "a.tar").read_bytes()
    (root / "a.tar").write_bytes(whole[:1800])
    index, report = build_index(spec_of(root, kind="webdataset"), tmp_path / "i.parquet")
    assert index.uris == ["a.tar#1.png", "a.tar#2.png"] and report.n_files == 2
    assert "damaged" in dict(report.damaged)["a.tar"]
    with pytest.raises(Quarantine) as caught:
        open_source(spec_of(root, kind="webdataset")).read("a.tar#2.png")
    assert caught.value.reason == Reason.TRUNCATED
    write_tar(root / "b.tar.gz", [("1.png", image_bytes(1))], "w:gz")
    with pytest.raises(InputError, match="'b.tar.gz' is compressed.*unpack"):
        build_index(spec_of(root, kind="webdataset"), tmp_path / "j.parquet")
