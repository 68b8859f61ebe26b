"""TensorFlow pickles of StyleGAN2: the same models as the official converter makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import generators
from generators.families.base import Checkpoint
from generators.unpickle.writer import Call
from schemas.errors import CheckpointError
from schemas.spec_models import GeneratorSpec
from tests.generators.families.stylegan2_tensorflow import (
    ADA,
    CASES,
    CONVERTED,
    STYLEGAN2,
    model,
    network,
    pickled,
    variables,
)
from tests.generators.tensorflow_layouts import tensorflow_pickle
from tests.stylegan2_layouts import tiny


def read(made: Call, folder: Path) -> Checkpoint:
    (folder / "g.pkl").write_bytes(tensorflow_pickle(made))
    return generators.read(folder / "g.pkl")


@pytest.mark.parametrize("name", CASES)
def test_a_pickle_is_the_model_that_the_official_converter_makes(name: str, tmp_path: Path) -> None:
    (tmp_path / "tf.pkl").write_bytes(pickled(name))
    found = generators.read(tmp_path / "tf.pkl")
    with np.load(CONVERTED) as file:
        keys = [key for key in file.files if key.startswith(f"{name}/")]
        state = {key.removeprefix(f"{name}/"): torch.from_numpy(file[key]) for key in keys}
    torch.save(state, tmp_path / "converted.pt")
    config = model(name).config
    settings: dict[str, Any] = {"lr_multiplier": config.lr_multiplier}
    if config.conv_clamp:
        settings["conv_clamp"] = config.conv_clamp
    converted = generators.read(GeneratorSpec(path=str(tmp_path / "converted.pt"), **settings))
    assert found.fingerprint == converted.fingerprint
    for key, value in converted.tensors.items():
        np.testing.assert_array_equal(found.tensors[key], value)
    assert found.architecture == model(name).architecture and not found.assumed
    assert found.metadata["source"].startswith("official, TensorFlow")


def grown(g: Any, lod: float = 0.0) -> dict[str, dict[str, Any]]:
    """Variables of the grown network of configurations B to D that draws like an "orig" one."""
    held = variables(g)
    last = f"{g.config.img_resolution}x{g.config.img_resolution}/ToRGB"
    images = {k.replace(last, "ToRGB_lod0"): v for k, v in held["synthesis"].items()}
    images |= {"ToRGB_lod1/weight": np.ones((1, 1, 6, 3), np.float32), "lod": lod}
    return {**held, "": {**held[""], "lod": lod}, "synthesis": images}


def test_a_network_that_was_grown_is_one_that_draws_at_the_end(tmp_path: Path) -> None:
    g = model("config-e-orig")
    revised = "G_synthesis_stylegan_revised"
    arguments = {"mapping_layers": 2, "structure": "linear"}
    found = read(network(g, STYLEGAN2, arguments, revised, grown(g)), tmp_path)
    assert found.fingerprint == g.fingerprint
    with pytest.raises(CheckpointError, match="grown to 'lod' 1.5, where resolutions blend"):
        read(network(g, STYLEGAN2, arguments, revised, grown(g, 1.5)), tmp_path)


def test_no_kernel_is_the_box_filter(tmp_path: Path) -> None:
    g = tiny(resample_filter=(1.0, 1.0))
    found = read(network(g, ADA, {"mapping_layers": 2, "resample_kernel": None}), tmp_path)
    assert found.fingerprint == g.fingerprint


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"nonlinearity": "relu"}, "'nonlinearity' 'relu', only 'lrelu' is implemented"),
        ({"mapping_nonlinearity": "linear"}, "'mapping_nonlinearity' 'linear'"),
        ({"normalize_latents": False}, "'normalize_latents' 'False', only True"),
        ({"dtype": "float16"}, "'dtype' 'float16', only 'float32'"),
        ({"min_h": 3, "source": "min_h=4"}, "'min_h' '3', which the official code does not have"),
        ({"min_h": 3, "source": ""}, "'min_h' '3', which the official code does not have"),
        ({"mapping_layers": 3}, "'mapping_layers' '3', but the variables are those of 8"),
        ({"latent_size": 3}, "'latent_size' '3', but the variables are those of 8"),
        ({"label_size": 2}, "'label_size' '2', but the variables are those of 0"),
        ({"resolution": 1024}, "'resolution' '1024', but the variables are those of 8"),
        ({"num_channels": 1}, "'num_channels' '1', but the variables are those of 3"),
        ({"mapping_lrmul": 0}, "'mapping_lrmul' '0', expected a number above 0"),
        ({"conv_clamp": "big"}, "'conv_clamp' 'big', expected a number above 0"),
        ({"use_noise": 1}, "'use_noise' '1', expected True or False"),
        ({"use_noise": False}, "'use_noise' is False, but the tensors are those of True"),
        ({"architecture": "dense"}, "'architecture' 'dense', expected"),
        ({"architecture": "resnet"}, "'connections' is 'resnet', but the tensors are those of"),
        ({"resample_kernel": [[1, 2], [3, 4]]}, "'resample_kernel' is not the same in both"),
    ],
)
def test_other_arguments_are_refused_by_name(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(network(model("config-f"), ADA, {}, **changed), tmp_path)


def test_an_argument_that_the_builder_does_not_use_is_passed_over(tmp_path: Path) -> None:
    found = read(network(model("config-f"), STYLEGAN2, {}, impl="ref"), tmp_path)
    assert found.fingerprint == model("config-f").fingerprint


def without(name: str) -> dict[str, dict[str, Any]]:
    held = variables(model("config-f"))
    del held["synthesis"][name]
    return held


def beside(part: str, name: str, value: Any) -> dict[str, dict[str, Any]]:
    held = variables(model("config-f"))
    held[part][name] = value
    return held


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (without("8x8/Conv0_up/weight"), "tensors do not fit"),
        (without("noise1"), "missing .'synthesis.b8.conv0.noise_const'"),
        (beside("synthesis", "8x8/Blur/weight", np.ones(3)), "'8x8/Blur/weight' belongs to no"),
        (beside("synthesis", "8x4/Conv1/weight", np.ones(3)), "'8x4/Conv1/weight' belongs to no"),
        (beside("synthesis", "8x8/Conv1/weight", np.ones(3)), r"shape \(3,\), expected 4 axes"),
        (beside("", "foo", np.ones(3)), "'foo' belongs to no StyleGAN2"),
        (beside("", "lod", 2.0), "'lod' belongs to no StyleGAN2"),
        (beside("mapping", "Style/weight", np.ones(3)), "'Style/weight' belongs to no"),
        (beside("mapping", "LabelConcat/weight", np.ones((3, 8))), "normalised together with z"),
    ],
)
def test_other_variables_are_refused_by_name(
    held: dict[str, dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(network(model("config-f"), STYLEGAN2, {}, held=held), tmp_path)


def test_other_networks_are_refused_or_left_to_others(tmp_path: Path) -> None:
    made = network(model("config-f"), STYLEGAN2, {}, "G_synthesis_of_a_fork")
    with pytest.raises(CheckpointError, match="has synthesis 'G_synthesis_of_a_fork', expected"):
        read(made, tmp_path)
    style = Call(made.module, made.name, state={**made.state, "build_func_name": "G_other"})
    with pytest.raises(CheckpointError, match="no generator of the families.*'G_other'"):
        read(style, tmp_path)
