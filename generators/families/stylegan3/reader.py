"""StyleGAN3 generators in files to our architecture and tensor names, without torch.

Read: official NVlabs pickles, those of StyleGAN-XL, and torch files that hold such a network or its
state dict, under any prefix. The same model has the same fingerprint whatever file it came from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.checked_tensors import checked_tensors
from generators.families.base import Checkpoint
from generators.families.stylegan3.config import LayerShape, StyleGAN3Config
from generators.families.stylegan3.design import padding
from generators.families.stylegan3.official_modules import read_modules
from generators.unpickle.find_network import arrays_of, find_network
from generators.unpickle.interpreter import Inert
from generators.w_avg import NAME, estimate_of_w_avg
from schemas.errors import CheckpointError

#: A tensor that every StyleGAN3 has, and no other network.
MARKERS = ("synthesis.input.freqs",)
#: What tensors do not show, with the official values, which are assumed of a state dict; a
#: specification may give them.
ASSUMED: Mapping[str, float] = {
    "lr_multiplier": 0.01,
    "conv_clamp": 256.0,
    "output_scale": 0.25,
    "bandwidth": 2.0,
}
MARGIN = 10
"""Samples that layers of the official code have beyond each border of the picture."""
FILTER_SIZE = 6
"""Taps of the official filters for each sample of the lower rate."""
CHANNELS = (1, 3, 4)
"""Channels of a picture that can be drawn: grey, RGB, and RGB with a fourth that is left out."""


def read(contents: Any) -> Checkpoint | None:
    """The one generator in a file's contents, None where there is none."""
    found = find_network(contents, MARKERS)
    if found is None:
        return None
    if not isinstance(found.state, Inert):
        tensors = arrays_of(found)
        config = _infer_config(tensors)
        assumed = {**ASSUMED, "sampling_rate": config.sampling_rate}
        facts: dict[str, Any] = {"source": "official", "assumed": assumed}
    else:
        config, records, class_name = read_modules(found.state)
        tensors = {name: record.array(name) for name, record in records.items()}
        facts = {"source": "official", "class_name": class_name}
    if found.where:
        facts["entry"] = found.where
    _trim_table(config, tensors)
    # Means of classes are not estimated: each would take the samples of one.
    estimated = {} if config.labels == "table" else estimate_of_w_avg(tensors)
    return checked(config, tensors, estimated, facts)


def _trim_table(config: StyleGAN3Config, tensors: dict[str, np.ndarray]) -> None:
    """Take out embeddings of classes that the model has no labels for."""
    name = "mapping.embed.weight"
    if config.labels == "none":
        tensors.pop(name, None)
    elif config.labels == "table" and name in tensors:
        tensors[name] = tensors[name][: config.c_dim]


def _infer_config(tensors: Mapping[str, np.ndarray]) -> StyleGAN3Config:
    """The configuration that a state dict shows, what it does not as in `ASSUMED`."""
    pattern = r"synthesis\.(L(\d{1,3})_(\d{1,6})_(\d{1,6}))\.weight"
    found = [match for name in tensors if (match := re.fullmatch(pattern, name))]
    found.sort(key=lambda match: int(match[2]))
    if not found:
        raise CheckpointError("state dict has no layers such as 'synthesis.L0_36_512.weight'")
    layers: list[LayerShape] = []
    size = int(found[0][3])
    for match in found:
        layers.append(_layer(match[1], size, int(match[3]), tensors, match is found[-1]))
        size = int(match[3])
    hidden, width = _shape(tensors, "mapping.fc0.weight", 2)
    labels, c_dim, embed_features, embedded = "none", 0, 0, 0
    if "mapping.embed_proj.weight" in tensors:
        embedded, embed_features = _shape(tensors, "mapping.embed_proj.weight", 2)
        # The table may hold more classes than there are labels; each label has a mean of w.
        means = tensors.get("mapping.w_avg", tensors.get("mapping.embed.weight", np.zeros(0)))
        labels, c_dim = "table", len(means) if means.ndim == 2 else 0
    elif "mapping.embed.bias" in tensors:
        embedded, c_dim = _shape(tensors, "mapping.embed.weight", 2)
        labels = "linear"
    try:
        return StyleGAN3Config(
            tuple(layers),
            sampling_rate=float(layers[0].in_size[0] - 2 * MARGIN),
            z_dim=width - embedded,
            c_dim=c_dim,
            w_dim=hidden,
            labels=labels,
            embed_features=embed_features,
            num_mapping_layers=sum(
                re.fullmatch(r"mapping\.fc\d{1,3}\.weight", name) is not None for name in tensors
            ),
            **ASSUMED,
        )
    except ValueError as e:
        raise CheckpointError(f"tensor shapes describe no StyleGAN3: {e}") from e


def _layer(
    name: str, in_size: int, out_size: int, tensors: Mapping[str, np.ndarray], to_rgb: bool
) -> LayerShape:
    out_channels, in_channels, kernel, _ = _shape(tensors, f"synthesis.{name}.weight", 4)
    factors, lengths, radial = [], [], False
    for part in ("up_filter", "down_filter"):
        taps = tensors.get(f"synthesis.{name}.{part}", np.ones(1))
        length = max(taps.shape, default=1)
        if length > 1 and length % FILTER_SIZE:
            raise CheckpointError(
                f"filter {f'synthesis.{name}.{part}'!r} has {length!r} taps, no multiple of the "
                f"official {FILTER_SIZE!r}: by which factor it resamples is not known; give the "
                "network as it was pickled"
            )
        factors.append(length // FILTER_SIZE if length > 1 else 1)
        lengths.append(length)
        radial = taps.ndim == 2
    try:
        return LayerShape(
            name,
            in_channels,
            out_channels,
            (in_size,) * 2,
            (out_size,) * 2,
            kernel,
            up=factors[0],
            down=factors[1],
            up_taps=lengths[0],
            down_taps=lengths[1],
            radial=radial,
            padding=padding((in_size, out_size), kernel, (factors[0], factors[1]), sum(lengths)),
            to_rgb=to_rgb,
        )
    except ValueError as e:
        raise CheckpointError(f"tensor shapes describe no StyleGAN3: {e}") from e


def _shape(tensors: Mapping[str, np.ndarray], name: str, ndim: int) -> tuple[int, ...]:
    if name not in tensors or tensors[name].ndim != ndim:
        found = tensors[name].shape if name in tensors else "missing"
        raise CheckpointError(
            f"tensor {name!r} is {found!r}, expected {ndim} axes: not a StyleGAN3 generator"
        )
    return tuple(tensors[name].shape)


def checked(
    config: StyleGAN3Config,
    tensors: Mapping[str, np.ndarray],
    estimated: Mapping[str, Any],
    metadata: dict[str, Any],
) -> Checkpoint:
    """A checkpoint of these tensors: names, types, shapes and values against the configuration."""
    if config.img_channels not in CHANNELS:
        raise CheckpointError(
            f"generator draws images of {config.img_channels!r} channels, only {CHANNELS!r} are "
            "implemented: keep the first three rows of the last layer's 'weight' and 'bias'"
        )
    shapes = config.tensor_shapes()
    if NAME in estimated and NAME not in tensors:
        del shapes[NAME]
    result = checked_tensors(tensors, shapes, f"a StyleGAN3 of {len(config.layers)} layers")
    if abs(np.linalg.det(result["synthesis.input.transform"].astype(np.float64))) < 1e-12:
        raise CheckpointError(
            "tensor 'synthesis.input.transform' turns the picture into a line: save the network "
            "with its inverse transform, the identity where pictures are not to be moved"
        )
    for layer in config.layers:
        name = f"synthesis.{layer.name}.magnitude_ema"
        if not result[name] > 0:
            raise CheckpointError(
                f"tensor {name!r} is {float(result[name])!r}, a mean square is above 0: the file "
                "is damaged, or the network was never trained; use another checkpoint"
            )
    return Checkpoint(config.architecture(), result, estimated, metadata)
