"""Layers and filters of a StyleGAN3 from the arguments of the official code (no torch needed).

Karras et al., "Alias-Free Generative Adversarial Networks" (2021): cutoffs and stopbands grow
geometrically from layer to layer (section 3.2 and appendix C.1), filters are Kaiser-windowed low
passes, for configuration R jinc filters after the leaky ReLU (appendices C.1 and C.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from generators.families.stylegan3.config import LayerShape, StyleGAN3Config


@dataclass(frozen=True)
class Band:
    """What a layer's output is sampled for: rate in samples a picture's width, and the cutoff and
    half the transition band of its low pass, in cycles a picture's width."""

    sampling_rate: float
    cutoff: float
    half_width: float


@dataclass(frozen=True)
class Design:
    """A configuration, and the filters of its layers by tensor name, float32."""

    config: StyleGAN3Config
    filters: Mapping[str, np.ndarray]


#: Official arguments of the two configurations, at the defaults of its training script.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "stylegan3-t": {},
    "stylegan3-r": {
        "conv_kernel": 1,
        "channel_base": 65536,
        "channel_max": 1024,
        "use_radial_filters": True,
    },
}


def design(
    *,
    img_resolution: int,
    img_channels: int = 3,
    channel_base: int = 32768,
    channel_max: int = 512,
    num_layers: int = 14,
    num_critical: int = 2,
    first_cutoff: float = 2.0,
    first_stopband: float = 2.0**2.1,
    last_stopband_rel: float = 2.0**0.3,
    margin_size: int = 10,
    conv_kernel: int = 3,
    filter_size: int = 6,
    lrelu_upsampling: int = 2,
    use_radial_filters: bool = False,
    conv_clamp: float | None = 256.0,
    **others: Any,
) -> Design:
    """A generator of the official arguments.

    img_resolution : width and height in pixels, a power of two.
    channel_base, channel_max : a layer of cutoff f has ``min(channel_base / 2 / f, channel_max)``
        channels. num_layers : between input and ToRGB, of which the last `num_critical` are
        critically sampled. first_cutoff, first_stopband, last_stopband_rel : of the geometric
        progressions, the last relative to the last cutoff. margin_size : samples beyond a border.
    filter_size : taps of the filters per sample of the lower rate. lrelu_upsampling : rate of the
        leaky ReLU relative to the layer.
    others : of `StyleGAN3Config` (z_dim, w_dim, c_dim, labels, ...).

    Raises ValueError for arguments that give no such network.
    """
    if img_resolution < 4 or img_resolution & (img_resolution - 1):
        raise ValueError(
            f"'img_resolution' is {img_resolution!r}, expected a power of two from 4: "
            "give 64, 128, ..."
        )
    if not 0 <= num_critical < num_layers:
        raise ValueError(
            f"'num_critical' is {num_critical!r} of 'num_layers' {num_layers!r}: give fewer"
        )
    last_cutoff = img_resolution / 2
    way = np.minimum(np.arange(num_layers + 1) / (num_layers - num_critical), 1)
    cutoffs = first_cutoff * (last_cutoff / first_cutoff) ** way
    stopbands = first_stopband * (last_cutoff * last_stopband_rel / first_stopband) ** way
    rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, img_resolution))))
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    sizes = rates.astype(int) + 2 * margin_size
    sizes[-2:] = img_resolution
    channels = np.rint(np.minimum(channel_base / 2 / cutoffs, channel_max)).astype(int)
    channels[-1] = img_channels
    bands = [Band(*map(float, row)) for row in zip(rates, cutoffs, half_widths, strict=True)]
    layers: list[LayerShape] = []
    filters: dict[str, np.ndarray] = {}
    for i in range(num_layers + 1):
        before = max(i - 1, 0)
        to_rgb = i == num_layers
        layer, made = designed_layer(
            f"L{i}_{sizes[i]}_{channels[i]}",
            (int(channels[before]), int(channels[i])),
            (int(sizes[before]), int(sizes[i])),
            (bands[before], bands[i]),
            kernel=1 if to_rgb else conv_kernel,
            filter_size=filter_size,
            upsampling=1 if to_rgb else lrelu_upsampling,
            radial=use_radial_filters and i < num_layers - num_critical,
            to_rgb=to_rgb,
        )
        layers.append(layer)
        filters |= {f"synthesis.{layer.name}.{name}": taps for name, taps in made.items()}
    config = StyleGAN3Config(
        tuple(layers),
        bands[0].sampling_rate,
        bands[0].cutoff,
        conv_clamp=conv_clamp,
        **others,
    )
    return Design(config, filters)


def designed_layer(
    name: str,
    channels: tuple[int, int],
    sizes: tuple[int, int],
    bands: tuple[Band, Band],
    *,
    kernel: int,
    filter_size: int,
    upsampling: int,
    radial: bool,
    to_rgb: bool,
) -> tuple[LayerShape, dict[str, np.ndarray]]:
    """A layer between two bands, and its filters; channels, sizes and bands of input and output.

    Raises ValueError where the leaky ReLU's rate is no multiple of both rates.
    """
    bent_rate = max(band.sampling_rate for band in bands) * upsampling
    factors, lengths = [], []
    filters: dict[str, np.ndarray] = {}
    for part, band in zip(("up_filter", "down_filter"), bands, strict=True):
        factor = round(bent_rate / band.sampling_rate)
        if factor * band.sampling_rate != bent_rate:
            raise ValueError(
                f"{name!r} bends at rate {bent_rate!r}, no multiple of {band.sampling_rate!r}: "
                "sampling rates must be powers of two"
            )
        taps = 1 if to_rgb or factor == 1 else filter_size * factor
        factors.append(factor)
        lengths.append(taps)
        if taps > 1:
            filters[part] = lowpass(taps, band, bent_rate, radial and part == "down_filter")
    (up, down), (up_taps, down_taps) = factors, lengths
    layer = LayerShape(
        name,
        *channels,
        in_size=(sizes[0],) * 2,
        out_size=(sizes[1],) * 2,
        kernel=kernel,
        up=up,
        down=down,
        up_taps=up_taps,
        down_taps=down_taps,
        radial=radial and down_taps > 1,
        padding=padding(sizes, kernel, (up, down), up_taps + down_taps),
        to_rgb=to_rgb,
    )
    return layer, filters


def padding(
    sizes: tuple[int, int], kernel: int, factors: tuple[int, int], taps: int
) -> tuple[int, int, int, int]:
    """Samples that a layer adds at the upsampled rate, so that the picture's middle stays where it
    is (appendix C.3). sizes, factors : in and out, up and down. taps : of both filters."""
    up, down = factors
    total = (sizes[1] - 1) * down + 1 - (sizes[0] + kernel - 1) * up + taps - 2
    before = (total + up) // 2
    return (before, total - before, before, total - before)


def lowpass(taps: int, band: Band, rate: float, radial: bool = False) -> np.ndarray:
    """A Kaiser-windowed low pass of sum 1, float32: (taps,), or (taps, taps) of the jinc."""
    from scipy.signal import firwin, kaiser_atten, kaiser_beta
    from scipy.special import j1

    width = 2 * band.half_width
    if not radial:
        made = firwin(numtaps=taps, cutoff=band.cutoff, width=width, fs=rate)
        return np.asarray(made, dtype=np.float32)
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    r = np.hypot(*np.meshgrid(x, x))
    # At an odd number of taps the middle is 0 / 0, whose limit is the cutoff.
    jinc = np.full_like(r, band.cutoff)
    np.divide(j1(2 * np.pi * band.cutoff * r), np.pi * r, out=jinc, where=r > 0)
    window = np.kaiser(taps, kaiser_beta(kaiser_atten(taps, width / (rate / 2))))
    made = jinc * np.outer(window, window)
    return np.asarray(made / made.sum(), dtype=np.float32)
