"""Factor tables in the forms that people have them, joined to an index of six pictures."""

import io
import json
import shutil
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.sources.factor_values import MISSING_TEXTS, kind_of
from pipelines.sources.open import open_source
from pipelines.stages.index import build_index, update_index
from schemas.errors import InputError, SpecError
from schemas.index import CATEGORICAL, CONTINUOUS, DatasetIndex, FactorInfo
from schemas.sections.types import level_named
from schemas.spec import DatasetSpec

NAMES = [f"{i:06d}.png" for i in range(6)]


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "faces"
    root.mkdir()
    for i, name in enumerate(NAMES):
        (root / name).write_bytes(png(i))
    return root


def joined(root, tmp_path, table, name="table.csv", index=None, **options):
    """(index, report) of the pictures with a table: text, bytes, or what json.dumps takes."""
    path = tmp_path / name
    if not isinstance(table, bytes):
        text = table if isinstance(table, str) else json.dumps(table)
        table = text.encode()
    path.write_bytes(table)
    dataset = DatasetSpec(path=str(root), factors=str(path), **options)
    return update_index(index or DatasetIndex.empty(), open_source(dataset), dataset, threads=1)


def levels(index, name):
    codes, categories = index.categorical(name)
    return [categories[code] if code >= 0 else None for code in codes]


def rows(form, names=NAMES):
    return "\n".join(form.format(name=name, i=i, odd=i % 2) for i, name in enumerate(names)) + "\n"


# -- forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "factor", "expected"),
    [
        ("list_attr.txt", "6\nSmiling 5_o_Clock_Shadow \n" + rows("{name}  {odd}  1"), "Smiling",
         list("010101")),
        ("list_eval_partition.txt", rows("{name} {odd}"), "list_eval_partition", list("010101")),
        ("bbox.txt", "6\nimage_id x_1 y_1\n" + rows("{name}   {i}  71"), "x_1", list("012345")),
        ("landmarks.txt", "6\nlefteye_x lefteye_y\n" + rows("{name} 7  {i}"), "lefteye_y",
         list("012345")),
        ("kaggle.csv", "image_id,x\r\n" + rows("{name},{i}\r"), "x", list("012345")),
        ("tabs.csv", "path\tx y\n" + rows("{name}\t{i} a"), "x y", [f"{i} a" for i in range(6)]),
        ("bars.txt", "path|x\n" + rows("{name}|{odd}"), "x", list("010101")),
        ("excel.csv", "sep=;\r\npath;x\r\n" + rows("{name};{i},5\r"), "x",
         [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]),
        ("semicolons.csv", "path;x\n" + rows("{name};1.{i}00,5"), "x",
         [1000.5, 1100.5, 1200.5, 1300.5, 1400.5, 1500.5]),
        ("quoted.csv", '"path","a, b"\n' + rows('"{name}","say ""{i}"""'), "a, b",
         [f'say "{i}"' for i in range(6)]),
        ("no_header.csv", rows("{name},{odd}"), "no_header", list("010101")),
        ("unknown_key.csv", "x,picture\n" + rows("{odd},{name}"), "x", list("010101")),
        ("metadata.jsonl", rows('{{"file_name": "{name}", "x": {odd}}}'), "x", list("010101")),
        ("one.jsonl", '{"file_name": "000000.png", "x": 1}', "x", ["1", *[None] * 5]),
    ],
)  # fmt: skip
def test_forms(faces, tmp_path, name, text, factor, expected):
    index, report = joined(faces, tmp_path, text, name)
    kind = index.factors[factor].kind
    found = levels(index, factor) if kind == CATEGORICAL else index.continuous(factor).tolist()
    assert found == expected
    assert report.factors.matched == sum(value is not None for value in expected)


@pytest.mark.parametrize(
    ("whole", "factor", "expected"),
    [
        ([{"path": n, "pose": {"yaw": i + 0.5}, "box": [1, 2]} for i, n in enumerate(NAMES)],
         "pose.yaw", [i + 0.5 for i in range(6)]),
        ({str(i): {"category": "ab"[i % 2], "image": {"file_path": n, "url": f"u{i}"}}
          for i, n in enumerate(NAMES)}, "category", list("ababab")),
        ({n: {"x": i} for i, n in enumerate(NAMES)}, "x", list("012345")),
        ({n: i for i, n in enumerate(NAMES)}, "table", list("012345")),
        ({"labels": [[n, i] for i, n in enumerate(NAMES)]}, "label", list("012345")),
        ({"labels": [[n, [0.5, i + 0.5]] for i, n in enumerate(NAMES)]}, "label_1",
         [i + 0.5 for i in range(6)]),
        ({"path": dict(enumerate(NAMES)), "x": {i: i for i in range(6)}}, "x", list("012345")),
        ({"path": NAMES, "x": list(range(6))}, "x", list("012345")),
    ],
)  # fmt: skip
def test_json(faces, tmp_path, whole, factor, expected):
    index, report = joined(faces, tmp_path, whole, "table.json")
    kind = index.factors[factor].kind
    found = levels(index, factor) if kind == CATEGORICAL else index.continuous(factor).tolist()
    assert found == expected and report.factors.matched == 6
    assert not {"image.url", "box"} & set(index.factors)  # addresses and lists are told instead
    assert set(report.factors.skipped_columns) <= {"image.url", "box"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_encodings(faces, tmp_path, encoding):
    text = "path,Größe\n" + rows("{name},Zürich")
    index, report = joined(faces, tmp_path, text.encode(encoding))
    assert levels(index, "Größe") == ["Zürich"] * 6
    assert any("Windows-1252" in note for note in report.notes) == (encoding == "latin-1")


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("t.csv", "path,a\n000000.png,1\n000001.png,1,2\n", ["line 3 has 3 values", "has 2"]),
        ("t.txt", "2\na b\n000000.png 1 2\n000001.png 1\n", ["line 4 has 2 values"]),
        ("t.jsonl", '{"path": "000000.png"}\n{"path":\n', ["line 2 is not JSON"]),
        ("t.jsonl", '{"path": "000000.png"}\n[1]\n', ["line 2 holds a 'list'"]),
        ("t.json", "[1, 2]", ["row 0 holds a 'int'", "one object a line"]),
        ("t.json", '{"labels": [["a.png"]]}', ["no pair of a path and a label"]),
        ("t.csv", b"PK\x03\x04" + bytes(99), ["an Excel workbook", "save it as CSV"]),
        ("t.csv.gz", b"\x1f\x8b\x08" + bytes(99), ["compressed by gzip"]),
        ("t.csv", b"a\0\0\1\2" * 9, ["is no text"]),
        ("t.tsv", "path\tx\n" + rows("{name}\t1,{i}00"), ["'1,000'", "may be", "with a point"]),
    ],
)
def test_tables_that_cannot_be_read(faces, tmp_path, name, text, parts):
    with pytest.raises(InputError) as caught:
        joined(faces, tmp_path, text, name)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


# -- which image a row means -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "note"),
    [
        ("{name}", None),
        ("./{name}", None),
        ("{root}/{name}", None),
        ("file://{root}/{name}", None),
        ("/elsewhere/faces/{name}", "behind their folder 'faces'"),
        ("data/faces/{name}", "behind their folder 'faces'"),
        ("{stem}", "without their endings"),
    ],
)
def test_names_of_images(faces, tmp_path, form, note):
    stems = [name[:-4] for name in NAMES]
    keys = [form.format(name=n, root=faces, stem=s) for n, s in zip(NAMES, stems, strict=True)]
    table = "path,x\n" + rows("{name},{i}", keys)
    index, report = joined(faces, tmp_path, table)
    assert levels(index, "x") == list("012345")
    assert [note in n for n in report.notes] == ([True] if note else [])


def test_names_without_folders(faces, tmp_path):
    index, report = joined(faces.parent, tmp_path, "image_id,x\n" + rows("{name},{i}"))
    assert levels(index, "x") == list("012345")
    assert "without the folders" in report.notes[0]


def test_folders_of_other_sets_do_not_join(faces, tmp_path):
    """val/000000.png is another picture than train/000000.png."""
    with pytest.raises(InputError, match="in their folders.*relative to 'dataset.path'"):
        joined(faces, tmp_path, "path,x\n" + rows("val/{name},{i}"))


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("000000.PNG", ["upper and lower case only", "'000000.PNG' and '000000.png'"]),
        ("000000.jpg", ["endings only", "'000000.jpg' and '000000.png'"]),
        ("0", ["in leading zeros", "'0' and '000000.png'", "as text"]),
        ("ff" * 32, ["sha256", "paths under 'dataset.key'"]),
    ],
)
def test_why_nothing_matches(faces, tmp_path, key, parts):
    with pytest.raises(InputError, match="matches none of the images") as caught:
        joined(faces, tmp_path, f"path,x\n{key},1\n")
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_decomposed_names(tmp_path):
    root = tmp_path / "mac"
    root.mkdir()
    names = ["é.png", "ü.png", "a.png"]
    for i, name in enumerate(names):
        (root / unicodedata.normalize("NFD", name)).write_bytes(png(i))
    for junk in (".DS_Store", "._a.png"):
        (root / junk).write_bytes(b"\0\5\x16\7")
    table = "path,x\n" + rows("{name},{i}", names)
    index, report = joined(root, tmp_path, table, pattern="*")
    assert dict(zip(map(ord, [u[0] for u in index.uris]), levels(index, "x"), strict=True)) == {
        ord("e"): "0", ord("u"): "1", ord("a"): "2"}  # fmt: skip
    assert "2 names of column 'path' differ" in report.notes[0]
    assert report.skipped == {"hidden": 2}


def test_both_forms_of_a_name_stay_two(tmp_path):
    root = tmp_path / "both"
    root.mkdir()
    forms = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    for i, name in enumerate(forms):
        (root / name).write_bytes(png(i))
    index, _ = joined(root, tmp_path, f"path,x\n{forms[0]},1\n")
    assert dict(zip(index.uris, levels(index, "x"), strict=True)) == {forms[0]: "1", forms[1]: None}


# -- missing values --------------------------------------------------------------------------


def test_missing_texts_are_those_of_pandas(faces, tmp_path):
    from pandas._libs.parsers import STR_NA_VALUES

    assert STR_NA_VALUES <= MISSING_TEXTS
    for text in sorted(STR_NA_VALUES):
        table = "path,age,smile\n" + rows("{name},2{i}.5,{odd}", NAMES[:5]) + f"{NAMES[5]},"
        index, _ = joined(faces, tmp_path, f"{table}{text},{text}\n")
        assert index.factors["age"].kind == CONTINUOUS, text
        assert np.isnan(index.continuous("age")).tolist() == [False] * 5 + [True]
        assert index.factors["smile"] == FactorInfo(CATEGORICAL, "integer", ("0", "1"))


def test_a_level_that_looks_like_a_missing_value(faces, tmp_path):
    words = ["None", "lipstick", "NA", "", "None", "lipstick"]
    table = "path,makeup\n" + "".join(f"{n},{w}\n" for n, w in zip(NAMES, words, strict=True))
    index, report = joined(faces, tmp_path, table)
    assert index.categorical("makeup")[1] == ("lipstick",)
    (note,) = report.notes
    assert "'None' (2), 'NA' (1) of 6 cells count as missing" in note and "literal" in note
    index, report = joined(faces, tmp_path, table, literal="makeup")
    assert levels(index, "makeup") == [w or None for w in words] and not report.notes


def test_texts_among_numbers(faces, tmp_path):
    table = "path,age\n" + rows("{name},2{i}.5", NAMES[:5]) + f"{NAMES[5]},unknown\n"
    with pytest.raises(InputError, match=r"5 numbers and 'unknown' \(1\), 1 texts of 6.*missing"):
        joined(faces, tmp_path, table)
    index, _ = joined(faces, tmp_path, table, missing="unknown")
    assert index.factors["age"].kind == CONTINUOUS
    index, _ = joined(faces, tmp_path, table, categorical=["age"])
    assert levels(index, "age")[5] == "unknown"
    with pytest.raises(SpecError, match="holds 'unknown'.*'dataset.missing'"):
        joined(faces, tmp_path, table, continuous=["age"])
    _, report = joined(faces, tmp_path, table.replace(".5", ""))  # integers are levels anyway
    assert "'unknown' (1)" in report.notes[0] and "all of them are levels" in report.notes[0]


def test_a_level_for_nearly_every_image_is_told():
    kinds = [
        kind_of("share", [f"{i}.5 %" for i in range(n)], DatasetSpec(path="x"), None)
        for n in (20, 30)
    ]
    assert [note is not None and "30 levels in 30 cells" in note for _, note in kinds] == [
        False, True]  # fmt: skip


def test_levels_of_an_index_that_is_there_stay(faces, tmp_path):
    """An index made when 'None' was a level keeps its codes."""
    table = "path,smile\n" + rows("{name},{odd}", NAMES[:5]) + f"{NAMES[5]},None\n"
    before, _ = joined(faces, tmp_path, table, literal=["smile"])
    after, _ = joined(faces, tmp_path, table, index=before)
    assert after.equals(before) and levels(after, "smile")[5] == "None"


def test_parquet_texts_are_missing_too(faces, tmp_path):
    sink = pa.BufferOutputStream()
    ages = pa.array(["1.5", "None", "2.5", None, "<NA>", "3.5"]).dictionary_encode()
    pq.write_table(pa.table({"path": NAMES, "age": ages}), sink)
    index, _ = joined(faces, tmp_path, sink.getvalue().to_pybytes(), "t.parquet")
    np.testing.assert_array_equal(index.continuous("age"), [1.5, np.nan, 2.5, np.nan, np.nan, 3.5])


# -- names of columns and levels -------------------------------------------------------------


def test_any_name_of_a_column(faces, tmp_path):
    names = ["a b.c", "é/ü", "5_o_Clock_Shadow", "x" * 3000, "'"]
    header = ",".join(f" {name} " for name in names)
    index, _ = joined(faces, tmp_path, f"path,{header}\n" + rows("{name},1,2,3,4,5"))
    index.save(tmp_path / "i.parquet")
    assert DatasetIndex.load(tmp_path / "i.parquet").factor_names == names


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"continuous": ["aeg"]}, ["'dataset.continuous'", "['aeg']", "did you mean 'age'"]),
        ({"literal": ["x"]}, ["'dataset.literal'"]),
        ({"key": "pth"}, ["'dataset.key'", "did you mean 'path'"]),
    ],
)
def test_misspelt_columns(faces, tmp_path, options, parts):
    with pytest.raises(SpecError) as caught:
        joined(faces, tmp_path, "path,age\n" + rows("{name},{i}"), **options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    with pytest.raises(SpecError, match="the dataset gives"):
        dataset = DatasetSpec(path=str(faces), continuous=["age"])
        build_index(dataset, tmp_path / "i.parquet")


@pytest.mark.parametrize(
    "numbers", [range(6), range(3, 9), (9, 4, 7, 1, 5, 0)], ids=["all", "some", "shuffled"]
)
@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 0.1"])
def test_row_numbers_of_a_data_frame_are_no_factor(faces, tmp_path, name, numbers):
    lines = [f"{name},path,hair", *(f"{i},{n},x" for i, n in zip(numbers, NAMES, strict=False))]
    index, report = joined(faces, tmp_path, "\n".join(lines))
    assert index.factor_names == ["hair"]
    assert f"{name!r} left out (row numbers of a data frame)" in "\n".join(report.lines())


def test_one_column_of_names_with_blanks(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    names = ["my face 1.png", "my face 2.png", "one of others.png"]
    for i, name in enumerate(names):
        (root / name).write_bytes(png(i))
    _, report = joined(root, tmp_path, "\n".join(["path", *names]))
    assert report.factors.matched == 3 and not report.factors.unmatched_table


def test_missing_numbers_are_compared_by_value(faces, tmp_path):
    ages = ["20.5", "-1.0", "-1", "22", "30.25", "-999"]
    lines = [f"{name},{age}" for name, age in zip(NAMES, ages, strict=False)]
    text = pa.table({"path": NAMES, "age": [float(age) for age in ages]})
    pq.write_table(text, tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    for name, table in (("t.csv", "\n".join(["path,age", *lines])), ("t.parquet", whole)):
        options = {"missing": ["-1", "-999.0", "unknwon"]}
        index, report = joined(faces, tmp_path, table, name=name, **options)
        known = index.continuous("age")
        assert sorted(known[np.isfinite(known)]) == [20.5, 22, 30.25]
        assert "names ['unknwon'], which no cell holds" in "\n".join(report.lines())


def test_levels_that_a_data_frame_wrote_with_decimals_are_told(faces, tmp_path):
    lines = [
        f"{name},{value}" for name, value in zip(NAMES, ["1.0", "0.0", "", "1.0"], strict=False)
    ]
    _, report = joined(faces, tmp_path, "\n".join(["path,smile", *lines]))
    assert "2 values are whole numbers written with decimals" in "\n".join(report.lines())


def test_why_some_do_not_match(faces, tmp_path):
    lines = [f"{name if i else name.upper()},x" for i, name in enumerate(NAMES)]
    _, report = joined(faces, tmp_path, "\n".join(["path,hair", *lines]))
    said = "\n".join(report.lines())
    assert "of those that match nothing, names differ in upper and lower case only" in said


def test_columns_that_are_no_longer_given_stay_and_are_told(faces, tmp_path):
    first, _ = joined(faces, tmp_path, "path,mood,age\n" + rows("{name},{odd},{i}"))
    second, report = joined(faces, tmp_path, "path,Mood\n" + rows("{name},{odd}"), index=first)
    assert second.factor_names == ["mood", "age", "Mood"]
    assert "factors ['mood', 'age'] are kept from before" in "\n".join(report.lines())
    for index in (second, first):  # nor is it an error when they are gone
        options = {"index": index, "ignore": ["mood", "age"]}
        third, report = joined(faces, tmp_path, "path,Mood\n" + rows("{name},{odd}"), **options)
        assert third.factor_names == ["Mood"]
    _, report = joined(faces, tmp_path, "path,Mood\n" + rows("{name},{odd}"), ignore=["Moot"])
    assert "names 'Moot', which is nowhere" in "\n".join(report.lines())
    assert "did you mean 'Mood'" in "\n".join(report.lines())


def test_rows_that_are_removed_are_told(faces, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(faces, root)
    first, _ = joined(root, tmp_path, "path,x\n" + rows("{name},{i}"))
    (root / NAMES[0]).unlink()
    _, report = joined(root, tmp_path, "path,x\n" + rows("{name},{i}"), index=first)
    assert "1 row removed for ever" in "\n".join(report.lines())


def test_doubled_columns_can_be_ignored(faces, tmp_path):
    table = "path,a,b,a\n" + rows("{name},1,{i},3")
    index, _ = joined(faces, tmp_path, table, ignore=["a"])
    assert index.factor_names == ["b"] and levels(index, "b") == list("012345")


@pytest.mark.parametrize(
    ("level", "categories", "expected"),
    [
        ("no", ("yes", "no"), "no"),
        ("false", ("yes", "no"), "no"),
        ("true", ("On", "Off"), "On"),
        ("false", ("false", "no"), "false"),
        ("false", ("no", "off"), None),
        ("true", ("1", "0"), None),
        ("neutral", ("smile",), None),
    ],
)
def test_levels_that_yaml_reads_as_something_else(level, categories, expected):
    assert level_named(level, categories) == expected
