"""The filtered leaky ReLU of StyleGAN3 against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d, upfirdn

from generators.families.stylegan3.resampling import TILE, Axis, filtered_lrelu


def resampled(x: np.ndarray, taps: np.ndarray, axis: Axis, at: int) -> np.ndarray:
    """Zeros between samples, padding, and a convolution that keeps to what is there."""
    x = np.moveaxis(x, at, -1)
    full = upfirdn(taps * axis.up, x, axis.up)
    n, count = len(taps), axis.n_in * axis.up
    full = np.concatenate([full, np.zeros((*x.shape[:-1], count + n))], axis=-1)
    before = max(axis.padding - (n - 1), 0)
    full = np.concatenate([np.zeros((*x.shape[:-1], before)), full], axis=-1)
    start = n - 1 - axis.padding + before
    return np.moveaxis(full[..., start:], -1, at)


def by_definition(
    x: np.ndarray, axes: tuple[Axis, Axis], up: np.ndarray, down: np.ndarray, clamp: float | None
) -> np.ndarray:
    y = resampled(resampled(x, up, axes[0], 3), up, axes[1], 2)
    y = np.where(y > 0, y, 0.2 * y)
    y = y if clamp is None else y.clip(-clamp, clamp)
    kernel = down if down.ndim == 2 else np.outer(down, down)
    rows = [[convolve2d(plane, kernel, "valid") for plane in row] for row in y]
    found = np.array(rows)[:, :, :: axes[1].down, :: axes[0].down]
    return found[:, :, : axes[1].n_out, : axes[0].n_out]


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize(
    ("across", "along", "taps"),
    [
        (Axis(9, 9, 2, 2, 9), Axis(7, 7, 2, 2, 9), (12, 12)),
        (Axis(9, 20, 4, 2, 15), Axis(9, 21, 4, 2, 14), (24, 12)),
        (Axis(40, 34, 2, 2, -2), Axis(22, 9, 2, 2, -7), (12, 12)),
        (Axis(8, 20, 1, 1, 14), Axis(8, 6, 1, 1, 0), (3, 1)),
        (Axis(TILE + 9, TILE + 1, 1, 1, 0), Axis(10, 3, 1, 2, 0), (3, 5)),
    ],
)
def test_resampling_is_that_of_the_definition(
    across: Axis, along: Axis, taps: tuple[int, int], radial: bool
) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 3, along.n_in, across.n_in))
    gain, offset = random.normal(size=(2, 3)), random.normal(size=3)
    up = random.normal(size=taps[0])
    down = random.normal(size=(taps[1],) * (2 if radial else 1))
    modulated = x * gain[:, :, None, None] + offset[:, None, None]
    given = [torch.from_numpy(value) for value in (x, gain, offset)]
    filters = [torch.from_numpy(value) for value in (up, down)]
    found = {}
    for clamp in (None, 1e6, 0.3):
        for track in (False, True):
            given[0].requires_grad_(track)
            drawn = filtered_lrelu(*given, (across, along), *filters, clamp)
            found[clamp] = drawn.detach().numpy()
            expected = by_definition(modulated, (across, along), up, down, clamp)
            np.testing.assert_allclose(found[clamp], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found[1e6], found[None])
    assert np.abs(found[0.3] - found[None]).max() > 0.1


def test_gradients_are_those_of_finite_differences_where_values_are_clamped() -> None:
    random = np.random.default_rng(1)
    axes = (Axis(6, 5, 2, 2, 8), Axis(5, 6, 2, 2, 9))
    up, down = (torch.from_numpy(random.normal(size=n)) for n in (12, 12))
    given = [torch.from_numpy(random.normal(size=s)).requires_grad_()
             for s in ((1, 1, 5, 6), (1, 1), (1,))]  # fmt: skip
    assert torch.autograd.gradcheck(lambda *g: filtered_lrelu(*g, axes, up, down, 0.8), given)
