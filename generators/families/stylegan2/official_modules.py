"""Pickled StyleGAN2 networks of the official PyTorch code: tensors, and everything that decides
what the modules compute.

The constructors of StyleGAN2-ADA (``training/networks.py``) and of the StyleGAN3 code
(``training/networks_stylegan2.py``) leave their arguments in the modules' attributes and in
``_init_kwargs``. A class that the official code does not have at a place, a hook, or an attribute
that is missing is refused by name. What changes images is either taken over (mapping rate, clamp,
connections of the blocks, filter, noise), or compared with the only value that is implemented and
refused by name; arguments that change no image in float32, and those of forks that the tensors'
shapes tell, are passed over; a name that is in neither list may mean anything and is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from generators.families.stylegan2.config import CONNECTIONS
from generators.families.stylegan2.filters import taps_of
from generators.unpickle.interpreter import Inert
from generators.unpickle.plain import plain
from generators.unpickle.torch_files import TensorRecord
from generators.unpickle.torch_modules import called, check_class, check_private, walk
from schemas.errors import CheckpointError

#: Parts of a generator that use the filter they hold.
UPSAMPLING = ("block", "conv0", "skip")
#: Names of modules -> their part in a generator.
_PARTS: Mapping[str, str] = {
    r"": "generator",
    r"mapping": "mapping",
    r"mapping\.embed": "embed",
    r"mapping\.fc\d{1,3}": "fc",
    r"synthesis": "synthesis",
    r"synthesis\.b\d{1,5}": "block",
    r"synthesis\.b\d{1,5}\.conv0": "conv0",
    r"synthesis\.b\d{1,5}\.conv1": "conv1",
    r"synthesis\.b\d{1,5}\.torgb": "torgb",
    r"synthesis\.b\d{1,5}\.skip": "skip",
    r"synthesis\.b\d{1,5}\.(conv0|conv1|torgb)\.affine": "affine",
}
#: Parts -> their classes in the official code.
_CLASSES: Mapping[str, str] = {
    "generator": "Generator",
    "mapping": "MappingNetwork",
    "embed": "FullyConnectedLayer",
    "fc": "FullyConnectedLayer",
    "affine": "FullyConnectedLayer",
    "synthesis": "SynthesisNetwork",
    "block": "SynthesisBlock",
    "conv0": "SynthesisLayer",
    "conv1": "SynthesisLayer",
    "torgb": "ToRGBLayer",
    "skip": "Conv2dLayer",
}
_LINEAR = ("activation", "weight_gain", "bias_gain")
_CONVOLUTION = ("up", "use_noise", "activation", "conv_clamp", "padding", "act_gain")
#: Attributes that decide what each part draws: every official module has them.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "embed": _LINEAR,
    "fc": _LINEAR,
    "affine": _LINEAR,
    "block": ("architecture",),
    "conv0": _CONVOLUTION,
    "conv1": _CONVOLUTION,
    "torgb": ("conv_clamp", "weight_gain"),
    "skip": ("activation", "up", "conv_clamp", "padding", "weight_gain", "act_gain"),
}
#: Attributes and arguments that the tensors' shapes tell already, or that change no image.
_HARMLESS = frozenset(
    "training class_name z_dim c_dim w_dim num_ws num_layers img_resolution img_resolution_log2 "
    "img_channels in_channels out_channels in_features out_features tmp_channels "
    "block_resolutions resolution channel_base channel_max embed_features layer_features "
    "kernel_size is_last num_conv num_torgb w_avg_beta bias bias_init "
    "num_fp16_res use_fp16 fp16_channels_last channels_last fused_modconv_default fused_modconv "
    "freeze_layers freeze_embed trainable trainable_layers "
    "init_res square output_shape res fmap_base".split()  # of forks whose images are not square
)
_NESTED = ("mapping_kwargs", "synthesis_kwargs", "block_kwargs", "layer_kwargs")
_STATE_DICT = (
    "if it changes no image, save the network's state_dict() with torch.save and give that file, "
    "with the settings that 'latentflow inspect' calls assumed"
)


@dataclass
class Settings:
    """What the modules say beside their tensors.

    said : setting -> values of the modules' attributes, each with a module that has it.
    """

    class_name: str = ""
    said: dict[str, dict[Any, str]] = field(default_factory=dict)

    def agreed(self) -> dict[str, Any]:
        """The settings that the file states. Raises CheckpointError where modules disagree."""
        for name, values in self.said.items():
            if len(values) > 1:
                listed = ", ".join(f"{value!r} in {where!r}" for value, where in values.items())
                raise CheckpointError(
                    f"{name!r} is {listed}: only one value for the whole network is implemented"
                )
        return {name: next(iter(values)) for name, values in self.said.items()}


def read_modules(module: Any) -> tuple[dict[str, Any], Settings]:
    """Tensor records by official name, and settings, of a pickled network.

    Raises CheckpointError for a module that is not a StyleGAN2 generator of the official code, or
    whose constructor was given something else than what is implemented.
    """
    tensors: dict[str, Any] = {}
    settings = Settings()
    found = list(walk(module))
    names = {path for path, _, _ in found}
    if "input" in names and "to_rgb1" in names:
        raise CheckpointError(
            "file holds a rosinality network saved whole: save its state_dict() with torch.save "
            "and give that file"
        )
    for path, class_name, state in found:
        if not path:
            settings.class_name = class_name
        _check(path, class_name, state, settings)
        for part in ("_parameters", "_buffers"):
            for name, value in (state.get(part) or {}).items():
                if isinstance(value, TensorRecord):
                    tensors[f"{path}.{name}".lstrip(".")] = value
    return tensors, settings


def _check(path: str, class_name: str, state: Mapping[str, Any], settings: Settings) -> None:
    """One module's attributes and arguments, see the module's text."""
    part = next((part for name, part in _PARTS.items() if re.fullmatch(name, path)), None)
    tensors = {**(state.get("_parameters") or {}), **(state.get("_buffers") or {})}
    if part is None or (part == "skip" and "weight" not in tensors):
        raise CheckpointError(
            f"module {path[:80]!r} of class {class_name!r} belongs to no StyleGAN2 generator"
        )
    check_class(path, class_name, (_CLASSES[part],))
    check_private(path, state)
    for name in _NEEDED.get(part, ()):
        if name not in state:
            raise CheckpointError(
                f"{called(path)} has no {name!r}, which the official code has: {_STATE_DICT}"
            )
    for name, value in state.items():
        if not name.startswith("_"):
            for setting, number in _check_value(path, part, name, value, state):
                settings.said.setdefault(setting, {}).setdefault(number, path)
    for name, value in _arguments(state.get("_init_kwargs")):
        for _ in _check_value(path, part, name, value, state):
            pass  # the attributes say it
    if part in UPSAMPLING:
        taps = taps_of(path, tensors.get("resample_filter"), total=1.0)
        settings.said.setdefault("resample_filter", {}).setdefault(taps, path)


def _arguments(kwargs: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Keyword arguments of a constructor, those for its parts included."""
    if isinstance(kwargs, Inert):
        kwargs = kwargs.mapping
    for name, value in kwargs.items() if isinstance(kwargs, dict) else ():
        if name in _NESTED and depth < len(_NESTED):
            yield from _arguments(value, depth + 1)
        else:
            yield str(name), value


def _check_value(
    path: str, part: str, name: str, value: Any, state: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Refuse what is not implemented; yields the setting that the value states, if it does."""
    linear = part in ("embed", "affine", "torgb", "skip")
    if name in _HARMLESS:
        return
    if name == "conv_clamp" and part == "skip":
        _expect(path, name, value, None)
    elif name == "conv_clamp":
        yield name, _number(value, path, name, none=True)
    elif name in ("lr_multiplier", "bias_gain"):
        rate = _number(value, path, name)
        if not linear:
            yield "lr_multiplier", rate
        elif rate != 1.0:
            raise _refused(path, name, rate, 1.0)
    elif name == "weight_gain":
        _check_gain(path, part, _number(value, path, name), state)
    elif name == "act_gain":
        _close(path, name, _number(value, path, name), 1.0 if linear else math.sqrt(2.0))
    elif name == "padding":
        size = 2 * _number(value, path, name) + 1
        _expect(path, "kernel_size", size, 1.0 if part == "skip" else 3.0)
    elif name == "architecture":
        if value not in CONNECTIONS:
            raise _refused(path, name, value, CONNECTIONS)
        yield "connections", value
    elif name == "activation":
        _expect(path, name, value, "linear" if linear else "lrelu")
    elif name == "use_noise":
        if not isinstance(value, bool):
            raise _refused(path, name, value, (True, False))
        yield name, value
    elif name in ("up", "down"):
        _expect(path, name, value, 2 if name == "up" and part in ("conv0", "skip") else 1)
    elif name == "resample_filter":
        if part not in ("conv1", "torgb"):  # which do not use theirs
            yield name, taps_of(path, 1.0 if value is None else value)
    else:
        raise CheckpointError(
            f"{called(path)} has {name[:60]!r} {_shown(value)}, which the official code does not "
            f"have and which may change what it draws: {_STATE_DICT}"
        )


def _check_gain(path: str, part: str, gain: float, state: Mapping[str, Any]) -> None:
    """``weight_gain`` is rate / sqrt(inputs): the rate is that of the biases."""
    weight = (state.get("_parameters") or {}).get("weight")
    weight = weight or (state.get("_buffers") or {}).get("weight")
    if not isinstance(weight, TensorRecord) or len(weight.size) < 2:
        return
    rate = state.get("bias_gain", 1.0) if part in ("fc", "embed", "affine") else 1.0
    fan_in = math.prod(weight.size[1:])
    _close(path, "weight_gain", gain, _number(rate, path, "bias_gain") / math.sqrt(fan_in))


def _number(value: Any, path: str, name: str, none: bool = False) -> Any:
    if isinstance(value, Inert):  # numpy's scalars
        value = plain(value)
    if value is None and none:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(
            f"{called(path)} has {name!r} {_shown(value)}, expected a finite number"
        )
    return float(value)


def _expect(path: str, name: str, value: Any, expected: Any) -> None:
    if isinstance(value, Inert):
        value = plain(value)
    if value is not expected and (isinstance(value, bool) or value != expected):
        raise _refused(path, name, value, expected)


def _close(path: str, name: str, value: float, expected: float) -> None:
    if not math.isclose(value, expected, rel_tol=1e-5):
        raise _refused(path, name, value, expected)


def _refused(path: str, name: str, value: Any, expected: Any) -> CheckpointError:
    return CheckpointError(
        f"{called(path)} has {name!r} {_shown(value)}, only {expected!r} is implemented: use a "
        "generator that was trained with the default"
    )


def _shown(value: Any) -> str:
    kind = type(value).__name__
    return repr(value)[:60] if isinstance(value, str | int | float | list | None) else f"of {kind}"
