"""StyleGAN2 as NVIDIA's TensorFlow code pickles it, and what the official converter makes of that.

    python -m tests.generators.families.stylegan2_tensorflow ADA

writes the converter's tensors again, for `test_stylegan2_tensorflow`. ADA is a checkout of
NVlabs/stylegan2-ada-pytorch, whose ``legacy.py`` is run on the pickles that are made here.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from places import GOLDEN

from generators.families.stylegan2.adapter import StyleGAN2Adapter
from generators.unpickle.writer import Call
from tests.generators.tensorflow_layouts import (
    ADA,
    STYLEGAN2,
    tensorflow_network,
    tensorflow_pickle,
)
from tests.stylegan2_layouts import tiny

CONVERTED = GOLDEN / "stylegan2_legacy.npz"
_SMALL = {"img_resolution": 8, "channel_base": 32, "channel_max": 6}
#: Changes of `tiny`, version of the pickle, and arguments beside those of the shapes.
CASES: dict[str, tuple[dict[str, Any], tuple[str, int], dict[str, Any]]] = {
    "config-f": ({"num_mapping_layers": 8}, STYLEGAN2, {"truncation_psi": 0.5}),
    "config-e-resnet": (
        {"connections": "resnet", "resample_filter": (1.0, 2.0, 1.0), "lr_multiplier": 0.02},
        STYLEGAN2,
        {
            "architecture": "resnet",
            "resample_kernel": [1, 2, 1],
            "mapping_layers": 2,
            "mapping_lrmul": 0.02,
        },
    ),
    "config-e-orig": (
        {"connections": "orig"},
        STYLEGAN2,
        {"architecture": "orig", "mapping_layers": 2, "style_mixing_prob": None},
    ),
    "ada": (
        {"c_dim": 3, "embed_features": 8, "conv_clamp": 256.0, "use_noise": False},
        ADA,
        {
            "label_size": 3,
            "conv_clamp": 256,
            "num_fp16_res": 4,
            "mapping_layers": 2,
            "use_noise": False,
            "w_avg_beta": None,
        },
    ),
}


def model(name: str) -> StyleGAN2Adapter:
    """The generator of a case."""
    return tiny(seed=11, **_SMALL, **CASES[name][0])


def variables(g: StyleGAN2Adapter) -> dict[str, dict[str, Any]]:
    """The variables of the whole network (""), of its mapping and of its synthesis network."""
    found: dict[str, dict[str, Any]] = {"": {}, "mapping": {}, "synthesis": {}}
    for name, value in g.tensors().items():
        part, *path = name.split(".")
        if name == "mapping.w_avg":
            found[""]["dlatent_avg"] = value
        elif part == "mapping":
            scope = "LabelEmbed" if path[0] == "embed" else path[0].replace("fc", "Dense")
            found[part][f"{scope}/{path[1]}"] = value.T
        elif path[-1] == "const":
            found[part]["4x4/Const/const"] = value[None]
        elif path[-1] == "noise_const":
            log2, late = int(path[0][1:]).bit_length() - 1, path[1] == "conv1"
            index = 0 if log2 == 2 else 2 * log2 - 5 + late
            found[part][f"noise{index}"] = value[None, None]
        else:
            side = path[0][1:]
            layer = {"conv0": "Conv0_up", "conv1": "Conv1", "torgb": "ToRGB", "skip": "Skip"}[
                path[1]
            ]
            scope = f"{side}x{side}/" + ("Conv" if side == "4" and layer == "Conv1" else layer)
            leaf = path[-1] if path[2] != "affine" else f"mod_{path[-1]}"
            if leaf == "weight":
                value = value.transpose(2, 3, 1, 0)
                value = value[::-1, ::-1] if layer in ("Conv0_up", "Skip") else value
            elif leaf == "mod_bias":
                value = value - np.float32(1)
            found[part][f"{scope}/{leaf}"] = (
                float(value) if value.ndim == 0 else value.T if (leaf == "mod_weight") else value
            )
    return found


def network(
    g: StyleGAN2Adapter,
    version: tuple[str, int],
    arguments: Mapping[str, Any],
    synthesis: str | None = None,
    held: Mapping[str, dict[str, Any]] | None = None,
    source: str = "def G_main(**kwargs): ...",
    **changed: Any,
) -> Call:
    """The generator as a pickled network. held : its variables, see `variables`. source : of the
    builders. changed : builders and arguments in place of the usual."""
    config = g.config
    shapes = {
        "latent_size": config.z_dim,
        "dlatent_size": config.w_dim,
        "resolution": config.img_resolution,
        "num_channels": config.img_channels,
        "fmap_base": config.channel_base // 2,
        "fmap_max": config.channel_max,
    }
    usual = "G_synthesis" if version is ADA else "G_synthesis_stylegan2"
    held = held or variables(g)
    given = {**shapes, **arguments}
    parts = {
        "synthesis": tensorflow_network(
            version, synthesis or usual, given, held["synthesis"], name="G_synthesis", source=source
        ),
        "mapping": tensorflow_network(
            version,
            "G_mapping",
            {**given, "dlatent_broadcast": config.num_ws},
            held["mapping"],
            source=source,
        ),
    }
    return tensorflow_network(
        version, "G_main", {**given, **changed}, held[""], parts, source=source
    )


def pickled(name: str) -> bytes:
    """A case's pickle of (G, D, Gs)."""
    _, version, arguments = CASES[name]
    g = model(name)
    other = tiny(seed=12, **_SMALL, **CASES[name][0])
    discriminator = tensorflow_network(version, "D_stylegan2", {}, {}, name="D")
    made = network(g, version, arguments)
    return tensorflow_pickle(made, network(other, version, arguments), discriminator)


def main(ada: str) -> None:
    """Every case converted by the official code."""
    sys.path.insert(0, ada)
    import legacy  # type: ignore[import-not-found]

    found: dict[str, np.ndarray] = {}
    for name in CASES:
        *_, average = legacy._LegacyUnpickler(io.BytesIO(pickled(name))).load()
        converted = legacy.convert_tf_generator(average)
        for key, value in converted.state_dict().items():
            found[f"{name}/{key}"] = value.numpy()
    np.savez_compressed(CONVERTED, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
