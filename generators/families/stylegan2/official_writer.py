"""Write a StyleGAN2 in the layout of the official ``.pkl`` files.

The pickle is emitted opcode by opcode, because its globals (``torch_utils.persistence``,
``dnnlib.util``) need not be installed. The network's source text, which the official loader
executes, is replaced by a note: readers of tensors accept the file, the official code does not
run it. Used to exchange tensors with converters and to exercise the reader on realistic files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from generators.families.stylegan2.config import RESAMPLE_TAPS, StyleGAN2Config
from generators.unpickle.writer import Call, Emitter, easydict, nested_tensor, ordered
from schemas.atomic import write_bytes
from schemas.errors import CheckpointError

MODULE_SOURCE = (
    "raise ImportError('this pickle holds tensors only: load it with a reader that "
    "does not execute the source text of the network')\n"
)
PERSISTENCE_VERSION = 6
#: From so many taps on, the official code keeps a filter in one dimension.
SEPARABLE = 8


class HasTensors(Protocol):
    """A StyleGAN2 with its configuration and its tensors under the official names."""

    config: StyleGAN2Config

    def tensors(self) -> Mapping[str, np.ndarray]:
        """Tensors by official name, float32."""


def _parameter(array: np.ndarray) -> Call:
    return Call("torch._utils", "_rebuild_parameter", (nested_tensor(array), False, ordered()))


def official_channel_rule(config: StyleGAN2Config) -> tuple[int, int]:
    """(channel_base, channel_max) with ``min(channel_base // r, channel_max)`` at resolution r.

    Raises CheckpointError when the feature maps do not follow the rule.
    """
    channel_max = max(config.block_channels)
    pairs = list(zip(config.block_resolutions, config.block_channels, strict=True))
    base = max(r * n for r, n in pairs)
    if any(min(base // r, channel_max) != n for r, n in pairs):
        raise CheckpointError(
            f"feature maps {config.block_channels!r} do not follow the official rule "
            "min(channel_base // resolution, channel_max): write a safetensors file instead"
        )
    return base, channel_max


class _NetworkLayout:
    """Nested module records of a network, with the attributes that official modules have."""

    def __init__(self, generator: HasTensors) -> None:
        self.config = generator.config
        self.tensors = generator.tensors()
        taps = np.array(generator.config.resample_filter, np.float32)
        square = taps if len(taps) >= SEPARABLE else np.outer(taps, taps)
        self.resample_filter = square / square.sum()

    def _module(
        self,
        class_name: str,
        attributes: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray] | None = None,
        buffers: Mapping[str, np.ndarray] | None = None,
        modules: Mapping[str, Any] | None = None,
    ) -> Call:
        parameters = {name: _parameter(value) for name, value in (tensors or {}).items()}
        held = {name: nested_tensor(value) for name, value in (buffers or {}).items()}
        state: dict[str, Any] = {
            "training": False,
            "_parameters": ordered(parameters),
            "_buffers": ordered(held),
            "_non_persistent_buffers_set": Call("builtins", "set", ([],)),
            "_backward_hooks": ordered(),
            "_forward_hooks": ordered(),
            "_forward_pre_hooks": ordered(),
            "_state_dict_hooks": ordered(),
            "_load_state_dict_pre_hooks": ordered(),
            "_modules": ordered(modules),
            **attributes,
            "_init_args": (),
        }
        state.setdefault("_init_kwargs", easydict())
        meta = easydict(
            type="class",
            version=PERSISTENCE_VERSION,
            module_src=MODULE_SOURCE,
            class_name=class_name,
            state=state,
        )
        return Call("torch_utils.persistence", "_reconstruct_persistent_obj", (meta,))

    def _some(self, prefix: str, *names: str) -> dict[str, np.ndarray]:
        return {name: self.tensors[f"{prefix}.{name}"] for name in names}

    def _linear(self, prefix: str, activation: str, lr_multiplier: float) -> Call:
        tensors = self._some(prefix, "weight", "bias")
        gain = lr_multiplier / float(np.sqrt(tensors["weight"].shape[1]))
        attributes = {"activation": activation, "weight_gain": gain, "bias_gain": lr_multiplier}
        return self._module("FullyConnectedLayer", attributes, tensors)

    def _mapping(self) -> Call:
        config = self.config
        layers = {"embed": self._linear("mapping.embed", "linear", 1.0)} if config.c_dim else {}
        for i in range(config.num_mapping_layers):
            layers[f"fc{i}"] = self._linear(f"mapping.fc{i}", "lrelu", config.lr_multiplier)
        attributes = {
            "z_dim": config.z_dim,
            "c_dim": config.c_dim,
            "w_dim": config.w_dim,
            "num_ws": config.num_ws,
            "num_layers": config.num_mapping_layers,
            "w_avg_beta": config.w_avg_beta,
        }
        average = {"w_avg": self.tensors["mapping.w_avg"]}
        return self._module("MappingNetwork", attributes, None, average, layers)

    def _conv(self, prefix: str, resolution: int, up: int) -> Call:
        attributes = {
            "resolution": resolution,
            "up": up,
            "use_noise": self.config.use_noise,
            "activation": "lrelu",
            "conv_clamp": self.config.conv_clamp,
            "padding": 1,
            "act_gain": float(np.sqrt(2)),
        }
        buffers = {"resample_filter": self.resample_filter}
        names = ["weight", "bias"]
        if self.config.use_noise:
            buffers["noise_const"] = self.tensors[f"{prefix}.noise_const"]
            names.insert(1, "noise_strength")
        tensors = self._some(prefix, *names)
        affine = {"affine": self._linear(f"{prefix}.affine", "linear", 1.0)}
        return self._module("SynthesisLayer", attributes, tensors, buffers, affine)

    def _rgb(self, prefix: str) -> Call:
        rgb = self._some(prefix, "weight", "bias")
        affine = {"affine": self._linear(f"{prefix}.affine", "linear", 1.0)}
        gain = 1.0 / float(np.sqrt(rgb["weight"].shape[1]))
        facts = {"conv_clamp": self.config.conv_clamp, "weight_gain": gain}
        return self._module("ToRGBLayer", facts, rgb, None, affine)

    def _skip(self, prefix: str) -> Call:
        tensors = self._some(prefix, "weight")
        attributes = {
            "activation": "linear",
            "up": 2,
            "down": 1,
            "conv_clamp": None,
            "padding": 0,
            "weight_gain": 1.0 / float(np.sqrt(tensors["weight"].shape[1])),
            "act_gain": 1.0,
        }
        buffers = {"resample_filter": self.resample_filter}
        return self._module("Conv2dLayer", attributes, tensors, buffers)

    def _block(self, resolution: int, in_channels: int) -> Call:
        prefix = f"synthesis.b{resolution}"
        config = self.config
        modules: dict[str, Any] = {}
        if in_channels:
            modules["conv0"] = self._conv(f"{prefix}.conv0", resolution, 2)
        modules["conv1"] = self._conv(f"{prefix}.conv1", resolution, 1)
        if config.draws(resolution):
            modules["torgb"] = self._rgb(f"{prefix}.torgb")
        if config.connections == "resnet" and in_channels:
            modules["skip"] = self._skip(f"{prefix}.skip")
        attributes = {
            "in_channels": in_channels,
            "w_dim": config.w_dim,
            "resolution": resolution,
            "img_channels": config.img_channels,
            "is_last": resolution == config.img_resolution,
            "architecture": config.connections,
            "use_fp16": False,
            "channels_last": False,
            "num_conv": 2 if in_channels else 1,
            "num_torgb": int(config.draws(resolution)),
        }
        const = {} if in_channels else self._some(prefix, "const")
        filters = {"resample_filter": self.resample_filter}
        return self._module("SynthesisBlock", attributes, const, filters, modules)

    def generator(self) -> Call:
        """The whole `Generator` object."""
        config = self.config
        base, channel_max = official_channel_rule(config)
        if config.const_size != (4, 4):
            raise CheckpointError(
                f"the first feature maps are {config.const_size!r}, the official code makes (4, 4) "
                "only: write a safetensors file instead"
            )
        blocks: dict[str, Any] = {}
        in_channels = 0
        for resolution, n in zip(config.block_resolutions, config.block_channels, strict=True):
            blocks[f"b{resolution}"] = self._block(resolution, in_channels)
            in_channels = n
        shape = {"w_dim": config.w_dim, "img_resolution": config.img_resolution}
        shape["img_channels"] = config.img_channels
        synthesis = self._module(
            "SynthesisNetwork",
            {
                **shape,
                "img_resolution_log2": config.img_resolution.bit_length() - 1,
                "block_resolutions": list(config.block_resolutions),
                "num_ws": config.num_ws,
            },
            modules=blocks,
        )
        common = {"z_dim": config.z_dim, "c_dim": config.c_dim, **shape}
        unusual: dict[str, Any] = {}
        if config.connections != "skip":
            unusual["architecture"] = config.connections
        if config.resample_filter != RESAMPLE_TAPS:
            unusual["resample_filter"] = list(config.resample_filter)
        if not config.use_noise:
            unusual["use_noise"] = False
        kwargs = easydict(
            **common,
            mapping_kwargs=easydict(num_layers=config.num_mapping_layers),
            synthesis_kwargs=easydict(
                channel_base=base,
                channel_max=channel_max,
                num_fp16_res=0,
                conv_clamp=config.conv_clamp,
                **unusual,
            ),
        )
        attributes = {**common, "num_ws": config.num_ws, "_init_kwargs": kwargs}
        modules = {"synthesis": synthesis, "mapping": self._mapping()}
        return self._module("Generator", attributes, modules=modules)


def write_official_pickle(generator: HasTensors, path: str | Path) -> None:
    """Write a generator as an official-layout ``.pkl`` (dict with `G_ema`; `G`, `D` are None).

    generator : a `StyleGAN2Adapter`.
    The file is replaced atomically and its bytes depend on the generator only. Raises
    CheckpointError when the feature maps do not follow the official rule, or the first are not
    4 x 4, which the official code cannot make.
    """
    contents = {
        "G": None,
        "D": None,
        "G_ema": _NetworkLayout(generator).generator(),
        "training_set_kwargs": easydict(),
        "augment_pipe": None,
    }
    write_bytes(Path(path), Emitter().dumps(contents))
