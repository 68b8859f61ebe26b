"""Training an encoder of any generator: planted generators, kill and resume, wrong specifications.

The linear generator's best encoder is known in closed form: of codes with unit variance and images
x = A z, least squares finds P z with P = pinv(A) A.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance.encoder import EncoderSuite
from conformance.folder import adapter
from conformance.folder import drawn as pictures
from fakes import FakeGenerator
from PIL import Image
from rich.console import Console

import generators
import pipelines.encoder_training.train as training
from generators.encoders.convolutional import PLUGIN as CONVOLUTIONAL
from generators.encoders.files import read_encoder
from generators.encoders.load import LoadedEncoder, load_encoder, save_encoder
from generators.protocols import Code, ModelFacts, Space
from generators.seeds import drawn
from pipelines.encoder_training.folder import TrainingFolder
from pipelines.encoder_training.measure import BASELINE, measured
from pipelines.encoder_training.objectives.base import Batch, Task
from pipelines.encoder_training.objectives.catalog import OBJECTIVES
from pipelines.encoder_training.real_images import RealImages
from pipelines.encoder_training.samples import HELD_OUT, Samples, training_seeds
from pipelines.encoder_training.train import Plan, train_encoder
from pipelines.encoder_training.trainer import Trainer
from pipelines.engine.interruption import Interruption
from pipelines.folder.store_identity import check_trained, identify_run
from schemas.errors import (
    InputError,
    LockedError,
    NotConvergedError,
    RunInterruptedError,
    SpecError,
    UsageError,
)
from schemas.sections.train_encoder import TrainEncoderSpec
from schemas.spec import RunSpec, parse_spec

QUIET = Console(quiet=True)
SEEN = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
"""Of three coordinates: the first, and the sum of the others."""


class Linear(FakeGenerator):
    """Images are linear in z, in patterns of sign that do not overlap."""

    spaces = (Space("z", (3,), "normal"),)

    def sample(self, space: str, seeds: Any, *, labels: Any = None, truncation: Any = None) -> Code:
        z = torch.from_numpy(drawn("normal", seeds, (3,)))
        return Code(space, z if truncation is None else z * truncation)

    def paint(self, codes: torch.Tensor, space: str) -> torch.Tensor:
        signs = torch.randn(2, 3 * 64, generator=torch.Generator().manual_seed(1)).sign()
        return (0.1 * codes @ SEEN.T @ signs).reshape(-1, 3, 8, 8)


class LinearEncoder(torch.nn.Module):
    """A linear layer of the pixels."""

    size = (8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(192, 3)
        torch.nn.init.zeros_(self.layer.weight)

    def encode(self, images: torch.Tensor, space: str) -> torch.Tensor:
        return self.layer(images.flatten(1))


def task(generator: Any) -> Task:
    space = generator.facts.default_space
    some = Samples.drawn(generator, space, range(16), 1.0)
    centre = generator.centre(space)
    return Task(generator, space, centre, torch.ones(3), some.images, torch.device("cpu"))


def test_a_linear_encoder_becomes_that_of_least_squares():
    plan, settings = task(Linear()), TrainEncoderSpec(batch_size=32, learning_rate=0.02)
    objective = OBJECTIVES.load("reconstruction")
    for given in ({}, {"pixel_weight": 0.0, "feature_weight": 0.0}):
        torch.manual_seed(0)
        loss = objective.loss(objective.settings(**given), plan)
        trainer = Trainer(LinearEncoder(), plan, loss, settings, steps=100, seed=3)
        while trainer.step < 100:
            trainer.advance()
        seeds = range(HELD_OUT, HELD_OUT + 400)
        found = measured(trainer.average, plan, seeds, 64, 1.0)
        codes = plan.generator.sample("z", seeds).main
        left = codes - codes @ torch.linalg.pinv(SEEN) @ SEEN
        wanted = 1 - left.square().sum(dim=0) / (codes - codes.mean(dim=0)).square().sum(dim=0)
        np.testing.assert_allclose(found.r2, wanted, atol=0.03)
        summary = found.summary()
        assert summary["psnr"]["median"] > summary[BASELINE]["median"] + 12
        assert trainer.history.losses[0]["codes"] > 0.8 and "ssim" not in summary


def test_r2_is_that_of_the_formula_and_says_which_coordinates_do_not_vary():
    class Constant(Linear):
        def sample(self, space: str, seeds: Any, **options: Any) -> Code:
            code = super().sample(space, seeds)
            return code.moved(code.main * torch.tensor([1.0, 0.0, 1.0]) + 0.25)

    plan, network = task(Constant()), LinearEncoder()
    torch.nn.init.normal_(network.layer.weight, std=0.1)
    seeds = range(HELD_OUT, HELD_OUT + 50)
    samples = Samples.drawn(plan.generator, "z", seeds, 1.0)
    with torch.no_grad():
        error = (network.encode(samples.images, "z") - samples.codes).square().sum(dim=0)
        spread = (samples.codes - samples.codes.mean(dim=0)).square().sum(dim=0)
        found = measured(network, plan, seeds, 16, 1.0)
    assert np.isnan(found.r2[1]) and found.summary()["r2"]["constant"] == 1
    np.testing.assert_allclose(found.r2[[0, 2]], (1 - error / spread)[[0, 2]], rtol=1e-4)


def test_samples_are_a_function_of_seed_and_step_and_never_the_held_out_ones():
    some = training_seeds(0, 7, 16)
    assert some == training_seeds(0, 7, 16) and len(set(some)) == 16
    assert set(some).isdisjoint(training_seeds(0, 8, 16) + training_seeds(1, 7, 16))
    assert all(1 << 62 <= seed < 1 << 63 for seed in some) and HELD_OUT < 1 << 62


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "generator.safetensors"
    generators.save_safetensors(adapter(), path)
    return path


SAMPLED = {"kind": "sampled", "n": 4}


def spec_of(generator: Path, out: Path, dataset: Any = SAMPLED, **train: Any) -> RunSpec:
    section = {"steps": 8, "batch_size": 4, "held_out": 6, "threads": 1, **train}
    section.setdefault("architecture", {"name": "convolutional", "channels": 4, "features": 8})
    document = {
        "name": "tiny",
        "dataset": dataset,
        "generator": str(generator),
        "encoder": "trained",
        "train_encoder": section,
        "output": str(out),
    }
    return parse_spec(json.dumps(document), out.parent)


def unpainted(path: Path, *about: Any) -> None:
    """In place of the page, whose figures take most of a tiny training's time."""
    path.write_text("")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    spec = spec_of(generator, tmp_path_factory.mktemp("undisturbed") / "out")
    train_encoder(spec, QUIET)
    return TrainingFolder.of(spec)


def test_the_encoder_is_what_a_run_inverts_with(generator, trained):
    spec = spec_of(generator, trained.path.parent)
    assert spec.encoder_path == str(trained.encoder)
    encoder = load_encoder(str(trained.encoder), space="w_plus")
    assert encoder.encode(torch.zeros(2, 3, 16, 16)).shape == (2, 6, 8)
    about = json.loads(trained.encoder.with_suffix(".json").read_text())
    assert about["fingerprint"] == encoder.fingerprint
    assert about["training"]["generator_fp"] == generators.fingerprint(generator)
    assert about["training"]["steps"] == 8 and about["held_out"]["n"] == 6
    assert about["versions"].keys() == {"latentflow", "numpy", "torch"}
    report = json.loads(trained.report.read_text())
    assert len(report["r2"]) == 48 and report["losses"][-1]["step"] == 8
    page = trained.page.read_text()
    assert page.count("data:image/jpeg") == 6 and "R² of a coordinate" in page
    assert not trained.checkpoint.exists()


def test_the_encoder_of_another_generator_is_told(generator, trained):
    about = read_encoder(str(trained.encoder)).metadata
    facts = generators.facts(generator)
    check_trained("e", about, facts)
    with pytest.raises(UsageError, match=r"was trained for .* this one has '0000"):
        check_trained("e", about, replace(facts, network_fp="0" * 64))


def test_the_mean_code_is_measured_on_all_samples():
    plan, seeds = task(Linear()), range(HELD_OUT, HELD_OUT + 20)
    found = measured(LinearEncoder(), plan, seeds, 8, 1.0)
    once = measured(LinearEncoder(), plan, seeds, 32, 1.0)
    assert len(found.rows[BASELINE]) == 20
    np.testing.assert_allclose(found.rows[BASELINE], once.rows[BASELINE], rtol=1e-5)


@pytest.mark.parametrize(("real", "n"), [(0.02, 0), (0.9, 4)])
def test_a_share_of_real_pictures_that_no_batch_has_is_refused(generator, tmp_path, real, n):
    spec = spec_of(generator, tmp_path / "out", {"path": "faces"}, real=real)
    with pytest.raises(UsageError, match=f"is {n} of the 4 images of a batch: raise"):
        Plan.of(spec)


def test_a_training_that_is_stopped_at_once_leaves_no_checkpoint(generator, tmp_path, monkeypatch):
    spec, stop = spec_of(generator, tmp_path / "out"), Interruption()
    stop.requested = True
    monkeypatch.setattr(Trainer, "advance", lambda trainer: pytest.fail("a step was made"))
    with pytest.raises(RunInterruptedError):
        train_encoder(spec, QUIET, stop)
    assert not TrainingFolder.of(spec).checkpoint.exists()


@pytest.mark.parametrize("killed", [False, True])
def test_a_training_that_was_ended_goes_on_to_the_same_bytes(
    generator, trained, tmp_path, monkeypatch, killed
):
    spec, stop, advance = spec_of(generator, tmp_path / "out"), Interruption(), Trainer.advance
    folder, n = TrainingFolder.of(spec), 0
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)

    def ended(trainer: Trainer) -> dict[str, float]:
        nonlocal n
        n += trainer.steps == 8  # not those of the probe
        if killed and n == 6:
            raise KeyboardInterrupt
        stop.requested = not killed and n == 5
        return advance(trainer)

    monkeypatch.setattr(Trainer, "advance", ended)
    with pytest.raises(KeyboardInterrupt if killed else RunInterruptedError):
        train_encoder(spec, QUIET, stop)
    if killed:
        monkeypatch.setattr(training, "write_page", unpainted)
    assert torch.load(folder.checkpoint, weights_only=True)["step"] == 5
    assert not folder.encoder.exists()
    monkeypatch.setattr(Trainer, "advance", advance)
    train_encoder(spec, QUIET)
    names = ["encoder.safetensors", "encoder.json", "report.json"]
    for name in names if killed else [*names, "report.html"]:
        assert digest(folder.path / name) == digest(trained.path / name), name


def test_a_finished_training_is_not_done_again(generator, trained, monkeypatch):
    monkeypatch.setattr(training, "_train", None)
    assert train_encoder(spec_of(generator, trained.path.parent), QUIET) == trained.encoder


def test_another_training_in_the_folder_is_refused_with_the_cure(generator, trained, tmp_path):
    spec = spec_of(generator, trained.path.parent, learning_rate=0.5)
    with pytest.raises(UsageError, match=r"'learning_rate' 0\.001 \(now 0\.5\).*--anew"):
        train_encoder(spec, QUIET)
    other = tmp_path / "other.safetensors"
    generators.save_safetensors(adapter(seed=1), other)
    with pytest.raises(UsageError, match=r"is of generator '\w{64}', the specification's.*--anew"):
        train_encoder(spec_of(other, trained.path.parent), QUIET)


def test_anew_trains_another_in_its_place(generator, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "write_page", unpainted)
    out = tmp_path / "out"
    first = digest(train_encoder(spec_of(generator, out, steps=2), QUIET))
    spec = spec_of(generator, out, steps=1)
    assert digest(train_encoder(spec, QUIET, anew=True)) != first


def test_minutes_become_steps_once(generator, tmp_path, monkeypatch):
    spec = spec_of(generator, tmp_path / "out", steps=None, minutes=0.1)
    monkeypatch.setattr(training, "_probe", lambda trainer, stop: 2.0)
    monkeypatch.setattr(training, "write_page", unpainted)
    train_encoder(spec, QUIET)
    folder = TrainingFolder.of(spec)
    assert json.loads(folder.settings.read_text())["steps"] == 3
    monkeypatch.setattr(training, "_probe", lambda trainer, stop: 0.01)
    folder.page.unlink()
    train_encoder(spec, QUIET)
    assert json.loads(folder.report.read_text())["training"]["steps"] == 3


def test_a_second_training_of_the_folder_waits_outside(generator, tmp_path):
    spec = spec_of(generator, tmp_path / "out")
    with TrainingFolder.of(spec).lock(), pytest.raises(LockedError):
        train_encoder(spec, QUIET)


def test_a_loss_that_is_no_number_ends_with_the_cure(generator, tmp_path):
    spec = spec_of(generator, tmp_path / "out", learning_rate=1e30)
    with pytest.raises(NotConvergedError, match=r"no number at step .* below 1e\+30"):
        train_encoder(spec, QUIET)


def test_a_run_without_the_trained_encoder_says_how_to_train_it(generator, tmp_path):
    spec = spec_of(generator, tmp_path / "out", {"path": "images"})
    with pytest.raises(UsageError, match="'encoder' is 'trained'.*'latentflow train-encoder'"):
        identify_run(spec, Path(spec.output_path))


@pytest.mark.parametrize(
    ("train", "error", "said"),
    [
        ({"architecture": "w_plus_encoder"}, SpecError, "architecture' is 'w_plus_encoder'"),
        ({"architecture": "convolutinal"}, SpecError, "did you mean 'convolutional'"),
        ({"architecture": {"name": "dse", "chanels": 3}}, SpecError, "architecture.chanels' is no"),
        ({"architecture": {"name": "convolutional", "channels": 0}}, SpecError, "channels' is 0"),
        ({"objective": "similar"}, SpecError, "did you mean 'similarity'"),
        ({"objective": {"name": "similarity", "strategy": 3}}, SpecError, "strategy' is 3"),
        ({"space": "features.b8.conv0"}, UsageError, "use one of z, w, w_plus"),
        ({"real": 0.5}, UsageError, "the dataset is sampled: set it to 0"),
        ({"device": "cuda:9"}, UsageError, "there is no GPU"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_written(
    generator, tmp_path, monkeypatch, train, error, said
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spec = spec_of(generator, tmp_path / "out", **train)
    with pytest.raises(error, match=said):
        train_encoder(spec, QUIET)
    assert not (tmp_path / "out" / "encoder" / "training.json").exists()


def test_real_pictures_are_a_function_of_the_step_and_have_no_known_code(
    generator, tmp_path, monkeypatch
):
    (tmp_path / "images").mkdir()
    for k, image in enumerate(pictures(5, seed=0)):
        Image.fromarray(image).save(tmp_path / "images" / f"{k}.png")
    (tmp_path / "images" / "5.png").write_bytes(b"no picture")
    spec = spec_of(generator, tmp_path / "out", {"path": "images"}, real=0.5, steps=2)
    real = RealImages(spec, (16, 16), seed=0)
    assert torch.equal(real(3, 4), real(3, 4)) and not torch.equal(real(3, 4), real(4, 4))
    assert real(0, 40).shape == (40, 3, 16, 16) and len(real.uris) == 6
    seen = []

    def noted(trainer: Trainer) -> Batch:
        seen.append(batch_of(trainer))
        return seen[-1]

    batch_of = Trainer._batch
    monkeypatch.setattr(Trainer, "_batch", noted)
    monkeypatch.setattr(training, "write_page", unpainted)
    train_encoder(spec, QUIET)
    last = seen[-1]
    assert len(last.images) == 4 and len(last.codes) == 2
    assert torch.equal(last.images[2:], real(1, 2))
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of the images of 'dataset' from"):
        RealImages(spec, (16, 16), seed=0)(0, 1)


def test_steps_and_minutes_are_not_given_both(generator, tmp_path):
    with pytest.raises(SpecError, match="'steps' is 8 and 'minutes' 2.0: give one of them"):
        spec_of(generator, tmp_path / "out", minutes=2)


def test_without_gradients_codes_alone_are_learnt():
    class Closed(Linear):
        @property
        def facts(self) -> ModelFacts:
            spaces = {space.name: space for space in self.spaces}
            return ModelFacts("fake", "f" * 64, self.size, spaces, "z", capabilities=frozenset())

    objective, plan = OBJECTIVES.load("reconstruction"), task(Closed())
    loss = objective.loss(objective.settings(), plan)
    trainer = Trainer(LinearEncoder(), plan, loss, TrainEncoderSpec(), steps=2, seed=0)
    assert trainer.advance().keys() == {"codes"}
    with pytest.raises(UsageError, match="latent_weight' above 0"):
        objective.loss(objective.settings(latent_weight=0), plan)
    similarity = OBJECTIVES.load("similarity")
    with pytest.raises(UsageError, match="use 'reconstruction'"):
        similarity.loss(similarity.settings(), plan)


# ---- the general architecture --------------------------------------------------------------------

FORMS = {
    "odd": (Space("z", (5,), "normal"), (13, 30), 0),
    "map": (Space("map", (2, 3, 4), "normal"), (9, 8), 0),
    "tiny": (Space("z", (5,), "normal"), (3, 2), 0),
    "classes": (Space("z", (5,), "normal", conditional=True), (16, 16), 3),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_general_encoder_takes_images_of_any_size_and_codes_of_any_shape(form):
    space, size, classes = FORMS[form]
    facts = ModelFacts("planted", "f" * 64, size, {space.name: space}, space.name, classes=classes)
    design = CONVOLUTIONAL.design(facts, space.name, CONVOLUTIONAL.settings(channels=4, features=8))
    codes = torch.randn(50, *space.shape) * 3 + 1
    codes.flatten(1)[:, 0] = 7.0
    network = CONVOLUTIONAL.fresh(design, codes)
    labels = [0, 2] if classes else None
    found = network.encode(torch.rand(2, 3, *size) - 0.5, space.name, labels).detach()
    assert found.shape == (2, *space.shape) and network.size == size
    apart = (found - codes.mean(dim=0)) / codes.std(dim=0).clamp_min(1.0)
    assert 0 < float(apart.abs().max()) < 1.0  # near the mean code, in the codes' own units
    if classes:
        with pytest.raises(UsageError, match="need labels"):
            network.encode(torch.zeros(2, 3, *size), space.name)


class TestConvolutional(EncoderSuite):
    @pytest.fixture
    def path(self, trained: TrainingFolder) -> Path:
        return trained.encoder

    @pytest.fixture
    def encoder(self, path: Path) -> LoadedEncoder:
        return load_encoder(str(path))

    @pytest.fixture
    def again(self, path: Path, tmp_path: Path) -> LoadedEncoder:
        loaded = load_encoder(str(path))
        return load_encoder(str(save_encoder(loaded.network, tmp_path / "again.safetensors")))

    @pytest.fixture
    def images(self) -> torch.Tensor:
        return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
