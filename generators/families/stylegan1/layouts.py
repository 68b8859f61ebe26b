"""Names that other projects give a StyleGAN's tensors, and ours for them.

Official: variables of ``G_style``, ``G_mapping`` and ``G_synthesis``, kernels as (height, width,
in, out) and matrices as (in, out). GenForce, InterFaceGAN and HiGAN converted these to PyTorch,
GenForce all kernels to (out, in, height, width), the other two those that are not of transposed
convolutions, which they name otherwise: ``layer<i>.weight``, not ``layer<i>.conv.weight``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from schemas.errors import CheckpointError

Change = Callable[[np.ndarray], np.ndarray]
#: A pattern of names; ours, None where the tensor is not used; and how the values are turned.
Rule = tuple[str, str | Callable[[re.Match[str]], str] | None, Change | None]

_TF_LAYERS: Mapping[str, str] = {
    "Const": "const", "Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1"
}  # fmt: skip
_PARTS: Mapping[str, str] = {
    "const": "input",
    "first_layer": "input",
    "weight": "weight",
    "conv.weight": "weight",
    "bias": "bias",
    "epilogue.bias": "bias",
    "Noise/weight": "noise_strength",
    "apply_noise.weight": "noise_strength",
    "epilogue.apply_noise.weight": "noise_strength",
    "apply_noise.noise": "noise_const",
    "epilogue.apply_noise.noise": "noise_const",
    "StyleMod/weight": "affine.weight",
    "style.weight": "affine.weight",
    "epilogue.style_mod.dense.linear.weight": "affine.weight",
    "epilogue.style_mod.dense.fc.weight": "affine.weight",
    "StyleMod/bias": "affine.bias",
    "style.bias": "affine.bias",
    "epilogue.style_mod.dense.wscale.bias": "affine.bias",
}


def layer_name(index: int) -> str:
    """Name of the layer that row ``index`` of w_plus drives."""
    return f"b{4 << index // 2}." + ("const" if not index else f"conv{index % 2}")


def _tf_layer(match: re.Match[str]) -> str:
    return f"synthesis.b{match[1]}.{_TF_LAYERS[match[2]]}.{_PARTS[match[3]]}"


def _numbered(match: re.Match[str]) -> str:
    return f"synthesis.{layer_name(int(match[1]))}.{_PARTS[match[2]]}"


def _turned(value: np.ndarray) -> np.ndarray:
    return value.transpose(1, 0) if value.ndim == 2 else value


def _kernel(value: np.ndarray) -> np.ndarray:
    """(height, width, in, out) as (out, in, height, width)."""
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value


def single(value: np.ndarray) -> np.ndarray:
    """An array without the leading axes of length 1 of a noise image or constant."""
    axes = 2 if value.ndim == 4 and value.shape[:2] == (1, 1) else 1
    return value.reshape(value.shape[axes:]) if value.shape[:axes] == (1,) * axes else value


_INNER = r"(Const|Conv|Conv0_up|Conv1)"
OFFICIAL: Sequence[Rule] = (
    (r"lod", None, None),
    (r"dlatent_avg", "mapping.w_avg", None),
    (r"LabelConcat/weight", "mapping.embed.weight", _turned),
    (r"Dense(\d{1,2})/weight", r"mapping.fc\1.weight", _turned),
    (r"Dense(\d{1,2})/bias", r"mapping.fc\1.bias", None),
    (r"noise(\d{1,2})", lambda m: f"synthesis.{layer_name(int(m[1]))}.noise_const", single),
    (rf"(\d{{1,5}})x\1/{_INNER}/(const)", _tf_layer, single),
    (rf"(\d{{1,5}})x\1/{_INNER}/(weight)", _tf_layer, _kernel),
    (rf"(\d{{1,5}})x\1/{_INNER}/(StyleMod/weight)", _tf_layer, _turned),
    (rf"(\d{{1,5}})x\1/{_INNER}/(bias|Noise/weight|StyleMod/bias)", _tf_layer, None),
    (r"ToRGB_lod0/weight", "synthesis.torgb.weight", _kernel),
    (r"ToRGB_lod0/bias", "synthesis.torgb.bias", None),
    (r"ToRGB_lod\d{1,2}/(weight|bias)", None, None),
)
GENFORCE: Sequence[Rule] = (
    (r"synthesis\.lod", None, None),
    (r"truncation\.w_avg", "mapping.w_avg", None),
    (r"mapping\.label_weight", "mapping.embed.weight", _turned),
    (r"mapping\.dense(\d{1,2})\.(weight|bias)", r"mapping.fc\1.\2", None),
    (r"synthesis\.layer(\d{1,2})\.(const|apply_noise\.noise)", _numbered, single),
    (r"synthesis\.layer(\d{1,2})\.(weight|bias|style\.weight|style\.bias|apply_noise\.weight)",
     _numbered, None),
    (r"synthesis\.output(\d{1,2})\.(weight|bias)", r"synthesis.torgb\1.\2", None),
)  # fmt: skip
_DENSE = r"style_mod\.dense\.(?:(?:linear|fc)\.weight|wscale\.bias)"
_EPILOGUE = rf"epilogue\.(?:bias|apply_noise\.weight|{_DENSE})"
INTERFACEGAN: Sequence[Rule] = (
    (r"synthesis\.lod|truncation\.truncation", None, None),
    (r"truncation\.w_avg", "mapping.w_avg", None),
    (r"mapping\.dense(\d{1,2})\.(?:linear|fc)\.weight", r"mapping.fc\1.weight", None),
    (r"mapping\.dense(\d{1,2})\.wscale\.bias", r"mapping.fc\1.bias", None),
    (r"synthesis\.layer(\d{1,2})\.(const|first_layer|epilogue\.apply_noise\.noise)",
     _numbered, single),
    (rf"synthesis\.layer(\d{{1,2}})\.(conv\.weight|{_EPILOGUE})", _numbered, None),
    (r"synthesis\.layer(\d{1,2})\.(weight)", _numbered, _kernel),
    (r"synthesis\.output(\d{1,2})\.(?:conv\.)?(weight|bias)", r"synthesis.torgb\1.\2", None),
)  # fmt: skip
_BLUR = np.outer([1, 2, 1], [1, 2, 1]) / 16.0


def fused_sides(tensors: Mapping[str, np.ndarray]) -> list[int]:
    """Sides to which an InterFaceGAN or HiGAN generator upsamples by transposed convolutions."""
    names = (re.fullmatch(r"synthesis\.layer(\d{1,2})\.weight", name) for name in tensors)
    return sorted(4 << int(match[1]) // 2 for match in names if match)


def translated(tensors: Mapping[str, np.ndarray], rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """The tensors under our names. Raises CheckpointError for a name that no rule knows, and for
    another blur filter."""
    found: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        if re.fullmatch(r".*\.(blur\.kernel|conv1\.[12]\.weight(_flip)?)", name):
            if value.shape[-2:] != (3, 3) or not np.allclose(value, _BLUR, rtol=1e-5, atol=0):
                raise CheckpointError(
                    f"{name[:80]!r} is not the filter [1, 2, 1]: other filters are not implemented"
                )
            continue
        for pattern, ours, change in rules:
            match = re.fullmatch(pattern, name)
            if match is None:
                continue
            if ours is not None:
                target = ours(match) if callable(ours) else match.expand(ours)
                found[target] = value if change is None else change(value)
            break
        else:
            raise CheckpointError(
                f"tensor {name[:80]!r} belongs to no StyleGAN generator with a constant input, "
                "noise and styles: other variants are not implemented"
            )
    return _last_colours(found)


def _last_colours(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of the layers ``torgb0``, ``torgb1``, ... the last alone: a grown generator uses no other."""
    numbered = {name: re.fullmatch(r"synthesis\.torgb(\d+)\.(.+)", name) for name in tensors}
    last = max((int(match[1]) for match in numbered.values() if match), default=None)
    found = {}
    for name, match in numbered.items():
        if match is None:
            found[name] = tensors[name]
        elif int(match[1]) == last:
            found[f"synthesis.torgb.{match[2]}"] = tensors[name]
    return found
