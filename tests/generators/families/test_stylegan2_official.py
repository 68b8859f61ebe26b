"""Every configuration of StyleGAN2 against the official modules, in pictures and as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance.generator import GeneratorSuite

import generators
from generators.families.base import Checkpoint
from generators.families.stylegan2 import network
from generators.families.stylegan2.adapter import StyleGAN2Adapter, from_checkpoint
from generators.families.stylegan2.config import StyleGAN2Config
from generators.families.stylegan2.family import PLUGIN as STYLEGAN2
from generators.families.stylegan2.filters import taps_of
from generators.families.stylegan2.network import StyleGAN2, upsample2x
from generators.families.stylegan2.official_writer import write_official_pickle
from generators.protocols import NOISE, Code
from generators.style_based import GREY, as_rgb
from schemas.errors import CheckpointError, SpecError
from schemas.spec_models import GeneratorSpec
from tests.generators.families.stylegan2_official import (
    CASES,
    FLOAT16,
    LONG,
    REFERENCE,
    SEEDS,
    labels_of,
    model,
)
from tests.stylegan2_layouts import OfficialPackages, rosinality_state, tiny


@pytest.fixture(scope="module")
def official() -> Mapping[str, np.ndarray]:
    with np.load(REFERENCE) as file:
        return {name: file[name] for name in file.files}


def images_of(g: StyleGAN2Adapter, codes: torch.Tensor) -> torch.Tensor:
    """What the network itself draws, of any number of channels."""
    with torch.no_grad():
        return g.network.synthesis(codes)


def relative(found: torch.Tensor, expected: Any) -> float:
    """Largest difference over the expected images' standard deviation."""
    expected = torch.as_tensor(np.asarray(expected, np.float64))
    return float((found.double() - expected).abs().max() / expected.std())


@pytest.mark.parametrize("name", CASES)
def test_codes_and_sizes_are_those_of_the_official_modules(
    name: str, official: Mapping[str, np.ndarray]
) -> None:
    """Their pictures are compared in `references.stylegan2`."""
    g = model(name)
    labels = labels_of(name) if g.config.c_dim else None
    w = g.sample("w", SEEDS, labels=labels, truncation=0.7).main
    assert relative(w, official[f"{name}/ws"]) < 1e-4
    assert g.facts.size == official[f"{name}/images"].shape[2:]


def test_the_cases_differ(official: Mapping[str, np.ndarray]) -> None:
    """What a case is about makes a difference of far more than the tolerance."""
    images = {n: official[f"{n}/images"] for n in CASES if official[f"{n}/images"].shape[1] == 3}
    square = {n: i for n, i in images.items() if i.shape[2:] == (16, 16)}
    names = sorted(square)
    for i, a in enumerate(names):
        for b in names[:i]:
            assert relative(torch.from_numpy(square[a]), square[b]) > 1e-2, (a, b)


@pytest.mark.parametrize("name", FLOAT16)
def test_float16_blocks_are_near_the_official_ones_and_float64(
    name: str, official: Mapping[str, np.ndarray]
) -> None:
    g = model(name)
    codes = g.sample("w_plus", SEEDS, truncation=0.7).main
    half = images_of(g, codes)
    assert half.dtype == torch.float32
    assert relative(half, official[f"{name}/images"]) < 1e-2
    single = from_checkpoint(Checkpoint(unhalved(g), g.tensors()))
    alone = images_of(single, codes)
    double = images_of(g.to(torch.float64), codes.double())
    assert double.dtype == torch.float64
    assert relative(half, double) < 1e-2
    assert relative(alone, double) < 1e-5 < relative(half, double)


def unhalved(g: StyleGAN2Adapter) -> dict[str, Any]:
    return {k: v for k, v in g.architecture.items() if k != "num_fp16_res"}


def test_float16_is_chosen_and_makes_another_generator(tmp_path: Path) -> None:
    g = tiny(conv_clamp=256.0)
    path = tmp_path / "g.pkl"
    write_official_pickle(g, path)
    spec = GeneratorSpec(path=str(path), num_fp16_res=2)
    half, single = generators.load(spec), generators.load(path)
    assert single.fingerprint == g.fingerprint != half.fingerprint
    assert half.facts == generators.facts(spec) and not half.facts.assumed
    z = half.sample("z", [1, 2])
    error = relative(half.draw(z), single.draw(z))
    assert 1e-6 < error < 2e-2
    maps = half.convert(z, "features.b16.conv1").main
    assert maps.dtype == torch.float32 and tuple(maps.shape) == (2, 4, 16, 16)
    other = tmp_path / "other.pkl"
    write_official_pickle(tiny(seed=1), other)
    assert generators.load(generators.like(str(other), spec)).architecture["num_fp16_res"] == 2
    generators.save_safetensors(half, tmp_path / "half.safetensors")
    assert generators.load(tmp_path / "half.safetensors").fingerprint == half.fingerprint
    with pytest.raises(SpecError, match="'generator.num_fp16_res' is 0"):
        generators.load(GeneratorSpec(path=str(path), num_fp16_res=0))


# ---- as files


WRITTEN = [name for name in CASES if "const_size" not in CASES[name]]


@pytest.mark.parametrize("name", WRITTEN)
def test_every_configuration_is_read_from_official_pickles(name: str, tmp_path: Path) -> None:
    g = model(name)
    write_official_pickle(g, tmp_path / "g.pkl")
    found = generators.read(tmp_path / "g.pkl")
    assert found.architecture == g.architecture and found.fingerprint == g.fingerprint
    assert not found.assumed


@pytest.mark.parametrize("name", CASES)
def test_every_configuration_is_read_from_state_dicts(name: str, tmp_path: Path) -> None:
    g = model(name)
    state = dict(g.network.state_dict())
    filters = tmp_path / "with_filters.pt"
    taps = np.asarray(g.config.resample_filter, np.float32)
    square = np.outer(taps, taps) if len(taps) < 8 else taps
    buffer = torch.from_numpy(square / square.sum())
    unused = torch.ones(4, 4) / 16  # of layers that do not resample: any
    for layer in ("b8.conv0", "b8", "b16.conv0") if g.config.img_resolution > 8 else ("b8",):
        state[f"synthesis.{layer}.resample_filter"] = buffer
    state["synthesis.b8.conv1.resample_filter"] = unused
    torch.save(state, filters)
    said = {"conv_clamp": g.config.conv_clamp} if g.config.conv_clamp else {}
    assert generators.fingerprint(GeneratorSpec(path=str(filters), **said)) == g.fingerprint
    generators.save_safetensors(g, tmp_path / "g.safetensors")
    loaded = generators.load(tmp_path / "g.safetensors")
    assert loaded.fingerprint == g.fingerprint
    codes = g.sample("w_plus", [3]).main
    assert torch.equal(loaded.synthesise(codes), g.synthesise(codes))


def test_rosinality_files_tell_their_filter(tmp_path: Path) -> None:
    g = tiny(resample_filter=(1.0, 2.0, 1.0))
    kernel = torch.outer(*[torch.tensor([1.0, 2.0, 1.0])] * 2) / 4
    state = rosinality_state(g.tensors())
    state = {name: kernel if name.endswith("kernel") else v for name, v in state.items()}
    torch.save({"g_ema": state, "latent_avg": g.w_avg}, tmp_path / "g.pt")
    assert generators.fingerprint(tmp_path / "g.pt") == g.fingerprint


def test_what_forks_say_of_their_size_is_passed_over(tmp_path: Path) -> None:
    g = model("wide")
    with OfficialPackages() as packages:
        made = packages.network(g)
        for module in (made, made.synthesis, made.synthesis.b4.conv1):
            module.__dict__["init_res"] = [2, 5]
        made.__dict__.update(res=16, output_shape=[1, 3, 8, 20])
        torch.save(made, tmp_path / "g.pt")
    found = generators.read(tmp_path / "g.pt")
    assert found.fingerprint == g.fingerprint and found.architecture["const_size"] == [2, 5]
    assert generators.facts(tmp_path / "g.pt").size == (8, 20)
    with pytest.raises(CheckpointError, match=r"first feature maps are \(2, 5\)"):
        write_official_pickle(g, tmp_path / "g.pkl")


def test_usual_generators_keep_their_architecture() -> None:
    """Keys of the unusual stand only where they say something: fingerprints are what they were."""
    assert set(tiny().architecture) == set(
        "family z_dim c_dim w_dim img_resolution img_channels channels num_mapping_layers "
        "mapping_features embed_features lr_multiplier conv_clamp resample_filter".split()
    )
    assert tiny().architecture["resample_filter"] == [1.0, 3.0, 3.0, 1.0]
    for name in CASES:
        config = model(name).config
        again = StyleGAN2Config.from_architecture(config.architecture())
        assert again.architecture() == config.architecture()
        assert again.tensor_shapes() == config.tensor_shapes()


def test_layers_that_are_not_all_there_are_refused(tmp_path: Path) -> None:
    state = dict(model("without_noise").network.state_dict())
    state["synthesis.b8.conv0.noise_strength"] = torch.ones([])
    torch.save(state, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match="not known .'synthesis.b8.conv0.noise_strength'"):
        generators.read(tmp_path / "g.pt")
    state = dict(model("wide").network.state_dict())
    state["synthesis.b8.conv0.noise_const"] = torch.ones(8, 8)
    torch.save(state, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match=r"has shape \(8, 8\), expected \(4, 10\)"):
        generators.read(tmp_path / "g.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"connections": "dense"}, "'connections' is 'dense', expected one of"),
        ({"resample_filter": (1.0, -1.0)}, "'resample_filter' is .*whose sum is not 0"),
        ({"resample_filter": ()}, "'resample_filter' is"),
        ({"const_size": (4, 0)}, r"'const_size' is \(4, 0\)"),
        ({"num_fp16_res": -1}, "'num_fp16_res' is -1"),
        ({"num_fp16_res": 3}, "'num_fp16_res' is 3, a generator of 16 pixels has 2 resolutions"),
    ],
)
def test_bad_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StyleGAN2Config(**{"img_resolution": 16, "channel_base": 64, **change})


def test_a_tensor_without_a_name_is_told(tmp_path: Path) -> None:
    state = {k: torch.from_numpy(v.copy()) for k, v in tiny().tensors().items()}
    torch.save({**state, 7: torch.ones(3)}, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match="a tensor under '7' of type 'int', expected a name"):
        generators.read(tmp_path / "g.pt")


# ---- large pictures


def test_no_codes_are_no_pictures_at_every_size() -> None:
    for resolution in (16, 256):
        g = tiny(img_resolution=resolution, channel_base=4 * resolution, channel_max=4)
        with torch.no_grad():
            images = g.draw(Code("z", torch.zeros(0, 8)))
        assert tuple(images.shape) == (0, 3, resolution, resolution)


# ---- filters


@pytest.mark.parametrize(
    ("value", "taps"),
    [
        ([1, 3, 3, 1], (1, 3, 3, 1)),
        ([0.125, 0.375, 0.375, 0.125], (1, 3, 3, 1)),
        (np.outer([1, 2, 1], [1, 2, 1]) / np.float32(16), (1, 2, 1)),
        (1.0, (1,)),
        ([2, 3], (2, 3)),
        ([-1, 9, 16, 9, -1], (-1, 9, 16, 9, -1)),
    ],
)
def test_taps_are_whole_numbers_where_they_can_be(value: Any, taps: tuple[int, ...]) -> None:
    assert taps_of("f", value) == tuple(map(float, taps))


@pytest.mark.parametrize("taps", [LONG, (0.02, -0.0317, 0.8037, 0.2978, -0.0992)])
def test_taps_of_every_form_are_the_same(taps: tuple[float, ...]) -> None:
    single = np.asarray(taps, np.float32)
    square = np.outer(single, single)
    forms = [taps, single, square / square.sum(), single / single.sum(), np.float64(taps) * 7]
    assert len({taps_of("f", form) for form in forms}) == 1
    found = np.array(taps_of("f", taps))
    np.testing.assert_allclose(found / found.sum(), np.array(taps) / sum(taps), rtol=1e-5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.eye(3), "not the same in both directions"),
        (np.ones((2, 3)), "not the same in both directions"),
        ([1, -1], "sum 0.0"),
        ([1, np.inf], "sum inf"),
        ("abc", "not made of numbers"),
        (np.ones((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (np.ones(100), r"shape \(100,\)"),
    ],
)
def test_other_filters_are_refused(value: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        taps_of("f", value)


@pytest.mark.parametrize("taps", [(1, 3, 3, 1), (1, 2, 1), (1,), (1, 1), (1, 4, 2, 1, 1), LONG])
def test_upsampling_is_that_of_its_definition(taps: tuple[float, ...]) -> None:
    """Zeros put between pixels, then ahead of them, then a convolution: the official reference."""
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stuffed = torch.zeros(2, 3, 10, 8, dtype=torch.float64)
    stuffed[:, :, ::2, ::2] = x
    before, after = (len(taps) + 1) // 2, (len(taps) - 2) // 2
    padded = torch.nn.functional.pad(stuffed, (before, after, before, after))
    line = torch.tensor(taps, dtype=torch.float64).flip(0)
    kernel = torch.outer(line, line) * 4 / line.sum() ** 2
    expected = torch.nn.functional.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None])
    found = upsample2x(x, tuple(map(float, taps)))
    torch.testing.assert_close(found, expected.reshape(2, 3, 10, 8), rtol=0, atol=1e-6)


# ---- what is drawn


def test_a_model_without_noise_says_so() -> None:
    g = model("without_noise")
    assert NOISE not in g.facts.capabilities and NOISE in tiny().facts.capabilities
    assert not any(n.startswith("noise/") for s in g.facts.spaces.values() for n in s.companions)
    code = g.sample("w_plus", SEEDS)
    assert torch.equal(g.draw(code, noise="none"), g.draw(code))


def test_opacity_is_drawn_over_mid_grey() -> None:
    images = torch.tensor([0.8, -0.4, 0.2, 0.0]).reshape(1, 4, 1, 1).repeat(1, 1, 1, 4)
    images[0, 3, 0] = torch.tensor([-1.5, -1.0, 0.0, 3.0])
    found = as_rgb(images)[0, :, 0]
    rgb = torch.tensor([0.8, -0.4, 0.2])
    torch.testing.assert_close(found[:, 0], torch.full((3,), GREY))
    torch.testing.assert_close(found[:, 1], torch.full((3,), GREY))
    torch.testing.assert_close(found[:, 2], (rgb + GREY) / 2)
    torch.testing.assert_close(found[:, 3], rgb)
    g = model("opacity")
    assert g.facts.channels == 4
    code = g.sample("w_plus", SEEDS)
    assert torch.equal(g.draw(code), as_rgb(images_of(g, code.main)))


def test_styles_and_rows_of_a_network_that_draws_at_the_end_only() -> None:
    g = model("resnet")
    assert [(p.name, p.ws_index) for p in g.style_slices] == [
        ("b4.conv1", 0), ("b8.conv0", 1), ("b8.conv1", 2), ("b16.conv0", 3), ("b16.conv1", 4),
        ("b16.torgb", 5),
    ]  # fmt: skip
    assert g.facts.space("s").shape == (sum(g.config.style_widths.values()),)
    assert g.facts.space("w_plus").shape == (6, 8)
    with torch.no_grad():
        code = g.sample("w_plus", [1])
        for row in range(6):  # every row drives something
            moved = code.main.clone()
            moved[:, row] += 1
            assert not torch.equal(g.draw(Code("w_plus", moved)), g.draw(code))


@pytest.mark.parametrize("name", ["resnet_clamped", "filter_that_leans"])
def test_every_configuration_trains(name: str) -> None:
    made = StyleGAN2(model(name).config)
    made.synthesis(torch.randn(2, made.config.num_ws, 8)).square().sum().backward()
    grads = {n: p.grad for n, p in made.synthesis.named_parameters()}
    assert all(grad is not None for n, grad in grads.items())
    assert float(grads["b8.conv0.weight"].abs().sum()) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"conv_clamp": 1.5},
        {"connections": "resnet", "resample_filter": (1.0, 2.0, 1.0), "const_size": (3, 5)},
        {"use_noise": False, "img_channels": 4},
    ],
)
def test_large_pictures_are_drawn_strip_by_strip(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers but for rounding, whether differentiated or not, also noise and maps."""
    usual = tiny(seed=8, **changes)
    monkeypatch.setattr(network, "LARGE", 1)
    monkeypatch.setattr(network, "STRIP", 200)
    strips = list(network._strips(torch.zeros(2, 4, 10, 5)))
    assert len(strips) == 2 and strips[0] == slice(0, 5)
    large = from_checkpoint(usual.checkpoint())
    code = usual.sample("w_plus", [1, 2, 3])
    held = usual.facts.space("w_plus").companions.items()
    own = {n: torch.randn(3, *c.shape) for n, c in held if n.startswith("noise/")}
    for value in own.values():
        value[0] = torch.nan
    for given in (code, Code("w_plus", code.main, own)):
        expected = usual.draw(given)
        with torch.no_grad():
            apart = large.draw(given)
            maps = [g.convert(given, "features.b16.conv1").main for g in (usual, large)]
        torch.testing.assert_close(apart, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(large.draw(given), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(*maps, rtol=1e-4, atol=1e-5)
    random = [
        g.synthesise(code.main, noise_mode="random", generator=torch.Generator().manual_seed(0))
        for g in (usual, large)
    ]
    torch.testing.assert_close(*random, rtol=1e-4, atol=1e-5)


class TestResnet(GeneratorSuite):
    family = STYLEGAN2

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return tiny(seed=5, connections="resnet", resample_filter=(1.0, 2.0, 1.0)).checkpoint()


class TestWideWithOpacityWithoutNoise(GeneratorSuite):
    family = STYLEGAN2

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        unusual = {"const_size": (2, 3), "img_channels": 4, "use_noise": False, "z_dim": 5}
        return tiny(seed=6, connections="orig", c_dim=2, img_resolution=8, **unusual).checkpoint()
