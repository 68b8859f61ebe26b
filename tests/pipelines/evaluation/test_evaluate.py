"""Measuring directions: the statistics against scipy and planted effects."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from pipelines.analyses.inputs import hold_out
from pipelines.evaluation.meter import (
    Meter,
    describe_effect,
    evaluate_directions,
    spearman,
)
from pipelines.evaluation.sample_rows import sample_rows, stratified
from pipelines.evaluation.samples import Samples
from schemas.directions.direction_set import Direction, DirectionSet
from schemas.errors import DataError, UsageError
from schemas.index import DatasetIndex, NewRow, encode_categories
from schemas.spec import RunSpec
from tests.fakes import FakeGenerator


class BrightnessGenerator(FakeGenerator):
    """Draws a flat picture whose grey is the code's first coordinate."""

    def paint(self, codes, space):
        return codes.reshape(len(codes), -1)[:, :1]


class GreyAnnotator:
    """Scores: how bright, and its opposite; as an angle: brightness times ten."""

    fingerprint = "a" * 64

    def __init__(self, kind: str, names: list[str]) -> None:
        self.kind, self.names, self.name = kind, names, kind

    def annotate(self, images):
        grey = images.reshape(len(images), -1).mean(axis=1) / 255
        table = [grey, 1 - grey] if self.kind == "scores" else [10 * grey]
        return np.stack(table, axis=1).astype(np.float32)


def direction(name: str, axis: int, target: str | None, sd: float = 0.25) -> Direction:
    vector = np.zeros(3)
    vector[axis] = 1.0
    return Direction(name, "w", vector, None, "planted", sd, provenance={"target": target})


@pytest.fixture
def meter() -> Meter:
    annotators = [GreyAnnotator("scores", ["bright", "dark"]), GreyAnnotator("pose", ["tilt"])]
    return Meter(BrightnessGenerator(), annotators, batch_size=7)


def test_planted_effects_are_measured(meter):
    codes = np.zeros((20, 3), np.float32)
    directions = DirectionSet(
        "f" * 64, "w", [direction("up", 0, "bright"), direction("none", 1, "bright")]
    )
    effects = evaluate_directions(meter, directions, Samples("w", codes), [-2, 2], strip_rows=3)
    (up, strip), (none, _) = effects["up"], effects["none"]
    # grey goes from 0.5 to 0.75 at +2 sd of 0.25, in a range of 2
    assert up["mean_change"]["bright"] == pytest.approx(0.25, abs=0.01)
    assert up["largest_other"] == {"attribute": "dark", "change": pytest.approx(-0.25, abs=0.01)}
    assert up["rise_fraction"] == 0.0 and none["mean_change"]["bright"] == 0.0
    assert up["pose"]["tilt"] == pytest.approx([2.5, 5.0, 7.5], abs=0.1)
    assert strip.shape == (3, 3, 8, 8, 3)
    assert strip[0, 1].mean() < strip[0, 2].mean()


class Clock:
    """An embedding on the circle: an angle of the picture's grey; no face in white."""

    fingerprint, kind, name, names = "b" * 64, "embedding", "clock", ["x", "y"]

    def annotate(self, images):
        grey = images.reshape(len(images), -1).mean(axis=1) / 255
        found = np.stack([np.cos(grey), np.sin(grey)], axis=1)
        return np.where(grey[:, None] > 0.99, np.nan, found).astype(np.float32)


def test_an_embedding_tells_how_much_of_the_picture_an_edit_keeps():
    codes = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0.75, 0, 0]], np.float32)
    meter = Meter(BrightnessGenerator(), [GreyAnnotator("scores", ["bright", "dark"]), Clock()], 2)
    directions = DirectionSet("f" * 64, "w", [direction("up", 0, "bright")])
    effects = evaluate_directions(meter, directions, Samples("w", codes), [-1, 1], strip_rows=1)
    row, _ = effects["up"]
    # grey moves by 0.125 for 1 sd of 0.25 in a range of 2; the last picture ends white
    assert row["likeness"]["clock"]["mean"] == pytest.approx(
        [np.cos(0.125), 1, np.cos(0.125)], abs=1e-3
    )
    assert row["likeness"]["clock"]["pairs"] == 2
    assert meter.names("embedding") == ["clock"] and "clock" not in row["pairs"]
    assert set(row["scores"]) == {"bright", "dark"} and "largest_other" in row


def test_the_rise_counts_samples_that_can_rise():
    scores = {"a": np.array([[0.1, 0.5], [0.9, 1.0], [0.2, 0.3], [0.6, 0.95]])}
    row = describe_effect(direction("d", 0, "a"), [0.0, 2.0], scores, {})
    assert row["rise_fraction"] == 0.5
    assert row["rise_fraction_of_possible"] == pytest.approx(2 / 3)
    assert row["samples_that_could_rise"] == 3


def test_quantities_are_measured_on_their_own_scale():
    widths = np.array([[1.0, 2.0, 4.0], [10.0, 30.0, np.nan]])
    row = describe_effect(direction("d", 0, "width"), [-2.0, 0.0, 2.0], {}, {}, {"width": widths})
    assert row["quantities"] == {"width": [5.5, 16.0, 4.0]}
    assert row["quantities_change"] == {"width": 2.0} and row["pairs"] == {"width": 1}
    assert row["spearman"] == {"width": 1.0}
    assert "quantities" not in describe_effect(direction("d", 0, "a"), [0.0, 2.0], {}, {})


def test_an_angle_s_rank_correlation_is_scipy_s(rng):
    values = rng.normal(size=(6, 5)).round(1)
    strengths = [-2.0, -1.0, 0.0, 1.0, 2.0]
    wanted = [spearmanr(strengths, row).statistic for row in values]
    assert spearman(strengths, values) == pytest.approx(wanted)
    assert spearman(strengths, np.ones((1, 5)))[0] == 0.0


def test_prior_codes_do_not_depend_on_how_many_are_drawn():
    generator = BrightnessGenerator()
    many, few = (Samples.of_prior(generator, "w", n, 5, 0.5).codes for n in (9, 4))
    assert np.array_equal(many[:4], few) and few[:, 0].tolist() == [2.5, 3.0, 3.5, 4.0]
    assert Samples.of_prior(generator, "w_plus", 2, 0, 1.0).codes.shape == (2, 2, 3)
    with pytest.raises(UsageError, match="'s'"):
        Samples.of_prior(generator, "s", 2, 0, 1.0)


def test_whole_levels_are_held_out():
    index = DatasetIndex.empty().append([NewRow(f"{i:064d}", f"{i}.png") for i in range(60)])
    people = [f"p{i % 10}" for i in range(60)]
    index = index.with_factors({"person": encode_categories(people, None, "string")})
    held = hold_out(index, "person", 0.3, seed=1)
    assert {people[i] for i in np.flatnonzero(held)}.isdisjoint(
        people[i] for i in np.flatnonzero(~held)
    )
    assert held.sum() == 18 and not np.array_equal(held, hold_out(index, "person", 0.3, seed=2))
    assert hold_out(index, None, 0.25, seed=1).sum() == 15


def people_index(n: int = 60) -> DatasetIndex:
    index = DatasetIndex.empty().append([NewRow(f"{i:064d}", f"{i}.png") for i in range(n)])
    moods = ["glad" if i % 4 == 0 else "calm" for i in range(n)]
    return index.with_factors(
        {
            "person": encode_categories([f"p{i % 10}" for i in range(n)], None, "string"),
            "mood": encode_categories(moods, None, "string"),
            "view": encode_categories(["left", "right"] * (n // 2), None, "string"),
        }
    )


def sampling(**evaluate) -> RunSpec:
    return RunSpec.model_validate(
        {
            "name": "x",
            "dataset": {"path": "images"},
            "generator": "bundled:faces64",
            "evaluate": evaluate,
            "output": "out",
        }
    )


def test_samples_hold_the_levels_in_the_proportions_of_the_rows():
    index, rows = people_index(), np.arange(60)
    mood = index.categorical("mood")[0]
    holdout = {"factor": "person", "fraction": 0.4}
    held = hold_out(index, "person", 0.4, seed=0)
    of_mood = np.bincount(mood[held], minlength=2) / held.sum()
    for seed in range(20):
        spec = sampling(stratify=["mood"], holdout=holdout, seed=seed)
        held = hold_out(index, "person", 0.4, seed=seed)
        of_mood = np.bincount(mood[held], minlength=2) / held.sum()
        chosen = sample_rows(index, rows, spec, 12, stream=23)
        assert held[chosen].all() and len(set(chosen.tolist())) == 12
        assert np.abs(np.bincount(mood[chosen], minlength=2) - 12 * of_mood).max() < 1
        np.testing.assert_array_equal(chosen, sample_rows(index, rows, spec, 12, stream=23))
    both = sampling(stratify=["mood", "view"], holdout={"fraction": 0})
    chosen = sample_rows(index, rows, both, 32, stream=23)
    view = index.categorical("view")[0]
    pairs = np.unique(np.stack([mood[chosen], view[chosen]]), axis=1, return_counts=True)[1]
    assert sorted(pairs.tolist()) == [8, 8, 16]  # 15, 15 and 30 of 60 rows


def test_every_entry_of_a_stratum_is_as_likely_and_all_places_are_used():
    strata = np.repeat([0, 1, 2], [7, 2, 1])
    rng = np.random.default_rng(0)
    drawn = np.array([np.bincount(stratified(strata, 5, rng), minlength=10) for _ in range(4000)])
    assert drawn.max() == 1 and (drawn.sum(axis=1) == 5).all()
    by_stratum = np.stack([drawn[:, strata == k].sum(axis=1) for k in range(3)], axis=1)
    np.testing.assert_array_equal(np.unique(by_stratum, axis=0), [[3, 1, 1], [4, 1, 0]])
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=0.04)
    first = [stratified(strata, 5, rng)[0] for _ in range(2000)]
    np.testing.assert_allclose(np.bincount(first, minlength=10) / 2000, 0.1, atol=0.03)
    assert sorted(stratified(strata, 50, rng).tolist()) == list(range(10))


def test_samples_without_strata_are_those_of_the_seed_alone():
    spec = sampling(holdout={"fraction": 0})
    rng = np.random.default_rng(np.random.SeedSequence([0, 23]))
    rows = np.arange(5, 60)
    expected = rng.permutation(rows)[:10]
    np.testing.assert_array_equal(sample_rows(people_index(), rows, spec, 10, 23), expected)


def test_strata_that_do_not_exist_are_named():
    with pytest.raises(DataError, match="'height'"):
        sample_rows(people_index(), np.arange(60), sampling(stratify=["height"]), 10, 23)
