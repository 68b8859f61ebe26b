"""Tensor models against LAPACK, planted tensors and group means."""

import numpy as np
import pytest
from tensors import SHAPE, centred, planted

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import ArrayBlocks
from transforms.accumulate.factor_cells import CellSums, grid_cells, sum_cells
from transforms.accumulate.passes import run_passes
from transforms.accumulate.sources import ColumnBlocks
from transforms.directions.mean_difference import mean_differences
from transforms.hosvd.parameters import fit_parameters, project_rows
from transforms.hosvd.passes import CoreSlabs, ModeGrams, SlabCells, multiply_modes, slab_ranges
from transforms.hosvd.solve import (
    HOSVDSolver,
    choose_ranks,
    complete_tensor,
    hosvd,
    tensor_of_cells,
    trajectory_origin,
)


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_factors_and_core_equal_lapack(mean):
    tensor = planted(noise=0.3, mean=mean)
    model = hosvd(tensor)
    t = centred(tensor)
    peers = []
    for n in range(1, 4):
        u, s, _ = np.linalg.svd(np.moveaxis(t, n, 0).reshape(t.shape[n], -1), full_matrices=False)
        np.testing.assert_allclose(model.energies[n - 1], s**2, rtol=1e-8)
        cosines = np.abs((model.factors[n - 1] * u).sum(axis=0))
        np.testing.assert_allclose(cosines, 1, atol=1e-7)
        peers.append(model.factors[n - 1].T)
    np.testing.assert_allclose(model.core, multiply_modes(t, peers), atol=1e-9)
    np.testing.assert_allclose(model.reconstruct(), tensor, atol=1e-9)
    np.testing.assert_allclose(model.mean, tensor.mean(axis=(1, 2, 3)))
    assert model.ranks == model.shape == SHAPE[1:]


def test_slabs_add_up(monkeypatch):
    from transforms.hosvd import passes as hosvd_passes

    tensor = planted(noise=0.3)
    whole = hosvd(tensor)
    monkeypatch.setattr(hosvd_passes, "SLAB_BYTES", 8 * 80 * 7)
    assert len(slab_ranges(30, 80)) == 5
    cut = hosvd(tensor)
    np.testing.assert_allclose(cut.core, whole.core, atol=1e-9)
    np.testing.assert_allclose(cut.mean, whole.mean)


def test_mode_grams_round_trip():
    tensor = centred(planted())
    whole = ModeGrams.of(tensor)
    parts = ModeGrams.zero(SHAPE[1:]).add(tensor[:11]).add(tensor[11:])
    again = ModeGrams.from_arrays(parts.to_arrays())
    for a, b in zip(again.grams, whole.grams, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(again.squares, (tensor**2).sum())


@pytest.mark.parametrize("standardise", [False, True])
def test_level_directions_at_full_rank_are_group_mean_differences(standardise):
    tensor = planted(noise=1.0)
    model = hosvd(tensor, standardise=standardise)
    cells = np.arange(80)
    rows = tensor.reshape(30, 80).T
    codes = np.unravel_index(cells, SHAPE[1:])
    for mode in range(3):
        plain = mean_differences(rows, codes[mode])
        np.testing.assert_allclose(model.level_directions(mode), plain.vectors, atol=1e-12)
        first = mean_differences(rows, codes[mode], reference=0)
        ours = model.level_directions(mode, reference=0)
        np.testing.assert_allclose(ours[1:], first.vectors[1:], atol=1e-12)
        assert np.abs(ours[0]).max() == 0
    pair = tensor[:, :, 3, 1].mean(axis=1) - tensor[:, :, 2, 0].mean(axis=1)
    np.testing.assert_allclose(model.direction({1: 3, 2: 1}, {1: 2, 2: 0}), pair, atol=1e-12)
    apart = tensor[:, :, 3, 1].mean(axis=1) - tensor.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(model.direction({1: 3, 2: 1}), apart, atol=1e-12)


def test_ranks_by_number_and_by_energy():
    tensor = planted(noise=0.05)
    model = hosvd(tensor, energy=0.95)
    for values, rank in zip(model.energies, model.ranks, strict=True):
        assert values[:rank].sum() >= 0.95 * values.sum() > values[: rank - 1].sum()
    assert model.relative_error <= model.tail_bound < 0.4
    short, long = hosvd(tensor, (5, 3, 2)), hosvd(tensor).truncate((5, 3, 2))
    np.testing.assert_allclose(short.core, long.core, atol=1e-12)
    error = np.linalg.norm(short.reconstruct() - tensor) / np.linalg.norm(centred(tensor))
    np.testing.assert_allclose(short.relative_error, error, rtol=1e-6)
    assert hosvd(tensor).relative_error < 1e-7
    assert choose_ranks(model.energies, SHAPE[1:], energy=1.0) == SHAPE[1:]


def test_latent_mode_on_request():
    tensor = planted(noise=0.2)
    model = hosvd(tensor, latent_rank=4)
    u = np.linalg.svd(centred(tensor).reshape(30, -1), full_matrices=False)[0][:, :4]
    np.testing.assert_allclose(np.abs((model.latent_factor * u).sum(axis=0)), 1, atol=1e-9)


def test_codes_and_coordinates():
    tensor = planted()
    model = hosvd(tensor)
    parameters = [model.factors[0][3], model.factors[1][2], model.factors[2][1]]
    np.testing.assert_allclose(model.code(parameters), tensor[:, 3, 2, 1], atol=1e-10)
    flat = model.subspace_coordinates(1)
    assert flat.shape == (5, 2)
    np.testing.assert_allclose((flat**2).sum(axis=0), model.energies[1][:2])


def test_standardised_model_reconstructs():
    tensor = planted(noise=0.2) * np.logspace(-2, 2, 30)[:, None, None, None]
    model = hosvd(tensor, standardise=True)
    np.testing.assert_allclose(model.reconstruct(), tensor, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.squares, tensor.size, rtol=1e-9)


def test_missing_cells_are_an_error_or_dropped_or_completed():
    tensor = planted(ranks=(3, 2, 1), noise=0.01)
    holes = tensor.copy()
    absent = np.zeros(SHAPE[1:], bool)
    absent[[1, 4, 4, 6], [0, 2, 3, 1], [0, 1, 0, 1]] = True
    holes[:, absent] = np.nan
    with pytest.raises(DataError, match="4 of 80 cells"):
        hosvd(holes)
    dropped = hosvd(holes, missing="drop_person")
    assert dropped.kept[0].tolist() == [0, 2, 3, 5, 7]
    np.testing.assert_allclose(dropped.core, hosvd(tensor[:, dropped.kept[0]]).core)
    complete = hosvd(holes, (4, 3, 2), missing="complete")
    gap = np.linalg.norm((complete.reconstruct() - tensor)[:, absent])
    assert gap < 0.05 * np.linalg.norm(centred(tensor)[:, absent])
    holes[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="some coordinates only"):
        hosvd(holes)


def test_a_level_without_cells_cannot_be_completed():
    tensor = planted()
    absent = np.zeros(SHAPE[1:], bool)
    absent[:, 2] = True
    with pytest.raises(DataError, match=r"\[2\] of mode 1"):
        complete_tensor(tensor, absent)
    few = np.full((3, 2, 2), np.nan)
    few[:, 0] = 1
    with pytest.raises(DataError, match="first mode"):
        hosvd(few, missing="drop_person")


def test_bad_requests_are_refused():
    tensor = planted()
    for arguments, text in (
        ({"ranks": (9, 5, 2)}, "do not fit"),
        ({"ranks": (5, 5)}, "do not fit"),
        ({"energy": 1.5}, "share"),
        ({"ranks": (5, 3, 2), "energy": 0.9}, "both"),
        ({"latent_rank": 99}, "latent_rank"),
        ({"missing": "ignore"}, "missing"),
    ):
        with pytest.raises(UsageError, match=text):
            hosvd(tensor, **arguments)
    with pytest.raises(UsageError, match="level 9"):
        hosvd(tensor).direction({1: 9})
    with pytest.raises(UsageError, match="mode 7"):
        hosvd(tensor).direction({7: 0})
    with pytest.raises(UsageError, match="no levels"):
        hosvd(tensor).direction({})
    tensor[0, 0, 0, 0] = np.inf
    with np.errstate(invalid="ignore"), pytest.raises(DataError, match="infinite"):
        hosvd(tensor)
    with pytest.raises(UsageError, match="not done"):
        HOSVDSolver().model()


def test_parameters_of_the_models_own_rows():
    tensor = planted(ranks=(4, 3, 2))
    model = hosvd(tensor, (5, 4, 2))  # the mean code adds one to each rank
    rows = tensor[:, 2].reshape(30, -1).T
    fit = fit_parameters(model, rows, ridge=0)
    assert fit.relative_error.max() < 1e-5
    np.testing.assert_allclose(fit.codes, rows, atol=1e-3)
    exact = project_rows(model, rows)
    np.testing.assert_allclose(exact, rows, atol=1e-9)


def test_fit_of_unseen_rows_improves_with_less_ridge_and_obeys_the_sum():
    rng = np.random.default_rng(0)
    tensor = planted(ranks=(5, 3, 2), noise=0.1)
    model = hosvd(tensor[:, :6], energy=0.99)
    rows = tensor[:, 6:].reshape(30, -1).T
    errors = [fit_parameters(model, rows, ridge=r).relative_error.mean() for r in (1e-4, 1.0, 100)]
    assert errors[0] <= errors[1] <= errors[2]
    fit = fit_parameters(model, rows, ridge=1e-4, sum_to_one=1e4)
    for q, u in zip(fit.parameters, model.factors, strict=True):
        if np.linalg.norm(u.sum(axis=0)) > 0.1:
            np.testing.assert_allclose(q @ u.sum(axis=0), 1, atol=0.2)
    with pytest.raises(UsageError, match="coordinates"):
        fit_parameters(model, rng.standard_normal((2, 7)))
    with pytest.raises(UsageError, match="negative"):
        fit_parameters(model, rows, ridge=-1)


def test_alternating_rounds_never_raise_the_objective():
    tensor = planted(noise=0.5)
    model = hosvd(tensor, (4, 3, 2))
    rows = tensor[:, 0].reshape(30, -1).T
    previous = np.inf
    for rounds in (1, 2, 4, 8, 16):
        fit = fit_parameters(model, rows, ridge=0, max_rounds=rounds, tol=0)
        error = (fit.relative_error**2 * ((rows - model.mean) ** 2).sum(axis=1)).sum()
        assert error <= previous * (1 + 1e-9)
        previous = error


def test_trajectories_meet_in_their_origin():
    rng = np.random.default_rng(0)
    origin = rng.standard_normal(3)
    lines = [origin + np.outer([1, 2, 3, 4], rng.standard_normal(3)) for _ in range(6)]
    np.testing.assert_allclose(trajectory_origin(lines), origin, atol=1e-10)
    with pytest.raises(UsageError, match="at least 2"):
        trajectory_origin(lines[:1])


def rows_of(tensor, repeats=1, seed=0):
    rng = np.random.default_rng(seed)
    cells = np.tile(np.arange(80), repeats)
    order = rng.permutation(len(cells))
    rows = tensor.reshape(30, 80).T[cells[order]]
    person, expression, view = np.unravel_index(cells[order], SHAPE[1:])
    return rows, {"person": person, "expression": expression, "view": view}


def test_tensor_from_rows_in_any_order_with_repeats():
    tensor = planted(noise=0.4)
    rows, factors = rows_of(tensor, repeats=2)
    grid = grid_cells(["person", "expression", "view"], factors)
    source = ArrayBlocks({"x": rows, "cells": grid.cells}, 33)
    built, counts = tensor_of_cells(sum_cells(source), grid)
    np.testing.assert_allclose(built, tensor, atol=1e-12)
    assert (counts == 2).all()


def test_slabs_of_a_row_source_give_the_same_model():
    tensor = planted(noise=0.4)
    rows, factors = rows_of(tensor)
    grid = grid_cells(["person", "expression", "view"], factors)
    source = ArrayBlocks({"x": rows, "cells": grid.cells}, 33)
    slabs = tuple(ColumnBlocks(source, a, a + 10) for a in (0, 10, 20))
    model = run_passes(HOSVDSolver(), SlabCells(slabs, grid.shape)).model()
    peer = hosvd(tensor)
    np.testing.assert_allclose(model.core, peer.core, atol=1e-10)
    np.testing.assert_allclose(model.mean, peer.mean)
    missing = ArrayBlocks({"x": rows[1:], "cells": grid.cells[1:]}, 33)
    with pytest.raises(DataError, match="1 of 80 cells"):
        SlabCells((missing,), grid.shape).read(0)
    with pytest.raises(UsageError, match="no slabs"):
        SlabCells((), grid.shape)


def test_core_parts_round_trip():
    part = {"core": np.ones((2, 3)), "mean": np.zeros(2), "scale": np.ones(2)}
    both = CoreSlabs({1: part}).merge(CoreSlabs({0: {k: v + 1 for k, v in part.items()}}))
    core, mean, _ = CoreSlabs.from_arrays(both.to_arrays()).assemble()
    np.testing.assert_array_equal(core[:, 0], [2, 2, 1, 1])
    np.testing.assert_array_equal(mean, [1, 1, 0, 0])


def test_absent_cells_of_dense_tables_are_nan():
    sums = CellSums.of(np.ones((2, 3)), np.array([0, 2]))
    means, counts = sums.dense(3)
    assert np.isnan(means[1]).all() and counts.tolist() == [1, 0, 1]
