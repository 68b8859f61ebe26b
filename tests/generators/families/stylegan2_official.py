"""Images that the official modules draw at random weights, for `test_stylegan2_official`.

    python -m tests.generators.families.stylegan2_official ADA FORK

writes them again. ADA is a checkout of NVlabs/stylegan2-ada-pytorch; FORK another one, with
``training/networks.py`` of eps696/stylegan2ada (in its ``src``), whose images need not be square.
The weights are those of `tiny`, made here and there of the same seeds, so that only images are
kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from places import GOLDEN, ROOT

from generators.families.stylegan2.adapter import StyleGAN2Adapter
from tests.stylegan2_layouts import tiny

SEEDS = (1, 2)
REFERENCE = GOLDEN / "stylegan2_official.npz"
LONG = (10.0, -20.0, 50.0, 110.0, 100.0, 40.0, -10.0, 3.0)
#: What `tiny` is changed by. "resnet_clamped" is cut by its clamp in many places.
CASES: dict[str, dict[str, Any]] = {
    "skip": {},
    "orig": {"connections": "orig"},
    "resnet": {"connections": "resnet"},
    "resnet_clamped": {"connections": "resnet", "conv_clamp": 1.0},
    "filter_of_3": {"connections": "resnet", "resample_filter": (1.0, 2.0, 1.0)},
    "filter_of_2": {"resample_filter": (1.0, 1.0)},
    "filter_of_1": {"resample_filter": (1.0,)},
    "filter_that_leans": {"resample_filter": (1.0, 4.0, 2.0, 1.0, 1.0)},
    "filter_of_8": {"connections": "resnet", "resample_filter": LONG},
    "without_noise": {"use_noise": False, "connections": "orig"},
    "grey": {"img_channels": 1},
    "opacity": {"img_channels": 4, "conv_clamp": 256.0},
    "labels": {"c_dim": 3, "z_dim": 5, "w_dim": 8, "embed_features": 4, "mapping_features": 7},
    "wide": {"const_size": (2, 5)},
    "tall_resnet": {"const_size": (6, 4), "connections": "resnet", "img_resolution": 8},
}
#: Drawn by the official code in float16, two resolutions of three.
FLOAT16: dict[str, dict[str, Any]] = {
    "float16": {"num_fp16_res": 2, "conv_clamp": 256.0},
    "float16_resnet": {"num_fp16_res": 2, "conv_clamp": 2.0, "connections": "resnet"},
}


def model(name: str) -> StyleGAN2Adapter:
    """The generator of a case."""
    return tiny(seed=7, **{**CASES, **FLOAT16}[name])


def labels_of(name: str) -> np.ndarray:
    """Labels (2, classes) of a case: a class, and weights of all."""
    classes = model(name).config.c_dim
    return np.array([[0, 1, 0], [0.5, 0.2, 0.3]], np.float32)[:, :classes]


def official(name: str, folder: Path) -> dict[str, np.ndarray]:
    """w_plus codes (2, layers, w_dim), of truncation 0.7, and images of the official modules."""
    sys.path.insert(0, str(folder))
    import torch
    from training import networks  # type: ignore[import-not-found]

    ours = model(name)
    config = ours.config
    wide = {} if config.const_size == (4, 4) else {"init_res": list(config.const_size)}
    network = networks.Generator(
        z_dim=config.z_dim,
        c_dim=config.c_dim,
        w_dim=config.w_dim,
        img_resolution=config.img_resolution,
        img_channels=config.img_channels,
        mapping_kwargs={
            "num_layers": config.num_mapping_layers,
            "embed_features": config.embed_features,
            "layer_features": config.mapping_features,
            "lr_multiplier": config.lr_multiplier,
        },
        synthesis_kwargs={
            "channel_base": config.channel_base,
            "channel_max": config.channel_max,
            "num_fp16_res": config.num_fp16_res,
            "conv_clamp": config.conv_clamp,
            "architecture": config.connections,
            "resample_filter": list(config.resample_filter),
            "use_noise": config.use_noise,
        },
        **wide,
    ).eval()
    state = {k: torch.from_numpy(v) for k, v in ours.tensors().items()}
    kept = {k: v for k, v in network.state_dict().items() if k.endswith("resample_filter")}
    network.load_state_dict({**state, **kept}, strict=True)
    z = ours.sample("z", SEEDS).main
    with torch.no_grad():
        ws = network.mapping(z, torch.from_numpy(labels_of(name)), truncation_psi=0.7)
        images = network.synthesis(ws, noise_mode="const", force_fp32=name in CASES)
    return {"ws": ws[:, 0].numpy(), "images": images.numpy()}


def main(ada: str, fork: str) -> None:
    """Each case in a process of its own, since the checkouts' modules have the same names."""
    found: dict[str, np.ndarray] = {}
    for name, change in {**CASES, **FLOAT16}.items():
        folder = fork if "const_size" in change else ada
        command = [sys.executable, "-m", __spec__.name, "--one", name, folder]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        for key, rows in json.loads(done.stdout).items():
            found[f"{name}/{key}"] = np.array(rows, np.float32)
    np.savez_compressed(REFERENCE, **found)


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        arrays = official(sys.argv[2], Path(sys.argv[3]))
        sys.stdout.write(json.dumps({key: value.tolist() for key, value in arrays.items()}))
    else:
        main(*sys.argv[1:])
