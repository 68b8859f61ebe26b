"""Train the bundled annotators (attributes, landmarks, pose) and export them to ONNX.

One convolutional trunk is trained on rig faces, first on pictures alone, then with half of each
batch drawn through the bundled encoder and generator, so that scores of what a latent draws are as
good as scores of pictures. Each exported file holds the trunk and one head.

``python -m pipelines.training.annotators --work runs/training``
"""

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from generators.facerig import ATTRIBUTES, EXPRESSIONS
from pipelines.training.data import TRAIN_SEED, VALIDATION_SEED, as_input, expressive, rendered

log = logging.getLogger(__name__)

BATCH = 32
POSE = ("yaw", "pitch", "roll")
SHOWN_GAIN = np.where(np.isin(ATTRIBUTES, EXPRESSIONS), 2, 1).astype(np.float32)
"""The network estimates an expression's intensity; from half of it on it counts as shown."""
SIZE = 64


class Annotators(nn.Module):
    """images (n, 3, 64, 64) in [-1, 1] -> attribute logits (n, 10), landmarks (n, 136) in units
    of 32 pixels about the centre, pose (n, 3) in units of 30 degrees."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for features in (24, 48, 96, 64):
            inner = features if layers else 12
            layers += [nn.Conv2d(width, inner, 3, padding=1), nn.LeakyReLU(0.2)]
            layers += [nn.Conv2d(inner, features, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            width = features
        self.trunk = nn.Sequential(*layers)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(64 * 16, 128), nn.LeakyReLU(0.2))
        self.attributes = nn.Linear(128, len(ATTRIBUTES))
        self.landmarks = nn.Linear(128, 136)
        self.pose = nn.Linear(128, len(POSE))

    def features(self, images: Tensor) -> list[Tensor]:
        """The trunk's maps after each halving: (n, 24, 32, 32) to (n, 64, 4, 4)."""
        maps, x = [], images
        for k, layer in enumerate(self.trunk):
            x = layer(x)
            if k % 4 == 3:
                maps.append(x)
        return maps

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.hidden(self.trunk(images))
        return self.attributes(x), self.landmarks(x), self.pose(x)


def blurred(x: Tensor, rng: torch.Generator) -> Tensor:
    """A random mix of each image with its 3 x 3 average, and faint noise."""
    t = torch.rand((len(x), 1, 1, 1), generator=rng)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = 0.04 * torch.rand((len(x), 1, 1, 1), generator=rng)
    return x + t * (soft - x) + noise * torch.randn(x.shape, generator=rng)


def onnx_model(net: Annotators, head: str) -> onnx.ModelProto:
    """The trunk and one head as an ONNX graph: input `image` (n, 3, 64, 64) in [-1, 1].

    Outputs: `attributes` (n, 10) probabilities; `landmarks` (n, 68, 2) pixels; `pose` (n, 3)
    degrees.
    """
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def tensor(name: str, value: np.ndarray | np.float32) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def parameters(name: str, layer: nn.Module) -> list[str]:
        return [tensor(f"{name}.{k}", p.detach().numpy()) for k, p in layer.named_parameters()]

    at = "image"

    def node(kind: str, inputs: list[str], **attributes) -> None:
        nonlocal at
        out = f"{kind.lower()}{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        at = out

    for i, layer in enumerate([*net.trunk, *net.hidden, getattr(net, head)]):
        if isinstance(layer, nn.Conv2d):
            pad, stride = layer.padding[0], layer.stride[0]
            inputs = [at, *parameters(f"layer{i}", layer)]
            node("Conv", inputs, pads=[pad] * 4, strides=[stride] * 2)
        elif isinstance(layer, nn.LeakyReLU):
            node("LeakyRelu", [at], alpha=float(layer.negative_slope))
        elif isinstance(layer, nn.Flatten):
            node("Flatten", [at])
        else:
            node("Gemm", [at, *parameters(f"layer{i}", layer)], transB=1)
    if head == "attributes":
        node("Sigmoid", [at])
        node("Mul", [at, tensor("gain", SHOWN_GAIN)])
        node("Min", [at, tensor("certain", np.float32(1))])
        shape: list[str | int] = ["n", len(ATTRIBUTES)]
    elif head == "landmarks":
        node("Mul", [at, tensor("scale", np.float32(SIZE / 2))])
        node("Add", [at, tensor("centre", np.float32(SIZE / 2))])
        node("Reshape", [at, tensor("shape", np.array([-1, 68, 2], np.int64))])
        shape = ["n", 68, 2]
    else:
        node("Mul", [at, tensor("scale", np.float32(30))])
        shape = ["n", len(POSE)]
    node("Identity", [at])
    nodes[-1].output[0] = head
    graph = helper.make_graph(
        nodes,
        head,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(head, TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def sidecar(head: str) -> dict:
    """The declared pre-processing and outputs that stand beside the ONNX file."""
    names = {
        "attributes": list(ATTRIBUTES),
        "landmarks": [str(k) for k in range(1, 69)],
        "pose": list(POSE),
    }
    return {
        "name": head,
        "kind": {"attributes": "scores", "landmarks": "landmarks", "pose": "pose"}[head],
        "output": head,
        "names": names[head],
        "input": {
            "name": "image",
            "size": SIZE,
            "layout": "NCHW",
            "range": [-1, 1],
            "mean": None,
            "std": None,
            "colour": "RGB",
            "resize": "antialias",
        },
        "coordinates": "pixels",
        **({"scheme": "ibug68"} if head == "landmarks" else {}),
        "licence": "Apache-2.0",
        "source": "pipelines/training/annotators.py",
    }


def measure(net: Annotators, images: Tensor, truth: dict[str, np.ndarray]) -> dict[str, float]:
    """How good `net` is on `images`.

    Expressions: area under the ROC curve of shown against not shown, and mean absolute error of
    the intensity. Other attributes: accuracy. Landmarks: mean error in pixels. Pose: mean error in
    degrees.
    """
    with torch.no_grad():
        out = [net(part) for part in images.split(200)]
    logits, points, pose = (torch.cat(column).numpy() for column in zip(*out, strict=True))
    report = {}
    for k, (name, wanted) in enumerate(zip(ATTRIBUTES, truth["attributes"].T, strict=True)):
        if name in EXPRESSIONS:
            report[f"auc_{name}"] = float(roc_auc_score(wanted > 0, logits[:, k]))
            scores = 1 / (1 + np.exp(-logits[:, k]))
            report[f"error_{name}"] = float(np.abs(scores - wanted).mean())
        else:
            report[f"accuracy_{name}"] = float(((logits[:, k] > 0) == (wanted > 0.5)).mean())
    error = points.reshape(-1, 68, 2) * (SIZE / 2) + SIZE / 2 - truth["landmarks"]
    report["landmark_error_px"] = float(np.linalg.norm(error, axis=2).mean())
    degrees = np.abs(pose * 30 - truth["pose"]).mean(axis=0)
    return report | {f"{p}_error_deg": float(d) for p, d in zip(POSE, degrees, strict=True)}


def loss_of(net: Annotators, x: Tensor, data: dict[str, np.ndarray], rows: np.ndarray) -> Tensor:
    """Cross entropy of the attributes and robust errors of landmarks and pose."""
    logits, points, pose = net(x)
    truth = {k: torch.from_numpy(data[k][rows]) for k in ("landmarks", "pose")}
    target = (truth["landmarks"].flatten(1) - SIZE / 2) / (SIZE / 2)
    wanted = torch.from_numpy(data["attributes"][rows])
    return (
        6 * F.binary_cross_entropy_with_logits(logits, wanted)
        + 20 * F.smooth_l1_loss(points, target, beta=0.05)
        + 2 * F.smooth_l1_loss(pose, truth["pose"] / 30, beta=0.1)
    )


def fit(
    net: Annotators,
    data: dict[str, np.ndarray],
    steps: int,
    rate: float,
    seed: int,
    redraw: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Minimise `loss_of` over slightly blurred pictures, half of them through `redraw`."""
    opt = torch.optim.Adam(net.parameters(), lr=rate, betas=(0.9, 0.99))
    noise = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    started = time.monotonic()
    for step in range(steps):
        for group in opt.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = rate * min(1.0, (step + 1) / 100) * (0.01 + 0.99 * cosine)
        rows = np.sort(rng.integers(len(data["images"]), size=BATCH))
        x = as_input(data["images"][rows])
        with torch.no_grad():
            if redraw is not None:
                drawn = rng.permutation(BATCH)[: BATCH // 2]
                x[drawn] = redraw(x[drawn])
            x = blurred(x, noise)
        loss = loss_of(net, x, data, rows)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        if (step + 1) % 500 == 0:
            speed = (step + 1) * BATCH / (time.monotonic() - started)
            log.info("step %d loss %.4f, %.0f images/s", step + 1, float(loss.detach()), speed)


def train_features(work: Path, images: int, steps: int, seed: int, threads: int) -> None:
    """Train on pictures alone and write `work`/features.pt; kept if it is there.

    Its feature maps are what the pair's last stage compares, and where `train` begins.
    """
    path = work / "features.pt"
    if path.exists():
        return
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    net = Annotators()
    fit(net, rendered(work / "data", TRAIN_SEED, images), steps, 2e-3, seed)
    held_out = rendered(work / "data", VALIDATION_SEED, 2000)
    log.info("%s", json.dumps(measure(net, as_input(held_out["images"]), held_out), indent=1))
    torch.save(net.state_dict(), path)


def load_features(work: Path) -> Annotators:
    """The network of `train_features`."""
    net = Annotators()
    net.load_state_dict(torch.load(work / "features.pt", weights_only=True))
    return net


def train(
    work: Path,
    redraw: Callable[[Tensor], Tensor],
    images: int,
    steps: int,
    seed: int,
    threads: int,
) -> dict:
    """Train from the features, on all pairs' pictures, half as `redraw` makes them.

    Writes `work`/<head>.{onnx,json} and returns the held-out measures.
    """
    torch.set_num_threads(threads)
    parts = [rendered(work / "data", TRAIN_SEED, images, alter=a) for a in (None, expressive)]
    data = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    net = load_features(work)
    fit(net, data, steps, 1e-3, seed, redraw)
    held_out = rendered(work / "data", VALIDATION_SEED, 2000)
    x = as_input(held_out["images"])
    with torch.no_grad():
        drawn = torch.cat([redraw(part) for part in x.split(100)])
    report = {
        "pictures": measure(net, x, held_out),
        "reconstructions": measure(net, drawn, held_out),
        "steps": steps,
        "seed": seed,
        "training_images": images,
    }
    for head in ("attributes", "landmarks", "pose"):
        onnx.save(onnx_model(net, head), work / f"{head}.onnx")
        (work / f"{head}.json").write_text(json.dumps(sidecar(head), indent=1) + "\n")
    (work / "annotators.json").write_text(json.dumps(report, indent=1) + "\n")
    log.info("%s", json.dumps(report, indent=1))
    return report
