"""BigGAN against the official modules, and against a second implementation.

``biggan.npz`` holds the pictures that Hugging Face's package and Brock's code draw of
the small models of `tests.networks.biggan`, whose state dicts they load whole. It was made by

    git clone https://github.com/huggingface/pytorch-pretrained-BigGAN DIR/pytorch-pretrained-BigGAN
    git clone https://github.com/ajbrock/BigGAN-PyTorch DIR/BigGAN-PyTorch
    python -m tests.generators.families.references.biggan DIR
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from generators.families.base import Checkpoint, Configured
from generators.families.biggan import PLUGIN
from generators.protocols import Code
from tests.networks.biggan import (
    BROCK,
    CLASSES,
    HF_CONFIG,
    State,
    brock_images,
    brock_state,
    filled,
    hf_images,
    hf_state,
)

Pair = tuple[np.ndarray, np.ndarray]
ARRAYS = Path(__file__).with_suffix(".npz")
HUGGING_FACE, BROCKS = "pytorch-pretrained-BigGAN", "BigGAN-PyTorch"
#: Truncations of the statistics: sets of their own, and what lies between two of them.
TRUNCATIONS = (0.02, 0.4, 0.413, 0.58, 1.0)
KINDS = ("hf", *BROCK)

#: What the package imports for downloads alone.
STUBS = ("boto3", "botocore", "botocore.exceptions", "requests")

#: As biggan-deep-128 was published, and as BigGAN-PyTorch trains on ImageNet and on CIFAR-10.
DEEP_128: dict[str, Any] = {
    **HF_CONFIG,
    "output_dim": 128,
    "z_dim": 128,
    "channel_width": 128,
    "num_classes": 1000,
    "layers": [[i % 2 == 1, *pair] for i, pair in enumerate(
        [(16, 16), (16, 16), (16, 16), (16, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1)])],
    "attention_layer_position": 8,
}  # fmt: skip
IMAGENET_128 = {"G_ch": 96, "resolution": 128, "dim_z": 120, "shared_dim": 128, "G_shared": True,
                "hier": True, "G_attn": "64", "n_classes": 1000}  # fmt: skip
CIFAR_10 = {
    "G_shared": False,
    "G_ch": 64,
    "resolution": 32,
    "dim_z": 128,
    "G_attn": "0",
    "n_classes": 10,
}


def read(kind: str, **settings: Any) -> Checkpoint:
    """A small model of Hugging Face's, "hf", or of Brock's kinds."""
    contents = Configured(hf_state(), HF_CONFIG) if kind == "hf" else brock_state(kind)
    return _read(contents, **settings)


def _read(contents: Any, **settings: Any) -> Checkpoint:
    found = PLUGIN.recognise(contents)
    if found is None:
        raise ValueError("is no BigGAN")
    return Checkpoint({**found.architecture, **settings}, found.tensors, metadata=found.metadata)


def tiny() -> Checkpoint:
    """16 x 16, five classes."""
    return read("hf")


def latents(width: int, n: int = 2) -> np.ndarray:
    """Codes (n, width)."""
    return np.random.RandomState(5).standard_normal((n, width)).astype(np.float32)


def weights_of(classes: int) -> np.ndarray:
    """One class, and a mixture of all but the last."""
    found = np.eye(classes, dtype=np.float32)[[1, 3]]
    found[1, : classes - 1] = np.arange(1, classes, dtype=np.float32) / (
        classes * (classes - 1) / 2
    )
    found[1, classes - 1 :] = 0
    return found


def drawn(found: Checkpoint, weights: np.ndarray) -> np.ndarray:
    """Our pictures of `latents`."""
    model = PLUGIN.build(found)
    z = torch.from_numpy(latents(model.config.z_dim, len(weights)))
    return model.draw(Code("z", z), labels=weights).numpy()


# ---- the official modules ------------------------------------------------------------------------


@contextlib.contextmanager
def imported(checkout: Path, *names: str) -> Iterator[list[Any]]:
    """Modules of a checkout, of which nothing is left behind."""
    before = set(sys.modules)
    for name in STUBS:
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["botocore.exceptions"].__dict__.setdefault("ClientError", Exception)
    try:
        with patch.object(sys, "path", [str(checkout), *sys.path]):
            with contextlib.redirect_stdout(io.StringIO()):
                yield [importlib.import_module(name) for name in names]
    finally:
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if name in STUBS or (file is not None and Path(file).is_relative_to(checkout)):
                del sys.modules[name]


def loaded(model: Any, state: Mapping[str, np.ndarray]) -> Any:
    """A model in evaluation mode with the tensors, of which none is missing or left over."""
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    return model.eval()


def hugging_faces(
    checkout: Path, config: dict[str, Any], state: State, truncation: float
) -> np.ndarray:
    """Pictures of `latents` and `weights_of`, by the package."""
    with imported(checkout, "pytorch_pretrained_biggan") as (package,), torch.no_grad():
        model = loaded(package.BigGAN(package.BigGANConfig.from_dict(config)), state)
        z, weights = latents(config["z_dim"]), weights_of(config["num_classes"])
        found: np.ndarray = model(
            torch.from_numpy(z), torch.from_numpy(weights), truncation
        ).numpy()
    return found


def brocks(
    checkout: Path, deep: bool, arguments: dict[str, Any], state: State | None = None
) -> tuple[State, np.ndarray]:
    """State dict, random where none is given, and pictures of two classes, by Brock's code."""
    with imported(checkout, "BigGANdeep" if deep else "BigGAN") as (module,), torch.no_grad():
        model = module.Generator(**arguments, **({"G_depth": 2} if deep else {}), no_optim=True)
        if state is None:
            state = filled((k, tuple(v.shape)) for k, v in model.state_dict().items())
        loaded(model, state)
        classes = torch.tensor([0, 2])
        y = model.shared(classes) if arguments.get("G_shared") else classes
        images = model(torch.from_numpy(latents(arguments["dim_z"])), y).numpy()
    return state, images


def small_brock(checkout: Path, kind: str) -> np.ndarray:
    """Each second pixel of the pictures of a small model, by Brock's code."""
    about = BROCK[kind]
    arguments = {
        "G_ch": 4, "resolution": 32, "dim_z": about["z"], "n_classes": CLASSES,
        "hier": about["hier"], "G_shared": about["shared"] > 0, "shared_dim": about["shared"],
        "G_attn": "_".join(str(8 << stage) for stage in about["attention"]) or "0",
    }  # fmt: skip
    return brocks(checkout, about["deep"], arguments, brock_state(kind))[1][:, :, ::2, ::2]


# ---- pairs ---------------------------------------------------------------------------------------


def beside_package(truncation: float) -> Pair:
    """Our pictures and the package's, with statistics of a truncation."""
    found = read("hf", statistics_truncation=truncation)
    with np.load(ARRAYS) as held:
        return drawn(found, weights_of(HF_CONFIG["num_classes"])), held[f"hf/{truncation}"]


def beside_second(truncation: float) -> Pair:
    """Our pictures and a second implementation's, with statistics of a truncation."""
    weights = weights_of(HF_CONFIG["num_classes"])
    z, number = latents(HF_CONFIG["z_dim"]), round(truncation * 50)
    theirs = hf_images(hf_state(), HF_CONFIG, z, weights, number)
    return drawn(read("hf", statistics_truncation=truncation), weights), theirs


def beside_brock(kind: str) -> Pair:
    """Our pictures and those of Brock's code, each second pixel."""
    with np.load(ARRAYS) as held:
        ours = drawn(read(kind), np.eye(CLASSES, dtype=np.float32)[[0, 2]])
        return ours[:, :, ::2, ::2], held[f"brock/{kind}"]


def beside_second_brock(kind: str) -> Pair:
    """Our pictures and a second implementation's."""
    weights = weights_of(CLASSES)
    theirs = brock_images(brock_state(kind), kind, latents(BROCK[kind]["z"]), weights)
    return drawn(read(kind), weights), theirs


REFERENCES: dict[str, Callable[[], Pair]] = {
    **{f"Hugging Face, statistics of {t}": partial(beside_package, t) for t in TRUNCATIONS},
    "Hugging Face, second implementation": partial(beside_second, 0.4),
    **{f"BigGAN-PyTorch, {kind}": partial(beside_brock, kind) for kind in BROCK},
    **{f"{kind}, second implementation": partial(beside_second_brock, kind) for kind in BROCK},
}


def large_hugging_face(checkout: Path) -> Pair:
    """biggan-deep-128 of random weights."""
    state = hf_state(DEEP_128)
    found = _read(Configured(state, DEEP_128), statistics_truncation=0.4)
    return drawn(found, weights_of(1000)), hugging_faces(checkout, DEEP_128, state, 0.4)


def large_brock(checkout: Path, deep: bool, arguments: dict[str, Any]) -> Pair:
    """One of Brock's of random weights."""
    state, theirs = brocks(checkout, deep, arguments)
    return drawn(_read(state), np.eye(arguments["n_classes"], dtype=np.float32)[[0, 2]]), theirs


OFFICIAL: dict[str, Callable[[Path], Pair]] = {
    f"{HUGGING_FACE}/128 px": large_hugging_face,
    f"{BROCKS}/128 px": partial(large_brock, deep=False, arguments=IMAGENET_128),
    f"{BROCKS}/128 px, deep": partial(large_brock, deep=True, arguments=IMAGENET_128),
    f"{BROCKS}/32 px, a gain for each class": partial(large_brock, deep=False, arguments=CIFAR_10),
}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    pictures = {
        f"hf/{t}": hugging_faces(folder / HUGGING_FACE, HF_CONFIG, hf_state(), t)
        for t in TRUNCATIONS
    }
    pictures |= {f"brock/{kind}": small_brock(folder / BROCKS, kind) for kind in BROCK}
    np.savez_compressed(ARRAYS, **pictures)
