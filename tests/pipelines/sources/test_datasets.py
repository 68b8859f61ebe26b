"""Datasets as people have them: rows that hold no image, zips, shards cut off, what is left out."""

import io
import json
import os
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from pipelines.runs.run import QUARANTINED, run
from pipelines.sources import zip as zip_source
from pipelines.sources.open import open_source
from pipelines.stages.index import build_index
from schemas.errors import InputError, SpecError
from schemas.fingerprint import ContentHashCache
from schemas.spec import DatasetSpec, parse_spec
from schemas.store.reasons import Reason
from tests.pipelines.sources.test_factor_tables import levels, png
from transforms.images.quarantine import Quarantine

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def built(path, tmp_path, **options):
    return build_index(DatasetSpec(path=str(path), **options), tmp_path / "index.parquet")


def reasons(report):
    return {row.uri.rpartition("#")[2]: row.reason for row in report.unreadable}


def told(report):
    return "\n".join(report.lines())


# -- Parquet ---------------------------------------------------------------------------------


def test_one_bad_row_does_not_stop_a_table(tmp_path):
    root = tmp_path / "set"
    (root / "im").mkdir(parents=True)
    file = root / "im" / "x.png"
    file.write_bytes(png(1))
    (tmp_path / "alias").symlink_to(root)
    paths = [None, "", "/etc/passwd", "../x.png", "gone.png", "im/x.png", str(file),
             file.as_uri(), str(tmp_path / "alias" / "im" / "x.png")]  # fmt: skip
    cells = [{"bytes": None, "path": path} for path in paths]
    cells += [None, {"bytes": b"", "path": "e.png"}, {"bytes": png(2), "path": "q.png"}]
    pq.write_table(pa.table({"image": cells}), root / "t.parquet")
    expected = {"0": "EMPTY", "1": "EMPTY", "2": "UNSUPPORTED", "3": "UNSUPPORTED",
                "4": "MISSING", "9": "EMPTY", "10": "EMPTY"}  # fmt: skip
    with ContentHashCache(tmp_path / "cache.sqlite") as cache:
        dataset = DatasetSpec(path=str(root / "t.parquet"))
        index, report = build_index(dataset, tmp_path / "i.parquet", cache=cache)
        assert reasons(report) == expected and index.n_rows == 12
        again, report = build_index(dataset, tmp_path / "i.parquet", cache=cache)
    assert again.equals(index) and report.unchanged == 12 and reasons(report) == expected
    assert len(set(index.image_ids[5:9])) == 1
    strings = pa.table({"image": pa.array([str(file), "", None, "im/x.png"]).dictionary_encode()})
    pq.write_table(strings, root / "t.parquet")
    _, report = built(root / "t.parquet", tmp_path)
    assert reasons(report) == {"1": "EMPTY", "2": "EMPTY"}


def test_one_damaged_file_does_not_stop_a_folder_of_tables(tmp_path):
    """Nor does it take out the rows that it had: once it can be read again, nothing has changed."""
    root = tmp_path / "set"
    root.mkdir()
    for i in range(3):
        pq.write_table(pa.table({"image": [png(2 * i), png(2 * i + 1)]}), root / f"{i}.parquet")
    whole = (root / "1.parquet").read_bytes()
    before, _ = built(root, tmp_path, kind="parquet")
    for cut, why in ((whole[:-20], "cannot be read"), (LFS, "git lfs pull")):
        (root / "1.parquet").write_bytes(cut)
        index, report = built(root, tmp_path, kind="parquet")
        assert index.active.all() and index.n_rows == 6 and report.removed == 0
        ((name, said),) = report.damaged
        assert name == "1.parquet" and why in said and why in told(report)
        assert "2 rows of what cannot be read now are kept" in told(report)
        with pytest.raises(InputError, match=f"'1.parquet' .*{why}"):
            open_source(DatasetSpec(path=str(root / "1.parquet"), kind="parquet")).list()
    (root / "1.parquet").write_bytes(whole)
    after, report = built(root, tmp_path, kind="parquet")
    assert after.equals(before) and not report.notes


def test_what_a_foreign_table_says_of_a_url(tmp_path):
    pq.write_table(pa.table({"image": ["https://host/x.png"]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="is a URL.*download them"):
        built(tmp_path / "t.parquet", tmp_path, kind="parquet")


def test_columns_that_are_no_images_are_refused_before_anything(tmp_path):
    table = {"image": [[1], [2]], "photo": [png(1), png(2)], "tags": [["a"], ["b"]]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    path = tmp_path / "t.parquet"
    with pytest.raises(InputError, match=r"'image'.*list.*of \['photo'\].*image_column"):
        built(path, tmp_path)
    with pytest.raises(InputError, match="'tags', which holds 'list.*one value an image"):
        built(path, tmp_path, image_column="photo", columns=["tags"])
    with pytest.raises(InputError, match="'tag'.*did you mean 'tags'"):
        built(path, tmp_path, image_column="photo", columns=["tag"])


# -- zips ------------------------------------------------------------------------------------


def write_zip(path, members, labels=None, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
        if labels is not None:
            file.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


NAMES = [f"00000/img{i:08d}.png" for i in range(4)]
IMAGES = {name: png(i) for i, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[n, i % 2] for i, n in enumerate(NAMES)], {"label": list("0101")}),
        ([[n, [0.5, i]] for i, n in enumerate(NAMES)], {"label_0": [0.5] * 4,
                                                        "label_1": [0, 1, 2, 3]}),
        ([[NAMES[0], 3], [NAMES[1], None]], {"label": ["3", None, None, None]}),
        (None, {}),
    ],
)  # fmt: skip
def test_stylegan_datasets(tmp_path, labels, expected):
    file = write_zip(tmp_path / "faces.zip", IMAGES, labels)
    folder = tmp_path / "folder"
    with zipfile.ZipFile(file) as packed:
        packed.extractall(folder)
    for path in (file, folder):
        index, report = build_index(DatasetSpec(path=str(path)), tmp_path / f"{path.name}.parquet")
        assert [uri.rpartition("#")[2] for uri in index.uris] == NAMES
        found = {n: levels(index, n) if "_" not in n else index.continuous(n).tolist()
                 for n in index.factor_names}  # fmt: skip
        assert found == expected
        assert any("the labels of" in note for note in report.notes) == bool(expected)
    plain, _ = built(file, tmp_path, ignore=["label"])
    assert plain.factor_names == []


def test_zips_are_read_again_only_when_they_changed(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.zip", IMAGES, method=zipfile.ZIP_DEFLATED)
    index, _ = built(path, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(zip_source.ZipSource, "read", lambda *a: pytest.fail("was read"))
        again, report = built(path, tmp_path)
    assert again.equals(index) and report.unchanged == 4
    source = open_source(DatasetSpec(path=str(path)))
    write_zip(path, IMAGES | {NAMES[1]: png(99)})
    index, report = built(path, tmp_path)
    assert report.changed == [f"a.zip#{NAMES[1]}"] and index.n_rows == 5
    with pytest.raises(Quarantine) as caught:
        source.read("a.zip#none.png")
    assert caught.value.reason == Reason.MISSING
    with pytest.raises(InputError, match="outside"):
        source.read(f"../a.zip#{NAMES[0]}")


def test_what_a_zip_must_not_do(tmp_path, monkeypatch):
    """Names reach no file, a member that unpacks too far is not unpacked, damage is seen."""
    members = {"../../evil.png": png(1), "/abs.png": png(2), "big.png": b"\0" * 5000,
               "bad.png": png(77), "._x.png": b"x", "__MACOSX/._y.png": b"x"}  # fmt: skip
    root = tmp_path / "set"
    root.mkdir()
    path = write_zip(root / "a.zip", members)
    raw = path.read_bytes()
    at = raw.index(png(77))
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    (root / "cut.zip").write_bytes(raw[:200])
    monkeypatch.setattr(zip_source, "MAX_MEMBER_BYTES", 4000)
    before = sorted(os.listdir(tmp_path))
    index, report = built(root, tmp_path, kind="zip")
    assert sorted([*before, "checksums.json", "index.parquet"]) == sorted(os.listdir(tmp_path))
    assert index.n_rows == 4 and report.skipped == {"hidden": 2}
    assert reasons(report) == {"big.png": "TOO_LARGE", "bad.png": "CORRUPT"}
    assert [name for name, _ in report.damaged] == ["cut.zip"]
    with pytest.raises(InputError, match=r"zip 'cut.zip' cannot be read"):
        built(root / "cut.zip", tmp_path)


def test_kind_goes_by_the_ending_of_the_path():
    kinds = {end: DatasetSpec(path=f"/d/x{end}").kind for end in (".zip", ".tar", ".pq", ".d", "")}
    assert kinds == {".zip": "zip", ".tar": "webdataset", ".pq": "parquet", ".d": "folder",
                     "": "folder"}  # fmt: skip
    assert DatasetSpec(path="x.zip", kind="parquet").kind == "parquet"


# -- WebDataset ------------------------------------------------------------------------------


def write_tar(path, *members):
    """Members (name, data), or (name, tar type, target) for links."""
    with tarfile.open(path, "w") as tar:
        for name, data, *target in members:
            info = tarfile.TarInfo(name)
            if target:
                info.type, info.linkname = data, target[0]
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def test_samples(tmp_path):
    """Dots in names, several images a sample, nested fields, folders, texts, broken fields."""
    path = write_tar(
        tmp_path / "s.tar",
        ("d/k.left.png", png(1)),
        ("d/k.right.png", png(2)),
        ("d/k.json", b'{"a": 1, "pose": {"yaw": 1.5}, "n": null}'),
        ("d/k.cls", b"7"),
        ("x.y.png", png(3)),
        ("x.y.json", b'{"a": 2}'),
        ("x.json", b'{"a": 9}'),
        ("bad.png", png(4)),
        ("bad.json", b'{"a":'),
    )
    index, report = built(path, tmp_path, columns=["a", "pose.yaw", "cls", "n"])
    assert levels(index, "a") == ["1", "1", "2", None]
    np.testing.assert_array_equal(index.continuous("pose.yaw"), [1.5, 1.5, np.nan, np.nan])
    assert levels(index, "cls") == ["7", "7", None, None]
    assert "'s.tar#bad.json'" in told(report)
    for column, text in (("aa", "no sample has: .*did you mean 'a'"), ("pose", "'pose.yaw'")):
        with pytest.raises(SpecError, match=text):
            built(path, tmp_path, columns=[column])


def test_links_in_shards(tmp_path):
    path = write_tar(
        tmp_path / "s.tar",
        ("d/sym.png", tarfile.SYMTYPE, "../a.png"),
        ("a.png", png(1)),
        ("hard.png", tarfile.LNKTYPE, "a.png"),
        ("twice.png", tarfile.SYMTYPE, "hard.png"),
        ("out.png", tarfile.SYMTYPE, "../../etc/passwd"),
        ("loop.png", tarfile.SYMTYPE, "loop.png"),
    )
    index, report = built(path, tmp_path)
    assert index.uris == [f"s.tar#{n}" for n in ("d/sym.png", "a.png", "hard.png", "twice.png")]
    assert len(set(index.image_ids)) == 1
    assert [name for name, _ in report.refused] == ["s.tar#out.png", "s.tar#loop.png"]


@pytest.mark.parametrize(
    ("change", "n", "text"),
    [
        (lambda raw: raw[:1700], 2, "damaged after"),
        (lambda raw: raw[:3072], 3, "no end mark"),
        (lambda raw: raw + raw, 3, "behind its end mark"),
        (lambda raw: b"", 0, "cannot be read: empty file"),
        (lambda raw: LFS, 0, "git lfs pull"),
    ],
)
def test_shards_that_are_not_whole(tmp_path, change, n, text):
    root = tmp_path / "set"
    root.mkdir()
    members = [(f"{i}.png", png(i)) for i in range(3)]
    whole = write_tar(root / "b.tar", *members).read_bytes()
    (root / "a.tar").write_bytes(change(whole))
    index, report = built(root, tmp_path, kind="webdataset")
    assert index.n_rows == n + 3
    ((name, why),) = report.damaged
    assert name == "a.tar" and text in why and why in told(report)


# -- what is left out ------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    """A folder with two pictures, and much that is none."""
    root = tmp_path / "mixed"
    root.mkdir()
    (root / "a.png").write_bytes(png(1))
    (root / "inside.png").symlink_to(root / "a.png")
    (root / "outside.png").symlink_to("/etc/hostname")
    (root / "linked").symlink_to("/etc")
    (root / "loop").symlink_to(root)
    for name in ("1.HEIC", "2.heic", "x.jxl", "p.zip", "notes.txt", ".DS_Store", "picture",
                 "metadata.csv"):  # fmt: skip
        (root / name).write_bytes(b"x")
    return root


def test_what_is_left_out_is_told_by_kind(mixed, tmp_path):
    index, report = built(mixed, tmp_path)
    assert index.uris == ["a.png", "inside.png"]
    text = told(report)
    for part in (
        "2 HEIC files (.heic)",
        "1 JPEG XL file (.jxl)",
        "1 archive file (.zip)",
        "2 paths ('linked', 'loop'): a linked folder",
        "('outside.png'): a link to a file outside",
        "1 file without ending",
        "'metadata.csv' beside the images is not read",
    ):
        assert part in text, text
    assert ".txt" not in text and "hidden" not in text  # counted in the report alone
    kinds = {kind["what"]: kind["n"] for kind in report.to_dict(limit=1000)["left_out"]}
    assert kinds["2 HEIC files (.heic)".removeprefix("2 ")] == 2
    assert kinds[".txt file"] == kinds["hidden file"] == 1
    assert report.skipped["hidden"] == 1


def index_run(path, tmp_path):
    spec = parse_spec(f"name: a\ndataset: {{path: {path}}}\noutput: {tmp_path / 'run'}\n", tmp_path)
    out = io.StringIO()
    return run(spec, until="index", console=Console(file=out, width=500)), out.getvalue()


def test_what_a_run_writes_below_its_dataset_is_no_image_of_it(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    for _ in range(2):
        result, text = index_run(tmp_path, tmp_path)
        (result.path / "strips").mkdir(exist_ok=True)
        (result.path / "strips" / "edited.png").write_bytes(png(2))
        assert "index: 1 rows" in text or "index: up to date" in text, text
        report = json.loads((result.path / "index_report.json").read_text())
        assert report["n_active"] == 1 and [kind["n"] for kind in report["left_out"]] == [1]
        assert "1 path ('run'): what a run has written" in text


def test_a_damaged_shard_is_not_exit_0(mixed, tmp_path):
    result, text = index_run(mixed, tmp_path)
    assert result.exit_code == 0 and "2 HEIC files" in text
    path = write_tar(tmp_path / "a.tar", ("a.png", png(1)), ("b.png", png(2)))
    path.write_bytes(path.read_bytes()[:1600])
    for _ in range(2):  # also where nothing changed
        result, text = index_run(path, tmp_path)
        assert result.exit_code == QUARANTINED and "'a.tar'" in text
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["exit_code"] == QUARANTINED
    found = json.loads((tmp_path / "run" / "index_report.json").read_text())
    assert found["left_out"][0]["examples"] == ["a.tar"]


def test_a_folder_of_archives_is_no_folder_of_images(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.zip").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no images.*1 \.zip.*: set .*'kind: zip' for its"):
        built(tmp_path / "set", tmp_path)


@pytest.mark.parametrize(
    ("names", "cure"),
    [
        (["0.tar", "1.tar"], "'kind: webdataset' for its .tar files"),
        (["0.parquet", "1.pq"], "'kind: parquet' for its .parquet and .pq files"),
        (["0.csv"], "check 'dataset.path', 'dataset.kind' and"),
    ],
)
def test_the_kind_of_a_folder_of_shards_is_told(tmp_path, names, cure):
    (tmp_path / "set").mkdir()
    for name in names:
        (tmp_path / "set" / name).write_bytes(b"x")
    with pytest.raises(InputError, match=f"as a 'folder' dataset .*{cure}"):
        built(tmp_path / "set", tmp_path)
    with pytest.raises(ValueError, match="'kind: webdataset' \\(.tar files\\), got 'folder'"):
        DatasetSpec(path=str(tmp_path / "set"), columns=["age"])


def test_pixels_of_a_zip_reach_the_decoder(tmp_path):
    from transforms.images.preprocess import decode

    path = write_zip(tmp_path / "a.zip", {"a.png": png(7)})
    data = open_source(DatasetSpec(path=str(path))).read("a.zip#a.png")
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(png(7)))))
