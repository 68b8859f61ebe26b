"""Encoders of variational autoencoders: pictures to the mean and log-variance of their codes.

Read without torch from the state dict of a VAE whose decoder is the architecture "vae", or from an
ONNX model in one file. In a state dict:

====================  ==========================================
name in the file      where
====================  ==========================================
encoder.<i>.0.*       i-th convolution, (out, in, 3, 3), stride 2
encoder.<i>.1.*       its batch normalisation
fc_mu.*, fc_var.*     linear layers to the mean and the logarithm of the variance
====================  ==========================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from generators.families.plain.architectures.base import (
    CHANNELS,
    NORM,
    Shapes,
    is_norm,
    layer,
    normalised,
    numbered,
    prefix_of,
)
from generators.families.plain.architectures.catalog import shapes_of, states_in
from generators.families.plain.architectures.vae import SLOPE
from generators.file_kinds import missing, said_of
from generators.model_file import contents_of
from generators.programs import MODEL, ONNX, Program
from generators.unpickle.torch_files import TensorRecord
from schemas.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_LEAVES = ("weight", "bias")


@dataclass(frozen=True, eq=False)
class VaeEncoderFile:
    """An encoder as read.

    tensors : of a state dict, under our names; parts of a program
    outputs : names of mean and log-variance in a program; none of a state dict
    shape : of one row's mean
    channels, size : of the pictures that it takes; None where any size will do
    log_variance : whether it gives one
    """

    tensors: Mapping[str, np.ndarray]
    shape: tuple[int, ...]
    channels: int
    size: tuple[int, int] | None
    log_variance: bool
    input: str | None = None
    outputs: tuple[str, ...] = ()
    channels_last: bool = False


def read_vae_encoder(
    path: str,
    mean: str | None = None,
    log_variance: str | None = None,
) -> VaeEncoderFile:
    """The encoder in a file.

    mean, log_variance : outputs of an ONNX model, by default its only or first two.

    Raises CheckpointError for a file that holds none.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(missing(file, "encoder file"))
    try:
        contents = contents_of(file)
        if isinstance(contents, Program):
            return _from_onnx(contents, mean, log_variance)
        found = [each for _, state in states_in(contents) if (each := _from_state(state))]
        if len(found) != 1:
            raise CheckpointError(
                f"holds {len(found)} encoders of a VAE with names such as 'encoder.0.0.weight' and "
                "'fc_mu.weight', expected one: export the encoder to ONNX, with mean and "
                "log-variance as outputs"
            )
        return found[0]
    except CheckpointError as e:
        raise type(e)(said_of(file, str(e))) from e


def _from_onnx(program: Program, mean: str | None, log_variance: str | None) -> VaeEncoderFile:
    if program.container != ONNX or set(program.parts) != {MODEL}:
        raise CheckpointError(
            f"is an encoder as {program.container} of {len(program.parts)} parts: save it as an "
            "ONNX model in one file"
        )
    ports = {port.name: port for port in program.outputs}
    names = list(ports)
    chosen = [mean if mean is not None else names[0]]
    if log_variance is not None or (mean is None and len(names) == 2):
        chosen.append(log_variance if log_variance is not None else names[1])
    wrong = [name for name in chosen if name not in ports]
    if wrong or len(program.inputs) != 1 or (len(names) > 2 and mean is None):
        raise CheckpointError(
            f"has inputs {[port.name for port in program.inputs]!r} and outputs {names!r}, "
            f"expected one input, of pictures; 'invert.mean' is {mean!r} and "
            f"'invert.log_variance' {log_variance!r}: name two of the outputs"
        )
    (source,), shapes = program.inputs, [ports[name].shape for name in chosen]
    code = shapes[0]
    if code is None or None in code[1:] or any(s is not None and s != code for s in shapes):
        raise CheckpointError(
            f"gives {chosen!r} of shapes {shapes!r}, expected one fixed shape of a code for each: "
            "correct 'invert.mean' and 'invert.log_variance'"
        )
    axes = source.shape
    if axes is None or len(axes) != 4 or axes[0] is not None:
        raise CheckpointError(
            f"takes {source}, expected pictures, any number at a time: export it with a free first "
            "axis"
        )
    last = axes[1] not in CHANNELS and axes[3] in CHANNELS
    channels, height, width = (axes[3], axes[1], axes[2]) if last else axes[1:]
    if channels not in CHANNELS:
        raise CheckpointError(
            f"takes {source}, expected pictures of 1 or 3 channels: export it with their number"
        )
    size = None if height is None or width is None else (height, width)
    shape = tuple(n for n in code[1:] if n is not None)
    return VaeEncoderFile(program.parts, shape, channels, size, len(chosen) == 2, source.name,
                          tuple(chosen), last)  # fmt: skip


def _from_state(state: Mapping[str, object]) -> VaeEncoderFile | None:
    """The encoder among the tensors of a VAE; None where there is none."""
    shapes: Shapes = shapes_of(state)
    prefix = prefix_of(shapes, "fc_mu.weight")
    if prefix is None or len(shapes[f"{prefix}fc_mu.weight"]) != 2:
        return None
    blocks = numbered(shapes, f"{prefix}encoder.")
    width = shapes.get(f"{prefix}encoder.0.0.weight", (0, 0))[1]
    channels = width
    names: dict[str, str] = {}
    for k in blocks:
        at = f"{prefix}encoder.{k}."
        weight = shapes.get(f"{at}0.weight", ())
        if (
            len(weight) != 4
            or weight[1:] != (width, 3, 3)
            or not is_norm(shapes, f"{at}1", weight[0])
        ):
            return None
        width = weight[0]
        names |= layer(shapes, f"{at}0", f"conv{k}", _LEAVES)
        names |= layer(shapes, f"{at}1", f"norm{k}", NORM)
    names |= layer(shapes, f"{prefix}fc_mu", "mean", _LEAVES)
    names |= layer(shapes, f"{prefix}fc_var", "log_variance", _LEAVES)
    latent, flat = shapes[f"{prefix}fc_mu.weight"]
    side = math.isqrt(flat // width) if width else 0
    if channels not in CHANNELS or side < 1 or side * side * width != flat:
        return None
    tensors = {}
    for name, stored in names.items():
        value = state[stored]
        array = value.array(stored) if isinstance(value, TensorRecord) else np.asarray(value)
        tensors[name] = array.astype(np.float32)
    whole = side << len(blocks)
    given = "log_variance.weight" in tensors
    return VaeEncoderFile(tensors, (latent,), channels, (whole, whole), given)


class VaeEncoder:
    """The encoder of a file. value_range : of black and white in the pictures that it takes."""

    def __init__(self, file: VaeEncoderFile, value_range: tuple[float, float] = (-1, 1)) -> None:
        import torch

        from generators.families.plain.onnx_session import OnnxSession

        self.file = file
        self._black, self._white = value_range
        self._session = OnnxSession(file.tensors) if file.outputs else None
        self._tensors = {} if file.outputs else {
            name: torch.from_numpy(value) for name, value in file.tensors.items()
        }  # fmt: skip

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and log-variance, float32 (n, *shape), of images (n, 3, h, w) in [-1, 1], which are
        brought to the encoder's size and, for a grey one, to the mean of their channels."""
        import torch
        import torch.nn.functional as F

        size = self.file.size
        with torch.no_grad():
            if size is not None and tuple(images.shape[2:]) != size:
                images = F.interpolate(
                    images, size, mode="bilinear", align_corners=False, antialias=True
                )
            if self.file.channels == 1:
                images = images.mean(dim=1, keepdim=True)
            images = (images + 1) * ((self._white - self._black) / 2) + self._black
            if self._session is None:
                return self._computed(images)
            if self.file.channels_last:
                images = images.permute(0, 2, 3, 1)
            given = {str(self.file.input): images.contiguous()}
            found = self._session.run(self.file.outputs, given)
            moved = [value.to(images.device, torch.float32) for value in found]
            return moved[0], moved[1] if len(moved) > 1 else None

    def _computed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        import torch.nn.functional as F

        tensors, k = {name: value.to(x.device) for name, value in self._tensors.items()}, 0
        while f"conv{k}.weight" in tensors:
            weight, bias = tensors[f"conv{k}.weight"], tensors.get(f"conv{k}.bias")
            x = F.conv2d(x, weight, bias, stride=2, padding=1)
            x = F.leaky_relu(normalised(tensors, x, f"norm{k}"), SLOPE)
            k += 1
        flat = x.flatten(1)
        mean = F.linear(flat, tensors["mean.weight"], tensors.get("mean.bias"))
        if not self.file.log_variance:
            return mean, None
        weight, bias = tensors["log_variance.weight"], tensors.get("log_variance.bias")
        return mean, F.linear(flat, weight, bias)
