"""Pictures that are no faces, and what spoils a picture, for the feature network.

Pictures are drawn (dead leaves and coloured noise, whose statistics are those of natural images:
Lee, Mumford and Huang 2001; Baradad et al. 2021) or cut out of the two photographs that
scikit-learn ships (CC BY 2.0, china.jpg and flower.jpg, some rights reserved by danielbuechele
and vultilion).
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 64

#: images float32 (n, 3, 64, 64) in [-1, 1], severities (n,) in [0, 1], random numbers -> spoiled
Distortion = Callable[[Tensor, Tensor, torch.Generator], Tensor]


# ---------------------------------------------------------------------------------------------
# Pictures, uint8 (n, 64, 64, 3)


def drawn(n: int, seed: int) -> np.ndarray:
    """Dead leaves and coloured noise, in turn; a picture is a function of (seed, number)."""
    out = np.empty((n, SIDE, SIDE, 3), np.uint8)
    for i in range(n):
        rng = np.random.default_rng(np.random.SeedSequence([seed, i]))
        picture = _leaves(rng) if i % 2 == 0 else _coloured_noise(rng)
        out[i] = np.clip(np.round(picture * 255), 0, 255)
    return out


def _leaves(rng: np.random.Generator) -> np.ndarray:
    """Ellipses that hide one another, of a power law of sizes, plain or shaded."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    picture = np.ones((SIDE, SIDE, 3)) * rng.random(3)
    for _ in range(int(rng.integers(10, 90))):
        radius = 2.0 / rng.uniform(0.06, 1.0)
        angle, flat = rng.uniform(0, np.pi), rng.uniform(0.4, 1.0)
        dx, dy = x - rng.uniform(0, SIDE), y - rng.uniform(0, SIDE)
        along = dx * np.cos(angle) + dy * np.sin(angle)
        across = (dy * np.cos(angle) - dx * np.sin(angle)) / flat
        inside = along**2 + across**2 < radius**2
        shade = 1 + rng.uniform(-0.4, 0.4) * along[..., None] / radius
        picture = np.where(inside[..., None], np.clip(rng.random(3) * shade, 0, 1), picture)
    return picture


def _coloured_noise(rng: np.random.Generator) -> np.ndarray:
    """Noise with a spectrum of 1 / f^slope, its channels correlated."""
    fy, fx = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]
    f = np.maximum(np.hypot(fy * rng.uniform(0.5, 2), fx), 1 / SIDE)
    spectrum = np.fft.rfft2(rng.standard_normal((3, SIDE, SIDE))) / f ** rng.uniform(0.5, 2.5)
    planes = np.fft.irfft2(spectrum, s=(SIDE, SIDE))
    planes /= planes.std(axis=(1, 2), keepdims=True) + 1e-9
    mix = np.eye(3) * rng.uniform(0.2, 1) + rng.uniform(-1, 1, (3, 3)) * 0.5
    return rng.random(3) + rng.uniform(0.05, 0.3) * np.einsum("cd,dyx->yxc", mix, planes)


def cut_out(n: int, seed: int) -> np.ndarray:
    """Squares of 64 to 360 px of the two photographs, resized and half of them mirrored."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    rng = np.random.default_rng(seed)
    out = np.empty((n, SIDE, SIDE, 3), np.uint8)
    for i in range(n):
        photograph = photographs[i % len(photographs)]
        height, width = photograph.shape[:2]
        side = round(64 * (360 / 64) ** rng.random())
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        square = Image.fromarray(photograph[top : top + side, left : left + side])
        small = np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BOX))
        out[i] = small[:, ::-1] if rng.random() < 0.5 else small
    return out


# ---------------------------------------------------------------------------------------------
# What spoils them


def _column(severities: Tensor) -> Tensor:
    return severities.view(-1, 1, 1, 1)


def _signs(n: int, channels: int, rng: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (n, channels, 1, 1), generator=rng) * 2.0 - 1


def blur(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """Gaussian, of up to 3 px."""
    border = 8
    padded = F.pad(x, (border,) * 4, mode="reflect")
    side = padded.shape[-1]
    f2 = torch.fft.fftfreq(side)[:, None] ** 2 + torch.fft.rfftfreq(side)[None] ** 2
    filters = torch.exp(-2 * (torch.pi * 3 * _column(severities)) ** 2 * f2)
    soft = torch.fft.irfft2(torch.fft.rfft2(padded) * filters, s=(side, side))
    return soft[..., border:-border, border:-border]


def noise(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """Normal noise of up to 0.4."""
    return x + 0.4 * _column(severities) * torch.randn(x.shape, generator=rng)


def light(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """Brighter or darker, and more or less contrast."""
    s, n = _column(severities), len(x)
    return x * (1 + 0.5 * s * _signs(n, 1, rng)) + 0.4 * s * _signs(n, 1, rng)


def tint(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """Another level in each channel."""
    return x + 0.4 * _column(severities) * (2 * torch.rand((len(x), 3, 1, 1), generator=rng) - 1)


def _moved(x: Tensor, offsets: Tensor) -> Tensor:
    """Each pixel from where its offset (n, 64, 64, 2), in pixels, points to."""
    at = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    y, x_ = torch.meshgrid(at, at, indexing="ij")
    grid = torch.stack([x_, y], dim=-1) + offsets * 2 / SIDE
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def shift(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """Up to 5 px, in any direction."""
    angle = 2 * torch.pi * torch.rand(len(x), generator=rng)
    step = 5 * severities[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return _moved(x, step[:, None, None].expand(-1, SIDE, SIDE, -1))


def turn(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """About the centre, by up to 20 degrees."""
    angle = torch.deg2rad(20 * severities) * _signs(len(x), 1, rng).flatten()
    at = torch.arange(SIDE) + 0.5 - SIDE / 2
    dy, dx = torch.meshgrid(at, at, indexing="ij")
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return _moved(x, torch.stack([cos * dx - sin * dy - dx, sin * dx + cos * dy - dy], dim=-1))


def warp(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """Smoothly, by up to about 5 px here and there."""
    coarse = torch.randn((len(x), 2, 5, 5), generator=rng)
    smooth = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=True)
    return _moved(x, 4 * severities.view(-1, 1, 1, 1) * smooth.permute(0, 2, 3, 1))


def hole(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """A square of one colour, of up to 28 px."""
    n, side = len(x), 28 * severities
    corner = torch.rand((n, 2), generator=rng) * (SIDE - side[:, None])
    at = torch.arange(SIDE) + 0.5
    rows = (at >= corner[:, :1]) & (at < (corner[:, :1] + side[:, None]))
    columns = (at >= corner[:, 1:]) & (at < (corner[:, 1:] + side[:, None]))
    inside = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(inside, 2 * torch.rand((n, 3, 1, 1), generator=rng) - 1, x)


DISTORTIONS: dict[str, Distortion] = {
    "blur": blur,
    "noise": noise,
    "light": light,
    "tint": tint,
    "shift": shift,
    "turn": turn,
    "warp": warp,
    "hole": hole,
}
"""Those that the network is trained with."""


# Kept aside: the network's figures are of these.


def jpeg(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """JPEG of quality 95 down to 5."""
    import io

    from PIL import Image

    out = []
    for image, s in zip(x, severities.tolist(), strict=True):
        pixels = ((image.permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=round(95 - 90 * s))
        out.append(torch.from_numpy(np.asarray(Image.open(buffer)).copy()))
    return torch.stack(out).permute(0, 3, 1, 2).float() / 127.5 - 1


def few_levels(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """Channels of 18 down to 2 levels."""
    steps = (17 - 16 * _column(severities)).round()
    return ((x.clamp(-1, 1) + 1) / 2 * steps).round() / steps * 2 - 1


def salt_and_pepper(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """Up to 20 % of the pixels white or black."""
    lost = torch.rand((len(x), 1, SIDE, SIDE), generator=rng) < 0.2 * _column(severities)
    colour = torch.randint(0, 2, (len(x), 1, SIDE, SIDE), generator=rng) * 2.0 - 1
    return torch.where(lost, colour, x)


def coarse_pixels(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """Mixed with its 8 x 8 averages."""
    blocks = F.interpolate(F.avg_pool2d(x, 8), scale_factor=8, mode="nearest")
    return x + _column(severities) * (blocks - x)


def zoom(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """Up to 20 % nearer."""
    at = torch.arange(SIDE) + 0.5 - SIDE / 2
    dy, dx = torch.meshgrid(at, at, indexing="ij")
    nearer = -0.2 * severities.view(-1, 1, 1, 1)
    return _moved(x, torch.stack([dx, dy], dim=-1)[None] * nearer)


def shuffled(x: Tensor, severities: Tensor, rng: torch.Generator) -> Tensor:
    """Up to a third of the 8 x 8 blocks exchanged."""
    out = x.clone()
    for image, s in zip(out, severities.tolist(), strict=True):
        cells = torch.randperm(64, generator=rng)[: 2 * round(s * 10.5)].tolist()
        for a, b in zip(cells[::2], cells[1::2], strict=True):
            (ya, xa), (yb, xb) = (((c // 8) * 8, (c % 8) * 8) for c in (a, b))
            first = image[:, ya : ya + 8, xa : xa + 8].clone()
            image[:, ya : ya + 8, xa : xa + 8] = image[:, yb : yb + 8, xb : xb + 8]
            image[:, yb : yb + 8, xb : xb + 8] = first
    return out


KEPT_ASIDE: dict[str, Distortion] = {
    "jpeg": jpeg,
    "few_levels": few_levels,
    "salt_and_pepper": salt_and_pepper,
    "coarse_pixels": coarse_pixels,
    "zoom": zoom,
    "shuffled": shuffled,
}
