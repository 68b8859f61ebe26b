"""Backbones of the pSp framework's encoders: ArcFace's residual units (He et al. 2016, Deng et al.
2019), with squeeze and excitation (Hu et al. 2018), and ResNet's basic blocks without the pooling
behind the first convolution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Shape(Protocol):
    """Of a `Backbone`; as of a `generators.encoders.psp.config.PspConfig`."""

    @property
    def in_channels(self) -> int: ...

    @property
    def backbone(self) -> str: ...

    @property
    def channels(self) -> tuple[int, ...]: ...

    @property
    def units(self) -> tuple[int, ...]: ...

    @property
    def squeeze(self) -> int: ...


class Norm(nn.Module):
    """Batch normalisation by the moments of the training, never of the batch."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width, h, w) -> the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class SqueezeExcitation(nn.Module):
    """Channels weighted by a function of their means."""

    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, width // squeeze, 1, bias=False)
        self.fc2 = nn.Conv2d(width // squeeze, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width, h, w) -> the same shape."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(mean))))


class ResidualUnit(nn.Module):
    """Norm, convolution, PReLU, convolution, norm, beside a shortcut; `squeeze` 0 for none."""

    def __init__(self, width: int, wide: int, stride: int, squeeze: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if width != wide:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(width, wide, 1, stride, bias=False), Norm(wide)
            )
        layers: list[nn.Module] = [
            Norm(width),
            nn.Conv2d(width, wide, 3, padding=1, bias=False),
            nn.PReLU(wide),
            nn.Conv2d(wide, wide, 3, stride, padding=1, bias=False),
            Norm(wide),
        ]
        if squeeze:
            layers.append(SqueezeExcitation(wide, squeeze))
        self.res_layer = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width, h, w) -> (n, wide, h / stride, w / stride)."""
        found: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return found


class BasicBlock(nn.Module):
    """ResNet's block of two convolutions."""

    def __init__(self, width: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, wide, 3, stride, padding=1, bias=False)
        self.bn1 = Norm(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.bn2 = Norm(wide)
        self.downsample: nn.Module = nn.Identity()
        if width != wide:
            self.downsample = nn.Sequential(
                nn.Conv2d(width, wide, 1, stride, bias=False), Norm(wide)
            )

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width, h, w) -> (n, wide, h / stride, w / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class Backbone(nn.Module):
    """One convolution, then stages of units: maps at the end of every stage.

    Every stage halves the map, but for ResNet's first, whose convolution before it does.
    """

    def __init__(self, config: Shape) -> None:
        super().__init__()
        width = config.channels[0]
        self.resnet = config.backbone == "resnet"
        if self.resnet:
            self.conv1 = nn.Conv2d(config.in_channels, width, 7, 2, padding=3, bias=False)
            self.bn1 = Norm(width)
            self.relu = nn.PReLU(width)
        else:
            self.input_layer = nn.Sequential(
                nn.Conv2d(config.in_channels, width, 3, padding=1, bias=False),
                Norm(width),
                nn.PReLU(width),
            )
        body: list[nn.Module] = []
        self.ends: set[int] = set()
        for stage, units in enumerate(config.units):
            wide = config.channels[stage + 1]
            for unit in range(units):
                stride = 2 if unit == 0 and (stage or not self.resnet) else 1
                body.append(
                    BasicBlock(width, wide, stride)
                    if self.resnet
                    else ResidualUnit(width, wide, stride, config.squeeze)
                )
                width = wide
            self.ends.add(len(body) - 1)
        self.body = nn.Sequential(*body)

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """The map of every stage, of images (n, in_channels, h, w)."""
        x = self.relu(self.bn1(self.conv1(x))) if self.resnet else self.input_layer(x)
        for i, unit in enumerate(self.body):
            x = unit(x)
            if i in self.ends:
                yield x
