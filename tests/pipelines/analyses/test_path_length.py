"""Perceptual path lengths against the official definition, written out; pieces that stay."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from in_process import InProcess
from inversion_fixture import adapter
from safetensors.torch import save_file

import generators
from generators.perceptual.files import ALEXNET, VGG16
from generators.perceptual.network import FeatureNetwork
from generators.protocols import Code
from pipelines.analyses.base import Model
from pipelines.analyses.catalog import analysis_of
from pipelines.analyses.figures import Table, Text
from pipelines.analyses.path_length import fit as fit_module
from pipelines.analyses.path_length import network as network_module
from pipelines.analyses.path_length.steps import AT_ONCE, Steps, StepsOfPath
from pipelines.engine.saved_sums import SavedStatistics
from pipelines.report.figures import drawn as shown
from pipelines.runs.analyse import fit_analysis
from pipelines.runs.lineage import analysis_inputs
from pipelines.runs.plan import plan_stages
from schemas.errors import CheckpointError, SpecError
from schemas.sections.path_length import PathLengthSpec
from schemas.spec import parse_spec
from tests.pipelines.analyses.test_derived_spaces import Drawn

SAMPLES, EPSILON = 20, 1e-2


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Random weights of a generator and of networks."""
    root = tmp_path_factory.mktemp("models")
    generators.save_safetensors(adapter(0), root / "generator.safetensors")
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(FeatureNetwork().state_dict(), root / f"network{seed}.safetensors")
    return root


@pytest.fixture(scope="module")
def run(root):
    return Drawn(root, str(root / "generator.safetensors"), "w", analyses={})


def spec_of(root, **section):
    own = {"samples": SAMPLES, "epsilon": EPSILON, "network": str(root / "network0.safetensors")}
    text = (root / "out").as_posix()
    spec = parse_spec(f"name: drawn\ndataset: {{kind: sampled, n: 75}}\noutput: {text}\n"
                      "invert: {space: w, block_rows: 64}\nanalyse: {path_length: "
                      f"{own | section}}}".replace("True", "true"), "/")  # fmt: skip
    return spec.model_copy(update={"generator": str(root / "generator.safetensors")})


def fit(run, spec, engine=None):
    return fit_analysis("path_length", spec, run.store, run.index, engine or InProcess())[0]


def maps(weights: dict[str, torch.Tensor], images: torch.Tensor) -> list[torch.Tensor]:
    """The network's maps, each position's channels at length 1."""
    x, found = F.interpolate(images, (64, 64), mode="bilinear", align_corners=False), []
    for k in range(9):
        stride = 2 if k % 2 else 1
        weight, bias = weights[f"layers.{k}.weight"], weights[f"layers.{k}.bias"]
        x = F.relu(F.conv2d(x, weight, bias, stride, 1))
        if k % 2 == 0:
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
    return found


def official(root, space: str, full: bool, crop: bool, noise: bool, rows: range) -> np.ndarray:
    """As in the authors' code: two latents, a step between them, crop, distance, epsilon^2."""
    model = generators.load(str(root / "generator.safetensors"))
    torch.manual_seed(0)
    weights = FeatureNetwork().state_dict()
    streams = [np.random.default_rng(np.random.SeedSequence([0, 47, row])) for row in rows]
    seeds = [stream.integers(1 << 32, size=2) for stream in streams]
    t = torch.tensor([[s.uniform()] for s in streams], dtype=torch.float64) * full
    z0, z1 = (model.sample("z", [int(s[i]) for s in seeds]).main for i in (0, 1))
    if space == "w":
        w0, w1 = (model.convert(Code("z", z), "w").main.double() for z in (z0, z1))
        ws = [w0.lerp(w1, at).float() for at in (t, t + EPSILON)]
    else:
        a, b = (z.double() / z.double().norm(dim=1, keepdim=True) for z in (z0, z1))
        d = (a * b).sum(1, keepdim=True)
        c = F.normalize(b - d * a, dim=1)
        zs = [a * (at * d.acos()).cos() + c * (at * d.acos()).sin() for at in (t, t + EPSILON)]
        ws = [model.convert(Code("z", z.float()), "w").main for z in zs]
    beside = {}
    if noise:
        own = [np.random.default_rng(np.random.SeedSequence([0, 47, row, 1])) for row in rows]
        for name, companion in model.facts.space("w").companions.items():
            if not name.startswith("noise"):
                continue
            drawn = [stream.standard_normal(companion.shape, np.float32) for stream in own]
            beside[name] = torch.tensor(np.stack(drawn))
    both = []
    for w in ws:
        images = model.draw(Code("w", w, beside))
        if crop:
            c = images.shape[2] // 8
            images = images[:, :, c * 3 : c * 7, c * 2 : c * 6]
        both.append(maps(weights, images))
    total = sum((x - y).square().sum(1).mean((1, 2)) for x, y in zip(*both, strict=True))
    return total.detach().double().numpy() / EPSILON**2


@pytest.mark.parametrize(
    ("path", "crop", "noise"),
    [("w_full", True, "random"), ("z_end", False, "run")],
)
def test_lengths_are_those_of_the_official_definition(root, run, path, crop, noise):
    fitted = fit(run, spec_of(root, paths=[path], crop=crop, noise=noise))
    found = fitted.arrays[path]
    space, _, part = path.partition("_")
    parts = [
        official(root, space, part == "full", crop, noise == "random", range(at, at + AT_ONCE))
        for at in range(0, SAMPLES, AT_ONCE)
    ]
    expected = np.concatenate(parts)[:SAMPLES]
    assert np.allclose(found, expected, rtol=1e-3)  # single precision, by epsilon
    low = np.percentile(expected, 1, method="lower")
    high = np.percentile(expected, 99, method="higher")
    mean = np.extract(np.logical_and(expected >= low, expected <= high), expected).mean()
    assert fitted.facts["paths"][path]["value"] == pytest.approx(mean, rel=1e-4)
    assert fitted.facts["name"] == "PPL*" and fitted.facts["n"] == SAMPLES


def steps_of(root, **changes) -> Steps:
    model = str(root / "generator.safetensors")
    from generators.perceptual.files import read_perceptual

    network = str(root / "network0.safetensors")
    own = {
        "generator": model,
        "generator_fp": generators.facts(model).fingerprint,
        "network": network,
        "linear": None,
        "network_fp": read_perceptual(network).fingerprint,
        "space": "w",
        "full": True,
        "epsilon": EPSILON,
        "crop": False,
        "noise": None,
        "seed": 0,
    }
    return Steps(**own | changes)


def test_a_step_depends_on_its_number_alone(root):
    def lengths(source):
        return np.concatenate([source.read(b)[1]["distance"] for b in range(source.n_blocks)])

    steps = steps_of(root)
    whole = lengths(StepsOfPath(steps, 0, 32))
    assert np.array_equal(lengths(StepsOfPath(steps, 0, 9)), whole[:9])
    assert np.array_equal(lengths(StepsOfPath(steps, 16, 20)), whole[16:20])
    assert not np.isclose(lengths(StepsOfPath(steps_of(root, seed=1), 0, 9)), whole[:9]).any()


class Stopped(Exception):
    pass


def test_what_was_measured_before_a_kill_is_not_measured_again(root, run, tmp_path, monkeypatch):
    monkeypatch.setattr(fit_module, "PIECE", 16)
    spec, measured = spec_of(root, samples=40), []
    lengths = Steps.lengths

    def counted(self, numbers):
        if len(measured) == 2:
            raise Stopped
        measured.append(numbers[0])
        return lengths(self, numbers)

    expected = fit(run, spec)
    monkeypatch.setattr(Steps, "lengths", counted)
    with pytest.raises(Stopped):
        fit(run, spec, SavedStatistics(InProcess(), tmp_path))
    assert measured == [0, 16]
    measured[:] = [None]
    found = fit(run, spec, SavedStatistics(InProcess(), tmp_path))
    assert measured == [None, 32]
    assert np.array_equal(found.arrays["w_end"], expected.arrays["w_end"])


def test_inputs_name_the_network_and_not_its_path(root, run, tmp_path):
    def inputs(**section):
        return analysis_inputs("path_length", spec_of(root, **section), run.store, run.index)

    before = inputs()
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((root / "network0.safetensors").read_bytes())
    assert inputs(network=str(moved)) == before
    assert inputs(network=str(root / "network1.safetensors")) != before
    assert inputs(epsilon=0.5) != before and inputs(paths=["w_end"])["parameters"]["measured"] == [
        "w_end"
    ]


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"network": "/nothing.pth"}, "'analyse.path_length.network' is '/nothing.pth': "),
        ({"paths": ["q_end"]}, "names 'q_end', and codes of 'q' cannot be drawn"),
        ({"paths": ["w"]}, "is no path: give a space and which part"),
        ({"space": "w"}, "has 'paths', such as 'w_end', in its place"),
        ({"epsilon": 0}, "greater than 0"),
    ],
)
def test_bad_input_is_told(root, run, section, told):
    with pytest.raises(SpecError, match=told):
        fit(run, spec_of(root, **section))


def test_the_star_is_of_the_network(monkeypatch):
    default = PathLengthSpec().network
    assert network_module.name_of(default, None) == "PPL*"
    for architecture, expected in ((VGG16, "PPL"), (ALEXNET, None)):
        found = SimpleNamespace(architecture=architecture)
        monkeypatch.setattr(network_module, "_read", lambda *_, found=found: found)
        if expected is not None:
            assert network_module.name_of("file", None) == expected
            continue
        with pytest.raises(CheckpointError, match="'alexnet', and path lengths are defined by"):
            network_module.name_of("file", None)


def test_the_report_shows_the_paths(root, run):
    fitted = fit(run, spec_of(root, paths=["w_end", "z_full"], samples=9))
    found = analysis_of("path_length").figures(Model(fitted.arrays, fitted.facts))
    assert isinstance(found[0], Text) and "A star" in found[0].text
    assert isinstance(found[1], Table)
    assert [row[0] for row in found[1].rows] == ["PPL* w end", "PPL* z full"]
    assert shown(found)[0]["kind"] == "lead"


@pytest.mark.parametrize(
    ("section", "n"), [({}, 2 * SAMPLES), ({"paths": ["w_end", "z_full"], "samples": 9}, 36)]
)
def test_plan_tells_how_many_pictures_are_drawn(root, section, n):
    (found,) = next(s for s in plan_stages(spec_of(root, **section)) if s.name == "analyse").parts
    assert found.notes == [f"{n} pictures to draw and measure"]
