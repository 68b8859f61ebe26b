"""What an encoder of the pSp framework is made of (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

FAMILY = "psp"
BACKBONES = ("ir", "ir_se", "resnet")
HEADS = ("pyramid", "map", "linear", "pooled")
#: Heads from which the pyramid's second and third map are used.
PYRAMID = (3, 7)


@dataclass(frozen=True)
class PspConfig:
    """Shape of a `generators.encoders.psp.network.PspEncoder`.

    size : (height, width) of the images in pixels, taken from their centre.
    in_channels : 3, or 6 of an encoder that is also shown what its last code draws.
    backbone : "ir" or "ir_se", the residual units of ArcFace, with squeeze and excitation; or
        "resnet", ResNet's basic blocks.
    channels : of the first convolution, then of each stage of units.
    units : of each stage.
    squeeze : by what squeeze and excitation divides the channels; 0 without.
    head : "pyramid", one head a layer on three maps of a feature pyramid (pSp, e4e); "map", one a
        layer on the last map (ReStyle); "linear", all layers from the last map; "pooled", one w
        from the mean of the last map.
    depth : halvings of the last map in a head; 0 of the heads without convolutions.
    styles : heads, or layers of the "linear" one; 0 of "pooled".
    offsets : the first head gives w, the others the layers' offsets from it (e4e).
    num_ws, w_dim : the generator's w_plus shape; num_ws is 0 where nothing tells it, and at most
        `styles`: of more heads the first are used.
    """

    size: tuple[int, int]
    in_channels: int
    backbone: str
    channels: tuple[int, ...]
    units: tuple[int, ...]
    squeeze: int
    head: str
    depth: int
    styles: int
    offsets: bool
    num_ws: int
    w_dim: int

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES or self.head not in HEADS:
            raise ValueError(
                f"backbone is {self.backbone!r} and head {self.head!r}, expected one of "
                f"{BACKBONES!r} and of {HEADS!r}"
            )
        if self.in_channels not in (3, 6):
            raise ValueError(f"'in_channels' is {self.in_channels!r}, expected 3 or 6")
        if len(self.channels) != len(self.units) + 1 or len(self.units) < 3:
            raise ValueError(
                f"'channels' {self.channels!r} and 'units' {self.units!r} are not of three stages "
                "or more behind one convolution"
            )
        if self.styles and not 0 < self.num_ws <= self.styles:
            raise ValueError(f"'num_ws' is {self.num_ws!r} of {self.styles!r} 'styles'")

    @property
    def refines(self) -> bool:
        """Whether it is shown what its last code draws."""
        return self.in_channels == 6

    def spaces(self) -> dict[str, tuple[int, ...]]:
        """Spaces of the codes, with their shapes."""
        w = {"w": (self.w_dim,)} if self.head == "pooled" else {}
        return {**w, **({"w_plus": (self.num_ws, self.w_dim)} if self.num_ws else {})}

    def depths(self) -> tuple[int, ...]:
        """Convolutions of each head that has some."""
        if self.head == "pyramid":
            return tuple(self.depth + sum(i >= at for at in PYRAMID) for i in range(self.styles))
        return (self.depth,) * self.styles if self.head == "map" else ()

    def architecture(self) -> dict[str, Any]:
        """Canonical description, part of the fingerprint."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {"family": FAMILY, **values}

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> PspConfig:
        """Raises KeyError, TypeError or ValueError for another's."""
        values: dict[str, Any] = {f.name: architecture[f.name] for f in fields(cls)}
        for name in ("size", "channels", "units"):
            values[name] = tuple(int(number) for number in values[name])
        return cls(**values)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name."""
        shapes = {**self._stem(), **self._body()}
        last, w = self.channels[-1], self.w_dim
        for i, depth in enumerate(self.depths()):
            for k in range(depth):
                shapes[f"styles.{i}.convs.{2 * k}.weight"] = (w, w if k else last, 3, 3)
                shapes[f"styles.{i}.convs.{2 * k}.bias"] = (w,)
            shapes |= _linear(f"styles.{i}.linear", w, w)
        if self.head == "pyramid":
            for k, width in ((1, self.channels[-2]), (2, self.channels[-3])):
                shapes[f"latlayer{k}.weight"] = (last, width, 1, 1)
                shapes[f"latlayer{k}.bias"] = (last,)
        if self.head == "linear":
            shapes |= _norm("output_layer_2.0", last)
            shapes |= _linear("output_layer_2.3", w, last * 49)
            shapes |= _linear("linear", w * self.styles, w)
        if self.head == "pooled":
            shapes |= _linear("linear", w, last)
        return {**shapes, "latent_avg": (max(1, self.num_ws), w)}

    def _stem(self) -> dict[str, tuple[int, ...]]:
        width, taken = self.channels[0], self.in_channels
        if self.backbone == "resnet":
            conv, norm, slope = "conv1", "bn1", "relu"
            kernel = 7
        else:
            conv, norm, slope = (f"input_layer.{k}" for k in range(3))
            kernel = 3
        first = {f"{conv}.weight": (width, taken, kernel, kernel), f"{slope}.weight": (width,)}
        return {**first, **_norm(norm, width)}

    def _body(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        at, width = 0, self.channels[0]
        for stage, units in enumerate(self.units):
            wide = self.channels[stage + 1]
            for _ in range(units):
                unit = self._resnet_unit if self.backbone == "resnet" else self._ir_unit
                shapes |= {f"body.{at}.{name}": s for name, s in unit(width, wide).items()}
                at, width = at + 1, wide
        return shapes

    def _ir_unit(self, width: int, wide: int) -> dict[str, tuple[int, ...]]:
        shapes = {
            **_norm("res_layer.0", width),
            "res_layer.1.weight": (wide, width, 3, 3),
            "res_layer.2.weight": (wide,),
            "res_layer.3.weight": (wide, wide, 3, 3),
            **_norm("res_layer.4", wide),
        }
        if self.backbone == "ir_se":
            narrow = wide // self.squeeze
            shapes["res_layer.5.fc1.weight"] = (narrow, wide, 1, 1)
            shapes["res_layer.5.fc2.weight"] = (wide, narrow, 1, 1)
        if width != wide:
            shapes["shortcut_layer.0.weight"] = (wide, width, 1, 1)
            shapes |= _norm("shortcut_layer.1", wide)
        return shapes

    def _resnet_unit(self, width: int, wide: int) -> dict[str, tuple[int, ...]]:
        shapes = {
            "conv1.weight": (wide, width, 3, 3),
            **_norm("bn1", wide),
            "conv2.weight": (wide, wide, 3, 3),
            **_norm("bn2", wide),
        }
        if width != wide:
            shapes["downsample.0.weight"] = (wide, width, 1, 1)
            shapes |= _norm("downsample.1", wide)
        return shapes


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (width,) for part in parts}


def _linear(name: str, out: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}
