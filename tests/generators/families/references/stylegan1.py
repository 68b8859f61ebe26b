"""StyleGAN against its definition in float64, `tests.generators.families.stylegan1_layouts`."""

from __future__ import annotations

import importlib
import importlib.util
import io
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from generators.families.base import Checkpoint
from generators.families.stylegan1 import PLUGIN
from generators.protocols import Code
from generators.unpickle.interpreter import Budget, Interpreter, Limits
from tests.generators.families import stylegan1_layouts as layouts
from tests.generators.families import stylegan1_rosinality as rosinality

Pair = tuple[np.ndarray, np.ndarray]

GROWN = (3, 2, 2, 3, 2, 2)
"""Channels from 4 to 128 px, where "auto" begins to upsample by a transposed convolution."""


def recognised(
    channels: tuple[int, ...] = (8, 6, 4), fused_scale: Any = "auto", **shape: Any
) -> Checkpoint:
    """A small generator of an official pickle, as read."""
    variables = layouts.official_variables(channels, **shape)
    data = layouts.official_pickle(variables, fused_scale=fused_scale)
    found = PLUGIN.recognise(Interpreter(Budget(Limits())).load(io.BytesIO(data)))
    if found is None:
        raise ValueError("the pickle is taken for none of the family")
    return found


def tiny() -> Checkpoint:
    """16 x 16, no labels."""
    return recognised()


def beside_definition(fused_scale: Any, fused_from: float) -> Pair:
    """Our pictures of w_plus and the definition's."""
    codes = np.random.RandomState(1).standard_normal((2, 2 * len(GROWN), 8)).astype(np.float32)
    model = PLUGIN.build(recognised(GROWN, fused_scale))
    theirs = layouts.naive_images(layouts.official_variables(GROWN), codes, fused_from)
    with torch.no_grad():
        return model.draw(Code("w_plus", torch.from_numpy(codes))).numpy(), theirs


def with_labels() -> Pair:
    """Our grey pictures of z and mixed labels and the definition's."""
    shape = {"c_dim": 3, "colours": 1, "seed": 2}
    variables = layouts.official_variables((6, 5, 4), **shape)
    random = np.random.RandomState(3)
    z, c = random.standard_normal((3, 6)).astype(np.float32), random.dirichlet(np.ones(3), 3)
    w = layouts.naive_w(variables, z, c)
    theirs = layouts.naive_images(variables, np.repeat(w[:, None], 6, axis=1))
    model = PLUGIN.build(recognised((6, 5, 4), **shape))
    with torch.no_grad():
        ours = model.draw(Code("z", torch.from_numpy(z)), labels=c.astype(np.float32))
    return ours.numpy(), theirs.repeat(3, axis=1)


def beside_rosinality() -> Pair:
    """Our pictures of z and noise, 128 px, and rosinality's function of the same state dict."""
    state = rosinality.rosinality_state((*GROWN, 2), trained=6)
    random = np.random.RandomState(3)
    z = random.standard_normal((2, 6)).astype(np.float32)
    noise = {i: random.standard_normal((4 << i,) * 2).astype(np.float32) for i in range(6)}
    model = PLUGIN.build(PLUGIN.recognise({"g_running": state}))
    code = model.convert(Code("z", torch.from_numpy(z)), "w")
    own = {
        name: torch.from_numpy(noise[companion.shape[0].bit_length() - 3]).expand(2, -1, -1)
        for name, companion in model.facts.spaces["w"].companions.items()
        if name.startswith("noise/")
    }
    with torch.no_grad():
        ours = model.draw(Code("w", code.main, own))
    return ours.numpy(), rosinality.rosinality_images(state, z, 6, noise)


REFERENCES: dict[str, Callable[[], Pair]] = {
    "128 px, the official default": lambda: beside_definition("auto", 128),
    "128 px, no transposed convolution": lambda: beside_definition(False, np.inf),
    "128 px, transposed convolutions alone": lambda: beside_definition(True, 8),
    "labels, 1 channel": with_labels,
    "rosinality": beside_rosinality,
}


def beside_genforce(checkout: Path, classes: int = 0) -> Pair:
    """Our pictures of z and those of GenForce's network in double precision, 256 px."""
    package = types.ModuleType("models")  # its own __init__ would import what is not needed here
    package.__path__ = [str(checkout / "models")]
    sys.modules["models"] = package
    module = importlib.import_module("models.stylegan_generator")
    made = module.StyleGANGenerator(256, 16, 12, classes, 4, 20, fmaps_base=2048, fmaps_max=32)
    random = torch.Generator().manual_seed(0)
    state = {}
    for name, value in made.state_dict().items():
        scale = 0.3 if name.endswith(("bias", "apply_noise.weight", "w_avg")) else 1.0
        scale *= 100 if name.startswith("mapping.dense") else 1
        drawn = scale * torch.randn(value.shape, generator=random)
        state[name] = value if name.endswith(("blur.kernel", "lod")) else drawn
    made.load_state_dict(state)
    found = PLUGIN.recognise({name: value.numpy() for name, value in state.items()})
    z = torch.randn(3, 16, generator=random)
    c = torch.eye(max(classes, 1))[torch.arange(3) % max(classes, 1)] if classes else None
    with torch.no_grad():
        label = None if c is None else c.double()
        theirs = made.eval().double()(z.double(), label=label)["image"]
        ours = PLUGIN.build(found).draw(Code("z", z), labels=None if c is None else c.numpy())
    return ours.numpy(), theirs.numpy()


def beside_official_rosinality(checkout: Path) -> Pair:
    """Our pictures of z and those of rosinality's network in double precision, 128 px."""
    path = checkout / "model.py"
    spec = importlib.util.spec_from_file_location("rosinality_model", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{str(path)!r} is no module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    made = module.StyledGenerator(512).requires_grad_(False)
    for name, value in made.named_parameters():
        block = name.split(".")[2] if name.startswith("generator") else "0"
        if name.endswith(("bias", "noise1.weight_orig", "noise2.weight_orig")) and int(block) < 6:
            value += 0.3 * torch.randn(value.shape)
    state = {name: value.numpy().copy() for name, value in made.state_dict().items()}
    z = torch.randn(2, 512)
    noise = [torch.randn(1, 1, 4 << i, 4 << i) for i in range(6)]
    theirs = made.double()(z.double(), noise=[image.double() for image in noise], step=5)
    model = PLUGIN.build(PLUGIN.recognise(state))
    own = {
        name: noise[companion.shape[0].bit_length() - 3][0].expand(2, -1, -1)
        for name, companion in model.facts.spaces["w"].companions.items()
        if name.startswith("noise/")
    }
    with torch.no_grad():
        main = model.convert(Code("z", z), "w").main
        return model.draw(Code("w", main, own)).numpy(), theirs.numpy()


OFFICIAL: dict[str, Callable[[Path], Pair]] = {
    "genforce/256 px": beside_genforce,
    "genforce/256 px, 5 classes": lambda checkout: beside_genforce(checkout, 5),
    "style-based-gan-pytorch/128 px": beside_official_rosinality,
}
