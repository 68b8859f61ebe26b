"""The official TensorFlow pickles (``tfutil.Network`` of builder ``G_paper``).

===========================  ==========================================================
variable                     where
===========================  ==========================================================
4x4/Dense/weight, bias       (z and labels, 16 C), outputs in order (C, 4, 4); (C,)
4x4/Conv/*                   (3, 3, in, out)
<r>x<r>/Conv0/*, Conv1/*     (3, 3, in, out); before Conv0 every pixel is repeated
<r>x<r>/Conv0_up/*           repetition and convolution in one, (3, 3, out, in)
ToRGB_lod<i>/*               (1, 1, in, channels); the full side is lod 0
lod                          level of detail of the training
===========================  ==========================================================

A fused kernel is a transposed convolution's, which scatters it as it lies: the same function as
repeated pixels under the kernel turned around.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.families.pggan.layers import (
    Layers,
    Source,
    all_known,
    he_constant,
    level_of_detail,
    tensor,
)
from generators.unpickle.interpreter import Inert
from generators.unpickle.tensorflow_pickles import TensorflowNetwork, tensorflow_networks
from schemas.errors import CheckpointError

MODULE, VERSION, BUILDER = "tfutil", 2, "G_paper"
DENSE = "4x4/Dense/weight"
_BLOCK = re.compile(r"(\d+)x\1/(Conv|Conv0|Conv0_up|Conv1)/weight")
_TO_RGB = re.compile(r"ToRGB_lod(\d+)/weight")
#: Arguments of the builder that decide what is drawn, with its defaults.
ARGUMENTS: Mapping[str, Any] = {
    "label_size": 0,
    "normalize_latents": True,
    "use_wscale": True,
    "use_pixelnorm": True,
    "pixelnorm_epsilon": 1e-8,
    "use_leakyrelu": True,
}
#: Those that the variables tell, or that change only how it is computed.
HARMLESS = (
    "num_channels resolution fmap_base fmap_decay fmap_max latent_size dtype fused_scale structure "
    "is_template_graph mbstd_group_size"
).split()


def find(contents: Any) -> Source | None:
    """The generator in a pickle, of (G, D, Gs) the last; None where it is of another code."""
    _refuse_theano(contents)
    networks = [n for n in tensorflow_networks(contents) if n.module == MODULE]
    generators = [n for n in networks if n.builder == BUILDER or DENSE in n.variables]
    if not generators:
        return None
    network = generators[-1]
    if (network.version, network.builder) != (VERSION, BUILDER):
        raise CheckpointError(
            f"network {network.name!r} is built by {network.builder!r} of version "
            f"{network.version!r}, only {BUILDER!r} of version {VERSION!r} is known: what other "
            "code does with these variables is not"
        )
    return _source(network)


def _refuse_theano(contents: Any) -> None:
    for item in contents if isinstance(contents, tuple | list) else [contents]:
        if isinstance(item, Inert) and isinstance(item.state, dict):
            if {"build_func_spec", "param_values"} <= item.state.keys():
                raise CheckpointError(
                    "file is a pickle of the Theano version of Progressive GAN: load it with "
                    "'misc.load_pkl' of the TensorFlow version, and pickle what that gives"
                )


def _source(network: TensorflowNetwork) -> Source:
    variables = network.variables
    said = _arguments(network)
    scaled = said["use_wscale"]
    layers: Layers = {}
    known = {"lod"}

    def weight(name: str, ndim: int, fan_in: tuple[int, ...], gain: float) -> np.ndarray:
        """fan_in : the axes that it counts."""
        found = tensor(variables, name, ndim)
        known.update({name, name.replace("/weight", "/bias")})
        reach = math.prod(found.shape[axis] for axis in fan_in)
        return found * he_constant(reach, gain) if scaled else found

    def bias(name: str) -> np.ndarray:
        return tensor(variables, name.replace("/weight", "/bias"), 1)

    root = math.sqrt(2.0)
    dense = weight(DENSE, 2, (0,), root / 4)
    layers["b4.dense"] = dense.T, np.repeat(bias(DENSE), 16)
    pictures: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for name in variables:
        if match := _BLOCK.fullmatch(name):
            side, part = int(match[1]), match[2]
            if part == "Conv0_up":
                kernel = weight(name, 4, (0, 1, 3), root)[::-1, ::-1].transpose(2, 3, 0, 1)
            else:
                kernel = weight(name, 4, (0, 1, 2), root).transpose(3, 2, 0, 1)
            layer = "conv0" if part == "Conv0_up" else part.lower()
            layers[f"b{side}.{layer}"] = kernel, bias(name)
        elif match := _TO_RGB.fullmatch(name):
            kernel = weight(name, 4, (0, 1, 2), 1.0).transpose(3, 2, 0, 1)
            pictures[int(match[1])] = kernel, bias(name)
    all_known(set(variables), known)
    for lod, picture in pictures.items():
        layers[f"b{4 << (max(pictures) - lod)}.torgb"] = picture
    facts: dict[str, Any] = {"source": "official TensorFlow", "name": network.name[:80]}
    precision = network.arguments.get("dtype", "float32")
    if precision != "float32":
        facts["left_out"] = [
            f"the official code computes in {str(precision)[:40]!r}, latentflow in float32"
        ]
    return Source(
        layers=layers,
        lod=level_of_detail({k: variables[k] for k in ("lod",) if k in variables}),
        settings={
            "label_sizes": (said["label_size"],) if said["label_size"] else (),
            "normalize_input": said["normalize_latents"],
            "pixel_norm": said["use_pixelnorm"],
            "epsilon": said["pixelnorm_epsilon"],
            "slope": 0.2 if said["use_leakyrelu"] else 0.0,
        },
        facts=facts,
    )


def _arguments(network: TensorflowNetwork) -> dict[str, Any]:
    """All of `ARGUMENTS`. Raises CheckpointError for one that the official builder does not have,
    or of another type."""
    said = dict(ARGUMENTS)
    for name, value in network.arguments.items():
        if name in HARMLESS or name not in ARGUMENTS and network.ignores(name):
            continue
        if name not in ARGUMENTS:
            raise CheckpointError(
                f"network {network.name!r} is built with {name[:60]!r} {str(value)[:60]!r}, which "
                "the official code does not have and which may change what it draws: it is not "
                "implemented"
            )
        default = ARGUMENTS[name]
        if type(value) is not type(default):
            raise CheckpointError(
                f"network {network.name!r} is built with {name!r} {str(value)[:60]!r}, expected "
                f"a value such as {default!r}: the file is damaged"
            )
        said[name] = value
    return said
