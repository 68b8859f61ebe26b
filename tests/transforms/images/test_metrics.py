"""Metrics against naive loops, scipy's own filter and hand-made values."""

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from transforms.images import metrics
from transforms.images.metrics import mse, psnr, psnr_from_mse, ssim


def pair(n, height, width, channels=3, noise=25, seed=0):
    rng = np.random.default_rng(seed)
    smooth = rng.normal(size=(n, height, width, channels))
    smooth = scipy.ndimage.gaussian_filter(smooth, (0, 2, 2, 0)) * 200 + 128
    a = np.clip(smooth, 0, 255).round().astype(np.uint8)
    b = np.clip(a + rng.normal(size=a.shape) * noise, 0, 255).round().astype(np.uint8)
    return a, b


def ssim_by_loops(a, b):
    """Wang et al. 2004, equations 13 to 16, written out position by position."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    total = []
    for c in range(a.shape[2]):
        x, y = a[..., c] / 255.0, b[..., c] / 255.0
        for i in range(a.shape[0] - 10):
            for j in range(a.shape[1] - 10):
                p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
                mx, my = (window * p).sum(), (window * q).sum()
                vx = (window * (p - mx) ** 2).sum()
                vy = (window * (q - my) ** 2).sum()
                cov = (window * (p - mx) * (q - my)).sum()
                total.append(
                    (2 * mx * my + 0.01**2)
                    * (2 * cov + 0.03**2)
                    / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2))
                )
    return np.mean(total)


def ssim_by_scipy(a, b):
    """The same with scipy's Gaussian filter (radius 5), cropped to the valid positions."""

    def blur(image):
        return scipy.ndimage.gaussian_filter(image, (1.5, 1.5, 0), radius=(5, 5, 0))[5:-5, 5:-5]

    x, y = a / 255.0, b / 255.0
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    top = (2 * mx * my + 0.01**2) * (2 * cov + 0.03**2)
    return (top / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2))).mean()


def test_ssim_matches_the_loops():
    a, b = pair(2, 17, 14)
    expected = [ssim_by_loops(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ssim(a, b), expected, rtol=1e-11)


@pytest.mark.parametrize(
    "shape", [(3, 64, 64, 3), (2, 11, 11, 1), (2, 30, 200, 3), (1, 65, 129, 4)]
)
@pytest.mark.parametrize("noise", [1, 25, 120])
def test_ssim_matches_scipy(shape, noise):
    a, b = pair(*shape, noise=noise)
    expected = [ssim_by_scipy(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ssim(a, b), expected, rtol=1e-10, atol=1e-12)


def test_ssim_of_flat_images_is_the_luminance_term():
    a = np.full((1, 16, 16, 3), 100, np.uint8)
    b = np.full((1, 16, 16, 3), 150, np.uint8)
    x, y = 100 / 255, 150 / 255
    expected = (2 * x * y + 1e-4) / (x * x + y * y + 1e-4)
    np.testing.assert_allclose(ssim(a, b), [expected], rtol=1e-10)


def test_equal_images():
    a, _ = pair(3, 20, 20)
    assert (ssim(a, a) == 1.0).all()
    assert (mse(a, a) == 0.0).all()
    assert np.isposinf(psnr(a, a)).all()


def test_opposite_images():
    black = np.zeros((1, 16, 16, 3), np.uint8)
    white = np.full_like(black, 255)
    assert mse(black, white)[0] == 1.0
    assert psnr(black, white)[0] == 0.0
    assert 0 <= ssim(black, white)[0] < 1e-3


def test_mse_and_psnr_match_the_loops():
    a, b = pair(4, 9, 7)
    for i in range(4):
        total = sum((int(p) - int(q)) ** 2 for p, q in zip(a[i].flat, b[i].flat, strict=True))
        expected = total / 255**2 / a[i].size
        assert mse(a, b)[i] == pytest.approx(expected, rel=1e-14)
        assert psnr(a, b)[i] == pytest.approx(10 * np.log10(1 / expected), rel=1e-12)


def test_one_level_everywhere_is_48_13_db():
    a = np.full((1, 8, 8, 3), 10, np.uint8)
    assert psnr(a, a + 1)[0] == pytest.approx(20 * np.log10(255))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 9),
    st.integers(11, 40),
    st.integers(11, 40),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_bounds_symmetry_and_batch_independence(n, height, width, channels, seed):
    a, b = pair(n, height, width, channels, seed=seed)
    for metric in (mse, psnr, ssim):
        together = metric(a, b)
        assert together.shape == (n,) and together.dtype == np.float64
        np.testing.assert_array_equal(together, metric(b, a))
        alone = [metric(a[i : i + 1], b[i : i + 1])[0] for i in range(n)]
        np.testing.assert_array_equal(together, np.array(alone, dtype=np.float64))
    similarity = ssim(a, b)
    assert ((similarity >= -1) & (similarity <= 1)).all()


def test_chunks_do_not_change_the_result(monkeypatch):
    a, b = pair(5, 24, 24)
    whole = ssim(a, b)
    monkeypatch.setattr(metrics, "_CHUNK_BYTES", 1)
    np.testing.assert_array_equal(ssim(a, b), whole)
    monkeypatch.setattr(metrics, "_STRIP", 5)
    np.testing.assert_allclose(ssim(a, b), whole, rtol=1e-12)


def test_more_noise_is_worse():
    results = [[m(*pair(4, 32, 32, noise=s)).mean() for m in (psnr, ssim)] for s in (5, 20, 60)]
    assert np.all(np.diff(results, axis=0) < 0)


def test_psnr_from_mse():
    np.testing.assert_allclose(psnr_from_mse(np.array([1.0, 0.01, 0.0])), [0.0, 20.0, np.inf])


@pytest.mark.parametrize("metric", [mse, psnr, ssim])
def test_refused_input(metric):
    a, b = pair(2, 16, 16)
    with pytest.raises(DataError, match="float64.*to_uint8"):
        metric(a / 255.0, b)
    with pytest.raises(DataError, match=r"\(2, 16, 16, 3\) and \(1, 16, 16, 3\)"):
        metric(a, b[:1])
    with pytest.raises(DataError, match="batches"):
        metric(a[0], b[0])


def test_ssim_refuses_images_smaller_than_its_window():
    a, b = pair(1, 10, 64)
    with pytest.raises(DataError, match="at least 11 x 11 pixels, got 10 x 64"):
        ssim(a, b)
