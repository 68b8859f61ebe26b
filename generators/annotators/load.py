"""Annotator models from files: ONNX by onnxruntime, TorchScript where its file is trusted.

Beside each lies its description; see `generators.annotators.card`. A model is tried when it is
loaded, so that one that does not fit its description is told before any image is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from generators.annotators.card import ONNX_ENDINGS, TORCHSCRIPT_ENDINGS, AnnotatorCard, read_card
from generators.annotators.input_output import finish, prepare
from generators.annotators.model import AnnotatorModel, Prediction, ShapeError
from generators.annotators.onnx import OnnxAnnotator
from generators.file_kinds import is_torchscript, other_kind
from schemas.errors import CheckpointError, UntrustedError

__all__ = [
    "OnnxAnnotator",
    "Prediction",
    "TorchScriptAnnotator",
    "check_trust",
    "finish",
    "load_annotator",
    "prepare",
]


class TorchScriptAnnotator(AnnotatorModel):
    """A TorchScript model. Loading one can run any code, so its file must be trusted."""

    def __init__(
        self, card: AnnotatorCard, device: str = "cpu", finder: AnnotatorModel | None = None
    ) -> None:
        super().__init__(card, finder)
        import torch

        try:
            module = torch.jit.load(card.path, map_location=device)
        except (RuntimeError, ValueError, OSError) as e:
            raise CheckpointError(
                f"annotator {card.path!r} is not a usable TorchScript model: {e}"
            ) from e
        self._module = module.eval()
        self._device = device

    def _run(self, batch: np.ndarray) -> list[Any]:
        import torch

        with torch.no_grad():
            result = self._module(torch.from_numpy(np.ascontiguousarray(batch)).to(self._device))
        wanted = [(self.card.output, "output")]
        if self.card.presence is not None:
            wanted.append((self.card.presence[0], "presence.output"))
        return [self._pick(result, *key) for key in wanted]

    def _pick(self, result: Any, wanted: str | int | None, key: str) -> np.ndarray:
        import torch

        found, has = result, [0]
        if isinstance(result, list | tuple):
            place = 0 if wanted is None and len(result) == 1 else wanted
            has = list(range(len(result)))
            found = result[place] if isinstance(place, int) and place in has else None
        elif isinstance(result, dict):
            has, found = sorted(result), result.get(wanted)
        if not isinstance(found, torch.Tensor):
            raise ShapeError(
                f"annotator {self.card.path!r} gave the outputs {has!r}, its description names "
                f"{wanted!r}, which is not a tensor among them: correct {key!r}"
            )
        found = found.detach().cpu()
        if found.dtype == torch.bfloat16:  # which numpy has not
            found = found.float()
        array: np.ndarray = found.numpy()
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
    return _loaded(card, threads, providers)


_FINDERS: WeakValueDictionary[tuple[Any, ...], AnnotatorModel] = WeakValueDictionary()
"""Annotators that find crops, held by those that look at these: one serves all of a process."""


def _loaded(
    card: AnnotatorCard, threads: int, providers: Sequence[str] | None
) -> OnnxAnnotator | TorchScriptAnnotator:
    finder = None
    if card.finder is not None:
        key = (card.finder.fingerprint, threads, *(providers or ()))
        finder = _FINDERS.get(key)
        if finder is None:
            finder = _FINDERS[key] = _loaded(card.finder, threads, providers)
    script = Path(card.path).suffix.lower() in TORCHSCRIPT_ENDINGS
    model = (
        TorchScriptAnnotator(card, finder=finder)
        if script
        else OnnxAnnotator(card, threads, providers, finder)
    )
    model.try_out()
    return model


def check_trust(card: AnnotatorCard, trust: bool) -> None:
    """Raise UntrustedError for a model that can run code, unless it is trusted; CheckpointError
    for a file of neither kind. So for the annotator that finds its crop."""
    if card.finder is not None:
        check_trust(card.finder, trust)
    ending = Path(card.path).suffix.lower()
    if ending in TORCHSCRIPT_ENDINGS:
        if not is_torchscript(Path(card.path)):
            give = "export the model to ONNX, or save torch.jit.script(model)"
            kind = other_kind(Path(card.path), give, endings=False) or (
                f"holds weights or a pickled network, and no program that computes: {give}"
            )
            raise CheckpointError(f"annotator {card.path!r} {kind}")
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
