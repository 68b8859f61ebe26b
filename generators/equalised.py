"""The linear layer of StyleGAN2 and StyleGAN3, and how both normalise (Karras et al.)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SQRT2 = math.sqrt(2.0)


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scale each row of x, (n, d), to mean square 1 (with 1e-8 added under the root)."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def _content(tensor: Tensor) -> tuple[object, ...]:
    """Another value whenever the tensor holds other numbers."""
    return (tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device)


class FullyConnectedLayer(nn.Module):
    """Linear layer with equalised learning rate, (n, in_features) -> (n, out_features).

    The stored weight is multiplied by ``lr_multiplier / sqrt(in_features)`` and the stored bias by
    `lr_multiplier`, of a layer that is not trained once for all batches: of 64 rows, the products
    would take as long as the layer. `activation` is "linear" or "lrelu" (slope 0.2, gain sqrt 2).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: Literal["linear", "lrelu"] = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features).div_(lr_multiplier))
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self._kept: tuple[tuple[object, ...], Tensor, Tensor] | None = None
        self._kept_of: tuple[Tensor, Tensor] | None = (
            None  # alive, so that its memory is no other's
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, *self._scaled())
        return F.leaky_relu(y, 0.2) * SQRT2 if self.activation == "lrelu" else y

    def _scaled(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as they are used."""
        weight, bias = self.weight, self.bias
        trained = weight.requires_grad or bias.requires_grad or weight.is_inference()
        if trained or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return weight * self.weight_gain, bias * self.bias_gain
        now = (*_content(weight), *_content(bias))
        if self._kept is None or self._kept[0] != now:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = now, weight * self.weight_gain, bias * self.bias_gain
            self._kept_of = weight, bias
        return self._kept[1:]
