"""R3GAN: its files, and what is refused of them. Pictures: `references.r3gan`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance.generator import GeneratorSuite

from generators.families.base import Checkpoint
from generators.families.catalog import facts_of
from generators.families.r3gan import PLUGIN
from generators.families.r3gan.reader import from_tensors
from generators.model_file import contents_of, read_checkpoint
from generators.protocols import Code
from generators.unpickle.interpreter import Global, Inert
from generators.unpickle.torch_modules import module_state, walk
from schemas.errors import CheckpointError, UsageError
from tests.generators.families.references.r3gan import arrays, state, tiny

BFLOAT16, LABELS = "bfloat16 stages, drawn in float32", "labels"


class TestR3GAN(GeneratorSuite):
    family = PLUGIN
    checkpoint = staticmethod(tiny)


class TestConditionalR3GAN(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        tensors = state(2, (6, 8), c_dim=3, embed=4)
        tensors["AggregationLayer.Layer.weight"] = tensors["AggregationLayer.Layer.weight"][:1]
        return from_tensors(tensors, {})


@pytest.fixture
def official(tmp_path: Path) -> Path:
    path = tmp_path / "network-snapshot-000001000.pkl"
    path.write_bytes(arrays()[BFLOAT16]["file"].tobytes())
    return path


def module_at(contents: Any, path: str) -> Any:
    """A module of the generator in a file's contents."""
    found = contents["G_ema"]
    for name in path.split(".") if path else ():
        found = module_state(found)[1]["_modules"][name]
    return found


def tensors_of(contents: Any) -> dict[str, np.ndarray]:
    """What `state_dict` of the official generator gives."""
    return {
        f"{path}.{name}".lstrip("."): record.array(name)
        for path, _, held in walk(contents["G_ema"])
        for part in ("_parameters", "_buffers")
        for name, record in held[part].items()
        if record is not None
    }


# ---- files ---------------------------------------------------------------------------------------


def test_every_format_is_the_same_model(official: Path, tmp_path: Path) -> None:
    contents = contents_of(official)
    expected = read_checkpoint(official)
    weights = {k: torch.from_numpy(v.copy()) for k, v in tensors_of(contents).items()}
    assert "Model.MainLayers.0.Layers.0.Basis" in weights
    torch.save(weights, tmp_path / "state.pt")
    bare = {name.removeprefix("Model."): value for name, value in weights.items()}
    torch.save(
        {"epoch": 3, "G_ema": {f"module.{k}": v for k, v in bare.items()}}, tmp_path / "b.pt"
    )
    for file in ("state.pt", "b.pt"):
        assert read_checkpoint(tmp_path / file).fingerprint == expected.fingerprint
    persistent = {
        "type": "class",
        "version": 6,
        "module_src": "import os",
        "class_name": "Generator",
    }
    persistent["state"] = module_state(contents["G_ema"])[1]
    maker = Global("torch_utils.persistence", "_reconstruct_persistent_obj")
    found = PLUGIN.recognise({"G_ema": Inert(maker, (persistent,))})
    assert found is not None and found.fingerprint == expected.fingerprint
    alone = PLUGIN.recognise(module_at(contents, "Model"))
    assert alone is not None and alone.fingerprint == expected.fingerprint


def test_what_the_file_says_of_precision_is_told_and_enters_no_fingerprint(official: Path) -> None:
    contents = contents_of(official)
    read = PLUGIN.recognise(contents)
    assert read is not None and read.metadata == {
        "source": "official",
        "entry": "'G_ema'",
        "left_out": ["bfloat16, in which 2 stages compute: all is drawn in float32"],
    }
    for stage in range(3):
        half = module_state(module_at(contents, f"Model.MainLayers.{stage}"))[1]
        half["DataType"] = Global("torch", "float32")
    again = PLUGIN.recognise(contents)
    assert again is not None and "left_out" not in again.metadata
    assert again.fingerprint == read.fingerprint


def test_the_network_alone_is_recognised_not_its_discriminator(tmp_path: Path) -> None:
    basis = np.zeros((8, 1, 4, 4), np.float32)
    found = {"MainLayers.0.Layers.0.LinearLayer1.Layer.weight": basis,
             "MainLayers.2.Layers.1.Basis.weight": basis}  # fmt: skip
    assert PLUGIN.recognise(found) is None
    assert PLUGIN.recognise({"mapping.fc0.weight": basis[0, 0]}) is None
    assert PLUGIN.recognise([1, 2]) is None


def test_seeds_and_classes_are_those_of_the_official_script() -> None:
    model = TestConditionalR3GAN.family.build(TestConditionalR3GAN.checkpoint())
    codes = model.sample("z", [7, 8])
    expected = np.random.RandomState(7).randn(1, 10).astype(np.float32)
    assert np.array_equal(codes.main[:1].numpy(), expected)
    given, mixed = (model.draw(codes, labels=c) for c in ([1, 2], np.eye(3, dtype=np.float32)[1:]))
    assert torch.equal(given, mixed) and not torch.equal(given, model.draw(codes, labels=[2, 2]))
    assert torch.equal(given[:, 0], given[:, 2])


def test_spaces_are_z_and_the_output_of_every_layer() -> None:
    facts = facts_of(tiny())
    assert list(facts.spaces) == [
        "z", "features.b4.basis", "features.b4.block0",
        "features.b8.up", "features.b8.block0", "features.b8.block1",
        "features.b16.up", "features.b16.block0",
    ]  # fmt: skip
    assert facts.space("features.b16.up").shape == (6, 16, 16)
    model = PLUGIN.build(tiny())
    codes = model.sample("z", [1, 2])
    basis = model.convert(codes, "features.b4.basis").main
    weights = torch.from_numpy(tiny().tensors["b4.basis.weight"])
    maps = torch.from_numpy(tiny().tensors["b4.basis.maps"])
    assert torch.allclose(basis, (codes.main @ weights.T)[:, :, None, None] * maps, atol=1e-6)
    for wrong, text in (("z", "give none of 'z'"), ("features.b4.block0", "give none of")):
        with pytest.raises(UsageError, match=text):
            model.convert(Code("features.b4.basis", basis), wrong)
    with pytest.raises(UsageError, match="drawn by no way"):
        model.draw(Code("features.b4.basis", basis))
    with pytest.raises(UsageError, match="no mean code"):
        model.centre("features.b4.basis")
    with pytest.raises(UsageError, match="leave 'cutoff' out"):
        model.convert(codes, "z", truncation=0.5, cutoff=2)


# ---- what is refused -----------------------------------------------------------------------------

LAYER = "Model.MainLayers.2.Layers.1"


def renamed(path: str, class_name: str) -> Callable[[Any], None]:
    def change(contents: Any) -> None:
        module_at(contents, path).function = Global("R3GAN.Networks", class_name)

    return change


def given(path: str, **attributes: Any) -> Callable[[Any], None]:
    return lambda contents: module_at(contents, path).state.update(attributes)


def odd_filter(contents: Any) -> None:
    renamed("Model.MainLayers.1.Layers.0.Resampler", "InterpolativeUpsamplerReference")(contents)
    kernel = module_at(contents, "Model.MainLayers.1.Layers.0.Resampler").state["_buffers"][
        "Kernel"
    ]
    kernel.size = (3, 3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (renamed(f"{LAYER}.NonLinearity1", "BiasedSwish"), "'BiasedSwish'.*BiasedActivationCUDA"),
        (renamed("Model.MainLayers.1.Layers.0.Resampler", "Nearest"), "'Nearest'"),
        (renamed("Model.MainLayers.1", "AttentionStage"), "'AttentionStage'.*'GeneratorStage'"),
        (given(f"{LAYER}.NonLinearity1", slope=0.1), "'slope' 0.1, which the official code"),
        (given(f"{LAYER}.LinearLayer2.Layer", padding=(0, 0)), r"'padding' \(0, 0\), only \(1, 1"),
        (given(f"{LAYER}.LinearLayer2.Layer", padding_mode="reflect"), "'reflect', only 'zeros'"),
        (given(f"{LAYER}.LinearLayer2.Layer", transposed=1), "'transposed' 1, only False"),
        (given("Model.MainLayers.1", DataType=Global("torch", "int8")), "'DataType' 'torch.int8'"),
        (given("Model.MainLayers.1", DataType=None), "'DataType' 'NoneType'"),
        (lambda contents: module_at(contents, LAYER).state.update({7: 1}), "has '7' 1, which"),
        (given(LAYER, _forward_hooks={0: "twice"}), "has hooks in '_forward_hooks'"),
        (given(LAYER, _gain=3.0), "has '_gain' 3.0, which neither torch"),
        (given("Model.EmbeddingLayer", scale=2.0), "'scale' 2.0, which the official code"),
        (odd_filter, "filter of 3 taps, with which it does not double the size"),
    ],
)
def test_what_is_not_the_official_network_is_refused_by_name(
    change: Callable[[Any], None], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "g.pkl"
    path.write_bytes(arrays()[LABELS]["file"].tobytes())
    contents = contents_of(path)
    change(contents)
    with pytest.raises(CheckpointError, match=told):
        PLUGIN.recognise(contents)


def without(name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in state(1).items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        (state(1) | {"Style.weight": np.zeros(3, np.float32)}, r"holds \['Style.weight'\] \(1\)"),
        (without("MainLayers.0.Layers.0.LinearLayer.weight"), "'b4.basis.weight' is 'missing'"),
        (without("AggregationLayer.Layer.weight"), "'torgb.weight' is 'missing'"),
        (without("MainLayers.1.Layers.1.NonLinearity1.Bias"), r"missing \['b8.block0.conv0.bi"),
        (without("MainLayers.1.Layers.0.Resampler.Kernel"), "not known .*b16"),
        (state(1) | {"AggregationLayer.Layer.weight": np.ones((5, 6, 1, 1), np.float32)},
         "images of 5 channels"),
        (state(1) | {"AggregationLayer.Layer.weight": np.ones((3, 7, 1, 1), np.float32)},
         r"'torgb.weight' has shape \(3, 7, 1, 1\), expected \(3, 6, 1, 1\)"),
        (state(1) | {"AggregationLayer.Layer.weight": np.ones((3, 6, 1, 1), np.int8)}, "'int8'"),
        (state(1) | {"MainLayers.0.Layers.0.Basis": np.full((8, 4, 4), np.inf, np.float32)},
         "not finite"),
        (state(1) | {"MainLayers.0.Layers.0.Basis": np.ones((8, 5, 5), np.float32)},
         r"'b4.basis.maps' has shape \(8, 5, 5\)"),
        (state(1) | {"EmbeddingLayer.weight": np.ones((10, 3), np.float32)}, "'z_dim' is 0"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(tensors: dict[str, np.ndarray], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        PLUGIN.recognise(tensors)


def test_an_architecture_that_is_none_is_refused() -> None:
    good = tiny()
    stages = good.architecture["stages"]
    for change, told in (
        ({"stages": []}, "'stages' is empty"),
        ({"stages": [{**stages[0], "groups": 3}]}, "groups do not divide"),
        ({"stages": [{**stages[0], "blocks": -1}]}, "at least 1"),
        ({"kernel_size": 4}, "expected an odd number"),
        ({"filter_size": 1}, "expected at least 2"),
        ({"c_dim": 4}, "both are 0 or neither"),
        ({"noise": True}, "unexpected keyword"),
        ({"family": "stylegan2"}, "expected 'r3gan'"),
    ):
        with pytest.raises(CheckpointError, match=f"not that of an R3GAN.*{told}"):
            PLUGIN.checked(Checkpoint({**good.architecture, **change}, good.tensors))
