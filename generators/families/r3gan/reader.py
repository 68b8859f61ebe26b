"""R3GAN generators in files to our architecture and tensor names, without torch.

Read: pickles of the official trainer, and torch or safetensors files of such a network's state
dict, under any prefix. The same model has the same fingerprint whatever file it came from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.checked_tensors import checked_tensors
from generators.families.base import Checkpoint
from generators.families.r3gan.config import BASE, R3GANConfig, Stage
from generators.families.r3gan.official_modules import read_modules
from generators.unpickle.find_network import arrays_of, find_network
from generators.unpickle.interpreter import Inert
from schemas.errors import CheckpointError

#: Of the generator alone: the discriminator's basis is a convolution, "Basis.weight". The official
#: trainer's network holds that of the paper as "Model".
MARKERS = ("MainLayers.0.Layers.0.Basis", "Model.MainLayers.0.Layers.0.Basis")
CHANNELS = (1, 3)
_STAGE = r"MainLayers\.(\d{1,2})\.Layers\.0\."
_LAYER = r"MainLayers\.(\d{1,2})\.Layers\.(\d{1,3})\."
#: Names of the official code -> ours, "{side}" standing for the stage's height.
_NAMES: Mapping[str, str] = {
    r"EmbeddingLayer\.weight": "embed.weight",
    r"AggregationLayer\.Layer\.weight": "torgb.weight",
    _STAGE + "Basis": "b{side}.basis.maps",
    _STAGE + r"LinearLayer\.weight": "b{side}.basis.weight",
    _STAGE + r"LinearLayer\.Layer\.weight": "b{side}.up.weight",
    _STAGE + r"Resampler\.Kernel": "b{side}.up.filter",
    _LAYER + r"LinearLayer([123])\.Layer\.weight": "b{side}.block{block}.conv{layer}.weight",
    _LAYER + r"NonLinearity([12])\.Bias": "b{side}.block{block}.conv{layer}.bias",
}


def read(contents: Any) -> Checkpoint | None:
    """The one R3GAN generator in a file's contents, None where there is none."""
    for marker in MARKERS:
        found = find_network(contents, (marker,))
        if found is None:
            continue
        noted: dict[str, Any] = {"source": "official"}
        if found.where:
            noted["entry"] = found.where
        if not isinstance(found.state, Inert):
            return from_tensors(arrays_of(found), noted)
        records, left_out = read_modules(found.state)
        if left_out:
            noted["left_out"] = left_out
        return from_tensors({name: record.array(name) for name, record in records.items()}, noted)
    return None


def our_name(official: str) -> str | None:
    """Our name of an official tensor; None for what is none of the generator's."""
    for pattern, ours in _NAMES.items():
        if found := re.fullmatch(pattern, official):
            stage, layer, part = (*map(int, found.groups()), 0, 1, 1)[:3]
            return ours.format(side=BASE << stage, block=layer - 1, layer=part - 1)
    return None


def from_tensors(official: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Checkpoint:
    """A generator of tensors under the official names. Raises CheckpointError where they are those
    of no R3GAN."""
    names = {name: our_name(name) for name in official}
    unknown = [name for name, ours in names.items() if ours is None]
    if unknown:
        raise CheckpointError(
            f"file holds {unknown[:4]!r} ({len(unknown)}) beside the tensors of an R3GAN: save the "
            "generator's state_dict() alone"
        )
    tensors = {str(ours): official[name] for name, ours in names.items()}
    return checked(_infer_config(tensors), tensors, dict(metadata))


def _shape(tensors: Mapping[str, np.ndarray], name: str, axes: int) -> tuple[int, ...]:
    found = tensors[name].shape if name in tensors else "missing"
    if name not in tensors or tensors[name].ndim != axes:
        raise CheckpointError(f"tensor {name!r} is {found!r}, expected {axes} axes: not an R3GAN")
    return tuple(tensors[name].shape)


def _infer_config(tensors: Mapping[str, np.ndarray]) -> R3GANConfig:
    embed = c_dim = 0
    if "embed.weight" in tensors:
        embed, c_dim = _shape(tensors, "embed.weight", 2)
    channels, inputs = _shape(tensors, "b4.basis.weight", 2)
    stages: list[Stage] = []
    kernel = filter_size = 0
    while not stages or f"b{BASE << len(stages)}.up.filter" in tensors:
        side = f"b{BASE << len(stages)}"
        if stages:
            filter_size = filter_size or _shape(tensors, f"{side}.up.filter", 2)[0]
            if f"{side}.up.weight" in tensors:
                channels = _shape(tensors, f"{side}.up.weight", 4)[0]
        blocks, expanded, groups = 0, 1, 1
        while f"{side}.block{blocks}.conv1.weight" in tensors:
            if not blocks:
                expanded, within, own, _ = _shape(tensors, f"{side}.block0.conv1.weight", 4)
                groups, kernel = expanded // max(within, 1), kernel or own
            blocks += 1
        stages.append(Stage(channels, expanded, groups, blocks))
    try:
        return R3GANConfig(
            z_dim=inputs - embed,
            stages=tuple(stages),
            c_dim=c_dim,
            embed_features=embed,
            img_channels=_shape(tensors, "torgb.weight", 4)[0],
            kernel_size=kernel or 3,
            filter_size=filter_size,
        )
    except ValueError as e:
        raise CheckpointError(f"tensor shapes describe no R3GAN: {e}") from e


def checked(
    config: R3GANConfig, tensors: Mapping[str, np.ndarray], metadata: dict[str, Any]
) -> Checkpoint:
    """A checkpoint of these tensors: names, types, shapes and values against the configuration."""
    if config.img_channels not in CHANNELS:
        raise CheckpointError(
            f"generator draws images of {config.img_channels!r} channels, only 1 (grey) and 3 "
            "(RGB) are implemented"
        )
    what = f"an R3GAN of resolution {config.resolutions[-1]}"
    result = checked_tensors(tensors, config.tensor_shapes(), what)
    return Checkpoint(config.architecture(), result, metadata=metadata)
