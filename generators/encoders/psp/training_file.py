"""What a training checkpoint of the pSp framework holds: networks by prefix, options, mean of w.

Options are a dict or an ``argparse.Namespace``; of the latter its entries are read, as all of a
file are: without making anything of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from generators.unpickle.find_network import array_of
from generators.unpickle.interpreter import Inert
from generators.unpickle.torch_files import TensorRecord
from schemas.errors import CheckpointError

_CONVOLUTION = re.compile(r"convs\.(\d{1,2})\.conv\.weight")


@dataclass(frozen=True, eq=False)
class TrainingFile:
    """Contents of a file.

    state : tensors by name, those of a network under its prefix. outer : the entry that holds them.
    """

    state: Mapping[str, Any]
    outer: Mapping[Any, Any]
    opts: Mapping[Any, Any]

    def network(self, name: str) -> dict[str, Any]:
        """Tensors of a network by name without its prefix."""
        found: dict[str, Any] = {}
        for prefix in (f"{name}.", f"module.{name}."):
            found |= {
                key.removeprefix(prefix): value
                for key, value in self.state.items()
                if key.startswith(prefix)
            }
        return found

    @property
    def kind(self) -> str:
        """What its trainer calls the encoder, for people."""
        return self.text("encoder_type") or "encoder of the pSp framework"

    def text(self, option: str) -> str | None:
        """An option that is a text. Raises CheckpointError for one that is something else."""
        return self._option(option, str)

    def flag(self, option: str) -> bool | None:
        """An option that is true or false."""
        return self._option(option, bool)

    def _option(self, option: str, kind: type[Any]) -> Any:
        value = self.opts.get(option)
        if value is not None and type(value) is not kind:
            raise CheckpointError(
                f"'opts' states {option!r} as a {type(value).__name__!r}, expected a "
                f"{kind.__name__!r}: correct it and write the file again with torch.save"
            )
        return value

    def num_ws(self) -> int:
        """Layers of the generator's w_plus: of the generator in the file, else of the size of its
        images in the options; 0 where neither is there."""
        if layers := [_CONVOLUTION.fullmatch(name) for name in self.network("decoder")]:
            found = [int(match[1]) for match in layers if match]
            return max(found, default=-1) + 3
        for option in ("output_size", "stylegan_size"):
            size = self._option(option, int)
            if size is not None:
                if size < 4 or size & (size - 1):
                    raise CheckpointError(
                        f"'opts' states {option!r}: {size!r}, expected a power of two from 4"
                    )
                return int(2 * size.bit_length() - 4)
        return 0

    def latent_avg(self) -> np.ndarray | None:
        """The mean of w, (..., w_dim); None without."""
        value = self.outer.get("latent_avg")
        if value is None:
            value = self.state.get("latent_avg")
        if value is None:
            return None
        mean = array_of(value, "latent_avg")
        if mean.ndim not in (1, 2, 3):
            raise CheckpointError(
                f"'latent_avg' has shape {mean.shape!r}, expected (layers, w_dim)"
            )
        return mean


def training_file(contents: Any) -> TrainingFile | None:
    """The contents of a file as such; None where they are something else."""
    outer = _mapping(contents)
    if outer is None:
        return None
    state = _mapping(outer.get("state_dict", outer))
    if state is None:
        return None
    named = {name: value for name, value in state.items() if isinstance(name, str)}
    return TrainingFile(named, outer, _mapping(outer.get("opts")) or {})


def _mapping(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Inert):
        value = value.mapping or value.state
    return value if isinstance(value, dict) else None


def sizes_of(value: Any) -> tuple[int, ...]:
    """Shape of a tensor in a file, read or not; () of what is none."""
    if isinstance(value, TensorRecord):
        return value.size
    return value.shape if isinstance(value, np.ndarray) else ()


def shape_of(tensors: Mapping[str, Any], name: str, ndim: int) -> tuple[int, ...]:
    """Shape of a tensor. Raises CheckpointError where it is missing or has other axes."""
    shape = sizes_of(tensors.get(name))
    if name not in tensors or len(shape) != ndim:
        found = f"of shape {shape!r}" if name in tensors else "missing"
        raise CheckpointError(f"tensor {name!r} is {found}, expected {ndim} axes")
    return shape
