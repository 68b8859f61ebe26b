"""Pickled official networks: what their constructors were given is honoured or refused by name."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import generators
from generators.families.stylegan2.adapter import StyleGAN2Adapter
from schemas.errors import CheckpointError
from tests.stylegan2_layouts import OfficialPackages, tiny


@pytest.fixture(scope="module")
def generator() -> StyleGAN2Adapter:
    return tiny(c_dim=2, lr_multiplier=0.02, conv_clamp=256)


def write(
    generator: StyleGAN2Adapter, path: Path, change: Callable[[nn.Module], None], wrapped: str = ""
) -> Path:
    """An official pickle whose modules `change` has been at. wrapped : class of a wrapper."""
    with OfficialPackages() as packages:
        network = packages.network(generator)
        change(network)
        if wrapped:
            outer = packages._new(wrapped)
            outer.add_module("module", network)
            network = outer
        path.write_bytes(pickle.dumps({"G": None, "D": None, "G_ema": network}))
    return path


def given(path: str, **attributes: Any) -> Callable[[nn.Module], None]:
    """Set attributes of the module at a path."""
    return lambda network: network.get_submodule(path).__dict__.update(attributes)


def called_with(path: str, **kwargs: Any) -> Callable[[nn.Module], None]:
    """Note arguments that the module at a path was made with, as the official code does."""
    return lambda network: network.get_submodule(path).__dict__["_init_kwargs"].update(kwargs)


def replaced(network: nn.Module, path: str, name: str) -> None:
    """Put torch's own layer, which scales nothing, in the place of an official one."""
    parent = network.get_submodule(path)
    official = parent.get_submodule(name)
    layer = nn.Linear(official.weight.shape[1], official.weight.shape[0])
    layer._parameters.update(official._parameters)
    parent._modules[name] = layer


REFUSED: dict[str, tuple[Callable[[nn.Module], None], str]] = {
    "linear synthesis": (
        given("synthesis.b8.conv1", activation="linear"),
        "'synthesis.b8.conv1' has 'activation' 'linear', only 'lrelu'",
    ),
    "linear mapping": (given("mapping.fc1", activation="linear"), "'mapping.fc1'.*'linear'"),
    "relu": (given("synthesis.b16.conv0", activation="relu"), "'activation' 'relu'"),
    "activation of the synthesis": (
        called_with("", synthesis_kwargs={"activation": "swish"}),
        "the network has 'activation' 'swish'",
    ),
    "activation of the mapping": (
        called_with("", mapping_kwargs={"activation": "linear"}),
        "the network has 'activation' 'linear'",
    ),
    "activation of a style": (
        given("synthesis.b4.torgb.affine", activation="lrelu"),
        "'synthesis.b4.torgb.affine' has 'activation' 'lrelu', only 'linear'",
    ),
    "gain of the activation": (given("synthesis.b4.conv1", act_gain=1.0), "'act_gain' 1.0"),
    "rate of a style": (given("synthesis.b4.conv1.affine", bias_gain=0.5), "'bias_gain' 0.5"),
    "rate of the labels": (given("mapping.embed", bias_gain=0.02), "'mapping.embed'.*0.02"),
    "two rates": (
        given("mapping.fc1", bias_gain=0.03, weight_gain=0.03 / np.sqrt(8)),
        "'lr_multiplier' is .*0.02.*0.03",
    ),
    "gain of weights": (given("mapping.fc0", weight_gain=0.5), "'weight_gain' 0.5, only"),
    "two clamps": (given("synthesis.b8.torgb", conv_clamp=None), "'conv_clamp' is .*256.*None"),
    "noise of some": (
        given("synthesis.b8.conv0", use_noise=False),
        "'use_noise' is .*True in 'synthesis.b4.conv1'.*False in 'synthesis.b8.conv0'",
    ),
    "no noise": (
        lambda network: [
            m.__dict__.update(use_noise=False)
            for m in network.modules()
            if "use_noise" in m.__dict__
        ],
        "'use_noise' is False, but the tensors are those of True",
    ),
    "noise by a number": (given("synthesis.b8.conv0", use_noise=2), "'use_noise' 2, only"),
    "up twice": (given("synthesis.b8.conv1", up=2), "'synthesis.b8.conv1' has 'up' 2, only 1"),
    "kernel": (given("synthesis.b8.conv1", padding=0), "'kernel_size' 1.0, only 3.0"),
    "orig in one block": (
        given("synthesis.b8", architecture="orig"),
        "'connections' is 'skip' in 'synthesis.b4', 'orig' in 'synthesis.b8'",
    ),
    "orig": (
        lambda network: [
            m.__dict__.update(architecture="orig")
            for m in network.modules()
            if "architecture" in m.__dict__
        ],
        "'connections' is 'orig', but the tensors are those of 'skip'",
    ),
    "other connections": (given("synthesis.b8", architecture="dense"), "'architecture' 'dense'"),
    "filter of one block": (
        lambda network: network.get_submodule("synthesis.b8.conv0")._buffers.update(
            resample_filter=torch.ones(2, 2) / 4
        ),
        "'resample_filter' is .*in 'synthesis.b4', .*1.0, 1.0.* in 'synthesis.b8.conv0'",
    ),
    "filter that is not separable": (
        lambda network: network.get_submodule("synthesis.b8.conv0")._buffers.update(
            resample_filter=torch.eye(3) / 3
        ),
        "'synthesis.b8.conv0' is not the same in both directions",
    ),
    "filter of another sum": (
        lambda network: network.get_submodule("synthesis.b8")._buffers.update(
            resample_filter=torch.ones(2, 2)
        ),
        "'synthesis.b8' has sum 4.0, expected 1.0",
    ),
    "no filter": (
        lambda network: network.get_submodule("synthesis.b8.conv0")._buffers.update(
            resample_filter=None
        ),
        "'resample_filter' .*of 'synthesis.b8.conv0' has shape",
    ),
    "words for a filter": (
        called_with("synthesis.b8", resample_filter="sharp"),
        "'resample_filter' of 'synthesis.b8' is not made of numbers",
    ),
    "unknown argument": (
        called_with("", synthesis_kwargs={"normalise_styles": True}),
        "'normalise_styles' True, which the official code does not have.*state_dict",
    ),
    "unknown attribute": (given("mapping", normalize_z=False), "'mapping'.*'normalize_z' False"),
    "unknown module": (
        lambda network: network.get_submodule("synthesis.b8").add_module("blur", nn.Identity()),
        "'synthesis.b8.blur' of class 'Identity'",
    ),
    "resnet": (
        lambda network: network.get_submodule("synthesis.b8").add_module("skip", nn.Identity()),
        "'synthesis.b8.skip' of class 'Identity' belongs to no StyleGAN2",
    ),
    "plain layer in the mapping": (
        lambda network: replaced(network, "mapping", "fc1"),
        "'mapping.fc1' is of class 'Linear', expected one of .'FullyConnectedLayer'.*state_dict",
    ),
    "plain layer as a style": (
        lambda network: replaced(network, "synthesis.b8.conv1", "affine"),
        "'synthesis.b8.conv1.affine' is of class 'Linear'",
    ),
    "other generator": (given("", class_name="Stylised"), "the network is of class 'Stylised'"),
    "hook": (
        lambda network: network.get_submodule("mapping.fc1")._forward_hooks.update({0: "twice"}),
        "'mapping.fc1' has hooks in '_forward_hooks'",
    ),
    "hook before": (
        lambda network: network.get_submodule("synthesis")._forward_pre_hooks.update({0: "twice"}),
        "'synthesis' has hooks in '_forward_pre_hooks'",
    ),
    "private attribute": (given("synthesis.b8.conv1", _gain=3.0), "'_gain' 3.0, which neither"),
    "no number": (given("mapping.fc0", bias_gain="fast"), "'bias_gain' 'fast', expected a finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_draw_other_images_is_refused_by_name(
    name: str, generator: StyleGAN2Adapter, tmp_path: Path
) -> None:
    change, message = REFUSED[name]
    path = write(generator, tmp_path / "g.pkl", change)
    with pytest.raises(CheckpointError, match=message):
        generators.fingerprint(path)


def harmless(network: nn.Module) -> None:
    """Every argument of the official constructors that changes no image, and numpy's numbers."""
    options = {"channel_base": 64, "channel_max": 12, "num_fp16_res": 4, "conv_clamp": 256}
    options |= {"use_fp16": True, "fp16_channels_last": True, "channels_last": True}
    options |= {"fused_modconv_default": "inference_only", "resample_filter": [1, 3, 3, 1]}
    mapping = {"num_layers": 2, "embed_features": None, "layer_features": None}
    mapping |= {"activation": "lrelu", "lr_multiplier": 0.02, "w_avg_beta": 0.995}
    mapping |= {"freeze_layers": 1, "freeze_embed": True}
    called_with("", z_dim=8, c_dim=2, synthesis_kwargs=options, mapping_kwargs=mapping)(network)
    given("mapping", num_layers=2, w_avg_beta=0.998, trainable_layers=2, num_ws=6)(network)
    fan_in = network.get_submodule("mapping.fc0").weight.shape[1]
    given("mapping.fc0", weight_gain=0.02 / np.sqrt(fan_in), in_features=fan_in)(network)
    given("synthesis", img_resolution_log2=4, block_resolutions=[4, 8, 16])(network)
    given("synthesis.b8.conv0", up=2, padding=1, act_gain=np.sqrt(2), resolution=8)(network)
    given("synthesis.b8.torgb", weight_gain=1 / np.sqrt(8), in_channels=8)(network)
    frozen = network.get_submodule("mapping.fc1")
    for name in ("weight", "bias"):  # Freeze-M of the StyleGAN3 code
        frozen.register_buffer(name, frozen._parameters.pop(name).detach())


@pytest.mark.parametrize("wrapped", ["", "DataParallel"])
def test_what_changes_no_image_is_passed_over(
    wrapped: str, generator: StyleGAN2Adapter, tmp_path: Path
) -> None:
    path = write(generator, tmp_path / "g.pkl", harmless, wrapped)
    found = generators.read(path)
    assert found.fingerprint == generator.fingerprint
    assert found.assumed == {} and found.metadata["entry"] == "'G_ema'"


def test_attributes_that_decide_what_is_drawn_must_be_there(
    generator: StyleGAN2Adapter, tmp_path: Path
) -> None:
    def without(name: str) -> Callable[[nn.Module], None]:
        return lambda network: [m.__dict__.pop(name, None) for m in network.modules()]

    for name in ("activation", "conv_clamp", "bias_gain", "act_gain", "up", "architecture"):
        path = write(generator, tmp_path / "a.pkl", without(name))
        with pytest.raises(CheckpointError, match=f"has no '{name}', which the official code has"):
            generators.read(path)


def test_a_rosinality_network_saved_whole_is_named(tmp_path: Path) -> None:
    network = nn.Module()
    for name in ("style", "input", "conv1", "to_rgb1"):
        network.add_module(name, nn.Identity())
    network.input.register_parameter("input", nn.Parameter(torch.ones(1, 8, 4, 4)))
    torch.save({"g_ema": network}, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match="rosinality network saved whole: save its state_di"):
        generators.read(tmp_path / "g.pt")
