"""Annotator models from files: ONNX by onnxruntime, TorchScript where its file is trusted.

Beside each lies its description; see `generators.annotator_card`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from generators.annotator_card import ONNX_ENDINGS, TORCHSCRIPT_ENDINGS, AnnotatorCard, read_card
from schemas.errors import CheckpointError, MissingExtraError, UntrustedError, UsageError


class Prediction(NamedTuple):
    """values : float32 (n, k), landmarks (n, points, 2). present : bool (n,), a face was found."""

    values: np.ndarray
    present: np.ndarray


class _Annotator(ABC):
    """What both kinds of file share: pixels in, named numbers out."""

    def __init__(self, card: AnnotatorCard) -> None:
        self.card = card
        self.fingerprint = card.fingerprint
        self.name = card.name
        self.kind = card.kind
        self.names: tuple[str, ...] = card.names

    def annotate(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 (n, h, w, 3) -> float32 (n, len(names)), landmarks (n, len(names), 2).

        Landmarks are in pixels of the given images: x right, y down, centres at integer + 0.5.
        Scores are as the model gives them (after its declared activation), pose is in degrees.
        Raises CheckpointError when the model's result is not of the declared shape.
        """
        return self.predict(images).values

    def predict(self, images: np.ndarray) -> Prediction:
        """`annotate`, and whether each image holds a face at all (see ``presence``)."""
        card = self.card
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UsageError(
                f"'images' must be uint8 (n, height, width, 3), got {images.dtype} {images.shape}"
            )
        outputs = self._run(prepare(images, card))
        values = np.asarray(outputs[0], dtype=np.float32)
        expected = (len(images), *card.row_shape)
        if values.shape != expected:
            if values.size != int(np.prod(expected)):
                raise CheckpointError(
                    f"annotator {card.path!r} gave shape {values.shape!r}, its description "
                    f"promises {expected!r}: correct 'names' or 'output'"
                )
            values = values.reshape(expected)
        present = np.ones(len(images), dtype=bool)
        if card.presence is not None:
            score = np.asarray(outputs[1], dtype=np.float64).reshape(len(images), -1)[:, 0]
            present = score >= card.presence[1]
        return Prediction(finish(values, card, images.shape[1:3]), present)

    @abstractmethod
    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        """The network's outputs for one batch."""


class OnnxAnnotator(_Annotator):
    """An ONNX model in onnxruntime, on the CPU unless other providers are named.

    A model with a fixed batch dimension is run in pieces of that size, the last one padded.
    Custom operators are not loaded, so that opening a model runs no code from it.
    """

    def __init__(
        self, card: AnnotatorCard, threads: int = 1, providers: Sequence[str] | None = None
    ) -> None:
        super().__init__(card)
        try:
            import onnxruntime
        except ImportError as e:
            raise MissingExtraError(
                "annotators need onnxruntime, which is not installed: pip install onnxruntime"
            ) from e
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        # Spinning threads would take the cores of the other actors between two calls.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                card.path, options, providers=list(providers or ["CPUExecutionProvider"])
            )
        except Exception as e:  # onnxruntime raises bare C++ exception types, one a failure
            raise CheckpointError(f"annotator {card.path!r} is not a usable ONNX model: {e}") from e
        inputs = {i.name: i for i in self._session.get_inputs()}
        self._input = card.input_name if card.input_name is not None else next(iter(inputs))
        self._outputs = [self._output(card.output)]
        if card.presence is not None:
            self._outputs.append(self._output(card.presence[0]))
        if list(inputs) != [self._input]:
            raise CheckpointError(
                f"annotator {card.path!r} has inputs {list(inputs)!r}, its description names "
                f"{self._input!r}: it must have exactly that one"
            )
        first = inputs[self._input].shape[0]
        self._batch = first if isinstance(first, int) else None
        self._dtype = {"tensor(float16)": np.float16, "tensor(double)": np.float64}.get(
            inputs[self._input].type, np.float32
        )

    def _output(self, wanted: str | int | None) -> str:
        names = [o.name for o in self._session.get_outputs()]
        if wanted is None and len(names) == 1:
            return str(names[0])
        if isinstance(wanted, int) and 0 <= wanted < len(names):
            return str(names[wanted])
        if wanted not in names:
            raise CheckpointError(
                f"annotator {self.card.path!r} has outputs {names!r}, its description names "
                f"{wanted!r}: correct 'output'"
            )
        return str(wanted)

    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        batch = batch.astype(self._dtype, copy=False)
        size = self._batch or max(1, len(batch))
        pieces = []
        for start in range(0, len(batch), size):
            piece = batch[start : start + size]
            n = len(piece)
            if n < size:
                piece = np.concatenate([piece, np.repeat(piece[-1:], size - n, axis=0)])
            results = self._session.run(self._outputs, {self._input: piece})
            pieces.append([np.asarray(r)[:n] for r in results])
        if not pieces:
            return [np.empty((0, *self.card.row_shape), np.float32), np.empty((0, 1))]
        return [np.concatenate(column) for column in zip(*pieces, strict=True)]


class TorchScriptAnnotator(_Annotator):
    """A TorchScript model. Loading one can run any code, so its file must be trusted."""

    def __init__(self, card: AnnotatorCard, device: str = "cpu") -> None:
        super().__init__(card)
        import torch

        try:
            module = torch.jit.load(card.path, map_location=device)
        except (RuntimeError, ValueError, OSError) as e:
            raise CheckpointError(
                f"annotator {card.path!r} is not a usable TorchScript model: {e}"
            ) from e
        self._module = module.eval()
        self._device = device

    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        import torch

        with torch.no_grad():
            result = self._module(torch.from_numpy(np.ascontiguousarray(batch)).to(self._device))
        wanted = [self.card.output]
        if self.card.presence is not None:
            wanted.append(self.card.presence[0])
        return [self._pick(result, key) for key in wanted]

    def _pick(self, result: Any, key: str | int | None) -> np.ndarray:
        if isinstance(result, list | tuple):
            result = result[int(key or 0)]
        elif isinstance(result, dict):
            if key not in result:
                raise CheckpointError(
                    f"annotator {self.card.path!r} gave {sorted(result)!r}, its description names "
                    f"{key!r}: correct 'output'"
                )
            result = result[key]
        array: np.ndarray = result.detach().cpu().numpy()
        return array


def load_annotator(
    uri: str,
    name: str | None = None,
    *,
    trust: bool = False,
    threads: int = 1,
    providers: Sequence[str] | None = None,
) -> OnnxAnnotator | TorchScriptAnnotator:
    """The annotator at ``uri``: a path, or "bundled:faces64/attributes".

    name : of the annotations; by default the description's own.
    trust : whether a TorchScript file, which can run any code, may be loaded. It comes from the
        command line only.
    threads : CPU threads of one ONNX session. providers : onnxruntime's, CPU by default.

    Raises UntrustedError for TorchScript without trust, CheckpointError for an unusable file.
    """
    card = read_card(uri, name)
    check_trust(card, trust)
    if Path(card.path).suffix.lower() in TORCHSCRIPT_ENDINGS:
        return TorchScriptAnnotator(card)
    return OnnxAnnotator(card, threads, providers)


def check_trust(card: AnnotatorCard, trust: bool) -> None:
    """Raise UntrustedError for a model that can run code, unless it is trusted; CheckpointError
    for a file of neither kind."""
    ending = Path(card.path).suffix.lower()
    if ending in TORCHSCRIPT_ENDINGS:
        if not trust:
            raise UntrustedError(
                f"annotator {card.path!r} is TorchScript, which can run any code when it is "
                "loaded: give --trust on the command line if you trust its source, or export it "
                "to ONNX"
            )
    elif ending not in ONNX_ENDINGS:
        raise CheckpointError(
            f"annotator {card.path!r} ends in {ending!r}, expected one of "
            f"{[*ONNX_ENDINGS, *TORCHSCRIPT_ENDINGS]!r}: export the model to ONNX"
        )


# ---------------------------------------------------------------------------------------------
# Pixels in, numbers out


def prepare(images: np.ndarray, card: AnnotatorCard) -> np.ndarray:
    """Images uint8 (n, h, w, 3) RGB -> the model's input, float32 in its layout and range."""
    pixels = _resized(images, card.size, card.resize)
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


def _resized(images: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
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


def finish(values: np.ndarray, card: AnnotatorCard, shape: tuple[int, ...]) -> np.ndarray:
    """The model's numbers as stored: activation of scores, landmarks in pixels of the image.

    values : float32 (n, k) or (n, points, 2). shape : (height, width) of the images.
    """
    if card.kind == "scores" and card.activation is not None:
        x = values.astype(np.float64)
        if card.activation == "sigmoid":
            with np.errstate(over="ignore"):
                x = 1.0 / (1.0 + np.exp(-x))
        else:
            x = np.exp(x - x.max(axis=1, keepdims=True))
            x /= x.sum(axis=1, keepdims=True)
        return x.astype(np.float32)
    if card.kind != "landmarks":
        return values
    points = values[..., ::-1] if card.axes == "yx" else values
    height, width = shape
    target = np.array([width, height], np.float64)
    source = np.array([card.size[1], card.size[0]], np.float64)
    if card.coordinates == "unit":
        source = np.ones(2)
    shift = 0.5 if card.coordinates == "indices" else 0.0
    return np.asarray((points + shift) * (target / source), dtype=np.float32)
