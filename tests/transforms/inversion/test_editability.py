"""The editability of codes, against closed forms and least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conformance.folder import adapter
from scipy.stats import chi2

from generators.protocols import Code
from generators.seeds import drawn
from schemas.errors import UsageError
from transforms.inversion.editability import SAMPLES, SampledCodes, editability

SPACES = ("z", "w", "w_plus", "s")


@pytest.fixture(scope="module")
def generator():
    return adapter()


@pytest.mark.parametrize("space", SPACES)
def test_sampled_codes_are_the_best_and_truncated_ones_too(generator, space):
    found = editability(generator, generator.sample(space, range(SAMPLES, 2 * SAMPLES))).numpy()
    assert found.dtype == np.float32 and found.shape == (SAMPLES,)
    assert np.median(found) > 0.999 and found.min() > 0.2
    if space != "z":
        near = editability(generator, generator.sample(space, range(50), truncation=0.3))
        assert (near > 0.99).all()
    centre = generator.sample(space, range(SAMPLES)).main.double().mean(dim=0)
    assert editability(generator, Code(space, centre[None])) == pytest.approx(1.0, abs=1e-2)


def test_a_normal_code_scores_by_the_quantiles_of_chi_squared():
    d = 100
    prior = SampledCodes.of(drawn("normal", range(1000), (d,)))
    codes = drawn("normal", range(5000, 8000), (d,)).astype(np.float64)
    wanted = np.minimum(1, np.sqrt(d / chi2.ppf([0.99, 0.95, 0.8, 0.5], d)))
    found = np.quantile(prior.editability(codes), [0.01, 0.05, 0.2, 0.5])
    np.testing.assert_allclose(found, wanted, atol=0.015)
    exact = SampledCodes(np.zeros(d), np.ones(d), None)
    lengths = np.linalg.norm(codes, axis=1)
    for times in (0.5, 2.0, 10.0):
        wanted = np.minimum(1, np.sqrt(d) / (times * lengths))
        np.testing.assert_allclose(exact.editability(times * codes), wanted, rtol=1e-12)


@pytest.mark.parametrize(("prior", "variance"), [("uniform", 1 / 3), ("truncated_normal", 0.77374)])
def test_other_priors_are_measured_by_their_own_spread(prior, variance):
    sampled = SampledCodes.of(drawn(prior, range(1024), (64,)))
    assert sampled.span is None
    assert np.square(sampled.scale).mean() == pytest.approx(variance, rel=0.01)
    assert np.median(sampled.editability(drawn(prior, range(9000, 9500), (64,)))) > 0.99


@pytest.mark.parametrize("space", ["w_plus", "s"])
def test_what_no_sampled_code_has_counts_against_a_code(generator, space):
    """The nearest sampled-like code, by least squares on the samples themselves."""
    samples = generator.sample(space, range(SAMPLES)).main.flatten(1).double().numpy()
    mean, scale = samples.mean(axis=0), samples.std(axis=0)
    codes = generator.sample(space, range(3000, 3040)).main.flatten(1).double().numpy()
    rng = np.random.default_rng(0)
    codes += rng.standard_normal(codes.shape) * scale * rng.uniform(0, 3, (len(codes), 1))
    basis = ((samples - mean) / scale).T
    u = (codes - mean) / scale
    nearest = np.stack([basis @ np.linalg.lstsq(basis, row, rcond=1e-5)[0] for row in u])
    within, whole = np.linalg.norm(nearest, axis=1), np.linalg.norm(u, axis=1)
    wanted = np.minimum(within, np.sqrt(u.shape[1])) / whole
    main = torch.from_numpy(codes).reshape(-1, *generator.facts.space(space).shape)
    found = editability(generator, Code(space, main)).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert found.max() > 0.8 and found.min() < 0.5


def test_a_row_scores_alone_and_its_companions_do_not_matter(generator):
    code = generator.sample("w_plus", range(8))
    moved = torch.randn(code.main.shape, generator=torch.Generator().manual_seed(0))
    code = code.moved(code.main + moved)
    whole = editability(generator, code)
    noise = {"noise/b4": torch.randn(8, 4, 4)}
    torch.testing.assert_close(editability(generator, Code("w_plus", code.main, noise)), whole)
    for row in range(8):
        alone = editability(generator, code[row : row + 1])
        torch.testing.assert_close(alone, whole[row : row + 1])
    code.main[2, 0, 0] = torch.nan
    code.main[4, 0, 0] = torch.inf
    broken = editability(generator, code)
    assert torch.isnan(broken[[2, 4]]).all()
    torch.testing.assert_close(broken[[0, 1, 3]], whole[[0, 1, 3]])


def test_few_samples_of_many_numbers_span_every_direction():
    sampled = SampledCodes.of(drawn("normal", range(64), (500,)))
    assert sampled.span is None
    found = sampled.editability(drawn("normal", range(100, 200), (500,)))
    assert found.min() > 0.85


def test_coordinates_that_never_vary_count_against_codes_that_move_them():
    codes = np.zeros((200, 3))
    codes[:, 0] = np.random.default_rng(0).standard_normal(200)
    sampled = SampledCodes.of(codes)
    assert sampled.span.shape == (3, 1)
    still, moved = sampled.editability(np.array([[0.5, 0, 0], [0.5, 0.5, 0]]))
    assert still == pytest.approx(1.0) and moved < 0.01
    np.testing.assert_array_equal(SampledCodes.of(np.zeros((9, 3))).editability(codes * 0), 1.0)


def test_a_space_that_is_not_sampled_is_refused(generator):
    with pytest.raises(UsageError, match="cannot be sampled from the prior: use one of"):
        editability(generator, Code("features.b8.conv1", torch.zeros(1, 8, 8, 8)))
