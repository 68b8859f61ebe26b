"""What annotators of every kind of file share: trying a model, images in, named numbers out."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from generators.annotators.card import AnnotatorCard
from generators.annotators.crop import Crop, beside, maps_of
from generators.annotators.input_output import (
    cut,
    finish,
    one_row_each,
    one_score_each,
    placed,
    prepare,
    resized,
    rows_of_one,
    shape_cure,
)
from schemas.errors import CheckpointError, UsageError, is_out_of_memory
from schemas.store.reasons import Reason

#: Rows of a batch may differ by this share of the largest number from those of single images:
#: less than pictures that are mixed up, more than any rounding.
BATCH_TOLERANCE = 5e-3


class Prediction(NamedTuple):
    """What a model says of n images.

    values : float32 (n, k), landmarks (n, points, 2); NaN where there is a reason.
    reasons : uint8 (n,), see `schemas.store.reasons`: NO_FACE, SEVERAL_FACES, MODEL_FAILED.
    messages : row -> what the model said, of rows on which it failed.
    """

    values: np.ndarray
    reasons: np.ndarray
    messages: Mapping[int, str]


class ShapeError(CheckpointError):
    """A result that is not of the declared shape. shape : what it is, where it is an array."""

    def __init__(self, text: str, shape: tuple[int, ...] | None = None) -> None:
        super().__init__(text)
        self.shape = shape


class AnnotatorModel(ABC):
    """What both kinds of file share: pixels in, named numbers out.

    finder : the annotator that finds the crop which the model looks at, None for whole pictures.
    notes : what a user should know about how the model is read. unproven : why the model failed
    on all pictures that it was tried on, where it did; it may need pictures of another kind.
    """

    def __init__(self, card: AnnotatorCard, finder: AnnotatorModel | None = None) -> None:
        self.card = card
        self.finder = finder
        self.fingerprint = card.fingerprint
        self.name = card.name
        self.kind = card.kind
        self.names: tuple[str, ...] = card.names
        self.notes: list[str] = []
        self.unproven: str | None = None
        self._batch: int | None = None
        self._single = False
        self._of_faces = False
        self._works: np.ndarray | None = None
        self._misfit: ShapeError | None = None
        self._last: tuple[bytes, Prediction] | None = None

    def annotate(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 (n, h, w, 3) -> float32 (n, len(names)), landmarks (n, len(names), 2).

        Landmarks are in pixels of the given images: x right, y down, centres at integer + 0.5.
        Scores are as the model gives them (after its declared activation), pose is in degrees.
        Rows that could not be measured are NaN; `predict` tells why.
        """
        return self.predict(images).values

    def predict(self, images: np.ndarray, size: tuple[int, int] | None = None) -> Prediction:
        """`annotate`, and why rows have no numbers.

        size : landmarks are in pixels of a picture of this (height, width), by default of the
            images.

        An image on which the model fails does not stop the others. Raises CheckpointError when it
        fails on all of them and has never worked, or no longer works where it did.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UsageError(
                f"'images' must be uint8 (n, height, width, 3), got {images.dtype} {images.shape}"
            )
        n = len(images)
        if not n:
            return Prediction(np.empty((0, *self.card.row_shape), np.float32), _reasons(0), {})
        if self.unproven is not None and not self.prove(images):
            raise CheckpointError(f"annotator {self.card.path!r} failed: {self.unproven}")
        size = images.shape[1:3] if size is None else size
        if self.finder is not None and self.card.crop is not None:
            return self._of_crops(images, self.finder, self.card.crop, size)
        found = self._measured(images)
        values = finish(found.values, self.card, size)
        values[found.reasons != Reason.NONE] = np.nan
        return found._replace(values=values)

    def _measured(self, images: np.ndarray) -> Prediction:
        """The model's rows, as the model gives them."""
        inputs, n = prepare(images, self.card), len(images)
        step = self._batch or (1 if self._single else n)
        return _joined([self._measure(inputs[i : i + step]) for i in range(0, n, step)])

    def _of_crops(
        self, images: np.ndarray, finder: AnnotatorModel, crop: Crop, size: tuple[int, int]
    ) -> Prediction:
        """`predict` of the parts that the finder finds; a row in which it finds none has its
        reason."""
        card = self.card
        crops, maps, rows, found = self._crops(images, finder, crop)
        values = np.full((len(images), *card.row_shape), np.nan, np.float32)
        reasons, messages = found.reasons.copy(), dict(found.messages)
        if len(rows):
            own = self._measured(crops)
            ratio = np.array([size[1] / images.shape[2], size[0] / images.shape[1]])
            kept = placed(finish(own.values, card, card.size), card, maps * ratio[:, None])
            kept[own.reasons != Reason.NONE] = np.nan
            values[rows], reasons[rows] = kept, own.reasons
            messages |= {int(rows[i]): text for i, text in own.messages.items()}
        return Prediction(values, reasons, messages)

    def _crops(
        self, images: np.ndarray, finder: AnnotatorModel, crop: Crop
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Prediction]:
        """Crops uint8 (m, *size, 3), their maps (m, 2, 3), their m rows, and what the finder gave
        for all rows."""
        card, found = self.card, finder.recalled(images)
        maps = maps_of(found.values, finder.names, crop, card.size)
        lost = ~np.isfinite(maps).all(axis=(1, 2)) & (found.reasons == Reason.NONE)
        reasons = np.where(lost, np.uint8(Reason.NOT_FINITE), found.reasons)
        rows = np.flatnonzero(reasons == Reason.NONE)
        reasons[rows[beside(maps[rows], card.size, images.shape[1:3])]] = Reason.NO_FACE
        found = found._replace(reasons=reasons)
        rows = np.flatnonzero(reasons == Reason.NONE)
        crops = np.empty((len(rows), *card.size, 3), np.uint8)
        for i, row in enumerate(rows):
            crops[i] = cut(images[row], maps[row], card.size, card.resize)
        return crops, maps[rows], rows, found

    def recalled(self, images: np.ndarray) -> Prediction:
        """`predict`, remembered for as long as the same images are asked for: several annotators
        look at what one finds."""
        key = hashlib.blake2b(np.ascontiguousarray(images).data, digest_size=16).digest()
        key += repr(images.shape).encode()
        if self._last is None or self._last[0] != key:
            self._last = key, self.predict(images)
        return self._last[1]

    def prove(self, images: np.ndarray) -> bool:
        """Whether the model works on one of these images at least; see ``unproven``."""
        if self.finder is not None and self.card.crop is not None:
            images = self._crops(images, self.finder, self.card.crop)[0]
        for i in range(len(images)):
            given = prepare(images[i : i + 1], self.card)
            found = self._measure(given)
            if found.reasons[0] != Reason.MODEL_FAILED:
                self._works, self.unproven = given, None
                return True
            self.unproven = found.messages[0]
        return False

    def _measure(self, inputs: np.ndarray) -> Prediction:
        """The model's rows for inputs of at most the batch size, as the model gives them."""
        n = len(inputs)
        size = self._batch or n
        padded = inputs
        if n < size:
            padded = np.concatenate([inputs, np.repeat(inputs[-1:], size - n, axis=0)])
        try:
            outputs = [np.asarray(output) for output in self._run(padded)]
            values, reasons = self._rows(outputs, size)
        except ShapeError as e:
            if n > 1:  # rows for other faces than one an image: whose they are, one alone shows
                return _joined([self._measure(inputs[i : i + 1]) for i in range(n)])
            return self._failed(e)
        except Exception as e:  # onnxruntime and torch have their own types, one a failure
            if is_out_of_memory(e):
                raise
            if n > 1:
                half = n // 2
                return _joined([self._measure(inputs[:half]), self._measure(inputs[half:])])
            return self._failed(e)
        with np.errstate(over="ignore", invalid="ignore"):
            return Prediction(values[:n].astype(np.float32), reasons[:n], {})

    def _failed(self, error: Exception) -> Prediction:
        """One image on which the model fails; CheckpointError when it fails on any by now."""
        if isinstance(error, ShapeError):
            self._misfit = error
        elif self._works is not None:
            try:
                self._run(np.repeat(self._works, self._batch or 1, axis=0))
            except Exception as e:
                if is_out_of_memory(e):
                    raise
                raise CheckpointError(
                    f"annotator {self.card.path!r} no longer works, on an image where it did: {e}; "
                    "the device may have failed: run again"
                ) from error
        values = np.full((1, *self.card.row_shape), np.nan, np.float32)
        return Prediction(values, _reasons(1, Reason.MODEL_FAILED), {0: str(error)})

    def _rows(self, outputs: Sequence[np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
        """Values (n, *row_shape) and reasons (n,) of n images. Raises ShapeError."""
        card, result = self.card, outputs[0]
        if result.dtype.kind not in "fiub":
            raise ShapeError(
                f"annotator {card.path!r} gave values of type {result.dtype}, expected numbers: "
                "correct 'output'"
            )
        values = one_row_each(result, n, card)
        if values is None and n == 1:
            values = rows_of_one(result, card)
            if values is not None:
                self._of_faces = True
                return self._best(values, outputs)
        if values is None:
            raise self._other_shape(result.shape, n)
        reasons = _reasons(n)
        if card.presence is not None:
            score = self._scores(outputs[1], n)
            values = np.array(values, np.float64)
            values[np.isnan(score)] = np.nan
            reasons[score < card.presence[1]] = Reason.NO_FACE
        return values, reasons

    def _best(
        self, values: np.ndarray, outputs: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of one image's faces (m, *row_shape) the one of the highest presence."""
        card, m = self.card, len(values)
        if m and card.presence is not None:
            score = self._scores(outputs[1], m)
            score = np.where(np.isnan(score), -np.inf, score)
            best = int(score.argmax())
            missing = score[best] < card.presence[1]
            return values[best : best + 1], _reasons(1, Reason.NO_FACE if missing else Reason.NONE)
        reason = Reason.SEVERAL_FACES if m else Reason.NO_FACE
        return np.full((1, *card.row_shape), np.nan), _reasons(1, reason)

    def _scores(self, output: np.ndarray, n: int) -> np.ndarray:
        found = one_score_each(output, n, self.card)
        if found is None:
            index = self.card.presence_index
            raise ShapeError(
                f"annotator {self.card.path!r} gave shape {output.shape!r} for its presence, "
                f"expected {(n,)!r}{'' if index is None else f' or more than {index} a row'}: "
                "name the place of the face's score as 'index' of 'presence'"
            )
        return found

    def _other_shape(self, shape: tuple[int, ...], n: int) -> ShapeError:
        card = self.card
        wanted = " or ".join(repr((n, *each)) for each in card.output_shapes)
        return ShapeError(
            f"annotator {card.path!r} gave shape {shape!r} for a batch of {n!r}, its "
            f"description promises {wanted}: {shape_cure(shape, n, card)}",
            shape,
        )

    # ---- trying ------------------------------------------------------------------------------

    def try_out(self) -> None:
        """Run the model on a few pictures, alone and together.

        Raises CheckpointError when it does not give what its description promises, or not twice
        the same. A model whose rows depend on what else is in a batch is run image by image.
        """
        lengths = {length for shape in self.card.output_shapes for length in shape}
        n = next(n for n in (4, 3, 5) if n not in lengths)
        inputs = prepare(_trial_pictures(n, self.card.size), self.card)
        alone = _joined([self._measure(inputs[i : i + 1]) for i in range(n)])
        works = np.flatnonzero(alone.reasons != Reason.MODEL_FAILED)
        if not works.size and self._misfit is not None:
            raise self._misfit
        if not works.size:
            self.unproven, self._single = alone.messages[0], True
            return
        self._works = inputs[works[:1]]
        if (alone.reasons == Reason.SEVERAL_FACES).all():
            shape = np.shape(self._run(np.repeat(self._works, self._batch or 1, axis=0))[0])
            raise CheckpointError(
                f"{self._other_shape(shape, 1)}; where the rows are faces, 'presence' says which "
                "one is meant"
            )
        again = self._measure(self._works)
        if not _agree(again.values, alone.values[works[:1]]):
            raise CheckpointError(
                f"annotator {self.card.path!r} gives other numbers for the same image each time: "
                "export it without random nodes, in evaluation mode"
            )
        self._note_flat()
        why = None if self._single or self._batch == 1 else self._why_alone(inputs, alone)
        if why is None:
            return
        if self._batch is not None:
            raise CheckpointError(
                f"annotator {self.card.path!r} is made for batches of {self._batch!r}, but {why}: "
                "export it for single images, or with a free first axis"
            )
        self._single = True
        self.notes.append(f"annotator {self.card.path!r} is run image by image: {why}")

    def _why_alone(self, inputs: np.ndarray, alone: Prediction) -> str | None:
        """Why the model must see one image at a time; None when a batch gives the same rows."""
        if self._of_faces:
            return "it gives a row for each face, which may be none or several"
        n = self._batch or len(inputs)
        source = np.arange(n) % len(inputs)
        try:
            values, _ = self._rows([np.asarray(o) for o in self._run(inputs[source])], n)
        except ShapeError as e:
            return f"a batch of {n!r} images gives shape {e.shape!r}"
        except Exception as e:  # of whatever type the library has for it
            return f"a batch of {n!r} images fails: {e}"
        use = alone.reasons[source] == Reason.NONE
        if not _agree(values[use], alone.values[source[use]]):
            return "an image's numbers depend on the other images of its batch"
        return None

    def _note_flat(self) -> None:
        card = self.card
        if card.group != "landmarks" or card.order is not None or self._works is None:
            return
        result = np.asarray(self._run(np.repeat(self._works, self._batch or 1, axis=0))[0])
        points, numbers = card.output_shapes[0]
        if points > 1 and result.shape and result.shape[-1] == points * numbers:
            self.notes.append(
                f"annotator {card.path!r} gives landmarks in one row, read as "
                f"{', '.join(card.axes * 2)}, ...: 'order' in its description confirms that "
                '("points") or says otherwise ("planes")'
            )

    @abstractmethod
    def _run(self, batch: np.ndarray) -> list[Any]:
        """The network's outputs for one batch."""


def _reasons(n: int, reason: Reason = Reason.NONE) -> np.ndarray:
    return np.full(n, reason, np.uint8)


def _joined(parts: Sequence[Prediction]) -> Prediction:
    starts = np.cumsum([0, *(len(part.reasons) for part in parts)])
    return Prediction(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.reasons for part in parts]),
        {
            int(start) + row: text
            for start, part in zip(starts, parts, strict=False)
            for row, text in part.messages.items()
        },
    )


def _agree(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two results are the same but for rounding."""
    finite = np.abs(b[np.isfinite(b)])
    tolerance = BATCH_TOLERANCE * float(finite.max(initial=0.0))
    with np.errstate(invalid="ignore"):
        return bool(np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True))


def _trial_pictures(n: int, size: tuple[int, int]) -> np.ndarray:
    """Pictures to try a model on, uint8 (n, *size, 3): a drawn face, noise, white, black, grey."""
    from generators.facerig import random_faces, render

    face = resized(render(random_faces(1)).images[:1], size, "bilinear")
    noise = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    plain = [np.full((1, *size, 3), level, np.uint8) for level in (255, 0, 128)]
    return np.concatenate([face, noise, *plain])[:n]
