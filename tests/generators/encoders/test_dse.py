"""The diverse similarity encoder: the paper's tables, its arithmetic written twice, every form."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conformance.encoder import EncoderSuite

from benchmarks.families import references_of
from generators.encoders import load_encoder, save_encoder
from generators.encoders.base import EncoderCheckpoint
from generators.encoders.dse import PLUGIN
from generators.encoders.dse.config import DSEConfig
from generators.encoders.dse.network import DSE, EqualisedConv
from generators.families.biggan import PLUGIN as BIGGAN
from generators.families.catalog import FAMILIES
from generators.protocols import Code, ModelFacts, Space, labels_in_turn
from generators.similarity.attentions import CentreCrops
from generators.similarity.objective import DiverseSimilarity, SimilarityWeights
from schemas.errors import CheckpointError, UsageError
from tests.generators.families.references.biggan import read
from transforms.inversion.encoding import encode

PAPER = SimilarityWeights()
STYLEGAN = (
    Space("z", (512,), "normal"),
    Space("w", (512,), "derived", derived_from="z"),
)


def facts(size: tuple[int, int], *spaces: Space, classes: int = 0) -> ModelFacts:
    named = {space.name: space for space in spaces}
    return ModelFacts("planted", "f" * 64, size, named, spaces[-1].name, classes=classes)


def style_based(side: int, layers: int) -> ModelFacts:
    plus = Space("w_plus", (layers, 512), "derived", layered=True, derived_from="w")
    return facts((side, side), *STYLEGAN, plus)


def biggan(side: int, z: int = 128, c: int = 128, classes: int = 1000) -> ModelFacts:
    latent = Space("z", (z,), "truncated_normal", conditional=True)
    both = Space("zc", (z + c,), "derived", derived_from="z")
    return facts((side, side), latent, both, classes=classes)


def made(config: DSEConfig, seed: int = 0) -> DSE:
    """With random numbers in everything that begins as 0 or 1."""
    torch.manual_seed(seed)
    network = DSE(config)
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith(("bias", "strength", "centre", "mean")):
                tensor.normal_(0, 0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
    return network.eval()


# ---- Tables I and II -----------------------------------------------------------------------------

# CONV(in, out, 3) as printed, top to bottom; the last block has one
CONVOLUTIONS = {
    256: "64,64 64,128 128,128 128,256 256,256 256,512 512,512 512,512 512,512 512,512 "
    "512,512 512,512 512,512",
    512: "32,32 32,64 64,64 64,128 128,128 128,256 256,256 256,512 512,512 512,512 512,512 "
    "512,512 512,512 512,512 512,512",
    1024: "16,16 16,32 32,32 32,64 64,64 64,128 128,128 128,256 256,256 256,512 512,512 512,512 "
    "512,512 512,512 512,512 512,512 512,512",
    128: "128,128 128,256 256,256 256,512 512,512 512,512 512,512 512,512 512,512 512,512 512,512",
}


def printed(side: int) -> list[tuple[int, int]]:
    pairs = [pair.split(",") for pair in CONVOLUTIONS[side].split()]
    return [(int(a), int(b)) for a, b in pairs]


def on_paper(model: ModelFacts, **options: Any) -> DSE:
    with torch.device("meta"):
        return DSE(DSEConfig.for_generator(model, **options))


def convolutions(network: DSE) -> list[tuple[int, int]]:
    weights = dict(network.named_parameters())
    kernels = [v.shape for k, v in weights.items() if k.startswith("blocks") and v.ndim == 4]
    return [(shape[1], shape[0]) for shape in kernels if shape[2] == 3]


def bypasses(side: int) -> int:
    """Weights of the bypasses that change the width, which the tables do not print."""
    return sum(a * b for a, b in printed(side) if a != b)


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_the_network_of_a_stylegan_is_that_of_table_1(side: int) -> None:
    layers = 2 * int(math.log2(side)) - 2
    network = on_paper(style_based(side, layers))
    wanted = printed(side)
    assert convolutions(network) == wanted
    fully = [tuple(style.weight.shape) for style in network.styles]
    # FC(2 C_in, 512) before each convolution, the last FC(1024, 512) alone; coarsest layer first
    assert fully == [(512, 1024)] + [(512, 2 * a) for a, _ in reversed(wanted)]
    counted = 3 * wanted[0][0] + wanted[0][0]  # CONV(3, C_in, 1)
    counted += sum(9 * a * b + 2 * b for a, b in wanted)  # with bias and z_n'
    counted += sum(a * b + b for b, a in fully) + bypasses(side)
    assert sum(p.numel() for p in network.parameters()) == counted
    assert network.config.last_size == (4, 4) and network.config.blocks[-1][1] == 512
    assert network.config.spaces == {"w": (512,), "w_plus": (layers, 512)}


def test_the_network_of_a_pggan_tells_z_by_its_last_block() -> None:
    network = on_paper(facts((1024, 1024), Space("z", (512,), "normal")))
    assert convolutions(network) == printed(1024)
    assert tuple(network.hidden.weight.shape) == (512, 512 * 4 * 4)
    assert not any("noise" in name or "styles" in name for name in network.state_dict())


@pytest.mark.parametrize("side", [128, 256, 512])
def test_the_network_of_a_biggan_is_that_of_table_2(side: int) -> None:
    network = on_paper(biggan(side))
    wanted = printed(side)
    assert convolutions(network) == wanted
    assert tuple(network.hidden.weight.shape) == (256, 512 * 4 * 4)
    assert tuple(network.latent.weight.shape) == (128, 256)
    norms = [m for m in network.modules() if type(m).__name__ == "ConditionalNorm"]
    assert [len(norm.running_mean) for norm in norms] == [a for a, _ in wanted]
    assert not any("noise" in name for name in network.state_dict())


def test_other_sizes_and_widths_follow_the_same_rule() -> None:
    narrow = DSEConfig.for_generator(style_based(64, 10), channel_base=1024, channel_max=64)
    assert narrow.blocks == ((16, 32), (32, 64), (64, 64), (64, 64), (64, 64))
    oblong = facts((48, 96), Space("z", (7,), "normal"))
    config = DSEConfig.for_generator(oblong, channel_base=512, channel_max=8)
    assert config.blocks == ((4, 8), (8, 8), (8, 8), (8, 8)) and config.last_size == (6, 12)
    assert made(config)(torch.zeros(2, 3, 48, 96)).code.shape == (2, 7)


def test_a_generator_with_other_layers_than_two_a_block_reads_the_nearest_places() -> None:
    """StyleGAN3: 16 layers whatever the size; the places run from the coarsest to the finest."""
    taps = DSEConfig.for_generator(style_based(64, 16)).taps
    assert taps == (9, 9, 8, 8, 7, 6, 6, 5, 4, 4, 3, 3, 2, 1, 1, 0)
    assert DSEConfig.for_generator(style_based(64, 10)).taps == tuple(range(9, -1, -1))


# ---- the arithmetic ------------------------------------------------------------------------------


def reference(network: DSE, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (n, layers, width) and z_c' of StyleGAN's form, pixel means taken by hand, float64."""
    p = {name: value.double() for name, value in network.state_dict().items()}

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        w = p[name]
        return F.conv2d(x, w / math.sqrt(w[0].numel()), padding=w.shape[2] // 2)

    def halved(x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).mean(dim=(3, 5))

    x = conv(images.double(), "from_rgb.weight") + p["from_rgb_bias"].view(1, -1, 1, 1)
    x = torch.where(x > 0, x, 0.2 * x)
    told = []
    blocks = len(network.config.blocks)
    for k in range(blocks):
        bypass = x
        for j in range(2):
            mean = x.mean(dim=(2, 3), keepdim=True)
            deviation = ((x - mean) ** 2).mean(dim=(2, 3), keepdim=True).sqrt()
            told.append(torch.cat([mean, deviation], dim=1)[:, :, 0, 0])
            if j == 1 and k == blocks - 1:
                break
            name = f"blocks.{k}.conv{j}"
            x = conv((x - mean) / deviation, f"{name}.conv.weight")
            x = x + p[f"{name}.noise_strength"].view(1, -1, 1, 1) * p[f"{name}.noise_const"]
            x = x + p[f"{name}.bias"].view(1, -1, 1, 1)
            x = torch.where(x > 0, x, 0.2 * x)
        if k < blocks - 1:
            x, bypass = halved(x), halved(bypass)
            if f"blocks.{k}.bypass.weight" in p:
                bypass = conv(bypass, f"blocks.{k}.bypass.weight")
        x = (x + bypass) / math.sqrt(2)
    layers = []
    for layer, style in enumerate(reversed(told)):
        weight = p[f"styles.{layer}.weight"]
        layers.append(style @ weight.T / math.sqrt(weight.shape[1]) + p[f"styles.{layer}.bias"])
    return p["centre"] + torch.stack(layers, dim=1), x


def small(**changed: Any) -> DSEConfig:
    space = {"space": "w_plus", "shape": (6, 5), "repeated": "w", "layered": True}
    config = DSEConfig(size=(16, 16), channel_base=64, channel_max=6, **space)  # type: ignore[arg-type]
    return replace(config, **changed)


def test_codes_are_those_of_the_definition() -> None:
    network, images = made(small()), torch.randn(3, 3, 16, 16)
    found = network(images)
    codes, constant = reference(network, images)
    torch.testing.assert_close(found.code.double(), codes, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.constant.double(), constant, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.encode(images, "w"), found.code.mean(dim=1))


def test_a_fused_halving_is_a_convolution_and_averages() -> None:
    torch.manual_seed(0)
    conv, x = EqualisedConv(4, 3, 3, halving=True), torch.randn(2, 4, 10, 6)
    plain = F.avg_pool2d(F.conv2d(x, conv.weight / 6, padding=1), 2)
    torch.testing.assert_close(conv(x), plain)
    fused = made(small(fused_scale=True))
    assert fused(torch.randn(1, 3, 16, 16)).code.shape == (1, 6, 5)


def test_every_weight_of_every_form_is_trained() -> None:
    labelled = replace(small(), layered=False, space="zc", shape=(9,), repeated=None)
    labelled = replace(labelled, classes=4, class_dim=4)
    for config in (small(), replace(small(), fused_scale=True), labelled):
        network, labels = made(config).train(), [0, 3] if config.classes else None
        found = network(torch.randn(2, 3, 16, 16), labels)
        (found.code.square().sum() + found.constant.square().sum()).backward()
        still = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert still == []


# ---- labels --------------------------------------------------------------------------------------


def test_labels_decide_a_biggan_s_codes() -> None:
    generator = BIGGAN.build(read("hf"))
    config = DSEConfig.for_generator(generator.facts, channel_base=64, channel_max=8)
    assert (config.space, config.shape, config.class_dim) == ("zc", (12,), 6)
    network, images = made(config), torch.randn(3, 3, 16, 16)
    code = network.encode(images, "zc", [0, 1, 2])
    assert generator.draw(Code("zc", code)).shape == (3, 3, 16, 16)
    one_hot = F.one_hot(torch.tensor([0, 1, 2]), 5).float()
    torch.testing.assert_close(network.encode(images, "zc", one_hot), code)
    assert not torch.allclose(network.encode(images, "zc", [1, 1, 2])[0], code[0])
    for labels in (None, [0, 1], [0, 1, 5]):
        with pytest.raises(UsageError, match="label"):
            network.encode(images, "zc", labels)


# ---- every family ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES.own())
def test_an_encoder_of_any_family_is_trained_by_its_own_samples(family: str) -> None:
    """One step of Algorithm 1 into the default space: what is drawn from its codes moves it."""
    generator: Any = FAMILIES.load(family).build(references_of(family).tiny())
    model = generator.facts
    labels = labels_in_turn(model.classes, range(3))
    config = DSEConfig.for_generator(model, channel_base=64, channel_max=8)
    network = DSE(config).train()
    with torch.no_grad():
        sampled = generator.sample(config.space, range(3), labels=labels)
        images = generator.draw(sampled, labels=labels)
    loss = DiverseSimilarity(replace(PAPER, perceptual=0.0), None, CentreCrops()).of_encoder(
        lambda x: network.encode(x, config.space, labels),
        lambda code: generator.draw(sampled.moved(code), labels=labels),
        images,
        sampled.main,
    )
    loss.sum().backward()
    told = network.hidden if not config.layered else network.styles[0]
    assert loss.shape == (3,) and bool(told.weight.grad.any())
    expected = {"biggan": ("zc", 5), "stylegan2": ("w_plus", 0), "stylegan3": ("w_plus", 0)}
    assert (config.space, config.classes) == expected.get(family, (config.space, config.classes))


# ---- files ---------------------------------------------------------------------------------------


class Saved(EncoderSuite):
    config: DSEConfig

    @pytest.fixture
    def encoder(self, tmp_path):
        return load_encoder(str(save_encoder(made(self.config), tmp_path / "e.safetensors")))

    @pytest.fixture
    def again(self, encoder, tmp_path):
        return load_encoder(str(tmp_path / "e.safetensors"))

    @pytest.fixture
    def images(self):
        return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class TestStyles(Saved):
    config = small()


class TestLatent(Saved):
    config = replace(small(), layered=False, space="z", shape=(2, 3), repeated=None)


def test_an_encoder_of_labels_is_given_them_from_its_file(tmp_path) -> None:
    config = replace(small(), layered=False, space="z", shape=(5,), repeated=None, classes=4)
    network = made(config)
    loaded = load_encoder(str(save_encoder(network, tmp_path / "e.safetensors")))
    images, labels = torch.randn(2, 3, 16, 16), np.array([3, 1])
    assert loaded.classes == 4
    found = encode(images, loaded, "z", (5,), labels)
    torch.testing.assert_close(found, network.encode(images, "z", labels).detach())
    with pytest.raises(UsageError, match="need labels"):
        loaded.encode(images)


# ---- what does not fit ---------------------------------------------------------------------------


def test_a_generator_that_no_encoder_fits_is_told() -> None:
    with pytest.raises(UsageError, match="at least 8 pixels"):
        DSEConfig.for_generator(facts((4, 4), Space("z", (3,), "normal")))
    maps = facts((16, 16), Space("z", (3,), "normal"), Space("f", (1, 4, 4), injected_into="z"))
    with pytest.raises(UsageError, match="'f' is what a layer puts out"):
        DSEConfig.for_generator(maps)
    with pytest.raises(UsageError, match="raise 'channel_base'"):
        DSEConfig.for_generator(style_based(256, 14), channel_base=128)


def test_a_file_whose_tensors_do_not_fit_is_told(tmp_path) -> None:
    network = made(small())
    path = save_encoder(network, tmp_path / "e.safetensors")
    about = (tmp_path / "e.json").read_text()
    (tmp_path / "e.json").write_text(
        about.replace('"channel_max": 6', '"channel_max": 7').replace('"fingerprint"', '"was"')
    )
    with pytest.raises(CheckpointError, match="does not fit its description"):
        load_encoder(str(path))
    architecture = {"family": "dse", "size": [16], "shape": [6, 5], "space": "w"}
    with pytest.raises(ValueError, match="expected \\(height, width\\)"):
        PLUGIN.build(EncoderCheckpoint(architecture, {}))
