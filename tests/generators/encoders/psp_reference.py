"""Codes of the encoders of `tests.networks.psp` by the modules of the programs themselves.

``psp.npz`` was made by

    for each of eladrich/pixel2style2pixel, omertov/encoder4editing, yuval-alaluf/restyle-encoder
    and yuval-alaluf/hyperstyle: git clone https://github.com/OWNER/NAME DIR/NAME
    python -m tests.generators.encoders.psp_reference DIR

of copies in which the numbers of channels, which the programs hold as constants, are divided by 8,
without their kernels for GPUs, which the encoders do not use. torchvision's ResNet-34, from which
ReStyle takes its blocks, is written out here.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from generators.protocols import Code
from tests.networks.hyperstyle import LAYERS, hyper_contents, hyper_tensors
from tests.networks.psp import CONFIGS, SIDE, filled, pictures
from tests.stylegan2_layouts import tiny

ARRAYS = Path(__file__).with_name("psp.npz")
MODULES = {
    "pixel2style2pixel": ("psp_encoders",),
    "encoder4editing": ("psp_encoders",),
    "restyle-encoder": ("restyle_psp_encoders", "restyle_e4e_encoders", "fpn_encoders"),
    "hyperstyle": ("w_encoder",),
}
#: ``encoder_type`` -> its class, where that has another name.
CLASSES = {"SingleStyleCodeEncoder": "BackboneEncoderUsingLastLayerIntoW"}
#: Encoders whose codes are compared; the others are the same networks, or are seen in `PASSES`.
COMPARED = (
    ("pixel2style2pixel", "GradualStyleEncoder"),
    ("pixel2style2pixel", "BackboneEncoderUsingLastLayerIntoW"),
    ("pixel2style2pixel", "BackboneEncoderUsingLastLayerIntoWPlus"),
    ("encoder4editing", "Encoder4Editing"),
    ("restyle-encoder", "ResNetProgressiveBackboneEncoder"),
    ("restyle-encoder", "ResNetGradualStyleEncoder"),
)
#: ReStyle's encoders whose passes are compared, with what they were trained on.
PASSES = (("BackboneEncoder", "ffhq_encode"), ("ProgressiveBackboneEncoder", "cars_encode"))
SIZES = {"ffhq_encode": (SIDE, SIDE), "cars_encode": (192, SIDE)}


class Block(nn.Module):
    """torchvision's BasicBlock."""

    def __init__(self, width: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, wide, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.downsample = None
        if stride != 1 or width != wide:
            conv = nn.Conv2d(width, wide, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(wide))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + identity)


def resnet34(divisor: int, pretrained: bool = True) -> Any:
    stages, width = {}, 64 // divisor
    for k, (wide, n) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        blocks = []
        for unit in range(n):
            blocks.append(Block(width, wide // divisor, 2 if k and not unit else 1))
            width = wide // divisor
        stages[f"layer{k + 1}"] = nn.Sequential(*blocks)
    return SimpleNamespace(**stages)


def narrowed(text: str) -> str:
    """A module's text with an eighth of the channels."""
    text = text.replace("SEModule(depth, 16)", "SEModule(depth, 4)")
    text = re.sub(r"(?<!512, )\b64\b", "8", text)
    return re.sub(r"\b(512|256|128)\b", lambda found: str(int(found[0]) // 8), text)


@contextlib.contextmanager
def imported(checkout: Path, names: tuple[str, ...], divisor: int = 8) -> Iterator[list[Any]]:
    """Modules of a checkout, of which nothing is left behind."""
    before = set(sys.modules)
    stubs = {name: types.ModuleType(name) for name in ("torchvision", "torchvision.models")}
    stubs["torchvision.models.resnet"] = types.ModuleType("torchvision.models.resnet")
    for name in ("torchvision.models", "torchvision.models.resnet"):
        stubs[name].__dict__["resnet34"] = lambda pretrained: resnet34(divisor)
    kernels = types.ModuleType("models.stylegan2.op")
    kernels.__dict__.update(FusedLeakyReLU=None, fused_leaky_relu=None, upfirdn2d=None)
    stubs["models.stylegan2.op"] = kernels
    with tempfile.TemporaryDirectory() as folder:
        for file in checkout.glob("*/**/*.py"):
            copy = Path(folder, file.relative_to(checkout))
            copy.parent.mkdir(parents=True, exist_ok=True)
            narrow = divisor != 1 and file.parent.name in ("encoders", "hypernetworks")
            copy.write_text(narrowed(file.read_text()) if narrow else file.read_text())
        try:
            with (
                patch.object(sys, "path", [folder, *sys.path]),
                patch.dict(sys.modules, stubs),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                yield [importlib.import_module(name) for name in names]
        finally:
            for name in set(sys.modules) - before:
                if name.split(".")[0] in ("configs", "models", "torchvision", "utils"):
                    del sys.modules[name]


def encoders_of(program: str) -> tuple[str, ...]:
    return tuple(f"models.encoders.{name}" for name in MODULES[program])


def module_of(checkout: Path, program: str, kind: str, divisor: int = 8) -> nn.Module:
    """An encoder of a program with random weights of its own."""
    config = CONFIGS[program, kind]
    size = 4 << (config.num_ws // 2 - 1)
    opts = SimpleNamespace(
        input_nc=config.in_channels, n_styles=config.num_ws, output_size=size, stylegan_size=size
    )
    with imported(checkout / program, encoders_of(program), divisor) as modules:
        name = CLASSES.get(kind, kind)
        made = next(getattr(m, name) for m in modules if hasattr(m, name))
        depth = () if config.backbone == "resnet" else (50, config.backbone)
        if program == "restyle-encoder":
            return made(*depth, config.num_ws, opts).eval()
        return made(*depth, opts).eval()


def loaded(checkout: Path, program: str, kind: str) -> nn.Module:
    """A program's encoder with the weights of `filled`, of which none is missing or left over."""
    module, tensors = module_of(checkout, program, kind), filled(CONFIGS[program, kind])
    del tensors["latent_avg"]
    state = {name: torch.from_numpy(value) for name, value in tensors.items()}
    odd = module.load_state_dict(state, strict=False)
    counts = [name for name in odd.missing_keys if not name.endswith("num_batches_tracked")]
    if counts or odd.unexpected_keys:
        raise ValueError(f"{program} {kind}: {counts!r}, {odd.unexpected_keys!r}")
    return module


def codes(checkout: Path, program: str, kind: str) -> np.ndarray:
    """Codes of `pictures` before the mean is added, by a program's encoder."""
    images = pictures(2, CONFIGS[program, kind].in_channels, (SIDE, SIDE))
    with torch.no_grad():
        found: np.ndarray = loaded(checkout, program, kind)(torch.from_numpy(images)).numpy()
    return found


def decoder() -> Any:
    """A generator of 16 px into whose w_plus ReStyle's small encoders encode."""
    return tiny(w_dim=64)


class Decoding(nn.Module):
    """Our `decoder` as ReStyle calls its own."""

    def forward(
        self, styles: list[torch.Tensor], return_latents: bool, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return decoder().draw(Code("w_plus", styles[0])), styles[0]


def passes(checkout: Path, kind: str, dataset: str) -> np.ndarray:
    """Codes of `pictures` after each of two passes, (2, 2, layers, w_dim), by ReStyle's loop."""
    program = "restyle-encoder"
    encoder, tensors = loaded(checkout, program, kind), filled(CONFIGS[program, kind])
    opts = SimpleNamespace(n_iters_per_batch=2, dataset_type=dataset, resize_outputs=True)
    names = ("models.psp", "utils.inference_utils")
    with imported(checkout / program, names, 1) as (psp, loop), torch.no_grad():
        net = psp.pSp.__new__(psp.pSp)
        nn.Module.__init__(net)
        net.encoder, net.decoder, net.opts = encoder, Decoding(), opts
        net.face_pool = nn.AdaptiveAvgPool2d((256, 256))
        net.latent_avg = torch.from_numpy(tensors["latent_avg"])
        mean = net(net.latent_avg[None], input_code=True, randomize_noise=False, average_code=True)
        images = torch.from_numpy(pictures(2, 3, SIZES[dataset]))
        cut = mean[0][:, 32:224] if dataset == "cars_encode" else mean[0]
        found = loop.run_on_batch(images, net, opts, cut)[1]
    return np.stack([np.stack(found[row]) for row in range(2)])


def changes(checkout: Path, separable: bool) -> dict[str, np.ndarray]:
    """Changes of `hyperstyle.LAYERS` by HyperStyle's hypernetwork, each 64th number."""
    kind = "SharedWeightsHyperNetResNet" + ("Separable" if separable else "")
    opts = SimpleNamespace(
        input_nc=6, layers_to_tune=",".join(map(str, LAYERS)), n_hypernet_outputs=LAYERS[-1] + 1
    )
    names = ("models.hypernetworks.hypernetwork",)
    tensors = hyper_contents(hyper_tensors(separable))["state_dict"]
    state = {k.removeprefix("hypernet."): torch.from_numpy(v) for k, v in tensors.items()}
    with (
        imported(checkout / "hyperstyle", names) as (module,),
        patch.object(torch.Tensor, "cuda", lambda self: self),
        torch.no_grad(),
    ):
        network = getattr(module, kind)(opts).eval()
        odd = network.load_state_dict(state, strict=False)
        missing = [name for name in odd.missing_keys if not name.endswith("num_batches_tracked")]
        if missing or odd.unexpected_keys:
            raise ValueError(f"{kind}: {missing!r}, {odd.unexpected_keys!r}")
        found = network(torch.from_numpy(pictures(2, 6)))
    name = "separable" if separable else "shared"
    return {f"hyperstyle/{name}/{k}": found[k].numpy().reshape(2, -1)[:, ::64] for k in LAYERS}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = {"/".join(case): codes(folder, *case) for case in COMPARED}
    found |= {f"passes/{d}": passes(folder, *case) for case in PASSES for d in case[1:]}
    found |= {k: v for kind in (False, True) for k, v in changes(folder, kind).items()}
    np.savez_compressed(ARRAYS, **found)
