"""Test support: StyleGAN2 the naive way, and writers of the layouts that other projects use."""

from __future__ import annotations

import math
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from generators.families.stylegan2.adapter import StyleGAN2Adapter
from generators.families.stylegan2.network import StyleGAN2, StyleGAN2Config

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
FIR = torch.outer(TAPS, TAPS) / 64.0


def tiny(seed: int = 0, **changes: Any) -> StyleGAN2Adapter:
    """16 x 16 generator in which every tensor, also biases and noise strengths, is random."""
    shape: dict[str, Any] = {
        "z_dim": 8,
        "w_dim": 8,
        "img_resolution": 16,
        "channel_base": 64,
        "channel_max": 12,
        "num_mapping_layers": 2,
        **changes,
    }
    config = StyleGAN2Config(**shape)
    network = StyleGAN2(config)
    state = {}
    for name, dims in sorted(config.tensor_shapes().items()):
        draw = np.random.RandomState([seed, *name.encode()])
        value = draw.standard_normal(dims)
        if name.startswith("mapping.fc") and name.endswith("weight"):
            value = value / config.lr_multiplier
        if name.endswith("affine.bias"):
            value = 1.0 + 0.2 * value
        elif name.endswith(("bias", "noise_strength")):
            value = 0.3 * value
        state[name] = torch.from_numpy(np.asarray(value, np.float32))
    network.load_state_dict(state, strict=True)
    return StyleGAN2Adapter(network)


def upfirdn(x: torch.Tensor, up: int, pad: tuple[int, int], gain: float) -> torch.Tensor:
    """Zero insertion, padding, FIR: the definition (official ``upfirdn2d`` reference)."""
    n, k, h, w = x.shape
    stuffed = x.new_zeros(n, k, h * up, w * up)
    stuffed[:, :, ::up, ::up] = x
    stuffed = F.pad(stuffed, (pad[0], pad[1], pad[0], pad[1]))
    kernel = (FIR * gain).to(x).flip(0, 1)[None, None]
    return F.conv2d(stuffed.reshape(n * k, 1, *stuffed.shape[2:]), kernel).reshape(
        n, k, stuffed.shape[2] - 3, stuffed.shape[3] - 3
    )


def modulated(
    x: torch.Tensor, weight: torch.Tensor, style: torch.Tensor, up: int, scale: float, demod: bool
) -> torch.Tensor:
    """Paper, equations 1 and 3, one sample at a time, by explicit per-sample weights."""
    rows = []
    for row, s in zip(x, style, strict=True):
        w = scale * weight * s[None, :, None, None]
        if demod:
            w = w / (w.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up == 2:
            y = F.conv_transpose2d(row[None], w.transpose(0, 1), stride=2)
            rows.append(upfirdn(y, 1, (1, 1), 4.0))
        else:
            rows.append(F.conv2d(row[None], w, padding=weight.shape[-1] // 2))
    return torch.cat(rows)


def activate(x: torch.Tensor, clamp: float | None = None) -> torch.Tensor:
    x = F.leaky_relu(x, 0.2) * math.sqrt(2.0)
    return x if clamp is None else x.clamp(-clamp, clamp)


def naive_synthesis(
    tensors: dict[str, np.ndarray], ws: torch.Tensor, clamp: float | None = None, noise: bool = True
) -> torch.Tensor:
    """Images in float64 from tensors under the official names."""
    t = {k: torch.from_numpy(np.asarray(v, np.float64)) for k, v in tensors.items()}
    ws = ws.double()
    res, at, x, img = 4, 0, None, None
    while f"synthesis.b{res}.conv1.weight" in t:
        block = f"synthesis.b{res}"
        for conv in ("conv0", "conv1"):
            p = f"{block}.{conv}"
            if f"{p}.weight" not in t:
                x = t[f"{block}.const"].repeat(len(ws), 1, 1, 1)
                continue
            style = affine(ws[:, at], t[f"{p}.affine.weight"], t[f"{p}.affine.bias"])
            at += 1
            x = modulated(x, t[f"{p}.weight"], style, 2 if conv == "conv0" else 1, 1.0, True)
            if noise:
                x = x + t[f"{p}.noise_const"] * t[f"{p}.noise_strength"]
            x = activate(x + t[f"{p}.bias"][:, None, None], clamp)
        p = f"{block}.torgb"
        style = affine(ws[:, at], t[f"{p}.affine.weight"], t[f"{p}.affine.bias"])
        y = modulated(x, t[f"{p}.weight"], style, 1, 1 / math.sqrt(style.shape[1]), False)
        y = y + t[f"{p}.bias"][:, None, None]
        y = y if clamp is None else y.clamp(-clamp, clamp)
        img = y if img is None else upfirdn(img, 2, (2, 1), 4.0) + y
        res *= 2
    return img


def affine(w: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return w @ weight.t() / math.sqrt(weight.shape[1]) + bias


# --- rosinality -------------------------------------------------------------------------------


def rosinality_state(tensors: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """State dict of rosinality's `Generator` with the same weights."""
    t = {k: torch.from_numpy(np.array(v)) for k, v in tensors.items()}
    out: dict[str, torch.Tensor] = {}
    i = 0
    while f"mapping.fc{i}.weight" in t:
        out[f"style.{i + 1}.weight"] = t[f"mapping.fc{i}.weight"]
        out[f"style.{i + 1}.bias"] = t[f"mapping.fc{i}.bias"]
        i += 1
    out["input.input"] = t["synthesis.b4.const"][None]
    kernel = (FIR * 4.0).float()

    def conv(name: str, source: str, k: int, up: bool) -> None:
        out[f"{name}.conv.weight"] = t[f"{source}.weight"][None]
        if up:
            out[f"{name}.conv.blur.kernel"] = kernel
        out[f"{name}.conv.modulation.weight"] = t[f"{source}.affine.weight"]
        out[f"{name}.conv.modulation.bias"] = t[f"{source}.affine.bias"]
        out[f"{name}.noise.weight"] = t[f"{source}.noise_strength"].reshape(1)
        out[f"{name}.activate.bias"] = t[f"{source}.bias"]
        out[f"noises.noise_{k}"] = t[f"{source}.noise_const"][None, None]

    def rgb(name: str, source: str, up: bool) -> None:
        out[f"{name}.bias"] = t[f"{source}.bias"].reshape(1, -1, 1, 1)
        if up:
            out[f"{name}.upsample.kernel"] = kernel
        out[f"{name}.conv.weight"] = t[f"{source}.weight"][None]
        out[f"{name}.conv.modulation.weight"] = t[f"{source}.affine.weight"]
        out[f"{name}.conv.modulation.bias"] = t[f"{source}.affine.bias"]

    conv("conv1", "synthesis.b4.conv1", 0, False)
    rgb("to_rgb1", "synthesis.b4.torgb", False)
    j, res = 0, 8
    while f"synthesis.b{res}.conv0.weight" in t:
        conv(f"convs.{2 * j}", f"synthesis.b{res}.conv0", 1 + 2 * j, True)
        conv(f"convs.{2 * j + 1}", f"synthesis.b{res}.conv1", 2 + 2 * j, False)
        rgb(f"to_rgbs.{j}", f"synthesis.b{res}.torgb", True)
        j, res = j + 1, res * 2
    return out


def rosinality_forward(state: dict[str, torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """rosinality's `Generator.forward` (randomize_noise=False) from its own state dict, float64."""
    s = {k: v.double() for k, v in state.items()}
    x = z.double()
    x = x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)
    i = 1
    while f"style.{i}.weight" in s:
        w = s[f"style.{i}.weight"]
        x = activate(x @ (w * (1 / math.sqrt(w.shape[1]) * 0.01)).t() + s[f"style.{i}.bias"] * 0.01)
        i += 1
    latent = x

    def styled(name: str, x: torch.Tensor, k: int) -> torch.Tensor:
        weight = s[f"{name}.conv.weight"][0]
        style = affine(
            latent, s[f"{name}.conv.modulation.weight"], s[f"{name}.conv.modulation.bias"]
        )
        scale = 1 / math.sqrt(weight.shape[1] * 9)
        up = 2 if f"{name}.conv.blur.kernel" in s else 1
        x = modulated(x, weight, style, up, scale, True)
        x = x + s[f"{name}.noise.weight"] * s[f"noises.noise_{k}"]
        return activate(x + s[f"{name}.activate.bias"][None, :, None, None])

    def rgb(name: str, x: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        weight = s[f"{name}.conv.weight"][0]
        style = affine(
            latent, s[f"{name}.conv.modulation.weight"], s[f"{name}.conv.modulation.bias"]
        )
        y = modulated(x, weight, style, 1, 1 / math.sqrt(weight.shape[1]), False)
        y = y + s[f"{name}.bias"]
        return y if skip is None else y + upfirdn(skip, 2, (2, 1), 4.0)

    x = styled("conv1", s["input.input"].repeat(len(z), 1, 1, 1), 0)
    img = rgb("to_rgb1", x, None)
    j = 0
    while f"convs.{2 * j}.conv.weight" in s:
        x = styled(f"convs.{2 * j}", x, 2 * j + 1)
        x = styled(f"convs.{2 * j + 1}", x, 2 * j + 2)
        img = rgb(f"to_rgbs.{j}", x, img)
        j += 1
    return img


# --- official pickles -------------------------------------------------------------------------


class OfficialPackages:
    """Stand-ins for ``dnnlib`` and ``torch_utils`` while a pickle is written.

    `network` builds modules whose ``__reduce__`` is that of ``persistence.persistent_class``.
    """

    def __init__(self, meta_class: str = "EasyDict") -> None:
        persistence = types.ModuleType("torch_utils.persistence")
        util = types.ModuleType("dnnlib.util")
        easy = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})

        def _reconstruct_persistent_obj(meta: Any) -> Any:
            module = nn.Module()
            module.__dict__.update(meta["state"])
            return module

        _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
        _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
        persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
        util.EasyDict = easy
        self.modules = {
            "torch_utils": types.ModuleType("torch_utils"),
            "torch_utils.persistence": persistence,
            "dnnlib": types.ModuleType("dnnlib"),
            "dnnlib.util": util,
        }
        self.easy = easy
        meta_type = easy if meta_class == "EasyDict" else dict

        class PersistentModule(nn.Module):
            class_name = "Module"

            def __reduce__(self) -> Any:
                meta = meta_type(
                    type="class",
                    version=6,
                    module_src="import os\nos.system('false')\nclass Generator: ...\n",
                    class_name=self.class_name,
                    state=self.__dict__,
                )
                return _reconstruct_persistent_obj, (meta,), None

        self.base = PersistentModule

    def __enter__(self) -> OfficialPackages:
        sys.modules.update(self.modules)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.modules:
            del sys.modules[name]

    def _new(self, class_name: str, **attributes: Any) -> nn.Module:
        module = self.base()
        module.__dict__.update(attributes, _init_args=(), _init_kwargs=self.easy())
        module.__dict__["class_name"] = class_name
        return module

    def network(self, generator: StyleGAN2Adapter, **overrides: Any) -> nn.Module:
        """The official module tree of `generator`, with Parameters, buffers and attributes."""
        config = generator.config
        root = self._new("Generator", z_dim=config.z_dim, w_dim=config.w_dim)
        for name, value in generator.tensors().items():
            *path, leaf = name.split(".")
            at = root
            for depth, part in enumerate(path):
                if part not in at._modules:
                    at.add_module(part, self._child(config, path[: depth + 1], overrides))
                at = at._modules[part]
            tensor = torch.from_numpy(value.copy())
            if leaf in ("w_avg", "noise_const"):
                at.register_buffer(leaf, tensor)
            else:
                at.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        return root

    def _child(self, config: StyleGAN2Config, path: list[str], overrides: dict) -> nn.Module:
        last = path[-1]
        if last.startswith("fc"):
            return self._linear(config, path, "lrelu", config.lr_multiplier)
        if last.startswith("conv"):
            facts = {"conv_clamp": config.conv_clamp, "use_noise": config.use_noise}
            facts |= {"activation": "lrelu", "up": 2 if last == "conv0" else 1}
            facts |= {"padding": 1, "act_gain": math.sqrt(2)}
            module = self._new("SynthesisLayer", **facts)
            module.register_buffer("resample_filter", FIR.float())
            return module
        if last.startswith("b"):
            facts = {"architecture": config.connections, "use_fp16": True, "num_conv": 2}
            facts |= overrides
            module = self._new("SynthesisBlock", **facts)
            module.register_buffer("resample_filter", FIR.float())
            return module
        if last in ("mapping", "synthesis"):
            return self._new(f"{last.title()}Network", w_dim=config.w_dim, num_ws=config.num_ws)
        if last == "skip":
            facts = {"activation": "linear", "conv_clamp": None, "up": 2, "act_gain": 1.0}
            facts |= {"padding": 0, "weight_gain": self._gain(config, path)}
            module = self._new("Conv2dLayer", **facts)
            module.register_buffer("resample_filter", FIR.float())
            return module
        if last == "torgb":
            gain = self._gain(config, path)
            return self._new("ToRGBLayer", conv_clamp=config.conv_clamp, weight_gain=gain)
        return self._linear(config, path, "linear", 1.0)

    def _gain(self, config: StyleGAN2Config, path: list[str]) -> float:
        """1 / sqrt(inputs) of a layer."""
        return 1 / math.sqrt(math.prod(config.tensor_shapes()[".".join([*path, "weight"])][1:]))

    def _linear(
        self, config: StyleGAN2Config, path: list[str], activation: str, rate: float
    ) -> nn.Module:
        gain = rate * self._gain(config, path)
        facts = {"activation": activation, "bias_gain": rate, "weight_gain": gain}
        return self._new("FullyConnectedLayer", **facts)

    def write(self, generator: StyleGAN2Adapter, path: Path, **overrides: Any) -> None:
        """``pickle.dump`` of the official dict, by Python's own pickler."""
        with self:
            network = self.network(generator, **overrides)
            contents = {
                "G": None,
                "D": self._new("Discriminator"),
                "G_ema": network,
                "training_set_kwargs": self.easy(path="/data", resolution=16),
                "augment_pipe": None,
            }
            with path.open("wb") as file:
                pickle.dump(contents, file)
