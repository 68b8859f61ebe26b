"""Progressive GAN: files as each code writes them, and pictures as each code's text describes them.

The second implementations compute in float64 from the raw tensors of a file, tap by tap, without
what the family itself does: no folded scales, no turned kernels, no shared names. The official
modules of a checkout draw for ``python -m benchmarks.families --official``.
"""

from __future__ import annotations

import importlib.util
import io
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from generators.families.base import Checkpoint
from generators.families.pggan import PLUGIN
from generators.protocols import Code
from generators.unpickle.interpreter import Budget, Interpreter, Limits
from generators.unpickle.writer import Call
from tests.generators.tensorflow_layouts import (
    SOURCE,
    TFUTIL,
    tensorflow_network,
    tensorflow_pickle,
)

Pair = tuple[np.ndarray, np.ndarray]
Tensors = dict[str, np.ndarray]


def rng(*seed: int) -> np.random.RandomState:
    """A stream of its own for each tensor."""
    return np.random.RandomState(list(seed))


def pixel_norm(x: np.ndarray, epsilon: float = 1e-8) -> np.ndarray:
    """Equation of section 4.2: over the channels, axis 1."""
    return x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + epsilon)


def nearest(x: np.ndarray) -> np.ndarray:
    """Every pixel twice in both directions."""
    return x.repeat(2, axis=2).repeat(2, axis=3)


def correlated(x: np.ndarray, kernel: np.ndarray, padding: int) -> np.ndarray:
    """x (n, in, h, w) under a kernel (k, k, in, out), as networks call convolution."""
    size = len(kernel)
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    high, wide = x.shape[2] - size + 1, x.shape[3] - size + 1
    taps = [(i, j) for i in range(size) for j in range(size)]
    return sum(
        np.einsum("nihw,io->nohw", x[:, :, i : i + high, j : j + wide], kernel[i, j])
        for i, j in taps
    )


def scattered(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Transposed convolution of stride 2 by a kernel (4, 4, in, out), a pixel cut off all around:
    every pixel lays the kernel down as it is."""
    n, _, high, wide = x.shape
    out = np.zeros((n, kernel.shape[3], 2 * high + 2, 2 * wide + 2))
    for i in range(4):
        for j in range(4):
            laid = np.einsum("nihw,io->nohw", x, kernel[i, j])
            out[:, :, i : i + 2 * high : 2, j : j + 2 * wide : 2] += laid
    return out[:, :, 1:-1, 1:-1]


def spread(kernel: np.ndarray) -> np.ndarray:
    """A kernel (3, 3, ...) as the sum of four, each a pixel further: (4, 4, ...)."""
    wide = np.pad(kernel, [(1, 1), (1, 1), *[(0, 0)] * (kernel.ndim - 2)])
    return wide[1:, 1:] + wide[:-1, 1:] + wide[1:, :-1] + wide[:-1, :-1]


# ---- the official code ---------------------------------------------------------------------------


def official_variables(
    channels: Sequence[int] = (7, 6, 5),
    inputs: int = 8,
    colours: int = 3,
    fused: bool = False,
    lod: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Variables of ``G_paper`` under the names in its pickles."""
    shapes: dict[str, tuple[int, ...]] = {"4x4/Dense": (inputs, 16 * channels[0])}
    shapes["4x4/Conv"] = (3, 3, channels[0], channels[0])
    for i, (before, after) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
        side = 8 << i
        if fused:
            shapes[f"{side}x{side}/Conv0_up"] = (3, 3, after, before)
        else:
            shapes[f"{side}x{side}/Conv0"] = (3, 3, before, after)
        shapes[f"{side}x{side}/Conv1"] = (3, 3, after, after)
    for i, width in enumerate(channels):
        shapes[f"ToRGB_lod{len(channels) - 1 - i}"] = (1, 1, width, colours)
    found: dict[str, Any] = {"lod": lod}  # a scalar
    for i, (name, shape) in enumerate(shapes.items()):
        out = shape[2] if name.endswith("_up") else shape[-1]
        bias = (out // 16 if name.endswith("Dense") else out,)
        found[f"{name}/weight"] = rng(seed, i).standard_normal(shape).astype(np.float32)
        found[f"{name}/bias"] = (0.5 * rng(seed, i, 1).standard_normal(bias)).astype(np.float32)
    return found


def official_images(
    variables: Mapping[str, np.ndarray], combined: np.ndarray, arguments: Mapping[str, Any]
) -> np.ndarray:
    """``G_paper`` of z and labels, combined, (n, inputs), in its linear structure."""
    said = {"use_wscale": True, "use_pixelnorm": True, "use_leakyrelu": True, **arguments}
    epsilon = said.get("pixelnorm_epsilon", 1e-8)
    v = {name: np.asarray(value, np.float64) for name, value in variables.items()}

    def weight(name: str, fan_in: int, gain: float = math.sqrt(2)) -> np.ndarray:
        return v[f"{name}/weight"] * (gain / math.sqrt(fan_in) if said["use_wscale"] else 1.0)

    def finished(x: np.ndarray, name: str) -> np.ndarray:
        x = x + v[f"{name}/bias"][:, None, None]
        x = np.maximum(x, (0.2 if said["use_leakyrelu"] else 0.0) * x)
        return pixel_norm(x, epsilon) if said["use_pixelnorm"] else x

    def convolved(x: np.ndarray, name: str) -> np.ndarray:
        return finished(correlated(x, weight(name, 9 * x.shape[1]), 1), name)

    def picture(x: np.ndarray, lod: int) -> np.ndarray:
        kernel = weight(f"ToRGB_lod{lod}", x.shape[1], 1.0)
        return correlated(x, kernel, 0) + v[f"ToRGB_lod{lod}/bias"][:, None, None]

    last = max(int(name[9:-7]) for name in v if name.startswith("ToRGB") and "weight" in name)
    x = combined.astype(np.float64)
    if said.get("normalize_latents", True):
        x = pixel_norm(x, epsilon)
    x = x @ weight("4x4/Dense", x.shape[1], math.sqrt(2) / 4)
    x = convolved(finished(x.reshape(len(x), -1, 4, 4), "4x4/Dense"), "4x4/Conv")
    images = picture(x, last)
    for lod in range(last - 1, -1, -1):
        side = 4 << (last - lod)
        block = f"{side}x{side}"
        if f"{block}/Conv0_up/weight" in v:
            kernel = spread(weight(f"{block}/Conv0_up", 9 * x.shape[1]))
            x = finished(scattered(x, kernel.transpose(0, 1, 3, 2)), f"{block}/Conv0_up")
        else:
            x = convolved(nearest(x), f"{block}/Conv0")
        x = convolved(x, f"{block}/Conv1")
        share = min(max(float(v["lod"]) - lod, 0.0), 1.0)
        images = (1 - share) * picture(x, lod) + share * nearest(images)
    return images


def loaded(data: bytes) -> Any:
    """What families are shown of a pickle."""
    return Interpreter(Budget(Limits())).load(io.BytesIO(data))


def official(
    variables: Mapping[str, Any],
    builder: str = "G_paper",
    source: str = SOURCE,
    **arguments: Any,
) -> bytes:
    """A pickle of (G, D, Gs), of which the first two hold other numbers."""
    other = {name: value + 1 for name, value in variables.items()}
    critic = {"4x4/Dense0/weight": np.ones((3, 3), np.float32), "lod": 0.0}
    average, trained = (
        tensorflow_network(TFUTIL, builder, arguments, values, name=name, source=source)
        for name, values in (("Gs", variables), ("G", other))
    )
    return tensorflow_pickle(
        average, trained, tensorflow_network(TFUTIL, "D_paper", {}, critic, name="D")
    )


# ---- GenForce's codes ----------------------------------------------------------------------------


def genforce_state(variables: Mapping[str, np.ndarray], wrapped: bool = True) -> Tensors:
    """The conversion of InterFaceGAN and HiGAN (wrapped), or of the code named genforce."""
    last = max(int(n[9:-7]) for n in variables if n.startswith("ToRGB") and "weight" in n)
    state: Tensors = {"lod": np.asarray(variables["lod"], np.float32)}
    for name, value in variables.items():
        if name == "lod":
            continue
        layer, part = name.rsplit("/", 1)
        if layer.startswith("ToRGB"):
            ours = f"output{last - int(layer[9:])}"
        else:
            side, kind = layer.split("/")
            block = int(side.split("x")[0]).bit_length() - 3
            ours = f"layer{2 * block + (kind in ('Conv', 'Conv1'))}"
        if part == "bias":
            state[f"{ours}.wscale.bias" if wrapped else f"{ours}.bias"] = value
        elif layer.endswith("Conv0_up"):
            state[f"{ours}.weight"] = value.transpose(0, 1, 3, 2)
        else:
            if layer.endswith("Dense"):
                whole = value.reshape(len(value), -1, 4, 4).transpose(1, 0, 2, 3)
                value = whole[:, :, ::-1, ::-1]
            else:
                value = value.transpose(3, 2, 0, 1)
            state[f"{ours}.conv.weight" if wrapped else f"{ours}.weight"] = value
    return {name: np.array(value, order="C") for name, value in state.items()}


def genforce_images(state: Mapping[str, np.ndarray], z: np.ndarray) -> np.ndarray:
    """InterFaceGAN's network: each layer normalises what it reads, and scales before its bias."""
    s = {name: np.asarray(value, np.float64) for name, value in state.items()}
    blocks = sum(name.startswith("output") and name.endswith("bias") for name in s)

    def layer(x: np.ndarray, name: str, up: bool, gain: float = math.sqrt(2)) -> np.ndarray:
        x = pixel_norm(x)
        if f"{name}.weight" in s:
            kernel = s[f"{name}.weight"]
            fan_in = kernel[..., 0].size
            x = scattered(x, spread(kernel))
        else:
            kernel = s[f"{name}.conv.weight"]
            fan_in = kernel[0].size
            padding = {4: 3, 3: 1, 1: 0}[kernel.shape[2]]
            x = correlated(nearest(x) if up else x, kernel.transpose(2, 3, 1, 0), padding)
        return x * (gain / math.sqrt(fan_in)) + s[f"{name}.wscale.bias"][:, None, None]

    x = image = z.astype(np.float64)[:, :, None, None]
    for i in range(blocks):
        if i + float(s["lod"]) >= blocks:
            image = nearest(image)
            continue
        for name in (f"layer{2 * i}", f"layer{2 * i + 1}"):
            x = layer(x, name, up=i > 0 and name.endswith(str(2 * i)))
            x = np.where(x > 0, x, 0.2 * x)
        image = layer(x, f"output{i}", up=False, gain=1.0)
    return image


# ---- pytorch_GAN_zoo -----------------------------------------------------------------------------


def zoo_network(
    depths: Sequence[int], inputs: int, seed: int = 0, colours: int = 3, equalised: bool = True
) -> Any:
    """The generator's modules, under its names: each a torch layer called ``module`` in a wrapper.

    Weights are standard normal where the layers are equalised, else of He's deviation."""

    class Wrapped(nn.Module):
        def __init__(self, module: Any) -> None:
            super().__init__()
            self.module = module
            weight = module.weight
            self.he = math.sqrt(2.0 / math.prod(weight.shape[1:]))
            size = 1.0 if equalised else self.he
            stream = rng(seed, *weight.shape)
            weight.data.copy_(_double(size * stream.standard_normal(tuple(weight.shape))))
            module.bias.data.copy_(_double(0.5 * stream.standard_normal(len(module.bias))))

        def forward(self, x: Any) -> Any:
            x = self.module(x)
            return x * self.he if equalised else x

    def conv(n: int, out: int, size: int) -> Any:
        return Wrapped(nn.Conv2d(n, out, size, padding=size // 2))

    network = nn.Module()
    network.formatLayer = Wrapped(nn.Linear(inputs, 16 * depths[0]))
    network.groupScale0 = nn.ModuleList([conv(depths[0], depths[0], 3)])
    network.scaleLayers = nn.ModuleList(
        nn.ModuleList([conv(a, b, 3), conv(b, b, 3)])
        for a, b in zip(depths[:-1], depths[1:], strict=True)
    )
    network.toRGBLayers = nn.ModuleList(conv(n, colours, 1) for n in depths)
    return network


def _double(array: np.ndarray) -> Any:
    return torch.from_numpy(np.asarray(array, np.float64))


def zoo_images(
    network: Any, latent: np.ndarray, slope: float = 0.2, alpha: float = 0.0, tanh: bool = False
) -> np.ndarray:
    """``GNet.forward`` of z and categories, (n, inputs)."""

    def norm(x: Any) -> Any:
        return x * ((x**2).mean(dim=1, keepdim=True) + 1e-8).rsqrt()

    def twice(x: Any) -> Any:
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    network = network.double()
    leaky = torch.nn.LeakyReLU(slope)
    with torch.no_grad():
        x = leaky(network.formatLayer(norm(_double(latent))))
        x = norm(x.view(len(x), -1, 4, 4))
        x = norm(leaky(network.groupScale0[0](x)))
        for layers in network.scaleLayers:
            smaller = x
            x = twice(x)
            for layer in layers:
                x = norm(leaky(layer(x)))
        image = network.toRGBLayers[-1](x)
        if alpha > 0:
            image = alpha * twice(network.toRGBLayers[-2](smaller)) + (1 - alpha) * image
        return (image.tanh() if tanh else image).numpy()


def zoo_state(network: Any) -> Tensors:
    """Its state dict as float32 arrays."""
    return {k: v.numpy().astype(np.float32) for k, v in network.state_dict().items()}


def zoo_file(state: Mapping[str, Any], **config: Any) -> dict[str, Any]:
    """A checkpoint of pytorch_GAN_zoo, which writes its configuration as an object."""
    said = {"leakyReluLeak": 0.2, "alpha": 0.0, "lossCriterion": "WGANGP", "equalizedlR": True,
            "perChannelNormalization": True, "attribKeysOrder": None, **config}  # fmt: skip
    return {
        "config": Call("models.utils.config", "BaseConfig", state=said),
        "netG": {name: value + 1 for name, value in state.items()},
        "netD": {"decisionLayer.module.weight": np.ones((1, 3), np.float32)},
        "avgG": dict(state),
    }


# ---- ours beside them ----------------------------------------------------------------------------


def read(contents: Any) -> Checkpoint:
    """The generator in a file's contents."""
    found = PLUGIN.recognise(contents)
    assert found is not None
    return found


def drawn(checkpoint: Checkpoint, z: np.ndarray, labels: Any = None) -> np.ndarray:
    """Our pictures."""
    with torch.no_grad():
        model = PLUGIN.build(checkpoint)
        return model.draw(Code("z", torch.from_numpy(z)), labels=labels).numpy()


def codes(checkpoint: Checkpoint, n: int = 3) -> np.ndarray:
    """z (n, z_dim)."""
    width = PLUGIN.facts(checkpoint).space("z").shape[0]
    return rng(3).standard_normal((n, width)).astype(np.float32)


def beside_official(arguments: Mapping[str, Any] | None = None, **shape: Any) -> Pair:
    """Of a pickle of the official code."""
    said = arguments or {}
    variables = official_variables(**shape)
    checkpoint = read(loaded(official(variables, **said)))
    z, classes = codes(checkpoint), said.get("label_size", 0)
    labels = rng(4).dirichlet(np.ones(classes), len(z)) if classes else np.empty((len(z), 0))
    theirs = official_images(variables, np.concatenate([z, labels], axis=1), said)
    ours = drawn(checkpoint, z, labels if classes else None)
    return ours, np.broadcast_to(theirs, ours.shape)


def beside_genforce(fused: bool = False, lod: float = 0.0) -> Pair:
    """Of InterFaceGAN's conversion, which draws the finer of two levels."""
    state = genforce_state(official_variables(fused=fused, lod=lod))
    checkpoint = read(state)
    z = codes(checkpoint)
    drawn_at = {**state, "lod": np.floor(state["lod"])}
    return drawn(checkpoint, z), genforce_images(drawn_at, z)


def beside_zoo(config: Mapping[str, Any] | None = None, **how: Any) -> Pair:
    """Of a checkpoint of pytorch_GAN_zoo."""
    said = config or {}
    network = zoo_network((7, 6, 5), 8, equalised=said.get("equalizedlR", True))
    contents = zoo_file(zoo_state(network))
    checkpoint = read({**contents, "config": {**contents["config"].state, **said}})
    z = codes(checkpoint)
    return drawn(checkpoint, z), zoo_images(network, z, **how)


def tiny() -> Checkpoint:
    """16 x 16, no labels. Biases and colours are damped, so that pictures vary more with z than
    with the place in them, and do not clip."""
    read_as = read(loaded(official(official_variables((7, 6, 5), seed=1))))
    damped = {n: v * 0.3 if v.ndim == 1 else v for n, v in read_as.tensors.items()}
    damped["b16.torgb.weight"] = damped["b16.torgb.weight"] * 0.5
    tensors = {name: np.asarray(value, np.float32) for name, value in damped.items()}
    return replace(read_as, tensors=tensors)


REFERENCES: dict[str, Callable[[], Pair]] = {
    "official": beside_official,
    "official, fused": lambda: beside_official({"fused_scale": True}, fused=True),
    "official, labels, 1 channel": lambda: beside_official({"label_size": 4}, inputs=12, colours=1),
    "official, faded in, raw input, large epsilon": lambda: beside_official(
        {"normalize_latents": False, "pixelnorm_epsilon": 0.1}, lod=0.25
    ),
    "official, half the side, faded in, no normalisation": lambda: beside_official(
        {"use_pixelnorm": False}, lod=1.5, fused=True
    ),
    "official, half the side, ReLU": lambda: beside_official({"use_leakyrelu": False}, lod=1.0),
    "official, first block, raw weights": lambda: beside_official({"use_wscale": False}, lod=7.0),
    "official, 4 px": lambda: beside_official(channels=(6,)),
    "InterFaceGAN": beside_genforce,
    "InterFaceGAN, fused": lambda: beside_genforce(fused=True),
    "InterFaceGAN, between levels": lambda: beside_genforce(lod=1.5),
    "pytorch_GAN_zoo": beside_zoo,
    "pytorch_GAN_zoo, faded in, tanh": lambda: beside_zoo(
        {"alpha": 0.3, "lossCriterion": "MSE"}, alpha=0.3, tanh=True
    ),
    "pytorch_GAN_zoo, raw weights, other slope": lambda: beside_zoo(
        {"equalizedlR": False, "leakyReluLeak": 0.4}, slope=0.4
    ),
    "pytorch_GAN_zoo, not begun": lambda: beside_zoo({"alpha": 1.0}, alpha=1.0),
}


# ---- the official torch modules ------------------------------------------------------------------


def beside_module(network: nn.Module, contents: Callable[[dict[str, Any]], Any]) -> Pair:
    """Of a network of random weights. contents : of its file, of its state dict."""
    for i, (name, tensor) in enumerate(network.named_parameters()):
        if name != "lod":
            size = 0.3 if name.endswith("bias") else 1.0
            tensor.data.copy_(_double(size * rng(6, i).standard_normal(tuple(tensor.shape))))
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    checkpoint = read(contents(state))
    z = codes(checkpoint)
    with torch.no_grad():
        images = network(torch.from_numpy(z))
    return drawn(checkpoint, z), (images["image"] if isinstance(images, dict) else images).numpy()


def module_of(checkout: Path, file: str) -> Any:
    """A module of a checkout, with what it imports beside it for this alone."""
    name = file.removesuffix(".py").replace("/", ".")
    with patch.dict(sys.modules), patch.object(sys, "path", [str(checkout), *sys.path]):
        return importlib.import_module(name)


def beside_gnet(checkout: Path) -> Pair:
    """pytorch_GAN_zoo, 256 px, faded in."""
    module = module_of(checkout, "models/networks/progressive_conv_net.py")
    network = module.GNet(128, 128, initBiasToZero=False, generationActivation=torch.tanh)
    for depth in (128, 64, 64, 32, 16, 16):
        network.addScale(depth)
    network.setNewAlpha(0.4)
    said = {"alpha": 0.4, "lossCriterion": "DCGAN"}
    return beside_module(network, lambda state: {"avgG": state, "config": said})


def beside_interfacegan(checkout: Path, fused: bool) -> Pair:
    """InterFaceGAN's own network, 128 px."""
    module = module_of(checkout, "models/pggan_generator_model.py")
    return beside_module(module.PGGANGeneratorModel(128, fused_scale=fused), lambda state: state)


def beside_genforces(checkout: Path, lod: float) -> Pair:
    """The network of the code named genforce, 256 px."""
    module = module_of(checkout, "models/pggan_generator.py")
    network = module.PGGANGenerator(256, z_space_dim=128, fmaps_base=2048, fmaps_max=128)
    network.lod.fill_(lod)
    return beside_module(network, lambda state: {"generator_smooth": state})


OFFICIAL: dict[str, Callable[[Path], Pair]] = {
    "pytorch_GAN_zoo/256 px, faded in": beside_gnet,
    "interfacegan/128 px": lambda checkout: beside_interfacegan(checkout, fused=False),
    "interfacegan/128 px, fused": lambda checkout: beside_interfacegan(checkout, fused=True),
    "genforce/256 px": lambda checkout: beside_genforces(checkout, 0.0),
    "genforce/256 px, faded in": lambda checkout: beside_genforces(checkout, 1.6),
}
