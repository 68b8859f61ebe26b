"""StyleGAN2 networks of the TensorFlow code under the official PyTorch names.

Read: ``G_main`` of NVlabs/stylegan2 (version 4 of pickled networks) and of NVlabs/stylegan2-ada
(version 5), with the synthesis networks of both: configurations E and F and StyleGAN2-ADA, and
configurations B to D, whose grown network is one that draws at the end only. What maps to what is
told by ``legacy.py`` of the official PyTorch code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.families.stylegan2.config import CONNECTIONS, RESAMPLE_TAPS
from generators.families.stylegan2.filters import taps_of
from generators.unpickle.tensorflow_pickles import TensorflowNetwork
from schemas.errors import CheckpointError

BUILDER = "G_main"
GROWN = "G_synthesis_stylegan_revised"
_SYNTHESES = ("G_synthesis_stylegan2", "G_synthesis", GROWN)
_MAPPINGS = ("G_mapping",)
#: Arguments that shapes tell, that change no image without truncation, or that train.
_HARMLESS = frozenset(
    "latent_size label_size dlatent_size dlatent_broadcast resolution num_channels mapping_layers "
    "mapping_fmaps label_fmaps fmap_base fmap_decay fmap_min fmap_max fmap_const "
    "truncation_psi truncation_cutoff truncation_psi_val truncation_cutoff_val dlatent_avg_beta "
    "w_avg_beta style_mixing_prob randomize_noise fused_modconv structure num_fp16_res "
    "mapping_func synthesis_func is_training is_validation is_template_graph force_clean_graph "
    "return_dlatents freeze_layers".split()
)
#: Arguments with the only values that are implemented, the functions' defaults.
_FIXED: Mapping[str, Any] = {
    "nonlinearity": "lrelu",
    "mapping_nonlinearity": "lrelu",
    "normalize_latents": True,
    "dtype": "float32",
}
#: Arguments that are taken over, with the functions' defaults.
_STATED: Mapping[str, Any] = {
    "mapping_lrmul": 0.01,
    "conv_clamp": None,
    "architecture": "skip",
    "use_noise": True,
    "resample_kernel": list(RESAMPLE_TAPS),
}
_LAYERS = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb", "Skip": "skip"}
_PARTS = {
    "weight": "weight",
    "bias": "bias",
    "noise_strength": "noise_strength",
    "mod_weight": "affine.weight",
    "mod_bias": "affine.bias",
}
_DENSE = r"mapping\.fc\d{1,2}\.weight"
_SCOPE = re.compile(rf"(\d{{1,5}})x(\d{{1,5}})/({'|'.join(_LAYERS)})/({'|'.join(_PARTS)})")


def from_tensorflow(network: TensorflowNetwork) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors under the official PyTorch names, and the settings that the network states.

    Raises CheckpointError for another function, argument or variable than the official code's.
    """
    for part, builders in (("mapping", _MAPPINGS), ("synthesis", _SYNTHESES)):
        found = network.components.get(part)
        if found is None or found.builder not in builders:
            built = None if found is None else found.builder
            raise CheckpointError(
                f"TensorFlow network {network.name[:60]!r} has {part} {built!r}, expected one of "
                f"{list(builders)!r}: only those of the official code are implemented"
            )
    mapping, synthesis = network.components["mapping"], network.components["synthesis"]
    arguments = {**mapping.arguments, **synthesis.arguments, **network.arguments}
    if synthesis.builder == GROWN:
        variables = _finished(network)
        arguments["architecture"] = "orig"
    else:
        variables = dict(synthesis.variables)
    settings = _settings(network, arguments)
    own = {"dlatent_avg", "lod"} if synthesis.builder == GROWN else {"dlatent_avg"}
    if unknown := sorted(set(network.variables) - own):
        raise _unknown(unknown[0])
    tensors: dict[str, np.ndarray] = {}
    for name, value in mapping.variables.items():
        tensors[_mapping_name(name)] = np.asarray(value.T, np.float32)
    for name, value in variables.items():
        ours, turned = _synthesis_tensor(name, np.asarray(value, np.float32))
        tensors[ours] = turned
    if "dlatent_avg" in network.variables:
        tensors["mapping.w_avg"] = network.variables["dlatent_avg"]
    _compare(network.name, arguments, tensors)
    return tensors, settings


def _compare(network: str, arguments: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse arguments of the shape that are not those of the tensors, by their official names."""
    inputs = tensors["mapping.embed.weight"].shape if "mapping.embed.weight" in tensors else (0, 0)
    first = tensors["mapping.fc0.weight"].shape if "mapping.fc0.weight" in tensors else None
    sides = [int(m[1]) for m in (re.match(r"synthesis\.b(\d+)\.", n) for n in tensors) if m]
    last = tensors.get(f"synthesis.b{max(sides, default=0)}.torgb.bias")
    shown = {
        "mapping_layers": sum(bool(re.fullmatch(_DENSE, name)) for name in tensors),
        "label_size": inputs[-1],
        "latent_size": None if first is None else first[-1] - inputs[0],
        "resolution": max(sides, default=None),
        "num_channels": None if last is None else last.size,
    }
    for name, number in shown.items():
        stated = arguments.get(name)
        if None not in (number, stated) and stated != number:
            raise _refused(network, name, stated, f"but the variables are those of {number!r}")


def _settings(network: TensorflowNetwork, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a network states; arguments that it was not given are the functions' defaults."""
    parts = (network, *network.components.values())
    for name, value in arguments.items():
        if name in _FIXED:
            if value != _FIXED[name]:
                raise _refused(network.name, name, value, f"only {_FIXED[name]!r} is implemented")
        elif name not in _HARMLESS and name not in _STATED:
            if not all(part.ignores(name) for part in parts):
                raise _refused(network.name, name, value, "which the official code does not have")
    stated = {**_STATED, **arguments}
    clamp, kernel, noise = stated["conv_clamp"], stated["resample_kernel"], stated["use_noise"]
    numbers = {"mapping_lrmul": stated["mapping_lrmul"]}
    for name, found in {**numbers, **({} if clamp is None else {"conv_clamp": clamp})}.items():
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < 1e9:
            raise _refused(network.name, name, found, "expected a number above 0")
    if not isinstance(noise, bool):
        raise _refused(network.name, "use_noise", noise, "expected True or False")
    if stated["architecture"] not in CONNECTIONS:
        shown = stated["architecture"]
        raise _refused(network.name, "architecture", shown, f"expected {CONNECTIONS!r}")
    return {
        "lr_multiplier": float(stated["mapping_lrmul"]),
        "conv_clamp": None if clamp is None else float(clamp),
        "connections": stated["architecture"],
        "use_noise": noise,
        # None is the box filter there, and no filter in PyTorch, which the official converter gives
        "resample_filter": taps_of("resample_kernel", [1, 1] if kernel is None else kernel),
    }


def _finished(network: TensorflowNetwork) -> dict[str, np.ndarray]:
    """The variables of a grown synthesis network that its last resolution needs.

    Raises CheckpointError where the growing has not come to an end: two resolutions blend then.
    """
    for part in (network, network.components["synthesis"]):
        lod = float(part.variables["lod"]) if "lod" in part.variables else 0.0
        if lod != 0.0:
            raise CheckpointError(
                f"TensorFlow network {network.name[:60]!r} was grown to 'lod' {lod!r}, where "
                "resolutions blend: give a checkpoint of the end of the training, with 'lod' 0"
            )
    sides = [int(m[1]) for m in map(_SCOPE.match, network.components["synthesis"].variables) if m]
    last = f"{max(sides, default=4)}x{max(sides, default=4)}"
    return {
        name.replace("ToRGB_lod0", f"{last}/ToRGB"): value
        for name, value in network.components["synthesis"].variables.items()
        if name != "lod" and not re.match(r"ToRGB_lod[1-9]", name)
    }


def _mapping_name(name: str) -> str:
    if match := re.fullmatch(r"Dense(\d{1,2})/(weight|bias)", name):
        return f"mapping.fc{match[1]}.{match[2]}"
    if match := re.fullmatch(r"LabelEmbed/(weight|bias)", name):
        return f"mapping.embed.{match[1]}"
    if name == "LabelConcat/weight":
        raise CheckpointError(
            "variable 'LabelConcat/weight' says that labels are normalised together with z, as in "
            "the first code of StyleGAN2: only labels that are embedded apart are implemented, as "
            "in StyleGAN2-ADA"
        )
    raise _unknown(name)


def _synthesis_tensor(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Name and values of a variable in the official PyTorch code."""
    if match := re.fullmatch(r"noise(\d{1,2})", name):
        k = int(match[1])
        layer = f"b{4 << (k + 1) // 2}.conv{(k + 1) % 2}"
        return f"synthesis.{layer}.noise_const", value.reshape(value.shape[-2:])
    if name == "4x4/Const/const":
        return "synthesis.b4.const", value.reshape(value.shape[1:])
    match = _SCOPE.fullmatch(name)
    if match is None or match[1] != match[2] or (match[3] == "Skip" and match[4] != "weight"):
        raise _unknown(name)
    side, layer, part = match[1], match[3], match[4]
    ours = f"synthesis.b{side}.{_LAYERS[layer]}.{_PARTS[part]}"
    if part == "weight":
        if value.ndim != 4:
            raise CheckpointError(f"variable {name!r} has shape {value.shape!r}, expected 4 axes")
        if layer in ("Conv0_up", "Skip"):  # turned round: the code there convolves
            value = value[::-1, ::-1]
        return ours, value.transpose(3, 2, 0, 1)
    if part == "mod_bias":  # 1 is added when the network runs
        return ours, value + np.float32(1)
    return ours, value.T


def _unknown(name: str) -> CheckpointError:
    return CheckpointError(
        f"variable {name[:80]!r} belongs to no StyleGAN2 generator of the official TensorFlow code"
    )


def _refused(network: str, name: str, value: Any, why: str) -> CheckpointError:
    return CheckpointError(
        f"TensorFlow network {network[:60]!r} has {name[:60]!r} {str(value)[:60]!r}, {why}: use a "
        "generator of the official code"
    )
