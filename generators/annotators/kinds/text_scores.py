"""How well texts fit an image, by a model of images and texts such as CLIP (Radford et al. 2021).

The model file is the image encoder; the texts were encoded before, into a file beside it. A score
is ``scale * cosine(image, text) + bias``, CLIP's ``logits_per_image``. What the description's
``options`` say:

======== ===========================================================================================
texts    name of the ``.npz`` or ``.safetensors`` file beside the description: of each of ``names``
         an array (d,), or (k, d) of k texts of one meaning, whose unit vectors are averaged
scale    by which the cosine is multiplied, 1 by default; CLIP's ``logit_scale.exp()``, often 100
bias     added to it, 0 by default; SigLIP's ``logit_bias``
groups   lists of names between which "softmax" chooses; by default all names are one group. Names
         that are in none stay as they are
======== ===========================================================================================
"""

from __future__ import annotations

import functools
import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from generators.annotators.kinds.base import AnnotatorKind, Described
from generators.annotators.kinds.scores import activated
from generators.tensor_files import SUFFIX, read_safetensors

_KEYS = ("texts", "scale", "bias", "groups")
_MAX_BYTES = 1 << 28
#: What numpy raises of damaged files; MemoryError where an array's head promises too large a shape.
_UNREADABLE = (OSError, ValueError, TypeError, AttributeError, EOFError, MemoryError,
               NotImplementedError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile,
               zlib.error)  # fmt: skip


class TextScores(AnnotatorKind):
    """One score a text: the fit of image and text, as a logit or a probability."""

    name = "text_scores"
    text = (
        "how well each text fits the image: an image encoder such as CLIP's, and a file of encoded"
        " texts beside it"
    )
    role = "scores"
    unit = "score"
    keys = frozenset({"activation"})

    def check(self, names: tuple[str, ...], options: Mapping[str, Any]) -> None:
        unknown = sorted(set(options) - set(_KEYS))
        if unknown:
            raise ValueError(f"'options' has {unknown!r}: kind {self.name!r} knows {_KEYS!r}")
        texts = options.get("texts")
        if not isinstance(texts, str) or Path(texts).name != texts:
            raise ValueError(
                f"'options.texts' is {texts!r}: name the file of text embeddings beside this "
                "description, such as 'texts.npz'"
            )
        for key in ("scale", "bias"):
            value = options.get(key, 1)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or (key == "scale" and value <= 0):
                least = " above 0" if key == "scale" else ""
                raise ValueError(f"'options.{key}' is {value!r}: give a number{least}")
        _check_groups(options.get("groups"), names)

    def data_files(self, card: Described) -> list[Path]:
        if card.activation != "softmax" and card.options.get("groups") is not None:
            raise ValueError(
                f"'options.groups' is given and 'activation' is {card.activation!r}: groups are "
                "those of 'softmax', set it, or leave 'groups' out"
            )
        _texts(card)
        return [_file(card)]

    def output_shapes(self, card: Described) -> tuple[tuple[int, ...], ...]:
        return ((_texts(card).shape[1],),)

    def in_order(self, values: np.ndarray, card: Described) -> np.ndarray:
        image = values.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            image = image / np.sqrt((image**2).sum(axis=1, keepdims=True))
            # row by row: the bits of one product would depend on how many rows there are
            texts = _texts(card)
            cosine = np.array([texts @ row for row in image]).reshape(len(image), len(texts))
        return card.options.get("scale", 1.0) * cosine + card.options.get("bias", 0.0)

    def finish(self, values: np.ndarray, card: Described, shape: tuple[int, int]) -> np.ndarray:
        groups = card.options.get("groups")
        if card.activation is None or groups is None:
            return activated(values, card.activation)
        found = values.astype(np.float32)
        for group in groups:
            columns = [card.names.index(name) for name in group]
            found[:, columns] = activated(values[:, columns], card.activation)
        return found

    def shape_cure(self, shape: tuple[int, ...], n: int, card: Described) -> str:
        width = _texts(card).shape[1]
        return (
            f"texts of {card.options['texts']!r} have {width} numbers: encode them with the text "
            "encoder that belongs to this image encoder, or correct 'output'"
        )


def _check_groups(groups: Any, names: tuple[str, ...]) -> None:
    if groups is None:
        return
    whole = isinstance(groups, list) and all(
        isinstance(g, list) and len(g) > 1 and all(isinstance(name, str) for name in g)
        for g in groups
    )
    if not whole or not groups:
        raise ValueError(
            f"'options.groups' is {groups!r}: give lists of names, two or more in each"
        )
    given = [name for group in groups for name in group]
    wrong = sorted({n for n in given if n not in names or given.count(n) > 1})
    if wrong:
        raise ValueError(
            f"'options.groups' has {wrong!r}: give names of 'names', each in one group at most"
        )


def _file(card: Described) -> Path:
    return Path(card.path).with_name(card.options["texts"])


def _texts(card: Described) -> np.ndarray:
    """Unit vectors of the names, float64 (len(names), d). Raises ValueError, see `_read`."""
    path = _file(card)
    try:
        facts = path.stat()
    except OSError as e:
        raise ValueError(
            f"'options.texts' names {path.name!r}, which is not beside the description: put it "
            "there"
        ) from e
    return _read(path, card.names, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=16)
def _read(path: Path, names: tuple[str, ...], changed: int, size: int) -> np.ndarray:
    """changed, size : of the file, so that another one of its name is read."""
    arrays = _arrays(path, size)
    lacking = [name for name in names if name not in arrays]
    if lacking:
        raise ValueError(
            f"{path.name!r} has no texts {lacking!r}, only {sorted(arrays)!r}: name them alike in "
            "'names'"
        )
    found = {name: _unit(arrays[name], name, path) for name in names}
    widths = {name: len(vector) for name, vector in found.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(
            f"texts of {path.name!r} have {widths!r} numbers: encode all of them with one model"
        )
    return np.stack(list(found.values()))


def _unit(value: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Mean direction of one text (d,) or of several (k, d), float64 (d,) of length 1."""
    if value.dtype.kind != "f" or value.ndim not in (1, 2) or not value.size:
        raise ValueError(
            f"text {name!r} of {path.name!r} is {value.dtype} {value.shape!r}: give its embedding "
            "(d,), or (k, d) of several texts"
        )
    each = np.atleast_2d(value.astype(np.float64))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        mean = (each / np.sqrt((each**2).sum(axis=1, keepdims=True))).mean(axis=0)
        unit: np.ndarray = mean / np.sqrt((mean**2).sum())
    if not np.isfinite(unit).all():
        raise ValueError(
            f"text {name!r} of {path.name!r} has no direction: it is zero, or not finite; encode "
            "it again"
        )
    return unit


def _arrays(path: Path, size: int) -> dict[str, np.ndarray]:
    if size > _MAX_BYTES:
        raise ValueError(
            f"{path.name!r} has {size} bytes, texts at most {_MAX_BYTES}: name the file of text "
            "embeddings"
        )
    try:
        if path.suffix == SUFFIX:
            return read_safetensors(path.read_bytes())[0]
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _MAX_BYTES:
            raise ValueError(f"{unpacked} bytes unpacked, texts have at most {_MAX_BYTES}")
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except _UNREADABLE as e:
        raise ValueError(
            f"{path.name!r} holds no text embeddings ({e}): write it with numpy.savez or "
            "safetensors"
        ) from e


PLUGIN = TextScores()
