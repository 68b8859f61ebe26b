"""In-domain inversion keeps what a method must, and does what its source says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conformance.folder import adapter
from conformance.inversion import InversionSuite, Scene
from pydantic import ValidationError

from generators.perceptual import load_perceptual
from generators.protocols import Code
from schemas.errors import UsageError
from schemas.sections.invert import invert_section
from transforms.inversion.catalog import invert_batch, method_named
from transforms.inversion.method import Images, Inverted

PLAIN = {"perceptual_weight": 0}


class TestInDomain(InversionSuite):
    method = "in_domain"
    settings = {"steps": 12, "learning_rate": 0.1, "encoder_weight": 0.05, **PLAIN}
    quick = {"steps": 2}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(adapter(), "w_plus")


def found(scene: Scene, method: str = "in_domain", perceptual: Any = None, **keys: Any) -> Inverted:
    settings = invert_section({"method": method, "space": "w_plus", **PLAIN, **keys})
    mirrored = scene.pixels.flip(-1)  # of which the encoder knows nothing
    return invert_batch(Images(mirrored, scene.generator, settings, scene.encoder, (), perceptual))


def outside(scene: Scene, code: Code) -> torch.Tensor:
    """Mean squared difference of each code and the encoder's of what it draws, (n,)."""
    again = scene.encoder.encode(scene.generator.draw(code))
    return (again - code.main).square().flatten(1).mean(dim=1)


def test_the_codes_are_those_of_a_few_lines_of_the_source(scene: Scene) -> None:
    """The authors' loop, row by row, with the ramp of the learning rate at the end."""
    keys = {"steps": 8, "learning_rate": 0.05, "pixel_weight": 1.5, "encoder_weight": 2.0}
    ours = found(scene, **keys)
    for row, target in enumerate(scene.pixels.flip(-1)):
        code = scene.encoder.encode(target[None]).clone().requires_grad_(True)
        adam = torch.optim.Adam([code], lr=0.05)
        losses, codes = [], []
        for step in range(9):
            drawn = scene.generator.draw(Code("w_plus", code))
            loss = 1.5 * (drawn - target).square().mean()
            loss = loss + 2.0 * (scene.encoder.encode(drawn) - code).square().mean()
            losses.append(float(loss.detach()))
            codes.append(code.detach().clone())
            down = min(1.0, (1 - step / 8) / 0.25)
            adam.param_groups[0]["lr"] = 0.05 * (1 - math.cos(down * math.pi)) / 2
            adam.zero_grad()
            loss.backward()
            adam.step()
        best = min(range(9), key=lambda step: losses[step])
        torch.testing.assert_close(ours.code.main[row], codes[best][0], rtol=1e-4, atol=1e-5)
        assert float(ours.qualities["loss_start"][row]) == pytest.approx(losses[0], rel=1e-4)
        assert float(ours.qualities["loss_end"][row]) == pytest.approx(losses[best], rel=1e-4)
        assert best > 0 and float(ours.qualities["steps"][row]) == 8


def test_the_objective_has_the_perceptual_distance(scene: Scene) -> None:
    distance = load_perceptual("bundled:features64/features")
    keys = {"steps": 1, "encoder_weight": 3.0, "perceptual_weight": 0.7}
    told = found(scene, perceptual=distance, **keys).qualities["loss_start"]
    targets = scene.pixels.flip(-1)
    start = Code("w_plus", scene.encoder.encode(targets))
    drawn = scene.generator.draw(start)
    wanted = (drawn - targets).square().flatten(1).mean(dim=1) + 3.0 * outside(scene, start)
    torch.testing.assert_close(told, wanted + 0.7 * distance.between(drawn, targets))


def test_codes_stay_where_the_encoder_finds_them_again(scene: Scene) -> None:
    keys = {"steps": 30, "learning_rate": 0.05}
    free, held = (found(scene, **keys, encoder_weight=weight) for weight in (0.0, 10.0))
    assert (outside(scene, held.code) < 0.5 * outside(scene, free.code)).all()
    hybrid = found(scene, "hybrid", **keys, feature_weight=0.0, schedule="adam")
    assert torch.equal(free.code.main, hybrid.code.main)
    start, end = held.qualities["loss_start"], held.qualities["loss_end"]
    assert (end < start).all()


def test_what_it_needs_and_costs_is_told(scene: Scene) -> None:
    section = invert_section({"method": "in_domain"})
    assert (section.steps, section.learning_rate, section.encoder_weight) == (100, 0.01, 2.0)
    assert section.compared_by is not None and "perceptual" not in section.identity()
    cost = method_named("in_domain").cost(section)
    assert (cost.encoder_passes, cost.forward_passes, cost.backward_passes) == (102, 101, 100)
    settings = invert_section({"method": "in_domain", "space": "w_plus", **PLAIN})
    with pytest.raises(UsageError, match="'in_domain' needs an encoder: name one"):
        invert_batch(Images(scene.pixels, scene.generator, settings))
    with pytest.raises(ValidationError, match="encoder_weight"):
        invert_section({"method": "in_domain", "encoder_weight": -1})
