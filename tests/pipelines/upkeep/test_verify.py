"""`latentflow verify`: every kind of damage is found, named exactly, and cured by what it says."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import zarr
from digests import tree_digest
from tiny_run import run_tiny

from benchmarks.flipped_bytes import flip
from pipelines.cli import main
from pipelines.engine.saved_sums import opened
from pipelines.folder.checksums import changed_files, noted
from pipelines.runs.plan import plan_stages
from pipelines.upkeep.gc import collect
from pipelines.upkeep.verify import verify
from schemas.directions.direction_set import DirectionSet
from schemas.errors import StoreError, UsageError
from schemas.spec import load_spec
from schemas.store.latent_store import LatentStore
from schemas.store.layout import ArraySpec, commit_layout
from schemas.store.reasons import Status
from schemas.store.sibling import GrowingBlocks, SiblingStore

CODES = "latents/w_plus/c/1/0/0"


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A tiny run that the test may damage."""
    shutil.copytree(tiny, tmp_path / "copy")
    spec = tmp_path / "copy/spec.yaml"
    facts = (tmp_path / "copy/out/run.json").read_text()
    with noted(spec.parent / "out", "run.json"):
        (spec.parent / "out/run.json").write_text(facts.replace(str(tiny), str(spec.parent)))
    return tmp_path / "copy"


def store_of(root: Path) -> Path:
    return root / "out" / json.loads((root / "out/run.json").read_text())["store"]


def set_of(root: Path) -> Path:
    return root / "out" / json.loads((root / "out/run.json").read_text())["directions"]


def flip_byte(path: Path, position: int = -20) -> None:
    data = bytearray(path.read_bytes())
    data[max(position, -len(data))] ^= 0x10
    path.write_bytes(bytes(data))


def test_a_good_run_is_read_completely_and_found_good(tiny):
    found = verify(tiny / "out")
    assert found.ok and not found.problems and not found.notes
    store = LatentStore.open(store_of(tiny))
    assert {s.stage: s.good for s in found.stages} == dict.fromkeys(store.stages(), 2)
    assert all(s.fingerprints == "checked" for s in found.stages)
    chunks = sum(
        p.stat().st_size
        for p in store_of(tiny).rglob("*")
        if p.is_file() and "c" in p.relative_to(store_of(tiny)).parts
    )
    assert found.bytes_read == chunks + (tiny / "out/index.parquet").stat().st_size
    assert found.directions["damaged"] == 0 and found.directions["models"] == 5


def test_a_specification_a_store_and_a_set_can_be_named(tiny):
    assert verify(tiny / "spec.yaml").to_dict()["index_rows"] == 90
    assert len(verify(store_of(tiny)).stages) == 7
    assert verify(set_of(tiny)).directions["directions"] > 10
    with pytest.raises(UsageError, match="there is no run in .*a latent store or"):
        verify(tiny / "images")
    with pytest.raises(UsageError, match="nowhere"):
        verify(tiny / "nowhere")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize("harm", [flip_byte, truncate, Path.unlink])
@pytest.mark.parametrize(
    "key", [CODES, "quality/psnr/c/1", "status/invert/c/1", "reason/invert/c/1"]
)
def test_a_damaged_shard_is_named(copy, harm, key):
    harm(store_of(copy) / key)
    found = verify(copy / "out")
    assert {s.stage: s.damaged for s in found.stages if s.damaged} == {"invert": [1]}
    assert key in found.problems[0].what and found.problems[0].where == "block 1 of stage 'invert'"
    assert "verify --repair" in found.problems[0].cure
    if harm is flip_byte and key == CODES:
        assert "not those that were written, by their checksum" in found.problems[0].what


def test_large_arrays_beside_the_store_are_read_and_compared_with_it(copy):
    parent = LatentStore.open(store_of(copy))
    delta = ArraySpec("companions", "w_plus.delta", (3,))
    sibling = SiblingStore.beside(parent, "w_plus", [delta], stage="invert")
    for block, fp in enumerate(parent.committed("invert")):
        writer = GrowingBlocks(sibling, parent, block, fp.tobytes())
        rows = parent.block_slice(block)
        status, reason = parent.status("invert")[rows], parent.reason("invert")[rows]
        ok = np.flatnonzero(status == Status.OK)
        writer.put({delta.path: np.ones((len(ok), 3))}, ok)
        writer.finish(status, reason)
    found = verify(copy / "out")
    assert found.ok and found.stages[-1].stage == "invert (w_plus)" and found.stages[-1].good == 2
    shard = Path(sibling.path, "companions/w_plus.delta/c/1/0")
    flip_byte(shard)
    Path(sibling.path, "notes.txt").write_text("mine")
    found = verify(copy / "out", repair=True)
    assert found.problems[0].where == f"block 1 of {Path(sibling.path).name!r}"
    assert any("notes.txt" in note for note in found.notes) and not shard.exists()
    again = verify(copy / "out")
    assert again.ok and (again.stages[-1].good, again.stages[-1].waiting) == (1, 1)
    sibling.refresh()
    assert sibling.waiting(parent) == [1]
    # it stays as long as its parent does
    assert f"stores/{Path(sibling.path).name}" in collect(copy / "out", older_than_s=0).kept
    shutil.move(parent.path, store_of(copy).with_name("tiny-0123456789ab"))
    with noted(copy / "out", "run.json"):
        facts = (copy / "out/run.json").read_text()
        now = facts.replace(store_of(copy).name, "tiny-0123456789ab")
        (copy / "out/run.json").write_text(now)
    gone = {artefact.path for artefact in collect(copy / "out", older_than_s=0).removable}
    assert f"stores/{Path(sibling.path).name}" in gone


def test_repair_and_a_run_bring_the_same_bytes_back(copy):
    store, clean = store_of(copy), tree_digest(store_of(copy))
    directions = tree_digest(set_of(copy))
    flip_byte(store / CODES)
    (store / "annotations/marks/c/0/0").unlink()
    truncate(store / "commit/angle/c/1/0")
    with pytest.raises(StoreError, match="verify --repair"):
        run_tiny(copy / "spec.yaml", "annotate")
    assert not verify(copy / "out", repair=True).ok
    waiting = verify(copy / "out")
    assert waiting.ok  # nothing damaged is left; some blocks wait
    assert {s.stage: s.waiting for s in waiting.stages if s.waiting} == {
        "invert": 1,
        "marks": 1,
        "angle": 1,
    }
    assert run_tiny(copy / "spec.yaml").exit_code == 3
    assert verify(copy / "out").ok
    assert tree_digest(store) == clean and tree_digest(set_of(copy)) == directions


def test_a_changed_commit_is_told_from_a_damaged_one(copy):
    store = store_of(copy)
    other = np.frombuffer(b"\x07" * 32, np.uint8)[None]
    (store / "commit/points/c/1/0").write_bytes(commit_layout("points", 2).encode(other))
    found = verify(copy / "out")
    assert [s.mismatched for s in found.stages if s.stage == "points"] == [[1]]
    assert [p.where for p in found.problems] == ["block 1 of stage 'points'"]
    flip_byte(store / "commit/points/c/1/0", 5)
    found = verify(copy / "out")
    assert [s.damaged for s in found.stages if s.stage == "points"] == [[1]]


def test_changed_codes_make_the_renders_commit_wrong_too(copy):
    other = np.frombuffer(b"\x07" * 32, np.uint8)[None]
    path = store_of(copy) / "commit/invert/c/0/0"
    path.write_bytes(commit_layout("invert", 2).encode(other))
    wrong = {s.stage: s.mismatched for s in verify(copy / "out").stages if s.mismatched}
    assert wrong == dict.fromkeys(["invert", "marks@render", "points@render", "angle@render"], [0])


def test_rows_that_are_not_ok_must_hold_fill_values(copy):
    store = LatentStore.open(store_of(copy), "r+")
    status = np.asarray(store.array("status/invert")[:64])
    reason = np.asarray(store.array("reason/invert")[:64])
    status[5], reason[5] = Status.QUARANTINED, 1
    store.array("status/invert")[:64] = status  # past write_block, as no program of ours would
    store.array("reason/invert")[:64] = reason
    found = verify(store_of(copy))
    assert any("rows that are not ok, the first is row 5" in p.what for p in found.problems)
    assert [s.damaged for s in found.stages if s.stage == "invert"] == [[0]]


def test_codes_of_ok_rows_must_be_finite(copy):
    store = LatentStore.open(store_of(copy), "r+")
    store.array("latents/w_plus")[4, 2, 1] = np.nan
    assert "not finite in 1 rows" in verify(store_of(copy)).problems[0].what


def test_a_store_of_another_identity_is_noticed(copy):
    path = store_of(copy) / "zarr.json"
    facts = json.loads(path.read_text())
    facts["attributes"]["seed"] = 1
    path.write_text(json.dumps(facts))
    assert "store_fp" in verify(copy / "out").problems[0].what


def test_an_index_with_other_rows_makes_its_blocks_wrong(copy):
    from schemas.index import DatasetIndex

    index = DatasetIndex.load(copy / "out/index.parquet")
    index.remove([80]).save(copy / "out/index.parquet")
    wrong = {s.stage: s.mismatched for s in verify(copy / "out").stages}
    assert wrong["invert"] == wrong["angle"] == [1]


def test_a_damaged_index_is_noticed(copy):
    path = copy / "out/index.parquet"
    flip_byte(path, 2000)  # within the page of the image ids
    found = verify(copy / "out")
    assert [p.where for p in found.problems] == ["index"]
    assert {s.fingerprints for s in found.stages} == {"not compared"}


@pytest.mark.parametrize("harm", [flip_byte, truncate, Path.unlink])
def test_a_damaged_direction_or_model_is_named_and_made_again(copy, harm):
    path, clean = set_of(copy), tree_digest(set_of(copy))
    harm(path / "directions/mean.expression-glad/c/0/0")
    harm(path / "models/pca/components/c/0/0")
    found = verify(copy / "out")
    assert {p.where for p in found.problems} == {"direction 'mean.expression-glad'", "model 'pca'"}
    verify(copy / "out", repair=True)
    assert "mean.expression-glad" not in DirectionSet.load(path)
    assert run_tiny(copy / "spec.yaml").exit_code == 3
    made = json.loads((copy / "out/run.json").read_text())["stages"][-1]["detail"]
    assert {n for n, d in made.items() if not d["skipped"]} == {"mean_difference", "pca"}
    assert tree_digest(path) == clean and verify(copy / "out").ok


@pytest.mark.parametrize("seed", range(2))
def test_no_byte_changes_unnoticed(copy, seed):
    found = flip(copy, seed, smoke=True, limit=5)
    assert found["tried"] >= 4 and not found["missed"]


def test_a_changed_file_of_the_run_is_named_and_not_believed(copy):
    out = copy / "out"
    data = (out / "annotations.parquet").read_bytes()
    for name in ("index_report.json", "lineage.json", "annotations.parquet"):
        before = (out / name).read_bytes()
        flip_byte(out / name, 12)
        assert [p.where for p in verify(out).problems] == [name]
        if name != "annotations.parquet":
            (out / name).write_bytes(before)
    before = (out / "checksums.json").read_bytes()
    for position in range(len(before)):
        flip_byte(out / "checksums.json", position)
        assert changed_files(out)
        (out / "checksums.json").write_bytes(before)
    assert run_tiny(copy / "spec.yaml").exit_code == 3
    assert (out / "annotations.parquet").read_bytes() == data and verify(out).ok
    facts = (out / "run.json").read_bytes()
    (out / "run.json").write_bytes(facts.replace(b'"skipped"', b'"skippee"'))
    assert plan_stages(load_spec(copy / "spec.yaml"))
    with pytest.raises(StoreError, match="run the specification again"):
        collect(out)


def test_damaged_metadata_of_the_store_are_put_right(copy):
    store, clean = store_of(copy), tree_digest(store_of(copy))
    for key, old, new in (
        ("latents/w_plus", b"w_plus_layer", b"w_plus_lbyer"),
        ("annotations/marks", b"smile", b"smilf"),
        ("commit/angle", b'"shape"', b'"shbpe"'),
        ("status/invert", b"{", b"x"),
        ("quality", b"1", b"2"),
    ):
        path = store / key / "zarr.json"
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new, 1))
    found = verify(copy / "out")
    assert len(found.problems) >= 5 and all(p.where == "store" for p in found.problems[:5])
    verify(copy / "out", repair=True)
    assert tree_digest(store) == clean and verify(copy / "out").ok


def test_a_damaged_sum_is_told_and_made_again(copy):
    path = next((copy / "out/statistics").glob("*.npz"))
    flip_byte(path, 50)
    assert [p.where for p in verify(copy / "out", repair=True).problems] == [
        f"statistics/{path.name}"
    ]
    assert not path.exists() and verify(copy / "out").ok


def test_what_an_earlier_release_wrote_is_no_damage(copy):
    sums = sorted((copy / "out/statistics").glob("*.npz"))
    for path in sums:
        path.write_bytes(opened(path.read_bytes()))
    path = store_of(copy) / "reason/invert/zarr.json"
    now = json.loads(path.read_bytes())
    then = deepcopy(now)
    del then["attributes"]["values"]["model_failed"]
    path.write_text(json.dumps(then, indent=2))
    found = verify(copy / "out", repair=True)
    assert found.ok and all(path.exists() for path in sums)
    assert any(f"{len(sums)} saved sums are of an earlier release" in note for note in found.notes)
    assert json.loads(path.read_bytes()) == then
    store = LatentStore.open(store_of(copy), "r+")
    store.add_arrays("invert", [])
    assert json.loads(path.read_bytes()) == now


def test_attributes_of_a_set_are_put_right_from_its_directions(copy):
    path = set_of(copy) / "zarr.json"
    clean, before = path.read_bytes(), tree_digest(set_of(copy))
    for old, new in ((b'"w_plus"', b'"w_plvs"'), (b'"complete"', b'"cpmplete"')):
        path.write_bytes(clean.replace(old, new))
        assert not verify(copy / "out").ok
        path.write_bytes(clean)
    path.write_bytes(clean.replace(b'"w_plus"', b'"w_plvs"'))
    verify(copy / "out", repair=True)
    assert tree_digest(set_of(copy)) == before and verify(copy / "out").ok


def test_foreign_files_are_told_and_nothing_is_taken_out_for_them(copy):
    for root in (store_of(copy), set_of(copy)):
        for folder in [root, *(f for f in root.rglob("*") if f.is_dir())]:
            for name in (".DS_Store", "._zarr.json", "Thumbs.db", "zarr.json~"):
                (folder / name).write_bytes(b"somebody else's")
    (set_of(copy) / "models/notes").mkdir()
    before = tree_digest(copy / "out")
    found = verify(copy / "out", repair=True)
    assert found.ok and not found.repaired and tree_digest(copy / "out") == before
    assert len(found.notes) == 2 and all("left alone" in note for note in found.notes)
    assert "Thumbs.db" in found.notes[0] and ".DS_Store" not in found.notes[0]


def test_consolidated_metadata_is_no_damage(copy):
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        for root in (store_of(copy), set_of(copy)):
            for group in ("", *(f.name for f in root.iterdir() if f.is_dir())):
                zarr.consolidate_metadata(root, path=group)
    found = verify(copy / "out", repair=True)
    assert found.ok and not found.notes and not found.repaired


def test_changed_attributes_of_a_direction_are_noticed(copy):
    path = set_of(copy) / "directions/mean.expression-glad/zarr.json"
    facts = json.loads(path.read_text())
    facts["attributes"]["sd"] *= 2
    path.write_text(json.dumps(facts))
    assert "not those that were saved" in verify(copy / "out").problems[0].what
    facts["attributes"]["provenance"]["fingerprint"] = "00"
    path.write_text(json.dumps(facts))
    assert any("has fingerprint '00'" in p.what for p in verify(set_of(copy)).problems)


def test_a_direction_file_of_another_specification_is_noticed(copy):
    facts = json.loads((copy / "out/run.json").read_text())
    facts["spec"]["analyse"]["pca"]["n_components"] = 9
    with noted(copy / "out", "run.json"):
        (copy / "out/run.json").write_text(json.dumps(facts))
    assert [p.where for p in verify(copy / "out").problems] == ["analysis 'pca'"]


def test_the_command_prints_a_table_or_json_and_its_exit_code_tells(copy, capsys):
    def latentflow(*arguments: object) -> tuple[object, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        return ended.value.code, capsys.readouterr().out

    code, text = latentflow("verify", copy / "out")
    assert code == 0 and "all is well" in text
    flip_byte(store_of(copy) / CODES)
    code, text = latentflow("verify", store_of(copy))
    assert code == 1 and "block 1 of stage 'invert'" in text
    code, text = latentflow("verify", copy / "out", "--json")
    facts = json.loads(text)
    assert code == 1 and not facts["ok"] and len(facts["problems"]) == 1
