"""What a change of the inputs costs, what the plan says of it, and that the end is the same."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from digests import tree_digest, tree_files
from places import ROOT
from rich.console import Console
from tiny_run import (
    factors_of,
    make_tiny,
    run_tiny,
    spec_of,
    write_annotators,
    write_factors,
    write_image,
    write_model,
    write_spec,
)

from pipelines.runs.lineage import (
    changes,
    note_lineage,
    read_lineage,
    report_inputs,
    row_spans,
    rows_of,
    shown,
)
from pipelines.runs.plan import plan, plan_stages
from schemas.directions.direction_set import DirectionSet
from schemas.index import REMOVED, DatasetIndex
from schemas.spec import load_spec, parse_spec
from schemas.store.latent_store import LatentStore

N = 90  # two blocks of 64 rows
LEFT = {"evaluate", "report"}  # stages that these runs never make


def spec_of_run(root, **changes):
    spec = spec_of(root)
    del spec["analyse"]["nrsfm"]  # most of the time of a run
    return {**spec, **changes}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished tiny run."""
    root = tmp_path_factory.mktemp("lineage") / "run"
    make_tiny(root, N)
    write_spec(root, spec_of_run(root))
    run_tiny(root / "spec.yaml")
    return root


@pytest.fixture
def root(finished, tmp_path):
    """A copy of it, with the files' times."""
    shutil.copytree(finished, tmp_path / "run", copy_function=shutil.copy2)
    return tmp_path / "run"


def run_json(root):
    return json.loads((root / "out" / "run.json").read_text())


def ran(root, until="analyse"):
    """Run; stage -> its record."""
    run_tiny(root / "spec.yaml", until)
    return {s["name"]: s for s in run_json(root)["stages"]}


def analyses(stages):
    """Analyses that were computed."""
    return {name for name, d in stages["analyse"]["detail"].items() if not d["skipped"]}


def planned(root):
    """Stage -> (state, causes)."""
    found = {}
    for stage in plan_stages(load_spec(root / "spec.yaml")):
        for part in stage:
            found[part.name] = (part.state, "; ".join(part.causes))
    return found


def stale(root):
    return {name for name, (state, _) in planned(root).items() if state != "current"}


def results(root):
    """Every byte of stores and directions of the last run, and the index."""
    out = root / "out"
    names = run_json(root)
    parts = [names["store"], names["directions"]]
    found = {
        f"{i}/{k}": v for i, part in enumerate(parts) for k, v in tree_files(out / part).items()
    }
    return found | {"index": (out / "index.parquet").read_bytes()}


def check_scratch(root, tmp_path):
    """Stores and directions are those of a run from scratch on the same index."""
    fresh = tmp_path / "fresh"
    shutil.copytree(root, fresh, copy_function=shutil.copy2)
    for path in (fresh / "out").iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "index.parquet":
            path.unlink()
    run_tiny(fresh / "spec.yaml")
    ours, scratch = results(root), results(fresh)
    different = sorted(k for k in ours.keys() | scratch.keys() if ours.get(k) != scratch.get(k))
    assert different == []


def factor_rows(numbers):
    return {f"{number:04}.png": factors_of(number) for number in numbers}


def edit(root, **changes):
    spec = spec_of_run(root)
    for section, keys in changes.items():
        spec["analyse"][section] = {**spec["analyse"][section], **keys}
    write_spec(root, spec)


def add(root, first, last):
    """Pictures first .. last - 1, and their factors."""
    for number in range(first, last):
        write_image(root / "images" / f"{number:04}.png", number)
    write_factors(root, factor_rows(range(last)))


# ---- nothing


def test_nothing_changed_and_nothing_moved(root):
    before = tree_digest(root / "out" / "stores"), tree_digest(root / "out" / "directions")
    assert stale(root) == LEFT
    stages = ran(root)
    assert all(stage["skipped"] for stage in stages.values())
    assert before == (
        tree_digest(root / "out" / "stores"),
        tree_digest(root / "out" / "directions"),
    )


def test_renamed_and_touched_files_cost_nothing(root):
    images = root / "images"
    (images / "0007.png").rename(images / "moved.png")
    os.utime(images / "0003.png")
    os.utime(root / "generator.safetensors")
    os.utime(root / "marks.onnx")
    for ending in (".safetensors", ".json"):
        (root / f"generator{ending}").rename(root / f"g{ending}")
    write_spec(root, spec_of_run(root, generator="g.safetensors"))
    assert planned(root)["index"][0] == "current"
    assert stale(root) == LEFT
    stages = ran(root)
    assert all(stage["skipped"] for stage in stages.values())
    assert "moved.png" in DatasetIndex.load(root / "out" / "index.parquet").uris


def test_the_plan_writes_nothing_and_loads_nothing_heavy(root):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    digest = tree_digest(root)
    script = (
        "import sys; from pipelines.cli import main\n"
        "try: main(['plan', sys.argv[1]])\n"
        "except SystemExit as e: status = e.code\n"
        "heavy = {'torch', 'ray', 'apache_beam', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "print(status, sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(root / "spec.yaml")],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
    assert "invert: current: 0 of 2 blocks to invert" in done.stdout
    assert tree_digest(root) == digest
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_the_plan_of_a_first_run_makes_no_folder(tmp_path):
    make_tiny(tmp_path / "run", 12)
    found = planned(tmp_path / "run")
    assert {state for state, _ in found.values()} == {"missing"}
    assert not (tmp_path / "run" / "out").exists()


def test_a_damaged_hash_cache_is_left_as_it_is(root):
    (root / "out" / "hashes.sqlite").write_bytes(b"no database" * 100)
    assert stale(root) == LEFT
    assert (root / "out" / "hashes.sqlite").read_bytes().startswith(b"no database")


# ---- parameters


def test_parameters_of_a_solve_read_no_block(root, tmp_path):
    steps = [
        ("pca", {"n_components": 4}, "parameters.n_components: 6 -> 4"),
        ("mean_difference", {"ridge": 0.5}, "parameters.ridge: 0.001 -> 0.5"),
        ("mean_difference", {"baseline": {}}, "parameters.baseline.expression: calm -> none"),
        ("hosvd", {"energy": 0.6}, "parameters.energy: 0.95 -> 0.6"),
    ]
    changed = {}
    for section, keys, cause in steps:
        changed[section] = {**changed.get(section, {}), **keys}
        edit(root, **changed)
        state, causes = planned(root)[section]
        assert state == "stale" and cause in causes and "blocks" not in causes
        stages = ran(root)
        assert section in analyses(stages) and "svm" not in analyses(stages)
        for name in analyses(stages):
            detail = stages["analyse"]["detail"][name]
            assert (detail["blocks_read"], detail["passes"]) == (0, 0), name
    files = sorted((root / "out" / "statistics").iterdir())
    for file in files[::2]:  # nobody misses them
        file.unlink()
    edit(root, svm={"c": 0.1}, pca={"n_components": 3})
    assert stale(root) == {"analyse", "mean_difference", "hosvd", "pca", "svm"} | LEFT
    stages = ran(root)
    detail = stages["analyse"]["detail"]["svm"]
    assert detail["passes"] > 1  # Newton's passes depend on where they are
    spec = spec_of_run(root)
    del spec["analyse"]["svm"]
    write_spec(root, spec)
    assert "no longer requested" in planned(root)["svm"][1]
    assert not ran(root)["analyse"]["skipped"]
    found = DirectionSet.load(root / "out" / run_json(root)["directions"])
    assert "svm" not in found.model_names() and not [d for d in found if d.method == "svm"]
    assert stale(root) == LEFT
    check_scratch(root, tmp_path)


# ---- images


def test_added_removed_and_changed_images(root, tmp_path):
    add(root, N, N + 7)
    found = planned(root)
    assert "rows 90-96 added" in found["index"][1] and "rows 90-96 added" in found["invert"][1]
    assert found["pca"] == ("stale", "invert: 1 of 2 blocks (rows 64-96)")
    assert "rows 64-96 are inverted again" in found["marks"][1]
    stages = ran(root)
    assert stages["invert"]["detail"]["blocks_done"] == 1
    assert stages["annotate"]["detail"]["blocks_done"] == 1
    assert stale(root) == LEFT

    path = root / "images" / "0070.png"
    content = path.read_bytes()
    path.unlink()
    found = planned(root)
    assert found["invert"][0] == "stale" and "rows 70 removed" in found["invert"][1]
    stages = ran(root)
    assert stages["invert"]["detail"]["blocks_done"] == 1
    assert stages["invert"]["detail"]["counts"]["removed"] == 1

    path.write_bytes(content)  # a row of its own: the one that was removed never comes back
    write_image(root / "images" / "0002.png", 999)
    causes = planned(root)["invert"][1]
    assert "rows 97-98 added" in causes and "rows 2 removed" in causes
    assert ran(root)["invert"]["detail"]["blocks_done"] == 2
    index = DatasetIndex.load(root / "out" / "index.parquet")
    assert index.n_rows == N + 9 and [index.states[r] for r in (2, 70)] == [REMOVED, REMOVED]
    assert index.image_ids[70] in index.image_ids[97:]
    assert {index.uris[97], index.uris[98]} == {"0070.png", "0002.png"}
    check_scratch(root, tmp_path)


def test_a_changed_factor_costs_the_analyses_that_read_it(root):
    rows = factor_rows(range(N))
    rows["0004.png"][1] = "calm"
    write_factors(root, rows)
    found = planned(root)
    assert "factor 'expression'" in found["index"][1]
    assert {n for n in ("pca", "svm") if found[n][0] != "current"} == set()
    assert "factors.expression: " in found["hosvd"][1] and found["hosvd"][0] == "stale"
    stages = ran(root)
    assert stages["invert"]["skipped"] and stages["annotate"]["skipped"]
    assert analyses(stages) == {"mean_difference", "hosvd"}
    table = root / "out" / "annotations.parquet"
    from pandas import read_parquet

    assert read_parquet(table).expression[4] == "calm"  # the table follows the factors


# ---- models


def test_another_annotator_and_another_generator(root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_annotators(other, "more")
    for ending in (".onnx", ".json"):
        shutil.copy(other / f"marks{ending}", root / f"marks{ending}")
    found = planned(root)
    assert found["marks"][0] == "stale" and "annotator: " in found["marks"][1]
    assert found["angle"][0] == "current"
    store = LatentStore.open(root / "out" / run_json(root)["store"])
    before = {stage: store.committed(stage).tobytes() for stage in store.stages()}
    stages = ran(root)
    assert stages["invert"]["skipped"] and analyses(stages) == {"mean_difference", "svm"}
    store.refresh()
    changed = {s for s in before if store.committed(s).tobytes() != before[s]}
    assert changed == {"marks", "marks@render"}

    old = root / "out" / run_json(root)["store"]
    digest = tree_digest(old)
    write_model(root / "generator.safetensors", 5)
    state, causes = planned(root)["invert"]
    assert state == "missing" and "generator_fp: " in causes and old.name in causes
    assert "method." not in causes and "seed" not in causes
    stages = ran(root)
    assert stages["invert"]["detail"]["blocks_done"] == 2
    assert tree_digest(old) == digest
    assert DirectionSet.load(root / "out" / "directions" / old.name).model_names()
    check_scratch(root, tmp_path)


# ---- kill and resume


@pytest.fixture(scope="module")
def grown(finished, tmp_path_factory):
    """What a run makes of one more picture, undisturbed."""
    root = tmp_path_factory.mktemp("grown") / "run"
    shutil.copytree(finished, root, copy_function=shutil.copy2)
    add(root, N, N + 1)
    run_tiny(root / "spec.yaml")
    check_scratch(root, root.parent)
    return results(root)


@pytest.mark.parametrize("at", [1, 6, 12])
def test_killed_between_two_writes_of_the_analyses(root, grown, monkeypatch, at):
    """Statistics and models: whatever was written last, the next run ends where it would have."""
    add(root, N, N + 1)
    run_tiny(root / "spec.yaml", "annotate")
    count = iter(range(at))

    def dying(real):
        def write(*arguments, **keys):
            if next(count, None) is None:
                raise KeyboardInterrupt
            return real(*arguments, **keys)

        return write

    import pipelines.engine.saved_sums

    with monkeypatch.context() as patched:
        real = pipelines.engine.saved_sums.write_bytes
        patched.setattr(pipelines.engine.saved_sums, "write_bytes", dying(real))
        for name in ("save", "save_model"):
            patched.setattr(DirectionSet, name, dying(getattr(DirectionSet, name)))
        with pytest.raises(KeyboardInterrupt):
            run_tiny(root / "spec.yaml")
    ran(root)
    assert stale(root) == LEFT
    assert results(root) == grown


def test_models_name_the_statistics_they_rest_on(root):
    found = DirectionSet.load(root / "out" / run_json(root)["directions"])
    there = {file.stem for file in (root / "out" / "statistics").iterdir()}
    named = {
        name for model in found.model_names() for name in found.model_facts(model)["statistics"]
    }
    assert named == there


# ---- the pieces


def test_changes_say_from_what_to_what():
    fp, other = "ab" * 32, "cd" * 32
    old = {"a": {"b": 1, "c": [1]}, "fp": fp, "blocks": {"invert": ["x", "y", "z"]}}
    new = {
        "a": {"b": 2, "c": [1], "d": "e"},
        "fp": other,
        "blocks": {"invert": ["x", "n", "z", "w"]},
    }
    assert changes(old, new, 10, 33) == [
        "a.b: 1 -> 2",
        "a.d: none -> e",
        "fp: abababababab -> cdcdcdcdcdcd",
        "invert: 2 of 4 blocks (rows 10-19, 30-32)",
    ]
    assert changes(old, old, 10, 33) == []
    assert changes({"a": 1}, {}, 1, 1) == ["a: 1 -> none"]
    long = [f"a note of some length {i}" for i in range(9)]
    assert changes({"a": long}, {"a": [*long[1:], "b"]}, 1, 1) == [f'a: ["{long[0]}"] -> ["b"]']
    assert changes({"a": long}, {"a": long[::-1]}, 1, 1)[0].startswith(
        'a: ["a note of some length 0'
    )
    assert changes({"blocks": {"m": ["x"]}}, {"blocks": {}}, 1, 1) == ["m: no longer read"]
    assert changes({"blocks": {}}, {"blocks": {"m": ["x"]}}, 5, 5) == [
        "m: 1 of 1 blocks (rows 0-4)"
    ]


def test_rows_and_values_on_one_line():
    assert rows_of([0, 1, 4], 10, 45) == "rows 0-19, 40-44"
    assert row_spans(np.array([3, 7, 8, 9])) == "rows 3, 7-9"
    assert row_spans(np.arange(0, 60, 2)).endswith("22, 18 more ranges")
    assert shown("x" * 100).endswith("...") and len(shown("x" * 100)) == 60
    assert shown({"a": [1.5, None]}) == '{"a": [1.5, null]}'


@pytest.mark.parametrize("content", ["", "[1]", "{", "null"])
def test_a_damaged_note_is_no_note(root, content):
    note = root / "out" / "lineage.json"
    note.write_text(content)
    assert read_lineage(root / "out") == {}
    assert stale(root) == LEFT
    if content:
        return
    ran(root)
    assert set(read_lineage(root / "out")) == {"index", "invert", "annotate", "table"}


def test_notes_are_kept_side_by_side(tmp_path):
    note_lineage(tmp_path, a=1)
    note_lineage(tmp_path, b={"c": 2})
    assert read_lineage(tmp_path) == {"a": 1, "b": {"c": 2}}
    stamp = (tmp_path / "lineage.json").stat().st_mtime_ns
    note_lineage(tmp_path, a=1)
    assert (tmp_path / "lineage.json").stat().st_mtime_ns == stamp


def test_the_printed_tree(root):
    edit(root, pca={"n_components": 4})
    text = io.StringIO()
    plan(load_spec(root / "spec.yaml"), Console(file=text, width=120))
    lines = [line.strip("│├└─ ") for line in text.getvalue().splitlines()]
    at = lines.index("pca: stale")
    assert lines[at + 1] == "parameters.n_components: 6 -> 4"
    assert "svm: current" in lines and "evaluate: missing" in lines
    assert Path(root / "out" / "stores").exists()


def test_a_report_of_before_is_current_where_there_is_nothing_new_to_tell(tmp_path):
    """Earlier releases noted neither what was left out nor notes."""
    spec = parse_spec("name: a\ndataset: {path: x}\n", tmp_path)
    index = DatasetIndex.empty()
    before = {k: v for k, v in report_inputs(spec, index, tmp_path, {}).items() if "." not in k}
    nothing = report_inputs(spec, index, tmp_path, {"left_out": [], "notes": []})
    assert nothing == before
    something = report_inputs(spec, index, tmp_path, {"notes": ["x"]})
    assert changes(before, something, 1, 0) == ['dataset.notes: none -> ["x"]']
