"""Small networks of other makers, as torch modules and as files."""

from __future__ import annotations

import functools
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

WIDTH, CLASSES = 5, 3


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode, with weights and running moments of which none is 0."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=random)
                tensor.copy_(drawn.abs() + 0.5 if "running_var" in name else drawn * 0.3)
    return network.eval()


def dcgan(z: int = WIDTH, out: int = 3) -> nn.Module:
    """8 x 8 pixels, as PyTorch's tutorial builds it."""
    return randomised(
        nn.Sequential(
            nn.ConvTranspose2d(z, 6, 4, 1, 0, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(True),
            nn.ConvTranspose2d(6, out, 4, 2, 1, bias=False),
            nn.Tanh(),
        )
    )


class Vae(nn.Module):
    """Encoder and decoder of 16 x 16 pixels, with the names of PyTorch-VAE."""

    def __init__(self, z: int = WIDTH, width: tuple[int, ...] = (4, 6, 8)) -> None:
        super().__init__()
        sizes = [3, *width]
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU())
                for a, b in zip(sizes, sizes[1:], strict=False)
            )
        )
        self.fc_mu, self.fc_var = nn.Linear(width[-1] * 4, z), nn.Linear(width[-1] * 4, z)
        self.decoder_input = nn.Linear(z, width[-1] * 4)
        back = width[::-1]

        def up(a: int, b: int) -> list[nn.Module]:
            return [nn.ConvTranspose2d(a, b, 3, 2, 1, 1), nn.BatchNorm2d(b), nn.LeakyReLU()]

        self.decoder = nn.Sequential(
            *(nn.Sequential(*up(a, b)) for a, b in zip(back, back[1:], strict=False))
        )
        last = back[-1]
        self.final_layer = nn.Sequential(*up(last, last), nn.Conv2d(last, 3, 3, 1, 1), nn.Tanh())

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.decoder_input(z).view(len(z), -1, 2, 2)
        return self.final_layer(self.decoder(x))

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.encoder(images).flatten(1)
        return self.fc_mu(x), self.fc_var(x)


class _Scaled(nn.Module):
    """A convolution with equalised learning rate."""

    def __init__(self, a: int, b: int, side: int, up: bool = False) -> None:
        super().__init__()
        shape = (a, b) if up else (b, a)
        self.weight = nn.Parameter(torch.randn(*shape, side, side))
        self.bias = nn.Parameter(torch.zeros(b))
        self.up, self.side = up, side
        self.scale = (2 / (a if up else a * side * side)) ** 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.up:
            return nn.functional.conv_transpose2d(x, self.weight * self.scale, self.bias)
        padding = self.side // 2
        return nn.functional.conv2d(x, self.weight * self.scale, self.bias, padding=padding)


class MsgGan(nn.Module):
    """Pictures of 4, 8 and 16 pixels; the last is given."""

    def __init__(self, widths: tuple[int, ...] = (4, 4, 3)) -> None:
        super().__init__()
        self.layers, self.rgb_converters = nn.ModuleList(), nn.ModuleList()
        before = widths[0]
        for i, width in enumerate(widths):
            block = nn.Module()
            block.conv_1 = _Scaled(before, width, 3 if i else 4, up=i == 0)
            block.conv_2 = _Scaled(width, width, 3)
            self.layers.append(block)
            self.rgb_converters.append(_Scaled(width, 3, 1))
            before = width

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        def norm(x: torch.Tensor) -> torch.Tensor:
            return x / torch.sqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8)

        act = nn.LeakyReLU(0.2)
        x = z.reshape(*z.shape, 1, 1)
        pictures = []
        for i, (block, converter) in enumerate(zip(self.layers, self.rgb_converters, strict=True)):
            if i:
                x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                x = norm(act(block.conv_1(x)))
            else:
                x = act(block.conv_1(x))
            x = norm(act(block.conv_2(x)))
            pictures.append(converter(x))
        return pictures[-1]


class LapGan(nn.Module):
    """A coarse picture of 2 pixels, and levels of 4 and 8."""

    def __init__(self, z: int = WIDTH) -> None:
        super().__init__()
        self.coarse = nn.Sequential(nn.Linear(z, 7), nn.ReLU(), nn.Linear(7, 3 * 2 * 2))
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 5, 3, 1, 1), nn.ReLU(), nn.Conv2d(5, 3, 3, 1, 1))
            for _ in range(2)
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        coarse, *noise = z.split([WIDTH, 16, 64], dim=1)
        x = self.coarse(coarse).view(-1, 3, 2, 2)
        for level, plane in zip(self.levels, noise, strict=True):
            x = nn.Upsample(scale_factor=2, mode="bilinear")(x)
            x = x + level(torch.cat([x, plane.view(len(z), 1, *x.shape[2:])], dim=1))
        return x


def declare(path: Path, **keys: Any) -> Path:
    """The JSON beside a file."""
    path.with_suffix(".json").write_text(json.dumps({"family": "plain", **keys}))
    return path


# ---- ONNX ----------------------------------------------------------------------------------------


def onnx_file(
    path: Path,
    more: list[Any] = (),
    batch: Any = "n",
    outputs: tuple[str, ...] = ("image",),
    shape: tuple[int, ...] = (-1, 6, 4, 1),
) -> Path:
    """``sigmoid([z, y] @ W)``, grey and NHWC, 6 x 4 pixels. more : nodes between x and picture."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(WIDTH + CLASSES, 24)).astype("f4")
    held = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(np.array(shape, "i8"), "shape"),
    ]
    nodes = [
        helper.make_node("Concat", ["z", "y"], ["zy"], axis=1),
        helper.make_node("MatMul", ["zy", "w"], ["x"]),
        *more,
        helper.make_node("Sigmoid", ["x2" if more else "x"], ["grey"]),
        *(helper.make_node("Reshape", ["grey", "shape"], [name]) for name in outputs),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [batch, WIDTH]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, CLASSES]),
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 6, 4, 1]) for n in outputs],
        held,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


ONNX = {
    "input": {"name": "z", "prior": "uniform"},
    "output": {"range": [0, 1], "layout": "NHWC"},
    "labels": {"name": "y", "classes": CLASSES, "as": "one_hot"},
}


def onnx_encoder(path: Path, mean: np.ndarray, weights: np.ndarray) -> Path:
    """Of pictures (n, 3, 16, 16): ``mean + pixels @ weights``, and a log-variance of -1."""
    k = len(mean)
    held = [
        numpy_helper.from_array(mean.astype("f4"), "b"),
        numpy_helper.from_array(weights.astype("f4"), "w"),
        numpy_helper.from_array(np.zeros(k, "f4"), "zero"),
        numpy_helper.from_array(-np.ones(k, "f4"), "minus"),
    ]
    nodes = [
        helper.make_node("Flatten", ["image"], ["x"], axis=1),
        helper.make_node("Gemm", ["x", "w", "b"], ["mu"]),
        helper.make_node("Mul", ["mu", "zero"], ["still"]),
        helper.make_node("Add", ["still", "minus"], ["logvar"]),
    ]
    graph = helper.make_graph(
        nodes,
        "e",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n in ("mu", "logvar")],
        held,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


# ---- torch.export and TorchScript ----------------------------------------------------------------


class Numbered(nn.Module):
    """Of a code (2, 3) and a class number; two results, the second a picture of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(CLASSES, 6), nn.Linear(6, 12)
        self.net = nn.Sequential(
            nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 3, 1, 1), nn.Tanh(),
        )  # fmt: skip
        self.register_buffer("scale", torch.ones(3, 1, 1))

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.linear(z.flatten(1) * self.embed(y)).view(z.shape[0], 3, 2, 2)
        x = x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
        return x, self.net(x) * self.scale


NUMBERED = {
    "input": {"name": "z", "prior": "truncated_normal"},
    "labels": {"name": "y", "classes": CLASSES, "as": "number"},
    "output": {"name": "mul_1"},
}
PICTURE = NUMBERED["output"]["name"]


@functools.cache
def _exported() -> dict[str, bytes]:
    example, rows = (torch.zeros(2, 2, 3), torch.tensor([0, 1])), {0: torch.export.Dim.AUTO}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(numbered(), example, dynamic_shapes=(rows, rows))
        torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def numbered() -> nn.Module:
    """The network of `exported_file`."""
    return randomised(Numbered(), seed=2)


def exported_file(path: Path, change: Callable[[bytes], bytes] = lambda model: model) -> Path:
    """`numbered` with any number of rows. change : of its graph, JSON."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in _exported().items():
            archive.writestr(name, change(data) if name.endswith("models/model.json") else data)
    return path


def scripted_file(path: Path, network: nn.Module, example: torch.Tensor) -> Path:
    """A trace."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, example), str(path))
    return path
