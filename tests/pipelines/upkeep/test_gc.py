"""`latentflow gc`: what no run refers to goes, what one refers to stays, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from digests import tree_files
from tiny_run import run_tiny, spec_of, write_spec

from pipelines.cli import main
from pipelines.folder.checksums import noted
from pipelines.upkeep.gc import DAY_S, collect, seconds_of
from schemas.directions.direction_set import DirectionSet, unit_direction
from schemas.errors import LockedError, StoreError, UsageError
from schemas.store.latent_store import LatentStore
from schemas.store.lock import StoreLock, run_lock

AA, BB, CC = "a" * 32, "b" * 32, "c" * 32
HALF = f"{'0' * 32}.partial"


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A finished run with a former store, its directions, statistics and leftovers, all old."""
    root = tmp_path / "copy"
    shutil.copytree(tiny, root)
    out = root / "out"
    store = Path(json.loads((out / "run.json").read_text())["store"])
    for folder in ("stores", "directions"):
        shutil.copytree(out / folder / store.name, out / folder / "tiny-0123456789ab")
    (out / "stores/tiny-0123456789ab.lock").write_text("{}")
    (out / "statistics").mkdir(exist_ok=True)
    (out / f"statistics/{AA}.npz").write_bytes(b"a" * 100)
    (out / store / f"latents/w_plus/c/0.{HALF}").write_bytes(b"half")
    (out / "evaluation.partial.npz").write_bytes(b"half")
    (out / "evaluation.partial").mkdir()
    (out / "evaluation.partial" / f"{AA}.npz").write_bytes(b"half")
    age(root, 2 * DAY_S)
    return root


def age(root: Path, seconds: float) -> None:
    then = time.time() - seconds
    for folder, _, files in os.walk(root):
        for name in (*files, "."):
            os.utime(Path(folder, name), (then, then), follow_symlinks=False)


HALF_DONE = {"evaluation.partial", "evaluation.partial.npz"}
OLD = {
    "stores/tiny-0123456789ab",
    "stores/tiny-0123456789ab.lock",
    "directions/tiny-0123456789ab",
    f"statistics/{AA}.npz",
    *HALF_DONE,
}


def kept(root: Path) -> dict[str, bytes]:
    """Everything that is not to go."""
    files = tree_files(root / "out")
    return {
        name: data
        for name, data in files.items()
        if not name.endswith(".partial") and not any(name.startswith(old) for old in OLD)
    }


def test_a_dry_run_names_everything_with_its_size_and_changes_nothing(copy):
    before = tree_files(copy)
    found = collect(copy / "out")
    assert {a.path for a in found.removable if a.kind != "partial"} == OLD - HALF_DONE
    names = {Path(a.path).name for a in found.removable if a.kind == "partial"}
    assert names == {f"0.{HALF}", *HALF_DONE}
    store = next(a for a in found.removable if a.kind == "store")
    assert store.bytes == sum(map(len, tree_files(copy / "out" / store.path).values()))
    assert found.bytes == sum(a.bytes for a in found.removable) > store.bytes
    assert 1.9 * DAY_S < store.age_s < 2.1 * DAY_S and not found.young
    assert tree_files(copy) == before


def test_deleting_leaves_what_the_run_needs(copy):
    stays = kept(copy)
    found = collect(copy / "out", delete=True)
    assert len(found.removable) == 7
    assert tree_files(copy / "out") == stays
    assert not collect(copy / "out").removable
    assert run_tiny(copy / "spec.yaml").exit_code == 3
    stages = json.loads((copy / "out/run.json").read_text())["stages"]
    assert all(stage["skipped"] for stage in stages)


def test_what_is_young_is_spared(copy):
    fresh = copy / "out/stores/tiny-0123456789ab/status/invert/c/0"
    fresh.write_bytes(fresh.read_bytes())
    found = collect(copy / "out", delete=True)
    assert [a.path for a in found.young] == ["stores/tiny-0123456789ab"]
    assert LatentStore.open(copy / "out/stores/tiny-0123456789ab").n_rows == 90
    assert not collect(copy / "out", delete=True, older_than_s=0).young
    assert not (copy / "out/stores/tiny-0123456789ab").exists()


def test_statistics_that_an_analysis_names_stay(copy):
    path = copy / "out" / json.loads((copy / "out/run.json").read_text())["directions"]
    for name in (BB, CC):
        (copy / f"out/statistics/{name}.npz").write_bytes(b"x")
    held = DirectionSet.load(path)
    arrays, facts = held.load_model("pca")
    held.save_model("pca", arrays, {**facts, "statistics": [BB]})
    collect(copy / "out", delete=True, older_than_s=0)
    left = {p.stem for p in (copy / "out/statistics").iterdir()}
    assert left & {AA, BB, CC} == {BB}


def test_statistics_that_none_names_stay_for_a_day_in_any_case(copy):
    shutil.rmtree(copy / "out/directions")
    (copy / f"out/statistics/{BB}.npz").write_bytes(b"x")
    found = collect(copy / "out", delete=True, older_than_s=0)
    assert [a.path for a in found.young] == [f"statistics/{BB}.npz"]
    assert [p.name for p in (copy / "out/statistics").iterdir()] == [f"{BB}.npz"]


def test_a_specification_keeps_the_store_that_it_writes_to_now(copy):
    write_spec(copy, spec_of(copy, seed=7))
    other = collect(copy / "spec.yaml")
    assert len(other.kept) == 2  # run.json's; the new one does not exist yet
    run_tiny(copy / "spec.yaml", "invert")
    (copy / "out/run.json").unlink()
    age(copy, 2 * DAY_S)
    found = collect(copy / "spec.yaml")
    assert len(found.kept) == 1 and len([a for a in found.removable if a.kind == "store"]) == 2
    with pytest.raises(StoreError, match="give its specification"):
        collect(copy / "out")


def test_a_run_that_failed_early_costs_nothing(copy):
    facts = json.loads((copy / "out/run.json").read_text())
    stores = {facts.pop("store"), facts.pop("directions")}
    facts["spec"]["generator"] = str(copy / "generator.safetensors")
    facts["spec"]["encoder"] = str(copy / "encoder.safetensors")
    for last in (facts["last_finished"], {}):  # named there, or told from the specification
        with noted(copy / "out", "run.json"):
            (copy / "out/run.json").write_text(json.dumps({**facts, "last_finished": last}))
        assert set(collect(copy / "out").kept) == stores
    facts["spec"]["seed"] = 7
    with noted(copy / "out", "run.json"):
        (copy / "out/run.json").write_text(json.dumps(facts))
    assert set(collect(copy / "out").kept) == stores  # those of the last one that finished


def test_links_are_never_followed(copy, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(copy / "out/stores/tiny-0123456789ab", elsewhere / "store")
    before = tree_files(elsewhere)
    out = copy / "out"
    (out / "stores/tiny-ffffffffffff").symlink_to(elsewhere / "store")
    (out / "stores/tiny-0123456789ab/inside").symlink_to(elsewhere)
    shutil.rmtree(out / "statistics")
    (out / "statistics").symlink_to(elsewhere)
    (out / f"linked.{HALF}").symlink_to(elsewhere)
    found = collect(out, delete=True, older_than_s=0)
    assert tree_files(elsewhere) == before
    assert not (out / "stores/tiny-0123456789ab").exists()
    assert not (out / f"linked.{HALF}").is_symlink()
    assert (out / "stores/tiny-ffffffffffff").is_symlink()
    assert sum("is a link" in note for note in found.notes) == 2


def test_foreign_files_stay(copy):
    out = copy / "out"
    for folder in (out, out / "stores", out / "directions", out / "statistics"):
        for name in (".DS_Store", "._x.npz", "notes.npz", "Thumbs.db", "film.partial"):
            (folder / name).write_bytes(b"somebody else's")
    age(copy, 2 * DAY_S)
    before = tree_files(copy)
    found = collect(out, delete=True)
    gone = before.keys() - tree_files(copy).keys()
    assert not [name for name in gone if before[name] == b"somebody else's"]
    assert any("'statistics/notes.npz' is nothing" in note for note in found.notes)
    assert not any(".DS_Store" in note for note in found.notes)


def test_locks_are_respected(copy):
    store = copy / "out/stores/tiny-0123456789ab"
    store.with_name(store.name + ".lock").unlink()
    with run_lock(copy / "out"):
        with pytest.raises(LockedError):
            collect(copy / "out", delete=True)
        assert any("locked by process" in note for note in collect(copy / "out").notes)
    with StoreLock(store):
        found = collect(copy / "out", delete=True, older_than_s=0)
        assert store.exists() and any("in use" in note for note in found.notes)


def test_imported_directions_are_announced(copy):
    path = copy / "out/directions/tiny-0123456789ab"
    held = DirectionSet.load(path)
    shape = next(iter(held)).vector.shape
    held.add(unit_direction("theirs", "w_plus", np.ones(shape), method="imported", sd=1.0))
    held.save(path)
    found = collect(copy / "out", older_than_s=0)
    assert "theirs" in next(a.note for a in found.removable if a.kind == "directions")


def test_an_evaluation_goes_with_the_last_direction_set(copy):
    (copy / "out/evaluation.json").write_text("{}")
    (copy / "out/report.html").write_text("x")
    assert not any(a.kind == "evaluation" for a in collect(copy / "out", older_than_s=0).removable)
    shutil.rmtree(copy / "out/directions")
    found = [a.path for a in collect(copy / "out", older_than_s=0).removable]
    assert {"evaluation.json", "report.html"} <= set(found)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no run in"):
        collect(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        collect(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90s", 90), ("1.5h", 5400), ("2d", 172800)]
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


def test_other_durations_are_refused():
    with pytest.raises(UsageError, match="'soon'"):
        seconds_of("soon")


def test_the_command_shows_and_deletes(copy, capsys):
    main_ends(["gc", str(copy / "out")])
    shown = capsys.readouterr().out
    assert "tiny-0123456789ab" in shown and "can be removed with --delete" in shown
    main_ends(["gc", str(copy / "out"), "--delete", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["deleted"] and len(facts["removable"]) == 7
    main_ends(["gc", str(copy / "out")])
    assert "nothing to remove" in capsys.readouterr().out


def main_ends(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
