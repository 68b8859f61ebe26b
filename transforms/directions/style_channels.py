"""Search for single style channels that control an attribute.

Wu, Lischinski, Shechtman, "StyleSpace analysis" (2021), section 5: with styles s, the population's
mean and standard deviation of each channel, and d = (s - mean) / sd of rows that show the
attribute, a channel is relevant when the mean of d is large beside its own deviation. Channels are
ranked by that ratio; the best ones are then judged by what they draw. Styles are affine in w_plus,
so they are computed block by block from stored codes and never stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import TRANSFORMS, Arrays, flatten_rows, statistic_kind
from transforms.accumulate.moments import Moments


@dataclass(frozen=True)
class StyleLayer:
    """A layer's style is ``w_plus[ws_index] @ weight.T + bias``; weight (channels, w_dim)."""

    kind = f"{TRANSFORMS}.style_channels.StyleLayer"

    ws_index: int
    weight: np.ndarray
    bias: np.ndarray


def styles(codes: np.ndarray, layers: Sequence[StyleLayer]) -> np.ndarray:
    """Styles float64 (n, S) of codes of w_plus (n, L, D), or of w (n, D), used in every layer."""
    codes = np.asarray(codes, np.float64)
    flat = codes.ndim == 2
    parts = [
        (codes if flat else codes[:, layer.ws_index]) @ layer.weight.T.astype(np.float64)
        + layer.bias
        for layer in layers
    ]
    return np.concatenate(parts, axis=1)


@statistic_kind("ChannelMoments")
@dataclass(frozen=True)
class ChannelMoments:
    """Moments of the styles of all rows, and of the rows that show each attribute.

    groups : `Moments` with diagonals only, the population first, then one an attribute
    """

    groups: tuple[Moments, ...]

    @classmethod
    def of(cls, s: np.ndarray, present: np.ndarray) -> Self:
        """Moments of styles s (m, S) with present bool (m, A)."""
        chosen = [s, *(s[present[:, a]] for a in range(present.shape[1]))]
        return cls(tuple(Moments.of(rows, diagonal=True) for rows in chosen))

    def merge(self, other: Self) -> Self:
        """Of both sets of rows. Raises UsageError for another number of attributes."""
        if len(self.groups) != len(other.groups):
            raise UsageError(
                f"{len(self.groups) - 1!r} and {len(other.groups) - 1!r} attributes cannot be "
                "merged: use one request"
            )
        pairs = zip(self.groups, other.groups, strict=True)
        return type(self)(tuple(a.merge(b) for a, b in pairs))

    def to_arrays(self) -> Arrays:
        """Counts (1 + A,), means and second moments (1 + A, S)."""
        return {
            "counts": np.array([g.count for g in self.groups]),
            "means": np.stack([g.mean for g in self.groups]),
            "seconds": np.stack([g.second for g in self.groups]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """What `to_arrays` gave."""
        parts = zip(arrays["counts"], arrays["means"], arrays["seconds"], strict=True)
        return cls(tuple(Moments(int(n), mean, second) for n, mean, second in parts))


@dataclass(frozen=True)
class ChannelsOfLabels:
    """Pass request: `ChannelMoments` of x (m, L, D) or (m, L D), with labels y (m, A) > 0.

    n_rows_of_w : L; 0 for codes of w
    """

    kind = f"{TRANSFORMS}.style_channels.ChannelsOfLabels"

    layers: tuple[StyleLayer, ...]
    n_rows_of_w: int
    token: str = "x-y"

    def prepare(self, arrays: Arrays) -> Arrays:
        """Codes and labels."""
        return {"x": flatten_rows(arrays["x"]), "y": arrays["y"]}

    def statistic(self, prepared: Arrays) -> ChannelMoments:
        """Moments of the block's styles."""
        x = prepared["x"]
        if self.n_rows_of_w:
            x = x.reshape(len(x), self.n_rows_of_w, x.shape[1] // self.n_rows_of_w)
        return ChannelMoments.of(styles(x, self.layers), prepared["y"] > 0)


@dataclass(frozen=True)
class Channels:
    """How much each channel has to do with each attribute.

    mean, sd : float64 (S,), of the population
    shift : float64 (A, S), mean of d over the rows that show the attribute: the sign of the edit
    relevance : float64 (A, S), |shift| over the standard deviation of d; 0 for channels that do
        not vary
    counts : int64 (A,), rows that show the attribute
    """

    mean: np.ndarray
    sd: np.ndarray
    shift: np.ndarray
    relevance: np.ndarray
    counts: np.ndarray

    def best(self, attribute: int, n: int = 10) -> np.ndarray:
        """The n most relevant channels of an attribute, int64, best first."""
        return np.argsort(-self.relevance[attribute], kind="stable")[:n]


def rank_channels(moments: ChannelMoments) -> Channels:
    """Relevance of every channel for every attribute (Wu et al. 2021, section 5).

    Attributes that fewer than 2 rows show have shift and relevance NaN. Raises DataError for a
    population of fewer than 2 rows.
    """
    population, *groups = moments.groups
    if population.count < 2:
        raise DataError(f"{population.count!r} rows have no spread; give at least 2")
    sd = np.sqrt(population.second / (population.count - 1))
    varies = sd > 1e-12 * (np.abs(population.mean) + sd.max())
    unit = np.where(varies, sd, 1.0)
    shift = np.full((len(groups), len(sd)), np.nan)
    relevance = shift.copy()
    for a, group in enumerate(groups):
        if group.count < 2:
            continue
        shift[a] = np.where(varies, (group.mean - population.mean) / unit, 0.0)
        spread = np.sqrt(group.second / (group.count - 1)) / unit
        floor = np.maximum(spread, 1e-12)
        relevance[a] = np.where(varies, np.abs(shift[a]) / floor, 0.0)
    counts = np.array([group.count for group in groups], dtype=np.int64)
    return Channels(population.mean, np.where(varies, sd, 0.0), shift, relevance, counts)


def styleclip(
    relevance: np.ndarray,
    text_delta: np.ndarray,
    deviations: Sequence[np.ndarray],
    to_rgb: Sequence[bool],
    threshold: float,
) -> np.ndarray:
    """A global direction of StyleCLIP in S space, float64 (S,): its strength alpha multiplies it.

    relevance : (channels, d), change of the CLIP embedding by each channel, image layers left out
    text_delta : (d,), difference of the embeddings of two texts
    deviations : of every layer's channels, in the order of S; to_rgb : which are image layers
    threshold : channels of a smaller product are left alone (Patashnik et al. 2021, section 6)

    Raises UsageError for counts that do not agree, DataError when no channel is above it.
    """
    conv = [np.asarray(s) for s, rgb in zip(deviations, to_rgb, strict=True) if not rgb]
    if len(relevance) != sum(map(len, conv)) or np.shape(text_delta) != relevance.shape[1:]:
        raise UsageError(
            f"relevance has shape {relevance.shape!r} for {sum(map(len, conv))!r} channels and a "
            f"text of {np.shape(text_delta)!r}: give files of one generator and CLIP model"
        )
    along = np.asarray(relevance, np.float64) @ np.asarray(text_delta, np.float64)
    along = np.where(np.abs(along) >= threshold, along, 0.0)
    largest = float(np.abs(along).max(initial=0.0))
    if largest == 0:
        raise DataError(f"no channel is above the threshold {threshold!r}: lower it")
    scaled = along / largest * np.concatenate(conv)
    parts, at = [], 0
    for layer, rgb in zip(deviations, to_rgb, strict=True):
        parts.append(np.zeros(len(layer)) if rgb else scaled[at : at + len(layer)])
        at += 0 if rgb else len(layer)
    return np.concatenate(parts)
