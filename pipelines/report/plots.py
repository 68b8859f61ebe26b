"""Figures of the report as inline SVG (and pictures as data URIs).

Figures are drawn by matplotlib in stand-in colours, which become CSS variables of the page: the
same figure then serves light mode, dark mode and paper. Text stays text.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from pipelines.analyses.figures import Curve

# Stand-in colour -> CSS variable. The series colours are those of Okabe and Ito (2008), which
# people with any common colour blindness tell apart; markers differ as well.
INK, MUTED, GRID, CARD = "#f00d01", "#f00d02", "#f00d03", "#f00d04"
SERIES = tuple(f"#f00d1{k}" for k in range(8))
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", CARD: "--card"} | {
    colour: f"--s{k}" for k, colour in enumerate(SERIES)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "latentflow",
    "text.parse_math": False,  # a '$' in somebody's label is a dollar sign
    "text.color": INK,
    "font.size": 11.0,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "ytick.major.size": 0.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
}


@contextlib.contextmanager
def canvas(width: float, height: float, *, fitted: bool = True) -> Iterator[Figure]:
    """A figure of ``width`` x ``height`` CSS pixels in the report's style.

    fitted : axes are laid out so that their labels have room.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        if fitted:
            figure.set_layout_engine("constrained")
        yield figure


def inline_svg(figure: Figure, alt: str) -> Markup:
    """The figure as one <svg> element, its colours CSS variables, with ``alt`` for screen readers.

    Element ids are made unique by ``alt``: two figures of a page need different texts.
    """
    buffer = io.StringIO()
    salt = f"latentflow {alt}"
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(_METADATA))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    width, height = (float(v) for v in figure.get_size_inches() * 72)
    text = re.sub(r'<g id="[A-Za-z0-9.]+_\d+"', "<g", text)
    head = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width:g} {height:g}" '
        f'role="img" aria-label="{escape(alt)}" style="max-width: {width:g}px">'
    )
    text = head + text[text.index(">") + 1 :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return Markup(re.sub(r"\n\s*", "\n", text).strip())


_METADATA = ("Date", "Creator", "Type", "Format")


def picture_uri(image: np.ndarray, quality: int = 90) -> str:
    """uint8 (height, width, 3) as a JPEG data URI, colours at full resolution."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(
        buffer, "JPEG", quality=quality, subsampling=0, optimize=True
    )
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def tile(images: np.ndarray, max_side: int = 128) -> np.ndarray:
    """Pictures (rows, columns, R, R, 3) side by side without gaps, uint8 (height, width, 3).

    Larger cells are reduced to ``max_side`` pixels.
    """
    rows, columns, height, width = images.shape[:4]
    if max(height, width) > max_side:
        scale = max_side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        flat = images.reshape(-1, height, width, 3)
        small = [Image.fromarray(i).resize(size, Image.Resampling.LANCZOS) for i in flat]
        images = np.stack([np.asarray(i) for i in small]).reshape(
            rows, columns, size[1], size[0], 3
        )
    height, width = images.shape[2:4]
    return images.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)


def histogram(values: np.ndarray, label: str, median_text: str, of: str = "rows") -> Markup:
    """How a quality metric is distributed over rows, or what `of` says; the median is marked.

    values : float64 (m,), m >= 1, finite. The 0.1 % tails on both sides are gathered in the
    outermost bins, so that one odd row does not flatten the picture.
    """
    low, high = np.quantile(values, [0.001, 0.999])
    if not high > low:
        low, high = low - 0.5, high + 0.5
    with canvas(430, 210) as figure:
        axes = figure.add_subplot()
        n_bins = int(np.clip(np.sqrt(len(values)) * 1.5, 8, 48))
        axes.hist(
            np.clip(values, low, high),
            bins=n_bins,
            range=(low, high),
            color=SERIES[0],
            edgecolor=CARD,
            linewidth=0.6,
        )
        median = float(np.median(values))
        axes.axvline(median, color=SERIES[1], linewidth=1.6)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
        right = median > (low + high) / 2
        axes.annotate(
            median_text,
            (median, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-6 if right else 6, -2),
            textcoords="offset points",
            va="top",
            ha="right" if right else "left",
            fontweight="bold",
        )
        axes.set_xlabel(label)
        axes.set_ylabel(of)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        return inline_svg(figure, f"Histogram of {label} over {len(values)} {of}, {median_text}.")


def spectrum(ratio: np.ndarray, shown: int = 60) -> tuple[Markup, Markup]:
    """Explained variance ratio of the first components, and its running sum over all of them.

    ratio : float64 (n_components,), descending, each in [0, 1].
    """
    first = ratio[:shown]
    total = np.cumsum(ratio)
    number = np.arange(1, len(ratio) + 1)
    with canvas(430, 230) as figure:
        axes = figure.add_subplot()
        axes.bar(number[:shown], first, color=SERIES[0], width=0.8)
        _percent(axes, "explained variance ratio")
        axes.set_xlabel("component" if len(ratio) <= shown else f"component (first {shown})")
        alt = f"Explained variance ratio of {len(first)} components; the first has {first[0]:.1%}."
        bars = inline_svg(figure, alt)
    with canvas(430, 230) as figure:
        axes = figure.add_subplot()
        axes.plot(number, total, color=SERIES[0], linewidth=2)
        axes.fill_between(number, total, color=SERIES[0], alpha=0.12, linewidth=0)
        for level, below in ((0.5, 11), (0.9, 24), (0.95, 11)):  # labels clear of one another
            if total[-1] >= level:
                at = int(np.argmax(total >= level)) + 1
                axes.plot([at], [total[at - 1]], "o", color=SERIES[1], markersize=5)
                axes.annotate(
                    f"{100 * level:.0f} % at {at}",
                    (at, total[at - 1]),
                    xytext=(7, -below),
                    textcoords="offset points",
                    fontsize=10.5,
                )
        _percent(axes, "cumulative")
        axes.set_ylim(0, 1.03)
        axes.set_xlim(left=min(1, number[-1] * 0.02))
        axes.set_xlabel("components")
        alt = f"Cumulative explained variance: {total[-1]:.1%} with {len(ratio)} components."
        return bars, inline_svg(figure, alt)


def curve(figure: Curve) -> Markup:
    """Lines over one axis, each with its name."""
    with canvas(430, 230) as drawing:
        axes = drawing.add_subplot()
        for i, (name, y) in enumerate(figure.lines.items()):
            colour, marker = SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]
            axes.plot(figure.x, y, color=colour, marker=marker, markersize=4, label=name)
        axes.set_xlabel(figure.x_label)
        axes.set_ylabel(figure.y_label)
        if len(figure.lines) > 1:
            axes.legend()
        named = ", ".join(figure.lines)
        return inline_svg(drawing, f"{figure.y_label} over {figure.x_label}: {named}.")


def _percent(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def subspace(points: np.ndarray, groups: Sequence[tuple[str, float | None]]) -> Markup:
    """Levels of a tensor model's mode in two dimensions, joined by growing intensity.

    points : float64 (levels, 2). groups : (name, intensity) of each level; the level named
    "neutral", or with intensity 0, is where every trajectory starts.
    """
    neutral = [i for i, (name, k) in enumerate(groups) if name.lower() == "neutral" or k == 0]
    origin = points[neutral[0]] if neutral else points.mean(axis=0)
    names = list(dict.fromkeys(name for i, (name, _) in enumerate(groups) if i not in neutral))
    with canvas(600, 500) as figure:
        axes = figure.add_subplot()
        axes.grid(True, axis="both")
        ends: list[tuple[np.ndarray, str, str]] = []
        for n, name in enumerate(names):
            mine = [i for i, (group, _) in enumerate(groups) if group == name and i not in neutral]
            mine.sort(key=lambda i: groups[i][1] or 0.0)
            path = points[mine]
            colour = SERIES[n % len(SERIES)]
            line = np.vstack([origin, path]) if neutral else path
            axes.plot(*line.T, color=colour, linewidth=1.6, alpha=0.75)
            size = np.linspace(32, 95, len(mine)) if len(mine) > 1 else np.array([60.0])
            axes.scatter(
                path[:, 0],
                path[:, 1],
                s=size,
                color=colour,
                marker=MARKERS[n % len(MARKERS)],
                edgecolors=CARD,
                linewidths=0.8,
                zorder=3,
            )
            ends.append((path[-1], name, colour))
        if neutral:
            axes.scatter(
                origin[0], origin[1], s=110, color=CARD, edgecolors=INK, linewidths=2, zorder=4
            )
            axes.annotate(
                "neutral",
                (origin[0], origin[1]),
                xytext=(11, -4),
                textcoords="offset points",
                fontweight="bold",
                zorder=5,
            )
        axes.margins(0.17, 0.12)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel("first coordinate")
        axes.set_ylabel("second coordinate")
        _label_ends(axes, origin, ends)
        listed = ", ".join(names)
        return inline_svg(figure, f"Two-dimensional subspace with trajectories for {listed}.")


def _label_ends(axes: Axes, origin: np.ndarray, ends: list[tuple[np.ndarray, str, str]]) -> None:
    """Names at the outer ends of trajectories, nudged apart vertically where they would touch."""
    figure: Any = axes.figure
    figure.canvas.draw()
    placed: list[tuple[float, float, float]] = []
    order = sorted(ends, key=lambda end: -axes.transData.transform(end[0])[1])
    for point, name, colour in order:
        x, y = axes.transData.transform(point)
        right = point[0] >= origin[0]
        width = 6.6 * len(name)
        start = x + 9 if right else x - 9 - width
        target = y
        for other_start, other_y, other_width in placed:
            meets = start < other_start + other_width + 4 and other_start < start + width + 4
            if meets and abs(target - other_y) < 14:
                target = other_y - 14
        placed.append((start, target, width))
        axes.annotate(
            name,
            (point[0], point[1]),
            xytext=(9 if right else -9, target - y),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            color=colour,
            fontweight="bold",
        )
