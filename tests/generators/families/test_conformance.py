"""The suite of generators over the catalog, and over a family without w."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance.generator import GeneratorSuite
from places import ROOT

from generators.edits import check_code, edited
from generators.families.base import Checkpoint
from generators.families.catalog import FAMILIES
from generators.families.stylegan2 import PLUGIN as STYLEGAN2
from generators.protocols import Code, Companion, Edit, ModelFacts, Space, labels_in_turn
from schemas.directions.direction import unit_direction
from schemas.errors import CheckpointError, UsageError
from schemas.sections.generator_settings import NoSettings
from tests.stylegan2_layouts import tiny

CLASSES, WIDTH, SIZE = 3, 5, (48, 32)
SPACES = (
    Space("latent", (WIDTH,), "normal", conditional=True),
    Space("scaled", (WIDTH,), "normal", conditional=True,
          companions={"scale": Companion((1,), required=True), "offset": Companion((3, *SIZE))}),
    Space("picture", (3, *SIZE), injected_into="latent"),
)  # fmt: skip


class Linear:
    """Draws a linear map of the latent and its class: no w, 3 x 48 x 32, three classes."""

    def __init__(self, facts: ModelFacts, weight: torch.Tensor) -> None:
        self.facts, self.weight = facts, weight

    def labels(self, labels: Any, n: int) -> torch.Tensor:
        if labels is None:
            raise UsageError(f"codes need labels: give a class number for each of {n!r} rows")
        given = torch.as_tensor(labels)
        if given.shape != (n,) or bool(((given < 0) | (given >= CLASSES)).any()):
            raise UsageError(f"labels {labels!r} are no class numbers, 0 to {CLASSES - 1!r}")
        return torch.nn.functional.one_hot(given.long(), CLASSES).to(self.weight.dtype)

    def sample(self, space, seeds, *, labels=None, truncation=None) -> Code:
        self.labels(labels_in_turn(CLASSES, seeds) if labels is None else labels, len(seeds))
        rows = [np.random.RandomState(seed).standard_normal(WIDTH) for seed in seeds]
        main = torch.from_numpy(np.stack(rows)).to(self.weight.dtype)
        main = main * (1.0 if truncation is None else truncation)
        scale = {"scale": torch.ones(len(seeds), 1)} if space == "scaled" else {}
        return Code(self.facts.space(space).name, main, scale)

    def centre(self, space, labels=None) -> torch.Tensor:
        return torch.zeros(self.facts.space(space).shape)

    def convert(self, code, target, *, labels=None, truncation=None, cutoff=None) -> Code:
        check_code(self.facts, code)
        if self.facts.space(target).injected_into and code.space in ("latent", "scaled"):
            return Code(target, self.draw(code, labels=labels))
        if code.space == "scaled" and target == "latent" and "offset" not in code.companions:
            return Code(target, code.main * code.companions["scale"])
        if code.space != target:
            raise UsageError(f"codes of {code.space!r} give none of {target!r}")
        return code

    def draw(self, code, *, labels=None, edits: Sequence[Edit] = (), noise="const"):
        code, injected = edited(self.facts, code, edits)
        x = torch.cat([code.main.to(self.weight.dtype), self.labels(labels, len(code))], dim=1)
        if "scale" in code.companions:
            x = torch.cat([x[:, :WIDTH] * code.companions["scale"], x[:, WIDTH:]], dim=1)
        images = (x @ self.weight).reshape(-1, 3, *SIZE)
        for _, step in injected:
            images = images + step
        offset = code.companions.get("offset")
        return images if offset is None else images + offset.nan_to_num(0.0)

    def to(self, device: Any) -> Linear:
        return Linear(self.facts, self.weight.to(device))


class LinearFamily:
    name, settings, bundled = "linear", NoSettings, {}

    def recognise(self, contents: Any) -> Checkpoint | None:
        if isinstance(contents, dict) and set(contents) == {"linear.weight"}:
            return Checkpoint({"family": "linear"}, dict(contents))
        return None

    def checked(self, checkpoint: Checkpoint) -> Checkpoint:
        weight = checkpoint.tensors.get("linear.weight")
        if weight is None or weight.shape != (WIDTH + CLASSES, 3 * SIZE[0] * SIZE[1]):
            raise CheckpointError("tensors do not fit a linear generator")
        return checkpoint

    def facts(self, checkpoint: Checkpoint) -> ModelFacts:
        named = {space.name: space for space in SPACES}
        return ModelFacts("linear", checkpoint.fingerprint, SIZE, named, "latent", classes=CLASSES)

    def build(self, checkpoint: Checkpoint) -> Linear:
        weight = torch.from_numpy(self.checked(checkpoint).tensors["linear.weight"])
        return Linear(self.facts(checkpoint), weight)


class TestLinear(GeneratorSuite):
    family = LinearFamily()

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        weight = np.random.default_rng(0).normal(size=(WIDTH + CLASSES, 3 * SIZE[0] * SIZE[1]))
        return Checkpoint({"family": "linear"}, {"linear.weight": weight.astype(np.float32)})

    def test_a_vector_of_pictures_is_added_to_the_picture(self, model) -> None:
        """The closed form: the readout is linear, so what is added arrives as it is."""
        vector = np.random.default_rng(2).normal(size=(3, *SIZE))
        direction = unit_direction("d", "picture", vector, method="planted", sd=2.0,
                                   provenance={"generator_fp": model.facts.network_fp})  # fmt: skip
        code = self.sampled(model, model.facts.space("latent"))
        moved = self.draw(model, code, edits=[Edit(direction, 1.5)])
        expected = self.draw(model, code) + torch.from_numpy(3.0 * direction.vector)
        self.close(moved, expected.float())
        with pytest.raises(UsageError, match="no options 'steps'|no options \\['steps'\\]"):
            self.draw(model, code, edits=[Edit(direction, 1.0, options={"steps": [1]})])


class TestStyleGAN2(GeneratorSuite):
    family = STYLEGAN2

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return tiny(seed=3).checkpoint()


class TestConditionalStyleGAN2(GeneratorSuite):
    family = STYLEGAN2

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return tiny(seed=4, c_dim=3, conv_clamp=256.0, img_channels=1).checkpoint()


def test_every_family_of_ours_is_tested() -> None:
    for file in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(file.stem)
    tested = {suite.family.name for suite in GeneratorSuite.__subclasses__()}
    assert set(FAMILIES.own()) <= tested


def test_families_are_imported_without_torch() -> None:
    code = (
        "import sys\nfrom generators.families.catalog import FAMILIES\n"
        "list(FAMILIES)\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# ---- feature maps of StyleGAN2 -------------------------------------------------------------------


def fitted(model: Any, space: str) -> Any:
    """The mean difference of a layer's activations between bright and dark pictures."""
    with torch.no_grad():
        codes = model.sample("w_plus", range(40))
        bright = model.draw(codes).mean(dim=(1, 2, 3))
        maps = model.convert(codes, space).main
    above = bright > bright.median()
    vector = (maps[above].mean(dim=0) - maps[~above].mean(dim=0)).numpy()
    return unit_direction("bright", space, vector, method="mean_difference", codes=maps.numpy(),
                          provenance={"generator_fp": model.facts.fingerprint})  # fmt: skip


def test_a_direction_of_feature_maps_moves_what_it_was_fitted_on() -> None:
    model, space = tiny(seed=5), "features.b16.conv1"
    direction = fitted(model, space)
    codes = model.sample("w_plus", range(40, 50))
    with torch.no_grad():
        plain, moved = model.draw(codes), model.draw(codes, edits=[Edit(direction, 3.0)])
    assert int((moved.mean(dim=(1, 2, 3)) > plain.mean(dim=(1, 2, 3))).sum()) >= 9


def test_an_injected_edit_is_a_hook_on_that_layer_within_the_mask() -> None:
    model, space = tiny(seed=5), "features.b8.conv0"
    direction = fitted(model, space)
    codes = model.sample("w_plus", [1, 2])
    mask = torch.zeros(8, 8)
    mask[:, :3] = 1
    step = (2.0 * direction.sd * torch.tensor(direction.vector)).float() * mask
    layer = model.network.synthesis.get_submodule("b8.conv0")
    handle = layer.register_forward_hook(lambda module, given, output: output + step)
    with torch.no_grad():
        expected = model.draw(codes)
        handle.remove()
        found = model.draw(codes, edits=[Edit(direction, 2.0, options={"mask": mask.numpy()})])
        whole = model.draw(codes, edits=[Edit(direction, 2.0)])
    assert torch.equal(found, expected) and not torch.equal(found, whole)
    for wrong in (np.ones((4, 4)), np.full((8, 8), 2.0)):
        with pytest.raises(UsageError, match="mask has shape"):
            model.draw(codes, edits=[Edit(direction, 1.0, options={"mask": wrong})])
    with pytest.raises(UsageError, match="no options \\['maks'\\].*'mask'"):
        model.draw(codes, edits=[Edit(direction, 1.0, options={"maks": mask})])
    plain = replace(direction, space="w_plus", vector=np.eye(6, 8) / np.sqrt(6))
    with pytest.raises(UsageError, match="leave them out"):
        model.draw(codes, edits=[Edit(plain, 1.0, options={"mask": mask})])
