"""HyperStyle's hypernetworks, and the method that uses them."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conformance.inversion import InversionSuite

import generators
from generators.encoders import load_encoder
from generators.families.stylegan2 import PLUGIN
from generators.hypernetwork.file import layer_name, read_hypernetwork
from generators.hypernetwork.network import built
from generators.protocols import Code
from generators.tuned import WEIGHTS, length, unpacked
from pipelines.folder.store_identity import identify
from schemas.errors import CheckpointError, UsageError
from schemas.sections.invert import invert_section
from schemas.store.layout import companion_path
from tests.generators.encoders.psp_reference import ARRAYS
from tests.networks.hyperstyle import LAYERS, TINY, WIDTH, hyper_contents, hyper_tensors
from tests.networks.psp import CONFIGS, contents, filled, pictures
from tests.stylegan2_layouts import tiny
from transforms.inversion.catalog import invert_batch
from transforms.inversion.method import Images

OF_16_PX = (0, 2, 3, 4)


def own(layers=LAYERS):
    """Shapes of the weights of a generator as wide as the hypernetworks."""
    shapes = {layer_name(k): (3 if k % 3 == 1 else WIDTH, WIDTH, *[1 if k % 3 == 1 else 3] * 2)
              for k in layers}  # fmt: skip
    if 14 in layers:
        shapes[layer_name(14)] = (32, WIDTH, 3, 3)
    return shapes


def written(path, found):
    state = {name: torch.from_numpy(value) for name, value in found["state_dict"].items()}
    mean = torch.from_numpy(found["latent_avg"])
    torch.save({**found, "state_dict": state, "latent_avg": mean}, path)
    return str(path)


@pytest.mark.parametrize("kind", ["shared", "separable"])
def test_changes_are_those_of_the_program(tmp_path, kind):
    file = written(tmp_path / "h.pt", hyper_contents(hyper_tensors(kind == "separable")))
    read = read_hypernetwork(file)
    assert read.layers == {k: layer_name(k) for k in LAYERS} and not read.assumed
    both = torch.from_numpy(pictures(2, 6))
    found = built(read, own(), file)(both[:, :3], both[:, 3:])
    with np.load(ARRAYS) as held:
        for k in LAYERS:
            expected = held[f"hyperstyle/{kind}/{k}"]
            ours = found[layer_name(k)].reshape(2, -1)[:, ::64].numpy()
            assert np.abs(ours - expected).max() < 1e-5 * (expected[0] - expected[1]).std(), k


def test_layers_are_counted_as_stylegan2_draws_them():
    assert [layer_name(k) for k in (0, 1, 2, 3, 4, 5, 24, 25)] == [
        f"synthesis.{part}.weight"
        for part in ("b4.conv1", "b4.torgb", "b8.conv0", "b8.conv1", "b8.torgb", "b16.conv0")
        + ("b1024.conv1", "b1024.torgb")
    ]


# ---- the method ----------------------------------------------------------------------------------


@cache
def tiny_files() -> tuple[str, str]:
    """Two hypernetworks for the suite's generator, which change little."""
    folder = Path(tempfile.mkdtemp())
    found = []
    for seed in (0, 1):
        tensors = hyper_tensors(layers=OF_16_PX, backbone=TINY, width=8, seed=seed)
        for name, value in tensors.items():
            if name.startswith(("shared_weight_hypernet.w1", "shared_weight_hypernet.b1")) or (
                ".output." in name
            ):
                value *= 0.02
        found.append(written(folder / f"h{seed}.pt", hyper_contents(tensors)))
    return found[0], found[1]


class TestHyperstyle(InversionSuite):
    method = "hyperstyle"

    @classmethod
    def setup_class(cls):
        one, another = tiny_files()
        cls.settings = {"hypernetwork": one, "passes": 1}
        cls.others = {"hypernetwork": another}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Generator, encoder into w and hypernetwork of 16 px."""
    folder = tmp_path_factory.mktemp("hyperstyle")
    generator = tiny(channel_base=128, channel_max=8)
    hyper = hyper_contents(hyper_tensors(layers=OF_16_PX, backbone=TINY, width=8))
    small = {"units": (1, 1, 1, 1), "channels": (4, 4, 8, 12, 16), "w_dim": 8, "num_ws": 6}
    config = replace(CONFIGS["hyperstyle", "WEncoder"], **small)
    encoder = contents(config, "WEncoder", filled(config))
    return generator, written(folder / "w.pt", encoder), written(folder / "h.pt", hyper)


def settings(hypernetwork, **keys):
    keys = {"method": "hyperstyle", "space": "w_plus", "hypernetwork": hypernetwork, **keys}
    return invert_section(keys)


def test_a_row_keeps_the_changes_of_all_passes(files):
    """Against a loop over generators into which the weights are built."""
    generator, encoder, hyper = files
    encoder = load_encoder(encoder)
    pixels = generator.draw(generator.sample("w_plus", range(2))).clamp(-1, 1)
    found = invert_batch(Images(pixels, generator, settings(hyper, passes=2), encoder))
    companion = generator.facts.space("w_plus").companions[WEIGHTS]
    shapes = companion.tensors
    network = built(read_hypernetwork(hyper), shapes, hyper)
    size = {"size": (256, 256), "mode": "bilinear", "antialias": True}
    code = Code("w_plus", encoder.encode(torch.nn.functional.interpolate(pixels, **size)))
    torch.testing.assert_close(found.code.main, code.main)
    for row in range(2):
        image, at = pixels[row : row + 1], code[row : row + 1]
        start = drawn = generator.draw(at)
        tensors, total = dict(generator.checkpoint().tensors), {}
        for _ in range(2):
            for name, more in network(image, drawn).items():
                total[name] = total.get(name, 0) + more[0].numpy()
            now = {k: v * (1 + total[k]) if k in total else v for k, v in tensors.items()}
            checkpoint = generator.checkpoint()
            drawn = PLUGIN.build(type(checkpoint)(checkpoint.architecture, now)).draw(at)
        kept = unpacked(shapes, found.code.companions[WEIGHTS][row])
        assert set(total) == {layer_name(k) for k in OF_16_PX}
        for name, delta in kept.items():
            expected = tensors[name] * total[name] if name in total else 0 * tensors[name]
            np.testing.assert_allclose(delta, expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            generator.draw(found.code)[row : row + 1], drawn, rtol=1e-3, atol=1e-3
        )
        for name, picture in (("loss_start", start), ("loss_end", drawn)):
            error = (picture - image).square().mean()
            torch.testing.assert_close(found.qualities[name][row], error, rtol=1e-3, atol=1e-4)
    alone = invert_batch(Images(pixels[1:], generator, settings(hyper, passes=2), encoder))
    weights, beside = (each.code.companions[WEIGHTS] for each in (alone, found))
    for mine, other in ((alone.code.main, found.code.main[1:]), (weights, beside[1:])):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_what_is_announced_is_told_before_a_run(files, tmp_path):
    generator, encoder, hyper = files
    path = tmp_path / "g.safetensors"
    generators.save_safetensors(generator, path)

    def of(section):
        return identify(
            tmp_path, section, name="a", seed=0, generator_uri=str(path), encoder_uri=encoder
        )

    found = of(settings(hyper))
    numbers = length(generator.facts.space("w_plus").companions[WEIGHTS].tensors)
    arrays = {array.path: array.row_shape for array in (*found.arrays, *found.large)}
    assert arrays[companion_path("w_plus", WEIGHTS)] == (numbers,)
    assert found.store_fp != of(settings(hyper, passes=4)).store_fp
    with pytest.raises(UsageError, match="'invert.hypernetwork' is missing"):
        of(settings(None))
    with pytest.raises(CheckpointError, match="holds no hypernetwork of HyperStyle"):
        of(settings(encoder))
    generators.save_safetensors(tiny(), path)
    with pytest.raises(CheckpointError, match=r"changes 'synthesis.b4.conv1.weight' by 64"):
        of(settings(hyper))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("hypernet.bn1.bias"), "not one of HyperStyle's.*bn1.bias"),
        (lambda s: s.update({"hypernet.more": np.zeros(2, np.float32)}), "Unexpected.*more"),
        (lambda s: s.pop("hypernet.shared_weight_hypernet.b1"), "by -1 numbers"),
        (lambda s: s.update({"hypernet.conv1.weight": np.zeros((8, 3, 7, 7), np.float32)}),
         r"\(8, 3, 7, 7\), expected 6"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused(tmp_path, change, told):
    found = hyper_contents(hyper_tensors())
    change(found["state_dict"])
    file = written(tmp_path / "h.pt", found)
    with pytest.raises(CheckpointError, match=told):
        built(read_hypernetwork(file), own(), file)
