"""ONNX models run by onnxruntime on the CPU, without gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.programs import DATA, MODEL
from schemas.errors import CheckpointError, MissingExtraError, UsageError, is_out_of_memory

_KINDS = {"float": "f4", "float16": "f2", "double": "f8", "int64": "i8", "int32": "i4"}


class OnnxSession:
    """The session of a model's bytes, its data files among them.

    Custom operators are not loaded, so that opening a model runs no code from it.

    parts : as in `generators.programs.Program`
    """

    def __init__(self, parts: Mapping[str, np.ndarray]) -> None:
        try:
            import onnxruntime
        except ImportError as e:
            raise MissingExtraError(
                "ONNX models need onnxruntime, which is not installed: pip install onnxruntime"
            ) from e
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Spinning threads would take the cores of the other actors between two calls.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        held = {name: part.astype(np.uint8).tobytes() for name, part in parts.items()}
        model = held.pop(MODEL)
        if held:
            names = [name.removeprefix(DATA) for name in held]
            options.add_external_initializers_from_files_in_memory(
                names, list(held.values()), [len(data) for data in held.values()]
            )
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:  # onnxruntime raises bare C++ exception types, one a failure
            if is_out_of_memory(e):
                raise
            told = f"is not a usable ONNX model: {' '.join(str(e).split())}"
            apart = "; save it as a single file (onnx.save_model)" if held else ""
            raise CheckpointError(told + apart) from e
        self._kinds = {port.name: _dtype(port) for port in self._session.get_inputs()}

    def run(self, outputs: Sequence[str], given: Mapping[str, Tensor]) -> list[Tensor]:
        """Outputs for inputs by name, on the CPU in the model's own precision.

        Raises UsageError for inputs that gradients are asked of.
        """
        if torch.is_grad_enabled() and any(value.requires_grad for value in given.values()):
            raise UsageError(
                "an ONNX model draws without gradients: give the network as a state dict or by "
                "torch.export where they are needed"
            )
        arrays = {
            name: value.detach().cpu().numpy().astype(self._kinds[name])
            for name, value in given.items()
        }
        found = self._session.run(list(outputs), arrays)
        return [torch.from_numpy(np.ascontiguousarray(value)) for value in found]


def _dtype(port: Any) -> np.dtype[Any]:
    found = _KINDS.get(port.type.removeprefix("tensor(").removesuffix(")"))
    if found is None:
        raise CheckpointError(
            f"takes {port.name!r} as {port.type}, which codes, labels and pictures are not given "
            "as: export it with float inputs and int64 or float labels"
        )
    return np.dtype(found)
