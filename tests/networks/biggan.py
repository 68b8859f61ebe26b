"""BigGANs the naive way, on the state dicts of others as they lie in their files, in float64.

Written from Brock et al. 2019 (appendix B) and Zhang et al. 2019, with the names of Hugging Face's
``pytorch-pretrained-BigGAN`` and of Brock's BigGAN-PyTorch.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

State = dict[str, np.ndarray]

#: A small model of Hugging Face's kind, 16 x 16 pixels, whose blocks do not alternate.
HF_CONFIG: dict[str, Any] = {
    "output_dim": 16,
    "z_dim": 6,
    "class_embed_dim": 6,
    "channel_width": 4,
    "num_classes": 5,
    "layers": [[True, 16, 8], [False, 8, 4], [True, 4, 4], [False, 4, 2], [False, 2, 1]],
    "attention_layer_position": 1,
    "eps": 1e-4,
    "n_stats": 51,
}


def _value(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    draw = np.random.RandomState([seed, *name.encode()]).standard_normal(shape)
    if name.endswith(("running_vars", "stored_var", "running_var")):
        draw = 0.5 + draw**2
    elif name.endswith(("mean", "means", "bias")) and len(shape) <= 2:
        draw = 0.3 * draw
    elif name.endswith(("gamma", ".gain")):
        draw = 1.0 + 0.3 * draw
    elif len(shape) > 1:
        draw = draw / np.sqrt(np.prod(shape[1:]))
    return np.asarray(draw, np.float32)


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def filled(shapes: Iterator[tuple[str, tuple[int, ...]]], seed: int = 0) -> State:
    """Random tensors of such names and shapes; statistics that differ from set to set."""
    return {name: _value(name, shape, seed) for name, shape in shapes}


# ---- Hugging Face


def hf_state(config: dict[str, Any] = HF_CONFIG, seed: int = 0) -> State:
    """The state dict of a small model, whose singular vectors are one power iteration old."""
    return dict(_hf_state(json.dumps(config), seed))


@functools.lru_cache(2)
def _hf_state(config: str, seed: int) -> State:
    state = filled(_hf_shapes(json.loads(config)), seed)
    for name in [name for name in state if name.endswith("weight_orig")]:
        matrix = state[name].reshape(len(state[name]), -1)
        u = np.random.RandomState([seed, *name.encode(), 1]).standard_normal(len(matrix))
        v = _unit(u @ matrix)
        at = name.removesuffix("orig")
        state[f"{at}u"], state[f"{at}v"] = _unit(matrix @ v), v
    return state


def _hf_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    ch, z, sets = config["channel_width"], config["z_dim"], config["n_stats"]
    yield "embeddings.weight", (z, config["num_classes"])
    yield "generator.gen_z.bias", (4 * 4 * 16 * ch,)
    yield "generator.gen_z.weight_orig", (4 * 4 * 16 * ch, 2 * z)
    k = 0
    for i, (_, taken, given) in enumerate(config["layers"]):
        taken, given = taken * ch, given * ch
        if i == config["attention_layer_position"]:
            at = f"generator.layers.{k}"
            yield f"{at}.gamma", (1,)
            for name, rows in (("theta", taken // 8), ("phi", taken // 8), ("g", taken // 2)):
                yield f"{at}.snconv1x1_{name}.weight_orig", (rows, taken, 1, 1)
            yield f"{at}.snconv1x1_o_conv.weight_orig", (taken, taken // 2, 1, 1)
            k += 1
        inner = taken // 4
        widths, sizes = (taken, inner, inner, inner, given), (1, 3, 3, 1)
        for j, size in enumerate(sizes):
            at = f"generator.layers.{k}"
            yield f"{at}.bn_{j}.running_means", (sets, widths[j])
            yield f"{at}.bn_{j}.running_vars", (sets, widths[j])
            yield f"{at}.bn_{j}.scale.weight_orig", (widths[j], 2 * z)
            yield f"{at}.bn_{j}.offset.weight_orig", (widths[j], 2 * z)
            yield f"{at}.conv_{j}.bias", (widths[j + 1],)
            yield f"{at}.conv_{j}.weight_orig", (widths[j + 1], widths[j], size, size)
        k += 1
    for name in ("weight", "bias"):
        yield f"generator.bn.{name}", (ch,)
    for name in ("running_means", "running_vars"):
        yield f"generator.bn.{name}", (sets, ch)
    yield "generator.conv_to_rgb.bias", (ch,)
    yield "generator.conv_to_rgb.weight_orig", (ch, ch, 3, 3)


def hf_images(
    state: State, config: dict[str, Any], z: np.ndarray, weights: np.ndarray, set_number: int
) -> np.ndarray:
    """Images float64 (n, 3, r, r) of latents, class weights, and the statistics of one set."""
    net = _Naive(state, config["eps"])
    ch = config["channel_width"]
    condition = torch.cat([net(z), net(weights) @ net["embeddings.weight"].T], dim=1)
    x = condition @ net.spectral("generator.gen_z").T + net["generator.gen_z.bias"]
    x = x.reshape(-1, 4, 4, 16 * ch).permute(0, 3, 1, 2)
    k = 0
    for i, (doubles, _, given) in enumerate(config["layers"]):
        if i == config["attention_layer_position"]:
            names = ("theta", "phi", "g", "o_conv")
            parts = [net.spectral(f"generator.layers.{k}.snconv1x1_{name}") for name in names]
            x = attended(x, *parts, net[f"generator.layers.{k}.gamma"])
            k += 1
        at, h = f"generator.layers.{k}", x
        for j in range(4):
            norm = f"{at}.bn_{j}"
            mean, variance = (net[f"{norm}.running_{p}"][set_number] for p in ("means", "vars"))
            gain = 1 + condition @ net.spectral(f"{norm}.scale").T
            shift = condition @ net.spectral(f"{norm}.offset").T
            h = torch.relu(net.normalised(h, mean, variance, gain, shift))
            if j == 1 and doubles:
                h = repeated(h)
            weight = net.spectral(f"{at}.conv_{j}")
            h = F.conv2d(h, weight, net[f"{at}.conv_{j}.bias"], padding=weight.shape[-1] // 2)
        x = x[:, : given * ch]
        x = h + (repeated(x) if doubles else x)
        k += 1
    mean, variance = (net[f"generator.bn.running_{p}"][set_number] for p in ("means", "vars"))
    gain, shift = net["generator.bn.weight"][None], net["generator.bn.bias"][None]
    x = torch.relu(net.normalised(x, mean, variance, gain, shift))
    weight, bias = net.spectral("generator.conv_to_rgb"), net["generator.conv_to_rgb.bias"]
    return torch.tanh(F.conv2d(x, weight, bias, padding=1)[:, :3]).numpy()


# ---- Brock

#: Small models of Brock's, 32 x 32 pixels: as trained on ImageNet, as on CIFAR-10, and deep.
BROCK: dict[str, dict[str, Any]] = {
    "hierarchical": {"deep": False, "hier": True, "shared": 5, "attention": (1,), "z": 12},
    "of_classes": {"deep": False, "hier": False, "shared": 0, "attention": (), "z": 7},
    "deep": {"deep": True, "hier": True, "shared": 5, "attention": (1,), "z": 6},
}
WIDTH, CLASSES, STAGES = 16, 4, 3


def brock_state(kind: str, norm: str = "", seed: int = 0) -> State:
    """The state dict of a small model. norm : where its statistics lie, "" or "bn."."""
    return dict(_brock_state(kind, norm, seed))


@functools.cache
def _brock_state(kind: str, norm: str, seed: int) -> State:
    state = filled(_brock_shapes(BROCK[kind], norm), seed)
    for name in [name for name in state if name.endswith(".u0")]:
        state[name.removesuffix("u0") + "sv0"] = np.ones(1, np.float32)
    return state


def _brock_shapes(kind: dict[str, Any], norm: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    def layer(
        at: str, shape: tuple[int, ...], bias: bool = True
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{at}.weight", shape
        yield f"{at}.u0", (1, shape[0])
        if bias:
            yield f"{at}.bias", shape[:1]

    def statistics(at: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{at}.{norm}stored_mean", (WIDTH,)
        yield f"{at}.{norm}stored_var", (WIDTH,)

    shared, deep = kind["shared"], kind["deep"]
    chunk = kind["z"] if deep or not kind["hier"] else kind["z"] // (STAGES + 1)
    condition = shared + (chunk if kind["hier"] else 0)
    if shared:
        yield "shared.weight", (CLASSES, shared)
    yield from layer("linear", (16 * WIDTH, chunk + (shared if deep else 0)))
    blocks = STAGES * (2 if deep else 1)
    sizes = (1, 3, 3, 1) if deep else (3, 3)
    inner = WIDTH // 4 if deep else WIDTH
    widths = (WIDTH, *[inner] * (len(sizes) - 1), WIDTH)
    for i in range(blocks):
        at = f"blocks.{i}.0"
        for j, size in enumerate(sizes):
            yield from layer(f"{at}.conv{j + 1}", (widths[j + 1], widths[j], size, size))
            for part in ("gain", "bias"):
                name = f"{at}.bn{j + 1}.{part}"
                if shared:
                    yield from layer(name, (widths[j], condition), bias=False)
                else:
                    yield f"{name}.weight", (CLASSES, widths[j])
            for name, _ in statistics(f"{at}.bn{j + 1}"):
                yield name, (widths[j],)
        if not deep:
            yield from layer(f"{at}.conv_sc", (WIDTH, WIDTH, 1, 1))
        stage = i // 2 if deep else i
        if stage in kind["attention"] and (not deep or i % 2):
            yield f"blocks.{i}.1.gamma", ()
            for name, rows in (("theta", WIDTH // 8), ("phi", WIDTH // 8), ("g", WIDTH // 2)):
                yield from layer(f"blocks.{i}.1.{name}", (rows, WIDTH, 1, 1), bias=False)
            yield from layer(f"blocks.{i}.1.o", (WIDTH, WIDTH // 2, 1, 1), bias=False)
    yield "output_layer.0.gain", (WIDTH,)
    yield "output_layer.0.bias", (WIDTH,)
    yield from statistics("output_layer.0")
    yield from layer("output_layer.2", (3, WIDTH, 3, 3))


def brock_images(
    state: State, kind: str, z: np.ndarray, weights: np.ndarray, norm: str = ""
) -> np.ndarray:
    """Images float64 (n, 3, 32, 32) of latents and class weights."""
    net, about = _Naive(state, 1e-5), BROCK[kind]
    latent, deep = net(z), about["deep"]
    c = net(weights) @ net["shared.weight"] if about["shared"] else net(weights)
    if deep:
        latent = torch.cat([c, latent], dim=1)
        conditions = [latent] * 2 * STAGES
    elif about["hier"]:
        latent, *rest = latent.split(about["z"] // (STAGES + 1), dim=1)
        conditions = [torch.cat([c, part], dim=1) for part in rest]
    else:
        conditions = [c] * STAGES
    x = latent @ net.iterated("linear").T + net["linear.bias"]
    x = x.reshape(-1, WIDTH, 4, 4)
    for i, condition in enumerate(conditions):
        at, h = f"blocks.{i}.0", x
        doubles, second = (i % 2 == 1, 1) if deep else (True, 0)
        for j in range(4 if deep else 2):
            bn = f"{at}.bn{j + 1}"
            gain, shift = (
                condition @ net.iterated(f"{bn}.{part}").T
                if about["shared"]
                else condition @ net[f"{bn}.{part}.weight"]
                for part in ("gain", "bias")
            )
            mean, variance = (net[f"{bn}.{norm}stored_{p}"] for p in ("mean", "var"))
            h = torch.relu(net.normalised(h, mean, variance, 1 + gain, shift))
            if j == second and doubles:
                h = repeated(h)
            weight = net.iterated(f"{at}.conv{j + 1}")
            h = F.conv2d(h, weight, net[f"{at}.conv{j + 1}.bias"], padding=weight.shape[-1] // 2)
        x = repeated(x) if doubles else x
        if not deep:
            x = F.conv2d(x, net.iterated(f"{at}.conv_sc"), net[f"{at}.conv_sc.bias"])
        x = h + x
        if f"blocks.{i}.1.gamma" in state:
            parts = [net.iterated(f"blocks.{i}.1.{name}") for name in ("theta", "phi", "g", "o")]
            x = attended(x, *parts, net[f"blocks.{i}.1.gamma"])
    at = "output_layer.0"
    mean, variance = (net[f"{at}.{norm}stored_{p}"] for p in ("mean", "var"))
    x = net.normalised(x, mean, variance, net[f"{at}.gain"][None], net[f"{at}.bias"][None])
    last = net.iterated("output_layer.2")
    x = F.conv2d(torch.relu(x), last, net["output_layer.2.bias"], padding=1)
    return torch.tanh(x).numpy()


# ---- what both do


def repeated(x: torch.Tensor) -> torch.Tensor:
    """Each pixel four times."""
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def attended(x, theta, phi, g, o, gamma) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Self attention of every place to the largest of each four."""

    def pooled(weight: torch.Tensor) -> torch.Tensor:
        maps = torch.einsum("oc,nchw->nohw", weight[:, :, 0, 0], x)
        n, rows, height, width = maps.shape
        return maps.reshape(n, rows, height // 2, 2, width // 2, 2).amax((3, 5)).flatten(2)

    asked = torch.einsum("oc,nchw->nohw", theta[:, :, 0, 0], x).flatten(2)
    scores = torch.einsum("nci,ncj->nij", asked, pooled(phi)).exp()
    share = scores / scores.sum(dim=2, keepdim=True)
    seen = torch.einsum("ncj,nij->nci", pooled(g), share)
    put = torch.einsum("oc,nci->noi", o[:, :, 0, 0], seen)
    return x + gamma * put.reshape(x.shape)


class _Naive:
    def __init__(self, state: State, eps: float) -> None:
        self.state, self.eps = state, eps

    def __call__(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(array, np.float64))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self(self.state[name])

    def spectral(self, at: str) -> torch.Tensor:
        weight, u, v = (self[f"{at}.weight_{part}"] for part in ("orig", "u", "v"))
        return weight / torch.einsum("i,ij,j->", u, weight.flatten(1), v)

    def iterated(self, at: str) -> torch.Tensor:
        weight, u = self[f"{at}.weight"], self[f"{at}.u0"][0]
        matrix = weight.flatten(1)
        v = matrix.T @ u / (matrix.T @ u).norm()
        return weight / (matrix @ v).norm()

    def normalised(self, x, mean, variance, gain, shift) -> torch.Tensor:  # type: ignore[no-untyped-def]
        mean, variance = mean[None, :, None, None], variance[None, :, None, None]
        x = (x - mean) / (variance + self.eps).sqrt()
        return x * gain[:, :, None, None] + shift[:, :, None, None]
