"""R3GAN against the official module, and against a second implementation.

``r3gan.npz`` holds small networks as the official trainer pickles them, codes, labels,
and the pictures that the official module draws of them on the CPU, all of its stages in float32. It
was made by ``python -m tests.generators.families.references.r3gan CHECKOUT``, CHECKOUT being
brownvc/R3GAN. Weights are multiples of 1/64, so that they take little room.
"""

from __future__ import annotations

import functools
import importlib
import pickle
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import packaging.version
import torch
import torch.nn.functional as F

from generators.families.base import Checkpoint
from generators.families.r3gan import PLUGIN
from generators.families.r3gan.reader import from_tensors
from generators.model_file import read_checkpoint
from generators.protocols import Code

Pair = tuple[np.ndarray, np.ndarray]
ARRAYS = Path(__file__).with_suffix(".npz")
PACKAGES = ("R3GAN", "training", "torch_utils", "dnnlib")

#: What the official constructor is given.
SMALL: dict[str, Any] = {
    "NoiseDimension": 12,
    "WidthPerStage": [8, 8, 6],
    "CardinalityPerStage": [2, 4, 3],
    "BlocksPerStage": [2, 1, 1],
    "ExpansionFactor": 2,
    "FP16Stages": [],
    "c_dim": 0,
    "img_resolution": 16,
}
CASES: Mapping[str, dict[str, Any]] = {
    "bfloat16 stages, drawn in float32": {"FP16Stages": [-1, -2]},
    "labels": {"c_dim": 3, "ConditionEmbeddingDimension": 5, "BlocksPerStage": [1, 0, 1]},
    "kernel 5, filter of 5 taps": {"KernelSize": 5, "ResamplingFilter": [1, 4, 2, 1],
                                   "WidthPerStage": [6, 4], "CardinalityPerStage": [3, 2],
                                   "BlocksPerStage": [1, 1], "img_resolution": 8},
    "filter of 3 taps": {"ResamplingFilter": [2, 1], "BlocksPerStage": [1, 1, 1]},
}  # fmt: skip


# ---- the official module -------------------------------------------------------------------------


@contextmanager
def packages_of(checkout: Path) -> Iterator[None]:
    """With the packages of a checkout, for this alone. They ask one function of pkg_resources,
    which setuptools has no more."""
    stand_in = types.ModuleType("pkg_resources")
    vars(stand_in)["parse_version"] = packaging.version.parse
    sys.path.insert(0, str(checkout))
    try:
        with patch.dict(sys.modules, pkg_resources=stand_in):
            yield
    finally:
        sys.path.remove(str(checkout))
        for name in [n for n in sys.modules if n.partition(".")[0] in PACKAGES]:
            del sys.modules[name]


def fill(name: str, tensor: torch.Tensor) -> None:
    """Random weights of a tensor's name, of such a size that maps keep theirs."""
    shape = tuple(tensor.shape)
    size = {"Bias": 0.3, "Basis": 1.0}.get(name.rpartition(".")[2])
    size = size or 0.9 / np.sqrt(np.prod(shape[1:]))
    values = np.random.RandomState([7, *name.encode()]).standard_normal(shape) * size
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.round(values * 64) / 64))


def official_case(checkout: Path, changes: Mapping[str, Any], n: int = 3) -> dict[str, np.ndarray]:
    """A network as it is pickled, codes and labels, and the pictures that it draws."""
    kwargs = {**SMALL, **changes}
    random = np.random.RandomState(1)
    z = torch.from_numpy(random.standard_normal((n, kwargs["NoiseDimension"])).astype(np.float32))
    c = torch.from_numpy(np.eye(n, kwargs["c_dim"], dtype=np.float32))
    with packages_of(checkout):
        module = importlib.import_module("training.networks").Generator(**kwargs)
        module = module.eval().requires_grad_(False)
        for name, tensor in module.named_parameters():
            fill(name, tensor)
        data = pickle.dumps({"G": None, "D": None, "G_ema": module, "cur_nimg": 0})
        for stage in module.Model.MainLayers:
            stage.DataType = torch.float32
        images = module(z, c).numpy()
    file = np.frombuffer(data, np.uint8)
    return {"file": file, "z": z.numpy(), "c": c.numpy(), "images": images}


def compared(case: Mapping[str, np.ndarray]) -> Pair:
    """The pictures of what a pickle holds, beside those of the official module."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network-snapshot.pkl")
        path.write_bytes(case["file"].tobytes())
        read = read_checkpoint(path)
    return drawn(read, case["z"], case["c"]), case["images"]


def drawn(read: Checkpoint, z: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Our pictures."""
    with torch.no_grad():
        return PLUGIN.build(read).draw(Code("z", torch.from_numpy(z)), labels=c).numpy()


@functools.cache
def arrays() -> Mapping[str, dict[str, np.ndarray]]:
    """The stored cases."""
    with np.load(ARRAYS) as stored:
        return {
            name: {key: stored[f"{name}/{key}"] for key in ("file", "z", "c", "images")}
            for name in CASES
        }


# ---- a second implementation ---------------------------------------------------------------------


def shapes(
    z_dim: int, widths: list[int], groups: list[int], blocks: list[int], c_dim: int, embed: int
) -> dict[str, tuple[int, ...]]:
    """Tensors of the official state dict, with twice as many maps within a block, 3 x 3."""
    found: dict[str, tuple[int, ...]] = {"EmbeddingLayer.weight": (embed, c_dim)} if c_dim else {}
    for i, (n, g) in enumerate(zip(widths, groups, strict=True)):
        layers = f"MainLayers.{i}.Layers"
        if i == 0:
            found[f"{layers}.0.Basis"] = (n, 4, 4)
            found[f"{layers}.0.LinearLayer.weight"] = (n, z_dim + embed)
        else:
            found[f"{layers}.0.Resampler.Kernel"] = (4, 4)
            if widths[i - 1] != n:
                found[f"{layers}.0.LinearLayer.Layer.weight"] = (n, widths[i - 1], 1, 1)
        for j in range(1, blocks[i] + 1):
            found[f"{layers}.{j}.LinearLayer1.Layer.weight"] = (2 * n, n, 1, 1)
            found[f"{layers}.{j}.LinearLayer2.Layer.weight"] = (2 * n, 2 * n // g, 3, 3)
            found[f"{layers}.{j}.LinearLayer3.Layer.weight"] = (n, 2 * n, 1, 1)
            found[f"{layers}.{j}.NonLinearity1.Bias"] = (2 * n,)
            found[f"{layers}.{j}.NonLinearity2.Bias"] = (2 * n,)
    found["AggregationLayer.Layer.weight"] = (3, widths[-1], 1, 1)
    return found


def state(
    seed: int = 0, widths: tuple[int, ...] = (8, 8, 6), c_dim: int = 0, embed: int = 0
) -> dict[str, np.ndarray]:
    """A random state dict with the official names; every tensor is random, the filters too."""
    made = {}
    groups, blocks = [2] * len(widths), [1, 2, 1, 1][: len(widths)]
    for name, shape in shapes(10, list(widths), groups, blocks, c_dim, embed).items():
        draw = np.random.RandomState([seed, *name.encode()]).standard_normal(shape)
        if name.endswith("Kernel"):
            draw = 0.4 + draw / 16
            draw /= draw.sum()
        elif name.endswith("Bias"):
            draw *= 0.3
        elif not name.endswith("Basis"):
            draw *= 0.7 / np.sqrt(np.prod(shape[1:]))
        made[name] = draw.astype(np.float32)
    return made


def enlarged(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Zeros between the pixels, then a convolution by its definition, (n, k, h, w)."""
    n, k, h, w = x.shape
    taps = len(kernel)
    full = np.zeros((n, k, 2 * h + taps, 2 * w + taps))
    for i in range(taps):
        for j in range(taps):
            full[:, :, i : i + 2 * h : 2, j : j + 2 * w : 2] += 4.0 * kernel[i, j] * x
    first = taps - 1 - (taps + 1) // 2  # the official padding of the upsampled picture
    return full[:, :, first : first + 2 * h, first : first + 2 * w]


def grouped(x: np.ndarray, weight: np.ndarray, groups: int) -> np.ndarray:
    """A convolution with each group apart, float64."""
    parts = [
        F.conv2d(torch.from_numpy(a), torch.from_numpy(b), padding=weight.shape[-1] // 2).numpy()
        for a, b in zip(np.split(x, groups, 1), np.split(weight, groups, 0), strict=True)
    ]
    return np.concatenate(parts, axis=1)


def activated(x: np.ndarray, bias: np.ndarray) -> np.ndarray:
    y = x + bias[:, None, None]
    return np.maximum(y, 0.2 * y)


def second(tensors: Mapping[str, np.ndarray], z: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The paper's generator, its configuration E, in float64."""
    t = {name: value.astype(np.float64) for name, value in tensors.items()}
    x = z.astype(np.float64)
    if c.shape[1]:
        x = np.concatenate([x, c @ t["EmbeddingLayer.weight"].T], axis=1)
    for i in range(sum(name.endswith("Layers.0.Resampler.Kernel") for name in t) + 1):
        layers = f"MainLayers.{i}.Layers"
        if i == 0:
            x = np.einsum("nc,chw->nchw", x @ t[f"{layers}.0.LinearLayer.weight"].T,
                          t[f"{layers}.0.Basis"])  # fmt: skip
        else:
            widen = t.get(f"{layers}.0.LinearLayer.Layer.weight")
            x = x if widen is None else np.einsum("nchw,oc->nohw", x, widen[:, :, 0, 0])
            x = enlarged(x, t[f"{layers}.0.Resampler.Kernel"])
        j = 1
        while f"{layers}.{j}.LinearLayer1.Layer.weight" in t:
            w1, w2, w3 = (t[f"{layers}.{j}.LinearLayer{m}.Layer.weight"] for m in (1, 2, 3))
            y = np.einsum("nchw,oc->nohw", x, w1[:, :, 0, 0])
            y = activated(y, t[f"{layers}.{j}.NonLinearity1.Bias"])
            y = grouped(y, w2, w2.shape[0] // w2.shape[1])
            y = activated(y, t[f"{layers}.{j}.NonLinearity2.Bias"])
            x = x + np.einsum("nchw,oc->nohw", y, w3[:, :, 0, 0])
            j += 1
    return np.einsum("nchw,oc->nohw", x, t["AggregationLayer.Layer.weight"][:, :, 0, 0])


def beside_second(**changes: Any) -> Pair:
    """Our pictures and the second implementation's of a state dict."""
    tensors = state(5, **changes)
    random = np.random.RandomState(2)
    z = random.standard_normal((3, 10)).astype(np.float32)
    c = random.dirichlet(np.ones(changes.get("c_dim", 0) or 1), 3)[:, : changes.get("c_dim", 0)]
    ours = drawn(from_tensors(tensors, {}), z, c.astype(np.float32))
    return ours, second(tensors, z, c.astype(np.float32))


# ---- what all families have ----------------------------------------------------------------------


def tiny() -> Checkpoint:
    """16 x 16, no labels."""
    return from_tensors(state(1), {})


REFERENCES: dict[str, Callable[[], Pair]] = {
    **{f"official pickle, {name}": lambda name=name: compared(arrays()[name]) for name in CASES},
    "state dict, second implementation": beside_second,
    "state dict, mixed labels, second implementation": lambda: beside_second(
        widths=(6, 8), c_dim=4, embed=3
    ),
}

LARGE: dict[str, Any] = {
    "NoiseDimension": 64,
    "WidthPerStage": [96, 96, 96, 96, 48, 24],
    "CardinalityPerStage": [12, 12, 12, 12, 6, 3],
    "BlocksPerStage": [2] * 6,
    "img_resolution": 128,
}
OFFICIAL: dict[str, Callable[[Path], Pair]] = {
    "R3GAN/128 px": lambda checkout: compared(official_case(checkout, LARGE)),
    "R3GAN/128 px, 10 classes": lambda checkout: compared(
        official_case(checkout, {**LARGE, "c_dim": 10, "ConditionEmbeddingDimension": 64})
    ),
}


if __name__ == "__main__":
    found = {name: official_case(Path(sys.argv[1]), changes) for name, changes in CASES.items()}
    stored = {f"{n}/{key}": value for n, case in found.items() for key, value in case.items()}
    np.savez_compressed(ARRAYS, **stored)
