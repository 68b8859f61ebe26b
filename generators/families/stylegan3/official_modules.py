"""Pickled StyleGAN3 networks of the official PyTorch code, and of StyleGAN-XL's: tensors, and what
the modules' attributes say beside them.

Constructors' arguments are passed over: forks rename them, and what they decide is left in the
attributes. An attribute is taken over, or compared with the only value that is implemented and
refused by name, or changes no image in float32; one of another name may mean anything and is
refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.families.stylegan3.config import LayerShape, StyleGAN3Config
from generators.unpickle.interpreter import Inert
from generators.unpickle.plain import plain
from generators.unpickle.torch_files import TensorRecord
from generators.unpickle.torch_modules import called, check_class, check_private, walk
from schemas.errors import CheckpointError

_LAYER = r"synthesis\.L\d{1,3}_\d{1,6}_\d{1,6}"
#: Names of modules -> their part in a generator.
_PARTS: Mapping[str, str] = {
    r"": "generator",
    r"mapping": "mapping",
    r"mapping\.embed": "embed",
    r"mapping\.embed_proj": "embed_proj",
    r"mapping\.fc\d{1,3}": "fc",
    r"synthesis": "synthesis",
    r"synthesis\.input": "input",
    _LAYER: "layer",
    rf"(synthesis\.input|{_LAYER})\.affine": "affine",
}
#: Parts -> their classes in the official code, and in StyleGAN-XL's.
_CLASSES: Mapping[str, tuple[str, ...]] = {
    "generator": ("Generator", "SuperresGenerator"),
    "mapping": ("MappingNetwork",),
    "embed": ("FullyConnectedLayer", "Embedding"),
    "embed_proj": ("FullyConnectedLayer",),
    "fc": ("FullyConnectedLayer",),
    "synthesis": ("SynthesisNetwork",),
    "input": ("SynthesisInput",),
    "layer": ("SynthesisLayer",),
    "affine": ("FullyConnectedLayer",),
}
_SHAPE = "z_dim c_dim w_dim num_ws num_layers img_resolution img_channels"
_TRAINED = (
    "channel_base channel_max num_critical margin_size last_stopband_rel first_stopband "
    "first_cutoff num_fp16_res conv_kernel use_radial_filters"
)
_LINEAR = "in_features out_features activation weight_gain bias_gain"
_TABLE = "num_embeddings embedding_dim norm_type scale_grad_by_freq sparse padding_idx max_norm"
#: Attributes of each part that are read below, or that change no image.
_KNOWN: Mapping[str, frozenset[str]] = {
    part: frozenset(names.split()) | {"training"}
    for part, names in {
        "generator": f"{_SHAPE} {_TRAINED} path_stem up_factor head_layer_names",
        "mapping": f"{_SHAPE} w_avg_beta embed embed_proj",
        "embed": f"{_LINEAR} {_TABLE}",
        "embed_proj": _LINEAR,
        "fc": _LINEAR,
        "affine": _LINEAR,
        "synthesis": f"{_SHAPE} {_TRAINED} output_scale layer_names sampling_rates",
        "input": "w_dim channels size sampling_rate bandwidth",
        "layer": "w_dim is_torgb is_critically_sampled use_fp16 in_channels out_channels in_size "
        "out_size in_sampling_rate out_sampling_rate tmp_sampling_rate in_cutoff out_cutoff "
        "in_half_width out_half_width conv_kernel conv_clamp magnitude_ema_beta up_factor up_taps "
        "down_factor down_taps down_radial padding filter_size use_radial_filters "
        "lrelu_upsampling",
    }.items()
}
_STATE_DICT = (
    "if it changes no image, save the network's state_dict() with torch.save and give that file, "
    "with the settings that 'latentflow inspect' calls assumed"
)


class Attributes:
    """What a module says of itself, by name."""

    def __init__(self, path: str, state: Mapping[str, Any]) -> None:
        self.path = path
        self.state = state

    def get(self, name: str) -> Any:
        """A plain value. Raises CheckpointError where there is none of the name."""
        if name not in self.state:
            raise CheckpointError(
                f"{called(self.path)} has no {name!r}, which the official code has: {_STATE_DICT}"
            )
        value = self.state[name]
        return plain(value) if isinstance(value, Inert) else value

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.get(name)
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value.item()
        known = isinstance(value, int | float | np.integer | np.floating)
        if isinstance(value, bool) or not known or not math.isfinite(value):
            raise self._wrong(name, value, "a finite number")
        return float(value)

    def count(self, name: str) -> int:
        """A whole number."""
        value = self.number(name)
        if value != int(value):
            raise self._wrong(name, value, "a whole number")
        return int(value)

    def flag(self, name: str) -> bool:
        """True or False."""
        value = self.get(name)
        if not isinstance(value, bool | np.bool_):
            raise self._wrong(name, value, "True or False")
        return bool(value)

    def counts(self, name: str, n: int) -> tuple[int, ...]:
        """`n` whole numbers."""
        try:
            value = np.asarray(self.get(name), dtype=np.float64)
        except (TypeError, ValueError):
            value = np.zeros(0)
        if value.shape != (n,) or not (value == np.rint(value)).all():
            raise self._wrong(name, self.state[name], f"{n} whole numbers")
        return tuple(int(number) for number in value)

    def pair(self, name: str) -> tuple[int, int]:
        """(width, height)."""
        width, height = self.counts(name, 2)
        return width, height

    def expect(self, name: str, expected: Any) -> None:
        """Raise CheckpointError unless the value is the only one that is implemented."""
        value = self.get(name)
        same = (
            math.isclose(value, expected, rel_tol=1e-5)
            if _both_numbers(value, expected)
            else (type(value) is type(expected) and value == expected)
        )
        if not same:
            raise CheckpointError(
                f"{called(self.path)} has {name!r} {_shown(value)}, only {expected!r} is "
                "implemented: use a generator of the official code"
            )

    def _wrong(self, name: str, value: Any, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{called(self.path)} has {name!r} {_shown(value)}, expected {expected}"
        )


def read_modules(module: Any) -> tuple[StyleGAN3Config, dict[str, Any], str]:
    """Configuration, tensor records by official name, and class name of a pickled network.

    Raises CheckpointError for a module that is no StyleGAN3 generator, or has something else than
    what is implemented.
    """
    tensors: dict[str, Any] = {}
    found: dict[str, Attributes] = {}
    network_class = ""
    for path, class_name, state in walk(module):
        part = next((part for name, part in _PARTS.items() if re.fullmatch(name, path)), None)
        if part is None:
            raise CheckpointError(
                f"module {path[:80]!r} of class {class_name!r} belongs to no StyleGAN3 generator: "
                "its function is not known"
            )
        check_class(path, class_name, _CLASSES[part])
        check_private(path, state)
        network_class = network_class or class_name
        found[path] = Attributes(path, state)
        for name in [name for name in state if not name.startswith("_")]:
            if name not in _KNOWN[part]:
                raise CheckpointError(
                    f"{called(path)} has {name[:60]!r} {_shown(state[name])}, which the official "
                    f"code does not have and which may change what it draws: {_STATE_DICT}"
                )
        for kind in ("_parameters", "_buffers"):
            for name, value in (state.get(kind) or {}).items():
                if isinstance(value, TensorRecord):
                    tensors[f"{path}.{name}".lstrip(".")] = value
        if part in ("embed", "embed_proj", "fc", "affine"):
            _check_linear(found[path], part)
    for path in ("mapping", "mapping.fc0", "synthesis", "synthesis.input"):
        if path not in found:
            raise CheckpointError(f"network has no module {path!r}: it is no StyleGAN3 generator")
    return _config(found), tensors, network_class


def _config(found: Mapping[str, Attributes]) -> StyleGAN3Config:
    mapping, synthesis = found["mapping"], found["synthesis"]
    start = found["synthesis.input"]
    names = synthesis.get("layer_names")
    layers = [path.removeprefix("synthesis.") for path in found if re.fullmatch(_LAYER, path)]
    if not isinstance(names, list) or sorted(map(str, names)) != sorted(layers):
        raise CheckpointError(
            f"'layer_names' {_shown(names)} are not the network's layers {layers!r}: the file is "
            "damaged"
        )
    _check_input(start, found)
    rates = {found[path].number("bias_gain") for path in found if path.startswith("mapping.fc")}
    clamps = {_clamp(found[f"synthesis.{name}"]) for name in names}
    for name, values in (("bias_gain", rates), ("conv_clamp", clamps)):
        if len(values) > 1:
            raise CheckpointError(
                f"layers have {name!r} {list(values)!r}: only one value for all is implemented"
            )
    c_dim = mapping.count("c_dim")
    table = "mapping.embed_proj" in found
    try:
        config = StyleGAN3Config(
            layers=tuple(_layer(name, found[f"synthesis.{name}"]) for name in names),
            sampling_rate=start.number("sampling_rate"),
            bandwidth=start.number("bandwidth"),
            z_dim=mapping.count("z_dim"),
            c_dim=c_dim,
            w_dim=mapping.count("w_dim"),
            labels="none" if not c_dim else "table" if table else "linear",
            embed_features=found["mapping.embed"].count("embedding_dim") if c_dim and table else 0,
            num_mapping_layers=mapping.count("num_layers"),
            lr_multiplier=rates.pop(),
            conv_clamp=clamps.pop(),
            output_scale=synthesis.number("output_scale"),
        )
        config.check_features()
    except ValueError as e:
        raise CheckpointError(f"attributes describe no StyleGAN3: {e}") from e
    return config


def _check_input(start: Attributes, found: Mapping[str, Attributes]) -> None:
    """Channels and size of the Fourier features are those that the first layer reads."""
    first = str(found["synthesis"].get("layer_names")[0])
    layer = found[f"synthesis.{first}"]
    features = {"channels": start.count("channels"), "size": start.pair("size")}
    read = {"channels": layer.count("in_channels"), "size": layer.pair("in_size")}
    for name, value in features.items():
        if value != read[name]:
            raise CheckpointError(
                f"module 'synthesis.input' has {name!r} {value!r}, the first layer {first!r} reads "
                f"{read[name]!r}: the official code scales and lays out its features by the "
                "former; save the network again as it was trained"
            )


def _layer(name: str, said: Attributes) -> LayerShape:
    before_x, after_x, before_y, after_y = said.counts("padding", 4)
    down_taps = said.count("down_taps")
    return LayerShape(
        name=name,
        in_channels=said.count("in_channels"),
        out_channels=said.count("out_channels"),
        in_size=said.pair("in_size"),
        out_size=said.pair("out_size"),
        kernel=said.count("conv_kernel"),
        up=said.count("up_factor"),
        down=said.count("down_factor"),
        up_taps=said.count("up_taps"),
        down_taps=down_taps,
        radial=said.flag("down_radial") and down_taps > 1,
        padding=(before_x, after_x, before_y, after_y),
        to_rgb=said.flag("is_torgb"),
    )


def _clamp(said: Attributes) -> float | None:
    return None if said.get("conv_clamp") is None else said.number("conv_clamp")


def _check_linear(said: Attributes, part: str) -> None:
    """The activation and gains of a linear layer, or that a table of embeddings is only read."""
    if part == "embed" and "num_embeddings" in said.state:
        said.expect("max_norm", None)
        return
    said.expect("activation", "linear" if part in ("embed", "affine") else "lrelu")
    if part != "fc":
        said.expect("bias_gain", 1.0)
    weight = (said.state.get("_parameters") or {}).get("weight")
    weight = weight or (said.state.get("_buffers") or {}).get("weight")
    if isinstance(weight, TensorRecord) and len(weight.size) == 2:
        said.expect("weight_gain", said.number("bias_gain") / math.sqrt(weight.size[1]))


def _both_numbers(value: Any, expected: Any) -> bool:
    kinds = int | float | np.integer | np.floating
    return all(isinstance(v, kinds) and not isinstance(v, bool) for v in (value, expected))


def _shown(value: Any) -> str:
    kind = type(value).__name__
    return repr(value)[:60] if isinstance(value, str | int | float | list | None) else f"of {kind}"
