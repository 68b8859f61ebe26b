"""Drift: planted changes of a model, the rule, whole runs compared, and the page."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from drift_fixture import TwoRuns, two_runs

from pipelines.cli import main
from pipelines.compare.diff import diff, print_diff, spaces_facts, summarise
from pipelines.compare.page import render_drift
from pipelines.compare.trial import (
    REFUSED,
    SURVIVES,
    UNKNOWN,
    Rule,
    Side,
    angles_of_groups,
    compare,
    mapped_direction,
    on_trial,
)
from pipelines.compare.two_runs import ComparedRun, Pairs
from pipelines.evaluation.meter import Meter, Sweep
from pipelines.evaluation.samples import Samples
from schemas.directions.direction_set import Direction, DirectionSet
from schemas.errors import DataError, DirectionMismatchError, InputError, StoreError, UsageError
from tests.fakes import FakeGenerator, spaces_of
from transforms.directions.algebra import principal_angles
from transforms.drift.latent_maps import AffineMap, LatentMap
from transforms.drift.verdict import judge, mean_and_error

# ---- the rule ------------------------------------------------------------------------------------


def around(mean, spread=0.1):
    """16 changes with this mean and exactly this standard error."""
    unit = np.tile([-1.0, 1.0], 8) * np.sqrt(15)
    return mean + spread * unit


@pytest.mark.parametrize(
    ("reused", "reference", "survives", "reason"),
    [
        (0.6, 1.0, True, "60%"),
        (0.51, 1.0, True, "51%"),
        (0.49, 1.0, False, "49%"),
        (0.19, 0.2, False, "noise"),
        (-0.5, 1.0, False, "opposite"),
        (0.3, 0.1, True, "nothing better"),
        (0.3, -1.0, True, "nothing better"),
        (0.0, 0.0, False, "noise"),
    ],
)
def test_the_rule_as_it_is_stated(reused, reference, survives, reason):
    verdict = judge(around(reused), around(reference))
    assert verdict.survives is survives and reason in verdict.reason
    assert (verdict.effect, verdict.noise) == pytest.approx((reused, 0.1))
    beyond = reference > 0.2
    assert verdict.share == (pytest.approx(reused / reference) if beyond else None)


def test_errors_of_means_are_the_usual_ones(rng):
    x = rng.normal(size=40)
    assert mean_and_error(x) == pytest.approx((x.mean(), np.sqrt(x.var(ddof=1) / 40)))
    for bad in (np.zeros(1), np.array([1.0, np.nan]), np.zeros((2, 2))):
        with pytest.raises(DataError, match="at least 2 samples"):
            mean_and_error(bad)


# ---- planted models ------------------------------------------------------------------------------


class GreyGenerator(FakeGenerator):
    """Draws a flat picture whose grey is one coordinate of the code, times a gain."""

    spaces = spaces_of({"w": (3,)})

    def __init__(self, fingerprint: str, axis: int, gain: float = 1.0) -> None:
        self.fingerprint, self.axis, self.gain = fingerprint, axis, gain

    def paint(self, codes, space):
        return self.gain * codes[:, self.axis, None]


class GreyAnnotator:
    """Scores how bright a picture is, and its opposite, from 0 to 1."""

    fingerprint, kind, name, names = "a" * 64, "scores", "grey", ["bright", "dark"]

    def annotate(self, images):
        grey = images.reshape(len(images), -1).mean(axis=1) / 255
        return np.stack([grey, 1 - grey], axis=1).astype(np.float32)


OLD, NEW = "1" * 64, "2" * 64


def planted(name, axis, fp, target, sd=0.2, method="svm"):
    vector = np.eye(3)[axis]
    return Direction(name, "w", vector, None, method, sd,
                     provenance={"target": target, "generator_fp": fp})  # fmt: skip


def side(fp, codes, axis, directions, gain=1.0, measured=True):
    annotators = [GreyAnnotator()] if measured else []
    meter = Meter(GreyGenerator(fp, axis, gain), annotators)
    return Side(DirectionSet(fp, "w", directions), Samples("w", codes), meter)


@pytest.fixture
def codes(rng):
    return rng.uniform(-0.2, 0.2, size=(10, 3)).astype(np.float32)


def old_side(codes):
    return side(OLD, codes, 0, [
        planted("svm.bright", 0, OLD, "bright"),
        planted("svm.dark", 1, OLD, "dark"),
        planted("pca.000", 0, OLD, None, method="pca"),
        planted("pca.001", 1, OLD, None, method="pca"),
    ])  # fmt: skip


def by_name(found):
    return {entry["name"]: entry for entry in found.entries}


def test_an_unchanged_model_keeps_what_had_an_effect(codes):
    new = [planted("svm.bright", 0, NEW, "bright"), planted("pca.000", 1, NEW, None)]
    found = by_name(compare(old_side(codes), side(NEW, codes, 0, new)))
    bright = found["svm.bright"]
    assert bright["verdict"] == SURVIVES and bright["cosine"] == 1.0
    assert bright["share"] == pytest.approx(1.0) and bright["held_out"]["agrees"]
    # grey goes from x to x + 2 sd of 0.2, in a range of 2
    for trial in ("old", "reused", "new"):
        assert bright["effects"][trial]["mean"] == pytest.approx(0.2, abs=0.01)
    assert bright["side_effect"] == {"attribute": "dark", "change": pytest.approx(-0.2, abs=0.01)}
    assert found["svm.dark"]["verdict"] == REFUSED and not found["svm.dark"]["in_new"]
    # a component is judged by what it did in the old model: which one is new says nothing
    assert found["pca.000"]["verdict"] == SURVIVES and found["pca.000"]["cosine"] == 0.0
    assert found["pca.000"]["reference"] == "old"
    assert (
        found["pca.001"]["verdict"] == UNKNOWN and "changed nothing" in found["pca.001"]["reason"]
    )


@pytest.mark.parametrize(
    ("axis", "gain", "verdict", "reason"),
    [
        (0, 0.6, SURVIVES, "100%"),
        (1, 1.0, REFUSED, "noise"),
        (0, -1.0, REFUSED, "opposite"),
    ],
)
def test_a_changed_model_is_judged_against_the_new_direction(codes, axis, gain, verdict, reason):
    again = Direction("svm.bright", "w", np.sign(gain) * np.eye(3)[axis], None, "svm", 0.2,
                      provenance={"target": "bright"})  # fmt: skip
    found = compare(old_side(codes), side(NEW, codes, axis, [again], gain))
    bright = by_name(found)["svm.bright"]
    assert (bright["verdict"], bright["reference"]) == (verdict, "new")
    assert reason in bright["reason"]
    assert set(found.strips) >= {f"svm.bright/{t}" for t in ("old", "reused", "new")}
    assert found.strips["svm.bright/new"].shape == (3, 3, 8, 8, 3)
    shades = found.strips["svm.bright/new"][0, :, 0, 0, 0].astype(int)
    assert shades[0] < shades[1] < shades[2]


def test_a_turned_space_is_compared_after_the_map(codes):
    turn = np.eye(3)[[1, 2, 0]]  # new coordinate i is old coordinate (1, 2, 0)[i]
    link = LatentMap("rotation", (AffineMap(turn, np.zeros(3), np.zeros(3)),), (3,), (3,))
    new = side(NEW, codes @ turn.T.astype("f4"), 2, [planted("svm.bright", 2, NEW, "bright")])
    found = compare(old_side(codes), new, link)
    bright = by_name(found)["svm.bright"]
    assert (bright["cosine"], bright["cosine_mapped"]) == (0.0, 1.0)
    assert bright["verdict"] == REFUSED and bright["share"] == pytest.approx(0, abs=1e-9)
    assert bright["effects"]["mapped"]["mean"] == bright["effects"]["old"]["mean"]
    np.testing.assert_array_equal(found.strips["svm.bright/mapped"], found.strips["svm.bright/old"])


def test_angles_of_groups_are_those_of_their_spans(rng):
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0].T
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    angle = 0.3
    after = [basis[0], np.cos(angle) * basis[1] + np.sin(angle) * basis[2]]

    def directions(fp, vectors):
        return DirectionSet(fp, "w", [
            Direction(f"pca.{i:03d}", "w", v, None, "pca", 1.0) for i, v in enumerate(vectors)
        ])  # fmt: skip

    link = LatentMap("rotation", (AffineMap(turn, np.zeros(6), np.zeros(6)),), (6,), (6,))
    old, new = directions(OLD, basis[:2]), directions(NEW, [turn @ v for v in after])
    (group,) = angles_of_groups(old, new, link)
    np.testing.assert_allclose(group["angles_mapped"], [0, np.degrees(angle)], atol=1e-6)
    plain = np.degrees(principal_angles(basis[:2], np.stack([turn @ v for v in after])))
    np.testing.assert_allclose(group["angles"], plain)
    assert angles_of_groups(old, directions(NEW, [basis[0]])) == []


def test_what_cannot_be_measured_is_not_called_surviving(codes):
    new = [planted("svm.bright", 0, NEW, "bright")]
    bare = compare(side(OLD, codes, 0, [planted("svm.bright", 0, OLD, "bright")], measured=False),
                   side(NEW, codes, 0, new, measured=False))  # fmt: skip
    assert [e["verdict"] for e in bare.entries] == [UNKNOWN]
    gone = Side(old_side(codes).directions, Samples("w", codes), None)
    found = by_name(compare(gone, side(NEW, codes, 0, new)))
    assert (
        found["svm.bright"]["verdict"] == SURVIVES and "old" not in found["svm.bright"]["effects"]
    )
    assert found["pca.000"]["verdict"] == UNKNOWN
    with pytest.raises(UsageError, match="same samples"):
        compare(old_side(codes), side(NEW, codes[:4], 0, new))
    with pytest.raises(UsageError, match="strength is 0"):
        Rule(strength=0)


def test_another_space_is_refused_with_both_shapes(rng, codes):
    wide = rng.normal(size=(10, 2, 3)).astype("f4")

    class Wide(GreyGenerator):
        spaces = spaces_of({"w_plus": (2, 3)})

        def paint(self, codes, space):
            return codes[:, 0, :1]

    meter = Meter(Wide(NEW, 0), [GreyAnnotator()])
    new = Side(DirectionSet(NEW, "w_plus"), Samples("w_plus", wide), meter)
    entry = compare(old_side(codes), new).entries[0]
    assert entry["verdict"] == REFUSED
    assert "'w' (3,)" in entry["reason"] and "'w_plus' (2, 3)" in entry["reason"]


def test_a_direction_of_a_space_that_is_not_stored_is_not_tried(codes):
    other = dataclasses.replace(planted("svm.bright", 0, OLD, "bright"), space="z")
    old, new = side(OLD, codes, 0, [other]), side(NEW, codes, 0, [])
    link = LatentMap("linear", (AffineMap(np.eye(3), np.zeros(3), np.zeros(3)),), (3,), (3,))
    entry = compare(old, new, link).entries[0]
    assert entry["verdict"] == REFUSED and "is of space 'z'" in entry["reason"]
    assert angles_of_groups(old.directions, old.directions) == []


def test_trials_do_not_loosen_the_refusal(codes):
    direction = planted("svm.bright", 0, OLD, "bright")
    trial = on_trial(direction, NEW)
    assert trial.provenance["trial_of"] == OLD and direction.provenance["generator_fp"] == OLD
    zero = LatentMap("linear", (AffineMap(np.zeros((3, 3)), np.zeros(3), np.zeros(3)),), (3,), (3,))
    with pytest.raises(DataError, match="to zero"):
        mapped_direction(direction, zero, NEW)
    with pytest.raises(DirectionMismatchError, match=f"{NEW}.*{OLD}.*latentflow transfer"):
        old_side(codes).meter.edited(Samples("w", codes), [Sweep(trial, (1.0,))])
    with pytest.raises(DirectionMismatchError, match=f"{OLD}.*{NEW}.*latentflow transfer"):
        side(NEW, codes, 0, []).meter.edited(Samples("w", codes), [Sweep(direction, (1.0,))])


# ---- whole runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> TwoRuns:
    return two_runs(tmp_path_factory.mktemp("drift"))


@pytest.fixture
def mine(runs, tmp_path) -> TwoRuns:
    """Copies that the test may change; specifications name their own folders."""
    found = {}
    for name in ("old", "new"):
        folder = tmp_path / name
        shutil.copytree(getattr(runs, name).parent, folder)
        found[name] = folder / "run.yaml"
    return TwoRuns(found["old"], found["new"], runs.turn, runs.codes, runs.order)


@pytest.fixture(scope="module")
def compared(runs):
    sides = ComparedRun.open(runs.old), ComparedRun.open(runs.new)
    return (*diff(*sides, samples=24), sides)


def test_runs_are_paired_by_image_and_linked_by_the_planted_rotation(runs, compared):
    result, strips, (old, new) = compared
    pairs = Pairs.of(old, new)
    usable = [row for row in range(len(runs.order) - 1) if runs.order[row] != len(runs.codes) - 1]
    assert pairs.rows.tolist() == usable
    np.testing.assert_array_equal(pairs.partner[usable], runs.order[usable])
    choice, _ = pairs.link()
    assert choice.relation == "rotation" and choice.error < 1e-6
    assert choice.fitted + choice.held_out == len(usable)
    for part in choice.chosen.parts:
        np.testing.assert_allclose(part.matrix, runs.turn, atol=1e-5)
    assert result["spaces"]["relation"] == "rotation" and "Procrustes" in result["spaces"]["text"]
    assert result["samples"] == {"source": "images of both runs", "evidence": 12, "held_out": 12}
    json.dumps(result)


def test_a_turned_model_s_directions_are_recognised(compared):
    result, strips, _ = compared
    found = {e["name"]: e for e in result["directions"]}
    for entry in found.values():
        assert entry["cosine_mapped"] == pytest.approx(1.0, abs=1e-6)
        assert entry["cosine"] < 0.9
        assert entry["effects"]["mapped"]["mean"] == pytest.approx(
            entry["effects"]["old"]["mean"], rel=0.02, abs=1e-3
        )
    smile = found["svm.smile"]
    assert smile["effects"]["new"]["mean"] > 0 and smile["measure"] == "smile"
    # 'tilt' is turned back in the old space: used as it is, in the new one, it is 'smile' again
    assert result["survive"] + result["must_not_be_reused"] == 3
    assert np.ptp(strips["svm.smile/mapped"].astype(int) - strips["svm.smile/old"]) <= 2
    (group,) = [g for g in result["groups"] if g["method"] == "svm"]
    assert max(group["angles_mapped"]) < 1e-3 < max(group["angles"])


def test_the_command_prints_json_table_and_page(runs, tmp_path, capsys):
    def command(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        return end.value.code, capsys.readouterr()

    code, out = command("diff", runs.old_run, runs.new, "--samples", 8, "--json")
    assert code == 0 and json.loads(out.out)["new"]["name"] == "new"
    given = runs.new_run / "directions" / "new-0123456789ab"
    code, out = command("diff", runs.old, given, "--samples", 8, "--out", tmp_path / "page")
    assert code == 0 and "must not be reused" in out.out and "svm.smile" in out.out
    page = (tmp_path / "page" / "drift.html").read_text()
    assert page.count("data:image/jpeg") == 12 and "<script" not in page
    assert json.loads((tmp_path / "page" / "drift.json").read_text())["version"] == 1
    code, out = command(
        "diff", runs.old, runs.new, "--old-generator", runs.new.parent / "g.safetensors"
    )
    assert code == 1 and "direction_mismatch" in out.err
    code, out = command("diff", runs.old.parent, runs.new)
    assert code == 1 and "neither a specification" in out.err


def test_the_page_escapes_and_repeats(compared):
    result, strips, _ = compared
    evil = json.loads(json.dumps(result))
    evil["old"]["name"] = "<script>alert(1)</script>"
    evil["directions"][0]["measure"] = '"><img src=x onerror=alert(2)>'
    page = render_drift(evil, strips)
    assert "<script" not in page and "<img src=x" not in page and "&lt;script&gt;" in page
    assert "default-src 'none'" in page and not re.search(r'(src|href)="(?!data:|#)', page)
    assert render_drift(result, strips) == render_drift(result, strips)
    assert page.index('id="direction-') and "latentflow transfer" in page


def test_a_generator_that_moved_on_is_named_and_not_drawn(mine, tmp_path, capsys):
    kept = tmp_path / "kept.safetensors"
    for suffix in (".safetensors", ".json"):
        shutil.copy(mine.old.parent / f"g{suffix}", kept.with_suffix(suffix))
    facts = json.loads((mine.old_run / "run.json").read_text())
    facts["spec"]["generator"] = str(mine.new.parent / "g.safetensors")
    (mine.old_run / "run.json").write_text(json.dumps(facts))
    old, new = ComparedRun.open(mine.old), ComparedRun.open(mine.new)
    assert old.generator_uri is None and "of another" in old.generator_absent
    result, strips = diff(old, new, samples=8)
    assert not [name for name in strips if name.endswith("/old")]
    assert str(tmp_path) not in json.dumps(result)
    assert "Not drawn" in render_drift(result, strips)
    again = ComparedRun.open(mine.old, str(kept))
    assert again.generator_uri == str(kept) and again.generator_absent == ""


def test_runs_without_common_images_are_sampled_from_the_priors(mine, capsys):
    from schemas.index import DatasetIndex, NewRow

    n = DatasetIndex.load(mine.new_run / "index.parquet").n_rows
    others = [NewRow(f"{row + 900:064x}", f"{row}.png") for row in range(n)]
    DatasetIndex.empty().append(others).save(mine.new_run / "index.parquet")
    result, _ = diff(ComparedRun.open(mine.old), ComparedRun.open(mine.new), samples=8)
    assert result["samples"]["source"].startswith("draws from both priors")
    assert result["spaces"]["relation"] is None and "too few" in result["spaces"]["text"]
    assert "cosine_mapped" not in result["directions"][0]
    from rich.console import Console

    print_diff(result, Console(width=150))
    assert "Not linked" in capsys.readouterr().out
    with pytest.raises(UsageError, match="samples is 4"):
        diff(ComparedRun.open(mine.old), ComparedRun.open(mine.new), samples=4)


def test_runs_that_are_not_finished_are_refused(mine):
    facts = json.loads((mine.old_run / "run.json").read_text())
    (mine.old_run / "run.json").write_text(json.dumps({**facts, "directions": None}))
    with pytest.raises(StoreError, match="did not get as far as directions"):
        ComparedRun.open(mine.old)
    (mine.old_run / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"no readable 'run.json'"):
        ComparedRun.open(mine.old_run)


def test_summaries_count_verdicts(codes):
    sides = old_side(codes), side(NEW, codes, 0, [planted("extra", 2, NEW, None)])
    found = compare(*sides)
    result = summarise(({}, {}), sides, spaces_facts(None, "why", 0), Rule(), "x", found)
    assert result["only_new"] == ["extra"] and not result["same_generator"]
    assert result["survive"] == sum(e["verdict"] == SURVIVES for e in found.entries) == 2
    assert result["confirmed"] == [3, 3]
    assert result["rule"]["share"] == 0.5 and "50%" in result["rule"]["text"]
