"""Cross-validation and the C path against fits of each fold alone and scikit-learn's measures."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import ArrayBlocks
from transforms.accumulate.passes import run_passes
from transforms.beam.engine import BeamEngine
from transforms.svm.fit import HyperplaneOptions, fit_hyperplanes
from transforms.svm.validation import (
    MARGIN_EDGES,
    FoldBlocks,
    ValidationSolver,
    assign_folds,
    cross_validate,
)


def problem(n=500, d=8, attributes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * np.linspace(2, 0.3, d) + 3
    scores = (x - 3) @ rng.standard_normal((d, attributes)) + rng.standard_normal((n, attributes))
    return x, np.where(scores > 0.5, 1, -1).astype(np.int8)


@pytest.mark.parametrize("block_rows", [130, 10_000])
def test_every_fold_and_c_equals_a_fit_of_its_own(block_rows):
    x, y = problem()
    y[::5, 1] = 0
    path = (0.01, 1.0)
    found = cross_validate(x, y, path, n_folds=3, seed=4, block_rows=block_rows, tol=1e-9)
    fold = assign_folds(len(x), 3, 4)
    for c, validated in zip(path, found, strict=True):
        whole = fit_hyperplanes(x, y, c, tol=1e-9)
        assert validated.c == c and validated.converged.all() and validated.model.converged.all()
        np.testing.assert_allclose(validated.model.coef, whole.coef, rtol=1e-4, atol=1e-7)
        margins = []
        for k in range(3):
            alone = fit_hyperplanes(x[fold != k], y[fold != k], c, tol=1e-9)
            scores, labels = alone.decision_function(x[fold == k]), y[fold == k]
            for a in range(3):
                s, label = scores[labels[:, a] != 0, a], labels[labels[:, a] != 0, a]
                accuracy = ((s > 0) == (label > 0)).mean()
                np.testing.assert_allclose(validated.accuracy[k, a], accuracy)
                auc = roc_auc_score(label > 0, s)
                np.testing.assert_allclose(validated.auc[k, a], auc, atol=1e-3)
                assert validated.n_rows[k, :, a].tolist() == [(label < 0).sum(), (label > 0).sum()]
                margins.append((s * label)[label > 0] if a == 2 else [])
        inside = np.clip(np.concatenate(margins), MARGIN_EDGES[0], MARGIN_EDGES[-1] - 1e-9)
        expected = np.histogram(inside, MARGIN_EDGES)[0]
        assert np.abs(validated.margins[1, 2] - expected).sum() <= 4
        np.testing.assert_allclose(
            validated.mean_accuracy[0],
            np.average(validated.accuracy[:, 0], weights=np.bincount(fold)),
        )


def test_a_warm_start_is_shorter_than_a_cold_one():
    x, y = problem(2000)
    warm = cross_validate(x, y, (1.0, 1.3), n_folds=2)
    assert warm[1].model.n_passes < warm[0].model.n_passes
    cold = fit_hyperplanes(x, y, 1.3)
    np.testing.assert_allclose(warm[1].model.objective, cold.objective, rtol=1e-6)


def test_validation_through_beam_is_that_in_memory():
    x, y = problem(300)
    arrays = {"x": x.astype(np.float32), "y": y, "fold": assign_folds(300, 2)}
    solver = ValidationSolver.start(HyperplaneOptions(tol=0.01), (0.1, 1.0), 2)
    source = FoldBlocks(ArrayBlocks(arrays, 100), 2)
    beam = BeamEngine(passes_per_pipeline=4).run(solver, source).found
    memory = cross_validate(arrays["x"], y, (0.1, 1.0), n_folds=2, tol=0.01, block_rows=100)
    for ours, expected in zip(beam, memory, strict=True):
        np.testing.assert_array_equal(ours.model.coef, expected.model.coef)
        np.testing.assert_array_equal(ours.auc, expected.auc)
        np.testing.assert_array_equal(ours.margins, expected.margins)


def test_folds_are_even_and_keep_groups_together():
    fold = assign_folds(103, 5, seed=1)
    assert np.bincount(fold).tolist() == [21, 21, 21, 20, 20]
    assert not np.array_equal(fold, assign_folds(103, 5, seed=2))
    rng = np.random.default_rng(0)
    groups = rng.integers(-1, 12, 400)
    fold = assign_folds(400, 4, groups=groups)
    for group in range(12):
        assert len(set(fold[groups == group])) == 1
    assert (fold[groups < 0] == -1).all() and (np.bincount(fold[groups >= 0]) > 70).all()
    sizes = np.repeat(range(6), [2, 2, 10, 2, 2, 2])  # largest first: 10 and five times 2
    assert np.bincount(assign_folds(20, 2, groups=sizes)).tolist() == [10, 10]
    with pytest.raises(DataError, match="12 groups for 13 folds"):
        assign_folds(400, 13, groups=groups)
    with pytest.raises(UsageError, match="n_folds is 1"):
        assign_folds(10, 1)
    with pytest.raises(DataError, match="3 rows for 4"):
        assign_folds(3, 4)


def test_attributes_and_folds_without_both_classes_are_nan():
    x, y = problem()
    y[:, 0] = 1
    y[:, 2] = -1
    y[:10, 2] = 1
    groups = np.repeat([0, 1], [10, 490])  # all positives of attribute 2 in one fold
    found = cross_validate(x, y, n_folds=2, groups=groups)[0]
    assert np.isnan(found.accuracy[:, 0]).all() and np.isnan(found.mean_auc[0])
    assert np.isnan(found.model.normals[0]).all() and not found.model.converged[0]
    fold = assign_folds(500, 2, groups=groups)
    assert np.isnan(found.accuracy[fold[0], 2]) and np.isnan(found.auc[:, 2]).all()
    assert np.isfinite(found.accuracy[:, 1]).all()


def test_bad_paths_are_refused():
    x, y = problem(50)
    for path in ((1.0, 1.0), (), (1.0, 0.5)):
        with pytest.raises(UsageError, match="path of C"):
            cross_validate(x, y, path)


def test_without_folds_the_fit_is_that_of_all_rows_and_nothing_is_measured():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((90, 5))
    y = np.where(x[:, :2] + 0.3 * rng.standard_normal((90, 2)) > 0, 1, -1).astype(np.int8)
    arrays = {"x": x, "y": y, "fold": np.full(90, -1)}
    solver = ValidationSolver.start(HyperplaneOptions(precision="float64"), [0.1, 1.0], 0)
    found = run_passes(solver, FoldBlocks(ArrayBlocks(arrays, 32), 0)).found
    for one, c in zip(found, (0.1, 1.0), strict=True):
        expected = fit_hyperplanes(x, y, c)
        np.testing.assert_allclose(one.model.coef, expected.coef, atol=1e-4)
        assert np.isnan(one.mean_auc).all() and np.isnan(one.mean_accuracy).all()
        assert one.margins.shape == (2, 2, 64) and not one.margins.any()
    with pytest.raises(UsageError, match="n_folds is -1"):
        ValidationSolver.start(HyperplaneOptions(), [1.0], -1)
