"""An ONNX model as a network, run by onnxruntime on the CPU, without gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.families.base import Checkpoint
from generators.programs import DATA, MODEL
from schemas.errors import CheckpointError, MissingExtraError, UsageError, is_out_of_memory


class OnnxNetwork:
    """The session of a model's bytes, its data files among them.

    Custom operators are not loaded, so that opening a model runs no code from it. `dtype` is that
    of what it gives: it computes in the precision that it was exported in.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        try:
            import onnxruntime
        except ImportError as e:
            raise MissingExtraError(
                "ONNX models need onnxruntime, which is not installed: pip install onnxruntime"
            ) from e
        described = checkpoint.architecture
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        parts = {
            name: np.ascontiguousarray(value, np.uint8)
            for name, value in checkpoint.tensors.items()
        }
        beside = {name.removeprefix(DATA): v for name, v in parts.items() if name != MODEL}
        if beside:
            options.add_external_initializers_from_files_in_memory(
                list(beside),
                [v.tobytes() for v in beside.values()],
                [v.size for v in beside.values()],
            )
        try:
            self._session = onnxruntime.InferenceSession(
                parts[MODEL].tobytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:  # onnxruntime raises bare C++ exception types, one a failure
            if is_out_of_memory(e):
                raise
            raise CheckpointError(f"is not a usable ONNX model: {e}") from e
        self._input, self._output = described["input"], described["output"]
        self._labels = described["labels"]
        kinds = {port.name: port.type for port in self._session.get_inputs()}
        self._kinds = {name: _dtype(name, kind) for name, kind in kinds.items()}
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def __call__(self, z: Tensor, labels: Tensor | None) -> Tensor:
        if z.requires_grad and torch.is_grad_enabled():
            raise UsageError(
                "an ONNX model draws without gradients: give the network as a state dict or by "
                "torch.export where they are needed"
            )
        given: dict[str, Any] = {self._input: z}
        if labels is not None:
            given[self._labels["name"]] = labels
        arrays = {
            name: value.detach().cpu().numpy().astype(self._kinds[name])
            for name, value in given.items()
        }
        (found,) = self._session.run([self._output], arrays)
        return torch.from_numpy(np.ascontiguousarray(found)).to(self.device, self.dtype)

    def to(self, place: torch.device | torch.dtype | str) -> None:
        """Where and in which precision its pictures are given."""
        if isinstance(place, torch.dtype):
            self.dtype = place
        else:
            self.device = torch.device(place)


def _dtype(name: str, kind: str) -> Any:
    plain = kind.removeprefix("tensor(").removesuffix(")")
    found = {"float": "f4", "float16": "f2", "double": "f8", "int64": "i8", "int32": "i4"}.get(
        plain
    )
    if found is None:
        raise CheckpointError(
            f"takes {name!r} as {kind}, which codes and labels are not given as: export it with "
            "float codes and int64 or float labels"
        )
    return np.dtype(found)
