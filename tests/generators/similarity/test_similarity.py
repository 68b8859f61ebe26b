"""Distances, attentions and the loss of a diverse similarity encoder, beside numpy and scipy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial import distance
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor

import generators
from generators.perceptual import load_perceptual
from generators.similarity.attentions import CentreCrops, GradCam, coloured
from generators.similarity.measures import cosine, dissimilarity, divergence, mean_squared
from generators.similarity.objective import (
    SQUARED_ONLY,
    DiverseSimilarity,
    SimilarityWeights,
)
from schemas.errors import UsageError
from transforms.images import metrics


@pytest.fixture(scope="module")
def distance_of_features() -> Any:
    return load_perceptual("bundled:features64/features")


def pair(n: int = 3, side: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pictures of 8 bits and noisy ones, (n, 3, side, side) in [-1, 1]."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, (n, 3, side, side))
    b = np.clip(a + rng.integers(-60, 61, a.shape), 0, 255)
    return torch.tensor(a / 127.5 - 1).float(), torch.tensor(b / 127.5 - 1).float()


# ---- measures ------------------------------------------------------------------------------------


def test_measures_are_those_of_other_libraries() -> None:
    a, b = pair()
    rows = list(zip(a.double().flatten(1).numpy(), b.double().flatten(1).numpy(), strict=True))
    for found, wanted in (
        (mean_squared(a, b), [np.mean((x - y) ** 2) for x, y in rows]),
        (cosine(a, b), [distance.cosine(x, y) for x, y in rows]),
        (divergence(a, b), [entropy(softmax(y), softmax(x)) for x, y in rows]),
    ):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=2e-4)
    bytes_of = [((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy() for x in (a, b)]
    np.testing.assert_allclose(dissimilarity(a, b), 1 - metrics.ssim(*bytes_of), rtol=1e-4)


@pytest.mark.parametrize("measure", [mean_squared, cosine, divergence, dissimilarity])
def test_measures_are_smooth_zero_of_equals_and_see_a_row_alone(
    measure: Callable[[Tensor, Tensor], Tensor],
) -> None:
    a, b = (x.double()[:, :, :8, :9] for x in pair(2))
    assert bool((measure(a, b) > 0).all())
    torch.testing.assert_close(measure(a, a), torch.zeros(2).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(measure(a[1:], b[1:]), measure(a, b)[1:])
    few = a[:1, :1, :4, :4].clone().requires_grad_(), b[:1, :1, :4, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(measure, few)


def test_the_divergence_of_near_rows_is_half_a_variance() -> None:
    a = torch.randn(1, 500, dtype=torch.float64)
    step = 1e-3 * torch.randn(1, 500, dtype=torch.float64)
    weights = torch.softmax(a, dim=1)
    variance = (weights * step.square()).sum() - (weights * step).sum().square()
    torch.testing.assert_close(divergence(a, a + step)[0], variance / 2, rtol=1e-2, atol=0)


# ---- attentions ----------------------------------------------------------------------------------


def test_crops_lie_within_one_another_and_are_enlarged() -> None:
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    first, second = CentreCrops()(ramp)
    for crop, kept in ((first, 40), (second, 24)):  # 0.625 and 0.375 of 64
        assert crop.shape == ramp.shape
        start = (64 - kept) // 2
        edges = ramp[0, 0, 0, start], ramp[0, 0, 0, start + kept - 1]
        torch.testing.assert_close((crop[0, 0, 5, 0], crop[0, 0, 5, -1]), edges)


def test_heat_without_classes_is_the_gradient_of_the_distance_from_grey() -> None:
    maps, grey = torch.rand(2, 5, 4, 4).double(), torch.rand(1, 5, 4, 4).double()

    def network(images: Tensor) -> Tensor:
        return maps if images.any() else grey

    def score(seen: Tensor) -> Tensor:
        return (seen - grey.mean(dim=(2, 3), keepdim=True)).mean(dim=(2, 3)).square().sum(1) / 2

    images = torch.ones(2, 3, 8, 8).double()
    torch.testing.assert_close(GradCam(network).heat(images), GradCam(network, score).heat(images))


def test_heat_of_a_class_lies_where_its_map_does() -> None:
    """Two planted maps, one a class: the score's gradient picks the map of the class."""
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, 0, 0], maps[0, 1, 3, 3] = 1.0, 2.0
    for label, place in ((0, (0, 0)), (1, (-1, -1))):
        heat = GradCam(lambda _: maps, lambda seen, k=label: seen.sum(dim=(2, 3))[:, k]).heat(
            torch.zeros(1, 3, 8, 8)
        )
        assert heat[0, 0][place] == 1 and heat[0, 0].flipud().fliplr()[place] == 0


def test_heat_finds_the_face_in_a_picture(distance_of_features: Any) -> None:
    generator, images = generators.load("bundled:faces64"), torch.zeros(4, 3, 64, 64)
    face = F.interpolate(generator.draw(generator.sample("w_plus", [0])), (32, 32), mode="area")
    places = [(top, left) for top in (0, 32) for left in (0, 32)]
    for picture, (top, left) in zip(images, places, strict=True):
        picture[:, top : top + 32, left : left + 32] = face[0]
    heat = F.avg_pool2d(GradCam.of(distance_of_features).heat(images), 32).flatten(1)
    assert heat.argmax(dim=1).tolist() == [0, 1, 2, 3]
    quarters = heat.sort(dim=1).values
    assert bool((quarters[:, 3] > 1.5 * quarters[:, 2]).all())
    assert coloured(torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)).argmax(dim=1).tolist() == [
        [[2]], [[1]], [[0]],
    ]  # fmt: skip


def test_the_first_strategy_takes_the_heat_as_given(distance_of_features: Any) -> None:
    cam, images = GradCam.of(distance_of_features), pair(1, 64)[1].requires_grad_()
    heat, labelled = cam(images, constant=True)
    assert not heat.requires_grad
    (slope,) = torch.autograd.grad(labelled.sum(), images)
    torch.testing.assert_close(slope, torch.full_like(slope, 0.5))
    (through,) = torch.autograd.grad(cam(images, constant=False)[0].square().sum(), images)
    assert bool(through.any())


# ---- the loss ------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_sum_over_three_scales(distance_of_features: Any) -> None:
    images, drawn = pair(2, 64)
    crops = list(zip(CentreCrops()(images), CentreCrops()(drawn), strict=True))

    def one(a: Tensor, b: Tensor) -> Tensor:
        return (
            divergence(a, b) + 5 * mean_squared(a, b) + 3 * cosine(a, b)
            + 2 * distance_of_features.between(a, b) + dissimilarity(a, b)
        )  # fmt: skip

    for strategy, (first, second) in ((1, (1, 1)), (2, (5, 9))):
        objective = DiverseSimilarity(None, distance_of_features, CentreCrops(), strategy)
        wanted = one(images, drawn) + first * one(*crops[0]) + second * one(*crops[1])
        torch.testing.assert_close(objective.between_images(images, drawn), wanted)
    plain = DiverseSimilarity(SQUARED_ONLY, attention=CentreCrops())
    torch.testing.assert_close(plain.between_images(images, drawn), mean_squared(images, drawn))
    codes, other = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    latent = divergence(codes, other) + 5 * mean_squared(codes, other) + 3 * cosine(codes, other)
    torch.testing.assert_close(objective.between_codes(codes, other), latent)


def linear() -> tuple[Any, Any]:
    """A planted encoder e and generator g, (12, 4) and (4, 12), of pictures 3 x 2 x 2."""
    torch.manual_seed(0)
    return torch.randn(12, 4).mul(0.2).requires_grad_(), torch.randn(4, 12).mul(0.2)


def test_the_second_code_is_that_of_the_reconstruction() -> None:
    """w' = E(G(E(x))), line 9 of Algorithm 1; of real pictures beside E(x)."""
    e, g = linear()
    x, w = torch.randn(3, 3, 2, 2), torch.randn(3, 4)

    def loss(codes: Tensor | None) -> Tensor:
        only = SimilarityWeights(0, 1, 0, 0, 0, 1, (0, 0))
        return DiverseSimilarity(only).of_encoder(
            lambda images: images.flatten(1) @ e, lambda c: (c @ g).reshape(-1, 3, 2, 2), x, codes
        )

    first = x.flatten(1) @ e
    again = first @ g @ e
    pixels = (x.flatten(1) - first @ g).square().mean(dim=1)
    torch.testing.assert_close(loss(w), pixels + (w - again).square().mean(dim=1))
    torch.testing.assert_close(loss(None), pixels + (first - again).square().mean(dim=1))


@pytest.mark.parametrize(
    "term", ["divergence", "squared", "cosine", "perceptual", "structural", "latent"]
)
def test_every_term_moves_the_encoder(term: str, distance_of_features: Any) -> None:
    """Where the compared pictures are detached, as in the authors' code, none of a picture's
    terms does."""
    weights = dict.fromkeys(
        ("divergence", "squared", "cosine", "perceptual", "structural", "latent"), 0.0
    )
    weights[term] = 1.0
    if term == "latent":
        weights["squared"] = 1.0
    e = torch.randn(48, 4).mul(0.1).requires_grad_()
    g, x = torch.randn(4, 48), torch.randn(2, 3, 4, 4)
    objective = DiverseSimilarity(SimilarityWeights(**weights), distance_of_features)

    def slope(given: DiverseSimilarity) -> Tensor:
        loss = given.of_encoder(
            lambda images: images.flatten(1) @ e, lambda c: (c @ g).reshape(-1, 3, 4, 4), x
        )
        return torch.autograd.grad(loss.sum(), e)[0]

    found = slope(objective)
    if term == "latent":
        found = found - slope(DiverseSimilarity(SQUARED_ONLY))
    assert bool((found.abs() > 1e-7).any())


def test_a_perceptual_weight_without_a_network_is_told() -> None:
    with pytest.raises(UsageError, match="weighs 2.0, and there is none: give 'perceptual'"):
        DiverseSimilarity()
