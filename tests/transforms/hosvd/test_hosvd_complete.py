"""Incomplete tensors: exact recovery, noise, weights, and the same through slabs and Beam."""

import pickle

import numpy as np
import pytest
from tensors import SHAPE, centred, planted, with_holes

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import ArrayBlocks, Sums
from transforms.accumulate.factor_cells import grid_cells
from transforms.accumulate.passes import run_passes
from transforms.accumulate.sources import ColumnBlocks
from transforms.beam.engine import BeamEngine
from transforms.hosvd.complete import (
    Completion,
    Fill,
    FilledSlabs,
    cell_weights,
    weighted_gram,
)
from transforms.hosvd.passes import SlabCells, TensorSlabs
from transforms.hosvd.solve import HOSVDSolver, complete_tensor, hosvd

LARGE = (40, 30, 10, 2)
RANKS = (4, 3, 2)


def cell_factors(factors):
    """k_c of every cell, one row each."""
    rows = factors[0]
    for u in factors[1:]:
        rows = np.einsum("ia,jb->ijab", rows, u).reshape(len(rows) * len(u), -1)
    return rows


def test_a_low_rank_tensor_without_noise_is_recovered():
    tensor = planted((3, 2, 1), shape=LARGE)
    holes, absent = with_holes(tensor, 0.3)
    model = hosvd(holes, (4, 3, 2), missing="complete")
    error = np.linalg.norm(model.reconstruct() - tensor) / np.linalg.norm(centred(tensor))
    assert absent.sum() > 100 and error < 1e-3
    filled = complete_tensor(tensor, absent, (4, 3, 2))
    np.testing.assert_array_equal(filled[:, ~absent], tensor[:, ~absent])
    assert np.linalg.norm(filled - tensor) < 1e-3 * np.linalg.norm(centred(tensor))


def test_a_fifth_missing_costs_less_than_five_per_cent():
    tensor = planted((3, 2, 1), noise=2.0, shape=LARGE)
    holes, absent = with_holes(tensor, 0.2)
    whole = hosvd(tensor, (4, 3, 2)).reconstruct() - tensor
    model = hosvd(holes, (4, 3, 2), missing="complete").reconstruct() - tensor
    assert np.linalg.norm(model) < 1.02 * np.linalg.norm(whole)
    assert np.linalg.norm(model[:, absent]) < 1.08 * np.linalg.norm(whole[:, absent])
    means = np.nanmean(holes, axis=(1, 2, 3), keepdims=True) - tensor
    assert np.linalg.norm(model[:, absent]) < 0.5 * np.linalg.norm(means[:, absent])


def test_generous_ranks_do_not_fit_the_noise():
    clean = planted((3, 2, 1), shape=LARGE)
    holes, absent = with_holes(planted((3, 2, 1), noise=2.0, shape=LARGE), 0.2)
    weights = cell_weights(~absent)
    errors = []
    for ranks in ((4, 3, 2), (15, 8, 2)):
        fill = run_passes(Completion(weights, ranks), TensorSlabs(holes)).fill
        for each in (fill, Fill(weights, fill.factors)):  # with and without the prior
            slab = np.moveaxis(holes, 0, -1).copy()
            each.apply(slab)
            errors.append(np.linalg.norm((np.moveaxis(slab, -1, 0) - clean)[:, absent]))
    assert errors[0] < errors[1] < errors[2] < 2 * errors[0] < errors[3] / 1.5


def test_the_fill_solves_the_weighted_normal_equations():
    rng = np.random.default_rng(3)
    tensor = planted(noise=1.0)
    weights = rng.integers(0, 4, SHAPE[1:]) / 3
    factors = [
        np.linalg.qr(rng.standard_normal((n, j)))[0] for n, j in zip(SHAPE[1:], RANKS, strict=True)
    ]
    k, w = cell_factors(factors), weights.ravel()
    np.testing.assert_allclose(weighted_gram(weights, factors), (k * w[:, None]).T @ k, atol=1e-12)
    ridge = rng.random(24)
    slab = np.moveaxis(tensor, 0, -1).copy()
    slab[weights == 0] = np.nan
    fill = Fill(weights, factors, ridge)
    residual, found = fill.apply(slab)
    assert found.shape == (24, 30)
    t, filled = tensor.reshape(30, -1).T, slab.reshape(80, 30)
    mean = filled.mean(axis=0)  # the fixed point: the filled cells' mean and the weighted fit
    core = np.linalg.solve((k * w[:, None]).T @ k + np.diag(ridge), (k * w[:, None]).T @ (t - mean))
    fitted = mean + k @ core
    np.testing.assert_allclose(filled, w[:, None] * t + (1 - w[:, None]) * fitted, atol=1e-9)
    np.testing.assert_allclose(residual, w @ (t - fitted) ** 2, rtol=1e-9)
    again = pickle.loads(pickle.dumps(fill))  # noqa: S301
    assert again.content == fill.content != Fill(weights, factors, ridge + 1).content


def test_the_start_is_the_sum_of_main_effects():
    rng = np.random.default_rng(0)
    effects = [rng.standard_normal((n, 4)) for n in (12, 6, 3)]
    tensor = sum(
        e.reshape([-1 if i == n else 1 for i in range(3)] + [4]) for n, e in enumerate(effects)
    )
    weights = (rng.random((12, 6, 3)) > 0.2).astype(float)
    slab = np.where(weights[..., None] > 0, tensor, np.nan)
    Fill(weights).apply(slab)
    deviation = np.abs(slab - tensor)[weights == 0].max()  # the prior shrinks the effects a little
    assert deviation < 0.6 < np.abs(tensor)[weights == 0].max()


def test_cells_with_many_rows_weigh_more():
    clean = planted((3, 2, 1), shape=LARGE)
    rng = np.random.default_rng(0)
    counts = rng.choice([0, 1, 16], size=LARGE[1:], p=[0.1, 0.45, 0.45])
    noise = rng.standard_normal(LARGE) * 4 / np.sqrt(np.maximum(counts, 1))
    tensor = np.where(counts, clean + noise, np.nan)
    errors = [
        np.linalg.norm(hosvd(tensor, (4, 3, 2), missing="complete", counts=c).reconstruct() - clean)
        for c in (None, counts)
    ]
    assert errors[1] < 0.8 * errors[0]


def test_equal_counts_change_nothing():
    tensor = planted(noise=0.5)
    plain = hosvd(tensor, RANKS)
    weighted = hosvd(tensor, RANKS, missing="complete", counts=np.full(SHAPE[1:], 3))
    np.testing.assert_allclose(weighted.core, plain.core, atol=1e-9)


@pytest.mark.parametrize("standardise", [False, True])
def test_slabs_and_beam_complete_alike(standardise):
    tensor = planted((3, 2, 1), noise=0.3)
    holes, absent = with_holes(tensor, 0.15, seed=4)
    solver = Completion(cell_weights(~absent), (4, 3, 2), standardise=standardise, max_rounds=4)
    tensor_slabs = TensorSlabs(holes)
    reference = FilledSlabs(tensor_slabs, run_passes(solver, tensor_slabs).fill)
    memory = run_passes(HOSVDSolver(standardise, (4, 3, 2)), reference).model()
    cells = np.flatnonzero(~absent.ravel())
    cells = np.concatenate([cells, cells[:7]])  # repeated rows of equal value
    order = np.random.default_rng(2).permutation(len(cells))
    codes = np.unravel_index(cells[order], SHAPE[1:])
    grid = grid_cells(["a", "b", "c"], dict(zip("abc", codes, strict=True)))
    rows = tensor.reshape(30, -1).T[cells[order]]
    engines = [(13, 10, None), (100, 15, None)]
    for block_rows, width, engine in engines if standardise else [*engines, (29, 15, BeamEngine())]:
        blocks = ArrayBlocks({"x": rows, "cells": grid.cells}, block_rows)
        slabs = tuple(ColumnBlocks(blocks, i, i + width) for i in range(0, 30, width))
        source = SlabCells(slabs, grid.shape, partial=True)
        run = engine.run if engine else run_passes
        filled = FilledSlabs(source, run(solver, source).fill)
        assert filled.n_blocks == 30 // width > 1
        model = run(HOSVDSolver(standardise, (4, 3, 2)), filled).model()
        np.testing.assert_allclose(model.core, memory.core, atol=1e-8)
        np.testing.assert_allclose(model.mean, memory.mean, atol=1e-10)


def test_passes_settle_and_are_told():
    holes, absent = with_holes(planted((3, 2, 1), noise=0.5), 0.15, seed=4)
    source = TensorSlabs(holes)
    done = run_passes(Completion(cell_weights(~absent), RANKS), source)
    facts = done.facts()
    assert facts["converged"] and facts["passes"] == len(facts["residuals"]) < 60
    assert facts["residuals"][-1] < facts["residuals"][0]
    last = Completion(cell_weights(~absent), RANKS, max_rounds=facts["passes"])
    assert run_passes(last, source).facts() == facts, "the last pass that is allowed may settle it"
    short = run_passes(Completion(cell_weights(~absent), RANKS, max_rounds=2), source)
    assert short.done and not short.facts()["converged"]
    with pytest.raises(UsageError, match="NoneType"):
        done.step(None)
    with pytest.raises(KeyError):
        done.step(Sums({}))


def test_too_many_parameters_are_left_out(monkeypatch):
    from transforms.accumulate import factor_cells

    monkeypatch.setattr(factor_cells, "MOST_PARAMETERS", 12)
    holes, absent = with_holes(planted(noise=0.5), 0.15, seed=4)
    weights = cell_weights(~absent)
    done = run_passes(Completion(weights, energy=1), TensorSlabs(holes))
    ranks = [u.shape[1] for u in done.fill.factors]
    assert 6 <= np.prod(ranks) <= 12 and done.facts()["most_parameters"] == 12
    done = run_passes(Completion(weights, (4, None, None), energy=1), TensorSlabs(holes))
    ranks = [u.shape[1] for u in done.fill.factors]
    assert ranks[0] == 4 and np.prod(ranks) <= 12


def test_given_ranks_are_used_or_refused():
    holes, absent = with_holes(planted(noise=0.5), 0.15, seed=4)
    n = int((~absent).sum())
    with pytest.raises(UsageError, match=rf"5, 4, 2.*40 parameters.*{n} present.*{n // 2}"):
        complete_tensor(holes, absent, (5, 4, 2))
    weights = cell_weights(~absent)
    done = run_passes(Completion(weights, (3, 3, 2)), TensorSlabs(holes))
    assert [u.shape[1] for u in done.fill.factors] == [3, 3, 2]


def test_a_level_without_cells_is_refused():
    counts = np.ones((4, 3), int)
    counts[2] = 0
    with pytest.raises(DataError, match=r"\[2\] of mode 0"):
        cell_weights(counts)
    counts[2, 1] = 5
    np.testing.assert_allclose(cell_weights(counts, "weighted")[2], [0, 1, 0])
    assert cell_weights(counts)[2].tolist() == [0, 1, 0]


def test_rows_that_are_not_finite_are_refused():
    rows = np.ones((4, 3))
    rows[1, 2] = np.nan
    source = SlabCells((ArrayBlocks({"x": rows, "cells": np.arange(4)}),), (2, 3), partial=True)
    with pytest.raises(DataError, match="NaN or infinite"):
        source.read(0)
