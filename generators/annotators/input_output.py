"""Pixels to an annotator's input, and its output to rows of named numbers.

Nothing is guessed about a result's shape: axes of length 1 may come or go, every other axis must
stand where the description says.
"""

from __future__ import annotations

import math

import numpy as np

from generators.annotators.card import AnnotatorCard
from generators.annotators.kinds.base import long_axes
from generators.annotators.kinds.catalog import KINDS

_SAMPLING = {"nearest": "NEAREST", "bilinear": "BILINEAR"}


def prepare(images: np.ndarray, card: AnnotatorCard) -> np.ndarray:
    """Images uint8 (n, h, w, 3) RGB -> the model's input, float32 in its layout and range."""
    pixels = resized(images, card.size, card.resize)
    if card.colour == "BGR":
        pixels = pixels[..., ::-1]
    low, high = card.value_range
    values = pixels.astype(np.float32)
    values *= np.float32((high - low) / 255.0)
    values += np.float32(low)
    if card.mean is not None:
        values -= np.asarray(card.mean, np.float32)
    if card.std is not None:
        values /= np.asarray(card.std, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if card.layout == "NCHW" else values)


def resized(images: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    """uint8 (n, h, w, 3) at ``size`` (height, width) by Pillow; unchanged when it fits already."""
    height, width = images.shape[1:3]
    if (height, width) == size:
        return images
    from PIL import Image

    kinds = Image.Resampling
    if method == "antialias":
        integer = height % size[0] == 0 and width % size[1] == 0
        kind = kinds.BOX if integer else kinds.LANCZOS
    else:
        kind = {"bilinear": kinds.BILINEAR, "bicubic": kinds.BICUBIC, "nearest": kinds.NEAREST}[
            method
        ]
    out = np.empty((len(images), *size, 3), np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(image))
        out[i] = np.asarray(picture.resize((size[1], size[0]), kind))
    return out


def cut(
    image: np.ndarray, to_picture: np.ndarray, size: tuple[int, int], resize: str
) -> np.ndarray:
    """The crop uint8 (*size, 3) of a picture uint8 (h, w, 3).

    to_picture : its map (2, 3). resize : as in a description; a crop larger than the input is made
    of a picture that was shrunk first.
    """
    from PIL import Image

    linear = to_picture[:, :2]
    step = math.sqrt(abs(float(np.linalg.det(linear))))
    ratio = np.ones(2)
    if step > 1:
        height, width = image.shape[:2]
        smaller = max(round(height / step), 1), max(round(width / step), 1)
        ratio = np.array([smaller[1] / width, smaller[0] / height])
        image = resized(image[None], smaller, resize)[0]
    kind = Image.Resampling[_SAMPLING.get(resize, "BICUBIC")]
    picture = Image.fromarray(np.ascontiguousarray(image))
    coefficients = (to_picture * ratio[:, None]).ravel().tolist()
    return np.asarray(
        picture.transform((size[1], size[0]), Image.Transform.AFFINE, coefficients, resample=kind)
    )


def one_row_each(result: np.ndarray, n: int, card: AnnotatorCard) -> np.ndarray | None:
    """A model's result for n images as (n, *row_shape); None where it has another shape."""
    for shape in card.output_shapes:
        if long_axes(result.shape) == long_axes((n, *shape)):
            return _in_order(result.reshape(n, *card.output_shapes[0]), card)
    return None


def rows_of_one(result: np.ndarray, card: AnnotatorCard) -> np.ndarray | None:
    """A model's result for one image, a row each face, as (m, *row_shape); m may be 0.

    None where it has another shape.
    """
    if not result.size:
        return np.empty((0, *card.row_shape), np.float32)
    for shape in card.output_shapes:
        found = result[0] if result.ndim >= len(shape) + 2 and len(result) == 1 else result
        if found.ndim > 1 and len(found) > 1 and long_axes(found.shape[1:]) == long_axes(shape):
            return _in_order(found.reshape(-1, *card.output_shapes[0]), card)
    return None


def one_score_each(result: np.ndarray, n: int, card: AnnotatorCard) -> np.ndarray | None:
    """The presence output for n rows as float64 (n,); None where it has another shape."""
    index = card.presence_index
    if index is None:
        return (
            result.reshape(n).astype(np.float64)
            if long_axes(result.shape) == long_axes((n,))
            else None
        )
    each = result.shape[-1] if result.ndim else 0
    if index >= each or long_axes(result.shape) != long_axes((n, each)):
        return None
    return result.reshape(n, each)[:, index].astype(np.float64)


def shape_cure(shape: tuple[int, ...], n: int, card: AnnotatorCard) -> str:
    """What to change in the description so that a result of this shape for n images fits it."""
    return KINDS.load(card.kind).shape_cure(shape, n, card)


def finish(values: np.ndarray, card: AnnotatorCard, shape: tuple[int, int]) -> np.ndarray:
    """The model's numbers as stored: activation of scores, angles in degrees, landmarks in pixels
    of an image, embeddings with length 1.

    values : float32 (n, *row_shape). shape : (height, width) of the image in whose pixels
        landmarks are.
    """
    return KINDS.load(card.kind).finish(values, card, shape)


def placed(values: np.ndarray, card: AnnotatorCard, maps: np.ndarray) -> np.ndarray:
    """`finish`ed numbers of crops as those of the whole picture; maps : see `crop.maps_of`."""
    return KINDS.load(card.kind).placed(values, card, maps)


def _in_order(values: np.ndarray, card: AnnotatorCard) -> np.ndarray:
    return KINDS.load(card.kind).in_order(values, card)
