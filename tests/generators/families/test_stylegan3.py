"""StyleGAN3: the conformance of small models, its files, and where its pictures lie."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conformance.generator import GeneratorSuite
from PIL import Image

import generators
import tests.stores as stores
from generators.affine import affine_layers
from generators.edits import axis_direction
from generators.families.base import Checkpoint
from generators.families.stylegan3 import PLUGIN
from generators.families.stylegan3.config import StyleGAN3Config
from generators.families.stylegan3.design import design
from generators.families.stylegan3.network import StyleGAN3
from generators.model_file import read_checkpoint, write_checkpoint
from generators.protocols import Code, Edit
from generators.style_based import estimate_w_avg
from pipelines.downstream.finished_run import FinishedRun, _unknown, edit_run
from pipelines.evaluation import strips
from pipelines.upkeep.inspect import describe
from schemas.directions.direction_set import DirectionSet
from schemas.errors import CheckpointError, DirectionMismatchError, UsageError
from schemas.spec import parse_spec
from schemas.store.latent_store import ArraySpec
from tests.generators.families.references.stylegan3 import (
    CASES,
    MOVED,
    SMALL,
    XL,
    R,
    arrays,
    pickled,
    read_bytes,
    small,
    tensors_of,
)

PLAIN, WITH_LABELS, GREY, OTHER = CASES


class TestConfigurationT(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return small(seed=1).checkpoint()


class TestConfigurationR(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return small(seed=2, img_channels=4, c_dim=3, labels="linear", **R).checkpoint()


class TestXL(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        made = dict(c_dim=3, labels="table", embed_features=7, img_channels=1)
        return small(seed=3, **made).checkpoint()


# ---- files


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        (PLAIN, {}),
        (WITH_LABELS, {}),
        (OTHER, dict(sampling_rate=16, bandwidth=1.5, conv_clamp=0.7, output_scale=0.5)),
        (XL, {}),
    ],
)
def test_a_state_dict_is_the_model_of_the_pickle(
    case: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    official = read_bytes(pickled(arrays()[case]))
    assert official.metadata["class_name"] in ("Generator", "SuperresGenerator")
    assert official.assumed == {}
    tensors = {f"module.{k}": torch.from_numpy(v) for k, v in tensors_of(arrays()[case]).items()}
    torch.save({"g_ema": tensors, "step": 3}, tmp_path / "g.pt")
    read = read_checkpoint(tmp_path / "g.pt", settings=settings)
    assert read.fingerprint == official.fingerprint
    assert re.match(r"L0_\d+_8, L1_\d+_8, ", describe(tmp_path / "g.pt")["  layers"])
    left = {"lr_multiplier", "conv_clamp", "output_scale", "bandwidth", "sampling_rate"}
    assert set(read.assumed) == left - set(settings)
    told = PLUGIN.facts(read).assumed
    assert all(f"generator.{name}" in text for name, text in told.items())
    wide = dict(settings, output_scale=2.0)
    assert read_checkpoint(tmp_path / "g.pt", settings=wide).fingerprint != official.fingerprint


def test_the_official_filters_are_those_of_the_design() -> None:
    for case, changes in ((PLAIN, CASES[PLAIN]), (WITH_LABELS, {**R, "img_channels": 4})):
        held = tensors_of(arrays()[case])
        arguments = {k: v for k, v in {**SMALL, **changes}.items() if k != "num_fp16_res"}
        made = design(**{**arguments, "c_dim": 0})
        assert set(made.filters) == {name for name in held if name.endswith("_filter")}
        for name, taps in made.filters.items():
            np.testing.assert_allclose(taps, held[name], rtol=0, atol=1e-7)
        read = StyleGAN3Config.from_architecture(read_bytes(pickled(arrays()[case])).architecture)
        assert made.config.layers == read.layers


def test_a_mean_of_w_that_is_missing_is_estimated_but_not_for_each_class(tmp_path: Path) -> None:
    tensors = tensors_of(arrays()[PLAIN])
    del tensors["mapping.w_avg"]
    torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, tmp_path / "g.pt")
    read = read_checkpoint(tmp_path / "g.pt")
    model = PLUGIN.build(read)
    assert read.estimated and model.facts.network_fp == read.fingerprint
    z = model.sample("z", range(300))
    mean = model.convert(z, "w").main.mean(dim=0)
    found = estimate_w_avg(model.network)
    assert torch.equal(found, model.w_avg)
    assert float((found - mean).norm() / mean.norm()) < 0.3
    tensors = tensors_of(arrays()[XL])
    del tensors["mapping.w_avg"]
    torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, tmp_path / "xl.pt")
    with pytest.raises(CheckpointError, match="missing .'mapping.w_avg'."):
        read_checkpoint(tmp_path / "xl.pt")


L0 = "synthesis.L0_36_8"


def _say(path: str, name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(modules: dict[str, Any]) -> None:
        modules[path]["said"][name] = value

    return change


def _lose(path: str, name: str) -> Callable[[dict[str, Any]], None]:
    return lambda modules: modules[path]["said"].pop(name)


def _of_class(path: str, name: str) -> Callable[[dict[str, Any]], None]:
    return lambda modules: modules[path].update({"class": name})


def _add(path: str) -> Callable[[dict[str, Any]], None]:
    def change(modules: dict[str, Any]) -> None:
        parent, _, name = path.rpartition(".")
        modules[parent]["order"].append(name)
        modules[path] = {"class": "SelfAttention", "order": [], "said": {}}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_say(L0, "skip_gain", 0.5), f"'{L0}' has 'skip_gain' 0.5, which the official code does"),
        (_say("mapping.fc0", "activation", "relu"), "'mapping.fc0' has 'activation' 'relu', only"),
        (_say(f"{L0}.affine", "bias_gain", 2.0), "affine' has 'bias_gain' 2.0, only 1.0"),
        (_say("mapping.fc0", "weight_gain", 2.0), "'mapping.fc0' has 'weight_gain' 2.0, only"),
        (_say(L0, "conv_clamp", 3.0), "layers have 'conv_clamp' .*only one value"),
        (_say("mapping.fc0", "bias_gain", 0.5), "has 'weight_gain'"),
        (_lose(L0, "padding"), f"'{L0}' has no 'padding', which the official code has"),
        (_say(L0, "padding", [1, 2]), f"'{L0}' has 'padding' .*expected 4 whole numbers"),
        (_say(L0, "padding", [9, 8, 9, 12]), "'L0_36_8' draws a height of 38 from 36 samples"),
        (_say(L0, "is_torgb", 3), "has 'is_torgb' 3, expected True or False"),
        (_say(L0, "up_factor", 1.5), "has 'up_factor' 1.5, expected a whole number"),
        (_say("synthesis", "layer_names", ["L0"]), "'layer_names' .*are not the network's layers"),
        (_say("synthesis", "output_scale", None), "'output_scale' None, expected a finite number"),
        (_say("synthesis.input", "bandwidth", 8), "'bandwidth' is 8.0 at a 'sampling_rate' of 16"),
        (
            _of_class(L0, "GatedLayer"),
            f"'{L0}' is of class 'GatedLayer', expected .*SynthesisLayer",
        ),
        (_of_class("mapping.fc0", "Linear"), "'mapping.fc0' is of class 'Linear'"),
        (_of_class("", "StyledGenerator"), "the network is of class 'StyledGenerator'"),
        (_say(L0, "_gain", 3.0), f"'{L0}' has '_gain' 3.0, which neither torch"),
        (_say(L0, "_forward_hooks", ["twice"]), f"'{L0}' has hooks in '_forward_hooks'"),
        (_add("synthesis.attention"), "'synthesis.attention' of class 'SelfAttention' belongs to"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_bytes(pickled(arrays()[PLAIN], change))


def _changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    return lambda tensors: tensors.update({name: change(tensors[name])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_changed(f"{L0}.up_filter", lambda v: v[:7]), "up_filter' has 7 taps, no multiple of the"),
        (_changed(f"{L0}.affine.bias", lambda v: v[:2]), r"affine.bias' has shape \(2,\), expect"),
        (_changed(f"{L0}.bias", lambda v: v * np.nan), "bias' holds values that are not finite"),
        (_changed(f"{L0}.bias", lambda v: v.astype(int)), "holds 'int64': quantised weights"),
        (_changed("synthesis.input.transform", lambda v: v * 0), "turns the picture into a line"),
        (lambda t: t.pop("mapping.fc0.weight"), "'mapping.fc0.weight' is 'missing', expected 2"),
        (lambda t: t.update(odd=np.zeros(2, "f4")), r"not known \['odd'\]"),
        (lambda t: [t.pop(k) for k in list(t) if ".L" in k], "has no layers such as"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    change: Callable[[dict[str, np.ndarray]], object], message: str, tmp_path: Path
) -> None:
    tensors = tensors_of(arrays()[PLAIN])
    change(tensors)
    torch.save({k: torch.from_numpy(v.copy()) for k, v in tensors.items()}, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "g.pt")


def test_an_architecture_that_is_none_is_refused() -> None:
    good = small().checkpoint()
    layers = good.architecture["layers"]

    def refuse(changes: dict[str, Any], message: str) -> None:
        broken = dataclasses.replace(good, architecture={**good.architecture, **changes})
        with pytest.raises(CheckpointError, match=message):
            PLUGIN.checked(broken)

    refuse({"layers": [*layers[:-1], {**layers[-1], "in_channels": 5}]}, "reads .*gives")
    refuse({"layers": layers[:-1]}, "must end with the one layer that is 'to_rgb'")
    refuse({"layers": [{"name": "L0"}]}, "not that of a StyleGAN3")
    refuse({"layers": [{**layers[0], "up": 0}, *layers[1:]]}, "has 'up' 0: give 1 or more")
    refuse({"labels": "linear"}, "'labels' is 'linear' with 'c_dim' 0")
    refuse({"embed_features": 3}, "'embed_features' is 3 with 'labels' 'none'")
    refuse({"w_dim": 0}, "'w_dim' is 0, expected at least 1")
    refuse({"family": "stylegan2"}, "expected 'stylegan3'")
    two = small(img_channels=2)
    with pytest.raises(CheckpointError, match="draws images of 2 channels"):
        PLUGIN.checked(two.checkpoint())
    for wrong, message in (
        (dict(img_resolution=48), "'img_resolution' is 48, expected a power of two"),
        (dict(img_resolution=16, num_critical=4), "'num_critical' is 4 of 'num_layers' 4"),
    ):
        with pytest.raises(ValueError, match=message):
            design(num_layers=4, **wrong)


# ---- its styles


def test_affine_layers_give_the_styles_and_tell_the_picture_s() -> None:
    model = small(seed=4)
    w_plus = model.sample("w_plus", [1, 2])
    found = np.concatenate(
        [w_plus.main[:, a.ws_index].numpy() @ a.weight.T + a.bias for a in affine_layers(model)], 1
    )
    np.testing.assert_allclose(found, model.convert(w_plus, "s").main, atol=1e-5)
    names = [layer.name for layer in affine_layers(model, to_rgb=False)]
    assert names == ["input", *model.config.feature_shapes]


# ---- training


def test_running_averages_follow_what_is_drawn_in_training() -> None:
    made = design(img_resolution=16, channel_base=128, channel_max=8, num_layers=4, z_dim=6,
                  w_dim=5, margin_size=4, magnitude_ema_beta=0.9, w_avg_beta=0.8)  # fmt: skip
    torch.manual_seed(0)
    network = StyleGAN3(made.config, made.filters)
    z = torch.randn(4, 6)
    images = network(z, update_emas=True)
    images.square().mean().backward()
    for name, parameter in network.named_parameters():
        if name != "synthesis.input.affine.weight":
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        w = network.mapping(z)
        torch.testing.assert_close(network.mapping.w_avg, 0.2 * w.mean(dim=0))
        styles = network.synthesis.styles(w[:, None].expand(-1, 6, -1))
        features = network.synthesis.input(torch.eye(3).expand(4, 3, 3))
        magnitude = features.square().mean()
    first = network.get_submodule(f"synthesis.{made.config.layers[0].name}")
    torch.testing.assert_close(first.magnitude_ema, 0.9 + 0.1 * magnitude)
    with torch.no_grad():
        before = first.magnitude_ema.clone()
        network.synthesis.from_styles(styles)
    assert torch.equal(first.magnitude_ema, before)


# ---- where a picture lies


@pytest.fixture(scope="module")
def turning() -> Any:
    """Configuration R draws alike in all four directions: its filters and kernels have none."""
    return small(seed=5, margin_size=10, **R)


def moved(model: Any, code: Code, **steps: float) -> torch.Tensor:
    edits = []
    for axis, strength in steps.items():
        direction = axis_direction(model.facts, f"placement.{axis}")
        assert direction is not None
        edits.append(Edit(direction, strength))
    with torch.no_grad():
        return model.draw(code, edits=edits)


def test_a_rotation_by_quarters_turns_the_picture(turning: Any) -> None:
    # As w itself shifts the picture, it is drawn with the learned transform taken away.
    network = copy.deepcopy(turning.network)
    network.synthesis.input.affine.weight.zero_()
    network.synthesis.input.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    model = type(turning)(network)
    code = model.sample("w_plus", [1, 2])
    plain = moved(model, code)
    for quarters in (1, 2, -1):
        found = moved(model, code, rotation=90.0 * quarters)
        torch.testing.assert_close(
            found, torch.rot90(plain, quarters, (2, 3)), atol=2e-5, rtol=1e-5
        )


def test_a_shift_by_samples_of_the_input_shifts_the_picture() -> None:
    model = PLUGIN.build(read_bytes(pickled(arrays()[PLAIN])))
    code = model.sample("w_plus", [1, 2])
    plain, across = moved(model, code), moved(model, code, shift_x=4.0)
    both = moved(model, code, shift_x=-4.0, shift_y=6.0)
    size, inside = float(plain.std()), 8
    kept = slice(inside, -inside)

    def error(found: torch.Tensor, y: int, x: int) -> float:
        expected = torch.roll(plain, (y, x), (2, 3))
        return float((found - expected)[:, :, kept, kept].abs().max()) / size

    # The margin of ten samples is cut from layer to layer, so that borders reach a little inside.
    assert error(across, 0, 4) < 0.02 and error(both, 6, -4) < 0.02
    assert error(plain, 0, 4) > 0.5 and error(across, 0, -4) > 0.5


def test_a_transform_of_a_code_stands_in_for_that_of_the_model() -> None:
    read = read_bytes(pickled(arrays()[GREY]))
    assert np.array_equal(read.tensors["synthesis.input.transform"], MOVED)
    tensors = {**read.tensors, "synthesis.input.transform": np.eye(3, dtype=np.float32)}
    still = PLUGIN.build(dataclasses.replace(read, tensors=tensors))
    code = still.sample("w_plus", [1, 2])
    own = torch.from_numpy(MOVED).repeat(2, 1, 1)
    own[1] = torch.nan
    with torch.no_grad():
        found = still.draw(Code("w_plus", code.main, {"transform": own}))
        expected = PLUGIN.build(read).draw(code)
        plain = still.draw(code)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], plain[1])
    assert float((found[0] - plain[0]).abs().max() / plain.std()) > 0.1
    flat = Code("w_plus", code.main, {"transform": torch.zeros(2, 3, 3)})
    with pytest.raises(UsageError, match="'transform' of a code turns the picture into a line"):
        still.draw(flat)


def test_placement_is_recorded_in_pixels_and_degrees(turning: Any) -> None:
    code = turning.sample("w_plus", [1, 2, 3])
    there = turning.convert(code, "placement").main
    turn, shift = 0.3, np.array([0.25, -0.125])
    c, s = np.cos(turn), np.sin(turn)
    user = np.array([[c, s, shift[0]], [-s, c, shift[1]], [0, 0, 1]])
    inverse = torch.from_numpy(np.linalg.inv(user)).float().expand(3, 3, 3)
    placed = turning.convert(Code("w_plus", code.main, {"transform": inverse}), "placement").main
    # The user turns the picture about its middle, and shifts it then; 16 pixels are its width.
    expected = there[:, :2].numpy() @ user[:2, :2].T + shift * 16
    np.testing.assert_allclose(placed[:, :2].numpy(), expected, atol=1e-4)
    turned = (placed[:, 2] - there[:, 2] + 180) % 360 - 180
    np.testing.assert_allclose(turned.numpy(), np.rad2deg(turn), atol=1e-3)


def test_axes_are_directions_of_models_that_have_them(turning: Any) -> None:
    direction = axis_direction(turning.facts, "placement.shift_y")
    assert direction is not None and direction.sd == 1.0
    assert direction.vector.tolist() == [0.0, 1.0, 0.0]
    for name in ("placement.shift_z", "shift_y", "placement", "w_plus.shift_y"):
        assert axis_direction(turning.facts, name) is None
    with pytest.raises(DirectionMismatchError, match="was made for generator"):
        other = small(seed=6)
        other.draw(other.sample("w_plus", [0]), edits=[Edit(direction, 1.0)])


def test_edit_moves_rows_of_a_run(turning: Any, tmp_path: Path) -> None:
    generators.save_safetensors(turning, tmp_path / "g.safetensors")
    text = ("name: t\ndataset: {path: images}\ngenerator: g.safetensors\n"
            "invert: {method: optimise}\nanalyse: {pca: {}}\noutput: out\n")  # fmt: skip
    spec = parse_spec(text, tmp_path)
    code = turning.sample("w_plus", range(4))
    fp = turning.facts.fingerprint
    row = code.main.shape[1:]
    store = stores.create(tmp_path / "store", 4, 4, generator_fp=fp,
                          arrays=[ArraySpec("latents", "w_plus", tuple(row))])  # fmt: skip
    flags = stores.flags(4)
    store.write_block(
        "invert", 0, {"latents/w_plus": code.main.numpy()}, *flags, stores.fp_of(store, 0)
    )
    index = SimpleNamespace(uris=["a"] * 4)
    run = FinishedRun(spec, index, store, DirectionSet(fp, "w_plus", []))  # type: ignore[arg-type]
    assert run.direction("placement.shift_x").space == "placement"
    with pytest.raises(UsageError, match="did you mean 'placement.shift_.'.*have axes placement."):
        run.direction("placement.shift_c")
    with pytest.raises(UsageError, match=r"no direction 'a\.b': .*have no axes \(z, w\)"):
        spaces = {name: turning.facts.spaces[name] for name in ("z", "w")}
        raise _unknown("a.b", [], dataclasses.replace(turning.facts, spaces=spaces))
    drawn: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FinishedRun, "of", lambda spec: run)
        label = strips.strength_label
        patch.setattr(
            strips, "strength_label", lambda *given: drawn.append(label(*given)) or label(*given)
        )
        (strip,) = edit_run(spec, ["placement.rotation"], tmp_path / "s.png", [2], [0, 45, 90])
    with Image.open(strip) as picture:
        facts = json.loads(picture.text["latentflow"])
    assert re.search("placement.rotation", json.dumps(facts))
    assert drawn == ["0", "+45 \N{DEGREE SIGN}", "+90 \N{DEGREE SIGN}"]


def test_features_are_those_that_the_first_layer_reads() -> None:
    for name, value, message in (
        ("channels", 32, r"'channels' 32, the first layer .* reads \d+"),
        ("size", {"array": [72, 72], "dtype": "<i8"}, r"'size' \(72, 72\), the first .* reads \("),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_bytes(pickled(arrays()[PLAIN], _say("synthesis.input", name, value)))


@pytest.mark.parametrize("factor", [-1, 0])
def test_a_mean_square_that_is_none_is_refused(factor: int) -> None:
    good = small().checkpoint()
    name = next(name for name in good.tensors if name.endswith("magnitude_ema"))
    tensors = {**good.tensors, name: good.tensors[name] * factor}
    with pytest.raises(CheckpointError, match=rf"{name}' is [-.0-9]+, a mean square is above 0"):
        PLUGIN.checked(dataclasses.replace(good, tensors=tensors))


def test_settings_describe_a_state_dict_of_another_margin(tmp_path: Path) -> None:
    good = small(1)
    path = tmp_path / "g.pt"
    torch.save(good.network.state_dict(), path)
    own = {name: good.checkpoint().architecture[name] for name in ("sampling_rate", "bandwidth")}
    read = read_checkpoint(path, settings=own)
    assert read.architecture == good.checkpoint().architecture
    with pytest.raises(CheckpointError, match="'sampling_rate' of .*: give both"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"'bandwidth' is 8\.0 at a 'sampling_rate' of 16\.0"):
        read_checkpoint(path, settings={**own, "bandwidth": own["sampling_rate"] / 2})


def test_an_empty_batch_draws_no_pictures() -> None:
    model = small()
    codes = model.sample("w_plus", [0])
    empty = dataclasses.replace(codes, main=codes.main[:0])
    assert model.draw(empty).shape == (0, *model.draw(codes).shape[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr_multiplier": "x"}, "'architecture.lr_multiplier' is 'x'"),
        ({"lr_multiplier": None}, "none of the family .*'lr_multiplier': None"),
        ({"lr_multiplier": 0}, "'architecture.lr_multiplier' is 0"),
        ({"bogus": 1}, "'bogus' 1, which|none of the family .*'bogus': 1"),
    ],
)
def test_an_edited_description_is_refused_by_key_and_value(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "g.safetensors"
    write_checkpoint(small().checkpoint(), path)
    beside = path.with_suffix(".json")
    said = json.loads(beside.read_text())
    del said["fingerprint"]
    said["architecture"] |= change
    beside.write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)
