"""Hyperplanes, paired differences and regressions as a run makes them, over a made-up store."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from pipelines.analyses.inputs import hold_out
from pipelines.evaluation.beside import compare
from pipelines.runs.analyse import fit_analysis
from schemas.directions.direction_set import DirectionSet
from schemas.errors import DataError
from schemas.index import DatasetIndex, NewRow, continuous_column, encode_categories
from schemas.spec import parse_spec
from schemas.store.latent_store import ArraySpec
from tests import stores
from tests.in_process import InProcess
from transforms.directions.mean_difference import fit_regressions
from transforms.svm.fit import fit_hyperplanes

N = 240
SPEC = """
name: small
dataset: {path: faces}
annotate: [{name: attributes, model: "bundled:faces64/attributes"}]
output: out
analyse:
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(store, index, codes (n, 12), scores (n, 3), person (n,), expression (n,))."""
    rng = np.random.default_rng(5)
    store = stores.create(tmp_path_factory.mktemp("made") / "store", N, block_rows=64)
    spec = ArraySpec(
        "annotations",
        "attributes@render",
        (3,),
        attrs={"names": ["glasses", "beard", "none"], "kind": "scores"},
    )
    store.add_arrays("attributes@render", [spec])
    codes = rng.standard_normal((N, 3, 4)).astype(np.float32)
    scores = 1 / (1 + np.exp(-codes.reshape(N, 12)[:, :3] - rng.standard_normal((N, 3))))
    scores[:, 2] = 0.1
    for block in range(store.n_blocks):
        rows = store.block_slice(block)
        n = rows.stop - rows.start
        arrays = {
            stores.W_PLUS: codes[rows],
            stores.PSNR: np.zeros(n),
            stores.COUNT: np.zeros(n, np.int32),
        }
        facts = (*stores.flags(n), stores.fp_of(store, block))
        store.write_block("invert", block, arrays, *facts)
        facts = (*stores.flags(n), stores.fp_of(store, block, "attributes@render"))
        store.write_block(
            "attributes@render", block, {spec.path: scores[rows].astype(np.float32)}, *facts
        )
    person, expression = rng.integers(0, 12, N), rng.integers(0, 3, N)
    index = DatasetIndex.empty().append([NewRow(f"{i:064d}", f"{i}.png") for i in range(N)])
    index = index.with_factors(
        {
            "person": encode_categories([f"p{i}" for i in person], None, "string"),
            "expression": encode_categories(
                [["neutral", "happy", "sad"][i] for i in expression], None, "string"
            ),
            "age": continuous_column(np.where(np.arange(N) % 9, codes[:, 0, 0] * 7 + 40, np.nan)),
        }
    )
    return store, index, codes.reshape(N, 12), scores, person, expression


def inputs(made, analyse, fraction=0.25):
    evaluate = f"evaluate: {{holdout: {{factor: person, fraction: {fraction}}}}}\n"
    return parse_spec(SPEC + analyse + evaluate, "/"), *made[:2], InProcess()


def fit(name, given):
    return fit_analysis(name, *given)[0]


def test_hyperplanes_take_the_best_c_of_a_path(made):
    _, _, codes, scores, _, _ = made
    fitted = fit("svm", inputs(made, "  svm: {path: [1.0, 0.001], folds: 3, balanced: true}\n"))
    assert [d.name for d in fitted.directions] == ["svm.glasses", "svm.beard"]
    assert "0 positive" in fitted.facts["skipped"]["none"]
    auc = fitted.arrays["path_auc"]
    assert auc.shape == (2, 3) and np.isnan(auc[:, 2]).all()
    assert fitted.arrays["path_c"].tolist() == [0.001, 1.0]
    for i, direction in enumerate(fitted.directions):
        c = [0.001, 1.0][int(auc[:, i].argmax())]
        assert direction.provenance["c"] == c and direction.converged
        y = np.where(scores[:, i].astype(np.float32) > 0.5, 1, -1)
        expected = fit_hyperplanes(codes, y, c, balanced=True)
        assert direction.vector.ravel() @ expected.normals[0] > 1 - 1e-6
        entry = fitted.facts["held_out"][i]
        assert (entry["rows"], entry["folds"]) == (N, 3) and entry["auc"] == auc[:, i].max()
    margins = fitted.arrays["margins"]
    assert margins.shape == (3, 2, 64) and margins[0].sum() == N


def test_without_folds_the_held_out_rows_are_measured_once(made):
    _, _, codes, scores, _, _ = made
    given = inputs(made, "  svm: {attributes: glasses, c: 0.1}\n")
    fitted = fit("svm", given)
    held, y = hold_out(made[1], "person", 0.25, 0), np.where(scores[:, 0] > 0.5, 1, -1)
    alone = fit_hyperplanes(codes[~held], y[~held], 0.1)
    right = np.sign(alone.decision_function(codes[held])[:, 0]) == y[held]
    (entry,) = fitted.facts["held_out"]
    assert entry["accuracy"] == pytest.approx(right.mean()) and entry["rows"] == held.sum()
    assert "folds" not in entry
    none = fit("svm", inputs(made, "  svm: {attributes: glasses, c: 0.1}\n", fraction=0))
    assert none.facts["held_out"] == []
    np.testing.assert_allclose(none.arrays["coef"], fitted.arrays["coef"], rtol=1e-3, atol=1e-5)


def test_hyperplanes_of_factors(made):
    """Of two levels one attribute, of more each level against the others; missing rows are none."""
    store, index, codes, _, _, expression = made
    smiling = np.where(codes[:, 1] + codes[:, 2] > 0.5, "1", "-1").astype(object)
    smiling[::7] = None
    more = {"smiling": encode_categories(smiling.tolist(), None, "integer")}
    given = inputs(made, "  svm: {labels: factors, c: 0.1}\n", fraction=0)
    fitted = fit("svm", (given[0], store, index.with_factors(more), given[3]))
    assert [d.name for d in fitted.directions] == ["svm.smiling"]  # the others have more levels
    known = np.arange(N) % 7 > 0
    expected = fit_hyperplanes(codes[known], np.where(smiling[known] == "1", 1, -1), 0.1)
    np.testing.assert_allclose(fitted.arrays["coef"], expected.coef, rtol=1e-3, atol=1e-5)
    (direction,) = fitted.directions
    assert direction.provenance["factor"] == "smiling" and direction.provenance["level"] == "1"

    given = inputs(made, "  svm: {labels: factors, attributes: expression, c: 0.1}\n")
    fitted = fit("svm", given)
    names = [f"svm.expression-{level}" for level in ("neutral", "happy", "sad")]
    assert sorted(d.name for d in fitted.directions) == sorted(names)
    expected = fit_hyperplanes(codes, np.where(expression == 1, 1, -1), 0.1)
    happy = next(d for d in fitted.directions if d.name == "svm.expression-happy")
    assert happy.vector.ravel() @ expected.normals[0] > 1 - 1e-6
    assert len(fitted.facts["held_out"]) == 3


def test_paired_differences_are_means_of_each_person_s(made):
    _, _, codes, _, person, expression = made
    section = "  mean_difference: {baseline: {expression: neutral}, pair_by: person}\n"
    fitted = fit("mean_difference", inputs(made, section))
    found = {d.name: d for d in fitted.directions}
    each = []
    for p in range(12):
        sides = [codes[(person == p) & (expression == e)].mean(axis=0, dtype=float) for e in (1, 0)]
        each.append(sides[0] - sides[1])
    wanted = np.mean(each, axis=0)
    direction = found["mean.expression-happy"]
    expected = wanted / np.linalg.norm(wanted)
    np.testing.assert_allclose(direction.vector.ravel(), expected, atol=1e-6)
    assert direction.quality["pairs"] == 12 and direction.provenance["pair_by"] == ["person"]


def test_nothing_to_compare_is_told_by_what_it_would_come_from(made):
    with pytest.raises(DataError, match=r"nothing is to be compared: .*0 positive.*give more rows"):
        fit("mean_difference", inputs(made, "  mean_difference: {factors: [none]}\n"))


def test_continuous_factors_have_regression_directions(made):
    _, index, codes, _, _, _ = made
    fitted = fit("mean_difference", inputs(made, "  mean_difference: {ridge: 0.1}\n"))
    (direction,) = [d for d in fitted.directions if d.name == "linear.age"]
    expected = fit_regressions(codes, index.continuous("age"), ridge=0.1)
    slope = expected.slopes[0] / np.linalg.norm(expected.slopes[0])
    np.testing.assert_allclose(direction.vector.ravel(), slope, atol=1e-9)
    assert direction.quality["rows"] == N - len(range(0, N, 9))
    kept = np.append(expected.coefficients[0], expected.intercepts[0])
    np.testing.assert_allclose(fitted.arrays["ridge-age"], kept, rtol=1e-9)
    assert "held_out_r2" not in direction.quality
    section = "  mean_difference: {ridge: 0.1, held_out: true}\n"
    measured = fit("mean_difference", inputs(made, section, fraction=0.25))
    (again,) = [d for d in measured.directions if d.name == "linear.age"]
    age, held = index.continuous("age"), hold_out(index, "person", 0.25, seed=0)
    seen = fit_regressions(codes[~held], age[~held], ridge=0.1)
    there = held & np.isfinite(age)
    told = codes[there].reshape(there.sum(), -1) @ seen.coefficients[0] + seen.intercepts[0]
    assert again.quality["held_out_r2"] == pytest.approx(r2_score(age[there], told), abs=1e-9)
    assert again.quality["held_out_rows"] == there.sum()
    assert np.array_equal(again.vector, direction.vector)
    only = fit("mean_difference", inputs(made, "  mean_difference: {factors: [expression]}\n"))
    assert "linear.age" not in {d.name for d in only.directions}


def test_bad_options_are_refused():
    from schemas.errors import SpecError

    for section in ("{folds: 1}", "{path: []}", "{path: [0]}"):
        with pytest.raises(SpecError):
            parse_spec(SPEC + f"  svm: {section}\n", "/")


ODD = ["light brown", "light_brown", "-1", "1.0", "../x", "東京", "東北", "a/b@c", "é" * 300, "x"]


def test_levels_of_any_text_have_directions_of_their_own(made, tmp_path):
    store, index = made[:2]
    levels = [ODD[i % len(ODD)] for i in range(N)]
    column = encode_categories(levels, None, "string")
    other = encode_categories([f"{i // 10 % 6}" for i in range(N)], None, "string")
    odd = index.with_factors({"hair colour": column, "of": other})
    section = '  mean_difference: {factors: ["hair colour"], baseline: {"hair colour": x}}\n'
    section += '  hosvd: {modes: [of, "hair colour"], energy: 1}\n'
    given = inputs((store, odd), section)
    mean, tensor = fit("mean_difference", given), fit("hosvd", given)
    for found in (mean, tensor):
        assert [d.provenance["level"] for d in found.directions] == ODD[:-1]
    directions = DirectionSet("f" * 64, "w_plus", [*mean.directions, *tensor.directions])
    assert len(directions) == 2 * (len(ODD) - 1)
    assert "mean.hair_colour-light_brown" not in (d.name for d in tensor.directions)
    directions.save(tmp_path / "set")
    directions.save_model("mean_difference", mean.arrays, mean.facts)
    assert DirectionSet.load(tmp_path / "set").names() == directions.names()
    for d, row in zip(mean.directions, compare({d.name: d for d in directions}, {}), strict=True):
        assert row["mean_difference"] == d.name
        assert directions[row["hosvd"]].provenance["level"] == d.provenance["level"]
