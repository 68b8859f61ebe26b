"""Encoders of other projects' training checkpoints."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conformance.encoder import EncoderSuite

import generators
from generators.encoders import load_encoder, save_encoder
from generators.encoders.files import read_encoder
from generators.encoders.psp import PLUGIN
from generators.encoders.psp.config import PspConfig
from generators.model_file import write_checkpoint
from generators.protocols import Code
from pipelines.folder.store_identity import identify
from pipelines.runs.model_notes import model_notes
from pipelines.upkeep.inspect import describe
from schemas.errors import CheckpointError, UnsafeCheckpointError, UsageError
from schemas.sections.invert import invert_section
from tests.generators.encoders.psp_reference import ARRAYS, COMPARED, PASSES, SIZES, decoder
from tests.networks.psp import CONFIGS, NARROW, contents, filled, pictures
from tests.stylegan2_layouts import rosinality_state, tiny
from transforms.inversion.catalog import invert_batch
from transforms.inversion.method import Images

REFERENCE = np.load(ARRAYS)
#: A few units, for what does not depend on them.
SMALL = replace(NARROW, units=(1, 1, 1, 1), channels=(4, 4, 8, 12, 16), w_dim=8)
POOLED = replace(SMALL, head="pooled", depth=0, styles=0)
REFINING = replace(SMALL, in_channels=6, head="map", styles=6, num_ws=6)
E4E, RESTYLE = "Encoder4Editing", "BackboneEncoder"


def recognised(config: PspConfig, kind: str, **opts):
    return PLUGIN.recognise(contents(config, kind, filled(config), **opts))


def written(path, config: PspConfig, kind: str, namespace: bool = False, **opts):
    """A checkpoint as a program writes it."""
    found = contents(config, kind, filled(config), **opts)
    found["state_dict"] = {k: torch.from_numpy(v) for k, v in found["state_dict"].items()}
    found["latent_avg"] = torch.from_numpy(found["latent_avg"])
    if namespace:
        found["opts"] = argparse.Namespace(**found["opts"])
    torch.save(found, path)
    return str(path)


class TestConformance(EncoderSuite):
    @pytest.fixture
    def encoder(self, tmp_path):
        return load_encoder(written(tmp_path / "a.pt", SMALL, E4E))

    @pytest.fixture
    def again(self, tmp_path):
        return load_encoder(written(tmp_path / "b.pt", SMALL, E4E, namespace=True))

    @pytest.fixture
    def images(self):
        return torch.from_numpy(pictures(4))


# ---- what the programs compute -------------------------------------------------------------------


@pytest.mark.parametrize("case", COMPARED, ids="/".join)
def test_codes_are_those_of_the_program(case):
    config, tensors = CONFIGS[case], filled(CONFIGS[case])
    found = recognised(config, case[1])
    assert found is not None and found.architecture == config.architecture()
    network = PLUGIN.build(found)
    space = list(PLUGIN.spaces(found.architecture))[-1]
    images = torch.from_numpy(pictures(2, config.in_channels))
    expected = REFERENCE["/".join(case)]
    if expected.ndim == 2:  # one w
        expected = expected[:, None]
    expected = expected + tensors["latent_avg"]
    with torch.no_grad():
        if config.refines:
            start = Code(space, network.mean.expand(2, -1, -1))
            codes = network.refine(images[:, :3], images[:, 3:], start).main
        else:
            codes = network.encode(images, space)
    assert np.abs(codes.numpy() - expected).max() < 1e-5 * (expected[0] - expected[1]).std()


@pytest.mark.parametrize(("kind", "dataset"), PASSES)
def test_passes_are_those_of_restyle(tmp_path, kind, dataset):
    config = CONFIGS["restyle-encoder", kind]
    file = written(tmp_path / "e.pt", config, kind, dataset_type=dataset)
    encoder = load_encoder(file)
    images = torch.from_numpy(pictures(2, 3, SIZES[dataset]))
    expected = REFERENCE[f"passes/{dataset}"]
    generator, code = decoder(), Code("w_plus", encoder.mean.expand(2, -1, -1))
    for number in range(2):
        with torch.no_grad():
            code = encoder.refine(images, generator.draw(code), code)
        error = np.abs(code.main.numpy() - expected[:, number]).max()
        assert error < 1e-5 * np.ptp(expected)


def test_the_method_makes_the_same_passes(tmp_path):
    """Of pictures of the generator's size, for 'last'; 'best' keeps the least error of them."""
    encoder = load_encoder(written(tmp_path / "e.pt", REFINING, RESTYLE))
    generator = tiny()
    pixels = generator.draw(generator.sample("w_plus", range(3))).clamp(-1, 1)

    def found(method="refine", **settings):
        section = invert_section({"method": method, "space": "w_plus", **settings})
        return invert_batch(Images(pixels, generator, section, encoder))

    large = torch.nn.functional.interpolate(
        pixels, (256, 256), mode="bilinear", align_corners=False, antialias=True
    )
    code = Code("w_plus", encoder.mean.expand(3, -1, -1))
    errors = []
    for number in range(3):
        with torch.no_grad():
            code = encoder.refine(large, generator.draw(code), code)
        now = found(passes=number + 1, keep="last")
        torch.testing.assert_close(now.code.main, code.main, rtol=1e-4, atol=1e-5)
        errors.append((generator.draw(code) - pixels).square().flatten(1).mean(dim=1))
    errors = torch.stack(errors)
    best = found(passes=3)
    torch.testing.assert_close(best.qualities["loss_end"], errors.min(dim=0).values)
    assert torch.equal(best.qualities["steps"], errors.argmin(dim=0) + 1.0)
    torch.testing.assert_close(now.qualities["loss_end"], errors[-1])
    one = found("encoder").code.main
    torch.testing.assert_close(one, found(passes=1).code.main, rtol=0, atol=0)
    with pytest.raises(UsageError, match="refines a code"):
        encoder.encode(large)


def test_images_of_cars_are_cut_to_their_middle(tmp_path):
    file = written(tmp_path / "e.pt", SMALL, E4E, dataset_type="cars_encode")
    encoder = load_encoder(file)
    assert encoder.size is None
    square = torch.from_numpy(pictures(2))
    changed = square.clone()
    changed[:, :, :32], changed[:, :, 224:] = 1, -1
    codes = encoder.encode(square)
    torch.testing.assert_close(encoder.encode(changed), codes, rtol=0, atol=0)
    torch.testing.assert_close(encoder.encode(square[:, :, 32:224]), codes, rtol=0, atol=0)


# ---- what a file tells ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", CONFIGS, ids="/".join)
def test_every_kind_is_told_by_its_tensors_and_name(case):
    units = (1, 2, 3, 1)
    channels = (4, 4, 8, 12, 16)
    config = replace(CONFIGS[case], units=units, channels=channels, w_dim=8)
    found = recognised(config, case[1])
    assert found is not None and found.architecture == config.architecture()


def test_every_way_to_write_one_encoder_has_one_fingerprint(tmp_path):
    found = [
        read_encoder(written(tmp_path / "a.pt", SMALL, E4E)),
        read_encoder(written(tmp_path / "b.pt", SMALL, E4E, namespace=True, lpips_lambda=0.3)),
    ]
    plain = contents(SMALL, E4E, filled(SMALL))
    flat = {f"module.{name}": value for name, value in plain.pop("state_dict").items()}
    plain["latent_avg"] = plain["latent_avg"][:1]  # one mean for all layers
    found.append(PLUGIN.recognise({"state_dict": flat, **plain}))
    network = load_encoder(str(tmp_path / "a.pt")).network
    found.append(read_encoder(str(save_encoder(network, tmp_path / "c.safetensors"))))
    assert len({each.fingerprint for each in found}) == 1
    other = recognised(SMALL, "GradualStyleEncoder")
    assert other.fingerprint != found[0].fingerprint, "its heads give codes, not offsets"


def test_codes_start_from_the_mean_where_the_options_say_so():
    def mean(kind=E4E, config=SMALL, **opts):
        return recognised(config, kind, **opts).tensors["latent_avg"]

    expected = filled(SMALL)["latent_avg"]
    np.testing.assert_array_equal(mean(), expected)
    np.testing.assert_array_equal(mean(start_from_latent_avg=False), 0 * expected)
    np.testing.assert_array_equal(
        mean("WEncoder", POOLED, start_from_latent_avg=False), filled(POOLED)["latent_avg"]
    )


def test_what_the_file_does_not_say_is_assumed_and_told():
    found = contents(SMALL, E4E, filled(SMALL))
    for option in ("start_from_latent_avg", "dataset_type"):
        del found["opts"][option]
    read = PLUGIN.recognise(found)
    assert list(read.metadata["assumed"]) == ["start_from_latent_avg", "dataset_type"]
    assert "True" in read.metadata["assumed"]["start_from_latent_avg"]
    assert read.fingerprint == recognised(SMALL, E4E).fingerprint
    assert "assumed" not in recognised(SMALL, E4E).metadata


def test_layers_are_those_of_the_generator_beside_the_encoder():
    """e4e for cars has heads for 1024 px and a generator of 512 px."""
    found = contents(SMALL, E4E, filled(SMALL))
    found["state_dict"] |= {f"decoder.convs.{i}.conv.weight": np.zeros(1) for i in range(4)}
    read = PLUGIN.recognise(found)
    assert PLUGIN.spaces(read.architecture) == {"w_plus": (6, 8)}
    images = torch.from_numpy(pictures(1))
    whole = PLUGIN.build(recognised(SMALL, E4E)).encode(images, "w_plus")
    cut = PLUGIN.build(read).encode(images, "w_plus")
    torch.testing.assert_close(cut, whole[:, :6])
    found["state_dict"]["decoder.convs.9.conv.weight"] = np.zeros(1)
    with pytest.raises(CheckpointError, match="8 layers, and the generator beside it has 12"):
        PLUGIN.recognise(found)


def test_one_w_is_repeated_over_the_layers_where_their_number_is_known():
    read = recognised(POOLED, "WEncoder")
    assert PLUGIN.spaces(read.architecture) == {"w": (8,), "w_plus": (8, 8)}
    images = torch.from_numpy(pictures(2))
    w, plus = (PLUGIN.build(read).encode(images, space) for space in ("w", "w_plus"))
    torch.testing.assert_close(plus, w[:, None].expand(-1, 8, -1))
    found = contents(POOLED, "WEncoder", filled(POOLED))
    del found["opts"]["output_size"]
    assert PLUGIN.spaces(PLUGIN.recognise(found).architecture) == {"w": (8,)}


def test_other_files_are_none_of_it():
    for other in ({}, {"g_ema": {}}, [1], {"state_dict": 3}, {"state_dict": {"encoder.x": 1}}):
        assert PLUGIN.recognise(other) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.pop("opts"), "does not state 'encoder_type'.*Encoder4Editing.*torch.save"),
        (lambda c: c["opts"].update(encoder_type="BackboneEncoder"), "states 'BackboneEncoder'"),
        (lambda c: c["opts"].update(encoder_type=3), "'encoder_type' as a 'int'"),
        (lambda c: c["opts"].update(output_size=200), "'output_size': 200"),
        (lambda c: c.pop("latent_avg"), "has no 'latent_avg'"),
        (lambda c: c.update(latent_avg=np.zeros((5, 8), np.float32) + np.eye(5, 8)), r"\(5, 8\)"),
        (lambda c: c.update(latent_avg=np.zeros((1, 4), np.float32)), r"\(1, 4\).*8 x 8"),
        (lambda c: c["state_dict"].pop("encoder.latlayer2.bias"), "missing.*latlayer2.bias"),
        (lambda c: c["state_dict"].update({"encoder.more": np.zeros(3)}), "not known.*'more'"),
        (lambda c: _cut(c, "styles.7"), "7 heads"),
        (lambda c: _cut(c, "styles", "latlayer"), "no head that gives codes"),
        (lambda c: _channels(c, 1), "'in_channels' is 1"),
        (lambda c: c["state_dict"]["encoder.latlayer1.bias"].fill(np.nan), "not finite"),
    ],
)
def test_what_cannot_be_right_is_refused(change, told):
    found = contents(SMALL, E4E, filled(SMALL))
    change(found)
    with pytest.raises(CheckpointError, match=told):
        PLUGIN.recognise(found)


def _cut(found, *names: str) -> None:
    for name in list(found["state_dict"]):
        if name.removeprefix("encoder.").startswith(names):
            del found["state_dict"][name]


def _channels(found, n: int) -> None:
    name = "encoder.input_layer.0.weight"
    found["state_dict"][name] = found["state_dict"][name][:, :n]


def test_a_file_that_runs_code_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return (print, ("run",))

    found = contents(SMALL, E4E, filled(SMALL))
    torch.save({**found, "opts": Attack()}, tmp_path / "e.pt")
    with pytest.raises(UnsafeCheckpointError):
        read_encoder(str(tmp_path / "e.pt"))


def test_an_edited_description_is_refused(tmp_path):
    path = save_encoder(PLUGIN.build(recognised(SMALL, E4E)), tmp_path / "e.safetensors")
    beside = path.with_suffix(".json")
    beside.write_text(beside.read_text().replace('"pyramid"', '"peak"'))
    with pytest.raises(CheckpointError):
        load_encoder(str(path))


# ---- a generator in the same file ----------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """An e4e file with the generator that it was trained with, and that generator."""
    folder = tmp_path_factory.mktemp("both")
    generator = tiny(img_resolution=32)
    found = contents(SMALL, E4E, filled(SMALL))
    del found["opts"]["dataset_type"]
    state = {k: torch.from_numpy(v) for k, v in found["state_dict"].items()}
    decoder = rosinality_state(generator.checkpoint().tensors)
    found["state_dict"] = {**state, **{f"decoder.{k}": v for k, v in decoder.items()}}
    mean = generator.checkpoint().tensors["mapping.w_avg"]
    found["latent_avg"] = torch.from_numpy(mean).repeat(8, 1)
    torch.save(found, folder / "e4e.pt")
    return str(folder / "e4e.pt"), generator


def test_the_generator_in_the_file_is_read_from_it(both):
    file, generator = both
    assert generators.fingerprint(file) == generator.facts.fingerprint
    mean = generator.checkpoint().tensors["mapping.w_avg"]
    np.testing.assert_array_equal(read_encoder(file).tensors["latent_avg"][3], mean)


def test_inspect_tells_both(both, tmp_path):
    shown = describe(Path(both[0]))
    assert shown["kind"] == "generator checkpoint"
    assert shown["encoder beside it"] == "encoder"
    assert shown["encoder's source"] == E4E and shown["encoder's spaces"] == "w_plus 8 x 8"
    assert "not those of cars" in shown["encoder's dataset_type"]
    alone = describe(Path(written(tmp_path / "e.pt", SMALL, E4E)))
    assert (alone["kind"], alone["  backbone"]) == ("encoder", "ir_se")
    found = contents(SMALL, "Encoder5", filled(SMALL))
    torch.save(found, tmp_path / "odd.pt")
    assert "'Encoder5'" in describe(tmp_path / "odd.pt")["cannot be used"]


def test_another_generator_than_the_encoder_s_is_told(both, tmp_path):
    file, generator = both
    other = generator.checkpoint()
    other.tensors["mapping.w_avg"] = other.tensors["mapping.w_avg"] + 1
    write_checkpoint(other, tmp_path / "same.safetensors")
    generators.save_safetensors(tiny(1, img_resolution=32), tmp_path / "other.safetensors")

    def told(generator):
        section = invert_section({"method": "refine"})
        identity = identify(
            tmp_path, section, name="a", seed=0, generator_uri=generator, encoder_uri=file
        )
        return [note for note in model_notes(identity) if note.startswith("encoder:")]

    assumed = ["encoder: dataset_type not in the file: takes square images, not those of cars"]
    assert told(file) == told(str(tmp_path / "same.safetensors")) == assumed
    notes = told(str(tmp_path / "other.safetensors"))
    assert notes[0] in assumed and f"set 'generator' to {file!r}" in notes[1]
