"""Layers of any code's Progressive GAN to our architecture and tensors, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from generators.checked_tensors import checked_tensors
from generators.families.base import Checkpoint
from generators.families.pggan.config import PGGANConfig
from schemas.errors import CheckpointError

Layers = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Source:
    """A generator as its file has it.

    layers : our name of a layer -> weight and bias as they act, under our axes; pictures of every
        side that the file has, "b<side>.torgb".
    lod : level of detail of the training: how often the full side is halved; between two whole
        numbers, pictures of two sides are blended.
    settings : keys of the architecture. assumed : settings that the file does not state, with the
        values that are used.
    facts : about the file.
    """

    layers: Layers
    lod: float
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    assumed: Mapping[str, Any] = field(default_factory=dict)


def tensor(tensors: Mapping[str, np.ndarray], name: str, ndim: int) -> np.ndarray:
    """A tensor of the file, float32. Raises CheckpointError where it is missing, is not of so many
    axes, or holds something else than floating-point numbers."""
    if name not in tensors:
        raise CheckpointError(f"tensor {name!r} is missing: not a whole Progressive GAN generator")
    found = tensors[name]
    if found.ndim != ndim or 0 in found.shape:
        raise CheckpointError(
            f"tensor {name!r} has shape {found.shape!r}, expected {ndim} axes: not a Progressive "
            "GAN generator"
        )
    if found.dtype.kind != "f":
        raise CheckpointError(
            f"tensor {name!r} holds {found.dtype.name!r}: quantised weights need the scales of the "
            "program that made them; write them in float32, float16 or bfloat16"
        )
    return np.asarray(found, np.float32)


def he_constant(fan_in: int, gain: float = math.sqrt(2.0)) -> np.float32:
    """The scale of a weight with equalised learning rate (Karras et al. 2018, section 4.1)."""
    return np.float32(gain / math.sqrt(fan_in))


def as_plain(weight: np.ndarray) -> np.ndarray:
    """The kernel (out, in, height, width) that does after repeated pixels what a transposed
    convolution with (in, out, height, width) does."""
    return weight[:, :, ::-1, ::-1].swapaxes(0, 1)


def level_of_detail(tensors: Mapping[str, np.ndarray]) -> float:
    """The scalar "lod" of a file, 0 where it has none."""
    found = np.asarray(tensors.get("lod", 0.0))
    if found.size != 1 or found.dtype.kind not in "fiu":
        raise CheckpointError(f"'lod' has shape {found.shape!r}, expected one number")
    return float(found.reshape(())[()])


def all_known(names: set[str], known: set[str]) -> None:
    """Raise CheckpointError for tensors that no Progressive GAN has: another network's."""
    unknown = sorted(names - known)
    if unknown:
        raise CheckpointError(
            f"tensors {unknown[:4]!r} ({len(unknown)}) are of no Progressive GAN: its code was "
            "changed, and what they do is not known"
        )


def checkpoint_of(source: Source) -> Checkpoint:
    """The generator. Raises CheckpointError where its layers do not fit one another."""
    blocks = 1
    while f"b{4 << blocks}.conv1" in source.layers:
        blocks += 1
    if not (0 <= source.lod < math.inf):
        raise CheckpointError(f"'lod' is {source.lod!r}, expected 0 or more: the file is damaged")
    halved = min(math.floor(source.lod), blocks - 1)
    blend = source.lod - halved if halved < blocks - 1 else 0.0
    blocks -= halved
    sides = [4 << i for i in range(blocks)]
    names = [f"b{side}.{'conv' if side == 4 else 'conv1'}" for side in sides]
    first, last = f"b{sides[0]}.dense", f"b{sides[-1]}.torgb"
    absent = [name for name in (first, *names, last) if name not in source.layers]
    if absent:
        raise CheckpointError(
            f"layers {absent!r} are missing among those of {sides[-1]} pixels: not a whole "
            "Progressive GAN generator"
        )
    try:
        config = PGGANConfig(
            inputs=source.layers[first][0].shape[1],
            channels=tuple(source.layers[name][0].shape[0] for name in names),
            img_channels=source.layers[last][0].shape[0],
            blend=blend,
            upscale=1 << halved,
            **source.settings,
        )
    except (TypeError, ValueError) as e:
        raise CheckpointError(f"describes no Progressive GAN: {e}") from e
    wanted = config.tensor_shapes()
    tensors = {
        f"{layer}.{part}": value
        for layer, pair in source.layers.items()
        for part, value in zip(("weight", "bias"), pair, strict=True)
        if f"{layer}.{part}" in wanted
    }
    metadata = {**source.facts, **({"lod": source.lod} if source.lod else {})}
    if source.assumed:
        metadata["assumed"] = dict(source.assumed)
    return checked(config, tensors, metadata)


def unfused(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of blocks of equal widths, whose kernels that were taken for plain are those of
    transposed convolutions."""
    return {
        name: np.ascontiguousarray(as_plain(value)) if name.endswith(".conv0.weight") else value
        for name, value in tensors.items()
    }


def checked(
    config: PGGANConfig, tensors: Mapping[str, np.ndarray], metadata: dict[str, Any]
) -> Checkpoint:
    """A checkpoint of these tensors: names, types, shapes and values against the configuration."""
    what = f"a Progressive GAN of {config.sides[-1]} pixels"
    result = checked_tensors(tensors, config.tensor_shapes(), what)
    return Checkpoint(config.architecture(), result, metadata=metadata)
