"""Progressive GAN: its files, and what is refused of them. Pictures: `references.pggan`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conformance.generator import GeneratorSuite

from generators.families.base import Checkpoint, GeneratorFamily
from generators.families.pggan import PLUGIN
from generators.families.pggan.config import PGGANConfig
from generators.model_file import read_checkpoint, write_checkpoint
from generators.unpickle.writer import Call, Emitter, torch_file
from schemas.errors import CheckpointError, SpecError, UsageError
from tests.generators.families.references import pggan as references
from tests.generators.families.references.pggan import (
    drawn,
    loaded,
    official,
    official_variables,
    zoo_file,
    zoo_network,
    zoo_state,
)
from tests.generators.tensorflow_layouts import STYLEGAN, tensorflow_network, tensorflow_pickle
from tests.stylegan2_layouts import tiny

#: Two categories, of 2 and 3 values: six classes.
CATEGORIES = {
    "colour": {"order": 1, "values": ["red", "green", "blue"]},
    "size": {"order": 0, "values": ["small", "large"], "weights": {"small": 2.0}},
}


class TestPGGAN(GeneratorSuite):
    family: ClassVar[GeneratorFamily] = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return conditional()


def conditional() -> Checkpoint:
    """16 pixels, three classes, half faded in over 8 pixels."""
    variables = official_variables((5, 4, 4), inputs=9, lod=0.5)
    return references.read(loaded(official(variables, label_size=3)))


def read(contents: bytes, folder: Path, **options: Any) -> Checkpoint:
    path = folder / "g.pkl"
    path.write_bytes(contents)
    return read_checkpoint(path, **options)


# ---- files ---------------------------------------------------------------------------------------


def test_layers_to_pictures_that_are_not_drawn_are_no_part_of_the_model() -> None:
    found = [name for name in conditional().tensors if name.endswith("torgb.weight")]
    assert found == ["b8.torgb.weight", "b16.torgb.weight"]  # of a fade; b4's is in the file
    found = [name for name in references.tiny().tensors if name.endswith("torgb.weight")]
    assert found == ["b16.torgb.weight"]


@pytest.mark.parametrize("fused", [False, True])
def test_a_conversion_of_genforce_is_the_same_model(fused: bool, tmp_path: Path) -> None:
    variables = official_variables(fused=fused)
    found = read(torch_file(references.genforce_state(variables)), tmp_path)
    pickle = read(official(variables), tmp_path)
    assert found.fingerprint == pickle.fingerprint
    assert found.assumed == {"output_activation": "linear"} and not pickle.assumed


def test_fused_or_not_the_same_function_is_the_same_model() -> None:
    plain = official_variables((6, 6, 6))
    fused = {
        name.replace("Conv0/", "Conv0_up/"): value[::-1, ::-1].swapaxes(2, 3)
        if name.endswith("Conv0/weight")
        else value
        for name, value in plain.items()
    }
    found = [references.read(loaded(official(v))).fingerprint for v in (plain, fused)]
    assert found[0] == found[1]


def test_the_code_named_genforce_writes_the_same_model_beside_others(tmp_path: Path) -> None:
    variables = official_variables(lod=0.5)
    state = references.genforce_state(variables, wrapped=False)
    other = {name: np.asarray(value + 1) for name, value in state.items()}
    critic = {"layer0.weight": np.ones((3, 3, 3, 3), np.float32), "input0.bias": np.ones(3)}
    whole = {"generator": other, "discriminator": critic, "generator_smooth": state}
    found = read(torch_file(whole), tmp_path)
    assert found.fingerprint == read(official(variables), tmp_path).fingerprint
    assert "generator_smooth" in found.metadata["entry"]


def genforce_transposed(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As genforce's PGGANGenerator keeps it with fused_scale True: (in, out, 3, 3)."""
    state = references.genforce_state(variables)
    found: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if name.endswith(".weight") and ".conv." not in name:  # (3, 3, in, out), as in TensorFlow
            value = value.transpose(2, 3, 0, 1)
        found[name.replace(".conv.", ".").replace(".wscale.", ".")] = np.ascontiguousarray(value)
    return found


def test_widths_tell_genforces_transposed_kernels(tmp_path: Path) -> None:
    variables = official_variables((7, 6, 5), fused=True)
    found = read(torch_file(genforce_transposed(variables)), tmp_path)
    assert found.fingerprint == read(official(variables), tmp_path).fingerprint
    assert found.assumed == {"output_activation": "linear"}
    with pytest.raises(CheckpointError, match="fused_scale' is True, but the file leaves it not"):
        read(torch_file(genforce_transposed(variables)), tmp_path, settings={"fused_scale": True})


def test_of_equal_widths_a_setting_tells_genforces_transposed_kernels(tmp_path: Path) -> None:
    variables = official_variables((6, 6, 6), fused=True)
    state = torch_file(genforce_transposed(variables))
    plain = read(state, tmp_path)
    assert plain.assumed == {"output_activation": "linear", "fused_scale": False}
    assert "generator.fused_scale" in PLUGIN.facts(plain).assumed["fused_scale"]
    assert "no labels" in PLUGIN.facts(plain).assumed["label_sizes"]
    pickle = read(official(variables), tmp_path)
    given = read(state, tmp_path, settings={"fused_scale": True})
    assert given.fingerprint == pickle.fingerprint != plain.fingerprint
    assert given.assumed == {"output_activation": "linear"}
    told = read(state, tmp_path, settings={"fused_scale": False})
    assert told.fingerprint == plain.fingerprint and "fused_scale" not in told.assumed
    write_checkpoint(plain, tmp_path / "g.safetensors")
    ours = read_checkpoint(tmp_path / "g.safetensors")
    assert ours.assumed == plain.assumed
    again = read_checkpoint(tmp_path / "g.safetensors", settings={"fused_scale": True})
    assert again.fingerprint == pickle.fingerprint


def test_genforce_without_scaled_weights_is_refused(tmp_path: Path) -> None:
    state = references.genforce_state(official_variables(), wrapped=False)
    state["layer1.weight"] = state["layer1.weight"] * np.float32(0.1)
    with pytest.raises(CheckpointError, match="layer1.weight' has root mean .* use_wscale"):
        read(torch_file(state), tmp_path)


def test_the_zoos_average_is_read_also_of_older_files(tmp_path: Path) -> None:
    state = zoo_state(zoo_network((7, 6, 5), 8))
    found = read(torch_file(zoo_file(state)), tmp_path)
    assert "avgG" in found.metadata["entry"] and not found.assumed
    older = {name.replace(".module.", "."): value for name, value in state.items()}
    assert read(torch_file(zoo_file(older)), tmp_path).fingerprint == found.fingerprint
    contents = zoo_file(state)
    del contents["avgG"]
    assert read(torch_file(contents), tmp_path).fingerprint != found.fingerprint


def test_a_class_is_a_value_of_each_of_the_zoos_categories(tmp_path: Path) -> None:
    network = zoo_network((4, 3), 6 + 5)
    found = read(torch_file(zoo_file(zoo_state(network), attribKeysOrder=CATEGORIES)), tmp_path)
    facts = PLUGIN.facts(found)
    assert facts.classes == 6 and facts.space("z").conditional
    z = references.codes(found, 6)
    hot = [[*np.eye(2)[a], *np.eye(3)[b]] for a, b in itertools.product(range(2), range(3))]
    mixed = np.zeros((6, 6), np.float32)
    mixed[:, [1, 5]] = 0.5  # small green and large blue, half of each
    halves = np.tile([0.5, 0.5, 0.0, 0.5, 0.5], (6, 1))
    for labels, inputs in ((range(6), hot), (mixed, halves)):
        theirs = references.zoo_images(network, np.concatenate([z, inputs], axis=1))
        assert np.abs(drawn(found, z, labels) - theirs).max() <= 1e-4 * theirs.std()


def test_settings_stand_in_for_what_a_state_dict_does_not_say(tmp_path: Path) -> None:
    state = zoo_state(zoo_network((5, 4), 8))
    bare = read(torch_file(state), tmp_path)
    assert bare.assumed == {"slope": 0.2, "output_activation": "linear"}
    assert "generator.slope" in PLUGIN.facts(bare).assumed["slope"]
    stated = read(torch_file(zoo_file(state, leakyReluLeak=0.1, lossCriterion="MSE")), tmp_path)
    told = {"slope": 0.1, "output_activation": "tanh"}
    given = read(torch_file(state), tmp_path, settings=told)
    assert given.fingerprint == stated.fingerprint != bare.fingerprint
    with pytest.raises(SpecError, match="slope"):
        read(torch_file(state), tmp_path, settings={"slope": -1})
    with pytest.raises(CheckpointError, match="file states 0.2"):
        read(official(official_variables()), tmp_path, settings={"slope": 0.1})


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"8x8/Conv1/bias": None}, "'8x8/Conv1/bias' is missing"),
        ({"ToRGB_lod0/weight": None, "ToRGB_lod0/bias": None}, "'b16.torgb'.* are missing"),
        ({"4x4/Conv/weight": None, "4x4/Conv/bias": None}, "'b4.conv'"),
        ({"4x4/Noise/weight": np.ones((1, 1), np.float32)}, "'4x4/Noise/weight'.* no Progressive"),
        ({"4x4/Conv/weight": np.ones((3, 3), np.float32)}, "'4x4/Conv/weight'.* 4 axes"),
        ({"8x8/Conv1/bias": np.full(6, np.nan, np.float32)}, "b8.conv1.bias.* not finite"),
        ({"8x8/Conv0/weight": np.ones((3, 3, 5, 6), np.float32)}, "b8.conv0.weight.*expected"),
        ({"lod": -1.0}, "'lod' is -1.0"),
        ({"lod": float("inf")}, "'lod' is inf"),
    ],
)
def test_a_damaged_pickle_is_told_by_name(change: dict[str, Any], message: str) -> None:
    variables = {**official_variables(), **change}
    variables = {name: value for name, value in variables.items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        PLUGIN.recognise(loaded(official(variables)))


def test_what_the_code_of_a_pickle_does_must_be_known() -> None:
    variables = official_variables()
    with pytest.raises(CheckpointError, match="'G_mine'.*only 'G_paper'"):
        PLUGIN.recognise(loaded(official(variables, "G_mine")))
    for arguments, message in (
        ({"tanh_at_end": True, "source": "def G_paper(tanh_at_end=None):"},
         "'tanh_at_end' 'True', which the official code does not have"),
        ({"tanh_at_end": True, "source": ""}, "'tanh_at_end' 'True', which"),
        ({"use_wscale": "no"}, "'use_wscale' 'no', expected a value such as True"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            PLUGIN.recognise(loaded(official(variables, **arguments)))
    ignored = references.read(loaded(official(variables, tanh_at_end=True)))
    assert ignored.fingerprint == references.read(loaded(official(variables))).fingerprint
    half = references.read(loaded(official(variables, dtype="float16", fmap_max=7)))
    assert "'float16', latentflow in float32" in half.metadata["left_out"][0]
    with pytest.raises(CheckpointError, match="4 channels"):
        PLUGIN.recognise(loaded(official(official_variables(colours=4))))
    with pytest.raises(CheckpointError, match="leave none of 8 inputs for z"):
        PLUGIN.recognise(loaded(official(variables, label_size=8)))
    theano = {"build_func_spec": {"func": "G_paper"}, "param_values": [], "toplevel_params": {}}
    older = Emitter().dumps(tuple(Call("network", "Network", state=theano) for _ in range(3)))
    with pytest.raises(CheckpointError, match="Theano version.*misc.load_pkl"):
        PLUGIN.recognise(loaded(older))
    another = tensorflow_network(STYLEGAN, "G_style", {}, variables)
    assert PLUGIN.recognise(loaded(tensorflow_pickle(another))) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"perChannelNormalization": False}, "perChannelNormalization False"),
        ({"lossCriterion": "Hinge"}, "lossCriterion 'Hinge'"),
        ({"alpha": "half"}, "alpha of type 'str'"),
        ({"alpha": 1.5}, "alpha 1.5"),
        ({"attribKeysOrder": {"size": {"order": 4, "values": [1]}}}, "attribKeysOrder"),
        ({"attribKeysOrder": {str(i): {"order": i, "values": [0, 1]} for i in range(17)}},
         "131072 combinations"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_not_known_is_told_by_name(
    config: dict[str, Any], message: str
) -> None:
    contents = zoo_file(zoo_state(zoo_network((5,), 40)))
    contents["config"] = {**contents["config"].state, **config}
    with pytest.raises(CheckpointError, match=message):
        PLUGIN.recognise(contents)


def test_state_dicts_that_cannot_be_believed_are_told() -> None:
    small = zoo_state(zoo_network((5, 4), 64, equalised=False))
    with pytest.raises(CheckpointError, match="equalizedlR False"):
        PLUGIN.recognise(small)
    state = references.genforce_state(official_variables())
    with pytest.raises(CheckpointError, match="'layer2.conv.weight' holds 'int8'"):
        PLUGIN.recognise({**state, "layer2.conv.weight": np.ones((6, 7, 3, 3), np.int8)})
    with pytest.raises(CheckpointError, match="'noise0.weight'.* no Progressive GAN"):
        PLUGIN.recognise({**state, "noise0.weight": np.ones(3, np.float32)})
    architecture = {**references.tiny().architecture, "upscale": 3}
    with pytest.raises(CheckpointError, match="'upscale' is 3"):
        PLUGIN.checked(Checkpoint(architecture, references.tiny().tensors))


def test_other_networks_are_none_of_it() -> None:
    ones = np.ones((3, 3, 4, 4), np.float32)
    for contents in (
        {name: value.numpy() for name, value in tiny().network.state_dict().items()},
        {"formatLayer.weight": ones, "main.conv1.weight": ones},  # DCGAN of pytorch_GAN_zoo
        {"toRGBLayers.0.module.weight": ones, "mapping.FC.0.module.weight": ones},  # its StyleGAN
        {"synthesis.output0.bias": ones[0, 0, 0], "synthesis.layer0.weight": ones[..., :3, :3]},
        {}, [], None,
    ):  # fmt: skip
        assert PLUGIN.recognise(contents) is None


# ---- spaces --------------------------------------------------------------------------------------


def test_what_a_layer_puts_out_is_normalised() -> None:
    model = PLUGIN.build(conditional())
    features = model.convert(model.sample("z", range(3)), "features.b8.conv1", labels=range(3))
    assert tuple(features.main.shape) == (3, 4, 8, 8)
    power = features.main.square().mean(dim=1)
    assert torch.allclose(power, torch.ones_like(power), atol=1e-4)
    assert model.convert(features, "features.b8.conv1") is features
    with pytest.raises(UsageError, match="give none of"):
        model.convert(features, "features.b8.conv1", truncation=0.5)


def test_the_configuration_survives_its_architecture() -> None:
    config = PGGANConfig(9, (5, 4, 4), (3,), 1, False, False, 1e-6, 0.1, "tanh", 0.25, 2)
    assert PGGANConfig.from_architecture(config.architecture()) == config
    for blend, channels in ((1.0, (5, 4)), (-0.1, (5, 4)), (0.5, (5,))):
        with pytest.raises(ValueError, match=f"'blend' is {blend}"):
            PGGANConfig(9, channels, blend=blend)
    with pytest.raises(ValueError, match="'stylegan2', expected 'pggan'"):
        PGGANConfig.from_architecture({"family": "stylegan2"})
