"""A plain network behind the `Generator` protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from generators.edits import check_code, class_weights, edited
from generators.families.base import Checkpoint
from generators.families.plain.architectures.catalog import ARCHITECTURES, shapes_of
from generators.families.plain.exported_graph import ExportedGraph
from generators.families.plain.onnx_session import OnnxSession
from generators.families.plain.reader import STATE, fixed_cure
from generators.families.plain.trial import try_out
from generators.programs import EXPORTED, ONNX
from generators.protocols import Code, Edit, Labels, ModelFacts, labels_in_turn
from generators.seeds import drawn
from generators.tuned import DrawsOwnParts, by_row
from schemas.errors import CheckpointError, UsageError


class Network(Protocol):
    """What draws: codes (n, *shape) and labels, as the network takes them, to its raw output."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def __call__(self, z: Tensor, labels: Tensor | None) -> Tensor: ...

    def to(self, place: torch.device | torch.dtype | str) -> None: ...


class PlainGenerator(DrawsOwnParts):
    """See `generators.protocols.Generator`. Its pictures are brought from the declared range to
    [-1, 1]."""

    def __init__(self, facts: ModelFacts, checkpoint: Checkpoint) -> None:
        self.facts = facts
        self._checkpoint = checkpoint
        self._network = _network(checkpoint)
        described = checkpoint.architecture
        self._layout = str(described.get("layout", "NCHW"))
        self._labels = described.get("labels")
        self._black, self._white = (float(n) for n in described["range"])
        try_out(self, str(described.get("program", STATE)))

    def checkpoint(self) -> Checkpoint:
        """What a file of it holds."""
        return self._checkpoint

    def to(self, device: torch.device | torch.dtype | str) -> Self:
        """Move the network, or change its precision; returns itself."""
        self._network.to(device)
        return self

    def held(self, name: str) -> tuple[dict[str, Any], str]:
        """See `DrawsOwnParts`; of a named architecture."""
        network: Any = self._network
        held: tuple[dict[str, Any], str] = network.held(name)
        return held

    def sample(
        self,
        space: str,
        seeds: Sequence[int],
        *,
        labels: Labels = None,
        truncation: float | None = None,
    ) -> Code:
        """Codes of the prior, each of its seed alone. Truncation shrinks them to 0."""
        known = self.facts.space(space)
        if labels is None:
            labels = labels_in_turn(self.facts.classes, seeds)
        class_weights(self.facts, labels, len(seeds), "cpu")
        rows = drawn(known.prior, seeds, known.shape)
        main = torch.from_numpy(rows).to(self._network.device)
        return self.convert(Code(space, main), space, truncation=truncation)

    def centre(self, space: str, labels: Labels = None) -> Tensor:
        """0, the mean of every prior, whatever the class."""
        shape = self.facts.space(space).shape
        return torch.zeros(
            shape if labels is None else (len(labels), *shape), device=self._network.device
        )

    @by_row
    def convert(
        self,
        code: Code,
        target: str,
        *,
        labels: Labels = None,
        truncation: float | None = None,
        cutoff: int | None = None,
        noise: str = "const",
    ) -> Code:
        """There is one space."""
        check_code(self.facts, code)
        self.facts.space(target)
        return code if truncation is None else code.moved(code.main * truncation)

    @by_row
    def draw(
        self,
        code: Code,
        *,
        labels: Labels = None,
        edits: Sequence[Edit] = (),
        noise: str = "const",
    ) -> Tensor:
        """See `Generator.draw`."""
        code, _ = edited(self.facts, code.to(self._network.device), edits)
        weights = class_weights(self.facts, labels, len(code), self._network.device)
        raw = self.raw(code.main, weights)
        if raw.ndim and len(raw) != len(code):
            raise CheckpointError(
                f"the network gives {len(raw)!r} rows for {len(code)!r} codes: "
                f"{fixed_cure(str(self._checkpoint.architecture.get('program')))}"
            )
        wanted = self._checkpoint.architecture["channels"], *self.facts.size
        x = raw.permute(0, 3, 1, 2) if self._layout == "NHWC" and raw.ndim == 4 else raw
        if tuple(x.shape) != (len(code), *wanted):
            raise CheckpointError(
                f"the network gives shape {tuple(raw.shape)!r} for {len(code)!r} codes, its "
                f"declaration promises {(len(code), *wanted)!r} after {self._layout!r}: correct "
                "the declaration"
            )
        x = (x - self._black) * (2.0 / (self._white - self._black)) - 1.0
        return x.expand(-1, 3, -1, -1)

    def raw(self, z: Tensor, weights: Tensor | None) -> Tensor:
        """What the network itself gives for codes (n, *shape) and weights of classes."""
        dtype = self._network.dtype
        given = None
        if self._labels is not None and weights is not None:
            given = weights.to(dtype)
            if self._labels["given"] == "number":
                if not bool((weights.amax(dim=1) == weights.sum(dim=1)).all()):
                    raise UsageError(
                        "labels are weights of several classes, and the network takes one class "
                        "number a row: give class numbers"
                    )
                given = weights.argmax(dim=1)
        return self._network(z.to(dtype), given)


# ---- networks ------------------------------------------------------------------------------------


class _Named:
    """A named architecture with its tensors."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        architecture = ARCHITECTURES[checkpoint.architecture["architecture"]]
        found = architecture.find(shapes_of(checkpoint.tensors))
        if found is None:
            raise CheckpointError(f"tensors are not those of {architecture.name!r}")
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self._draw = architecture.draw
        self._own = {stored: name for name, stored in found.names.items()}
        self._tensors: dict[str, Tensor] = {
            name: torch.from_numpy(np.asarray(checkpoint.tensors[stored], np.float32))
            for name, stored in found.names.items()
        }

    def __call__(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self._draw(self._tensors, z)

    def held(self, name: str) -> tuple[dict[str, Any], str]:
        return self._tensors, self._own[name]

    def to(self, place: torch.device | torch.dtype | str) -> None:
        if isinstance(place, torch.dtype):
            self.dtype = place
        else:
            self.device = torch.device(place)
        for name, tensor in self._tensors.items():
            self._tensors[name] = tensor.to(self.device, self.dtype)


class _Onnx:
    """An ONNX model. `dtype` is that of what it gives: it computes as it was exported."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        described = checkpoint.architecture
        self._session = OnnxSession(checkpoint.tensors)
        self._input, self._output = described["input"], described["output"]
        self._labels = described["labels"]
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def __call__(self, z: Tensor, labels: Tensor | None) -> Tensor:
        given = {self._input: z}
        if labels is not None:
            given[self._labels["name"]] = labels
        (found,) = self._session.run([self._output], given)
        return found.to(self.device, self.dtype)

    def to(self, place: torch.device | torch.dtype | str) -> None:
        if isinstance(place, torch.dtype):
            self.dtype = place
        else:
            self.device = torch.device(place)


class _Exported:
    """A graph of torch.export."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        described = checkpoint.architecture
        try:
            self._graph = ExportedGraph(checkpoint.tensors)
            self._output = self._graph.outputs.index(described["output"])
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise CheckpointError(f"has a graph that cannot be computed: {e!r}") from e
        self._input, self._labels = described["input"], described["labels"]

    @property
    def dtype(self) -> torch.dtype:
        return self._graph.dtype

    @property
    def device(self) -> torch.device:
        return self._graph.device

    def __call__(self, z: Tensor, labels: Tensor | None) -> Tensor:
        given = {self._input: z}
        if labels is not None:
            given[self._labels["name"]] = labels
        return self._graph(given)[self._output]

    def to(self, place: torch.device | torch.dtype | str) -> None:
        self._graph.to(place)


class _Scripted:
    """A TorchScript module; loading one can run any code."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        import io

        data = io.BytesIO(bytes(checkpoint.tensors["model"].astype(np.uint8)))
        try:
            self._module = torch.jit.load(data, map_location="cpu").eval()
            for parameter in self._module.parameters():
                parameter.requires_grad_(False)
        except (RuntimeError, ValueError, OSError) as e:
            raise CheckpointError(f"is not a usable TorchScript model: {e}") from e
        self._output = checkpoint.architecture["output"]
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def __call__(self, z: Tensor, labels: Tensor | None) -> Tensor:
        found: Any = self._module(*([z] if labels is None else [z, labels]))
        if isinstance(found, dict):
            found = found.get(self._output)
        elif isinstance(found, list | tuple):
            at = self._output if self._output is not None else "0" if len(found) == 1 else "-"
            found = found[int(at)] if at.isdigit() and int(at) < len(found) else None
        if not isinstance(found, Tensor):
            raise CheckpointError(
                f"the network gives several outputs or no tensor, its declaration names "
                f"{self._output!r}: give the key or the number of the pictures as 'output.name'"
            )
        return found

    def to(self, place: torch.device | torch.dtype | str) -> None:
        if isinstance(place, torch.dtype):
            self.dtype = place
        else:
            self.device = torch.device(place)
        self._module.to(place)


def _network(checkpoint: Checkpoint) -> Network:
    program = checkpoint.architecture.get("program")
    if program is None:
        return _Named(checkpoint)
    if program == ONNX:
        return _Onnx(checkpoint)
    return _Exported(checkpoint) if program == EXPORTED else _Scripted(checkpoint)
