"""The generator against the naive definition, the official outputs and its own contract."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from places import GOLDEN, ROOT

from generators.equalised import FullyConnectedLayer
from generators.families.base import Checkpoint
from generators.families.stylegan2.adapter import StyleGAN2Adapter, from_checkpoint
from generators.families.stylegan2.network import StyleGAN2, StyleGAN2Config, upsample2x
from generators.protocols import Code, Generator
from generators.seeds import drawn
from schemas.errors import UsageError
from tests.stylegan2_layouts import naive_synthesis, tiny, upfirdn

REFERENCE = ROOT.parent / "shared" / "reference" / "stylegan"


@pytest.fixture(scope="module")
def generator() -> StyleGAN2Adapter:
    return tiny()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over the standard deviation of `b`."""
    return float((a.double() - b.double()).abs().max() / b.double().std())


@pytest.mark.parametrize("clamp", [None, 1.5])
@pytest.mark.parametrize("noise_mode", ["const", "none"])
def test_synthesis_equals_the_naive_definition(clamp: float | None, noise_mode: str) -> None:
    g = tiny(conv_clamp=clamp)
    ws = torch.from_numpy(np.random.RandomState(1).standard_normal((3, 6, 8)))
    expected = naive_synthesis(g.tensors(), ws, clamp, noise=noise_mode == "const")
    assert relative(g.synthesise(ws, noise_mode=noise_mode), expected) < 1e-5
    if clamp is not None:
        assert relative(expected, naive_synthesis(g.tensors(), ws, None)) > 1e-2


def test_mapping_equals_the_definition(generator: StyleGAN2Adapter) -> None:
    z = drawn("normal", [3, 4], (8,)).astype(np.float64)
    x = z / np.sqrt((z**2).mean(axis=1, keepdims=True) + 1e-8)
    tensors = {k: v.astype(np.float64) for k, v in generator.tensors().items()}
    for i in range(2):
        weight = tensors[f"mapping.fc{i}.weight"] * 0.01 / np.sqrt(8)
        y = x @ weight.T + tensors[f"mapping.fc{i}.bias"] * 0.01
        x = np.where(y > 0, y, 0.2 * y) * np.sqrt(2)
    w = generator.convert(Code("z", torch.from_numpy(z).float()), "w_plus").main
    assert w.shape == (2, 6, 8)
    np.testing.assert_allclose(w[:, 0], x, rtol=1e-4, atol=1e-5)
    assert torch.equal(w[:, 0], w[:, 5])


def test_upsampling_equals_zero_insertion_and_fir() -> None:
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(upsample2x(x), upfirdn(x, 2, (2, 1), 4.0))


def test_golden_image(generator: StyleGAN2Adapter) -> None:
    images = generator.synthesise(generator.sample("w_plus", [0, 1], truncation=0.7).main)
    with np.load(GOLDEN / "stylegan2_tiny.npz") as golden:
        assert relative(images, torch.from_numpy(golden["images"])) < 1e-5
        assert generator.fingerprint == str(golden["fingerprint"])


if REFERENCE.is_dir():

    def test_official_outputs() -> None:
        with np.load(REFERENCE / "stylegan2_64_weights.npz") as file:
            tensors = {k: file[k] for k in file if not k.endswith("resample_filter")}
        config = StyleGAN2Config(
            z_dim=64, w_dim=64, img_resolution=64, channel_base=1024, channel_max=64
        )
        g = from_checkpoint(Checkpoint(config.architecture(), tensors))
        with np.load(REFERENCE / "stylegan2_64_ref.npz") as file:
            z, ws, img = (torch.from_numpy(file[k]) for k in ("z", "ws", "img"))
        mine = g.convert(Code("z", z), "w_plus", truncation=0.7).main
        assert float((mine - ws).abs().max()) < 1e-4 * float(ws.std())
        assert relative(g.synthesise(mine), img) < 1e-4


def test_implements_the_protocol(generator: StyleGAN2Adapter) -> None:
    assert isinstance(generator, Generator)
    shapes = {name: space.shape for name, space in generator.facts.spaces.items()}
    assert {n: shapes[n] for n in ("z", "w", "w_plus", "s")} == {
        "z": (8,), "w": (8,), "w_plus": (6, 8), "s": (68,)
    }  # fmt: skip
    assert shapes["features.b8.conv0"] == (8, 8, 8)
    assert generator.facts.size == (16, 16)
    assert generator.to("cpu") is generator


def test_every_space_gives_the_same_image(generator: StyleGAN2Adapter) -> None:
    z = generator.sample("z", [5, 6, 7]).main
    w_plus = generator.convert(Code("z", z), "w_plus").main
    images = generator.synthesise(w_plus)
    assert images.dtype == torch.float32 and images.shape == (3, 3, 16, 16)
    for codes, space in (
        (z, "z"),
        (w_plus[:, 0], "w"),
        (generator.convert(Code("w_plus", w_plus), "s").main, "s"),
    ):
        assert codes.shape[1:] == generator.facts.space(space).shape
        torch.testing.assert_close(generator.synthesise(codes, space), images, rtol=0, atol=1e-5)


def test_style_slices_cover_s_in_the_documented_order(generator: StyleGAN2Adapter) -> None:
    names = [part.name for part in generator.style_slices]
    assert names[:5] == ["b4.conv1", "b4.torgb", "b8.conv0", "b8.conv1", "b8.torgb"]
    assert [part.ws_index for part in generator.style_slices] == [0, 1, 1, 2, 3, 3, 4, 5]
    stops = [part.stop for part in generator.style_slices]
    assert [part.start for part in generator.style_slices] == [0, *stops[:-1]]
    assert stops[-1] == generator.facts.space("s").shape[0]
    w_plus = generator.sample("w_plus", [1]).main
    tensors = generator.tensors()
    part = generator.style_slices[3]
    weight = tensors[f"synthesis.{part.name}.affine.weight"] / np.sqrt(8)
    expected = w_plus[0, part.ws_index].numpy() @ weight.T
    expected = expected + tensors[f"synthesis.{part.name}.affine.bias"]
    mine = generator.convert(Code("w_plus", w_plus), "s").main[0, part.start : part.stop]
    np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


def test_z_depends_on_its_seed_alone(generator: StyleGAN2Adapter) -> None:
    z = generator.sample("z", [1, 2, 2**32 + 1, 2**80]).main
    assert torch.equal(z[1:2], generator.sample("z", [2]).main)
    assert len({tuple(row.tolist()) for row in z}) == 4
    official = np.random.RandomState(2).standard_normal((1, 8)).astype(np.float32)
    np.testing.assert_array_equal(z[1:2].numpy(), official)
    with pytest.raises(UsageError, match="seed -1 is negative"):
        generator.sample("z", [-1])


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**40 + 3])
def test_z_is_what_the_official_script_draws(seed: int) -> None:
    words = seed if seed < 2**32 else [seed & 0xFFFFFFFF, seed >> 32]
    expected = np.random.RandomState(words).standard_normal(8).astype(np.float32)
    np.testing.assert_array_equal(
        drawn("normal", [1, seed, seed], (8,))[1:], np.stack([expected] * 2)
    )


def test_layers_notice_weights_that_lie_where_others_lay() -> None:
    layer = FullyConnectedLayer(64, 64).requires_grad_(False)
    own, unit = layer.weight, torch.eye(64)
    for added in range(20):  # a tensor that is let go leaves its memory to the next
        layer._parameters["weight"] = own + added
        expected = unit @ ((own + added) * layer.weight_gain).t() + layer.bias
        torch.testing.assert_close(layer(unit), expected)


def test_layers_notice_that_their_weights_are_others() -> None:
    """What a layer keeps of its weights, however these were changed."""
    model = tiny()
    layer, x = model.network.mapping.fc0, torch.randn(3, 8)

    def expected(x: torch.Tensor) -> torch.Tensor:
        y = x @ (layer.weight * layer.weight_gain).t() + layer.bias * layer.bias_gain
        return torch.nn.functional.leaky_relu(y, 0.2) * 2**0.5

    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected(x))
    needing = x.clone().requires_grad_()
    layer(needing).sum().backward()  # by what was kept in inference mode
    assert needing.grad is not None
    for change in (
        lambda: layer.weight.mul_(2),
        lambda: layer.bias.copy_(torch.randn(len(layer.bias))),
        lambda: layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}),
        lambda: setattr(layer, "weight", torch.nn.Parameter(layer.weight.detach() + 1)),
        lambda: layer.requires_grad_(False),
        lambda: model.to(torch.float64),
    ):
        before = layer(x.to(layer.weight.dtype))
        with torch.no_grad():
            change()
        after = layer(x.to(layer.weight.dtype))
        torch.testing.assert_close(after, expected(x.to(layer.weight.dtype)))
        assert after.dtype == layer.weight.dtype and before is not after


def test_truncation(generator: StyleGAN2Adapter) -> None:
    z = generator.sample("z", [1, 2]).main
    full = generator.convert(Code("z", z), "w_plus").main
    half = generator.convert(Code("z", z), "w_plus", truncation=0.5).main
    torch.testing.assert_close(half, (full + generator.w_avg) / 2)
    cut = generator.convert(Code("z", z), "w_plus", truncation=0.5, cutoff=2).main
    assert torch.equal(cut[:, :2], half[:, :2]) and torch.equal(cut[:, 2:], full[:, 2:])
    assert torch.equal(
        generator.convert(Code("z", z), "w_plus", truncation=0.0).main,
        generator.w_avg.expand(2, 6, 8),
    )


def test_style_mixing(generator: StyleGAN2Adapter) -> None:
    a, b = generator.sample("w_plus", [1, 2]).main.split(1)
    mixed = generator.mix(a, b, range(2))
    assert torch.equal(mixed[:, :2], b[:, :2]) and torch.equal(mixed[:, 2:], a[:, 2:])
    with pytest.raises(UsageError, match=r"layer 6 is outside 0\.\.5"):
        generator.mix(a, b, [6])


def test_random_noise_with_a_generator_per_row_is_independent_of_the_batch(
    generator: StyleGAN2Adapter,
) -> None:
    codes = generator.sample("w_plus", [1, 2, 3]).main

    def draw(rows: list[int]) -> torch.Tensor:
        streams = [torch.Generator().manual_seed(row) for row in rows]
        return generator.synthesise(codes[rows], noise_mode="random", generator=streams)

    together = draw([0, 1, 2])
    torch.testing.assert_close(draw([2]), together[2:], rtol=0, atol=1e-5)
    assert relative(together, generator.synthesise(codes)) > 1e-3
    one = torch.Generator().manual_seed(0)
    again = torch.Generator().manual_seed(0)
    assert torch.equal(
        generator.synthesise(codes, noise_mode="random", generator=one),
        generator.synthesise(codes, noise_mode="random", generator=again),
    )
    with pytest.raises(UsageError, match="needs a generator"):
        generator.synthesise(codes, noise_mode="random")
    with pytest.raises(UsageError, match="2 entries for 3 rows"):
        generator.synthesise(codes, noise_mode="random", generator=[one, again])


def test_a_row_does_not_depend_on_the_batch(generator: StyleGAN2Adapter) -> None:
    codes = generator.sample("w_plus", range(5)).main
    whole = generator.synthesise(codes)
    parts = torch.cat([generator.synthesise(codes[:2]), generator.synthesise(codes[2:])])
    assert relative(parts, whole) < 1e-5


def test_class_conditional_mapping_reads_the_label() -> None:
    g = tiny(c_dim=3)
    z = g.sample("z", [1, 1]).main
    c = torch.eye(3)[:2]
    w = g.convert(Code("z", z), "w_plus", labels=c).main
    assert not torch.allclose(w[0], w[1])
    torch.testing.assert_close(g.draw(Code("z", z), labels=c), g.synthesise(w))
    with pytest.raises(UsageError, match="3 classes need labels"):
        g.convert(Code("z", z), "w_plus")


@pytest.mark.parametrize(
    ("shape", "space", "message"),
    [
        ((2, 8), "w_plus", r"space 'w_plus' expects \(n, 6, 8\)"),
        ((2, 5, 8), "w_plus", "belong to another space"),
        ((2, 7), "s", "belong to another space"),
        ((2, 8), "y", "space 'y' is not one of this stylegan2"),
    ],
)
def test_wrong_codes_are_refused(
    generator: StyleGAN2Adapter, shape: tuple[int, ...], space: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        generator.synthesise(torch.zeros(shape), space)


def test_unknown_noise_mode_is_refused(generator: StyleGAN2Adapter) -> None:
    with pytest.raises(UsageError, match="'noise_mode' is 'fixed'"):
        generator.synthesise(torch.zeros(1, 6, 8), noise_mode="fixed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_resolution": 48}, "power of two"),
        ({"z_dim": 0}, "'z_dim' is 0"),
        ({"c_dim": -1}, "'c_dim' is -1"),
        ({"channel_base": 8}, "less than 1"),
        ({"channels": (4, 4)}, "2 entries"),
    ],
)
def test_bad_configurations_are_refused(change: dict, message: str) -> None:
    shape = {"img_resolution": 16, "channel_base": 64, **change}
    with pytest.raises(ValueError, match=message):
        StyleGAN2Config(**shape)


def test_trains_and_differentiates_twice() -> None:
    torch.manual_seed(0)
    network = StyleGAN2(StyleGAN2Config(z_dim=4, w_dim=4, img_resolution=8, channel_base=32))
    before = network.mapping.w_avg.clone()
    w = network.mapping(torch.randn(4, 4), update_w_avg=True)
    assert not torch.equal(before, network.mapping.w_avg)
    ws = w[:, None].repeat(1, 4, 1)
    images = network.synthesis(ws)
    # Path length regularisation: gradient of the gradient.
    (gradient,) = torch.autograd.grad(
        (images * torch.randn_like(images)).sum(), ws, create_graph=True
    )
    gradient.square().sum().backward()
    grads = {name: p.grad for name, p in network.named_parameters()}
    assert grads["synthesis.b8.conv0.weight"].abs().sum() > 0
    assert grads["mapping.fc0.weight"].abs().sum() > 0


def test_layer_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(1)
    network = StyleGAN2(
        StyleGAN2Config(z_dim=3, w_dim=3, img_resolution=8, channel_base=24)
    ).double()
    ws = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda codes: network.synthesis(codes)[..., ::3, ::3], ws)


def test_gradients_reach_the_codes_only(generator: StyleGAN2Adapter) -> None:
    codes = generator.sample("w_plus", [1]).main.requires_grad_()
    generator.synthesise(codes).square().sum().backward()
    assert codes.grad is not None and codes.grad.abs().sum() > 0
    assert all(p.grad is None for p in generator.network.parameters())
    s = generator.convert(Code("w_plus", codes.detach()), "s").main.requires_grad_()
    generator.synthesise(s, "s").sum().backward()
    assert s.grad is not None


def test_loading_a_model_does_not_import_the_compiler_of_torch() -> None:
    code = "import sys, generators; generators.load('bundled:'); sys.exit('torch._dynamo' in "
    command = [sys.executable, "-c", f"{code}sys.modules)"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
