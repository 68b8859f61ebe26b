"""The training of the bundled models: its losses and exports against independent computations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from generators.annotators import load_annotator
from generators.facerig import random_faces
from pipelines.training.annotators import Annotators, onnx_model, sidecar
from pipelines.training.data import PART, RAISE, expressive, rendered
from pipelines.training.gan import Trainer
from pipelines.training.losses import (
    detail_loss,
    energy_distance,
    feature_loss,
    feature_weight,
    structure_loss,
)


@pytest.fixture(scope="module")
def net() -> Annotators:
    torch.manual_seed(3)
    return Annotators().eval()


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand((n, 3, 64, 64), generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("head", ["attributes", "landmarks", "pose"])
def test_the_exported_graph_computes_what_the_network_computes(net, head):
    x = images(5)
    session = onnxruntime.InferenceSession(onnx_model(net, head).SerializeToString())
    (found,) = session.run([head], {"image": x.numpy()})
    with torch.no_grad():
        logits, points, pose = net(x)
    scores = torch.sigmoid(logits)  # expressions count as shown from half intensity on
    wanted = {
        "attributes": torch.cat([2 * scores[:, :6], scores[:, 6:]], dim=1).clamp(max=1),
        "landmarks": points.view(-1, 68, 2) * 32 + 32,
        "pose": pose * 30,
    }[head]
    assert found == pytest.approx(wanted.numpy(), abs=2e-4)


def test_feature_maps_are_the_trunk_after_each_halving(net):
    x = images(2)
    maps = net.features(x)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (24, 32, 32),
        (48, 16, 16),
        (96, 8, 8),
        (64, 4, 4),
    ]
    torch.testing.assert_close(maps[-1], net.trunk(x))


def test_feature_loss_is_the_mean_relative_difference_of_the_maps(net):
    x, y = images(2), images(2, seed=1)
    assert feature_loss(net, x, x).item() == 0
    wanted = np.mean([
        ((a - b).abs().mean() / b.abs().mean()).item()
        for a, b in zip(net.features(y), net.features(x), strict=True)
    ])  # fmt: skip
    assert feature_loss(net, y, x).item() == pytest.approx(wanted, rel=1e-5)
    moved = y.clone().requires_grad_()
    feature_loss(net, moved, x).backward()
    assert moved.grad.abs().sum() > 0


def test_an_exported_model_loads_as_an_annotator(net, tmp_path):
    import onnx

    onnx.save(onnx_model(net, "pose"), tmp_path / "pose.onnx")
    (tmp_path / "pose.json").write_text(json.dumps(sidecar("pose")))
    annotator = load_annotator(str(tmp_path / "pose.onnx"))
    picture = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        x = torch.from_numpy(picture).permute(0, 3, 1, 2).float() / 127.5 - 1
        wanted = net(x)[2].numpy() * 30
    assert annotator.names == ["yaw", "pitch", "roll"] or list(annotator.names) == list(
        sidecar("pose")["names"]
    )
    assert annotator.annotate(picture) == pytest.approx(wanted, abs=1e-3)


def test_energy_distance_is_the_brute_force_one():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 1
    distance = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=2).mean()  # noqa: E731
    wanted = 2 * distance(x, y) - distance(x, x) - distance(y, y)
    found = energy_distance(torch.from_numpy(x), torch.from_numpy(y))
    assert float(found) == pytest.approx(wanted)
    assert float(energy_distance(torch.from_numpy(x), torch.from_numpy(x))) == pytest.approx(0)


def test_losses_vanish_for_equal_pictures_and_weigh_the_features():
    x = images(2)
    points = torch.full((2, 68, 2), 20.5)
    weight = feature_weight(points, 64)
    assert weight.shape == (2, 1, 64, 64) and float(weight.max()) == pytest.approx(11)
    assert float(weight[0, 0, 20, 20]) == pytest.approx(11)
    assert float(weight[0, 0, 50, 50]) == pytest.approx(1)
    assert float(detail_loss(x, x, weight)) == 0
    assert float(structure_loss(x, x)) == pytest.approx(0, abs=1e-5)
    at, away = x.clone(), x.clone()
    at[:, :, 20, 20] += 0.5
    away[:, :, 50, 50] += 0.5
    assert float(detail_loss(at, x, weight)) > 5 * float(detail_loss(away, x, weight))


def test_a_step_can_be_repeated_after_loading(tmp_path: Path):
    pictures = np.random.default_rng(2).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    first = Trainer(10, 1, seed=5)
    first.advance(pictures)
    first.save(tmp_path / "state.pt")
    losses = first.advance(pictures)
    second = Trainer(10, 1, seed=5)
    second.load(tmp_path / "state.pt")
    assert second.step == 1 and second.advance(pictures) == losses


def test_rendered_parts_are_kept_and_are_functions_of_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.training.data.PART", 6)
    one = rendered(tmp_path, seed=9, n=9, resolution=32, processes=1)
    assert one["images"].shape == (9, 32, 32, 3) and one["attributes"].shape == (9, 10)
    stamp = max(p.stat().st_mtime_ns for p in tmp_path.rglob("*.npy"))
    again = rendered(tmp_path, seed=9, n=9, resolution=32, processes=1)
    assert np.array_equal(one["images"], again["images"])
    assert max(p.stat().st_mtime_ns for p in tmp_path.rglob("*.npy")) == stamp
    assert PART == 2000


def pairs(folder: Path, monkeypatch) -> tuple[dict, dict]:
    monkeypatch.setattr("pipelines.training.data.PART", 12)
    return tuple(rendered(folder, 9, 12, processes=1, alter=a) for a in (None, expressive))


def test_pairs_differ_in_one_expression_and_nothing_else(tmp_path, monkeypatch):
    data, raised = pairs(tmp_path, monkeypatch)
    more = raised["attributes"] - data["attributes"]
    assert ((more == RAISE).sum(axis=1) == 1).all() and ((more == 0).sum(axis=1) == 9).all()
    assert raised["attributes"].max() <= 1
    assert np.array_equal(raised["pose"], data["pose"])
    still = (raised["images"] == data["images"]).all(axis=3).mean(axis=(1, 2))
    assert (still < 1).all() and (still > 0.5).all()  # the face alone changes
    faces = random_faces(5, 9, first=4)
    assert np.array_equal(expressive(faces, 9).values[2], expressive(faces[2], 9).values[0])


def test_a_step_on_pairs_can_be_repeated_and_trains_the_moves(net, tmp_path, monkeypatch):
    data, raised = pairs(tmp_path, monkeypatch)
    first = Trainer(10, 1, seed=5)
    first.measure_moves(data, raised, pairs=4)
    apart = first.encode_all(raised["images"][:4]) - first.encode_all(data["images"][:4])
    which = np.argmax(raised["attributes"] - data["attributes"], axis=1)[:4]
    moves = first.moves.weight.detach().clone()
    torch.testing.assert_close(
        moves[which[0]], apart[which == which[0]].flatten(1).double().mean(0).float()
    )
    assert moves.isfinite().all()  # also of an expression that no pair shows
    first.advance_pairs(data, raised, 1.0, net)
    first.save(tmp_path / "state.pt")
    assert not torch.equal(first.moves.weight[which[0]], moves[which[0]])
    losses = first.advance_pairs(data, raised, 1.0, net)
    second = Trainer(10, 1, seed=5)
    second.load(tmp_path / "state.pt")
    assert second.advance_pairs(data, raised, 1.0, net) == losses
