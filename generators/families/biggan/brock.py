"""State dicts of Brock's BigGAN-PyTorch (``G_ema.pth``): BigGAN and BigGAN-deep.

============================  ===============================================================
name in the file              what it is
============================  ===============================================================
shared.weight                 (classes, shared_dim): class embedding, of ``--G_shared``
linear.*                      first layer
blocks.<i>.0.bn<j>.*          ``gain`` and ``bias`` of the condition, c before z; without
                              ``--G_shared`` a row for each class; statistics
blocks.<i>.0.conv<j>.*        convolutions; of a plain block also ``conv_sc``, beside it
blocks.<i>.1.*                self attention, in the place of ``--G_attn``
output_layer.0, output_layer.2  the last normalisation and convolution
============================  ===============================================================

z is cut into chunks where a plain block's condition is wider than the class embedding (``--hier``).
Statistics are ``stored_mean`` and ``stored_var``, of ``--mybn`` (standing statistics) with a count
of the passes that they were summed over, of ``--cross_replica`` ``running_mean`` and
``running_var``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.families.biggan.config import BigGANConfig, Block
from generators.families.biggan.tensors import State, check_left, moved_last
from schemas.errors import CheckpointError

MARKERS = ("blocks.0.0.bn1.gain.weight",)
#: ``--BN_eps``, unless it was given; the last normalisation's is fixed.
EPS = 1e-5
#: Blocks of a deep network in which the sides are doubled once, at the end (``--G_depth``): of the
#: other depths networks cannot be made, but for those of one width.
DEPTH = 2
#: Stages of the networks of one width, those for 32 x 32 pixels.
STAGES_OF_ONE_WIDTH = 3
_PARTS = ("theta", "phi", "g", "o")


def read_brock(
    tensors: Mapping[str, np.ndarray],
) -> tuple[BigGANConfig, dict[str, np.ndarray], dict[str, Any]]:
    """Configuration, tensors under our names, and what no file states, of a state dict."""
    state = State(tensors)
    count, deep = state.numbers("blocks."), "blocks.0.0.conv3.weight" in state
    last = "conv4" if deep else "conv2"
    pairs = [
        (
            state.shape(f"blocks.{i}.0.conv1.weight", 4)[1],
            state.shape(f"blocks.{i}.0.{last}.weight", 4)[0],
        )
        for i in range(count)
    ]
    embedded = "shared.weight" in state
    rows, columns = state.shape("linear.weight", 2)
    if embedded:
        classes, c_dim = state.shape("shared.weight", 2)
        condition = state.shape("blocks.0.0.bn1.gain.weight", 2)[1]
    else:
        classes = c_dim = condition = state.shape("blocks.0.0.bn1.gain.weight", 2)[0]
    latents = "whole" if deep else "first" if condition == c_dim else "chunks"
    z_dim = columns - c_dim if deep else columns * (count + 1 if latents == "chunks" else 1)
    try:
        config = BigGANConfig(
            z_dim=z_dim,
            c_dim=c_dim,
            classes=classes,
            embedded=embedded,
            kind="deep" if deep else "plain",
            latents=latents,
            side=round((rows / pairs[0][0]) ** 0.5),
            blocks=tuple(
                Block(*pair, doubles)
                for pair, doubles in zip(pairs, _doubling(pairs, deep), strict=True)
            ),
            attention=tuple(i + 1 for i in range(count) if f"blocks.{i}.1.gamma" in state),
            channels=state.shape("output_layer.2.weight", 4)[0],
            prior="normal",
            bn_eps=EPS,
            output_eps=EPS,
        )
    except ValueError as e:
        raise CheckpointError(f"tensor shapes describe no BigGAN: {e}") from e
    found = _converted(state, config)
    check_left(state)
    return config, found, {"bn_eps": EPS, "prior": "normal"}


def _doubling(pairs: list[tuple[int, int]], deep: bool) -> list[bool]:
    """Of each block, whether it doubles the sides: every plain one, the last of a deep stage."""
    if not deep:
        return [True] * len(pairs)
    one_width = len({n for pair in pairs for n in pair}) == 1
    depth = len(pairs) // STAGES_OF_ONE_WIDTH if one_width else DEPTH
    if not depth or len(pairs) % depth:
        raise CheckpointError(
            f"holds {len(pairs)!r} deep blocks, which are not stages of {depth!r} each: the "
            "network was changed in its code; export it to ONNX or torch.export"
        )
    return [i % depth == depth - 1 for i in range(len(pairs))]


def _converted(state: State, config: BigGANConfig) -> dict[str, np.ndarray]:
    found = {"linear.weight": state.weight("linear"), "linear.bias": state.take("linear.bias")}
    if config.embedded:
        found["embedding.weight"] = state.take("shared.weight").T
    if config.kind == "deep":
        found["linear.weight"] = moved_last(found["linear.weight"], config.c_dim)
    n_convs = 4 if config.kind == "deep" else 2
    for i in range(len(config.blocks)):
        at, to = f"blocks.{i}.0", f"b{i}"
        for j in range(n_convs):
            norm = f"{at}.bn{j + 1}"
            for ours, theirs in (("scale", "gain"), ("shift", "bias")):
                weight = state.weight(f"{norm}.{theirs}")
                found[f"{to}.norm{j}.{ours}.weight"] = (
                    moved_last(weight, config.c_dim) if config.embedded else weight.T
                )
            found |= _statistics(state, norm, f"{to}.norm{j}")
            found |= _layer(state, f"{at}.conv{j + 1}", f"{to}.conv{j}")
        if config.kind == "plain":
            found |= _layer(state, f"{at}.conv_sc", f"{to}.skip")
        if i + 1 in config.attention:
            for name in _PARTS:
                found[f"attention{i + 1}.{name}.weight"] = state.weight(f"blocks.{i}.1.{name}")
            found[f"attention{i + 1}.gamma"] = state.take(f"blocks.{i}.1.gamma").reshape(())
    found |= _statistics(state, "output_layer.0", "output.norm")
    found["output.norm.scale"] = state.take("output_layer.0.gain")
    found["output.norm.shift"] = state.take("output_layer.0.bias")
    return found | _layer(state, "output_layer.2", "output.conv")


def _layer(state: State, at: str, to: str) -> dict[str, np.ndarray]:
    return {f"{to}.weight": state.weight(at), f"{to}.bias": state.take(f"{at}.bias")}


def _statistics(state: State, at: str, to: str) -> dict[str, np.ndarray]:
    """Mean and variance (1, channels) of a normalisation.

    Standing statistics are sums over as many passes as the counter says. A moving average of the
    network mixes sums of different counts, of which no mean can be told: it is refused.
    """
    for mean, var in (
        ("stored_mean", "stored_var"),
        ("bn.stored_mean", "bn.stored_var"),
        ("bn.running_mean", "bn.running_var"),
    ):
        if f"{at}.{mean}" in state:
            pair = {"mean": state.take(f"{at}.{mean}"), "var": state.take(f"{at}.{var}")}
            break
    else:
        raise CheckpointError(
            f"{at!r} has no 'stored_mean' or 'bn.running_mean': only batch normalisation with "
            "stored statistics is implemented ('--norm_style bn')"
        )
    counter = f"{at}.bn.accumulation_counter"
    passes = float(state.take(counter).reshape(-1)[0]) if counter in state else 0.0
    if passes != round(passes) or passes < 0:
        raise CheckpointError(
            f"{counter!r} is {passes!r}, no number of passes: a moving average has mixed standing "
            "statistics with others; accumulate them again ('--accumulate_stats') and save the "
            "state dict"
        )
    return {f"{to}.{name}": value.reshape(1, -1) / (passes or 1) for name, value in pair.items()}
