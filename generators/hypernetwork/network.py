"""HyperStyle's hypernetworks: from an image and what its code draws to changes of the weights.

Alaluf et al. 2022. Every layer has a block of its own on the last map of a ResNet; those of the
widest layers share the network that makes kernels of a code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from generators.encoders.psp.backbone import Backbone
from generators.encoders.psp.framing import resized, shrunk
from generators.equalised import FullyConnectedLayer
from generators.hypernetwork.file import HypernetworkFile, Shapes
from schemas.errors import CheckpointError


class SharedKernels(nn.Module):
    """Kernels of 3 x 3 of a code; the same for all layers of one width."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    def __init__(self, file: HypernetworkFile) -> None:
        super().__init__()
        for name in ("w1", "b1", "w2", "b2"):
            shape = file.shape(f"shared_weight_hypernet.{name}")
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))

    def forward(self, code: Tensor, shape: tuple[int, ...]) -> Tensor:
        """code (n, z_dim) -> (n, *shape), shape (out, in, 3, 3)."""
        inner = (code @ self.w2 + self.b2).view(len(code), shape[1], -1)
        found: Tensor = (inner @ self.w1 + self.b1).view(len(code), *shape)
        return found


class Separable(nn.Module):
    """Kernels that are products of one over the inputs and one over the outputs."""

    def __init__(self, width: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        out, taken, side, _ = shape
        self.shape = shape
        self.make_kernel_in = nn.Linear(width, side * side * taken)
        self.make_kernel_out = nn.Linear(width, side * side * out)
        self.kernel_linear_in = nn.Linear(taken, taken)
        self.kernel_linear_out = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width, 1, 1) -> (n, *shape)."""
        out, taken, side, _ = self.shape
        flat = x.flatten(1)
        rows = self.make_kernel_out(flat).view(-1, side, side, out, 1)
        columns = self.make_kernel_in(flat).view(-1, side, side, 1, taken)
        kernel = self.kernel_linear_in(rows @ columns).transpose(3, 4)
        found: Tensor = self.kernel_linear_out(kernel).permute(0, 4, 3, 1, 2)
        return found


class Block(nn.Module):
    """Changes of one layer's weight."""

    def __init__(self, file: HypernetworkFile, number: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        at = f"refinement_blocks.{number}"
        self.shape = shape
        self.shares = bool(file.shape(f"{at}.linear.weight"))
        layers: list[nn.Module] = []
        while len(conv := file.shape(f"{at}.convs.{len(layers)}.weight")) == 4:
            stride = 1 if self.shares and not layers else 2
            layers += [nn.Conv2d(conv[1], conv[0], 3, stride, padding=1), nn.LeakyReLU()]
            wide = conv[0]
        self.convs = nn.Sequential(*layers)
        if self.shares:
            self.linear = FullyConnectedLayer(wide, wide)
        elif file.shape(f"{at}.output.0.make_kernel_in.weight"):
            self.output = nn.Sequential(Separable(wide, shape))
        else:
            pooled = bool(file.shape(f"{at}.output.1.weight"))
            last = nn.Conv2d(wide, shape[0] * shape[1], 1)
            self.output = nn.Sequential(*([nn.AdaptiveAvgPool2d(1)] if pooled else []), last)

    def forward(self, x: Tensor, shared: SharedKernels | None) -> Tensor:
        """x (n, channels, h, w) -> (n, *shape)."""
        x = self.convs(x)
        if shared is not None and self.shares:
            return shared(self.linear(x.flatten(1)), self.shape)
        found: Tensor = self.output(x)
        if found.ndim == 4:  # one number of each kernel
            found = found.view(len(x), *self.shape[:2], 1, 1).expand(len(x), *self.shape)
        return found


class Hypernetwork(Backbone):
    """Changes of a generator's weights, each relative to the weight: ``weight * (1 + change)``.

    own : shapes of the generator's weights by name

    Raises CheckpointError where they are another generator's.
    """

    def __init__(self, file: HypernetworkFile, own: Shapes) -> None:
        super().__init__(file)
        self.frame, self.names = file.size, dict(file.layers)
        if file.shape("shared_weight_hypernet.w1"):
            self.shared_weight_hypernet = SharedKernels(file)
        self.refinement_blocks = nn.ModuleDict(
            {str(k): Block(file, k, tuple(own[name])) for k, name in self.names.items()}
        )

    def forward(self, images: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        """Of images (n, 3, h, w) in [-1, 1] and what is drawn of them so far: name -> (n, *shape of
        the weight)."""
        both = torch.cat([resized(images, self.frame), shrunk(drawn, self.frame)], dim=1)
        last = list(self.maps(both))[-1]
        shared = getattr(self, "shared_weight_hypernet", None)
        return {
            name: self.refinement_blocks[str(k)](last, shared) for k, name in self.names.items()
        }


def built(file: HypernetworkFile, own: Shapes, what: str) -> Hypernetwork:
    """The network with its tensors, on the CPU, without gradients.

    own : shapes of the generator's weights by name. what : the file, for people.

    Raises CheckpointError where they do not fit.
    """
    file.check(own, what)
    try:
        with torch.device("meta"):
            network = Hypernetwork(file, own)
        state = {name: torch.from_numpy(value) for name, value in file.tensors().items()}
        network.load_state_dict(state, strict=True, assign=True)
    except (RuntimeError, ValueError, KeyError, TypeError) as e:
        said = " ".join(str(e).split())
        raise CheckpointError(
            f"hypernetwork {what!r} is not one of HyperStyle's: {said}; use a file that its "
            "training wrote"
        ) from e
    return network.eval().requires_grad_(False)
