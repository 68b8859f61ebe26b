"""HyperStyle's training checkpoints with a narrow hypernetwork of random weights, as its program
writes them; channels are an eighth of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from generators.encoders.psp.config import PspConfig
from tests.networks.psp import NARROW, filled

WIDTH, INNER_SHARED, INNER = 64, 16, 32
#: Layers of a generator whose weights are changed, as the options name them: three by the shared
#: network, an RGB layer, and one that only generators from 128 px have.
LAYERS = (0, 2, 3, 4, 14)


BACKBONE = replace(NARROW, in_channels=6, backbone="resnet", units=(3, 4, 6, 3), squeeze=0)
#: One for a generator that is 8 wide throughout, without the inner widths of the program.
TINY = replace(BACKBONE, units=(1, 1, 1, 1), channels=(2, 2, 4, 6, 8))


def shapes_of(
    separable: bool, layers: tuple[int, ...], backbone: PspConfig, width: int
) -> dict[str, Any]:
    """Shapes of the tensors of a hypernetwork by name. width : of the generator, and of codes."""
    whole = backbone.tensor_shapes()
    shapes = {k: v for k, v in whole.items() if k.startswith(("conv1", "bn1", "relu", "body"))}
    shapes |= {
        "shared_weight_hypernet.w1": (width, width * 9),
        "shared_weight_hypernet.b1": (width * 9,),
        "shared_weight_hypernet.w2": (width, width * width),
        "shared_weight_hypernet.b2": (width * width,),
    }
    for k in layers:
        at, rgb, shares = f"refinement_blocks.{k}", k % 3 == 1, k < 13 and k % 3 != 1
        inner = INNER_SHARED if shares else INNER
        convs = 5 if shares else 4 if rgb or separable else 3
        widths = [backbone.channels[-1], *[inner] * (convs - 1), width]
        for i in range(convs):
            shapes[f"{at}.convs.{2 * i}.weight"] = (widths[i + 1], widths[i], 3, 3)
            shapes[f"{at}.convs.{2 * i}.bias"] = (widths[i + 1],)
        if shares:
            shapes |= _linear(f"{at}.linear", width, width)
        elif rgb:
            shapes |= _linear(f"{at}.output.0", 3 * width, width, 1, 1)
        elif separable:
            for part, taken in (("in", width), ("out", INNER)):
                shapes |= _linear(f"{at}.output.0.make_kernel_{part}", 9 * taken, width)
                shapes |= _linear(f"{at}.output.0.kernel_linear_{part}", taken, taken)
        else:
            shapes |= _linear(f"{at}.output.1", width * INNER, width, 1, 1)
    return shapes


def _linear(name: str, out: int, *taken: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, *taken), f"{name}.bias": (out,)}


class _Shapes:
    def __init__(self, shapes: dict[str, Any]) -> None:
        self.shapes = shapes

    def tensor_shapes(self) -> dict[str, Any]:
        return {**self.shapes, "latent_avg": (1, 1)}


def hyper_tensors(
    separable: bool = False,
    layers: tuple[int, ...] = LAYERS,
    backbone: PspConfig = BACKBONE,
    width: int = WIDTH,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Random tensors of a hypernetwork by name."""
    shapes = shapes_of(separable, layers, backbone, width)
    found = filled(_Shapes(shapes), seed)  # type: ignore[arg-type]
    del found["latent_avg"]
    for name in ("w1", "w2"):
        found[f"shared_weight_hypernet.{name}"] /= 8
    for name, value in found.items():
        if ".kernel_linear" in name and value.ndim == 2:
            value /= 8
        if ".make_kernel" in name and value.ndim == 2:
            value /= 8
    return found


def hyper_contents(tensors: dict[str, np.ndarray], **opts: Any) -> dict[str, Any]:
    """What the program saves, but for the generator."""
    state = {f"hypernet.{name}": value for name, value in tensors.items()}
    for name in [n for n in tensors if n.endswith("linear.weight")]:
        block = name.removesuffix("linear.weight")
        if f"{block}output.0.weight" in tensors or "kernel_linear" in name:
            continue
        for part in ("w1", "b1", "w2", "b2"):
            shared = tensors[f"shared_weight_hypernet.{part}"]
            state[f"hypernet.{block}hypernet.{part}"] = shared
    said = {"encoder_type": "SharedWeightsHyperNetResNet", "dataset_type": "ffhq_encode", **opts}
    return {"state_dict": state, "opts": said, "latent_avg": np.zeros((6, WIDTH), np.float32)}
