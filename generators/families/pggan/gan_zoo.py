"""Checkpoints of pytorch_GAN_zoo (``avgG`` and ``netG``, with their ``config``).

===========================  ================================================================
tensor                       where
===========================  ================================================================
formatLayer.module.*         (16 C, z and labels), outputs in order (C, 4, 4), each its bias
groupScale0.0.module.*       (out, in, 3, 3)
scaleLayers.<i>.<0, 1>.      of the sides 8, 16, ...; before the first every pixel is repeated
toRGBLayers.<i>.module.*     (channels, in, 1, 1); the full side is the last
===========================  ================================================================

He's constant, with gain sqrt 2 in every layer, scales what a layer puts out, its bias too. Older
files lack ``module.``. Labels are categories with several values each, one hot after z; a state
dict alone is taken for one without.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.families.pggan.layers import Layers, Source, all_known, he_constant, tensor
from generators.unpickle.find_network import arrays_of, find_network
from generators.unpickle.interpreter import Inert
from schemas.errors import CheckpointError

MARKERS = ("formatLayer.module.weight", "formatLayer.weight")
AVERAGE = "avgG"
_NAME = re.compile(
    r"(?:(formatLayer)|(groupScale0\.0)|scaleLayers\.(\d+)\.([01])|toRGBLayers\.(\d+))"
    r"(?:\.module)?\.weight"
)
#: Activation of the picture by the loss of the training.
_ACTIVATIONS = {"WGANGP": "linear", "Logistic": "linear", "MSE": "tanh", "DCGAN": "tanh"}
#: Smallest root mean square of equalised weights that is believed: they begin with 1, others with
#: less than sqrt(1 / (3 inputs)).
_EQUALISED = 0.3


def find(contents: Any) -> Source | None:
    """The generator in a file, its average before all; None where it is of another code."""
    top = contents.mapping if isinstance(contents, Inert) else contents
    average = isinstance(top, Mapping) and isinstance(top.get(AVERAGE), dict)
    found = find_network({AVERAGE: top[AVERAGE]} if average else contents, MARKERS)
    if found is None or isinstance(found.state, Inert):
        return None
    tensors = arrays_of(found)
    if not any(name.startswith("toRGBLayers.") for name in tensors):
        return None
    stated = _config(top)
    if stated is None:
        _check_equalised(tensors)
    layers: Layers = {}
    known: set[str] = set()
    for name in tensors:
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        layer = _layer(match)
        bias_name = name.removesuffix("weight") + "bias"
        weight = tensor(tensors, name, 2 if layer == "b4.dense" else 4)
        bias = tensor(tensors, bias_name, 1)
        if stated is None or stated.get("equalizedlR", True):
            scale = he_constant(math.prod(weight.shape[1:]))
            weight, bias = weight * scale, bias * scale
        layers[layer] = weight, bias
        known |= {name, bias_name}
    all_known(set(tensors), known)
    facts = {"source": "pytorch_GAN_zoo", **({"entry": found.where} if found.where else {})}
    if stated is None:
        assumed = {"slope": 0.2, "output_activation": "linear"}
        return Source(layers, 0.0, {}, facts, assumed)
    return Source(layers, _alpha(stated), _settings(stated), facts)


def _layer(match: re.Match[str]) -> str:
    """Our name of a layer."""
    dense, first, scale, part, picture = match.groups()
    if dense:
        return "b4.dense"
    if first:
        return "b4.conv"
    return f"b{4 << int(picture)}.torgb" if picture else f"b{8 << int(scale)}.conv{part}"


def _config(top: Any) -> Mapping[str, Any] | None:
    """The members of the "config" beside the networks; None where there is none."""
    config = top.get("config") if isinstance(top, Mapping) else None
    if isinstance(config, Inert):
        config = config.state
    return config if isinstance(config, dict) else None


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    if not config.get("perChannelNormalization", True):
        raise CheckpointError(
            "'config' has perChannelNormalization False, with which the code of pytorch_GAN_zoo "
            "draws nothing: its first layer is always normalised"
        )
    loss = config.get("lossCriterion", "WGANGP")
    if not isinstance(loss, str) or loss not in _ACTIVATIONS:
        raise CheckpointError(
            f"'config' has lossCriterion {str(loss)[:60]!r}, expected one of "
            f"{list(_ACTIVATIONS)!r}: it decides the activation of the pictures"
        )
    return {
        "slope": _number(config, "leakyReluLeak", 0.2),
        "output_activation": _ACTIVATIONS[loss],
        "label_sizes": _label_sizes(config.get("attribKeysOrder")),
    }


def _alpha(config: Mapping[str, Any]) -> float:
    """Share of the picture of half the size."""
    alpha = _number(config, "alpha", 0.0)
    if not 0 <= alpha <= 1:
        raise CheckpointError(f"'config' has alpha {alpha!r}, expected a share from 0 to 1")
    return alpha


def _number(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(
            f"'config' has {name} of type {type(value).__name__!r}, expected a number"
        )
    return float(value)


def _label_sizes(categories: Any) -> tuple[int, ...]:
    """How many values each category has, in the order of the network's input."""
    if not categories:
        return ()
    try:
        sizes = {int(held["order"]): len(held["values"]) for held in categories.values()}
        return tuple(sizes[i] for i in range(len(categories)))
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise CheckpointError(
            f"'config' has attribKeysOrder that says no order and values of categories ({e!r}): "
            "the file is damaged"
        ) from e


def _check_equalised(tensors: Mapping[str, np.ndarray]) -> None:
    """Of a state dict alone: weights as small as of a training without equalised layers."""
    for name in MARKERS:
        if name in tensors:
            scale = float(np.sqrt(np.square(tensor(tensors, name, 2), dtype=np.float64).mean()))
            if not scale >= _EQUALISED:
                raise CheckpointError(
                    f"tensor {name!r} has root mean square {scale:.2g}, as of a training with "
                    "equalizedlR False, and no 'config' says so: give the file as pytorch_GAN_zoo "
                    "saved it, with 'avgG' and 'config'"
                )
