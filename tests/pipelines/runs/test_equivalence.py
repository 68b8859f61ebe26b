"""Edits and runs end where a run from scratch on the same index ends."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from digests import tree_digest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from smoke import smoke
from tiny_run import factors_of, run_tiny

from benchmarks.equivalence import (
    EDITS,
    NOTHING_NEW,
    World,
    anything_done,
    differences,
    from_scratch,
)
from schemas.directions.direction_set import FOREIGN_METHODS, DirectionSet, unit_direction


def directions(root: Path) -> DirectionSet:
    facts = json.loads((root / "out/run.json").read_text())
    return DirectionSet.load(root / "out" / facts["directions"])


def test_any_edits_then_runs_equal_a_run_from_scratch(tiny):
    class Edits(RuleBasedStateMachine):
        """The world, after each edit run; compared when the example ends."""

        world: World | None = None

        @initialize(seed=st.integers(0, 999))
        def begin(self, seed):
            self.folder = tempfile.TemporaryDirectory(prefix="edits-")
            self.world = World.begin(tiny, Path(self.folder.name) / "world", [seed])
            self.said, _ = self.world.run()

        @rule(kind=st.sampled_from(sorted(EDITS)))
        def edit(self, kind):
            before = self.said
            self.world.edit(kind)
            self.said, _ = self.world.run()
            if kind in NOTHING_NEW and before in ("0", "3"):
                assert anything_done(self.world.root / "out") == []

        def teardown(self):
            if self.world is None:
                return
            scratch, expected, _ = from_scratch(self.world)
            assert differences(self.world, self.said, scratch, expected) == []
            self.folder.cleanup()

    few = settings(
        max_examples=2,
        stateful_step_count=3,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Edits, settings=few)


def test_the_benchmark_s_smoke_run_finds_no_difference():
    printed, result = smoke("equivalence")
    assert result["error"] == 0 and result["sequences"] == 3 and result["edits"] >= 3
    assert "0 sequences differ" in printed


@pytest.fixture
def world(tiny: Path, tmp_path: Path) -> World:
    return World.begin(tiny, tmp_path / "world", [0])


def test_a_difference_would_be_noticed(world):
    said, _ = world.run()
    scratch, expected, _ = from_scratch(world)
    assert differences(world, said, scratch, expected) == []
    store = scratch / json.loads((scratch / "run.json").read_text())["store"]
    (store / "quality/psnr/c/1").write_bytes(b"other")
    shutil.rmtree(scratch / json.loads((scratch / "run.json").read_text())["directions"] / "models")
    found = differences(world, said, scratch, expected)
    assert "store: quality/psnr/c/1" in found and any("models/pca" in text for text in found)
    assert "ended" in differences(world, said, scratch, "data")[0]


def test_an_analysis_that_is_no_longer_asked_for_leaves_nothing_behind(world):
    del world.spec["analyse"]["hosvd"]
    world.edit("touch")
    world.run()
    held = directions(world.root)
    assert "hosvd" not in held.model_names()
    assert not [n for n in held.names() if n.startswith("hosvd.")]
    assert [n for n in held.names() if n.startswith("mean.")]


def test_the_table_of_annotations_follows_the_factors_and_the_names(world):
    world.factors["0005.png"] = [*factors_of(5)[:1], "calm", *factors_of(5)[2:]]
    (world.root / "images/0006.png").rename(world.root / "images/z6.png")
    world.edit("touch")
    run_tiny(world.root / "spec.yaml", "annotate")
    table = pd.read_parquet(world.root / "out/annotations.parquet")
    assert table.expression[5] == "calm" and table.uri[6] == "z6.png"


def test_renders_that_are_no_longer_made_are_no_longer_read(world):
    """Nothing keeps the former ones up to date."""
    for model in world.spec["annotate"]:
        model["render"] = False
    world.edit("touch")
    world.run()
    facts = directions(world.root).load_model("nrsfm")[1]
    assert facts["landmarks"] == "landmarks/points"


@pytest.mark.parametrize("method", FOREIGN_METHODS)
def test_foreign_directions_survive_a_kill_while_the_set_is_saved(world, method):
    world.run()
    held = directions(world.root)
    shape = next(iter(held)).vector.shape
    held.add(unit_direction("theirs", "w_plus", np.ones(shape), method=method, sd=1.0))
    held.save(held.path)
    whole = tree_digest(Path(held.path))
    attrs = json.loads((Path(held.path) / "zarr.json").read_text())
    attrs["attributes"]["complete"] = False  # as a kill leaves it, in the middle of one of ours
    (Path(held.path) / "zarr.json").write_text(json.dumps(attrs))
    (Path(held.path) / "directions/mean.expression-glad/c/0/0").write_bytes(b"half")
    world.run()
    assert "theirs" in directions(world.root) and tree_digest(Path(held.path)) == whole
