"""Test support: StyleGAN's tensors under the names of other projects, and its images computed from
the official ones by the definition alone, in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.generators.tensorflow_layouts import (
    SOURCE,
    STYLEGAN,
    tensorflow_network,
    tensorflow_pickle,
)

Arrays = dict[str, np.ndarray]
PARTS = ("", "mapping", "synthesis")


def official_variables(
    channels: tuple[int, ...] = (8, 6, 4),
    *,
    z_dim: int = 6,
    w_dim: int = 8,
    c_dim: int = 0,
    colours: int = 3,
    depth: int = 3,
    rate: float = 0.01,
    seed: int = 0,
) -> dict[str, Arrays]:
    """Random variables of the whole network (""), "mapping" and "synthesis", official names."""
    random = np.random.RandomState(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    top = {"lod": np.zeros((), np.float32), "dlatent_avg": 0.1 * normal(w_dim)}
    mapping: Arrays = {}
    width = z_dim
    if c_dim:
        mapping["LabelConcat/weight"] = normal(c_dim, z_dim)
        width *= 2
    for i in range(depth):
        out = w_dim if i == depth - 1 else 7
        mapping[f"Dense{i}/weight"] = normal(width, out) / np.float32(rate)
        mapping[f"Dense{i}/bias"] = normal(out) * np.float32(0.2 / rate)
        width = out
    synthesis: Arrays = {"lod": np.zeros((), np.float32)}
    before = 0
    for block, n in enumerate(channels):
        side = 4 << block
        for k in (0, 1):
            synthesis[f"noise{2 * block + k}"] = normal(1, 1, side, side)
            layer = f"{side}x{side}/" + (("Conv0_up", "Conv1") if block else ("Const", "Conv"))[k]
            if not before and not k:
                synthesis[f"{layer}/const"] = 1 + 0.5 * normal(1, n, 4, 4)
            else:
                synthesis[f"{layer}/weight"] = normal(3, 3, n if k else before, n)
            synthesis[f"{layer}/Noise/weight"] = 0.3 * normal(n)
            synthesis[f"{layer}/bias"] = 0.3 * normal(n)
            synthesis[f"{layer}/StyleMod/weight"] = normal(w_dim, 2 * n)
            synthesis[f"{layer}/StyleMod/bias"] = 0.3 * normal(2 * n)
        lod = len(channels) - 1 - block
        synthesis[f"ToRGB_lod{lod}/weight"] = normal(1, 1, n, colours)
        synthesis[f"ToRGB_lod{lod}/bias"] = 0.1 * normal(colours)
        before = n
    return {"": top, "mapping": mapping, "synthesis": synthesis}


def official_pickle(
    variables: Mapping[str, Arrays], source: str = SOURCE, **arguments: Any
) -> bytes:
    """(G, D, Gs) of StyleGAN's code: G with other weights, D with none."""
    arguments.setdefault("mapping_layers", sum("Dense" in v for v in variables["mapping"]) // 2)

    def network(scale: float) -> Any:
        def stored(part: str) -> dict[str, Any]:
            scaled = {name: np.asarray(v) * scale for name, v in variables[part].items()}
            return {k: float(v) if k == "lod" else v for k, v in scaled.items()}

        components = {
            part: tensorflow_network(
                STYLEGAN, f"G_{part}", arguments, stored(part), name=f"G_{part}"
            )
            for part in PARTS[1:]
        }
        own = stored("")
        return tensorflow_network(STYLEGAN, "G_style", arguments, own, components, source=source)

    other = tensorflow_network(STYLEGAN, "D_basic", {}, {"lod": 0.0}, name="D")
    return tensorflow_pickle(network(1.0), network(0.5), other)


def _flat(variables: Mapping[str, Arrays]) -> Arrays:
    return {
        name: value
        for part in ("mapping", "synthesis", "")
        for name, value in variables[part].items()
    }


def _renamed(
    variables: Mapping[str, Arrays], inner: Mapping[str, str], dense: tuple[str, str]
) -> Arrays:
    """Layers by number, kernels as (out, in, height, width), matrices as (out, in)."""
    flat = _flat(variables)
    blocks = len([name for name in flat if name.startswith("ToRGB") and name.endswith("bias")])
    found: Arrays = {"truncation.w_avg": flat["dlatent_avg"], "synthesis.lod": flat["lod"]}
    for name, value in flat.items():
        layer, _, part = name.partition("/")
        turned = (
            value.T
            if value.ndim == 2
            else value.transpose(3, 2, 0, 1)
            if part.endswith("weight") and value.ndim == 4
            else value
        )
        if name.startswith("Dense"):
            kind = dense[0] if part == "weight" else dense[1]
            found[f"mapping.dense{layer[5:]}.{kind}"] = turned
        elif name.startswith("LabelConcat"):
            found["mapping.label_weight"] = value
        elif name.startswith("noise"):
            found[f"synthesis.layer{layer[5:]}.{inner['noise']}"] = value
        elif name.startswith("ToRGB"):
            output = f"synthesis.output{blocks - 1 - int(layer[9:])}"
            found[f"{output}.{inner['colour'] if part == 'weight' else 'bias'}"] = turned
        elif "x" in layer:
            kind, _, rest = part.partition("/")
            number = 2 * (int(layer.split("x")[0]).bit_length() - 3) + (kind in ("Conv", "Conv1"))
            found[f"synthesis.layer{number}.{inner[rest]}"] = turned
            if kind == "Conv0_up":
                blur = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
                channels = flat[f"{layer}/Conv0_up/bias"].shape[0]
                found[f"synthesis.layer{number}.blur.kernel"] = np.tile(blur, (channels, 1, 1, 1))
    return found


def genforce_state(variables: Mapping[str, Arrays]) -> Arrays:
    """As GenForce's ``stylegan_converter.py`` names and turns the variables."""
    inner = {
        "noise": "apply_noise.noise",
        "colour": "weight",
        "const": "const",
        "weight": "weight",
        "bias": "bias",
        "Noise/weight": "apply_noise.weight",
        "StyleMod/weight": "style.weight",
        "StyleMod/bias": "style.bias",
    }
    return _renamed(variables, inner, ("weight", "bias"))


def interfacegan_state(variables: Mapping[str, Arrays], fused_from: int = 128) -> Arrays:
    """As InterFaceGAN's ``convert_tf_model`` does: fused kernels stay as they are."""
    mod = "epilogue.style_mod.dense"
    inner = {
        "noise": "epilogue.apply_noise.noise",
        "colour": "conv.weight",
        "const": "first_layer",
        "weight": "conv.weight",
        "bias": "epilogue.bias",
        "Noise/weight": "epilogue.apply_noise.weight",
        "StyleMod/weight": f"{mod}.linear.weight",
        "StyleMod/bias": f"{mod}.wscale.bias",
    }
    found = _renamed(variables, inner, ("linear.weight", "wscale.bias"))
    for number in range(2, 20, 2):
        side = 4 << number // 2
        if (name := f"synthesis.layer{number}.conv.weight") in found and side >= fused_from:
            del found[name]
            kernel = variables["synthesis"][f"{side}x{side}/Conv0_up/weight"]
            found[f"synthesis.layer{number}.weight"] = kernel
    return found


# ---- images by the definition --------------------------------------------------------------------


def correlated(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """x (n, in, h, w), kernel (k, k, in, out), zeros outside."""
    k = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2,) * 2, (k // 2,) * 2))
    out = np.zeros((len(x), kernel.shape[3], *x.shape[2:]))
    for i in range(k):
        for j in range(k):
            part = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
            out += np.einsum("nchw,co->nohw", part, kernel[i, j])
    return out


def doubled_and_correlated(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return correlated(x.repeat(2, axis=2).repeat(2, axis=3), kernel)


def transposed(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Each pixel of x paints the kernel, widened to 4 x 4 by adding it at four places, at twice
    its place."""
    wide = np.zeros((4, 4, *kernel.shape[2:]))
    for i in (0, 1):
        for j in (0, 1):
            wide[i : i + 3, j : j + 3] += kernel
    n, _, height, width = x.shape
    canvas = np.zeros((n, kernel.shape[3], 2 * height + 2, 2 * width + 2))
    for i in range(4):
        for j in range(4):
            painted = np.einsum("nchw,co->nohw", x, wide[i, j])
            canvas[:, :, i : i + 2 * height : 2, j : j + 2 * width : 2] += painted
    return canvas[:, :, 1:-1, 1:-1]


def naive_w(variables: Mapping[str, Arrays], z: np.ndarray, c: np.ndarray | None = None,
            rate: float = 0.01) -> np.ndarray:  # fmt: skip
    """w (n, w_dim) of z (n, z_dim) and class weights (n, classes), float64."""
    mapping = {name: np.asarray(value, np.float64) for name, value in variables["mapping"].items()}
    rows = []
    for i, row in enumerate(np.asarray(z, np.float64)):
        if c is not None:
            row = np.concatenate([row, c[i] @ mapping["LabelConcat/weight"]])
        row = row / np.sqrt((row * row).mean() + 1e-8)
        for layer in range(sum(name.endswith("bias") for name in mapping)):
            weight = mapping[f"Dense{layer}/weight"]
            scale = np.sqrt(2 / weight.shape[0]) * rate
            row = row @ (weight * scale) + mapping[f"Dense{layer}/bias"] * rate
            row = np.where(row > 0, row, 0.2 * row)
        rows.append(row)
    return np.stack(rows)


def naive_images(variables: Mapping[str, Arrays], ws: np.ndarray, fused_from: float = 128,
                 noise: bool = True) -> np.ndarray:  # fmt: skip
    """Images (n, colours, r, r) of w_plus (n, layers, w_dim), float64."""
    v = {name: np.asarray(value, np.float64) for name, value in variables["synthesis"].items()}
    ws = np.asarray(ws, np.float64)

    def ended(x: np.ndarray, layer: str, index: int) -> np.ndarray:
        n = x.shape[1]
        if noise:
            x = x + v[f"noise{index}"] * v[f"{layer}/Noise/weight"].reshape(1, n, 1, 1)
        x = x + v[f"{layer}/bias"].reshape(1, n, 1, 1)
        x = np.where(x > 0, x, 0.2 * x)
        x = x - x.mean(axis=(2, 3), keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=(2, 3), keepdims=True) + 1e-8)
        weight = v[f"{layer}/StyleMod/weight"]
        style = ws[:, index] @ (weight / np.sqrt(weight.shape[0])) + v[f"{layer}/StyleMod/bias"]
        scale, shift = style.reshape(-1, 2, n).transpose(1, 0, 2)[..., None, None]
        return x * (scale + 1) + shift

    def kernel(layer: str, gain: float) -> np.ndarray:
        weight = v[f"{layer}/weight"]
        return weight * gain / np.sqrt(np.prod(weight.shape[:3]))

    x = np.repeat(v["4x4/Const/const"], len(ws), axis=0)
    x = ended(x, "4x4/Const", 0)
    x = ended(correlated(x, kernel("4x4/Conv", np.sqrt(2))), "4x4/Conv", 1)
    side, index = 8, 2
    while f"{side}x{side}/Conv1/weight" in v:
        up = transposed if side >= fused_from else doubled_and_correlated
        layer = f"{side}x{side}/Conv0_up"
        x = up(x, kernel(layer, np.sqrt(2)))
        blur = np.einsum("ij,co->ijco", np.outer([1, 2, 1], [1, 2, 1]) / 16, np.eye(x.shape[1]))
        x = ended(correlated(x, blur), layer, index)
        layer = f"{side}x{side}/Conv1"
        x = ended(correlated(x, kernel(layer, np.sqrt(2))), layer, index + 1)
        side, index = 2 * side, index + 2
    bias = v["ToRGB_lod0/bias"].reshape(1, -1, 1, 1)
    return correlated(x, kernel("ToRGB_lod0", 1.0)) + bias
