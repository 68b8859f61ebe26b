"""BigGAN against the original code, a second implementation, and what its files can say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance.generator import GeneratorSuite
from places import ROOT
from safetensors.numpy import save_file

import generators
from generators.activations import PREFIX
from generators.families.base import Checkpoint, Configured
from generators.families.biggan import PLUGIN
from generators.families.biggan.adapter import BigGANGenerator
from generators.families.biggan.network import statistics_at
from generators.model_file import files_of, read_checkpoint, write_checkpoint
from generators.protocols import Code, Edit
from generators.seeds import drawn
from pipelines.engine.blocks import InProcess
from pipelines.folder.store_identity import identify
from pipelines.runs.plan import plan_stages
from pipelines.sources.open import open_source
from pipelines.stages.index import update_index
from pipelines.stages.invert import invert
from pipelines.upkeep.inspect import describe
from schemas.directions.direction import unit_direction
from schemas.errors import CheckpointError, DirectionMismatchError, SpecError, UsageError
from schemas.index import DatasetIndex
from schemas.sections.dataset import DatasetSpec
from schemas.sections.invert import invert_section
from schemas.spec import load_spec
from schemas.spec_models import GeneratorSpec
from schemas.store import LatentStore
from tests.generators.families.references.biggan import KINDS, latents, read
from tests.networks.biggan import CLASSES, HF_CONFIG, brock_images, brock_state, hf_state
from tests.stylegan2_layouts import tiny
from transforms.inversion.stored import stored_code


def built(kind: str, **settings: Any) -> BigGANGenerator:
    return PLUGIN.build(read(kind, **settings))


def near(found: Any, expected: np.ndarray) -> None:
    """To 1e-4 of the images' standard deviation."""
    worst = np.abs(np.asarray(found) - expected).max()
    assert worst <= 1e-4 * expected.std(), worst / expected.std()


class TestHuggingFace(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return read("hf")


class TestHierarchical(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return read("hierarchical")


class TestOfClasses(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return read("of_classes")


# ---- statistics


def test_standing_statistics_are_divided_by_the_passes_that_they_are_sums_of() -> None:
    state = brock_state("hierarchical", "bn.")
    summed = dict(state)
    for name in state:
        if name.endswith(("stored_mean", "stored_var")):
            summed[name] = state[name] * 16
            summed[f"{name.rpartition('.')[0]}.accumulation_counter"] = np.full(1, 16, np.float32)
    once, many = PLUGIN.recognise(state), PLUGIN.recognise(summed)
    assert once is not None and many is not None and once.fingerprint == many.fingerprint
    z, weights = latents(12), np.eye(CLASSES, dtype=np.float32)[[0, 2]]
    images = PLUGIN.build(many).draw(Code("z", torch.from_numpy(z)), labels=[0, 2])
    near(images, brock_images(state, "hierarchical", z, weights, "bn."))
    moved = {n: v * 0.3 if n.endswith("counter") else v for n, v in summed.items()}
    with pytest.raises(CheckpointError, match=r"accumulation_counter' is 4\.8.*accumulate them"):
        PLUGIN.recognise(moved)


def test_running_statistics_of_synchronised_normalisation_are_read() -> None:
    own = brock_state("deep", "bn.")
    other = {name.replace("bn.stored_", "bn.running_"): value for name, value in own.items()}
    found, same = PLUGIN.recognise(other), PLUGIN.recognise(own)
    assert found is not None and same is not None and found.fingerprint == same.fingerprint


def test_statistics_between_two_sets_are_mixed_as_the_package_does() -> None:
    sets = np.arange(51, dtype=np.float32)[:, None]
    assert statistics_at(sets, 1.0) == 50 and statistics_at(sets, 0.5) == 25
    assert statistics_at(sets, 0.025) == pytest.approx(1.75)  # 1.25 were the weights not swapped
    assert statistics_at(sets, 0.58) == pytest.approx(28.0)
    assert statistics_at(sets, 0.56) == pytest.approx(29.0)


# ---- spaces


def test_z_is_drawn_from_the_prior_that_the_file_says() -> None:
    for kind, prior in (("hf", "truncated_normal"), ("deep", "normal")):
        model = built(kind)
        z = model.sample("z", range(400)).main.numpy()
        np.testing.assert_array_equal(z, drawn(prior, range(400), z.shape[1:]))
        assert (np.abs(z).max() <= 2) == (prior == "truncated_normal")
        half = model.sample("z", range(400), truncation=0.5).main.numpy()
        np.testing.assert_allclose(half, 0.5 * z)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_embedding_draws_what_its_label_does(kind: str) -> None:
    model = built(kind)
    z, labels = model.sample("z", [1, 2, 3]), [0, 2, 3]
    images = model.draw(z, labels=labels)
    for space in set(model.facts.spaces) & {"zc", "c", "z_plus"}:
        code = model.convert(z, space, labels=labels)
        torch.testing.assert_close(model.draw(code), images)
    c = model.convert(z, "c", labels=labels)
    back = model.convert(model.convert(c, "zc"), "c")
    torch.testing.assert_close(back.main, c.main)
    between = c.moved(c.main[[0, 0, 0]].lerp(c.main[[1, 1, 1]], 0.5))
    mixed = np.zeros((3, model.facts.classes), np.float32)
    mixed[:, [0, 2]] = 0.5
    torch.testing.assert_close(model.draw(between), model.draw(z, labels=mixed))
    with pytest.raises(UsageError, match="codes of 'zc' give none of 'z'"):
        model.convert(model.convert(z, "zc", labels=labels), "z")


def test_layers_are_the_places_that_take_z() -> None:
    """As of a deep network z stands in every layer, chunks of it in those of a hierarchical one."""
    deep, chunked = built("hf"), built("hierarchical")
    z = deep.sample("z", [1, 2], labels=[0, 1])
    plus = deep.convert(z, "z_plus", labels=[0, 1])
    assert torch.equal(plus.main, z.main[:, None].expand(-1, 6, -1))
    assert deep.facts.repeated("z_plus") == "z" and chunked.facts.repeated("z_plus") is None
    other = chunked.sample("z", [1, 2])
    chunks = chunked.convert(other, "z_plus", labels=[0, 1]).main
    assert chunks.shape == (2, 4, 3) and torch.equal(chunks.flatten(1), other.main)
    assert "z_plus" not in built("of_classes").facts.spaces
    for model, code, last in ((deep, plus, 5), (chunked, None, 3)):
        code = code or model.convert(other, "z_plus", labels=[0, 1])
        layer = model.network.get_submodule(f"b{last - 1}")
        seen: list[torch.Tensor] = []
        handle = layer.register_forward_hook(lambda m, i, o, seen=seen: seen.append(i[0]))
        moved = code.main.clone()
        moved[:, last] += 1
        images = [model.draw(c) for c in (code, code.moved(moved))]
        handle.remove()
        torch.testing.assert_close(*seen)  # what comes before the layer is the same
        assert not torch.allclose(*images)


def test_a_direction_of_z_edits_the_layers_that_are_named() -> None:
    model = built("hf")
    code = model.sample("z_plus", [1, 2], labels=[0, 1])
    vector = np.random.default_rng(0).normal(size=6)
    made = {"generator_fp": model.facts.fingerprint}
    direction = unit_direction("d", "z", vector, method="planted", sd=1.0, provenance=made)
    moved = code.main.clone()
    moved[:, 2:4] += torch.tensor(direction.vector).float()
    edit = Edit(direction, 1.0, layers=[2, 3])
    torch.testing.assert_close(model.draw(code, edits=[edit]), model.draw(code.moved(moved)))


def test_truncation_of_the_first_layers_is_of_z_plus_alone() -> None:
    model = built("hf")
    z = model.sample("z", [1])
    near_centre = model.convert(z, "z_plus", labels=[1], truncation=0.5, cutoff=2)
    torch.testing.assert_close(near_centre.main[0, :2], 0.5 * z.main.expand(2, -1))
    torch.testing.assert_close(near_centre.main[0, 2:], z.main.expand(4, -1))
    with pytest.raises(UsageError, match="in the first 2 layers"):
        model.convert(z, "zc", labels=[1], truncation=0.5, cutoff=2)
    zc = model.convert(z, "zc", labels=[1], truncation=0.0)
    torch.testing.assert_close(zc.main[0], model.centre("zc", [1])[0])


def test_features_are_recorded_and_added_to_within_a_mask() -> None:
    model = built("deep")
    code = model.sample("zc", [1], labels=[1])
    layer = f"{PREFIX}b1"
    shape = model.facts.space(layer).shape
    found = model.convert(code, layer)
    assert found.main.shape == (1, *shape)
    made = {"generator_fp": model.facts.fingerprint}
    vector = np.random.default_rng(0).normal(size=shape)
    direction = unit_direction("d", layer, vector, method="planted", sd=5.0, provenance=made)
    plain = model.draw(code)
    edited = model.draw(code, edits=[Edit(direction, 1.0)])
    nothing = Edit(direction, 1.0, options={"mask": np.zeros(shape[1:])})
    torch.testing.assert_close(model.draw(code, edits=[nothing]), plain)
    assert not torch.allclose(edited, plain)
    with pytest.raises(DirectionMismatchError):
        model.draw(model.sample("z", [1]), labels=[1], edits=[Edit(direction, 1.0)])
    with pytest.raises(UsageError, match="cannot be sampled"):
        model.sample(layer, [1])
    with pytest.raises(UsageError, match="has no mean code"):
        model.centre(layer)


def test_rows_drawn_from_the_prior_keep_what_they_are_drawn_with(tmp_path: Path) -> None:
    path, spec = tmp_path / "g.safetensors", DatasetSpec(kind="sampled", n=5, seed=1)
    write_checkpoint(read("hf"), path)
    model = built("hf")
    for space, beside in (("z_plus", "c"), ("c", "z")):
        keys = invert_section({"space": space, "block_rows": 64})
        identity = identify(
            tmp_path, keys, name="drawn", seed=0, generator_uri=str(path), dataset=spec
        )
        source = open_source(spec, identity.facts)
        index = update_index(DatasetIndex.empty(), source, spec)[0]
        invert(index, source, identity, engine=InProcess())
        rows = np.arange(5)
        found = stored_code(LatentStore.open(identity.path), model.facts.space(space), rows)
        code = model.sample(space, range(1, 6))
        assert torch.equal(found.main, code.main) and list(found.companions) == [beside]
        assert torch.equal(found.companions[beside], code.companions[beside])
        torch.testing.assert_close(model.draw(found), model.draw(code))


# ---- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "biggan-deep-16"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(HF_CONFIG))
    state = {name: torch.from_numpy(value) for name, value in hf_state().items()}
    torch.save(state, path / "pytorch_model.bin")
    return path


def test_a_folder_is_a_generator_in_torchs_and_in_safetensors_format(folder: Path) -> None:
    found = read_checkpoint(folder)
    assert found.family == "biggan" and found.fingerprint == read("hf").fingerprint
    assert found.assumed == {"statistics_truncation": 1.0}
    facts = generators.facts(folder)
    assert facts.size == (16, 16) and facts.classes == 5
    assert "truncation that codes are drawn with" in facts.assumed["statistics_truncation"]
    assert files_of(folder) == [folder / "config.json", folder / "pytorch_model.bin"]
    assert "left out" not in describe(folder)
    save_file(hf_state(seed=1), folder / "model.safetensors")
    told = "the weights 'pytorch_model.bin', as those of 'model.safetensors' are read"
    assert describe(folder)["left out"] == told
    save_file(hf_state(), folder / "model.safetensors")
    (folder / "pytorch_model.bin").unlink()
    assert read_checkpoint(folder).fingerprint == found.fingerprint
    assert files_of(folder) == [folder / "config.json", folder / "model.safetensors"]
    (folder / "model.safetensors").rename(folder / "of-another-name.safetensors")
    assert read_checkpoint(folder).fingerprint == found.fingerprint
    assert generators.load(str(folder)).facts.fingerprint == found.fingerprint


@pytest.mark.parametrize("space", ["z_plus", "zc"])
def test_the_example_is_a_specification(folder: Path, tmp_path: Path, space: str) -> None:
    text = (ROOT / "examples" / "biggan.yaml").read_text()
    model = ("/models/biggan-deep-128", str(folder))
    for there, here in (model, ("[207, 208]", "[1, 3]"), ("components: 16", "components: 4")):
        assert there in text
        text = text.replace(there, here)
    if space == "zc":
        text = text.replace("z_plus}", "zc}").replace("\n  pca:", "\n  #").replace("# pca:", "pca:")
        assert "\n  pca: {n_components: 4, space: c}" in text
    (tmp_path / "biggan.yaml").write_text(text)
    states = {s.name: s.state for s in plan_stages(load_spec(tmp_path / "biggan.yaml"))}
    assert states.pop("annotate") == "current"  # there is nothing to measure
    assert set(states.values()) == {"missing"} and len(states) == 5


def test_a_folder_is_described_and_what_is_wrong_with_it_told(folder: Path) -> None:
    facts = describe(folder)
    assert facts["family"] == "biggan" and "z_plus 6 x 6" in facts["spaces"]
    for text in ("{", "[1]", "null"):
        (folder / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match="'config.json' beside it is not the description"):
            read_checkpoint(folder)
    (folder / "config.json").write_text('{"eps": 0}')
    with pytest.raises(CheckpointError, match="'eps' of 'config.json' is 0, expected a number"):
        read_checkpoint(folder)
    torch.save(tiny().network.state_dict(), folder / "pytorch_model.bin")
    assert read_checkpoint(folder).fingerprint == tiny().fingerprint
    torch.save({"a": torch.zeros(2)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pytorch_model.bin': file holds no generator"):
        read_checkpoint(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="is a folder: it holds no file that ends"):
        read_checkpoint(folder)


def test_the_statistics_in_use_are_part_of_the_generator(folder: Path, tmp_path: Path) -> None:
    spec = GeneratorSpec(path=str(folder), statistics_truncation=0.4)
    facts = generators.facts(spec)
    assert not facts.assumed and facts.fingerprint != generators.fingerprint(folder)
    model, code = generators.load(spec), built("hf").sample("zc", [1])
    assert not torch.allclose(model.draw(code), generators.load(folder).draw(code))
    write_checkpoint(generators.read(spec), tmp_path / "g.safetensors")
    assert generators.fingerprint(tmp_path / "g.safetensors") == facts.fingerprint
    with pytest.raises(CheckpointError, match="states 0.4: remove the key"):
        read_checkpoint(tmp_path / "g.safetensors", settings={"statistics_truncation": 1.0})
    with pytest.raises(SpecError, match="statistics_truncation' is 1.5"):
        read_checkpoint(folder, settings={"statistics_truncation": 1.5})
    torch.save({k: torch.from_numpy(v) for k, v in brock_state("deep").items()}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="states None: remove the key"):
        read_checkpoint(tmp_path / "b.pth", settings={"statistics_truncation": 0.4})
    own = read_checkpoint(tmp_path / "b.pth", settings={"bn_eps": 1e-4, "prior": "normal"})
    assert own.architecture["bn_eps"] == 1e-4 and own.architecture["output_eps"] == 1e-5
    assert not own.assumed


def test_weights_without_their_folder_are_of_blocks_that_alternate(tmp_path: Path) -> None:
    config = {**HF_CONFIG, "layers": [[False, 16, 8], [True, 8, 4], [False, 4, 2], [True, 2, 1]]}
    state = {f"module.{name}": torch.from_numpy(v) for name, v in hf_state(config).items()}
    torch.save({"model": state}, tmp_path / "pytorch_model.bin")
    found = read_checkpoint(tmp_path / "pytorch_model.bin")
    blocks = found.architecture["blocks"]
    assert [doubles for _, _, doubles in blocks] == [False, True] * 2
    assert found.assumed == {"statistics_truncation": 1.0, "bn_eps": 1e-4, "blocks": blocks}
    told = PLUGIN.recognise(Configured(hf_state(config), config))
    assert told is not None and told.fingerprint == found.fingerprint
    assert told.assumed == {"statistics_truncation": 1.0}
    write_checkpoint(found, tmp_path / "g.safetensors")
    for checkpoint in (found, read_checkpoint(tmp_path / "g.safetensors")):
        assert PLUGIN.facts(checkpoint).assumed["blocks"].startswith("1, 3 are assumed to double")
    with pytest.raises(SpecError, match="generator.blocks"):
        read_checkpoint(tmp_path / "pytorch_model.bin", settings={"blocks": blocks})
    silent = PLUGIN.recognise(Configured(hf_state(config), {"eps": 1e-4}))
    assert silent is not None and "blocks" in silent.assumed


def test_what_a_config_says_of_itself_is_no_fault() -> None:
    about = {"model_type": "big_gan", "architectures": ["BigGAN"], "_name_or_path": "x"}
    found = PLUGIN.recognise(Configured(hf_state(), {**HF_CONFIG, **about, "dtype": "float32"}))
    assert found is not None and found.fingerprint == read("hf").fingerprint


def changed(state: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A state dict with other entries; None takes one out. Dots are written as two underscores."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    kept = {name: value for name, value in state.items() if name not in named}
    return kept | {name: value for name, value in named.items() if value is not None}


HF_U, BROCK_U = "generator.conv_to_rgb.weight_u", "linear.u0"


@pytest.mark.parametrize(
    ("state", "config", "told"),
    [
        ({"generator.bn.running_vars": None}, {}, "'generator.bn.running_vars' is missing"),
        ({"generator.conv_to_rgb.weight_v": None}, {}, "weight_v' is missing"),
        ({HF_U: np.ones(3, np.float32)}, {}, "singular vectors of 'generator.conv_to_rgb'"),
        ({HF_U: np.zeros(4, np.float32)}, {}, "spectral norm of 'generator.conv_to_rgb' is 0.0"),
        ({"generator.extra": np.ones(3, np.float32)}, {}, "'generator.extra'.* of no BigGAN"),
        ({"generator.gen_z.bias": np.ones(3, np.float32)}, {}, "'generator.gen_z' gives 1024"),
        ({"embeddings.weight": np.ones((6, 5), np.int8)}, {}, "holds 'int8': quantised"),
        ({"generator.bn.bias": np.full(4, np.nan, np.float32)}, {}, "not finite"),
        ({"generator.bn.running_vars": np.full((51, 4), -1, np.float32)}, {}, "below 0"),
        ({"generator.layers.1.gamma": None}, {}, "'generator.layers.1' is neither a block"),
        ({}, {"layers": [[True, 16, 8]]}, "'layers' of 'config.json' is"),
        ({}, {"channel_width": 8}, "block 0 takes and gives"),
        ({}, {"num_classes": 4}, "'num_classes' of 'config.json' is 4, the tensors say 5"),
        ({}, {"output_dim": 32}, "'output_dim' of 'config.json' is 32, the tensors say 16"),
        (
            {},
            {"class_embed_dim": 99},
            "'class_embed_dim' of 'config.json' is 99, the tensors say 6",
        ),
        ({}, {"activation": "gelu"}, "'config.json' has 'activation': 'gelu', which no published"),
        ({}, {"model_type": "bert"}, "says that the model is 'bert', its tensors are a BigGAN"),
        ({}, {"architectures": ["X"]}, "says that the model is 'X'"),
        ({}, {"eps": "small"}, "'eps' of 'config.json' is 'small'"),
    ],
)
def test_what_is_wrong_in_a_folder_is_told(state: Any, config: Any, told: str) -> None:
    given = changed(hf_state(), **state)
    with pytest.raises(CheckpointError, match=told):
        PLUGIN.recognise(Configured(given, {**HF_CONFIG, **config}))


@pytest.mark.parametrize(
    ("kind", "state", "told"),
    [
        ("deep", {"blocks.5.0.bn4.stored_mean": None}, "only batch normalisation with"),
        ("deep", {"linear.weight": np.ones((0, 11), np.float32)}, "'linear.weight' is of shape"),
        ("deep", {"linear.bias": None}, "'linear.bias' is missing"),
        ("hierarchical", {BROCK_U: np.zeros((1, 256), np.float32)}, "norm of 'linear' is 0.0"),
        ("hierarchical", {"output_layer.2.weight": np.ones((4, 16, 3, 3), np.float32)}, "channels"),
        ("of_classes", {"blocks.0.0.conv_sc.extra": np.ones(1, np.float32)}, "of no BigGAN"),
        ("of_classes", {"blocks.1.0.conv1.bias": np.ones(5, np.float32)}, "has shape \\(5,\\)"),
    ],
)
def test_what_is_wrong_in_brocks_state_dicts_is_told(kind: str, state: Any, told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        PLUGIN.recognise(changed(brock_state(kind), **state))


def test_other_files_are_of_no_biggan() -> None:
    discriminator = {"blocks.0.0.conv1.weight": np.ones((4, 4, 3, 3), np.float32)}
    for contents in (discriminator, {}, [1], None, Configured({}, HF_CONFIG)):
        assert PLUGIN.recognise(contents) is None
    with pytest.raises(CheckpointError, match="no BigGAN|is not that of a BigGAN"):
        PLUGIN.checked(Checkpoint({**read("hf").architecture, "kind": "shallow"}, {}))
    with pytest.raises(CheckpointError, match="missing"):
        PLUGIN.checked(Checkpoint(read("hf").architecture, {}))
