"""Files that users point at: prefixes, parts, settings, types, and what is no checkpoint."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import generators
from generators.encoders.files import encoder_files, read_encoder
from generators.encoders.load import load_encoder, save_encoder
from generators.encoders.w_plus_encoder.network import EncoderConfig, WPlusEncoder
from generators.families.stylegan2.adapter import StyleGAN2Adapter
from generators.families.stylegan2.official_writer import write_official_pickle
from generators.model_file import read_checkpoint
from generators.protocols import labels_in_turn
from generators.tensor_files import safetensors_bytes
from pipelines.evaluation.samples import Samples
from pipelines.folder.store_identity import identify
from pipelines.upkeep.inspect import describe
from schemas.errors import (
    CheckpointError,
    InputError,
    SpecError,
    UnsafeCheckpointError,
    UsageError,
)
from schemas.sections.invert import invert_section
from schemas.spec import parse_spec
from schemas.spec_models import GeneratorSpec, RunSpec
from schemas.store.latent_store import LatentStore
from tests.stylegan2_layouts import rosinality_state, tiny

State = Mapping[str, torch.Tensor]


@pytest.fixture(scope="module")
def generator() -> StyleGAN2Adapter:
    return tiny()


@pytest.fixture(scope="module")
def state(generator: StyleGAN2Adapter) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(v) for name, v in generator.tensors().items()}


def prefixed(prefix: str, state: State) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


# --- prefixes and training checkpoints ----------------------------------------------------------

PREFIXES = ("module.", "decoder.", "generator.", "G.", "G_ema.", "g_ema.module.", "_orig_mod.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_taken_off_and_told(
    prefix: str, generator: StyleGAN2Adapter, state: State, tmp_path: Path
) -> None:
    torch.save(prefixed(prefix, state), tmp_path / "official.pt")
    rosinality = prefixed(prefix, rosinality_state(generator.tensors()))
    mean = generator.w_avg.expand(6, -1).clone()  # pSp and e4e keep one for every layer
    torch.save({"state_dict": rosinality, "latent_avg": mean}, tmp_path / "psp.pt")
    for name in ("official.pt", "psp.pt"):
        found = generators.read(tmp_path / name)
        assert found.fingerprint == generator.fingerprint
        assert repr(prefix) in describe(tmp_path / name)["entry"]


def test_the_moving_average_is_taken_among_several(
    generator: StyleGAN2Adapter, state: State, tmp_path: Path
) -> None:
    other = {name: value + 1 for name, value in state.items()}
    discriminator = {"D.mapping.fc0.weight": torch.ones(2, 2), "D.b4.out.weight": torch.ones(1, 2)}
    flat = {**prefixed("G.", other), **prefixed("G_ema.", state), **discriminator}
    for contents in (
        {"state_dict": flat, "pytorch-lightning_version": "2.1", "epoch": 3, "callbacks": {}},
        {"g": other, "g_ema": state, "d": {"x": torch.ones(1)}},
        {"model": {"generator": other, "generator_ema": state}},
        {"ema": prefixed("module.", state), "net": other},
    ):
        torch.save(contents, tmp_path / "last.ckpt")
        assert generators.read(tmp_path / "last.ckpt").fingerprint == generator.fingerprint
    torch.save({"a": state, "b": prefixed("x.", other)}, tmp_path / "two.pt")
    with pytest.raises(CheckpointError, match="2 generators: 'a'; 'b', names under 'x.'.*alone"):
        generators.read(tmp_path / "two.pt")


def test_one_entry_under_several_names_is_one_generator(state: State, tmp_path: Path) -> None:
    shared = dict(state)
    torch.save({"model": shared, "net": shared}, tmp_path / "g.pt")
    assert generators.read(tmp_path / "g.pt").metadata["entry"] == "'model'"


def test_means_that_differ_by_layer_are_refused(
    generator: StyleGAN2Adapter, tmp_path: Path
) -> None:
    contents = {"g_ema": rosinality_state(generator.tensors()), "latent_avg": torch.randn(6, 8)}
    torch.save(contents, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match="'latent_avg'.*is not one mean of w"):
        generators.read(tmp_path / "g.pt")
    torch.save({**contents, "latent_avg": torch.zeros(0)}, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match="'latent_avg'.*is not one mean of w"):
        generators.read(tmp_path / "g.pt")


def test_tensors_kept_as_numpy_arrays_and_a_mean_under_the_prefix(
    generator: StyleGAN2Adapter, tmp_path: Path
) -> None:
    state = rosinality_state(generator.tensors())
    arrays = {name: value.numpy() for name, value in state.items()}
    for contents in (
        {"g_ema": state, "latent_avg": generator.w_avg.numpy()},
        {"g_ema": arrays, "latent_avg": generator.w_avg.numpy()},
        {"state_dict": prefixed("decoder.", {**state, "latent_avg": generator.w_avg})},
    ):
        torch.save(contents, tmp_path / "g.pt")
        assert generators.read(tmp_path / "g.pt").fingerprint == generator.fingerprint
    torch.save({"g_ema": {**state, "steps": torch.ones(1)}}, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match="'steps' belongs to no.*take it out of the state"):
        generators.read(tmp_path / "g.pt")


# --- settings that a file does not state --------------------------------------------------------


def test_the_same_model_has_one_fingerprint_where_the_settings_are_given(
    tmp_path: Path,
) -> None:
    g = tiny(lr_multiplier=0.5, conv_clamp=256)
    network = g.network.state_dict()
    write_official_pickle(g, tmp_path / "g.pkl")
    torch.save(network, tmp_path / "g.pt")
    torch.save({"g_ema": rosinality_state(g.tensors()), "latent_avg": g.w_avg}, tmp_path / "r.pt")
    save_file({k: v.contiguous() for k, v in network.items()}, tmp_path / "g.safetensors")
    settings = {"lr_multiplier": 0.5, "conv_clamp": 256}
    assert generators.fingerprint(tmp_path / "g.pkl") == g.fingerprint
    for name in ("g.pt", "r.pt", "g.safetensors"):
        path = str(tmp_path / name)
        assert generators.fingerprint(path) != g.fingerprint
        source = GeneratorSpec(path=path, **settings)
        assert (
            generators.fingerprint(source) == g.fingerprint == generators.load(source).fingerprint
        )
        told = generators.facts(path).assumed
        assert told.keys() == settings.keys() and generators.facts(source).assumed == {}
        shown = describe(tmp_path / name)
        assert "0.01 is assumed" in shown["  lr_multiplier"]
        assert re.search(r"suggests about 0\.[456]$", shown["  lr_multiplier"])
        assert "set 'generator.conv_clamp'" in shown["  conv_clamp"]
    ours = tmp_path / "ours.safetensors"
    generators.save_safetensors(generators.load(tmp_path / "g.pt"), ours)
    assert generators.fingerprint(GeneratorSpec(path=str(ours), **settings)) == g.fingerprint
    for name in ("g.pkl", "g.pt"):
        source = GeneratorSpec(path=str(tmp_path / name), **settings)
        generators.save_safetensors(generators.load(source), ours)
        with pytest.raises(CheckpointError, match="'generator.conv_clamp' is 8.0.*256.0: remove"):
            generators.read(GeneratorSpec(path=str(ours), conv_clamp=8))


def test_another_file_of_a_generator_has_its_settings(state: State, tmp_path: Path) -> None:
    g = tiny(lr_multiplier=0.5)
    torch.save(g.network.state_dict(), tmp_path / "g.pt")
    write_official_pickle(g, tmp_path / "g.pkl")
    named = GeneratorSpec(path="elsewhere.pt", lr_multiplier=0.5)
    for name in ("g.pt", "g.pkl"):
        path = str(tmp_path / name)
        assert generators.fingerprint(generators.like(path, named)) == g.fingerprint
        assert generators.like(path, "elsewhere.pt") == path


def test_a_scale_that_goes_with_the_assumed_rate_is_not_remarked(
    state: State, tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "g.pt")
    assert "suggests" not in generators.facts(tmp_path / "g.pt").assumed["lr_multiplier"]


def test_the_specification_takes_a_path_or_a_section(tmp_path: Path) -> None:
    def spec(generator: str) -> RunSpec:
        text = f"name: a\ndataset: {{path: .}}\ninvert: {{method: optimise}}\n{generator}"
        return parse_spec(text, tmp_path)

    plain = spec("generator: g.pt")
    assert plain.generator == plain.generator_path == str(tmp_path / "g.pt")
    section = spec("generator: {path: g.pt, lr_multiplier: 1, conv_clamp: 256}")
    assert section.generator_path == str(tmp_path / "g.pt")
    assert section.generator.settings == {"lr_multiplier": 1, "conv_clamp": 256}
    assert RunSpec.model_validate(json.loads(section.model_dump_json())) == section
    for text, message in (
        ("generator: {lr_multiplier: 1}", "'generator.path' is missing"),
        ("generator: {path: g.pt, conv_clamp: [1]}", "'generator"),
        ("generator: 3", "'generator' is 3"),
    ):
        with pytest.raises(SpecError, match=message) as caught:
            spec(text)
        assert "problems" not in str(caught.value)


def test_settings_of_another_family_or_value_are_refused(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "g.pt")
    for given, message in (
        ({"lr_multiplyer": 1}, "no setting of family 'stylegan2': did you mean 'lr_multiplier'"),
        ({"conv_clamp": -1}, "'generator.conv_clamp' is -1"),
        ({"conv_clamp": "wide"}, "'generator.conv_clamp' is 'wide'"),
    ):
        with pytest.raises(SpecError, match=message):
            generators.read(GeneratorSpec(path=str(tmp_path / "g.pt"), **given))


def test_a_store_notes_what_was_assumed(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "g.pt")
    for source, noted in (
        (str(tmp_path / "g.pt"), {"lr_multiplier", "conv_clamp"}),
        (GeneratorSpec(path=str(tmp_path / "g.pt"), lr_multiplier=0.01), {"conv_clamp"}),
    ):
        root = tmp_path / str(len(noted))
        settings = invert_section({"method": "optimise", "block_rows": 64})
        identity = identify(root, settings, name="a", seed=0, generator_uri=source)
        identity.create(3)
        assert LatentStore.open(identity.path).attrs["generator_assumed"].keys() == noted
        assert noted == {k.split()[1] for k in describe(Path(identity.path)) if "generator " in k}


# --- element types and parts --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_are_read(dtype: torch.dtype, state: State, tmp_path: Path) -> None:
    stored = {name: value.to(dtype) for name, value in state.items()}
    save_file(stored, tmp_path / "g.safetensors")
    torch.save(stored, tmp_path / "g.pt")
    expected = {name: value.float().numpy() for name, value in stored.items()}
    for name in ("g.safetensors", "g.pt"):
        found = generators.read(tmp_path / name).tensors
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert value.dtype == np.float32
            np.testing.assert_array_equal(value, expected[key])


def test_rounded_tensors_are_a_model_of_their_own(
    generator: StyleGAN2Adapter, state: State, tmp_path: Path
) -> None:
    path, beside = tmp_path / "g.safetensors", tmp_path / "g.json"
    generators.save_safetensors(generator, path)
    save_file({name: value.bfloat16() for name, value in state.items()}, path)
    with pytest.raises(CheckpointError, match="take 'fingerprint' out of 'g.json'"):
        generators.load(path)
    facts = json.loads(beside.read_text())
    del facts["fingerprint"]
    for metadata in ({}, {"assumed": 3}, "none", {"assumed": {"colour": 1}}):
        beside.write_text(json.dumps({**facts, "metadata": metadata}))
        found = generators.read(path)
        assert found.fingerprint != generator.fingerprint and found.assumed == {}


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.float8_e4m3fn, "'F8_E4M3'; convert it to float32|float8_e4m3fn.*save the"),
        (torch.int8, "'int8': quantised"),
    ],
)
def test_quantised_tensors_are_named(
    dtype: torch.dtype, message: str, state: State, tmp_path: Path
) -> None:
    stored = {name: value.to(dtype) for name, value in state.items()}
    save_file(stored, tmp_path / "g.safetensors")
    torch.save(stored, tmp_path / "g.pt")
    for name in ("g.safetensors", "g.pt"):
        with pytest.raises(CheckpointError, match=message):
            generators.read(tmp_path / name)


def split(path: Path, tensors: Mapping[str, np.ndarray], parts: int = 2) -> Path:
    """The index of tensors written as several safetensors files, as large models are."""
    names = sorted(tensors)
    files: dict[str, str] = {}
    for i in range(parts):
        file = f"{path.name}-{i + 1:05}-of-{parts:05}.safetensors"
        mine = {name: tensors[name] for name in names[i::parts]}
        path.with_name(file).write_bytes(safetensors_bytes(mine))
        files |= dict.fromkeys(mine, file)
    index = path.with_name(f"{path.name}.safetensors.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index


def test_every_byte_of_every_part_is_in_the_fingerprint(
    generator: StyleGAN2Adapter, tmp_path: Path
) -> None:
    index = split(tmp_path / "g", generator.tensors())
    whole = generators.read(index)
    assert whole.fingerprint == generator.fingerprint
    files = generators.files(str(index))
    assert [f.name.split("-")[1:2] for f in files] == [[], ["00001"], ["00002"]]
    for part in files[1:]:
        good = part.read_bytes()
        part.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert generators.fingerprint(index) != generator.fingerprint
        part.write_bytes(good)
    with pytest.raises(CheckpointError, match="one of 2 parts: give.*'g.safetensors.index.json'"):
        generators.read(files[1])
    files[2].unlink()
    with pytest.raises(CheckpointError, match="part 'g-00002-of-00002.safetensors' is missing"):
        generators.read(index)
    shutil.copy(files[1], files[2])
    with pytest.raises(CheckpointError, match="are not in the files that the index names"):
        generators.read(index)
    index.write_text(json.dumps({"weight_map": {"a": "../g.safetensors"}}))
    with pytest.raises(UnsafeCheckpointError, match="not a file of its own folder"):
        generators.read(index)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="needs a 'weight_map'"):
        generators.read(index)


@pytest.mark.parametrize("parts", [1, 2])
def test_an_encoder_is_compared_with_its_description(parts: int, tmp_path: Path) -> None:
    network = WPlusEncoder(EncoderConfig(16, (4, 6), 8, 3, 5))
    path = save_encoder(network, tmp_path / "e.safetensors")
    fingerprint = read_encoder(str(path)).fingerprint
    if parts == 2:
        path = split(tmp_path / "e", read_encoder(str(path)).tensors)
    assert load_encoder(str(path)).fingerprint == fingerprint
    files = encoder_files(str(path))
    assert {f.suffix for f in files} == {".safetensors", ".json"} and len(files) == (2, 4)[
        parts - 1
    ]
    for part in (f for f in files if f.suffix == ".safetensors"):
        good = part.read_bytes()
        part.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(CheckpointError, match=f"{fingerprint}.*do not belong together"):
            load_encoder(str(path))
        part.write_bytes(good)
    about = json.loads((tmp_path / "e.json").read_text())
    about["architecture"]["resolution"] = 20  # the same tensors, another picture
    (tmp_path / "e.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="do not belong together"):
        load_encoder(str(path))


def test_an_encoder_is_told_from_a_generator(tmp_path: Path) -> None:
    network = WPlusEncoder(EncoderConfig(16, (4, 6), 8, 3, 5))
    path = save_encoder(network, tmp_path / "e.safetensors")
    shown = describe(path)
    assert (shown["kind"], shown["  num_ws"]) == ("encoder", 3)
    assert shown["fingerprint"] == read_encoder(str(path)).fingerprint
    with pytest.raises(CheckpointError, match="describes an encoder: name it under 'encoder'"):
        generators.read(path)
    with pytest.raises(InputError, match="it holds 'e.safetensors': inspect that"):
        describe(tmp_path)
    with pytest.raises(InputError, match="'owner/model' is the id"):
        describe(tmp_path / "owner" / "model")


def test_an_encoder_of_another_generator_is_told_before_a_run(
    generator: StyleGAN2Adapter, tmp_path: Path
) -> None:
    generators.save_safetensors(generator, tmp_path / "g.safetensors")
    network = WPlusEncoder(EncoderConfig(16, (4, 6), 8, 3, 5))
    encoder = str(save_encoder(network, tmp_path / "e.safetensors"))
    with pytest.raises(UsageError, match=r"gives codes of shape \(3, 5\), .* has \(6, 8\)"):
        identify(
            tmp_path,
            invert_section(),
            name="a",
            seed=0,
            generator_uri=str(tmp_path / "g.safetensors"),
            encoder_uri=encoder,
        )


# --- what is no checkpoint ----------------------------------------------------------------------


def zipped(names: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", compression) as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return memory.getvalue()


def tarred() -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("g.pkl"))
    return memory.getvalue()


PAGE = b"\n<!DOCTYPE html><html><head><title>Virus scan warning</title></head></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
SCRIPT = {"m/data.pkl": b"\x80\x02N.", "m/code/m.py": b"#", "m/constants.pkl": b"\x80\x02)."}
EXPORT = {"m/archive_format": b"pt2", "m/models/model.json": b"{}", "m/data/weights/0": b"0"}
OTHER: dict[str, tuple[bytes, str]] = {
    "empty.pkl": (b"", "is empty .0 bytes.: .*fetch it again"),
    "pointer.pkl": (POINTER, "Git LFS pointer.*'git lfs pull'"),
    "pointer.safetensors": (POINTER, "Git LFS pointer.*'git lfs pull'"),
    "page.pkl": (PAGE, "web page.*titled 'Virus scan warning'.*download the file itself"),
    "page.safetensors": (PAGE, "web page"),
    "denied.pt": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "XML text"),
    "missing.pt": (b"Entry not found", "text that begins with 'Entry not found'"),
    "error.pt": (b'{"error": "Repository not found"}', "JSON text"),
    "pytorch_model.bin.index.json": (b'{"weight_map": {}}', "only safetensors files are read"),
    "g.pkl.gz": (gzip.compress(b"x"), "compressed with gzip"),
    "g.tar": (tarred(), "tar archive"),
    "g.zip": (zipped({"a/g.pkl": b"."}, zipfile.ZIP_DEFLATED), "zip archive.*give 'a/g.pkl'"),
    "g.npz": (zipped({"a.npy": b"."}), "NumPy arrays"),
    "g.npy": (b"\x93NUMPY\x01\x00", "NumPy array"),
    "script.pt": (zipped(SCRIPT, zipfile.ZIP_DEFLATED), "TorchScript archive"),
    "export.pt2": (zipped(EXPORT), "torch.export archive "),
    "g.keras": (zipped({"config.json": b"{}", "model.weights.h5": b""}), "Keras model"),
    "g.h5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "g.gguf": (b"GGUF\x03\x00\x00\x00", "GGUF"),
    "g.onnx": (b"\x08\x08\x12\x07pytorch", "ONNX (graph|model)"),
    "g.tflite": (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
    "saved_model.pb": (b"\x08\x01", "TensorFlow graph"),
    "model.ckpt-9.index": (b"\x00\x00\x08", "part of a TensorFlow checkpoint"),
    "g.png": (b"\x89PNG\r\n\x1a\n", "PNG image"),
}


@pytest.mark.parametrize("name", OTHER)
def test_files_of_other_kinds_are_named_with_the_cure(name: str, tmp_path: Path) -> None:
    data, message = OTHER[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        generators.load(path)
    assert type(caught.value) is CheckpointError and str(caught.value).startswith(
        f"{str(path)!r} is "
    )
    if path.suffix != ".safetensors":
        with pytest.raises(CheckpointError, match=message):
            read_encoder(str(path))


def test_what_is_not_there_is_told_apart(state: State, tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for path, message in (
        (folder, "is a folder: it holds no file"),
        (tmp_path / "owner" / "stylegan2-ffhq", "'owner/stylegan2-ffhq' is the id.*download it"),
        (tmp_path / "g.pkl", "does not exist: correct the path$"),
    ):
        for read in (generators.load, lambda path: read_encoder(str(path))):
            with pytest.raises(CheckpointError, match=message):
                read(path)
    torch.save(state, folder / "g.pt")
    with pytest.raises(CheckpointError, match="is a folder: give the file in it.*g.pt'"):
        generators.load(folder)
    (folder / "saved_model.pb").touch()
    with pytest.raises(CheckpointError, match="TensorFlow SavedModel"):
        generators.load(folder)


def test_a_safetensors_file_is_known_by_its_contents(
    generator: StyleGAN2Adapter, tmp_path: Path
) -> None:
    (tmp_path / "weights.bin").write_bytes(safetensors_bytes(generator.tensors()))
    assert generators.fingerprint(tmp_path / "weights.bin") == generator.fingerprint


def test_entries_that_are_no_tensors_are_named(state: State, tmp_path: Path) -> None:
    torch.save({**state, "mapping.extra": {"scale": 1}}, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match="'mapping.extra' is a 'dict', not a plain tensor"):
        generators.load(tmp_path / "g.pt")


# --- channels and classes -----------------------------------------------------------------------


def test_a_grey_generator_draws_grey_in_three_channels(tmp_path: Path) -> None:
    g = tiny(img_channels=1)
    generators.save_safetensors(g, tmp_path / "g.safetensors")
    loaded = generators.load(tmp_path / "g.safetensors")
    codes = loaded.sample("w_plus", [1, 2]).main.requires_grad_()
    images = loaded.synthesise(codes)
    grey = g.network.synthesis(codes)
    assert images.shape == (2, 3, 16, 16) and grey.shape == (2, 1, 16, 16)
    assert all(torch.equal(images[:, k], grey[:, 0]) for k in range(3))
    images.sum().backward()
    assert loaded.architecture["img_channels"] == 1 and loaded.fingerprint == g.fingerprint


@pytest.mark.parametrize("channels", [2, 5])
def test_other_channels_are_refused_when_read(channels: int, tmp_path: Path) -> None:
    torch.save(tiny(img_channels=channels).network.state_dict(), tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match=f"g.pt': .*{channels} channels.*first three rows"):
        read_checkpoint(tmp_path / "g.pt")
    with pytest.raises(InputError, match=f"{channels} channels"):
        describe(tmp_path / "g.pt")


def test_classes_take_turns_in_the_prior() -> None:
    g = tiny(c_dim=3)
    assert labels_in_turn(3, [0, 4, 5, 2**70]) == [0, 1, 2, 2**70 % 3]
    assert labels_in_turn(0, [0]) is None
    many, few = (Samples.of_prior(g, "w_plus", n, 4, 1.0) for n in (6, 2))
    assert list(many.classes) == [1, 2, 0, 1, 2, 0] and list(few.classes) == [1, 2]
    many = many.codes
    np.testing.assert_array_equal(many[:2], few.codes)
    expected = g.sample("w_plus", [5], labels=[2]).main.numpy()
    np.testing.assert_allclose(many[1:2], expected, rtol=0, atol=1e-6)
