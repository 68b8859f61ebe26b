"""Every format of every project by one suite, and formats that other packages bring."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import stores
import torch
from conformance.peer_format import DirectionFormatSuite, LatentFormatSuite
from plugin_packages import forget, install

from generators.peers import catalog, read_directions, read_latents, write_directions, write_latents
from generators.peers.base import Codes
from generators.peers.catalog import PEERS, direction_formats, latent_formats
from generators.peers.tensorgan import EXPRESSIONS
from generators.protocols import ModelFacts
from pipelines.downstream.directions import export_directions, import_directions
from pipelines.upkeep.inspect import describe
from schemas.directions import DirectionSet, unit_direction
from schemas.errors import DirectionMismatchError, InputError, PluginError, UsageError
from schemas.store import LatentStore

FP = "ab" * 32


class TestDirections(DirectionFormatSuite):
    @pytest.fixture(params=[name for name, each in direction_formats().items() if each.writes])
    def form(self, request):
        return direction_formats()[request.param]

    @pytest.fixture
    def directions(self, form, request):
        if form.name != "tensorgan":
            return DirectionFormatSuite.directions.__wrapped__(self, form)
        rng = np.random.default_rng(0)
        return [
            unit_direction(n, "w_plus", rng.normal(size=(5, 8)), method="hosvd", sd=2.0)
            for n in (*EXPRESSIONS, "rotation")
        ]


class TestLatents(LatentFormatSuite):
    @pytest.fixture(params=[name for name, each in latent_formats().items() if each.files])
    def form(self, request):
        return latent_formats()[request.param]


def test_formats_are_loaded_without_torch():
    script = (
        "import sys; from generators.peers.catalog import *; direction_formats(); latent_formats();"
        "sys.exit(str([n for n in ('torch', 'pandas', 'sklearn') if n in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == ""


# ---- codes ---------------------------------------------------------------------------------------


def test_codes_are_read_as_their_projects_write_them(tmp_path, rng):
    codes = rng.normal(size=(3, 5, 8)).astype("f4")
    np.save(tmp_path / "wp.npy", codes)
    torch.save(torch.tensor(codes), tmp_path / "latents.pt")
    np.savez(tmp_path / "projected_w.npz", w=codes[:1])
    np.save(tmp_path / "latents.npy", {"b.png": codes[0], "a.png": codes[1]}, allow_pickle=True)
    steps = {"a.png": [codes[0], codes[2]]}  # ReStyle: one a step, the last is the result
    np.save(tmp_path / "steps.npy", steps, allow_pickle=True)
    for name, expected, images in [
        ("wp.npy", codes, None),
        ("latents.pt", codes, None),
        ("projected_w.npz", codes[:1], None),
        ("latents.npy", codes[:2], ["b.png", "a.png"]),
        ("steps.npy", codes[2:], ["a.png"]),
    ]:
        found = read_latents(tmp_path / name, space="w_plus", row_shape=(5, 8))
        np.testing.assert_array_equal(found.array(), expected)
        assert found.names == images
    assert describe(tmp_path / "projected_w.npz")["layout"] == "projected_w"
    write_latents(codes, tmp_path / "w.npz", "projected_w")
    np.testing.assert_array_equal(np.load(tmp_path / "w.npz")["w"], codes)  # as generate.py reads
    write_latents(codes, tmp_path / "by_name.npy", "restyle_latents", names=["a", "b", "c"])
    by_name = np.load(tmp_path / "by_name.npy", allow_pickle=True).item()  # as the peer reads it
    np.testing.assert_array_equal(by_name["c"], codes[2])


def test_codes_that_do_not_fit_are_refused(tmp_path, rng):
    codes = rng.normal(size=(3, 5, 8))
    np.save(tmp_path / "wp.npy", codes)
    with pytest.raises(DirectionMismatchError, match=r"\(3, 5, 8\).*are \(n, 6, 8\)"):
        read_latents(tmp_path / "wp.npy", space="w_plus", row_shape=(6, 8))
    np.save(tmp_path / "nan.npy", np.full((2, 5, 8), np.nan))
    with pytest.raises(InputError, match="nan.npy' holds NaN"):
        read_latents(tmp_path / "nan.npy", space="w_plus")
    np.save(tmp_path / "one.npy", np.ones(8))
    with pytest.raises(InputError, match=r"float64 \(8,\), which is none of.*'projected_w'"):
        read_latents(tmp_path / "one.npy", space="w")
    with pytest.raises(UsageError, match="space 'w', files of format 'e4e_latents' hold"):
        write_latents(np.ones((2, 8)), tmp_path / "x", "e4e_latents", space="w")
    with pytest.raises(UsageError, match="names of the images, and these have none"):
        write_latents(codes, tmp_path / "x", "restyle_latents")
    with pytest.raises(UsageError, match="'array' cannot be written"):
        write_latents(codes, tmp_path / "x", "array")
    halves = Codes("w_plus", (1, 5, 8), lambda: iter([]), dtype="<f2")
    with pytest.raises(UsageError, match="codes are 'float16'"):
        write_latents(halves, tmp_path / "x", "e4e_latents")
    assert not (tmp_path / "x").exists()


# ---- other packages' formats ---------------------------------------------------------------------

TOY = """
import json
from generators.peers.base import DirectionFormat, Entry, Peer, of_axes, one_of

class Toy(DirectionFormat):
    name = "toy"
    files = ".json"
    contents = "dict: toy (dim,)"
    suffix = ".toy"

    def recognise(self, value):
        return isinstance(value, dict) and "toy" in value

    def read(self, value, path):
        return [Entry("", value["toy"])]

    def write(self, directions, mean):
        import io, numpy
        memory = io.BytesIO()
        numpy.savez(memory, toy=of_axes(one_of(directions, "toy"), 1, "toy"))
        return memory.getvalue()

PLUGIN = Peer("Toy", directions=(Toy(),))
"""


@pytest.fixture
def bring(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()

    def brought(name: str, text: str) -> None:
        install(tmp_path / "site", monkeypatch, "latentflow.peers", name, text)

    yield brought
    monkeypatch.undo()
    forget()


def small_run(folder: Path) -> Any:
    """A run with eight codes of w_plus."""
    store = stores.create(folder / "store", 8)
    stores.write(store, 0)
    shape = store.array(stores.W_PLUS).shape[1:]
    vector = np.zeros(shape)
    vector[0, 0] = 1.0
    own = DirectionSet(FP, "w_plus", [unit_direction("own", "w_plus", vector, method="pca", sd=1)])
    own.save(str(folder / "set"))
    spec = SimpleNamespace(generator="bundled:faces64")  # of w_plus, like the codes
    return SimpleNamespace(directions=own, store=LatentStore.open(store.path), spec=spec)


def test_another_package_s_format_is_imported_exported_and_inspected(bring, tmp_path):
    bring("toy", TOY)
    run = small_run(tmp_path)
    dim = run.directions["own"].vector.shape[1]
    smile = unit_direction("smile", "w", np.arange(1.0, dim + 1), method="pca", sd=1.0)
    write_directions([smile], tmp_path / "smile.toy", "toy")
    assert import_directions(run, tmp_path / "smile.toy", "w", FP) == ["smile"]
    assert run.directions["smile"].provenance["format"] == "toy"
    facts = describe(tmp_path / "smile.toy")
    assert (facts["kind"], facts["layout"]) == ("file of directions", "toy")
    flat = SimpleNamespace(directions=DirectionSet(FP, "w", [smile]), store=run.store)
    (path,) = export_directions(flat, "toy", tmp_path / "out")
    assert path.read_bytes() == (tmp_path / "smile.toy").read_bytes()


def test_vectors_of_the_space_that_layers_repeat_are_used_in_every_layer(tmp_path, monkeypatch):
    run = small_run(tmp_path)
    dim = run.directions["own"].vector.shape[1]
    np.save(tmp_path / "age.npy", np.arange(1.0, dim + 1))
    monkeypatch.setattr(ModelFacts, "repeated", lambda facts, name: "v")
    assert import_directions(run, tmp_path / "age.npy", "v", FP) == ["age"]
    assert run.directions["age"].provenance["broadcast_from"] == "v"
    assert np.ptp(run.directions["age"].vector, axis=0).max() == 0
    with pytest.raises(UsageError, match="codes of space 'w_plus'.*file's are of 'w'"):
        import_directions(run, tmp_path / "age.npy", "w", FP)


def test_two_formats_that_claim_a_file_are_named_until_one_is_chosen(bring, tmp_path):
    bring("toy", TOY)
    bring("toy2", TOY.replace('name = "toy"', 'name = "other"'))
    np.savez(tmp_path / "smile.npz", toy=np.arange(1.0, 9.0))
    with pytest.raises(InputError, match="'toy' and 'other' both claim: .*--format toy or --form"):
        read_directions(tmp_path / "smile.npz", space="w", generator_fp=FP, sd=1.0)
    assert describe(tmp_path / "smile.npz")["layout"] == "toy or other"
    (found,) = read_directions(
        tmp_path / "smile.npz", space="w", generator_fp=FP, sd=1.0, file_format="other"
    )
    assert found.provenance["format"] == "other"
    with pytest.raises(UsageError, match="'othr' is not known: did you mean 'other'"):
        read_directions(tmp_path / "smile.npz", space="w", generator_fp=FP, file_format="othr")
    with pytest.raises(InputError, match="smile.npz'.*which is no 'sefa'"):
        read_directions(tmp_path / "smile.npz", space="w", generator_fp=FP, file_format="sefa")


def test_a_package_that_cannot_be_imported_is_told_and_stops_no_other(bring, tmp_path):
    bring("torn", "import nothing_of_that_name")
    np.save(tmp_path / "smile.npy", np.ones((1, 8)))
    assert len(read_directions(tmp_path / "smile.npy", space="w", generator_fp=FP, sd=1.0)) == 1
    np.save(tmp_path / "text.npy", np.array("x"))
    with pytest.raises(InputError, match="none of the known.*'torn' of package 'torn_package'"):
        read_directions(tmp_path / "text.npy", space="w", generator_fp=FP)
    assert list(PEERS.broken()) == ["torn"]


def test_a_format_that_fails_on_a_file_is_told_and_stops_no_other(bring, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(catalog.logger, "error", lambda text, *rest: told.append(text % rest))
    bring("toy", TOY.replace('"toy" in value', "value.no_such"))
    np.savez(tmp_path / "d.npz", smile=np.ones(8), age=np.ones(8))
    found = read_directions(tmp_path / "d.npz", space="w", generator_fp=FP, sd=1.0)
    assert len(found) == 2 and "'toy' fails on this file: AttributeError" in told[0]


def test_two_formats_of_one_name_are_refused(bring):
    bring("toy", TOY)
    bring("toy2", TOY)
    with pytest.raises(PluginError, match="'Toy' and 'Toy' both bring a file format 'toy'"):
        direction_formats()


# ---- names of imported directions ----------------------------------------------------------------


def test_a_second_nameless_file_of_a_folder_does_not_replace_the_first(tmp_path):
    run = small_run(tmp_path)
    dim = run.directions["own"].vector.shape[1]
    (tmp_path / "smile").mkdir()
    first, second = tmp_path / "smile" / "boundary.npy", tmp_path / "smile" / "direction.npy"
    np.save(first, np.arange(1.0, dim + 1))
    np.save(second, np.ones(dim))
    assert import_directions(run, first, "w", FP) == ["smile"]
    held = run.directions["smile"].vector.copy()
    with pytest.raises(UsageError, match="'smile' was imported from 'boundary.npy' before, and"):
        import_directions(run, second, "w", FP)
    np.testing.assert_array_equal(run.directions["smile"].vector, held)
    assert import_directions(run, second, "w", FP, name="smile2") == ["smile2"]
    assert import_directions(run, first, "w", FP) == ["smile"]  # the same again
    np.save(first, np.ones(dim))
    with pytest.raises(UsageError, match="'smile' was imported from 'boundary.npy' before, and"):
        import_directions(run, first, "w", FP)
    assert import_directions(run, first, "w", FP, name="smile") == ["smile"]  # asked for
    assert not np.array_equal(run.directions["smile"].vector, held)


# ---- help ----------------------------------------------------------------------------------------


def test_help_names_every_format_and_what_cannot_be_imported(bring, capsys, monkeypatch):
    from pipelines.cli import main

    bring("toy", TOY)
    bring("torn", "import nothing_of_that_name")
    for command in ("import", "export", "inspect"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        wanted = direction_formats().items()
        names = [n for n, each in wanted if command != "export" or each.writes]
        assert all(f"{name} (" in shown for name in names)
        assert "'torn' of package 'torn_package' cannot be imported" in shown
