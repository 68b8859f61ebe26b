"""StyleGAN3 and StyleGAN-XL against the official modules.

``stylegan3.npz`` holds, of small official networks, their tensors, the attributes of
every module, codes, labels, and the pictures that they draw on the CPU. It was made by
``python -m tests.generators.families.references.stylegan3 STYLEGAN3 XL``, checkouts of
NVlabs/stylegan3 and autonomousvision/stylegan-xl. Weights are multiples of 1/64, so that they take
little room. Files are pickled from these as the official code pickles its modules, but without the
source text that it puts beside them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import pickle
import sys
import tempfile
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import scipy.optimize
import scipy.signal  # noqa: F401 # before `packages_of`, which forgets what is first imported in it
import torch

from generators.families.base import Checkpoint
from generators.families.stylegan3 import PLUGIN
from generators.families.stylegan3.adapter import StyleGAN3Adapter
from generators.families.stylegan3.design import design
from generators.families.stylegan3.network import StyleGAN3
from generators.model_file import read_checkpoint
from generators.protocols import Code
from tests.generators.families.references.r3gan import packages_of

Pair = tuple[np.ndarray, np.ndarray]
ARRAYS = Path(__file__).with_suffix(".npz")
TRUNCATION = 0.7

#: What the official constructor is given.
SMALL: dict[str, Any] = {
    "z_dim": 12,
    "c_dim": 0,
    "w_dim": 10,
    "img_resolution": 16,
    "img_channels": 3,
    "channel_base": 128,
    "channel_max": 8,
    "num_layers": 5,
    "num_fp16_res": 0,
}
R: dict[str, Any] = {"conv_kernel": 1, "use_radial_filters": True}
CASES: Mapping[str, dict[str, Any]] = {
    "configuration T": {"img_resolution": 32, "channel_base": 256},
    "configuration R, labels, 4 channels": {**R, "c_dim": 3, "img_channels": 4},
    "configuration T, grey, moved by the user": {"img_channels": 1, "num_layers": 4},
    "another margin, cutoff and clamp": {"margin_size": 6, "first_cutoff": 1.5, "conv_clamp": 0.7,
                                         "output_scale": 0.5, "num_layers": 4,
                                         "mapping_kwargs": {"num_layers": 3}},
}  # fmt: skip
XL = "StyleGAN-XL, superresolution head, labels"
MOVED = np.array([[0.9, -0.4, 0.1], [0.5, 1.1, -0.2], [0.0, 0.0, 1.0]], np.float32)


# ---- the official modules ------------------------------------------------------------------------


def fill(name: str, tensor: torch.Tensor) -> None:
    """Random values of a tensor's name around those of its initialisation."""
    random = np.random.RandomState([7, *name.encode()])
    last = name.rpartition(".")[2]
    if last in ("up_filter", "down_filter", "transform"):
        return
    values = random.standard_normal(tuple(tensor.shape))
    if last == "magnitude_ema":
        values = 0.5 + random.uniform()
    elif last in ("bias", "w_avg") or name.endswith("input.affine.weight"):
        values = tensor.numpy() + values * (0.4 if "mapping" not in name else 10.0)
    elif last in ("freqs", "phases"):
        values = tensor.numpy()
    elif name.startswith("mapping.fc"):
        values = values * 100
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.asarray(np.round(values * 64) / 64)))


def attributes_of(network: torch.nn.Module) -> dict[str, Any]:
    """Class and attributes of every module, as JSON."""
    return {
        path: {
            "class": type(module).__name__,
            "order": list(module._modules),
            "said": {
                name: _as_json(value)
                for name, value in vars(module).items()
                if not name.startswith("_")
            },
        }
        for path, module in network.named_modules()
    }


def _as_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": value.dtype.str}
    if isinstance(value, np.generic):
        return {"number": value.item(), "dtype": value.dtype.str}
    return value


def _of_json(value: Any) -> Any:
    if isinstance(value, dict):
        if "array" in value:
            return np.array(value["array"], value["dtype"])
        return np.dtype(value["dtype"]).type(value["number"])
    return value


def official_case(network: torch.nn.Module, moved: bool = False, n: int = 2) -> dict[str, Any]:
    """Everything of a network that a case stores, with weights filled."""
    network = network.eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        fill(name, tensor)
    if moved:
        network.synthesis.input.transform.copy_(torch.from_numpy(MOVED))
    z = np.random.RandomState(1).standard_normal((n, network.z_dim)).astype(np.float32)
    c = np.eye(n, network.c_dim, dtype=np.float32)
    given = (torch.from_numpy(z), torch.from_numpy(c))
    images = network(*given, truncation_psi=TRUNCATION, noise_mode="const").numpy()
    tensors = {name: value.numpy() for name, value in network.state_dict().items()}
    said = {"modules": attributes_of(network),
            "shapes": {name: value.shape for name, value in tensors.items()}}  # fmt: skip
    flat = np.concatenate([value.ravel() for value in tensors.values()])
    return {"z": z, "c": c, "images": images, "said": np.array(json.dumps(said)), "tensors": flat}


def tensors_of(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of a case."""
    shapes = json.loads(str(case["said"]))["shapes"]
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
    parts = np.split(case["tensors"], ends[:-1])
    return {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def official_stylegan3(checkout: Path, changes: Mapping[str, Any]) -> torch.nn.Module:
    """A network of NVIDIA's code."""
    with packages_of(checkout):
        module = importlib.import_module("training.networks_stylegan3")
        torch.manual_seed(0)
        network: torch.nn.Module = module.Generator(**{**SMALL, **changes})
        return network


def official_xl(checkout: Path, changes: Mapping[str, Any], up_factor: int) -> torch.nn.Module:
    """A network of StyleGAN-XL's code: a small stem, and a head that enlarges its pictures."""
    torch.manual_seed(0)
    kwargs = {**SMALL, "c_dim": 3, "conv_kernel": 1, "use_radial_filters": True, **changes}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.mkdir("in_embeddings")
        embed = torch.nn.Embedding(5, 6)
        Path("in_embeddings/tf_efficientnet_lite0.pkl").write_bytes(pickle.dumps({"embed": embed}))
        with packages_of(checkout):
            module = importlib.import_module("training.networks_stylegan3_resetting")
            stem = module.Generator(**kwargs)
            held = {"G": stem, "D": stem, "G_ema": stem, "training_set_kwargs": {}}
            Path("stem.pkl").write_bytes(pickle.dumps({**held, "augment_pipe": None}))
            network: torch.nn.Module = module.SuperresGenerator(
                img_resolution=kwargs["img_resolution"] * up_factor,
                path_stem=str(Path("stem.pkl").absolute()),
                head_layers=4,
                up_factor=up_factor,
            )
            network.path_stem = "stem.pkl"
            sys.modules.pop("legacy", None)
            return network


# ---- files ---------------------------------------------------------------------------------------


class Persistent:
    """A module as the official code pickles it."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.meta = {"type": "class", "version": 6, "module_src": "", "class_name": class_name,
                     "state": state}  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


@contextlib.contextmanager
def _persistence() -> Iterator[None]:
    """With a stand-in of the module whose function official pickles name."""
    package, module = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise AssertionError("nothing of a file is run")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    vars(module)["_reconstruct_persistent_obj"] = _reconstruct_persistent_obj
    vars(package)["persistence"] = module
    with patch.dict(sys.modules, {"torch_utils": package, "torch_utils.persistence": module}):
        yield


def pickled(
    case: Mapping[str, np.ndarray], change: Callable[[dict[str, Any]], None] | None = None
) -> bytes:
    """An official pickle of a case. change : of the attributes, by path, class and name."""
    modules = json.loads(str(case["said"]))["modules"]
    if change is not None:
        change(modules)
    tensors = tensors_of(case)

    def module(path: str) -> Any:
        prefix = f"{path}." if path else ""
        own = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in tensors.items()
               if k.startswith(prefix) and "." not in k.removeprefix(prefix)}  # fmt: skip
        state = {name: _of_json(value) for name, value in modules[path]["said"].items()}
        state["_parameters"], state["_buffers"] = OrderedDict(own), OrderedDict()
        children = [(name, module(prefix + name)) for name in modules[path]["order"]]
        state["_modules"] = OrderedDict(children)
        state["_init_args"], state["_init_kwargs"] = (), {"renamed_by_a_fork": 1}
        return Persistent(modules[path]["class"], state)

    with _persistence():
        held = {"G": None, "D": None, "G_ema": module(""), "training_set_kwargs": {}}
        return pickle.dumps(held)


def read_bytes(data: bytes) -> Checkpoint:
    """What a pickle holds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network-snapshot.pkl")
        path.write_bytes(data)
        return read_checkpoint(path)


def compared(case: Mapping[str, np.ndarray]) -> Pair:
    """Pictures of what a pickle of a case holds, beside those of the official module; of four
    channels the fourth is opacity over mid-grey, 128 of 255."""
    model = PLUGIN.build(read_bytes(pickled(case)))
    labels = case["c"] if case["c"].shape[1] else None
    z = Code("z", torch.from_numpy(case["z"]))
    with torch.no_grad():
        code = model.convert(z, "w_plus", labels=labels, truncation=TRUNCATION)
        images = model.draw(code).numpy()
    theirs = case["images"]
    if theirs.shape[1] == 4:
        opaque = np.clip(theirs[:, 3:] * 0.5 + 0.5, 0, 1)
        theirs = theirs[:, :3] * opaque + (128 / 127.5 - 1) * (1 - opaque)
    return images[:, : theirs.shape[1]], theirs


@functools.cache
def arrays() -> Mapping[str, dict[str, np.ndarray]]:
    """The stored cases."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(ARRAYS) as stored:
        for key in stored.files:
            case, _, name = key.partition("|")
            found.setdefault(case, {})[name] = stored[key]
    return found


# ---- what all families have ----------------------------------------------------------------------


def small(seed: int = 0, **arguments: Any) -> StyleGAN3Adapter:
    """A small model in which every term of the network matters."""
    given = dict(img_resolution=16, channel_base=128, channel_max=8, num_layers=4,
                 num_critical=1, margin_size=4, z_dim=6, w_dim=5)  # fmt: skip
    made = design(**{**given, **arguments})  # type: ignore[arg-type]
    torch.manual_seed(seed)
    network = StyleGAN3(made.config, made.filters)
    for name, value in network.state_dict().items():
        if name.endswith("magnitude_ema"):
            value.copy_(torch.rand([]) + 0.5)
        elif name.endswith(("bias", "w_avg", "input.affine.weight")):
            value.add_(torch.randn_like(value) * 0.3)
    return StyleGAN3Adapter(network)


def tiny() -> Checkpoint:
    """16 x 16, no labels."""
    return small(1).checkpoint()


REFERENCES: dict[str, Callable[[], Pair]] = {
    f"official pickle, {name}": lambda name=name: compared(arrays()[name]) for name in (*CASES, XL)
}

LARGE: dict[str, Any] = {"z_dim": 64, "w_dim": 64, "img_resolution": 128, "channel_base": 4096,
                         "channel_max": 64, "num_layers": 14}  # fmt: skip
OFFICIAL: dict[str, Callable[[Path], Pair]] = {
    "stylegan3/T, 128 px": lambda checkout: compared(
        official_case(official_stylegan3(checkout, LARGE))
    ),
    "stylegan3/R, 128 px, 10 classes": lambda checkout: compared(
        official_case(official_stylegan3(checkout, {**LARGE, **R, "c_dim": 10}))
    ),
    "stylegan-xl/128 px": lambda checkout: compared(
        official_case(official_xl(checkout, {"num_layers": 7}, 4))
    ),
}


if __name__ == "__main__":
    cases = {
        name: official_case(official_stylegan3(Path(sys.argv[1]), changes), "moved" in name)
        for name, changes in CASES.items()
    }
    cases[XL] = official_case(official_xl(Path(sys.argv[2]), {"num_layers": 4}, 2))
    stored = {f"{name}|{key}": value for name, case in cases.items() for key, value in case.items()}
    np.savez_compressed(ARRAYS, **stored)
