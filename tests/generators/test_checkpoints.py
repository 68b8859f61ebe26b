"""Readers of generator files: one model in every layout, damaged files, hostile files."""

from __future__ import annotations

import argparse
import decimal
import io
import json
import pickle
import pickletools
import struct
import sys
import typing
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import generators
from generators.families.stylegan2 import official_writer as official_pickle
from generators.families.stylegan2.adapter import StyleGAN2Adapter
from generators.families.stylegan2.official_writer import write_official_pickle
from generators.families.stylegan2.rosinality import rosinality_name
from generators.model_file import read_checkpoint
from generators.protocols import Code
from generators.style_based import estimate_w_avg
from generators.unpickle import writer as pickle_writer
from generators.unpickle.interpreter import Budget, Global, Inert, Interpreter, Limits
from generators.unpickle.torch_files import Storage, TensorRecord, read_any, rebuild_tensor
from generators.unpickle.torch_modules import module_state, walk
from schemas.errors import (
    CheckpointError,
    NewerLayoutError,
    UnsafeCheckpointError,
    UsageError,
)
from schemas.fingerprint import tensors_fingerprint
from tests.stylegan2_layouts import (
    OfficialPackages,
    rosinality_forward,
    rosinality_state,
    tiny,
)


@pytest.fixture(scope="module")
def generator() -> StyleGAN2Adapter:
    return tiny()


def write_rosinality(
    generator: StyleGAN2Adapter, path: Path, zipped: bool = True, latent_avg: bool = True
) -> None:
    """`convert_weight.py`'s file, or without `latent_avg` `train.py`'s with its optimiser."""
    state = OrderedDict(rosinality_state(generator.tensors()))
    contents: dict[str, Any] = {"g_ema": state}
    if latent_avg:
        contents["latent_avg"] = generator.w_avg.clone()
    else:
        optimiser = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
        contents |= {"g": state, "d": {"x": torch.ones(1)}, "g_optim": optimiser.state_dict()}
        contents |= {"args": argparse.Namespace(size=16, lr=0.002), "ada_aug_p": 0.0}
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)


LAYOUTS: dict[str, Callable[[StyleGAN2Adapter, Path], None]] = {
    "ours.safetensors": generators.save_safetensors,
    "exported.pkl": write_official_pickle,
    "official.pkl": OfficialPackages("EasyDict").write,
    "official_dict.pkl": OfficialPackages("dict").write,
    "rosinality.pt": write_rosinality,
    "rosinality_legacy.pt": lambda g, p: write_rosinality(g, p, zipped=False),
    "state_dict.pt": lambda g, p: torch.save(g.network.state_dict(), p),
    "g_ema_state_dict.pt": lambda g, p: torch.save({"G_ema": g.network.state_dict()}, p),
}


def torch_save_of_official(generator: StyleGAN2Adapter, path: Path, zipped: bool) -> None:
    """A whole generator as PTI saves it: ``torch.save(G)``."""
    with OfficialPackages() as packages:
        network = packages.network(generator)
        torch.save(network, path, _use_new_zipfile_serialization=zipped)


LAYOUTS["pti.pt"] = lambda g, p: torch_save_of_official(g, p, True)
LAYOUTS["pti_legacy.pt"] = lambda g, p: torch_save_of_official(g, p, False)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_one_fingerprint_and_one_image(
    name: str, generator: StyleGAN2Adapter, tmp_path: Path
) -> None:
    path = tmp_path / name
    LAYOUTS[name](generator, path)
    assert "dnnlib" not in sys.modules and "torch_utils" not in sys.modules
    loaded = generators.load(path)
    assert loaded.fingerprint == generator.fingerprint == generators.fingerprint(path)
    assert not loaded.w_avg_estimated
    assert torch.equal(loaded.w_avg, generator.w_avg)
    z = generator.sample("z", [1, 2]).main
    expected = generator.synthesise(generator.convert(Code("z", z), "w_plus", truncation=0.7).main)
    assert torch.equal(
        loaded.synthesise(loaded.convert(Code("z", z), "w_plus", truncation=0.7).main), expected
    )
    assert "dnnlib" not in sys.modules and "torch_utils" not in sys.modules


def test_rosinality_image_equals_rosinality_maths(
    generator: StyleGAN2Adapter, tmp_path: Path
) -> None:
    write_rosinality(generator, tmp_path / "g.pt")
    loaded = generators.load(tmp_path / "g.pt")
    z = generator.sample("z", [3, 4]).main
    expected = rosinality_forward(rosinality_state(generator.tensors()), z)
    error = (loaded.synthesise(z, "z").double() - expected).abs().max() / expected.std()
    assert float(error) < 1e-5


@pytest.mark.parametrize("name", ["exported.pkl", "official.pkl", "ours.safetensors"])
def test_class_conditional_and_clamp_survive(name: str, tmp_path: Path) -> None:
    g = tiny(c_dim=3, conv_clamp=256, lr_multiplier=0.02)
    LAYOUTS[name](g, tmp_path / name)
    loaded = generators.load(tmp_path / name)
    assert loaded.architecture == g.architecture
    assert loaded.architecture["conv_clamp"] == 256.0
    assert loaded.architecture["lr_multiplier"] == 0.02
    assert loaded.fingerprint == g.fingerprint
    assert loaded.fingerprint != tiny(c_dim=3, conv_clamp=128, lr_multiplier=0.02).fingerprint
    z, c = g.sample("z", [1, 2]).main, torch.eye(3)[:2]
    assert torch.equal(loaded.draw(Code("z", z), labels=c), g.draw(Code("z", z), labels=c))


def test_missing_w_avg_is_estimated_and_marked(tmp_path: Path) -> None:
    g = tiny()
    write_rosinality(g, tmp_path / "g.pt", latent_avg=False)
    loaded = generators.load(tmp_path / "g.pt")
    assert loaded.w_avg_estimated and loaded.metadata["w_avg_estimated"]
    assert torch.equal(loaded.w_avg, estimate_w_avg(g.network))
    ws = g.sample("w_plus", range(4000)).main[:, 0]
    assert float((loaded.w_avg - ws.mean(dim=0)).abs().max()) < 0.1
    assert loaded.fingerprint != g.fingerprint
    assert loaded.fingerprint == generators.fingerprint(tmp_path / "g.pt")
    generators.save_safetensors(loaded, tmp_path / "g.safetensors")
    again = generators.load(tmp_path / "g.safetensors")
    assert again.w_avg_estimated and again.fingerprint == loaded.fingerprint
    assert torch.equal(again.w_avg, loaded.w_avg)
    tensors = {name: value for name, value in g.tensors().items() if name != "mapping.w_avg"}
    how = {"w_avg_estimated": {"n": 10_000, "seed": 0}}
    assert loaded.fingerprint == tensors_fingerprint({**g.architecture, **how}, tensors)
    beside = tmp_path / "g.json"
    facts = json.loads(beside.read_text())
    del facts["estimated"]
    beside.write_text(json.dumps({**facts, "w_avg_estimated": True}))  # as of earlier releases
    old = generators.load(tmp_path / "g.safetensors")
    assert old.w_avg_estimated and old.fingerprint == loaded.fingerprint
    beside.write_text(json.dumps({**facts, "estimated": ["mapping.w_avg"]}))
    with pytest.raises(CheckpointError, match="has 'estimated' .*expected a dict"):
        generators.load(tmp_path / "g.safetensors")


def test_rosinality_without_noise_images_draws_without_noise(
    generator: StyleGAN2Adapter, tmp_path: Path
) -> None:
    state = rosinality_state(generator.tensors())
    state = {name: value for name, value in state.items() if not name.startswith("noises.")}
    torch.save({"g_ema": state, "latent_avg": generator.w_avg}, tmp_path / "g.pt")
    loaded = generators.load(tmp_path / "g.pt")
    assert "zeros" in loaded.metadata["noise_const"]
    codes = generator.sample("w_plus", [1]).main
    expected = generator.synthesise(codes, noise_mode="none")
    torch.testing.assert_close(loaded.synthesise(codes), expected, rtol=0, atol=1e-5)


def test_rosinality_names_cover_every_tensor(generator: StyleGAN2Adapter) -> None:
    names = {rosinality_name(name) for name in rosinality_state(generator.tensors())} - {None}
    assert names == set(generator.tensors()) - {"mapping.w_avg"}


def test_exported_pickle_is_what_pythons_own_unpickler_reads(
    generator: StyleGAN2Adapter, tmp_path: Path
) -> None:
    write_official_pickle(generator, tmp_path / "g.pkl")
    data = (tmp_path / "g.pkl").read_bytes()
    named = {a for op, a, _ in pickletools.genops(data) if op.name == "GLOBAL"}
    assert named == {
        "torch_utils.persistence _reconstruct_persistent_obj",
        "dnnlib.util EasyDict",
        "collections OrderedDict",
        "builtins set",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch.storage _load_from_bytes",
    }
    with OfficialPackages():
        contents = pickle.loads(data)  # noqa: S301
    state = contents["G_ema"].state_dict()
    for name, value in generator.tensors().items():
        np.testing.assert_array_equal(state[name].numpy(), value)
    assert contents["G_ema"]._init_kwargs["synthesis_kwargs"]["channel_max"] == 12
    write_official_pickle(generator, tmp_path / "again.pkl")
    assert (tmp_path / "again.pkl").read_bytes() == data


def test_export_refuses_channels_that_the_official_code_cannot_make(tmp_path: Path) -> None:
    g = tiny(channels=(4, 8, 4))
    with pytest.raises(CheckpointError, match="do not follow the official rule"):
        write_official_pickle(g, tmp_path / "g.pkl")
    assert official_pickle.official_channel_rule(tiny().config) == (64, 12)


def test_tensor_types_and_views_are_read(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32)
    values = {
        "view": base.view(4, 6)[1:3, ::2].t(),
        "half": base.half(),
        "bfloat16": base.bfloat16() / 3,
        "int64": base.long(),
        "bool": base > 3,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(base[:2].clone()),
        "tagged": base[:3].clone(),
    }
    values["tagged"].origin = "training"  # a tensor with an attribute is written in another way
    for zipped in (True, False):
        torch.save(values, tmp_path / "t.pt", _use_new_zipfile_serialization=zipped)
        contents = read_any(tmp_path / "t.pt")
        for name, value in values.items():
            expected = value.detach()
            expected = expected.float() if expected.dtype == torch.bfloat16 else expected
            np.testing.assert_array_equal(contents[name].array(name), expected.numpy())


# --- our own format ---------------------------------------------------------------------------


def test_saving_twice_gives_the_same_bytes(generator: StyleGAN2Adapter, tmp_path: Path) -> None:
    for name in ("a", "b"):
        generators.save_safetensors(generator, tmp_path / f"{name}.safetensors")
    for suffix in (".safetensors", ".json"):
        a, b = (tmp_path / f"{name}{suffix}" for name in "ab")
        assert a.read_bytes() == b.read_bytes()
    with pytest.raises(UsageError, match="does not end in '.safetensors'"):
        generators.save_safetensors(generator, tmp_path / "g.pt")


def edit(path: Path, **changes: Any) -> None:
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, **changes}))


def test_a_description_that_does_not_fit_is_refused(
    generator: StyleGAN2Adapter, tmp_path: Path
) -> None:
    path = tmp_path / "g.safetensors"
    beside = tmp_path / "g.json"
    generators.save_safetensors(generator, path)
    good = beside.read_text()
    edit(beside, layout_version=99)
    with pytest.raises(NewerLayoutError, match="upgrade"):
        generators.load(path)
    beside.write_text(good)
    edit(beside, fingerprint="0" * 64)
    with pytest.raises(CheckpointError, match="do not belong together"):
        generators.load(path)
    with pytest.raises(CheckpointError, match="do not belong together"):
        generators.fingerprint(path)
    beside.write_text(good)
    edit(beside, architecture={**generator.architecture, "w_dim": 9})
    with pytest.raises(CheckpointError, match="has shape"):
        generators.load(path)
    edit(beside, architecture={"family": "unheard"})
    with pytest.raises(CheckpointError, match="'unheard'"):
        generators.load(path)
    beside.write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        generators.load(path)
    beside.write_text("{}")
    with pytest.raises(CheckpointError, match="does not describe a generator"):
        generators.load(path)
    beside.write_text(good)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="'g.safetensors' cannot be read.*damaged"):
        generators.load(path)


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        ("bundled:no-such-model", CheckpointError, "not part of this installation"),
        ("bundled:face64", CheckpointError, "did you mean 'bundled:faces64'"),
        ("bundled:../../etc", UsageError, "not a plain name"),
        ("https://example.org/ffhq.pkl", UsageError, "not a local file"),
        ("/nowhere/g.pkl", CheckpointError, "does not exist"),
    ],
)
def test_uris_that_name_no_model(uri: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        generators.load(uri)


def test_bundled_models_are_found_by_name(
    generator: StyleGAN2Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generators, "BUNDLED", tmp_path)
    (tmp_path / "faces64").mkdir()
    generators.save_safetensors(generator, tmp_path / "faces64" / "generator.safetensors")
    for uri in ("bundled:faces64", "bundled:"):
        assert generators.load(uri).fingerprint == generator.fingerprint


# --- files that hold something else -----------------------------------------------------------


def expect(path: Path, message: str, kind: type[Exception] = CheckpointError) -> None:
    with pytest.raises(kind, match=message):
        generators.load(path)


def test_other_architectures_are_named(generator: StyleGAN2Adapter, tmp_path: Path) -> None:
    path = tmp_path / "g.pkl"
    OfficialPackages().write(generator, path, architecture="resnet")
    expect(path, "'connections' is 'resnet', but the tensors are those of 'skip'")
    state = {name: torch.from_numpy(value) for name, value in generator.tensors().items()}
    torch.save({**state, "synthesis.b8.skip.weight": torch.ones(8, 12, 1, 1)}, path)
    expect(path, "missing .'synthesis.b16.skip.weight'.*not known .'synthesis.b4.torgb")
    state.pop("synthesis.b8.torgb.weight")
    torch.save(state, path)
    expect(path, r"missing \['synthesis.b8.torgb.weight'\] \(1\)")
    torch.save({"generator_smooth": {}, "generator": {}}, path)
    expect(path, "has entries")
    torch.save([1, 2], path)
    expect(path, "holds a 'list'")
    torch.save({"g_ema": {"a": 1}}, path)
    expect(path, "neither a network nor a state dict")
    bad = generator.tensors()["mapping.w_avg"] * np.nan
    torch.save({**generator.network.state_dict(), "mapping.w_avg": torch.from_numpy(bad)}, path)
    expect(path, "not finite")
    state = rosinality_state(generator.tensors())
    torch.save({"g_ema": {**state, "convs.0.conv.blur.kernel": torch.ones(4, 4)}}, path)
    expect(path, "'convs.0.conv.blur.kernel' has sum 16.0, expected 4.0")
    torch.save({"g_ema": {**state, "convs.0.conv.blur.kernel": torch.ones(4, 4) / 4}}, path)
    expect(path, "'resample_filter' is .1.0, 1.0, 1.0, 1.0. in 'convs.0.conv.blur.kernel'")
    torch.save({"g_ema": {**state, "to_rgbs.0.unknown": torch.ones(1)}}, path)
    expect(path, "belongs to no rosinality")


def test_types_named_in_a_trainers_settings_are_harmless(tmp_path: Path) -> None:
    g = tiny(img_resolution=4, channel_base=8)
    settings = {"kind": typing.Any, "run": uuid.UUID(int=1), "rate": decimal.Decimal("0.1")}
    torch.save({"state_dict": g.network.state_dict(), "hyper_parameters": settings}, tmp_path / "g")
    assert generators.fingerprint(tmp_path / "g") == g.fingerprint


def test_torchscript_is_told_apart(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02N.")
        archive.writestr("m/constants.pkl", b"\x80\x02).")
    expect(tmp_path / "m.pt", "TorchScript archive.*needs a JSON")


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x80", b"PK\x03\x04", b"hello world", b"\x80\x04N", b"\x89PNG\r\n"]
)
def test_files_that_are_no_checkpoint(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "g.pkl").write_bytes(data)
    expect(tmp_path / "g.pkl", "g.pkl")


@pytest.mark.parametrize("name", ["exported.pkl", "rosinality.pt", "rosinality_legacy.pt"])
def test_truncated_files_are_refused(name: str, tmp_path: Path) -> None:
    g = tiny(img_resolution=4, channel_base=8)
    path = tmp_path / name
    LAYOUTS[name](g, path)
    data = path.read_bytes()
    for size in range(0, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


SMALL = pickle_writer.Emitter().dumps(pickle_writer.nested_tensor(np.arange(6, dtype=np.float32)))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=4))
def test_mutated_pickles_raise_nothing_but_checkpoint_errors(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(SMALL)
    for at, value in changes:
        data[at] = value
    path = tmp_path_factory.getbasetemp() / "mutated.pkl"
    path.write_bytes(data)
    try:
        value = read_any(path)
        if isinstance(value, TensorRecord):
            value.array()
    except CheckpointError:
        pass


# --- hostile files ----------------------------------------------------------------------------


class Calls:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


def raw(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def hostile(marker: Path) -> dict[str, bytes]:
    """Pickles that try to run code, most of them to create `marker`, in every way of calling."""
    import builtins
    import functools
    import operator
    import os
    import runpy
    import subprocess

    shell = f"touch {marker}"
    source = f"open({str(marker)!r}, 'w').close()"
    script = marker.with_suffix(".py")
    script.write_text(source)
    partial = functools.partial(os.system, shell)
    return {
        "os.system": pickle.dumps({"G_ema": Calls(os.system, shell)}),
        "subprocess": pickle.dumps(Calls(subprocess.check_call, ["touch", str(marker)])),
        "eval": pickle.dumps({"g_ema": Calls(eval, source)}),
        "exec, protocol 0": pickle.dumps(Calls(exec, source), protocol=0),
        "runpy": pickle.dumps(Calls(runpy.run_path, str(script))),
        "getattr chain": pickle.dumps(Calls(getattr, Calls(__import__, "os"), "system")),
        "__import__": pickle.dumps(Calls(builtins.__import__, "antigravity")),
        "operator": pickle.dumps(Calls(operator.attrgetter("system"), "os")),
        "open": pickle.dumps(Calls(open, str(marker), "w")),
        "partial called": raw(pickle.dumps(partial, protocol=2)[2:-1], b")R"),
        "INST": b"(S'" + shell.encode() + b"'\nios\nsystem\n.",
        "OBJ": raw(b"(", b"cos\nsystem\n", text(shell), b"o"),
        "STACK_GLOBAL": raw(text("os"), text("system"), b"\x93", text(shell), b"\x85R"),
        "python 2 name": b"c__builtin__\neval\n(S" + repr(source).encode() + b"\ntR.",
        "commands": b"ccommands\ngetoutput\n(S" + repr(shell).encode() + b"\ntR.",
        "dotted": raw(text("builtins"), text("eval.__call__"), b"\x93", text(source), b"\x85R"),
        "_reconstruct module_src": pickle_writer.Emitter().dumps(
            {
                "G_ema": pickle_writer.Call(
                    "torch_utils.persistence",
                    "_reconstruct_persistent_obj",
                    ({"type": "class", "module_src": source, "class_name": "G", "state": None},),
                )
            }
        ),
        "called instance": raw(b"ctorch.nn\nModule\n)R", b")R"),  # a call of what a call returned
        "BUILD on a class": raw(b"ctorch.nn\nModule\n}", text("__setstate__"), b"cos\nsystem\nsb"),
        "extension registry": raw(b"\x82\x01"),
        "persistent id": raw(text("x"), b"Q"),
    }


@pytest.mark.parametrize("wrapping", ["pickle", "legacy", "zip"])
def test_hostile_pickles_run_nothing(wrapping: str, tmp_path: Path) -> None:
    marker = tmp_path / "owned"
    loaded = set(sys.modules)
    for name, payload in hostile(marker).items():
        path = tmp_path / f"hostile.{wrapping}"
        if wrapping == "pickle":
            path.write_bytes(payload)
        elif wrapping == "legacy":
            path.write_bytes(legacy_stream(payload))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", payload)
        with pytest.raises(CheckpointError) as caught:
            generators.load(path)
        assert not marker.exists(), name
        safe_kinds = {"_reconstruct module_src", "persistent id"}
        assert isinstance(caught.value, UnsafeCheckpointError) or name in safe_kinds, name
        assert path.name in str(caught.value) and len(str(caught.value)) < 500
    assert "antigravity" not in set(sys.modules) - loaded


def legacy_stream(payload: bytes) -> bytes:
    """A legacy torch stream whose object pickle is `payload`."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    parts = [pickle.dumps(part, protocol=2) for part in head]
    return b"".join([*parts, payload, pickle.dumps([], protocol=2)])


def nested(stream: bytes) -> bytes:
    """A pickle of a tensor over ``_load_from_bytes(stream)``, inside 'G_ema'."""
    call = pickle_writer.Call
    storage = call("torch.storage", "_load_from_bytes", (stream,))
    tensor = call("torch._utils", "_rebuild_tensor_v2", (storage, 0, (1,), (1,), False, ()))
    return pickle_writer.Emitter().dumps({"G_ema": {"mapping.fc0.weight": tensor}})


def test_hostile_streams_inside_storages_run_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "owned"
    path = tmp_path / "g.pkl"
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", hostile(marker)["os.system"])
    inner = pickle_writer.storage_stream(np.ones(1, np.float32))
    twice = nested(legacy_stream(nested(inner)))
    for stream in [legacy_stream(payload) for payload in hostile(marker).values()]:
        path.write_bytes(nested(stream))
        expect(path, "g.pkl")
    path.write_bytes(nested(zipped.getvalue()))
    expect(path, "zip format")
    path.write_bytes(twice)
    expect(path, "instead of a storage", UnsafeCheckpointError)
    path.write_bytes(nested(legacy_stream(pickle.dumps({"a": 1}, protocol=2))))
    expect(path, "instead of a storage", UnsafeCheckpointError)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["../evil/data.pkl", "/abs/data.pkl", "a/../../x", "C:/x", "..\\x", "a/..\\..\\x"]
)
def test_zip_names_outside_the_archive_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "g.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr(name, b"x")
    expect(path, "points outside", UnsafeCheckpointError)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["g.pt"]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_zip_bombs_and_duplicates_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"0" * 10_000_000)
    expect(path, "compressed entry", UnsafeCheckpointError)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data.pkl", b"\x80\x02].")
    expect(path, "same entry twice")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/byteorder", b"big")
    expect(path, "big-endian")


def zip_with_tensor(path: Path, numel: int, rest: tuple[Any, ...], data: bytes) -> None:
    """A zip torch file: one tensor with arguments `rest` over a storage that claims `numel`."""
    pid = ("storage", pickle_writer.Name("torch", "FloatStorage"), "0", "cpu", numel)
    tensor = pickle_writer.Call(
        "torch._utils", "_rebuild_tensor_v2", (pickle_writer.Persistent(pid), *rest, False, ())
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle_writer.Emitter().dumps({"t": tensor}))
        archive.writestr("archive/data/0", data)


@pytest.mark.parametrize(
    ("numel", "rest", "message"),
    [
        (2**60, (0, (2**60,), (1,)), "claims 1152921504606846976 elements"),
        (-1, (0, (4,), (1,)), "no proper key or element count"),
        (4, (0, (5,), (1,)), "does not fit"),
        (4, (1, (4,), (1,)), "does not fit"),
        (4, (0, (2,), (4,)), "does not fit"),
        (4, (0, (2**40,), (0,)), "does not fit"),
        (4, (-1, (4,), (1,)), "offset"),
        (4, (0, (4,), (-1,)), "stride"),
        (4, (0, (2, 2), (1,)), "2 sizes but 1 strides"),
        (4, (0, (1,) * 9, (1,) * 9), "at most 8"),
        (4, (0, (True,), (1,)), "counts from 0"),
        (4, (2**70, (1,), (1,)), "does not fit"),
    ],
)
def test_claims_beyond_the_storage_are_refused(
    numel: int, rest: tuple[Any, ...], message: str, tmp_path: Path
) -> None:
    zip_with_tensor(tmp_path / "g.pt", numel, rest, bytes(16))
    with pytest.raises(CheckpointError, match=message):
        read_any(tmp_path / "g.pt")


def test_legacy_storage_that_claims_more_than_there_is(tmp_path: Path) -> None:
    stream = pickle_writer.storage_stream(np.ones(4, np.float32))
    at = len(stream) - 24
    assert stream[at : at + 8] == struct.pack("<q", 4)
    for bad in (stream[:-1], stream[:at] + struct.pack("<q", -4) + stream[at + 8 :]):
        (tmp_path / "g.pkl").write_bytes(nested(bad))
        expect(tmp_path / "g.pkl", "damaged or truncated")


def test_memo_bombs_cost_nothing(tmp_path: Path) -> None:
    # t0 = None, then t_{i+1} = (t_i, t_i), 200 times: 2**200 leaves in 200 tuples.
    steps = [b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" + b"0" for i in range(200)]
    prefix = b"N\x940" + b"".join(steps)
    bomb = b"h\xc8"
    path = tmp_path / "bomb.pkl"
    path.write_bytes(raw(prefix, bomb))
    expect(path, "holds a 'tuple'")
    path.write_bytes(raw(prefix, b"}", bomb, b"Ns"))
    expect(path, "key of type 'tuple'", UnsafeCheckpointError)
    path.write_bytes(raw(prefix, b"\x8f(", bomb, b"\x90"))
    expect(path, "key of type 'tuple'", UnsafeCheckpointError)
    path.write_bytes(raw(prefix, b"}", text("G_ema"), b"}", text("x"), bomb, b"ss"))
    expect(path, "neither a network nor a state dict")


def test_modules_that_contain_themselves_are_refused(tmp_path: Path) -> None:
    # state = {"_modules": {"m": <the module itself>}}, as BUILD of an object in the memo.
    module = b"ctorch.nn\nModule\n)\x81\x94}" + text("_modules") + b"}" + text("m") + b"h\x00ssb"
    (tmp_path / "g.pkl").write_bytes(raw(module))
    expect(tmp_path / "g.pkl", "one object of class 'torch.nn.Module'")
    endless = Inert(Global("torch.nn", "Module"))
    endless.state = {"_modules": {"m": endless}}
    with pytest.raises(CheckpointError, match="nest deeper than 16"):
        list(walk(endless))


@pytest.mark.parametrize(
    ("data", "limits", "message"),
    [
        (raw(b"N0" * 100, b"N"), Limits(max_opcodes=100), "more than 100 opcodes"),
        (raw(b"(" * 2000), Limits(), "nests deeper than 1000"),
        (raw(b"N" * 50), Limits(max_stack=40), "stack above 40"),
        (raw(b"}"), Limits(max_bytes=3), "the cap is 3"),
        (raw(b"\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000), Limits(), "integer above"),
        (raw(b"}\x8a\x10" + b"\x7f" * 16 + b"Ns"), Limits(), "integer above 64 bits as a key"),
        (raw(b"B" + struct.pack("<I", 2**32 - 1)), Limits(), "cannot be read"),
        (raw(b"\x8e" + struct.pack("<Q", 2**62)), Limits(), "cannot be read"),
        (raw(b"Nr\xff\xff\xff\xff"), Limits(), "holds a 'NoneType'"),
        (raw(b"h\x05"), Limits(), "cannot be read"),
        (b"\x80\x06N.", Limits(), "protocol is 6"),
        (raw(b"0"), Limits(), "empty stack"),
        (raw(b"N(s"), Limits(), "mark"),
        (raw(b"t"), Limits(), "misses a mark"),
    ],
)
def test_caps_and_nonsense(data: bytes, limits: Limits, message: str, tmp_path: Path) -> None:
    (tmp_path / "g.pkl").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "g.pkl", limits)


def test_opcodes_are_counted_over_nested_streams(tmp_path: Path) -> None:
    path = tmp_path / "g.pkl"
    write_official_pickle(tiny(), path)
    with pytest.raises(UnsafeCheckpointError, match="more than 2000 opcodes"):
        read_checkpoint(path, Limits(max_opcodes=2000))


@settings(max_examples=100, deadline=None)
@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.binary(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.text(), inner)
            | st.tuples(inner, inner)
            | st.frozensets(st.integers(-9, 9))
            | st.sets(st.text())
        ),
        max_leaves=20,
    ),
    protocol=st.integers(0, 5),
)
def test_plain_data_is_read_like_pythons_unpickler_does(value: Any, protocol: int) -> None:
    file = io.BytesIO(pickle.dumps(value, protocol=protocol))
    assert Interpreter(Budget(Limits())).load(file) == value


@pytest.mark.parametrize(
    ("size", "stride"),
    [((0, 1 << 60), (1, 1)), ((1, 4), (1 << 62, 1)), ((0,) + (1 << 40,) * 3, (1, 1, 1, 1))],
)
def test_tensors_that_no_memory_holds_are_refused(size, stride):
    with pytest.raises(CheckpointError, match="does not fit its storage"):
        rebuild_tensor(Storage("<f4", 4), 0, size, stride)
    assert rebuild_tensor(Storage("<f4", 4), 0, (1, 4), (9, 1)).size == (1, 4)


@pytest.mark.parametrize("part", ["_modules", "_parameters", "_buffers"])
def test_a_module_whose_parts_are_no_dicts_is_none(part):
    call = Inert(Global("torch.nn", "Module"), state={"_modules": {}, "_buffers": None})
    assert module_state(call) == ("Module", call.state)
    call.state = {**call.state, part: Inert(Global("torch.nn", "Module"))}
    assert module_state(call) is None


@pytest.mark.parametrize("keys", [[["0"]], [{}], ["9"], "0", [3]])
def test_a_legacy_file_with_odd_storage_keys_is_refused(tmp_path, keys):
    path = tmp_path / "x.pt"
    torch.save(torch.ones(2), path, _use_new_zipfile_serialization=False)
    file = io.BytesIO(path.read_bytes())
    for _ in range(4):  # magic, protocol, system, object
        list(pickletools.genops(file))
    path.write_bytes(file.getvalue()[: file.tell()] + pickle.dumps(keys, 2) + bytes(64))
    with pytest.raises(CheckpointError, match="storage keys"):
        read_any(path)
