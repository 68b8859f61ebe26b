"""Annotators in ONNX files, run by onnxruntime."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import numpy as np

from generators.annotators.card import AnnotatorCard
from generators.annotators.model import AnnotatorModel
from generators.annotators.trunk import joined
from schemas.errors import CheckpointError, MissingExtraError, is_out_of_memory

MOST_BYTES = 1 << 28
"""Files above this size are not compared with others."""


class Network:
    """A file's network in onnxruntime, one for all annotators of a process that are of its bytes,
    or of files that begin with the same computation (`take_in`).

    users : those that have been tried; what one batch gives is remembered while there are several,
    so that points, angles and scores of one network cost one run. Raises CheckpointError.
    """

    def __init__(self, path: str, threads: int, providers: Sequence[str] | None) -> None:
        self.path, self.threads, self.providers = path, threads, providers
        self.session = self._opened(path)
        self.users: WeakSet[OnnxAnnotator] = WeakSet()
        self._last: tuple[Any, dict[str, Any]] = (None, {})

    def _opened(self, model: str | bytes) -> Any:
        """A session of a file or of a model's bytes."""
        path, threads, providers = self.path, self.threads, self.providers
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
        options.log_severity_level = 4  # what it fails with is in its exceptions, too
        # Spinning threads would take the cores of the other actors between two calls.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(
                model, options, providers=list(providers or ["CPUExecutionProvider"])
            )
        except Exception as e:  # onnxruntime raises bare C++ exception types, one a failure
            if is_out_of_memory(e):
                raise
            raise CheckpointError(f"annotator {path!r} is not a usable ONNX model: {e}") from e

    @cached_property
    def _model(self) -> Any:
        """What the session computes, to be compared with others; None without the library onnx."""
        try:
            import onnx
        except ImportError:
            return None
        if os.path.getsize(self.path) > MOST_BYTES:
            return None
        return onnx.load(self.path, load_external_data=False)

    def take_in(self, other: Network) -> Mapping[str, str] | None:
        """Compute the outputs of another network, too, where both begin alike; where they are.

        None, and nothing is changed, where they do not, or where a bit of any output would differ.
        """
        same = self.threads == other.threads and self.providers == other.providers
        if not same or self._model is None or other._model is None:
            return None
        made = joined(self._model, other._model)
        if made is None:
            return None
        model, places = made
        session = self._opened(model.SerializeToString())
        own = [each.name for each in self.session.get_outputs()]
        given = session.get_inputs()[0]
        if given.type != "tensor(float)" or not all(isinstance(n, int) for n in given.shape[1:]):
            return None
        for n in (1, 8) if not isinstance(given.shape[0], int) else (given.shape[0],):
            values = np.random.default_rng(n).uniform(-1, 1, (n, *given.shape[1:]))
            feed = {given.name: values.astype(np.float32)}
            found = session.run([*own, *places.values()], feed)
            expected = [*self.session.run(own, feed), *other.session.run(list(places), feed)]
            if not all(
                np.array_equal(a, b, equal_nan=True) for a, b in zip(found, expected, strict=True)
            ):
                return None
        self.session, self._model, self._last = session, model, (None, {})
        return places

    def run(
        self, wanted: Sequence[str], given: Mapping[str, np.ndarray], user: OnnxAnnotator
    ) -> list[Any]:
        """Outputs by name for one input."""
        if len(self.users) < 2 or user not in self.users:
            return list(self.session.run(wanted, given))
        every = sorted({name for each in self.users for name in each.outputs})
        hashed = [hashlib.blake2b(np.ascontiguousarray(a).data).digest() for a in given.values()]
        key = (every, hashed, [a.shape for a in given.values()])
        if self._last[0] != key:
            outputs = self.session.run(every, given)
            self._last = key, dict(zip(every, outputs, strict=True))
        return [self._last[1][name] for name in wanted]


_NETWORKS: WeakValueDictionary[tuple[Any, ...], Network] = WeakValueDictionary()


class OnnxAnnotator(AnnotatorModel):
    """An ONNX model in onnxruntime, on the CPU unless other providers are named.

    A model with a fixed batch dimension is run in pieces of that size, the last one padded; one
    without a batch axis image by image. Custom operators are not loaded, so that opening a model
    runs no code from it. Raises CheckpointError when inputs or outputs are not those described.
    """

    def __init__(
        self,
        card: AnnotatorCard,
        threads: int = 1,
        providers: Sequence[str] | None = None,
        finder: AnnotatorModel | None = None,
    ) -> None:
        super().__init__(card, finder)
        key = (*card.content, card.path if not card.content else "", threads, *(providers or ()))
        network = _NETWORKS.get(key)
        if network is None:
            network = _NETWORKS[key] = Network(card.path, threads, providers)
        self._network, self._session = network, network.session
        inputs = {i.name: i for i in self._session.get_inputs()}
        self._input = card.input_name if card.input_name is not None else next(iter(inputs), "")
        if list(inputs) != [self._input]:
            raise CheckpointError(
                f"annotator {card.path!r} has inputs {list(inputs)!r}, its description names "
                f"{self._input!r}: it must have exactly that one"
            )
        self.outputs = [self._output(card.output, "output")]
        if card.presence is not None:
            self.outputs.append(self._output(card.presence[0], "presence.output"))
        given = inputs[self._input]
        self._dtype = _input_dtype(card, given.type)
        self._bare = _check_axes(card, given.shape)
        self._single = self._bare
        if len(given.shape) == 4 and isinstance(given.shape[0], int):
            self._batch = given.shape[0]

    def _output(self, wanted: str | int | None, key: str) -> str:
        outputs = self._session.get_outputs()
        names = [o.name for o in outputs]
        if wanted is None and len(names) == 1:
            wanted = 0
        if isinstance(wanted, int) and 0 <= wanted < len(names):
            wanted = names[wanted]
        if wanted not in names:
            said = "names none" if wanted is None else f"names {wanted!r}"
            raise CheckpointError(
                f"annotator {self.card.path!r} has outputs {names!r}, its description {said}: "
                f"correct {key!r}"
            )
        kind = outputs[names.index(wanted)].type
        if not kind.startswith("tensor(") or kind == "tensor(string)":
            cure = "export it with a tensor of numbers"
            if "map(" in kind:
                cure += " (scikit-learn models: with the option zipmap=False)"
            raise CheckpointError(
                f"annotator {self.card.path!r} gives {wanted!r} as {kind}, which is no array of "
                f"numbers: correct {key!r}, or {cure}"
            )
        return str(wanted)

    def _run(self, batch: np.ndarray) -> list[Any]:
        batch = batch.astype(self._dtype, copy=False)
        given = batch[0] if self._bare else batch
        return self._network.run(self.outputs, {self._input: given}, self)

    def try_out(self) -> None:
        super().try_out()
        own = self._network
        if not own.users:
            for other in list(_NETWORKS.values()):
                places = other.take_in(own) if other is not own and other.users else None
                if places is not None:
                    self._network, self.outputs = other, [places[name] for name in self.outputs]
                    break
        self._network.users.add(self)


def _input_dtype(card: AnnotatorCard, kind: str) -> np.dtype[Any]:
    """The type of an ONNX input, "tensor(float)". Raises CheckpointError where the description's
    range does not fit it."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    floats: dict[str, Any] = {"float": np.float32, "float16": np.float16, "double": np.float64}
    if name in floats:
        return np.dtype(floats[name])
    if name not in ("uint8", "int8", "uint16", "int16", "int32", "int64"):
        raise CheckpointError(
            f"annotator {card.path!r} takes {kind}, which images are not given as: export it with "
            "float or uint8 input"
        )
    low, high = sorted(card.value_range)
    limits = np.iinfo(name)
    whole = high - low == 255 and low == int(low) and card.mean is None and card.std is None
    if not whole or low < limits.min or high > limits.max:
        wanted = [-128, 127] if name == "int8" else [0, 255]
        raise CheckpointError(
            f"annotator {card.path!r} takes {kind}, its description gives the 'range' "
            f"{list(card.value_range)!r}, 'mean' {card.mean!r} and 'std' {card.std!r}: set 'range' "
            f"to {wanted!r} and leave 'mean' and 'std' out"
        )
    return np.dtype(name)


def _check_axes(card: AnnotatorCard, shape: Sequence[int | str | None]) -> bool:
    """Whether an ONNX input has no batch axis. Raises CheckpointError where its fixed axes are
    not those of the description."""
    if not shape:  # of unknown rank
        return False
    height, width = card.size
    sides = {"NCHW": (3, height, width), "NHWC": (height, width, 3)}
    given = list(shape[-3:])
    free = [not isinstance(length, int) for length in given]

    def fits(layout: str, axes: Sequence[int]) -> bool:
        return all(free[i] or given[i] == sides[layout][i] for i in axes)

    if len(shape) in (3, 4) and fits(card.layout, range(3)):
        return len(shape) == 3
    cures: list[str] = []
    for layout in sorted(sides, key=lambda layout: layout != card.layout):
        channels, *rest = (0, 1, 2) if layout == "NCHW" else (2, 0, 1)
        if len(shape) not in (3, 4) or not fits(layout, [channels]):
            continue
        if layout != card.layout:
            cures.append(f"'layout' to {layout!r}")
        if not fits(layout, rest):
            pairs = zip(rest, card.size, strict=True)
            cures.append(f"'size' to {[side if free[i] else given[i] for i, side in pairs]!r}")
        break
    cure = f"set {' and '.join(cures)}" if cures else "export it for images of three channels"
    raise CheckpointError(
        f"annotator {card.path!r} takes {list(shape)!r}, its description gives "
        f"{['n', *sides[card.layout]]!r} ({card.layout}): {cure}"
    )
