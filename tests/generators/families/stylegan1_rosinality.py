"""Test support: state dicts of rosinality's StyleGAN, and its images by the definition."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.generators.families.stylegan1_layouts import (
    Arrays,
    correlated,
    doubled_and_correlated,
    transposed,
)

BLUR = np.outer([1, 2, 1], [1, 2, 1]) / 16


def rosinality_state(
    channels: tuple[int, ...], trained: int, fused_from: float = 128, seed: int = 0
) -> Arrays:
    """Random tensors of ``StyledGenerator``; blocks beyond the first `trained` as they begin."""
    random = np.random.RandomState(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    found: Arrays = {}
    for i in range(3):
        found[f"style.{2 * i + 1}.linear.weight_orig"] = normal(6, 6)
        found[f"style.{2 * i + 1}.linear.bias"] = 0.2 * normal(6)
    before = 0
    for block, n in enumerate(channels):
        name, own = f"generator.progression.{block}", float(block < trained)
        if not block:
            found[f"{name}.conv1.input"] = normal(1, n, 4, 4)
        elif 4 << block >= fused_from:
            found[f"{name}.conv1.0.weight"] = normal(before, n, 3, 3)
            found[f"{name}.conv1.0.bias"] = own * normal(n)
            found[f"{name}.conv1.1.weight"] = np.tile(BLUR, (n, 1, 1, 1)).astype(np.float32)
            found[f"{name}.conv1.1.weight_flip"] = found[f"{name}.conv1.1.weight"]
        else:
            found[f"{name}.conv1.1.conv.weight_orig"] = normal(n, before, 3, 3)
            found[f"{name}.conv1.1.conv.bias"] = own * normal(n)
            found[f"{name}.conv1.2.weight"] = np.tile(BLUR, (n, 1, 1, 1)).astype(np.float32)
        found[f"{name}.conv2.conv.weight_orig"] = normal(n, n, 3, 3)
        found[f"{name}.conv2.conv.bias"] = own * normal(n)
        for k in (1, 2):
            ones = np.repeat([1, 0], n)
            found[f"{name}.noise{k}.weight_orig"] = own * normal(1, n, 1, 1)
            found[f"{name}.adain{k}.style.linear.weight_orig"] = normal(2 * n, 6)
            found[f"{name}.adain{k}.style.linear.bias"] = ones + own * 0.3 * normal(2 * n)
        found[f"generator.to_rgb.{block}.conv.weight_orig"] = normal(3, n, 1, 1)
        found[f"generator.to_rgb.{block}.conv.bias"] = own * normal(3)
        before = n
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def rosinality_images(
    state: Mapping[str, np.ndarray], z: np.ndarray, trained: int, noise: Mapping[int, np.ndarray]
) -> np.ndarray:
    """Images of z; noise : of each block, (side, side), which both its layers add."""
    v = {name: np.asarray(value, np.float64) for name, value in state.items()}

    def scaled(name: str) -> np.ndarray:
        weight = v[f"{name}.weight_orig"]
        return weight * np.sqrt(2 / np.prod(weight.shape[1:]))

    def activated(x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, 0.2 * x)

    def column(values: np.ndarray) -> np.ndarray:
        return values.reshape(1, -1, 1, 1)

    w = np.asarray(z, np.float64)
    w = w / np.sqrt((w * w).mean(axis=1, keepdims=True) + 1e-8)
    for i in (1, 3, 5):
        w = activated(w @ scaled(f"style.{i}.linear").T + v[f"style.{i}.linear.bias"])
    x = np.zeros(0)
    for block in range(trained):
        name = f"generator.progression.{block}"
        for k in (1, 2):
            if k == 1 and not block:
                x = np.repeat(v[f"{name}.conv1.input"], len(w), axis=0)
            elif k == 1:
                if f"{name}.conv1.0.weight" in v:
                    weight = v[f"{name}.conv1.0.weight"]
                    gain = np.sqrt(2 / (weight.shape[0] * 9)) / 4
                    x = transposed(x, weight.transpose(2, 3, 0, 1) * gain)
                    x = x + column(v[f"{name}.conv1.0.bias"])
                else:
                    weight = scaled(f"{name}.conv1.1.conv").transpose(2, 3, 1, 0)
                    x = doubled_and_correlated(x, weight) + column(v[f"{name}.conv1.1.conv.bias"])
                x = correlated(x, np.einsum("ij,co->ijco", BLUR, np.eye(x.shape[1])))
            else:
                x = correlated(x, scaled(f"{name}.conv2.conv").transpose(2, 3, 1, 0))
                x = x + column(v[f"{name}.conv2.conv.bias"])
            strength = v[f"{name}.noise{k}.weight_orig"] * np.sqrt(2 / x.shape[1])
            x = activated(x + strength * noise[block])
            x = x - x.mean(axis=(2, 3), keepdims=True)
            x = x / np.sqrt((x * x).mean(axis=(2, 3), keepdims=True) + 1e-5)
            adain = f"{name}.adain{k}.style.linear"
            gamma, beta = np.split(w @ scaled(adain).T + v[f"{adain}.bias"], 2, axis=1)
            x = gamma[:, :, None, None] * x + beta[:, :, None, None]
    colours = f"generator.to_rgb.{trained - 1}.conv"
    return correlated(x, scaled(colours).transpose(2, 3, 1, 0)) + column(v[f"{colours}.bias"])
