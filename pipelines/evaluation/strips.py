"""Strips: what a direction does to the pictures, one row a code, one column a strength."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from generators.edits import axes_of, fitted_to, in_space_of, moves_to
from generators.protocols import Edit
from pipelines.evaluation.samples import Samples
from schemas.atomic import write_bytes
from schemas.directions.direction_set import Direction, apply
from schemas.directions.large import digest_of
from schemas.errors import DataError, DirectionMismatchError, InputError, UsageError

if TYPE_CHECKING:
    from generators.protocols import Generator, ModelFacts

#: Cells are enlarged by a whole factor to at least this many pixels.
MIN_CELL = 96
MAX_CELLS = 4096
Refine = Callable[[Samples, np.ndarray], np.ndarray]
_GAP, _MARGIN, _FONT_SIZE = 4, 12, 15
_PAPER, _INK, _MUTED = (255, 255, 255), (28, 30, 33), (104, 109, 117)


def edit_images(
    generator: Generator,
    codes: np.ndarray | Samples,
    direction: Direction,
    strengths: Sequence[float],
    unit: str = "sd",
    *,
    space: str | None = None,
    layers: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    refine: Refine | None = None,
    batch_size: int = 16,
    classes: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Pictures of every code at every strength, uint8 (rows, strengths, height, width, 3).

    codes : float32 (rows, *row_shape) in ``space``, by default the generator's own; or with all
        that they are drawn with, such as `pipelines.downstream.FinishedRun.samples`.
    strengths : in standard deviations, or with ``unit="raw"`` in units of the space; relative to
        each row (DESIGN section 2).
    direction : of the same space, of one whose code stands in each layer of the codes, of one
        that is injected while they are drawn (see `generators.protocols.Edit`), or of one that
        the codes are converted to (see `generators.edits.in_space_of`).
    layers : edit only these layers, by the amount by which the whole direction would edit them.
    options : of an injected space.
    refine : called with the samples and the edited codes (rows, strengths, *row_shape), gives
        others in their place, such as `pipelines.evaluation.gradient_strips.GradientEdit`.
    classes : class number of every code, for a class-conditional generator; not with samples,
        which have theirs.

    Raises DirectionMismatchError when the direction was made for another generator or space, or
    the codes do not have that space's shape; UsageError for another unit or for no strengths.
    """
    facts = generator.facts
    samples = codes
    if not isinstance(samples, Samples):
        samples = Samples(space or facts.default_space, np.asarray(codes), classes)
    codes, space = samples.codes, samples.space
    if tuple(codes.shape[1:]) != facts.space(space).shape:
        raise DirectionMismatchError(
            f"codes have shape {tuple(codes.shape[1:])!r} a row, space {space!r} of the "
            f"generator has {facts.space(space).shape!r}; pass codes of that space"
        )
    if moves_to(facts, direction, space):
        code = in_space_of(generator, samples.code(), direction, samples.classes)
        samples = Samples.of(code, samples.classes, samples.noise)
        codes, space = samples.codes, samples.space
    direction = fitted_to(facts, direction, space)
    amounts = _strengths(strengths)
    if len(codes) == 0:
        raise DataError("0 codes were given for a strip; give at least one")
    if len(codes) * len(amounts) > MAX_CELLS:
        raise UsageError(
            f"{len(codes)!r} codes at {len(amounts)!r} strengths are more than {MAX_CELLS!r} "
            "images; draw several strips"
        )
    if refine is None:
        edits = Edits(direction, amounts, unit, layers, options or {})
        pictures = drawn(generator, samples, batch_size, edits)
    else:
        edited = [apply(codes, direction, amount, unit, layers) for amount in amounts]
        moved = refine(samples, np.stack(edited, axis=1)).reshape(-1, *codes.shape[1:])
        repeated = samples[np.repeat(np.arange(len(codes)), len(amounts))]
        pictures = drawn(generator, replace(repeated, codes=moved), batch_size)
    images = np.concatenate(list(pictures))
    return images.reshape(len(codes), len(amounts), *images.shape[1:])


class Edits(NamedTuple):
    """One code at every strength, float64 (k,); the others as of `generators.protocols.Edit`."""

    direction: Direction
    strengths: np.ndarray
    unit: str = "sd"
    layers: Sequence[int] | None = None
    options: Mapping[str, Any] = MappingProxyType({})


def drawn(
    generator: Generator, samples: Samples, batch_size: int, edits: Edits | None = None
) -> Iterator[np.ndarray]:
    """Pictures uint8 (n, height, width, 3) of samples, each at every strength before the next,
    batch by batch."""
    import torch

    from transforms.images.preprocess import to_uint8

    columns = 1 if edits is None else len(edits.strengths)
    for start in range(0, len(samples) * columns, batch_size):
        cells = np.arange(start, min(start + batch_size, len(samples) * columns))
        part = samples[cells // columns]
        code, labels = part.code(), part.classes
        if edits is not None:
            code = in_space_of(generator, code, edits.direction, labels)
        own = [] if edits is None else [Edit(edits.direction, edits.strengths[cells % columns],
                                             *edits[2:])]  # fmt: skip
        with torch.inference_mode():
            images = generator.draw(code, labels=labels, edits=own, noise=part.noise).cpu().numpy()
        yield to_uint8(images)


def read_mask(path: Path, direction: Direction, facts: ModelFacts) -> np.ndarray:
    """The option "mask" of an edit from an image of any size: float32 (height, width) of the
    direction's feature maps, white 1, black 0.

    Raises UsageError for a direction of a space without that option, InputError for no image.
    """
    space = facts.spaces.get(direction.space)
    if space is None or "mask" not in space.options:
        having = [s.name for s in facts.spaces.values() if "mask" in s.options]
        raise UsageError(
            f"direction {direction.name!r} is of space {direction.space!r}, where edits take no "
            f"mask (they do in {having!r}): leave --mask out, or use a direction of such a space"
        )
    height, width = space.shape[-2:]
    try:
        with Image.open(path) as image:
            small = image.convert("L").resize((width, height), Image.Resampling.BOX)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise InputError(f"mask {str(path)!r} is no readable image ({e}): give a PNG") from e
    return np.asarray(small, np.float32) / 255


def draw_strips(
    generator: Generator,
    codes: np.ndarray | Samples,
    direction: Direction,
    strengths: Sequence[float],
    unit: str = "sd",
    path: str | os.PathLike[str] = "strip.png",
    *,
    space: str | None = None,
    labels: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    refine: Refine | None = None,
    facts: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    classes: Sequence[int] | np.ndarray | None = None,
) -> Path:
    """Draw a labelled strip to a PNG file and return its path. See ``edit_images``.

    The file's text entry ``latentflow`` says as JSON what was drawn, with further ``facts``. The
    same input gives the same bytes. Raises UsageError when ``path`` does not end in ".png".
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(
            f"strips are written as PNG, not as {path.suffix!r}; end {str(path)!r} in '.png'"
        )
    images = edit_images(
        generator,
        codes,
        direction,
        strengths,
        unit,
        space=space,
        layers=layers,
        options=options,
        refine=refine,
        batch_size=batch_size,
        classes=classes,
    )
    if labels is None:
        labels = [str(row) for row in range(len(images))]
    kept = (facts or {}).get("keep")
    title = f"{direction.name}, keeping {', '.join(kept)}" if kept else direction.name
    told = axes_of(generator.facts).get(direction.name, "") if direction.method == "axis" else unit
    picture = strip_grid(images, strengths, labels, unit=told, title=title)
    space = codes.space if isinstance(codes, Samples) else space
    drawn = {**_facts(generator, direction, strengths, unit, space), **(facts or {})}
    if options:
        drawn["options"] = {name: _told(np.asarray(value)) for name, value in options.items()}
    if layers is not None:
        drawn["layers"] = sorted({int(layer) for layer in layers})
    write_bytes(path, _png(picture, drawn))
    return path


def strip_grid(
    images: np.ndarray,
    strengths: Sequence[float],
    labels: Sequence[str] | None,
    *,
    unit: str = "sd",
    title: str = "",
) -> Image.Image:
    """One RGB picture of a table of pictures: strengths above the columns, labels left of the rows.

    images : uint8 (rows, strengths, R, R, 3); enlarged by a whole factor to at least 96 pixels.
    labels : one a row, or None for no labels. title : a line above the table.

    Raises DataError when the counts do not agree or the images are not uint8.
    """
    images = np.asarray(images)
    if images.ndim != 5 or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape:
        raise DataError(
            f"'images' has shape {images.shape!r} and dtype {images.dtype.name!r}; a strip needs "
            "uint8 (rows, strengths, height, width, 3)"
        )
    rows, columns, height, width = images.shape[:4]
    if columns != len(strengths) or (labels is not None and len(labels) != rows):
        given = None if labels is None else len(labels)
        raise DataError(
            f"{rows!r} rows of {columns!r} images do not fit {given!r} labels and "
            f"{len(strengths)!r} strengths; give one label a row and one strength a column"
        )
    factor = max(1, -(-MIN_CELL // min(height, width)))
    cell_w, cell_h = width * factor, height * factor
    font = ImageFont.load_default(_FONT_SIZE)
    bold = ImageFont.load_default(_FONT_SIZE + 3)
    names = [] if labels is None else [_one_line(label) for label in labels]
    left = _MARGIN + (max(_width(font, name) for name in names) + 10 if names else 0)
    top = _MARGIN + (30 if title else 0) + 24
    size = (
        max(left + columns * (cell_w + _GAP) - _GAP, _width(bold, _one_line(title)) + _MARGIN)
        + _MARGIN,
        top + rows * (cell_h + _GAP) - _GAP + _MARGIN,
    )
    picture = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((_MARGIN, _MARGIN + 8), _one_line(title), _INK, bold, anchor="lm")
    for column, strength in enumerate(strengths):
        x = left + column * (cell_w + _GAP)
        # the font that Pillow brings has no minus sign
        text = strength_label(strength, unit).replace("\N{MINUS SIGN}", "-")
        draw.text((x + cell_w / 2, top - 12), text, _MUTED, font, anchor="mm")
        for row in range(rows):
            cell = Image.fromarray(images[row, column])
            cell = cell.resize((cell_w, cell_h), Image.Resampling.LANCZOS)
            picture.paste(cell, (x, top + row * (cell_h + _GAP)))
    for row, name in enumerate(names):
        y = top + row * (cell_h + _GAP) + cell_h / 2
        draw.text((left - 10, y), name, _MUTED, font, anchor="rm")
    return picture


def strength_label(strength: float, unit: str = "sd") -> str:
    """How a strength is written: "+2 sd", "0", "\N{MINUS SIGN}1.5 px"; raw units without a name."""
    if strength == 0:
        return "0"
    sign = "+" if strength > 0 else "\N{MINUS SIGN}"
    return f"{sign}{abs(strength):g}" + (f" {unit}" if unit not in ("", "raw") else "")


def _told(value: np.ndarray) -> Any:
    return (
        value.tolist() if value.size <= 16 else {"shape": value.shape, "sha256": digest_of(value)}
    )


def _strengths(strengths: Sequence[float]) -> np.ndarray:
    amounts = np.asarray(strengths, dtype=np.float64)
    if amounts.ndim != 1 or len(amounts) == 0 or not np.isfinite(amounts).all():
        raise UsageError(
            f"strengths are {strengths!r}; give at least one finite number, such as -2 0 2"
        )
    return amounts


def _one_line(text: str) -> str:
    """Text for a picture: one line, unprintable characters shown as a question mark."""
    line = " ".join(str(text).split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= 60 else line[:57] + "..."


def _width(font: Any, text: str) -> int:
    return int(np.ceil(font.getlength(text)))


def _facts(
    generator: Generator,
    direction: Direction,
    strengths: Sequence[float],
    unit: str,
    space: str | None,
) -> dict[str, Any]:
    return {
        "generator_fp": generator.facts.fingerprint,
        "direction": direction.name,
        "method": direction.method,
        "space": space or generator.facts.default_space,
        "strengths": [float(s) for s in strengths],
        "unit": unit,
        "sd": direction.sd,
    }


def _png(picture: Image.Image, facts: dict[str, Any]) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("latentflow", json.dumps(facts, sort_keys=True))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=text, optimize=True)
    return buffer.getvalue()
