"""HyperStyle's training checkpoints, without torch: which of a generator's weights they change.

Read: a ``state_dict`` with the hypernetwork's tensors under ``hypernet.``, with ``opts``. All but
the size of the images (``opts["dataset_type"]``, of cars or not) follows from the tensors. The
encoder into w, with whose code the passes begin, is a file of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from generators.encoders.psp.reader import backbone_of, size_of, stages_of
from generators.encoders.psp.training_file import shape_of, sizes_of, training_file
from generators.file_kinds import missing, said_of
from generators.model_file import contents_of
from generators.unpickle.find_network import array_of
from schemas.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
_BLOCK = re.compile(r"refinement_blocks\.(\d{1,2})\.convs\.0\.weight")
#: Counts of batches, and the tensors that all blocks share under each block's name.
_UNUSED = re.compile(r"(.*\.)?num_batches_tracked|refinement_blocks\.\d+\.hypernet\..*")


@dataclass(frozen=True, eq=False)
class HypernetworkFile:
    """A hypernetwork as it lies in a file.

    state : its tensors by name, unread. size : (height, width) of the images. channels, units : of
        the ResNet, see `generators.encoders.psp.config.PspConfig`.
    layers : number of a layer of the generator -> name of its weight under ours.
    assumed : what the file does not state, with what is to be told of each.
    """

    state: Mapping[str, Any]
    size: tuple[int, int]
    channels: tuple[int, ...]
    units: tuple[int, ...]
    layers: Mapping[int, str]
    assumed: Mapping[str, str]
    in_channels: int = 6
    backbone: str = "resnet"
    squeeze: int = 0

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; () of one that is not there."""
        return sizes_of(self.state.get(name))

    def tensors(self) -> dict[str, np.ndarray]:
        """Its tensors, read, float32."""
        return {name: array_of(value, name).astype("<f4") for name, value in self.state.items()}

    def check(self, own: Shapes, what: str) -> None:
        """Raise CheckpointError for a generator whose weights it was not made for.

        own : the weights that rows may have changes of, by name. what : the file, for people.
        """
        for number, name in self.layers.items():
            if name not in own or self.changes(number) not in (0, _sizes(own[name])):
                raise CheckpointError(
                    f"{what!r} changes {name!r} by {self.changes(number)!r} numbers, the generator "
                    f"has a weight of shape {own.get(name)!r} there: use the generator that the "
                    "file was made for"
                )

    def changes(self, number: int) -> int:
        """Numbers by which it changes a layer's weight, over which a 3 x 3 kernel's are repeated;
        0 where they are products."""
        for part in ("output.0", "output.1"):
            if shape := self.shape(f"refinement_blocks.{number}.{part}.weight"):
                return shape[0]
        if self.shape(f"refinement_blocks.{number}.linear.weight"):
            out = self.shape("shared_weight_hypernet.b1")
            wide = self.shape("shared_weight_hypernet.b2")
            z_dim = self.shape("shared_weight_hypernet.w1")[:1]
            return out[0] // 9 * (wide[0] // z_dim[0]) if out and wide and z_dim else -1
        return 0


def _sizes(shape: tuple[int, ...]) -> int:
    return shape[0] * shape[1]


def read_hypernetwork(path: str | Path) -> HypernetworkFile:
    """The hypernetwork in a file; its tensors are read by `HypernetworkFile.tensors`.

    Raises CheckpointError for a file that is missing, damaged or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(missing(path, "hypernetwork file"))
    try:
        return _read(contents_of(path))
    except CheckpointError as e:
        raise type(e)(said_of(path, str(e))) from e
    except (OSError, RecursionError) as e:
        raise CheckpointError(f"hypernetwork {str(path)!r} cannot be read: {e}") from e


def _read(contents: Any) -> HypernetworkFile:
    file = training_file(contents)
    state = {} if file is None else file.network("hypernet")
    state = {name: value for name, value in state.items() if not _UNUSED.fullmatch(name)}
    numbers = sorted(int(m[1]) for m in map(_BLOCK.fullmatch, state) if m)
    if file is None or not numbers or backbone_of(state) != "resnet":
        raise CheckpointError(
            "holds no hypernetwork of HyperStyle, whose tensors have names such as "
            "'hypernet.refinement_blocks.0.convs.0.weight': name its file under "
            "'invert.hypernetwork', and the encoder into w under 'encoder'"
        )
    first = shape_of(state, "conv1.weight", 4)
    if first[1] != 6:
        raise CheckpointError(
            f"the hypernetwork's first weight has shape {first!r}, expected 6 channels: picture "
            "and drawing"
        )
    channels, units, _ = stages_of(state, "resnet")
    assumed: dict[str, str] = {}
    size = size_of(file, assumed)
    layers = {number: layer_name(number) for number in numbers}
    return HypernetworkFile(state, size, channels, units, layers, assumed)


def layer_name(number: int) -> str:
    """Our name of the weight of a StyleGAN2's convolutions and RGB layers, counted upwards."""
    if number < 2:
        return f"synthesis.b4.{('conv1', 'torgb')[number]}.weight"
    block, layer = divmod(number - 2, 3)
    return f"synthesis.b{8 << block}.{('conv0', 'conv1', 'torgb')[layer]}.weight"
