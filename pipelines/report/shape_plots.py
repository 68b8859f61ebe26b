"""Figures of 3D landmark shapes: standard views, and what the basis shapes do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from pipelines.report.plots import CARD, MUTED, SERIES, canvas, inline_svg
from schemas.landmark_schemes import scheme_of_count

VIEWS = (("front", 0.0), ("three-quarter", 40.0), ("profile", 90.0))


def connections(n_points: int) -> list[tuple[int, int]]:
    """Pairs of point numbers to join: those of the scheme of so many points, where there is one."""
    scheme = scheme_of_count(n_points)
    return [] if scheme is None else [pair for line in scheme.lines for pair in pairwise(line)]


def _turned(shape: np.ndarray, yaw: float) -> np.ndarray:
    """``shape`` (3, L) after a turn to the image's right by ``yaw`` degrees."""
    c, s = np.cos(np.deg2rad(yaw)), np.sin(np.deg2rad(yaw))
    return np.asarray(np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ shape)


def _draw(
    axes: Axes,
    shape: np.ndarray,
    colour: str,
    *,
    width: float = 1.4,
    points: bool = True,
    depth: bool = True,
) -> None:
    """One shape (3, L) as seen from +z; with ``depth`` what is farther away is fainter."""
    spread = np.ptp(shape[2])
    near = (shape[2] - shape[2].min()) / spread if depth and spread > 0 else np.ones(shape.shape[1])
    alpha = 0.25 + 0.75 * near
    pairs = connections(shape.shape[1])
    order = sorted(pairs, key=lambda p: shape[2, p[0]] + shape[2, p[1]])
    if order:
        lines = LineCollection(
            [shape[:2, list(pair)].T for pair in order],
            colors=colour,
            linewidths=width,
            alpha=[float(alpha[list(pair)].mean()) for pair in order],
            capstyle="round",
        )
        axes.add_collection(lines)
    if points:
        back_to_front = np.argsort(shape[2])
        axes.scatter(
            shape[0, back_to_front],
            shape[1, back_to_front],
            s=13,
            color=colour,
            alpha=alpha[back_to_front],  # type: ignore[arg-type]  # matplotlib takes one a point
            edgecolors=CARD,
            linewidths=0.5,
            zorder=3,
        )


def _frame(axes: Axes, shapes: Sequence[np.ndarray]) -> None:
    low = np.min([s[:2].min(axis=1) for s in shapes], axis=0)
    high = np.max([s[:2].max(axis=1) for s in shapes], axis=0)
    middle, half = (low + high) / 2, float(np.max(high - low)) * 0.54
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_aspect("equal")
    axes.set_axis_off()


def shape_views(shape: np.ndarray) -> list[tuple[str, Markup]]:
    """(name of the view, figure) from the front, three-quarter and in profile; shape (3, L)."""
    found = []
    for name, yaw in VIEWS:
        with canvas(300, 300, fitted=False) as figure:
            axes = figure.add_axes((0, 0, 1, 1))
            turned = _turned(shape, yaw)
            _draw(axes, turned, SERIES[0], width=1.6)
            _frame(axes, [turned])
            alt = f"Rigid 3D shape of {shape.shape[1]} landmarks, {name} view."
            found.append((name, inline_svg(figure, alt)))
    return found


def basis_views(shape: np.ndarray, change: np.ndarray, number: int) -> Markup:
    """One basis shape: the mean (grey) and mean -/+ ``change``, from the front and in profile.

    shape, change : float64 (3, L).
    """
    with canvas(420, 200, fitted=False) as figure:
        for column, yaw in enumerate((0.0, 90.0)):
            axes = figure.add_axes((column / 2, 0, 0.5, 1))
            mean, less, more = (_turned(shape + k * change, yaw) for k in (0, -1, 1))
            _draw(axes, mean, MUTED, width=0.9, points=not connections(shape.shape[1]), depth=False)
            for moved, colour in ((less, SERIES[0]), (more, SERIES[1])):
                _draw(
                    axes,
                    moved,
                    colour,
                    width=1.4,
                    points=not connections(shape.shape[1]),
                    depth=False,
                )
            _frame(axes, [mean, less, more])
        return inline_svg(figure, f"Basis shape {number}: mean, minus and plus, front and profile.")
