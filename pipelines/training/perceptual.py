"""Train the feature network (`generators.perceptual`) and write it with its card.

``python -m pipelines.training --only perceptual`` (about 10 minutes on one core that has nothing
else to do).

Everything is made from what the repository and its dependencies hold: faces of the rig, and
pictures of `pipelines.training.pictures`. One network learns four things at once: what a face of
the rig shows (attributes, landmarks, pose); which picture a spoiled one was made from, among
others; how it was spoiled; and to be nearer, in the perceptual distance itself, to a picture that
is spoiled less than to one that is spoiled more.
"""

import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from generators.annotators.input_output import resized
from generators.facerig import ATTRIBUTES
from generators.perceptual.distance import channel_distance
from generators.perceptual.files import SIDE, WIDTHS
from generators.perceptual.network import POOLED, FeatureNetwork
from pipelines.training.data import (
    TRAIN_SEED,
    VALIDATION_SEED,
    as_input,
    expressive,
    rendered,
)
from pipelines.training.perceptual_figures import (
    MANY,
    PICTURES,
    by_network,
    by_pixels,
    faces_and_changes,
    figures,
)
from pipelines.training.pictures import DISTORTIONS, cut_out, drawn, light, shift, tint

log = logging.getLogger(__name__)

FEATURES = Path(__file__).parents[2] / "generators" / "bundled" / "features64"

FACES, DRAWN, CUT_OUT = 4000, 2000, 2000
BATCH = {"faces": 16, "drawn": 8, "cut_out": 8}
"""Pictures of one step; each is seen as it is, spoiled a little, and spoiled more."""
EXPRESSIONS = 4
"""Faces of a batch whose "spoiled more" is the same face with another expression."""
SEED = 17
STEPS = 1000
N_FEATURES = sum(WIDTHS[k] for k in POOLED)


class Learner(nn.Module):
    """The network with what is read off it in training and thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.network = FeatureNetwork()
        for layer in self.network.convolutions():
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        hidden = nn.Linear(WIDTHS[-1] * 16, 128)
        self.face = nn.Sequential(nn.Flatten(), hidden, nn.LeakyReLU(0.2))
        self.attributes = nn.Linear(128, len(ATTRIBUTES))
        self.landmarks = nn.Linear(128, 136)
        self.pose = nn.Linear(128, 3)
        self.own = nn.Sequential(nn.Linear(N_FEATURES, 128), nn.ReLU(), nn.Linear(128, 64))
        self.spoiled = nn.Sequential(
            nn.Linear(N_FEATURES, 64), nn.ReLU(), nn.Linear(64, len(DISTORTIONS))
        )


class Pictures:
    """The training pictures, and batches of them."""

    def __init__(self, work: Path) -> None:
        self.faces = rendered(work / "data", TRAIN_SEED, FACES)
        self.stronger = rendered(work / "data", TRAIN_SEED, FACES, alter=expressive)["images"]
        self.drawn, self.cut_out = drawn(DRAWN, SEED), cut_out(CUT_OUT, SEED)

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, np.ndarray]:
        """Pictures, faces first; the first of these with more expression; the faces' rows."""
        rows = {
            name: rng.integers(len(pool), size=BATCH[name])
            for name, pool in (
                ("faces", self.stronger),
                ("drawn", self.drawn),
                ("cut_out", self.cut_out),
            )
        }
        images = [self.faces["images"][rows["faces"]]]
        images += [self.drawn[rows["drawn"]], self.cut_out[rows["cut_out"]]]
        stronger = self.stronger[rows["faces"][:EXPRESSIONS]]
        return as_input(np.concatenate(images)), as_input(stronger), rows["faces"]


def spoil(
    images: Tensor, families: np.ndarray, severities: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Each picture spoiled in its own way, and how: (n, len(DISTORTIONS)) severities."""
    out, how = images.clone(), torch.zeros(len(images), len(DISTORTIONS))
    for k, distortion in enumerate(DISTORTIONS.values()):
        rows = torch.from_numpy(np.flatnonzero(families == k))
        if len(rows):
            out[rows] = distortion(images[rows], severities[rows], rng).clamp(-1, 1)
            how[rows, k] = severities[rows]
    return out, how


def two_spoiled(
    images: Tensor, stronger: Tensor, rng: np.random.Generator, noise: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Every picture spoiled less and more, and how both were, one after the other.

    Half of them in one way, by severities that differ by at least 0.2; half in two ways, by at most
    0.3 and at least 0.7. The first faces are moved, lit or tinted a little, against more
    expression.
    """
    n, names = len(images), list(DISTORTIONS)
    less = rng.integers(len(names), size=n)
    other = (less + rng.integers(1, len(names), size=n)) % len(names)
    one_way = rng.random(n) < 0.5
    low = np.where(one_way, rng.uniform(0, 0.7, n), rng.uniform(0, 0.3, n))
    high = np.where(one_way, low + rng.uniform(0.2, 0.3, n), rng.uniform(0.7, 1, n))
    first = len(stronger)
    gentle = [names.index(f.__name__) for f in (shift, light, tint)]
    less[:first] = rng.choice(gentle, first)
    low[:first] = rng.uniform(0, 0.25, first)
    a, how_a = spoil(images, less, torch.from_numpy(low).float(), noise)
    families = np.where(one_way, less, other)
    b, how_b = spoil(images, families, torch.from_numpy(high).float(), noise)
    b[:first], how_b[:first] = stronger, 0
    return a, b, torch.cat([how_a, how_b])


def loss_of(
    learner: Learner,
    pictures: Pictures,
    rng: np.random.Generator,
    noise: torch.Generator,
) -> dict[str, Tensor]:
    """The four errors of one random batch, each with its weight in it."""
    images, stronger, rows = pictures.batch(rng)
    n, faces = len(images), len(rows)
    with torch.no_grad():
        a, b, how = two_spoiled(images, stronger, rng, noise)
    maps = learner.network.maps(torch.cat([images, a, b]))
    pooled = torch.cat([maps[k].mean(dim=(2, 3)) for k in POOLED], dim=1)
    x = learner.face(maps[-1][:faces])
    truth = {k: torch.from_numpy(v[rows]) for k, v in pictures.faces.items() if k != "images"}
    target = (truth["landmarks"].flatten(1) - SIDE / 2) / (SIDE / 2)
    shown = (
        2 * F.binary_cross_entropy_with_logits(learner.attributes(x), truth["attributes"])
        + 7 * F.smooth_l1_loss(learner.landmarks(x), target, beta=0.05)
        + F.smooth_l1_loss(learner.pose(x), truth["pose"] / 30, beta=0.1)
    )
    own = F.normalize(learner.own(pooled[: 2 * n]), dim=1)
    same = F.cross_entropy(own[:n] @ own[n:].T / 0.1, torch.arange(n))
    spoiled = F.mse_loss(learner.spoiled(pooled[n:]), how)
    split = [tuple(part[i * n : (i + 1) * n] for part in maps) for i in range(3)]
    near, far = (channel_distance(split[0], split[i]) for i in (1, 2))
    order = F.softplus(3 * (torch.log(near + 1e-4) - torch.log(far + 1e-4))).mean()
    return {"shown": shown, "same": 0.3 * same, "spoiled": 4 * spoiled, "order": 2 * order}


def fit(learner: Learner, pictures: Pictures, steps: int, seed: int) -> dict[str, float]:
    """Adam with a warm-up and a cosine to zero; the errors' means over the last steps."""
    opt = torch.optim.Adam(learner.parameters(), lr=2e-3, betas=(0.9, 0.99))
    noise, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    for values in (p for p in learner.parameters() if p.ndim == 4):
        values.data = values.data.contiguous(memory_format=torch.channels_last)  # a sixth faster
    last: list[dict[str, float]] = []
    started = time.monotonic()
    for step in range(steps):
        for group in opt.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * (0.01 + 0.99 * cosine)
        losses = loss_of(learner, pictures, rng, noise)
        opt.zero_grad(set_to_none=True)
        sum(losses.values(), torch.zeros(())).backward()
        opt.step()
        last = [*last[-99:], {k: float(v.detach()) for k, v in losses.items()}]
        if (step + 1) % 50 == 0:
            told = {k: round(float(np.mean([row[k] for row in last])), 3) for k in last[0]}
            log.info("step %d %s, %.0f s", step + 1, told, time.monotonic() - started)
    return {k: float(np.mean([row[k] for row in last])) for k in last[0]}


def onnx_model(network: FeatureNetwork) -> onnx.ModelProto:
    """The network as an ONNX graph, `image` (n, 3, 64, 64) in [-1, 1] to `features` (n, 192); its
    weights have the names that they have in the network."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    at, pooled = "image", []
    for k, layer in enumerate(network.convolutions()):
        names = []
        for name, value in layer.named_parameters():
            names.append(f"layers.{k}.{name}")
            array = value.detach().contiguous().numpy()
            weights.append(numpy_helper.from_array(array, names[-1]))
        stride = list(layer.stride)
        nodes.append(
            helper.make_node("Conv", [at, *names], [f"conv{k}"], pads=[1] * 4, strides=stride)
        )
        nodes.append(helper.make_node("Relu", [f"conv{k}"], [f"relu{k}"]))
        at = f"relu{k}"
        if k % 2 == 0 and k // 2 in POOLED:
            nodes.append(helper.make_node("GlobalAveragePool", [at], [f"mean{k}"]))
            nodes.append(helper.make_node("Flatten", [f"mean{k}"], [f"flat{k}"]))
            pooled.append(f"flat{k}")
    nodes.append(helper.make_node("Concat", pooled, ["features"], axis=1))
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "features",
        [helper.make_tensor_value_info("image", floats, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("features", floats, ["n", N_FEATURES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def description() -> dict[str, Any]:
    """What stands beside the ONNX file: an annotator of kind "features"."""
    return {
        "name": "features64",
        "kind": "features",
        "output": "features",
        "names": N_FEATURES,
        "input": {
            "name": "image",
            "size": SIDE,
            "layout": "NCHW",
            "range": [-1, 1],
            "mean": None,
            "std": None,
            "colour": "RGB",
            "resize": "antialias",
        },
        "licence": "Apache-2.0",
        "source": "pipelines/training/perceptual.py",
    }


def train(work: Path, steps: int = STEPS, seed: int = SEED) -> FeatureNetwork:
    """Train, unless `work`/perceptual.pt is there, and write that. One thread: the same numbers
    on the same machine."""
    path, threads = work / "perceptual.pt", torch.get_num_threads()
    if not path.exists():
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        learner = Learner()
        log.info("errors of the last steps: %s", fit(learner, Pictures(work), steps, seed))
        torch.save(learner.state_dict(), path)
        torch.set_num_threads(threads)
    learner = Learner()
    learner.load_state_dict(torch.load(path, weights_only=True))
    return learner.network.eval()


def write(work: Path, out: Path, photographs: Sequence[Path] = ()) -> None:
    """The trained network of `work` into `out`: features.onnx, its description, and a card.

    photographs : files .npz with ``images`` uint8 (n, h, w) or (n, h, w, 3), on which figures are
        reported, too
    """
    out.mkdir(parents=True, exist_ok=True)
    network = train(work)
    onnx.save(onnx_model(network), out / "features.onnx")
    (out / "features.json").write_text(json.dumps(description(), indent=1) + "\n")
    held_out = rendered(work / "data", VALIDATION_SEED, MANY)["images"]
    sets = {"faces": as_input(held_out), "drawn": as_input(drawn(MANY, VALIDATION_SEED))}
    sets |= {path.stem: photographs_of(path) for path in photographs}
    faces = faces_and_changes(2 * PICTURES)
    torch.manual_seed(SEED + 1)
    ways = {
        "this network": by_network(network),
        "the same, random weights": by_network(Learner().network),
        "pixels": by_pixels(),
    }
    found = {name: figures(way, sets, faces) for name, way in ways.items()}
    rows = [
        f"| {what} | " + " | ".join(f"{100 * found[way][what]:.1f}" for way in ways) + " |"
        for what in next(iter(found.values()))
    ]
    head = [
        "| share of right order, % | " + " | ".join(ways) + " |",
        "|---" * (1 + len(ways)) + "|",
    ]
    size = (out / "features.onnx").stat().st_size
    (out / "features.md").write_text(CARD.format(size=size, table="\n".join([*head, *rows])))


def photographs_of(path: Path) -> Tensor:
    """At most `MANY` of a file's images, in random order, their middle square at 64 px."""
    with np.load(path, allow_pickle=False) as file:
        images = file["images"]
    images = images[np.sort(np.random.default_rng(SEED).permutation(len(images))[:MANY])]
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    side = min(images.shape[1:3])
    top, left = ((length - side) // 2 for length in images.shape[1:3])
    square = images[:, top : top + side, left : left + side]
    return as_input(resized(square, (SIDE, SIDE), "antialias"))


CARD = """# features64: the feature network

`features.onnx` ({size:,} bytes): a convolutional network of 64 px pictures with five scales.

- `bundled:features64/features` is an annotator of kind `features`: 192 numbers a picture, the means
  of its third and fifth map.
- Its five maps make the perceptual distance **LPIPS\\***: the definition of LPIPS (Zhang et al.
  2018) with every linear weight 1 (none is learned). Pictures of other sizes are compared at 64 px.

Its numbers are of this network: LPIPS\\* and what is made of its features are no LPIPS, FID or KID,
and must not stand beside printed ones.

Made by `python -m pipelines.training --only perceptual` (1,000 steps of 32 pictures and two spoiled
copies of each; seed 17; one thread) from

- 4,000 faces of the built-in rig (seed 1001), and the same with a stronger expression;
- 2,000 drawn pictures: dead leaves and coloured noise (seed 17);
- 2,000 squares of the two photographs that scikit-learn ships, `china.jpg` and `flower.jpg`
  (Creative Commons Attribution 2.0; some rights reserved by danielbuechele and vultilion), cut out,
  resized, mirrored and spoiled.

No photograph of a person was used. Licence Apache-2.0.

It learned what a face of the rig shows, which picture a spoiled one was made from, how it was
spoiled (this it hardly learned), and to be nearer, in LPIPS\\*, to a picture that is spoiled less.
The spoiling of training is blur, noise, light, tint, shift, turn, warp and a hole.

All figures are of other pictures, and of kinds of spoiling that training had not (JPEG, few levels,
salt and pepper, coarse pixels, zoom, exchanged blocks): how often, of two pictures, the one that
was spoiled less is nearer. "one kind": severities 0.2, 0.6 and 1. "two kinds": at most 0.3 of one,
at least 0.7 of another. "Fréchet": the Fréchet distance of features rises with severity (of pixels:
the 192 means over 8 x 8 squares). "expression": a face that is moved, lit or tinted a little is
nearer than the same face with a stronger expression (other persons, but kinds of change that
training had). "turned": by 4, 8, 16 and 32 degrees. Sets beside faces and drawn pictures are files
of photographs that `--photographs` named; they were used for figures alone.

{table}

Severities of one kind any network orders. The order is planted, nobody was asked: severities of two
kinds are as comparable as their makers thought. Known limits: 64 px, faces of a rig and little else
that is natural; for figures that others can compare, name VGG16 or Inception.
"""
