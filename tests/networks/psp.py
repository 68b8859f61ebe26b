"""Training checkpoints of the pSp framework with narrow encoders of random weights.

Layers are as many, and names and places those of the programs that write such files; channels are
an eighth of theirs, and squeeze and excitation divide by 4, not by 16.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from generators.encoders.psp.config import PspConfig

SIDE = 256
NARROW = PspConfig(
    size=(SIDE, SIDE),
    in_channels=3,
    backbone="ir_se",
    channels=(8, 8, 16, 32, 64),
    units=(3, 4, 14, 3),
    squeeze=4,
    head="pyramid",
    depth=4,
    styles=8,
    offsets=False,
    num_ws=8,
    w_dim=64,
)
_RESTYLE = replace(NARROW, in_channels=6, head="map", styles=6, num_ws=6)
_RESNET = replace(_RESTYLE, backbone="resnet", units=(3, 4, 6, 3), squeeze=0)
_POOLED = replace(NARROW, head="pooled", depth=0, styles=0)
#: (program, ``encoder_type``) -> the encoder.
CONFIGS: dict[tuple[str, str], PspConfig] = {
    ("pixel2style2pixel", "GradualStyleEncoder"): NARROW,
    ("pixel2style2pixel", "BackboneEncoderUsingLastLayerIntoW"): _POOLED,
    ("pixel2style2pixel", "BackboneEncoderUsingLastLayerIntoWPlus"): replace(
        NARROW, head="linear", depth=0
    ),
    ("encoder4editing", "Encoder4Editing"): replace(NARROW, offsets=True),
    ("encoder4editing", "SingleStyleCodeEncoder"): _POOLED,
    ("restyle-encoder", "BackboneEncoder"): _RESTYLE,
    ("restyle-encoder", "ResNetBackboneEncoder"): _RESNET,
    ("restyle-encoder", "ProgressiveBackboneEncoder"): replace(_RESTYLE, offsets=True),
    ("restyle-encoder", "ResNetProgressiveBackboneEncoder"): replace(_RESNET, offsets=True),
    ("restyle-encoder", "ResNetGradualStyleEncoder"): replace(
        _RESNET, in_channels=3, head="pyramid", styles=8, num_ws=8
    ),
    ("hyperstyle", "WEncoder"): _POOLED,
}


def filled(config: PspConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors of an encoder by name, with ``latent_avg``."""
    found = {}
    for name, shape in sorted(config.tensor_shapes().items()):
        draw = np.random.default_rng([seed, *name.encode()]).standard_normal(shape, np.float32)
        if name.endswith("running_var"):
            draw = 0.5 + draw**2
        elif name.endswith(("bias", "running_mean")):
            draw = 0.1 * draw
        elif len(shape) == 1:  # slopes and gains; those of the sums small, for there are many
            small = name.endswith(("res_layer.4.weight", "bn2.weight"))
            draw = np.float32(0.3) + 0.1 * draw if small else np.float32(0.6) + 0.2 * draw
        elif len(shape) == 4 or name == "output_layer_2.3.weight":
            draw = draw / np.float32(np.sqrt(np.prod(shape[1:])))
        found[name] = np.asarray(draw, np.float32)
    found["latent_avg"][:] = found["latent_avg"][:1]
    return found


def contents(
    config: PspConfig, encoder_type: str, tensors: dict[str, np.ndarray], **opts: Any
) -> dict[str, Any]:
    """What such a program saves, but for the generator. opts : further ones, or others."""
    state: dict[str, Any] = {
        f"encoder.{name}": value for name, value in tensors.items() if name != "latent_avg"
    }
    norms = [name for name in state if name.endswith("running_mean")]
    for name in norms:
        state[name.replace("running_mean", "num_batches_tracked")] = np.array(7)
    said = {
        "encoder_type": encoder_type,
        "dataset_type": "ffhq_encode",
        "start_from_latent_avg": True,
        "output_size": 4 << (config.num_ws // 2 - 1),
        **opts,
    }
    return {"state_dict": state, "opts": said, "latent_avg": tensors["latent_avg"]}


def pictures(n: int = 2, channels: int = 3, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """Smooth images with some noise, float32 (n, channels, *size) in [-1, 1]."""
    y, x = (np.linspace(0, 3, side, dtype=np.float32) for side in size)
    rng = np.random.default_rng(5)
    a, b, c = rng.uniform(-1, 1, (3, n, channels, 1, 1)).astype(np.float32)
    waves = np.sin(a * 3 * y[:, None] + b * 3 * x + c * 4)
    return np.clip(0.8 * waves + 0.1 * rng.standard_normal(waves.shape), -1, 1).astype(np.float32)
