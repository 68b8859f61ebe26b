"""StyleGAN2 generators in files to our architecture and tensor names, without torch.

Read: official NVlabs pickles (StyleGAN2-ADA, StyleGAN2 networks of the StyleGAN3 code, and those of
the TensorFlow code), torch files that hold such a network or its state dict, under any prefix, and
rosinality's ``.pt``. The same model has the same fingerprint whatever file it came from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.checked_tensors import checked_tensors
from generators.families.base import Checkpoint
from generators.families.stylegan2.config import CHANNELS, RESAMPLE_TAPS, StyleGAN2Config
from generators.families.stylegan2.filters import one_filter, taps_of
from generators.families.stylegan2.official_modules import read_modules
from generators.families.stylegan2.rosinality import from_rosinality
from generators.families.stylegan2.tensorflow import BUILDER, from_tensorflow
from generators.unpickle.find_network import Candidate, array_of, arrays_of, find_network
from generators.unpickle.interpreter import Inert
from generators.unpickle.tensorflow_pickles import TensorflowNetwork, tensorflow_networks
from generators.w_avg import NAME, estimate_of_w_avg
from schemas.errors import CheckpointError

#: Tensors of which every StyleGAN2 has one, and no other network: official, and rosinality's.
MARKERS = ("synthesis.b4.const", "synthesis.b4.conv1.weight", "input.input")
#: Settings that change images and that tensors do not show, with the values that are assumed where
#: a file does not state them; a specification may give them.
ASSUMED: Mapping[str, float | None] = {"lr_multiplier": 0.01, "conv_clamp": None}
#: Buffers that layers hold and do not use.
_UNUSED = re.compile(r"synthesis\.b\d+\.(conv1|torgb)\.resample_filter")


def read(contents: Any) -> Checkpoint | None:
    """The one generator in a file's contents, None where there is none."""
    if networks := tensorflow_networks(contents):
        return _from_tensorflow(networks[-1])
    found = find_network(contents, MARKERS)
    if found is None:
        return None
    if not isinstance(found.state, Inert):
        return _from_tensors(arrays_of(found), found)
    records, settings = read_modules(found.state)
    tensors = {name: record.array(name) for name, record in records.items()}
    facts = {"source": "official", "class_name": settings.class_name}
    return _finish(tensors, settings.agreed(), _located(facts, found))


def _from_tensorflow(network: TensorflowNetwork) -> Checkpoint | None:
    """From the moving average of a TensorFlow pickle (G, D, Gs); None of another builder's."""
    if network.builder != BUILDER:
        return None
    tensors, said = from_tensorflow(network)
    facts = {"source": f"official, TensorFlow (version {network.version})", "entry": network.name}
    return _finish(tensors, said, facts)


def _from_tensors(tensors: dict[str, np.ndarray], found: Candidate) -> Checkpoint:
    """From a state dict: official names, or rosinality's."""
    if "input.input" not in tensors:
        return _finish(tensors, {}, _located({"source": "official"}, found))
    mean = found.latent_avg
    average = None if mean is None else array_of(mean, "latent_avg")
    converted, said, facts = from_rosinality(tensors, average)
    return _finish(converted, said, _located({"source": "rosinality", **facts}, found))


def _located(facts: dict[str, Any], found: Candidate) -> dict[str, Any]:
    return {**facts, "entry": found.where} if found.where else facts


def _finish(
    tensors: dict[str, np.ndarray], said: Mapping[str, Any], metadata: dict[str, Any]
) -> Checkpoint:
    """Infer the configuration from the tensors' shapes and check every one of them.

    said : settings that the file states; of others, those that tensors do not show are assumed, and
        noted in the metadata.
    """
    filters: dict[tuple[float, ...], str] = {}
    for name in [name for name in tensors if name.endswith("resample_filter")]:
        value = tensors.pop(name)
        if not _UNUSED.fullmatch(name):
            filters.setdefault(taps_of(name, value, total=1.0), name)
    if filters:
        said = {**said, "resample_filter": one_filter(filters)}
    assumed = {name: value for name, value in ASSUMED.items() if name not in said}
    config = _infer_config(tensors, {**assumed, **said})
    if assumed:
        metadata = {**metadata, "assumed": assumed}
    return checked(config, tensors, estimate_of_w_avg(tensors), metadata)


def _shape(tensors: Mapping[str, np.ndarray], name: str, ndim: int) -> tuple[int, ...]:
    if name not in tensors or tensors[name].ndim != ndim:
        found = tensors[name].shape if name in tensors else "missing"
        raise CheckpointError(
            f"tensor {name!r} is {found!r}, expected {ndim} axes: not a StyleGAN2 generator"
        )
    return tuple(tensors[name].shape)


def _infer_config(
    tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> StyleGAN2Config:
    resolution = 4
    while f"synthesis.b{resolution * 2}.conv0.weight" in tensors:
        resolution *= 2
    num_layers = 0
    while f"mapping.fc{num_layers}.weight" in tensors:
        num_layers += 1
    channels = []
    for r in (2**i for i in range(2, resolution.bit_length())):
        channels.append(_shape(tensors, f"synthesis.b{r}.conv1.weight", 4)[0])
    _, *const_size = _shape(tensors, "synthesis.b4.const", 3)
    w_dim = _shape(tensors, "synthesis.b4.conv1.affine.weight", 2)[1]
    hidden, width = _shape(tensors, "mapping.fc0.weight", 2)
    embed, c_dim = 0, 0
    if "mapping.embed.weight" in tensors:
        embed, c_dim = _shape(tensors, "mapping.embed.weight", 2)
    try:
        return StyleGAN2Config(
            z_dim=width - embed,
            c_dim=c_dim,
            w_dim=w_dim,
            img_resolution=resolution,
            img_channels=_shape(tensors, f"synthesis.b{resolution}.torgb.weight", 4)[0],
            channels=tuple(channels),
            num_mapping_layers=num_layers,
            mapping_features=hidden if num_layers > 1 else None,
            embed_features=embed or None,
            lr_multiplier=settings["lr_multiplier"],
            conv_clamp=settings["conv_clamp"],
            connections=_agreed("connections", _connections(tensors, settings), settings),
            resample_filter=settings.get("resample_filter", RESAMPLE_TAPS),
            const_size=(const_size[0], const_size[1]),
            use_noise=_agreed(
                "use_noise", "synthesis.b4.conv1.noise_strength" in tensors, settings
            ),
        )
    except ValueError as e:
        raise CheckpointError(f"tensor shapes describe no StyleGAN2: {e}") from e


def _connections(tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> str:
    """How blocks are connected, by the layers that they have; a single block is by anything."""
    if "synthesis.b8.conv0.weight" not in tensors:
        return str(settings.get("connections", "skip"))
    if any(name.endswith(".skip.weight") for name in tensors):
        return "resnet"
    return "skip" if "synthesis.b4.torgb.weight" in tensors else "orig"


def _agreed(name: str, shown: Any, settings: Mapping[str, Any]) -> Any:
    """What the tensors show. Raises CheckpointError where the file states something else."""
    stated = settings.get(name, shown)
    if stated != shown:
        raise CheckpointError(
            f"{name!r} is {stated!r}, but the tensors are those of {shown!r}: the file is damaged "
            "or of another program"
        )
    return shown


def checked(
    config: StyleGAN2Config,
    tensors: Mapping[str, np.ndarray],
    estimated: Mapping[str, Any],
    metadata: dict[str, Any],
) -> Checkpoint:
    """A checkpoint of these tensors: names, types, shapes and values against the configuration."""
    if config.img_channels not in CHANNELS:
        raise CheckpointError(
            f"generator draws images of {config.img_channels!r} channels, only 1 (grey), 3 (RGB) "
            "and 4 (RGB and opacity) are implemented: of RGB and other channels keep the first "
            "three rows of every 'torgb.weight' and 'torgb.bias'"
        )
    shapes = config.tensor_shapes()
    if NAME in estimated and NAME not in tensors:
        del shapes[NAME]
    what = f"a StyleGAN2 of resolution {config.img_resolution}"
    result = checked_tensors(tensors, shapes, what)
    return Checkpoint(config.architecture(), result, estimated, metadata)
