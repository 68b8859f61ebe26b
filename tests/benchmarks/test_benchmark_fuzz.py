"""The fuzzer: what it finds, that its files are of every format, and that its cage holds."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
import yaml

from benchmarks import fuzz
from benchmarks.fuzzing import cage
from benchmarks.fuzzing.codecs import CODECS, MARK
from benchmarks.fuzzing.data import SPECS, images, tables
from benchmarks.fuzzing.readers import KINDS, Kind, sound
from benchmarks.fuzzing.seeds import Seed, changed
from generators.peers.catalog import direction_formats
from schemas.errors import InputError
from schemas.spec import AnalyseSpec, RunSpec
from schemas.store.reasons import Reason
from tests.smoke import smoke
from transforms.images.quarantine import Quarantine


def test_every_kind_and_format_is_read_and_nothing_fails():
    printed, result = smoke("fuzz")
    assert result["name"] == "fuzz" and result["error"] == 0, printed
    assert result["cases"] == 10 * len(KINDS)
    rows = {row["kind"]: row for row in result["rows"]}
    assert list(rows) == list(KINDS)
    for row in rows.values():
        assert sum(row[outcome] for outcome in fuzz.OUTCOMES) == row["cases"] == 10
    held = {name.split(",")[0] for name in rows["directions"]["formats"]}
    assert held >= set(direction_formats()) - {"vector"}
    assert "passed" in printed and "WebP animated" in printed


def test_the_specifications_name_every_section():
    given = yaml.safe_load(SPECS["every section"])
    assert set(given) == set(RunSpec.model_fields)
    assert set(given["analyse"]) == set(AnalyseSpec.model_fields)


# ---- the cage ------------------------------------------------------------------------------------


def raises(error: BaseException):
    raise error


STEPS = {
    "accepted": ("ok", lambda case: Path("out/x").write_bytes(case.path.read_bytes()) and None),
    "refused": ("refused", lambda case: raises(InputError("it is 'x': give 'y'"))),
    "set aside": ("quarantined", lambda case: raises(Quarantine(Reason.CORRUPT, "no"))),
    "unclean text": ("traceback", lambda case: raises(InputError("Traceback (most recent call"))),
    "no text": ("traceback", lambda case: raises(InputError(" "))),
    "traceback": ("traceback", lambda case: raises(KeyError("x"))),
    "unsound": ("traceback", lambda case: sound(False, "shape")),
    "too much memory": ("traceback", lambda case: str(len(bytearray(1 << 40)))),
    "endless": ("hang", lambda case: [None for _ in iter(int, 1)] and None),
    "asleep": ("hang", lambda case: signal.pause()),
    "crash": ("crash", lambda case: os.kill(os.getpid(), signal.SIGSEGV)),
    "written beside": ("escape", lambda case: Path("../stray").write_text("x") and None),
    "renamed away": ("escape", lambda case: os.rename(case.path, "../../stray")),
    "removed outside": ("escape", lambda case: os.remove("../outside.png")),
    "read beside": ("escape", lambda case: Path("in/../../outside.png").read_bytes() and None),
    "command": ("executed", lambda case: os.system("true") and None),
    "code of the file": ("executed", lambda case: eval(f"0 # {MARK}") or None),  # noqa: S307
    "a trace": ("executed", lambda case: Path(MARK).write_text("x") and None),
}


@pytest.fixture
def only(monkeypatch):
    """A kind of that name alone, with short limits."""
    monkeypatch.setattr(cage, "CPU_SECONDS", 1)
    monkeypatch.setattr(cage, "WALL_SECONDS", 1.5)

    def make(name):
        seed = Seed("text", {"a.txt": b"some text"}, "a.txt", [("a.txt", "bytes")])
        kind = Kind(lambda folder: [seed], lambda case: None, (STEPS[name][1],))
        monkeypatch.setitem(KINDS, name, kind)
        monkeypatch.setattr(fuzz.Fuzzed, "_seeds", lambda self: [seed])
        return name

    return make


@pytest.mark.parametrize("name", list(STEPS))
def test_the_cage_tells_what_was_done(tmp_path, only, name):
    fuzzed = fuzz.Fuzzed(only(name), tmp_path, 0, tmp_path / "kept")
    fuzzed.run([0])
    (result,) = fuzzed.results
    expected = STEPS[name][0]
    assert result["outcome"] == expected, result
    assert result["passed"] and fuzzed.row()[expected] == 1
    assert len(fuzzed.faults()) == (expected not in ("ok", "refused", "quarantined"))
    assert (tmp_path / "kept").exists() == (expected in fuzz.FAULTS)  # the crash's input is not
    assert not (tmp_path / name / "0").exists()


def test_a_valid_file_that_is_refused_stops_the_benchmark(tmp_path, monkeypatch, capfd):
    seed = Seed("text", {"a.txt": b"x"}, "a.txt", [("a.txt", "bytes")])
    kind = Kind(lambda folder: [seed], lambda case: None, (STEPS["refused"][1],))
    monkeypatch.setitem(KINDS, "text", kind)
    with pytest.raises(SystemExit, match="valid files of kind 'text'"):
        fuzz.Fuzzed("text", tmp_path, 0, None)
    assert "give 'y'" in capfd.readouterr().err


# ---- changes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    return [*images(folder), *tables(folder)]


def test_a_codec_builds_what_it_parsed(seeds):
    for seed in seeds:
        for name, codec in seed.targets:
            value = CODECS[codec].parse(seed.files[name])
            assert CODECS[codec].parse(CODECS[codec].build(value)) == value, seed.format


def test_the_same_number_gives_the_same_case_and_always_a_changed_one(seeds):
    for seed in seeds:
        made = [changed(random.Random(f"0/{i}"), seed, seeds) for i in range(5)]
        assert made == [changed(random.Random(f"0/{i}"), seed, seeds) for i in range(5)]
        assert all((files, main) != (dict(seed.files), seed.main) for files, main, _ in made)
        assert len({str(files) + main for files, main, _ in made}) > 3
