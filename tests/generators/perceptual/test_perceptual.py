"""Perceptual distances: the official definition against its authors' package, ours by its formula,
and files that are something else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from generators.perceptual.distance import channel_distance
from generators.perceptual.files import ALEXNET, FEATURES64, VGG16, Architecture, read_perceptual
from generators.perceptual.load import load_perceptual
from generators.perceptual.network import FeatureNetwork
from schemas.errors import CheckpointError, UsageError

# Made by lpips 0.1.4 from PyPI with torchvision 0.28.0 and torch 2.13.0, in float64: a program that
# builds `lpips.LPIPS(net=..., pnet_rand=True)`, loads the tensors of `random_tensors` into it and
# compares the pictures of `pictures`.
OFFICIAL = {
    "vgg16": [0.10230420165094346, 0.5025859620175577, 0.0],
    "alexnet": [0.14023943624579824, 0.8727066278904747, 0.0],
}


def random_tensors(architecture: Architecture) -> dict[str, np.ndarray]:
    """As in state dicts of torchvision and lpips."""
    rng, found = np.random.default_rng(0), {}
    for k, shape in architecture.convolutions.items():
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        found[f"features.{k}.weight"] = rng.standard_normal(shape, np.float32) * scale
        found[f"features.{k}.bias"] = 0.1 * rng.standard_normal(shape[0], np.float32)
    for k, channels in enumerate(architecture.maps):
        found[f"lin{k}.model.1.weight"] = rng.random((1, channels, 1, 1), np.float32)
    return found


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Three pairs, uint8 (3, 40, 48, 3): changed by a quarter, unrelated, equal."""
    rng = np.random.default_rng(5)
    a = rng.integers(0, 256, (3, 40, 48, 3), np.uint8)
    b = np.clip(a.astype(int) + rng.integers(-60, 60, a.shape), 0, 255).astype(np.uint8)
    b[2] = a[2]
    b[1] = rng.integers(0, 256, b[1].shape)
    return a, b


def save(path, tensors) -> str:
    torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, path)
    return str(path)


def save_onnx(path, tensors) -> str:
    """A graph that adds up numbers, with these initialisers."""
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    node = helper.make_node("Identity", ["x"], ["y"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    kept = [numpy_helper.from_array(v, k) for k, v in tensors.items()]
    onnx.save(helper.make_model(helper.make_graph([node], "g", [info], [out], kept)), str(path))
    return str(path)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    return save(tmp_path_factory.mktemp("alexnet") / "alex.pth", random_tensors(ALEXNET))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The project's network with random weights."""
    torch.manual_seed(0)
    state = {k: v.numpy() for k, v in FeatureNetwork().state_dict().items()}
    return save_onnx(tmp_path_factory.mktemp("own") / "own.onnx", state)


def batch(n: int, seed: int = 0, size: tuple[int, int] = (64, 64)) -> torch.Tensor:
    return torch.rand((n, 3, *size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ---- the official definition


def test_vgg16_gives_the_numbers_of_the_authors_package(tmp_path):
    distance = load_perceptual(save(tmp_path / "vgg.pth", random_tensors(VGG16)))
    assert (distance.title, distance.key) == ("LPIPS", "lpips")
    np.testing.assert_allclose(distance(*pictures()), OFFICIAL["vgg16"], rtol=1e-6, atol=1e-9)


def test_alexnet_gives_the_numbers_of_the_authors_package(alexnet):
    found = load_perceptual(alexnet)(*pictures())
    np.testing.assert_allclose(found, OFFICIAL["alexnet"], rtol=1e-6, atol=1e-9)


def test_one_network_has_one_fingerprint_whatever_its_files(alexnet, tmp_path):
    tensors, whole = random_tensors(ALEXNET), read_perceptual(alexnet)
    slices = {"0": 1, "3": 2, "6": 3, "8": 4, "10": 5}
    renamed = {}
    for name, values in tensors.items():
        if name.startswith("features."):
            _, k, kind = name.split(".")
            name = f"net.slice{slices[k]}.{k}.{kind}"
        else:
            renamed[f"lins.{name[3:]}"] = values
        renamed[name] = values
    scaling = {"scaling_layer.shift": np.zeros((1, 3, 1, 1), np.float32)}
    of_package = save(tmp_path / "lpips.pth", renamed | scaling)
    exported = save_onnx(tmp_path / "lpips.onnx", renamed)
    linear = {k: v for k, v in tensors.items() if k.startswith("lin")}
    apart = save(tmp_path / "torchvision.pth", {k: tensors[k] for k in tensors.keys() - linear})
    beside = save(tmp_path / "alex.pth", linear)
    for file in (
        read_perceptual(of_package),
        read_perceptual(exported),
        read_perceptual(apart, beside),
    ):
        assert file.fingerprint == whole.fingerprint
    tensors["lin4.model.1.weight"][0, 7] += 1
    assert read_perceptual(save(tmp_path / "b.pth", tensors)).fingerprint != whole.fingerprint
    with pytest.raises(CheckpointError, match=r"no linear weights.*alex\.pth of PyPI"):
        read_perceptual(apart)
    with pytest.raises(CheckpointError, match="has linear weights itself.*leave one out"):
        read_perceptual(alexnet, beside)
    linear.pop("lin4.model.1.weight")
    with pytest.raises(CheckpointError, match=r"\[64, 192, 384, 256\] channels, alexnet has"):
        read_perceptual(apart, save(tmp_path / "few.pth", linear))


# ---- the project's own


def test_ours_is_the_sum_of_mean_differences_of_unit_channels(own):
    distance, a, b = load_perceptual(own), batch(3), batch(3, seed=1)
    assert (distance.title, distance.key) == ("LPIPS*", "lpips_star")
    wanted = np.zeros(3)
    for x, y in zip(distance.maps(a), distance.maps(b), strict=True):
        x, y = (m.numpy().astype(np.float64) for m in (x, y))
        unit = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in (x, y)]
        wanted += np.square(unit[0] - unit[1]).sum(axis=1).mean(axis=(1, 2))
    np.testing.assert_allclose(distance.between(a, b).numpy(), wanted, rtol=1e-5)


def test_a_row_does_not_depend_on_those_beside_it(own):
    distance, a, b = load_perceptual(own), batch(4), batch(4, seed=1)
    whole = distance.between(a, b)
    for rows in ([0], [3, 1], [2, 2, 2]):
        torch.testing.assert_close(
            distance.between(a[rows], b[rows]), whole[rows], rtol=1e-5, atol=0
        )
    assert torch.equal(whole, distance.between(a, b))
    broken = a.clone()
    broken[1, 0, 5, 5] = torch.nan
    found = distance.between(broken, b)
    assert found[1].isnan() and torch.equal(found.isnan().nonzero().flatten(), torch.tensor([1]))
    torch.testing.assert_close(found[[0, 2, 3]], whole[[0, 2, 3]], rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (32, 32)])
def test_pictures_of_any_size_are_compared_at_64_pixels(own, size):
    distance = load_perceptual(own)
    a, b = batch(2, size=size), batch(2, seed=1, size=size)
    if size == (128, 128):
        halved = [torch.nn.functional.avg_pool2d(x, 2) for x in (a, b)]
        torch.testing.assert_close(distance.between(a, b), distance.between(*halved))
    assert distance.between(a, b).shape == (2,)
    assert (distance.between(a, b) > distance.between(a, a + 0.01 * (b - a))).all()


def test_gradients_are_those_of_differences_and_exist_where_pictures_are_flat(own):
    distance = load_perceptual(own)
    a, b = batch(1).double().float().requires_grad_(), batch(1, seed=1)
    (gradient,) = torch.autograd.grad(distance.between(a, b).sum(), a)
    step = torch.zeros_like(b)
    step[0, 1, 20:24, 30:34] = 1e-2
    with torch.no_grad():
        found = distance.between(a + step, b) - distance.between(a - step, b)
    assert float(found) == pytest.approx(2 * float((gradient * step).sum()), rel=0.05)
    flat = torch.zeros(1, 3, 64, 64, requires_grad=True)
    for other in (flat.detach(), b):
        (gradient,) = torch.autograd.grad(distance.between(flat, other).sum(), flat)
        assert gradient.isfinite().all()
    dead = [torch.zeros(1, 4, 2, 2, requires_grad=True)]
    (gradient,) = torch.autograd.grad(channel_distance(dead, [torch.ones(1, 4, 2, 2)]).sum(), dead)
    assert gradient.isfinite().all()


# ---- bad input


def test_pictures_of_another_form_are_refused(own, alexnet):
    distance, images = load_perceptual(own), pictures()[0]
    for wrong in (images[..., :1], images[..., 0], images.astype(np.float32)):
        with pytest.raises(UsageError, match=r"must be uint8 \(n, height, width, 3\).*grey"):
            distance(wrong, wrong)
    with pytest.raises(UsageError, match=r"one shape are compared, got \[3, 40.*\[2, 40"):
        distance(images, images[:2])
    with pytest.raises(UsageError, match=r"must be float \(n, 3, .*torch.uint8"):
        distance.between(batch(1).byte(), batch(1).byte())
    with pytest.raises(UsageError, match=r"one shape are compared, got \[1, 3.*\[2, 3"):
        distance.between(batch(1), batch(2))
    with pytest.raises(UsageError, match=r"at least 31 pixels a side, got \[30, 64\]"):
        load_perceptual(alexnet).between(batch(1, size=(30, 64)), batch(1, size=(30, 64)))
    assert distance(images[:0], images[:0]).shape == (0,)


def test_files_of_something_else_are_refused(alexnet, own, tmp_path):
    tensors = random_tensors(ALEXNET)
    deeper = tensors | {"features.13.weight": np.zeros((8, 256, 3, 3), np.float32)}
    lost = {k: v for k, v in tensors.items() if k != "features.8.bias"}
    damaged = tensors | {"features.0.bias": np.full(64, np.nan, np.float32)}
    for values, message in (
        (deeper, r"begins as alexnet, but its tensor '13.weight' has shape \[8, 256.*none at all"),
        (lost, r"tensor '8.bias' has shape none at all, expected \[256\]"),
        (damaged, "not finite in '0.bias'"),
        ({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, "first convolution of shape None"),
        ({"features.0.weight": np.zeros((8, 3, 3, 3), np.float32)}, r"\[8, 3, 3, 3\], which is no"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_perceptual(save(tmp_path / "other.pth", values))
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        read_perceptual(str(tmp_path / "tensor.pth"))
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x09\xff\xff")
    with pytest.raises(CheckpointError, match="not a usable ONNX model"):
        read_perceptual(str(tmp_path / "cut.onnx"))
    with pytest.raises(CheckpointError, match="does not exist"):
        read_perceptual(str(tmp_path / "nothing.pth"))
    with pytest.raises(CheckpointError, match="takes no linear weights"):
        read_perceptual(own, alexnet)
    assert read_perceptual(own).architecture is FEATURES64
