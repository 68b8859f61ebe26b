"""The projector that came with StyleGAN2, written anew over any generator: what ours stands beside.

After the description in Karras et al. 2020 ("Analyzing and Improving the Image Quality of
StyleGAN"), appendix D, with the constants of the official program (stylegan2-ada-pytorch): one
picture at a time, Adam of rate 0.1 ramped up and down, normal noise on w, large pictures compared
at 256 px, noise images moved beside the code with a regularisation over all scales, and the last
step's code taken. It shares no line with `transforms.inversion`; what pictures are compared by is
given, so that both can be asked for the same.

``python -m benchmarks.projector`` projects rig faces into a bundled StyleGAN2 and prints what it
reaches.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import generators
from generators.facerig import random_faces, render
from generators.protocols import Code

#: Images float32 (1, 3, h, w) -> distance from the target, a tensor without axes.
Distance = Callable[[Tensor], Tensor]


@dataclass
class Projection:
    """What a projection went through, one entry a step.

    codes : (steps, *shape of the space); the projector's answer is the last
    noise : the images of the last step, by layer
    distances, losses : before each step, without and with the regularisation of the noise
    """

    codes: Tensor
    noise: dict[str, Tensor] = field(default_factory=dict)
    distances: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def project(
    generator: Any,
    distance: Distance,
    *,
    space: str = "w",
    steps: int = 1000,
    rate: float = 0.1,
    noise_images: bool = True,
    noise_weight: float = 1e5,
    random: np.random.Generator | None = None,
    start: Tensor | None = None,
    spread: float | None = None,
) -> Projection:
    """The code of one picture.

    distance : of drawn images from the picture; see `compared`
    noise_images : move those of the space's companions ``noise/<layer>``, where it has any
    random : of the first noise images, layer by layer, and then of each step's noise on the code
    start, spread : mean code and deviation of the noise on it before the factor 0.05; by default
        the generator's mean, and the root of the summed squared deviations of 10,000 codes
    """
    random = np.random.default_rng(303) if random is None else random
    facts = generator.facts.space(space)
    mean = generator.centre(space) if start is None else start
    deviation = deviation_of(generator, space) if spread is None else spread
    code = mean.detach().clone().reshape(1, *facts.shape).requires_grad_(True)
    layers = [n for n in facts.companions if n.startswith("noise/")] if noise_images else []
    noise = {
        layer: normal(random, (1, *facts.companions[layer].shape)).requires_grad_(True)
        for layer in layers
    }
    optimiser = torch.optim.Adam([code, *noise.values()], lr=rate, betas=(0.9, 0.999))
    done = Projection(torch.zeros(steps, *facts.shape))
    for step in range(steps):
        t = step / steps
        down = 0.5 - 0.5 * np.cos(min(1.0, (1.0 - t) / 0.25) * np.pi)
        for group in optimiser.param_groups:
            group["lr"] = rate * down * min(1.0, t / 0.05)
        jitter = normal(random, code.shape) * (deviation * 0.05 * max(0.0, 1.0 - t / 0.75) ** 2)
        far = distance(generator.draw(Code(space, code + jitter, noise)))
        loss = far + noise_weight * sum((regularity(each[0]) for each in noise.values()), 0.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        done.codes[step] = code.detach()[0]
        done.distances.append(float(far.detach()))
        done.losses.append(float(loss.detach()))
        with torch.no_grad():
            for each in noise.values():
                each.sub_(each.mean()).div_(each.square().mean().sqrt())
    done.noise = {layer: each.detach()[0].clone() for layer, each in noise.items()}
    return done


def deviation_of(generator: Any, space: str, samples: int = 10_000) -> float:
    """sqrt(sum of |w - mean|^2 / samples): not by coordinate. Of w where `space` repeats it."""
    base = generator.facts.repeated(space) or space
    with torch.no_grad():
        codes = generator.sample(base, range(samples)).main.flatten(1).double()
    return float(((codes - codes.mean(0)).square().sum() / samples).sqrt())


def regularity(image: Tensor) -> Tensor:
    """How much the pixels of a noise image (h, w) tell of their neighbours, over all scales."""
    total = torch.zeros(())
    while True:
        for axis in (1, 0):
            total = total + (image * torch.roll(image, 1, axis)).mean() ** 2
        if image.shape[1] <= 8:
            return total
        image = F.avg_pool2d(image[None], 2)[0]


def normal(random: np.random.Generator, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.from_numpy(random.standard_normal(tuple(shape), np.float32))


def compared(target: Tensor, between: Callable[[Tensor, Tensor], Tensor]) -> Distance:
    """Distance from a picture (3, h, w), at 256 px where it is larger.

    between : images, targets (1, 3, h, w) -> (1,)
    """
    goal = reduced(target[None])
    return lambda drawn: between(reduced(drawn), goal)[0]


def reduced(images: Tensor) -> Tensor:
    """Images of 256 px where they are larger, each pixel the mean of those it covers."""
    if images.shape[2] <= 256:
        return images
    return F.interpolate(images, (256, 256), mode="area")


def rig_faces(count: int, first: int = 0, side: int = 64) -> Tensor:
    """Faces that no bundled model was trained on, float32 (count, 3, side, side) in [-1, 1]."""
    faces = random_faces(count, seed=316, first=first)
    images = render(faces, side).images
    return torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(127.5) - 1)


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generator", default="bundled:faces64", help="its uri")
    parser.add_argument("--space", default="w", help="w, w_plus, ... (default w)")
    parser.add_argument("--faces", type=int, default=4, help="pictures (default 4)")
    parser.add_argument("--steps", type=int, default=300, help="each (default 300)")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args()
    if options.smoke:
        options.faces, options.steps = 1, 5
    torch.set_num_threads(1)
    generator = generators.load(options.generator, "cpu")

    def mse(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().flatten(1).mean(dim=1)

    started, reached = time.perf_counter(), []
    for picture in rig_faces(options.faces):
        found = project(generator, compared(picture, mse), space=options.space, steps=options.steps)
        drawn = generator.draw(Code(options.space, found.codes[-1:])).detach()
        reached.append(float(mse(drawn, picture[None])))
        print(f"mse {reached[-1]:.5f}", flush=True)
    seconds = (time.perf_counter() - started) / options.faces
    result = {"name": "projector", "mse": float(np.median(reached)), "seconds_a_face": seconds}
    print(json.dumps({**result, "space": options.space, "steps": options.steps}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
