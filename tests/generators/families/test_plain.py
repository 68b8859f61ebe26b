"""Networks that nobody here made: state dicts, ONNX, torch.export and TorchScript."""

from __future__ import annotations

import json
import pickle
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conformance.generator import GeneratorSuite
from networks.plain import (
    CLASSES,
    NUMBERED,
    ONNX,
    WIDTH,
    LapGan,
    MsgGan,
    Vae,
    dcgan,
    declare,
    exported_file,
    numbered,
    onnx_file,
    randomised,
    scripted_file,
)
from onnx import helper
from safetensors.torch import save_file

import generators
from generators.families.base import Checkpoint
from generators.families.plain import PLUGIN
from generators.model_file import read_checkpoint
from generators.obtained import gan_face_generate
from generators.obtained.recipe import recipe
from generators.onnx_files import Port
from generators.protocols import GRADIENTS, Code
from pipelines.analyses.base import Known
from pipelines.analyses.jacobian import PLUGIN as JACOBIAN
from pipelines.analyses.s_space import PLUGIN as S_SPACE
from pipelines.analyses.sefa import PLUGIN as SEFA
from pipelines.analyses.spaces import Spaces
from pipelines.folder.store_identity import identify
from pipelines.upkeep.inspect import describe
from schemas.errors import CheckpointError, SpecError, UntrustedError, UsageError
from schemas.index import DatasetIndex
from schemas.sections.invert import invert_section
from schemas.sections.jacobian import JacobianSpec
from schemas.sections.s_space import SSpaceSpec
from schemas.sections.sefa import SefaSpec
from schemas.spec_models import GeneratorSpec, RunSpec, TrustedPath, trusted

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def made(name: str, make: Any, **said: Any) -> Checkpoint:
    """The checkpoint of a file that `make` writes, with a declaration beside it."""
    with tempfile.TemporaryDirectory() as folder:
        path = make(Path(folder, name))
        return read_checkpoint(declare(path, **said) if said else path, trusted=True)


def saved(state: Any) -> Any:
    def write(path: Path) -> Path:
        torch.save(state, path)
        return path

    return write


# ---- what every generator keeps ------------------------------------------------------------------


class TestDcgan(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return made("g.pt", saved({"netG": dcgan().state_dict(), "epoch": 3}))


class TestVae(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return made("g.ckpt", saved({"state_dict": randomised(Vae()).state_dict()}))


class TestOnnx(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return made("g.onnx", onnx_file, **ONNX)


class TestExported(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return made("g.pt2", exported_file, **NUMBERED)


class TestScripted(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        def write(path: Path) -> Path:
            return scripted_file(path, dcgan(), torch.zeros(2, WIDTH, 1, 1))

        said = {"input": {"shape": [WIDTH, 1, 1]}, "output": {"size": 8, "channels": 3}}
        return made("g.pt", write, **said)


# ---- the same pictures as the networks themselves (of state dicts: `references.plain`) -----------


@pytest.mark.parametrize(
    ("network", "name"),
    [(dcgan(), "dcgan"), (Vae(), "vae"), (MsgGan(), "msg_gan"), (LapGan(), "lapgan")],
)
def test_a_named_architecture_is_told_by_its_tensors(network, name, tmp_path) -> None:
    randomised(network, seed=1)
    torch.save({"module." + k: v for k, v in network.state_dict().items()}, tmp_path / "g.pt")
    model = generators.load(tmp_path / "g.pt")
    code = model.sample("z", range(4))
    assert model.checkpoint().architecture["architecture"] == name
    uniform = name == "lapgan"  # as its paper says
    assert (float(code.main.abs().max()) <= 1) == uniform
    assert model.facts.space("z").prior == ("uniform" if uniform else "normal")


def test_an_exported_network_draws_what_it_draws_in_torch(tmp_path) -> None:
    network, example = numbered(), (torch.randn(3, 2, 3), torch.tensor([0, 1, 2]))
    path = exported_file(tmp_path / "g.pt2")
    told = json.loads(message_of(path).partition("such as ")[2])
    told["labels"]["classes"] = CLASSES
    declare(path, **told)  # what the refusal proposes is enough, but for the number of classes
    model = generators.load(path)
    with torch.no_grad():
        found = model.draw(Code("z", example[0]), labels=[0, 1, 2])
        torch.testing.assert_close(found, network(*example)[1], rtol=1e-5, atol=1e-5)
    weights = torch.eye(3)
    torch.testing.assert_close(model.draw(Code("z", example[0]), labels=weights), found)
    with pytest.raises(UsageError, match="one class number a row"):
        model.draw(Code("z", example[0]), labels=weights * 0.5 + 0.1)


def test_an_onnx_model_draws_in_its_range_layout_and_classes(tmp_path) -> None:
    model = generators.load(declare(onnx_file(tmp_path / "g.onnx"), **ONNX))
    weight = onnx.numpy_helper.to_array(onnx.load(tmp_path / "g.onnx").graph.initializer[0])
    code = model.sample("z", [5, 6])
    zy = np.concatenate([code.main.numpy(), np.eye(3)[[2, 0]]], axis=1)
    grey = 2 / (1 + np.exp(-(zy @ weight))) - 1
    found = model.draw(code, labels=[2, 0])
    assert found.shape == (2, 3, 6, 4) and GRADIENTS not in model.facts.capabilities
    for channel in range(3):
        np.testing.assert_allclose(found[:, channel].reshape(2, 24), grey, atol=1e-6)
    with pytest.raises(UsageError, match="without gradients"):
        model.draw(Code("z", code.main.requires_grad_()), labels=[2, 0])


def test_data_files_of_an_onnx_model_count(tmp_path) -> None:
    path = declare(onnx_file(tmp_path / "g.onnx"), **ONNX)
    whole = generators.load(path)
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="g.bin",
                    size_threshold=100)  # fmt: skip
    apart = generators.load(path)
    code = whole.sample("z", range(3))
    torch.testing.assert_close(*(m.draw(code, labels=[0, 1, 2]) for m in (whole, apart)))
    assert {file.name for file in generators.files(path)} == {"g.onnx", "g.bin", "g.json"}
    before = generators.fingerprint(path)
    data = bytearray((tmp_path / "g.bin").read_bytes())
    data[1] ^= 1
    (tmp_path / "g.bin").write_bytes(data)
    assert generators.fingerprint(path) != before == apart.facts.fingerprint


# ---- what is declared ----------------------------------------------------------------------------


def message_of(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        generators.load(path)
    return str(caught.value)


def test_the_declaration_proposed_by_the_refusal_fits(tmp_path) -> None:
    path = onnx_file(tmp_path / "g.onnx")
    told = json.loads(message_of(path).partition("such as ")[2])
    assert told["labels"] == {"name": "y", "classes": 3, "as": "one_hot"}
    assert told["output"]["layout"] == "NHWC"
    assert generators.load(declare(path, **told)).facts.size == (6, 4)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"input": {"name": "x"}}, r"inputs \['z', 'y'\], .* names 'x'"),
        ({"labels": None}, "as that of labels: name each"),
        ({"input": {"name": "z", "shape": [6]}}, r"'input.shape' the shape \[6\] .* \[5\]"),
        ({"output": {"size": 8, "layout": "NHWC"}}, r"\[8, 8, None\] .NHWC. .* \[6, 4, 1\]"),
        ({"output": {}}, r"as 'NCHW' have 6 channels"),
        ({"output": {"layout": "NHWC", "rang": [0, 1]}}, "'output.rang', .*'range'"),
        ({"output": {"layout": "NHWC", "range": [1, 1]}}, "two numbers that differ"),
        ({"input": {"name": "z", "prior": "gauss"}}, "'gauss' as 'input.prior'"),
        ({"labels": {"name": "y", "classes": 0}}, "0 as 'labels.classes'"),
        ({"labels": {"name": "y", "classes": 4}}, r"y float32 \(n, 3\).* 4 classes, \(n, 4\)"),
        ({"labels": {"name": "y", "classes": 3, "as": "number"}}, r"'number' of 3 classes, \(n\)"),
        ({"output": {"layout": "NHWC", "range": [0, 255]}}, r"from 0\..* to .*\[0\.0, 255\.0\]"),
        ({"architecture": "dcgan"}, "holds its own: leave it out"),
        ({"family": "plane"}, "'plane'"),
    ],
)
def test_a_declaration_that_does_not_fit_is_told(said, message, tmp_path) -> None:
    path = declare(onnx_file(tmp_path / "g.onnx"), **{**ONNX, **said})
    with pytest.raises((CheckpointError, UsageError), match=message):
        generators.load(path)


def test_a_state_dict_is_declared_where_it_must_be(tmp_path) -> None:
    path = tmp_path / "g.pt"
    torch.save({"G": dcgan().state_dict(), "E": dcgan(4).state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"G \(dcgan\).*name one as 'entry'"):
        generators.load(path)
    assert generators.facts(declare(path, entry="E")).space("z").shape == (4,)
    for said, message in (
        ({"entry": "E", "input": {"shape": [5]}}, r"\[5\] as 'input.shape', the file \[4\]"),
        ({"entry": "E", "output": {"size": 64}}, r"\[64, 64\] as 'output.size', the file \[8, 8\]"),
        ({"entry": "F"}, "no network .* under 'F' of .*'G', 'E'"),
        ({"architecture": "vae"}, "no network of the architecture 'vae'"),
        ({"entry": "E", "labels": {"name": "y", "classes": 2}}, "'labels', which a state dict"),
        ({"entry": "E", "output": {"layout": "NHWC"}}, "'output.layout', which a state dict"),
        ({"entry": "E", "output": {"name": "x"}}, "'output.name', which a state dict"),
    ):
        with pytest.raises(CheckpointError, match=message):
            generators.load(declare(path, **said))


def test_tensors_may_lie_beside_the_networks_of_a_training(tmp_path) -> None:
    path = tmp_path / "g.pt"
    noise = {"fixed_noise": torch.zeros(4, WIDTH, 1, 1), "epoch": torch.tensor(3)}
    torch.save({"netG": dcgan().state_dict(), **noise}, path)
    assert generators.load(path).facts.size == (8, 8)
    torch.save({"netG": {"0.weight": torch.zeros(2)}, **noise}, path)
    with pytest.raises(CheckpointError, match="what is not recognised is read from ONNX"):
        generators.load(path)


def test_any_file_of_tensors_can_be_declared(tmp_path) -> None:
    save_file({f"G.{k}": v for k, v in dcgan().state_dict().items()}, tmp_path / "g.safetensors")
    said = {"architecture": "dcgan", "output": {"range": [0, 1]}, "input": {"prior": "uniform"}}
    model = generators.load(declare(tmp_path / "g.safetensors", **said))
    code = model.sample("z", range(2))
    with torch.no_grad():
        expected = 2 * dcgan()(code.main[:, :, None, None]) - 1
    torch.testing.assert_close(model.draw(code), expected)
    assert {file.name for file in generators.files(tmp_path / "g.safetensors")} == {
        "g.safetensors", "g.json",
    }  # fmt: skip
    (tmp_path / "g.json").write_text('{"family": "plain",}')
    with pytest.raises(CheckpointError, match="'g.json' beside it is not JSON"):
        generators.load(tmp_path / "g.safetensors")


def test_the_prior_is_a_setting_where_nobody_declares_it(tmp_path) -> None:
    torch.save(dcgan().state_dict(), tmp_path / "g.pt")
    source = GeneratorSpec(path=str(tmp_path / "g.pt"), prior="uniform")
    assert "generator.prior" in generators.facts(tmp_path / "g.pt").assumed["prior"]
    told = generators.facts(source)
    assert told.space("z").prior == "uniform" and not told.assumed
    drawn = generators.load(source).sample("z", range(40)).main
    assert 0.9 < float(drawn.abs().max()) <= 1
    declare(tmp_path / "g.pt", input={"prior": "normal"})
    with pytest.raises(CheckpointError, match="'generator.prior' is 'uniform', but .* 'normal'"):
        generators.load(source)
    with pytest.raises(SpecError, match="'generator.piror'"):
        generators.load(GeneratorSpec(path=str(tmp_path / "g.pt"), piror="uniform"))


def test_weights_that_are_not_finite_are_told(tmp_path) -> None:
    state = dcgan().state_dict()
    state["3.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match="'3.weight' holds numbers that are not finite"):
        generators.load(tmp_path / "g.pt")
    state = dcgan().state_dict()
    state["1.running_var"][2] = -0.5
    torch.save(state, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match="'1.running_var' holds a variance of -0.5"):
        generators.load(tmp_path / "g.pt")


# ---- tried before it is used ---------------------------------------------------------------------

TRICKS: dict[str, tuple[Any, str]] = {
    "noise": (
        [
            helper.make_node("RandomNormalLike", ["x"], ["e"]),
            helper.make_node("Add", ["x", "e"], ["x2"]),
        ],
        "another picture of the same code each time",
    ),
    "neighbours": (
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "m"], ["x2"]),
        ],
        "depends on the codes beside it.*eval",
    ),
    "nan": ([helper.make_node("Log", ["x"], ["x2"])], "not finite"),
}


@pytest.mark.parametrize(
    ("scale", "told"), [(1e3, "correct 'output.range'"), (1e38, "values that are not finite")]
)
def test_a_state_dict_is_tried_as_a_program_is(scale: float, told: str, tmp_path) -> None:
    state = randomised(MsgGan(), seed=1).state_dict()
    for name in state:
        if scale > 1e9 or name.startswith("rgb_converters.2"):
            state[name] *= scale
    torch.save(state, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match=told):
        generators.load(tmp_path / "g.pt")


def test_pictures_of_0_to_255_are_not_taken_for_others(tmp_path) -> None:
    nodes = [helper.make_node("Mul", ["grey", "most"], ["bytes"])]
    path = onnx_file(tmp_path / "g.onnx")
    model = onnx.load(path)
    most = onnx.numpy_helper.from_array(np.array(255, "f4"), "most")
    model.graph.initializer.append(most)
    model.graph.node[-1].input[0] = "bytes"
    model.graph.node.insert(len(model.graph.node) - 1, nodes[0])
    onnx.save(model, path)
    said = {**ONNX, "output": {"layout": "NHWC"}}
    with pytest.raises(CheckpointError, match=r"to 2\d\d.*\[-1\.0, 1\.0\]: correct 'output.range'"):
        generators.load(declare(path, **said))
    said["output"]["range"] = [0, 255]
    generators.load(declare(path, **said))


def test_more_classes_than_there_are_is_told(tmp_path) -> None:
    said = {**NUMBERED, "labels": {**NUMBERED["labels"], "classes": CLASSES + 2}}
    with pytest.raises(CheckpointError, match=r"classes \[0, 1, 4\].*correct 'labels'"):
        generators.load(declare(exported_file(tmp_path / "g.pt2"), **said))


def test_a_damaged_exported_archive_is_told(tmp_path) -> None:
    path = exported_file(tmp_path / "g.pt2")
    for end in (-200, 100):
        path.write_bytes(path.read_bytes()[:end])
        with pytest.raises(CheckpointError, match="torch.export that is cut off or damaged"):
            generators.load(declare(path, **NUMBERED))


@pytest.mark.parametrize("trick", TRICKS)
def test_networks_that_cannot_be_used_are_told_before_a_run(trick, tmp_path) -> None:
    nodes, message = TRICKS[trick]
    assert message_of_trial(onnx_file(tmp_path / "g.onnx", nodes), message)


def message_of_trial(path: Path, message: str) -> bool:
    with pytest.raises(CheckpointError, match=message) as caught:
        generators.load(declare(path, **ONNX))
    assert str(caught.value).count(str(path)) == 1
    return True


def test_a_fixed_number_of_rows_is_told(tmp_path) -> None:
    message_of_trial(onnx_file(tmp_path / "a.onnx", batch=4), "4 rows at a time.*free first axis")
    inside = onnx_file(tmp_path / "b.onnx", shape=(3, 6, 4, 1))  # as a trace has it
    message_of_trial(inside, "fails on 1 codes.*free first axis")
    path = exported_file(tmp_path / "c.pt2", with_rows)
    with pytest.raises(CheckpointError, match="2 rows at a time.*Dim"):
        generators.load(declare(path, **NUMBERED))


def with_rows(model: bytes) -> bytes:
    """A graph as it is exported without dynamic shapes, as far as its inputs tell."""
    found = json.loads(model)
    found["graph_module"]["graph"]["tensor_values"]["z"]["sizes"][0] = {"as_int": 2}
    return json.dumps(found).encode()


def test_of_two_pictures_one_is_named(tmp_path) -> None:
    path = onnx_file(tmp_path / "g.onnx", outputs=("fine", "coarse"))
    with pytest.raises(CheckpointError, match=r"outputs \['fine', 'coarse'\].*'output.name'"):
        generators.load(declare(path, **ONNX))
    said = {**ONNX, "output": {**ONNX["output"], "name": "coarse"}}
    assert generators.load(declare(path, **said)).facts.channels == 1


# ---- nothing of a file is run --------------------------------------------------------------------


def test_torchscript_is_loaded_where_it_is_trusted_alone(tmp_path) -> None:
    path = scripted_file(tmp_path / "g.pt", dcgan(), torch.zeros(2, WIDTH, 1, 1))
    declare(path, input={"shape": [WIDTH, 1, 1]}, output={"size": 8, "channels": 3})
    assert generators.facts(path).size == (8, 8)
    for source in (path, str(path), GeneratorSpec(path=str(path))):
        with pytest.raises(UntrustedError, match="g.pt' is TorchScript, .*--trust"):
            generators.load(source)
    for source in (trusted(str(path)), trusted(GeneratorSpec(path=str(path)))):
        model = generators.load(source)
    code = model.sample("z", range(2))
    with torch.no_grad():
        torch.testing.assert_close(model.draw(code), dcgan()(code.main))
    assert not isinstance(GeneratorSpec(path=str(path)).path, TrustedPath)


def test_only_known_operators_of_an_exported_graph_run(tmp_path) -> None:
    for operator in ("torch.ops.aten.from_file.default", "builtins.eval", "torch.ops.aten.tanh.x"):

        def changed(model: bytes, operator: str = operator) -> bytes:
            assert b"torch.ops.aten.tanh.default" in model
            return model.replace(b"torch.ops.aten.tanh.default", operator.encode())

        path = exported_file(tmp_path / "g.pt2", changed)
        with pytest.raises(CheckpointError, match=f"operator '{operator}', which is none of those"):
            generators.load(declare(path, **NUMBERED))


# ---- where it is used ----------------------------------------------------------------------------


def test_what_needs_gradients_says_so_before_a_run(tmp_path) -> None:
    path = str(declare(onnx_file(tmp_path / "g.onnx"), **ONNX))

    def of(section: dict[str, Any]) -> Any:
        return identify(tmp_path, invert_section(section), generator_uri=path, name="x", seed=0)

    with pytest.raises(UsageError, match="'optimise', which needs gradients.*'encoder' or .*'vae'"):
        of({"method": "optimise"})
    known = Known(
        RunSpec(name="x", dataset={"kind": "sampled", "n": 4}, generator=path),
        DatasetIndex.empty(),
        Spaces({"z": (WIDTH,)}, lambda: generators.facts(path)),
        lambda kind, labels: [],
    )
    (told,) = JACOBIAN.problems(known, JacobianSpec())
    assert "'analyse.jacobian' is given, which needs gradients" in told
    for analysis, section in ((SEFA, SefaSpec()), (S_SPACE, SSpaceSpec())):
        told = next(iter(analysis.problems(known, section)))
        assert "this generator has the spaces ['z'] and no such layers: leave it out" in told


def test_a_specification_cannot_trust_a_command_line_can(tmp_path) -> None:
    spec = RunSpec(name="x", dataset={"kind": "sampled", "n": 4}, generator="g.pt")
    given = spec.trusting(True)
    assert given == spec and isinstance(given.generator, TrustedPath)
    assert not isinstance(spec.trusting(False).generator, TrustedPath)
    again = pickle.loads(pickle.dumps(given))  # noqa: S301 - as it is sent to actors
    assert isinstance(again.generator, TrustedPath)
    section = spec.model_copy(update={"generator": GeneratorSpec(path="g.pt", prior="uniform")})
    held = section.trusting(True).generator
    assert isinstance(held.path, TrustedPath) and held.settings == {"prior": "uniform"}
    assert "trust" not in json.dumps(given.model_dump(mode="json"))


def test_inspect_tells_what_it_sees_and_what_would_fit(tmp_path) -> None:
    path = onnx_file(tmp_path / "g.onnx")
    told = describe(path)
    assert told["kind"] == "ONNX model" and "annotate[].model" in told["used"]
    assert "z float32 (n, 5)" in told["as a generator"] and '"family"' in told["as a generator"]
    assert "gives the right prior, range, such as" in told["as a generator"]
    assert str(Port("x", "float32", (None, 3, None, None))) == "x float32 (n, 3, ?, ?)"
    shown = describe(declare(path, **ONNX))
    assert (shown["kind"], shown["spaces"]) == ("generator checkpoint", "z 5")
    assert shown["default space"] == "z"
    assert "y int64 (n)" in describe(exported_file(tmp_path / "h.pt2"))["as a generator"]


def test_the_weights_of_a_package_become_a_generator(tmp_path) -> None:
    torch.save({"netG_state_dict": dcgan().state_dict()}, tmp_path / "weights.tar")
    gan_face_generate.convert({"weights.tar": tmp_path / "weights.tar"}, tmp_path)
    found = generators.load(tmp_path / "generator.safetensors")
    assert found.facts.space("z").prior == "normal" and not found.facts.assumed
    assert found.facts.fingerprint == generators.fingerprint(tmp_path / "weights.tar")


def test_the_faces_of_the_package_are_those_of_torch() -> None:
    own = recipe("gan_face_generate")
    if not own.is_obtained:
        pytest.skip("latentflow obtain gan_face_generate has not been run here")
    model = generators.load("obtained:gan_face_generate")
    state = {n: torch.from_numpy(v.copy()) for n, v in model.checkpoint().tensors.items()}
    layers: list[torch.nn.Module] = []
    for k, (a, b) in enumerate(pairwise((100, 512, 256, 128, 64))):
        up = torch.nn.ConvTranspose2d(a, b, 4, 2 if k else 1, 1 if k else 0, bias=False)
        layers += [up, torch.nn.BatchNorm2d(b), torch.nn.ReLU()]
    layers += [torch.nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), torch.nn.Tanh()]
    network = torch.nn.Sequential(*layers)
    network.load_state_dict(state, strict=False)
    code = model.sample("z", range(4))
    with torch.no_grad():
        expected = network.eval()(code.main[:, :, None, None])
        torch.testing.assert_close(model.draw(code), expected, rtol=0, atol=1e-6)
