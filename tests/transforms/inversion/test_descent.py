"""Gradient steps against closed forms and the projector that was written beside them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conformance.folder import adapter
from conformance.inversion import Scene
from pydantic import ValidationError
from torch import Tensor

from benchmarks.projector import compared, project
from generators.protocols import Code, ModelFacts, Space
from schemas.errors import UsageError
from schemas.sections.invert import invert_section
from transforms.inversion.catalog import method_named
from transforms.inversion.descent import Descent, descend
from transforms.inversion.loss import RowLosses
from transforms.inversion.method import Images
from transforms.inversion.steps.noise_images import regularity

SIDE, DIM = 6, 5
PIXELS = {"pixel_weight": 1.0, "feature_weight": 0.0}


class Linear:
    """Draws A w + b, and its prior is normal about ``mean``."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        scales = np.geomspace(0.1, 2.0, DIM)
        self.a = torch.from_numpy((rng.standard_normal((3 * SIDE**2, DIM)) * scales).astype("f4"))
        self.b, self.mean = torch.zeros(3 * SIDE**2), torch.full((DIM,), 0.5)
        space = Space("w", (DIM,), "normal")
        self.facts = ModelFacts("linear", "a" * 64, (SIDE, SIDE), {"w": space}, "w")

    def centre(self, space: str, labels: Any = None) -> Tensor:
        return self.mean if labels is None else self.mean.expand(len(labels), DIM)

    def sample(self, space: str, seeds: Any, **options: Any) -> Code:
        rows = [np.random.default_rng(seed).standard_normal(DIM, np.float32) for seed in seeds]
        return Code("w", self.mean + torch.from_numpy(np.stack(rows)))

    def draw(self, code: Code, **options: Any) -> Tensor:
        return (code.main @ self.a.T + self.b).reshape(-1, 3, SIDE, SIDE)


def settings(method: str = "optimise", **keys: Any) -> Any:
    return invert_section({"method": method, "space": "w", **PIXELS, **keys})


def rngs(rows: list[int]) -> list[np.random.Generator]:
    return [np.random.default_rng(row) for row in rows]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(adapter(), "w")


def found(scene: Scene, rows: list[int], *, pixels: Tensor | None = None, **keys: Any) -> Descent:
    images = scene.pixels if pixels is None else pixels
    start = scene.mean()[torch.tensor(rows)]
    given = Images(images[rows], scene.generator, settings(**keys), None, rngs(rows))
    return descend(given, start, noise=True)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_optimum_of_a_linear_map_is_found(weight: float) -> None:
    """min |A w + b - x|^2 / N + weight |w - mean|^2 / (D spread^2), by its normal equations."""
    model = Linear()
    pixels = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 3, SIDE, SIDE), "f4"))
    images = Images(pixels, model, settings(steps=60, mean_weight=weight))  # type: ignore[arg-type]
    done = descend(images, Code("w", model.mean.expand(3, DIM)))
    a, n = model.a.double(), len(model.a)
    codes = model.sample("w", range(1000)).main.double()
    spread2 = float((codes - model.mean).square().mean())
    ridge = weight / (DIM * spread2)
    offsets = pixels.flatten(1).double() - model.mean.double() @ a.T
    normal = a.T @ a / n + ridge * torch.eye(DIM)
    expected = model.mean + torch.linalg.solve(normal, (offsets @ a / n).T).T
    torch.testing.assert_close(done.code.main.double(), expected, rtol=1e-3, atol=1e-3)
    away = weight * (expected - model.mean).square().mean(dim=1) / spread2
    least = (expected @ a.T - pixels.flatten(1)).square().mean(dim=1) + away
    torch.testing.assert_close(done.loss_end.double(), least, rtol=1e-5, atol=1e-6)
    assert (done.loss_start > done.loss_end).all()
    assert done.steps.tolist() == [60.0] * 3


def test_codes_as_near_as_the_prior_s_pay_no_truncation() -> None:
    model = Linear()
    inside, outside = model.mean + 0.5, model.mean + 3.0
    pixels = model.draw(Code("w", torch.stack([inside, outside])))
    start = Code("w", model.mean.expand(2, DIM))

    def at_end(**keys: float) -> Descent:
        images = Images(pixels, model, settings(steps=60, **keys))  # type: ignore[arg-type]
        return descend(images, start)

    free, held = at_end(), at_end(truncation_weight=5.0)
    torch.testing.assert_close(held.code.main[0], free.code.main[0], rtol=0, atol=2e-3)
    norms = [(each.code.main[1] - model.mean).square().mean().sqrt() for each in (free, held)]
    assert float(norms[1]) < 0.8 * float(norms[0])


def test_the_schedule_of_the_projector_is_the_projector_s(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code, noise images and losses of every row after a dozen steps, against
    `benchmarks.projector`, with the same random numbers."""

    def between(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().flatten(1).mean(dim=1)

    monkeypatch.setattr("transforms.inversion.descent.PROJECTOR_SAMPLES", 50)
    codes = scene.generator.sample("w", range(50)).main - scene.generator.centre("w")
    spread = float((codes.square().sum() / 50).sqrt())
    steps = 12
    ours = found(scene, [0, 1], schedule="projector", steps=steps)
    names = method_named("optimise").companions(
        settings(schedule="projector"), scene.generator.facts
    )
    assert set(ours.code.companions) == set(names) != set()
    assert ours.steps.tolist() == [steps] * 2
    for row in range(2):
        distance = compared(scene.pixels[row], between)
        random = np.random.default_rng(row)
        theirs = project(scene.generator, distance, steps=steps, random=random, spread=spread)
        torch.testing.assert_close(ours.code.main[row], theirs.codes[-1], rtol=1e-3, atol=1e-3)
        for name, image in theirs.noise.items():
            own = ours.code.companions[name][row]
            torch.testing.assert_close(own, image, rtol=1e-2, atol=1e-2, msg=name)
            assert abs(float(own.mean())) < 1e-5 and abs(float(own.square().mean()) - 1) < 1e-4
    assert settings(schedule="projector").learning_rate == 0.1
    assert settings(schedule="projector").steps == 1000


def test_noise_tells_of_its_neighbours() -> None:
    """Against loops over pixels, and far larger for stripes than for noise."""
    noise = np.random.default_rng(0).standard_normal((2, 16, 16))
    expected = np.zeros(2)
    for row in range(2):
        image = noise[row]
        while True:
            side = len(image)
            for down, right in ((0, 1), (1, 0)):
                products = [
                    image[i, j] * image[(i - down) % side, (j - right) % side]
                    for i in range(side)
                    for j in range(side)
                ]
                expected[row] += np.mean(products) ** 2
            if side <= 8:
                break
            image = image.reshape(side // 2, 2, side // 2, 2).mean(axis=(1, 3))
    measured = regularity({"a": torch.from_numpy(noise)}).numpy()
    np.testing.assert_allclose(measured, expected, rtol=1e-6)
    stripes = torch.ones(1, 16, 16)
    stripes[:, ::2] = -1
    assert float(regularity({"a": stripes})) > 1 > 50 * measured.max()


def test_large_pictures_are_compared_smaller(scene: Scene) -> None:
    drawn = scene.pixels.flip(0)
    images = Images(scene.pixels, scene.generator, settings())
    reduced = RowLosses(images, 4)(drawn)
    expected = F.avg_pool2d(drawn - scene.pixels, 4).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(reduced, expected)
    torch.testing.assert_close(RowLosses(images, 256)(drawn), RowLosses(images)(drawn))


def test_several_starts_are_never_worse(scene: Scene) -> None:
    mirrored = scene.pixels.flip(-1) * 1.5
    one = found(scene, [0, 1, 2], pixels=mirrored, steps=6)
    more = found(scene, [0, 1, 2], pixels=mirrored, steps=6, starts=3)
    assert (more.loss_end <= one.loss_end).all() and (more.loss_end < one.loss_end).any()
    assert more.steps.tolist() == [18.0] * 3
    torch.testing.assert_close(more.loss_start, one.loss_start)
    alone = found(scene, [2], pixels=mirrored, steps=6, starts=3)
    torch.testing.assert_close(alone.code.main[0], more.code.main[2], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("schedule", ["quasi_newton", "adam"])
def test_a_row_that_has_converged_leaves_the_batch(scene: Scene, schedule: str) -> None:
    """Row 0 is the mean's own picture; the others' codes are as if it had never been there."""
    pixels = torch.cat([scene.draw(scene.mean())[:1], scene.pixels[1:] * 1.5])
    keys = {"tolerance": 0.02, "steps": 60, "schedule": schedule, "learning_rate": 0.02}
    drawn: list[int] = []
    original = scene.generator.draw

    def counted(code: Code, **options: Any) -> Tensor:
        drawn.append(len(code))
        return original(code, **options)

    model = SimpleNamespace(**{"facts": scene.generator.facts, "draw": counted})
    model.centre, model.sample = scene.generator.centre, scene.generator.sample
    images = Images(pixels, model, settings(**keys))
    together = descend(images, scene.mean())
    assert together.steps[0] == min(together.steps) < max(together.steps)
    assert drawn[0] == 4 > drawn[-1]
    alone = descend(images[2:3], scene.mean()[2:3])
    torch.testing.assert_close(alone.code.main[0], together.code.main[2], rtol=1e-3, atol=1e-3)
    assert alone.steps[0] == together.steps[2]
    assert (together.loss_end <= together.loss_start).all()


def test_structure_is_a_term_of_the_loss(scene: Scene) -> None:
    images = Images(scene.pixels, scene.generator, settings(structural_weight=2.0))
    plain = Images(scene.pixels, scene.generator, settings())
    drawn = scene.pixels.flip(0)
    added = (RowLosses(images)(drawn) - RowLosses(plain)(drawn)) / 2
    assert ((added > 0) & (added <= 2)).all()
    torch.testing.assert_close(RowLosses(images)(scene.pixels), torch.zeros(4), rtol=0, atol=1e-5)


def test_l_bfgs_needs_fewer_steps_than_adam(scene: Scene) -> None:
    quick = found(scene, [0, 1, 2, 3], steps=15)
    slow = found(scene, [0, 1, 2, 3], steps=45, schedule="adam")
    assert float(quick.loss_end.median()) < float(slow.loss_end.median())


class TwoBasins(Linear):
    """Draws (2 (w^2 - 1), 0.3 (w - 1)) in the halves of a picture: of a black picture the loss is
    least, 0, at w = 1, and has a minimum of 0.17 near -0.99."""

    def __init__(self) -> None:
        self.mean = torch.tensor([-3.0])
        space = Space("w", (1,), "normal")
        self.facts = ModelFacts("two basins", "b" * 64, (SIDE, SIDE), {"w": space}, "w")

    def centre(self, space: str, labels: Any = None) -> Tensor:
        return self.mean if labels is None else self.mean.expand(len(labels), 1)

    def sample(self, space: str, seeds: Any, **options: Any) -> Code:
        rows = [np.random.default_rng(seed).standard_normal(1, np.float32) for seed in seeds]
        return Code("w", self.mean + 6 * torch.from_numpy(np.stack(rows)))

    def draw(self, code: Code, **options: Any) -> Tensor:
        halves = torch.cat([2 * (code.main.square() - 1), 0.3 * (code.main - 1)], dim=1)
        return halves[:, None, :, None].repeat_interleave(SIDE // 2, 2).expand(-1, 3, -1, SIDE)


def test_steps_that_are_left_find_a_better_minimum() -> None:
    model, rows = TwoBasins(), [0, 1, 2]

    def after(steps: int, rows: list[int] = rows, **keys: Any) -> Descent:
        black = torch.zeros(len(rows), 3, SIDE, SIDE)
        asked = settings(steps=steps, **keys)
        images = Images(black, model, asked, None, rngs(rows))  # type: ignore[arg-type]
        return descend(images, Code("w", model.mean.expand(len(rows), 1)))

    few, many = after(100), after(300)
    assert (few.code.main < -0.9).all() and (few.loss_end > 0.15).all()
    torch.testing.assert_close(many.code.main, torch.ones(3, 1), rtol=0, atol=1e-3)
    torch.testing.assert_close(many.loss_end, torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(after(300, [2]).code.main[0], many.code.main[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(after(300, tolerance=0.01).loss_end, few.loss_end)  # it is done
    assert settings(steps=101).needs.random and not settings(steps=100).needs.random


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"noise_images": True}, "moved by Adam"),
        ({"schedule": "projector", "noise_mode": "none"}, "draws without them"),
        ({"schedule": "projector", "tolerance": 0.1}, "code of the last step"),
        ({"pixel_weight": 0}, "nothing to optimise"),
        ({"starts": 0}, "starts"),
        ({"schedule": "newton"}, "schedule"),
    ],
)
def test_settings_that_contradict_one_another(keys: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        settings(**keys)


def test_noise_images_of_a_generator_without() -> None:
    facts = Linear().facts
    method = method_named("optimise")
    with pytest.raises(UsageError, match="come with no noise images: leave it out"):
        method.companions(settings(schedule="adam", noise_images=True), facts)
    assert list(method.companions(settings(schedule="projector"), facts)) == []
