"""StyleGAN against its definition, in every layout of its files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance.generator import GeneratorSuite

import generators
from generators.affine import affine_layers
from generators.families.base import Checkpoint
from generators.families.stylegan1 import PLUGIN
from generators.model_file import read_checkpoint, write_checkpoint
from generators.protocols import Code
from generators.seeds import drawn
from generators.unpickle.interpreter import Global, Inert
from generators.unpickle.writer import torch_file
from schemas.errors import CheckpointError, UsageError
from tests.generators.families.references.stylegan1 import GROWN, recognised, tiny
from tests.generators.families.stylegan1_layouts import (
    genforce_state,
    interfacegan_state,
    naive_images,
    naive_w,
    official_pickle,
    official_variables,
)
from tests.generators.families.stylegan1_rosinality import rosinality_state


def read(data: bytes, folder: Path, **settings: Any) -> Checkpoint:
    (folder / "g.pkl").write_bytes(data)
    return read_checkpoint(folder / "g.pkl", settings=settings)


class TestStyleGAN1(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return tiny()


class TestConditionalStyleGAN1(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return recognised((5, 4), True, c_dim=3, colours=1, seed=1)


# ---- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["const", "none"])
def test_images_are_those_of_the_definition_to_double_precision(noise: str) -> None:
    """With single precision in every layout of upsampling: the references."""
    variables = official_variables(GROWN)
    g = PLUGIN.build(recognised(GROWN)).to(torch.float64)
    ws = np.random.RandomState(1).standard_normal((2, 12, 8))
    expected = naive_images(variables, ws, noise=noise == "const")
    found = g.draw(Code("w_plus", torch.from_numpy(ws)), noise=noise).numpy()
    assert np.abs(found - expected).max() < 1e-6 * expected.std()
    other = naive_images(variables, ws, np.inf, noise == "const")
    assert np.abs(other - expected).max() > 1e-2 * expected.std()


@pytest.mark.parametrize("classes", [0, 3])
def test_the_mapping_is_that_of_the_definition(classes: int) -> None:
    variables = official_variables(c_dim=classes)
    g = PLUGIN.build(recognised(c_dim=classes))
    z = drawn("normal", [3, 4], (6,))
    weights = np.array([[0, 1, 0], [0.5, 0, 0.5]]) if classes else None
    found = g.convert(Code("z", torch.from_numpy(z)), "w", labels=weights).main
    np.testing.assert_allclose(found, naive_w(variables, z, weights), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(g.centre("w"), variables[""]["dlatent_avg"])


def test_sampling_truncates_only_when_asked() -> None:
    g = PLUGIN.build(recognised())
    z = Code("z", torch.from_numpy(drawn("normal", [7], (6,))))
    whole = g.sample("w", [7]).main
    assert torch.equal(whole, g.convert(z, "w").main)
    near = g.sample("w", [7], truncation=0.7).main
    torch.testing.assert_close(near, g.w_avg + 0.7 * (whole - g.w_avg))


def test_styles_are_scales_and_shifts_of_each_layer() -> None:
    """Linear in them: with the scale of one channel at -1 and its shift at 0 it is gone."""
    g = PLUGIN.build(recognised())
    last = g.style_slices[-1]
    assert (last.name, last.ws_index, last.stop - last.start) == ("b16.conv1", 5, 8)
    code = g.sample("s", [1])
    code.main[:, last.start : last.start + 4] = -1
    code.main[:, last.start + 4 : last.stop] = 0
    images = g.draw(code)
    bias = g.network.synthesis.torgb.bias
    torch.testing.assert_close(images, bias[None, :, None, None].expand_as(images))
    (layer,) = affine_layers(g, [5])
    w = g.sample("w_plus", [1]).main[0, 5].numpy()
    styles = g.sample("s", [1]).main[0, last.start : last.stop].numpy()
    np.testing.assert_allclose(layer.weight @ w + layer.bias, styles, rtol=1e-5, atol=1e-6)


def test_unknown_noise_is_refused() -> None:
    g = PLUGIN.build(recognised((4,)))
    with pytest.raises(UsageError, match="'noise' is 'random', expected one of"):
        g.draw(g.sample("w", [1]), noise="random")


# ---- files ---------------------------------------------------------------------------------------


def test_every_layout_gives_the_same_generator(tmp_path: Path) -> None:
    variables = official_variables(GROWN)
    official = read(official_pickle(variables), tmp_path)
    assert official.architecture["img_resolution"] == 128 and not official.assumed
    assert official.metadata["source"] == "official TensorFlow"
    higan = {
        name.replace("linear.weight", "fc.weight").replace("first_layer", "const"): value
        for name, value in interfacegan_state(variables).items()
    }
    open_of = {"lr_multiplier": 0.01}
    all_open = {**open_of, "fused_scale": "auto", "output_activation": "linear"}
    for state, assumed in (
        (genforce_state(variables), all_open),
        (interfacegan_state(variables), open_of),
        (higan, open_of),
    ):
        other = {name: np.asarray(value * np.float32(0.5)) for name, value in state.items()}
        both = {"generator": other, "discriminator": {"a": variables[""]["dlatent_avg"]},
                "generator_smooth": state}  # fmt: skip
        for contents in (state, both):
            found = read(torch_file(contents), tmp_path)
            assert found.fingerprint == official.fingerprint
            assert found.assumed == assumed
    write_checkpoint(official, tmp_path / "ours.safetensors")
    assert generators.fingerprint(tmp_path / "ours.safetensors") == official.fingerprint
    (tmp_path / "ours.json").unlink()
    assert read_checkpoint(tmp_path / "ours.safetensors").fingerprint == official.fingerprint


def test_labels_are_read_from_genforce(tmp_path: Path) -> None:
    variables = official_variables(c_dim=3, colours=1)
    found = read(torch_file(genforce_state(variables)), tmp_path)
    assert found.fingerprint == read(official_pickle(variables), tmp_path).fingerprint
    facts = PLUGIN.facts(found)
    assert (facts.classes, facts.channels, facts.spaces["z"].conditional) == (3, 1, True)


def test_what_a_state_dict_does_not_say_can_be_given(tmp_path: Path) -> None:
    variables = official_variables(GROWN, rate=1.0)
    stated = read(official_pickle(variables, mapping_lrmul=1.0, fused_scale=True), tmp_path)
    state = torch_file(genforce_state(variables))
    told = PLUGIN.facts(read(state, tmp_path)).assumed
    assert "set 'generator.fused_scale'" in told["fused_scale"]
    assert "suggests 1" in told["lr_multiplier"]
    given = read(state, tmp_path, lr_multiplier=1.0, fused_scale=True)
    assert given.fingerprint == stated.fingerprint
    assert given.assumed == {"output_activation": "linear"}
    with pytest.raises(CheckpointError, match="'generator.fused_scale'.*states True"):
        read(official_pickle(variables, fused_scale=True), tmp_path, fused_scale="auto")


@pytest.mark.parametrize("fused_from, expected", [(8, True), (128, "auto"), (999, False)])
def test_the_names_of_interfacegan_tell_how_layers_upsample(
    fused_from: int, expected: object, tmp_path: Path
) -> None:
    variables = official_variables(GROWN)
    state = torch_file(interfacegan_state(variables, fused_from))
    found = read(state, tmp_path)
    stated = read(official_pickle(variables, fused_scale=expected), tmp_path)
    assert found.architecture["fused_scale"] == expected and "fused_scale" not in found.assumed
    assert found.fingerprint == stated.fingerprint
    assert read(state, tmp_path, fused_scale=expected).fingerprint == found.fingerprint
    other = "auto" if expected != "auto" else False
    with pytest.raises(CheckpointError, match="'generator.fused_scale' is .* file states"):
        read(state, tmp_path, fused_scale=other)


def test_an_upsampling_that_no_setting_gives_is_refused(tmp_path: Path) -> None:
    state = interfacegan_state(official_variables(GROWN), 32)
    with pytest.raises(CheckpointError, match="at .32, 64, 128. of .8, 16, 32, 64, 128. pixels"):
        read(torch_file(state), tmp_path)


@pytest.mark.parametrize("given", [{"fused_scale": False}, {"lr_multiplier": 1}])
def test_a_setting_gives_the_canonical_form(given: dict[str, Any], tmp_path: Path) -> None:
    """What is planned for and what is drawn with have one fingerprint."""
    found = read(torch_file(genforce_state(official_variables())), tmp_path, **given)
    built = PLUGIN.build(found)
    assert PLUGIN.facts(found).network_fp == built.facts.network_fp == found.fingerprint
    assert found.architecture == built.checkpoint().architecture


def test_a_stated_setting_may_be_given_in_another_form(tmp_path: Path) -> None:
    """Below 128 px no repeated pixels and "auto" are one."""
    data = official_pickle(official_variables(), fused_scale="auto")
    assert read(data, tmp_path, fused_scale=False).fingerprint == read(data, tmp_path).fingerprint


def test_pictures_go_through_the_activation_that_is_given(tmp_path: Path) -> None:
    state = torch_file(genforce_state(official_variables()))
    linear = PLUGIN.build(read(state, tmp_path))
    tanh = PLUGIN.build(read(state, tmp_path, output_activation="tanh"))
    code = linear.sample("w_plus", [1])
    torch.testing.assert_close(tanh.draw(code), linear.draw(code).tanh())
    write_checkpoint(tanh.checkpoint(), tmp_path / "t.safetensors")
    assert generators.fingerprint(tmp_path / "t.safetensors") == tanh.facts.network_fp
    assert tanh.facts.network_fp != linear.facts.network_fp


def test_genforce_without_scaled_weights_is_refused(tmp_path: Path) -> None:
    state = genforce_state(official_variables())
    name = "synthesis.layer1.weight"
    state[name] = state[name] * np.float32(np.sqrt(2 / state[name][0].size))
    with pytest.raises(CheckpointError, match="layer1.weight' has root mean .* use_wscale"):
        read(torch_file(state), tmp_path)


def test_an_upsampling_that_is_never_used_makes_no_other_generator(tmp_path: Path) -> None:
    variables = official_variables()
    prints = {
        fused: read(official_pickle(variables, fused_scale=fused), tmp_path).fingerprint
        for fused in ("auto", False, True)
    }
    assert prints["auto"] == prints[False] != prints[True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use_noise": False}, "'use_noise' False, only True is implemented"),
        ({"const_input_layer": False}, "'const_input_layer' False"),
        ({"use_pixel_norm": True}, "'use_pixel_norm' True, only False"),
        ({"nonlinearity": "relu"}, "'nonlinearity' 'relu', only 'lrelu'"),
        ({"blur_filter": None}, "'blur_filter' None, only"),
        ({"blur_filter": [1, 3, 3, 1]}, "'blur_filter' .1, 3, 3, 1., only"),
        ({"use_wscale": None}, "'use_wscale' None"),
        ({"mapping_lrmul": 0}, "'mapping_lrmul' of the generator is 0"),
        ({"fused_scale": "never"}, "'fused_scale' is 'never'"),
        ({"mapping_layers": 8}, "8 mapping layers, its variables are of 3"),
        ({"attention": 3, "source": ""}, "'attention' 3, which the official code does not have"),
        (
            {"attention": 3, "source": "def G_style(attention=0):"},
            "'attention' 3, which the official code does not have",
        ),
    ],
)
def test_variants_are_refused_by_name(arguments: Any, message: str, tmp_path: Path) -> None:
    data = official_pickle(official_variables((4,)), **arguments)
    with pytest.raises(CheckpointError, match=message):
        read(data, tmp_path)


def test_harmless_arguments_are_passed_over(tmp_path: Path) -> None:
    """Those that tensors show, and one that the source in the file does not name."""
    variables = official_variables((4,))
    plain = read(official_pickle(variables), tmp_path)
    said = {
        "never_named": 3,
        "truncation_psi": 0.5,
        "structure": "fixed",
        "resolution": 4,
        "blur_filter": (1, 2, 1),
    }
    assert read(official_pickle(variables, **said), tmp_path).fingerprint == plain.fingerprint


def test_what_is_not_grown_or_not_whole_is_told(tmp_path: Path) -> None:
    variables = official_variables((5, 4))
    growing = {**variables, "": {**variables[""], "lod": np.float32(0.5)}}
    state = genforce_state(variables)
    for data in (official_pickle(growing), torch_file({**state, "synthesis.lod": np.float32([2])})):
        with pytest.raises(CheckpointError, match="level of detail .*expected 0.*later snapshot"):
            read(data, tmp_path)
    short = dict(variables["synthesis"])
    del short["8x8/Conv1/bias"]
    for data, message in (
        (official_pickle({**variables, "synthesis": short}), "missing .'synthesis.b8.conv1.bias'"),
        (torch_file({**state, "synthesis.layer1.extra": state["synthesis.lod"]}), "layer1.extra"),
        (torch_file({**state, "mapping.dense0.weight": np.ones((3, 3))}), "dense0|fc0.*shape"),
        (torch_file({**state, "truncation.w_avg": np.full(8, np.nan)}), "not finite"),
        (torch_file({**state, "truncation.w_avg": np.full(8, 1e300)}), "not finite"),
        (torch_file({**state, "synthesis.layer2.blur.kernel": np.ones((4, 1, 3, 3))}), "1, 2, 1"),
        (official_pickle(official_variables((5, 4), colours=2)), "2 channels"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read(data, tmp_path)


def test_a_network_without_its_parts_is_refused() -> None:
    state = {"version": 3, "name": "Gs", "build_func_name": "G_style", "variables": []}
    network = Inert(Global("dnnlib.tflib.network", "Network"), state=state)
    with pytest.raises(CheckpointError, match="component 'mapping' .* is missing"):
        PLUGIN.recognise((network, network, network))


def test_other_files_are_none_of_the_family() -> None:
    arrays = {"synthesis.b4.const": np.ones(3), "synthesis.layer0.style.weight": np.ones(3)}
    for contents in ([1], {}, arrays, {"generator": arrays}, Inert):
        assert PLUGIN.recognise(contents) is None


# ---- rosinality ----------------------------------------------------------------------------------


def test_rosinality_is_read_up_to_the_block_that_was_trained(tmp_path: Path) -> None:
    state = rosinality_state((5, 4, 3), trained=2)
    other = {name: np.asarray(value * np.float32(0.5)) for name, value in state.items()}
    found = read(torch_file({"generator": other, "g_running": state, "g_optimizer": {}}), tmp_path)
    assert found.fingerprint == read(torch_file(state), tmp_path).fingerprint
    assert (found.architecture["img_resolution"], found.assumed) == (8, {})
    assert found.architecture["bias_before_blur"] and found.architecture["norm_epsilon"] == 1e-5
    assert found.metadata["left_out"] == [
        "blocks from 16 px on, which the training had not reached"
    ]
    assert found.metadata["entry"] == "'g_running'" and found.estimated
    whole = read(torch_file(rosinality_state((5, 4, 3), trained=3)), tmp_path)
    assert whole.architecture["img_resolution"] == 16 and "left_out" not in whole.metadata


def test_the_mean_of_a_rosinality_is_estimated(tmp_path: Path) -> None:
    found = read(torch_file(rosinality_state((5, 4), trained=2)), tmp_path)
    g = PLUGIN.build(found)
    mean = g.convert(g.sample("z", range(2000)), "w").main.mean(dim=0)
    assert float((mean - g.w_avg).abs().max()) < 0.1 * float(mean.abs().max())
    write_checkpoint(g.checkpoint(), tmp_path / "g.safetensors")
    assert generators.fingerprint(tmp_path / "g.safetensors") == found.fingerprint


def test_how_a_rosinality_upsamples_is_seen_in_its_names(tmp_path: Path) -> None:
    for fused_from, expected in ((np.inf, False), (128, "auto"), (8, True)):
        state = rosinality_state(GROWN, trained=6, fused_from=fused_from)
        found = read(torch_file(state), tmp_path)
        assert found.architecture["fused_scale"] == expected


def test_what_is_wrong_with_a_rosinality_is_told(tmp_path: Path) -> None:
    state = rosinality_state((5, 4), trained=2)
    name = "generator.progression.1.conv1.2.weight"
    for changed, message in (
        (rosinality_state((5, 4), trained=0), "no block was trained"),
        ({**state, "generator.progression.1.attention": state[name]}, "attention"),
        ({**state, name: np.ones((4, 1, 3, 3))}, "conv1.2.weight' is not the filter"),
        ({**state, "style.1.linear.bias": np.ones(5)}, "fc0.bias' has shape"),
        (
            {k: v for k, v in state.items() if not k.startswith("style.")},
            "'mapping.fc0.weight' is 'missing'",
        ),
    ):
        with pytest.raises(CheckpointError, match=message):
            read(torch_file(changed), tmp_path)
