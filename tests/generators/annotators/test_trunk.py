"""Annotators whose networks begin alike compute that part once, with the bits of each alone."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from generators.annotators.load import load_annotator
from generators.annotators.trunk import joined

BUNDLED = ("attributes", "pose", "landmarks")


def network(head=0, trunk=0, activation="Relu", opset=18, size=8):
    """A convolution of one seed, and a head of another."""
    rng, heads = np.random.default_rng(trunk), np.random.default_rng([head, 9])
    arrays = {
        "w": rng.normal(size=(4, 3, 3, 3)), "b": rng.normal(size=4),
        "head": heads.normal(size=(4 * (size - 2) ** 2, 2)), "zero": heads.normal(size=2),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["maps"], name=f"conv{head}"),
        helper.make_node(activation, ["maps"], ["active"]),
        helper.make_node("Flatten", ["active"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head", "zero"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [f"n{head}", 2])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def annotator(folder, name, model):
    onnx.save(model, folder / f"{name}.onnx")
    card = {"name": name, "kind": "quantities", "output": "out", "names": ["a", "b"],
            "input": {"name": "image", "size": 8}}  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(card))
    return load_annotator(str(folder / f"{name}.onnx"))


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (7, 8, 8, 3), np.uint8)


def test_the_bundled_annotators_run_one_backbone(rng):
    pictures = rng.integers(0, 256, (9, 64, 64, 3), np.uint8)
    alone = [load_annotator(f"bundled:faces64/{n}").annotate(pictures) for n in BUNDLED]
    every = [load_annotator(f"bundled:faces64/{n}") for n in BUNDLED]
    assert len({id(each._network) for each in every}) == 1
    nodes = every[0]._network._model.graph.node
    assert [node.op_type for node in nodes].count("Conv") == 8
    for each, expected in zip(every, alone, strict=True):
        assert np.array_equal(each.annotate(pictures), expected)
    for each, expected in zip(every[::-1], alone[::-1], strict=True):
        assert np.array_equal(each.annotate(pictures[2:5]), expected[2:5])


def test_heads_of_one_backbone_and_then_a_third(tmp_path, images):
    models = {f"h{i}": network(head=i) for i in range(3)}
    alone = {
        name: annotator(tmp_path, name, model).annotate(images) for name, model in models.items()
    }
    kept = [annotator(tmp_path, name, model) for name, model in models.items()]
    assert len({id(each._network) for each in kept}) == 1
    assert len({each.outputs[0] for each in kept}) == 3
    for each in kept:
        assert np.array_equal(each.annotate(images), alone[each.name])
    del kept[0]  # the network's first user
    for each in kept:
        assert np.array_equal(each.annotate(images[:3]), alone[each.name][:3])


@pytest.mark.parametrize(
    "other", [{"trunk": 1}, {"activation": "Tanh", "trunk": 2}, {"opset": 17}, {"size": 6}]
)
def test_other_networks_stay_apart(other):
    assert joined(network(), network(head=1, **other)) is None


def test_what_is_not_compared_stays_apart():
    whole, outside = network(), network(head=1)
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    assert joined(whole, outside) is None
    branch = helper.make_graph([], "branch", [], [])
    inner = network(head=1)
    inner.graph.node[0].attribute.append(helper.make_attribute("body", branch))
    assert joined(inner, inner) is None and joined(whole, inner) is None


def test_a_bit_that_would_differ_keeps_them_apart(tmp_path, images, monkeypatch):
    """A join that gives other numbers, as one might that an optimiser rounds otherwise."""

    def wrong(first, second):
        made, places = joined(first, second)
        (head,) = [t for t in made.graph.initializer if t.name.startswith("head_")]
        values = numpy_helper.to_array(head) * np.float32(1 + 2**-23)
        head.CopyFrom(numpy_helper.from_array(values, head.name))
        return made, places

    monkeypatch.setattr("generators.annotators.onnx.joined", wrong)
    first, second = (annotator(tmp_path, f"h{i}", network(head=i)) for i in range(2))
    assert first._network is not second._network
    assert not np.array_equal(first.annotate(images), second.annotate(images))


def test_without_the_library_onnx_each_runs_alone(tmp_path, images, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    first = load_annotator("bundled:faces64/pose")
    second = load_annotator("bundled:faces64/attributes")
    assert first._network is not second._network
