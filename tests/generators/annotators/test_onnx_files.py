"""Which files an ONNX model names, and that its fingerprint covers every byte of them."""

from __future__ import annotations

import json
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, onnx_ml_pb2
from onnx.external_data_helper import set_external_data

from generators.annotators import load_annotator
from generators.annotators.card import files_of, read_card
from generators.onnx_files import PATHS, data_files
from pipelines.orchestration.locations import locations
from schemas.errors import CheckpointError, UnsafeCheckpointError
from schemas.spec import RunSpec

VALUES = np.arange(8, dtype=np.float32)


def outside(name: str, location: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(VALUES, name)
    set_external_data(tensor, location, 0, VALUES.nbytes)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def constant(location: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=outside("", location))


def whole_model() -> onnx.ModelProto:
    """A tensor outside in every place that can hold one."""
    branch = helper.make_graph(
        [constant("branch.bin")], "b", [], [], initializer=[outside("d", "inner.bin")]
    )
    sparse = helper.make_sparse_tensor(
        outside("s", "sparse.bin"), numpy_helper.from_array(np.arange(8), "i"), [9]
    )
    nodes = [
        constant("sub/folder/attribute.bin"),
        helper.make_node("If", ["x"], ["y"], then_branch=branch),
        helper.make_node("Many", [], [], many=[outside("m", "many.bin")], graphs=[branch]),
    ]
    graph = helper.make_graph(nodes, "g", [], [], initializer=[outside("w", "weights.bin")])
    graph.sparse_initializer.append(sparse)
    model = helper.make_model(graph)
    model.functions.append(helper.make_function("own", "f", [], [], [constant("function.bin")], []))
    model.training_info.add().initialization.initializer.append(outside("t", "training.bin"))
    return model


NAMES = [
    *("branch.bin", "function.bin", "inner.bin", "many.bin", "sparse.bin"),
    *("sub/folder/attribute.bin", "training.bin", "weights.bin"),
]


def write(folder, model: onnx.ModelProto):
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(VALUES.tobytes())
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    card = {"name": "m", "kind": "scores", "names": ["a"], "input": {"size": 8}}
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


def test_every_way_to_a_tensor_is_walked():
    """Against onnx's own description of its messages."""
    assert PATHS.pop("TensorProto") == {13: "StringStringEntryProto"}
    try:
        leads = {"TensorProto"}
        for _ in range(9):
            leads |= {
                name
                for name, found in onnx_ml_pb2.DESCRIPTOR.message_types_by_name.items()
                if any(f.message_type and f.message_type.name in leads for f in found.fields)
            }
        for name in leads & PATHS.keys() | {"ModelProto"}:
            fields = onnx_ml_pb2.DESCRIPTOR.message_types_by_name[name].fields
            ways = {f.number: f.message_type.name for f in fields if f.message_type}
            assert PATHS[name] == {n: to for n, to in ways.items() if to in leads}, name
    finally:
        PATHS["TensorProto"] = {13: "StringStringEntryProto"}


def test_one_byte_of_any_part_changes_the_fingerprint(tmp_path):
    path = write(tmp_path, whole_model())
    assert list(data_files(path)) == NAMES
    uri = str(path)
    base, seen = read_card(uri).fingerprint, set()
    for file in [tmp_path / name for name in NAMES]:
        data = bytearray(file.read_bytes())
        file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        seen.add(read_card(uri).fingerprint)
        file.write_bytes(data)
    assert read_card(uri).fingerprint == base
    assert len({base, *seen}) == 1 + len(NAMES)
    assert {str(f.relative_to(tmp_path)) for f in files_of(uri)} == {*NAMES, "m.onnx", "m.json"}


@pytest.mark.parametrize("name", ["../out.bin", "/etc/hostname", "sub/../../out.bin", "c:\\x", ""])
def test_data_outside_the_models_folder_is_refused(tmp_path, name):
    folder = tmp_path / "m"
    folder.mkdir()
    (tmp_path / "out.bin").write_bytes(VALUES.tobytes())
    graph = helper.make_graph([], "g", [], [], initializer=[outside("w", name)])
    path = write(folder, helper.make_model(graph))
    with pytest.raises(UnsafeCheckpointError, match="outside its own folder"):
        read_card(str(path))


def test_links_are_followed_where_onnxruntime_follows_them(tmp_path):
    """A download cache links model and data from one folder of blobs; a lone link leads out."""
    graph = helper.make_graph([], "g", [], [], initializer=[outside("w", "weights.bin")])
    blobs, shown = tmp_path / "blobs", tmp_path / "shown"
    blobs.mkdir()
    shown.mkdir()
    path = write(blobs, helper.make_model(graph))
    (blobs / "weights.bin").rename(blobs / "1")
    os.symlink(path, shown / "m.onnx")
    os.symlink(blobs / "1", shown / "weights.bin")
    (shown / "m.json").write_text(path.with_suffix(".json").read_text())
    assert data_files(shown / "m.onnx") == {"weights.bin": shown / "weights.bin"}
    (shown / "m.onnx").unlink()
    (shown / "m.onnx").write_bytes(path.read_bytes())
    with pytest.raises(UnsafeCheckpointError, match="put that file itself"):
        read_card(str(shown / "m.onnx"))


def test_missing_data_and_damaged_files_are_named(tmp_path):
    path = write(tmp_path, whole_model())
    (tmp_path / "many.bin").unlink()
    with pytest.raises(CheckpointError, match=r"'many.bin', which is not beside it: copy"):
        read_card(str(path))
    data = path.read_bytes()
    for case, message in (
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page or XML text titled 'Sign in'"),
        (b"\x1f\x8b\x08\0", "unpack it"),
    ):
        path.write_bytes(case)
        with pytest.raises(CheckpointError, match=message):
            read_card(str(path))
    cases = [data[: len(data) // 2], b"not a model"]
    cases += [b"\x12\x01x", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a" + b"\x80" * 11, b"\x3b"]
    for case in cases:
        path.write_bytes(case)
        with pytest.raises(CheckpointError, match="not a usable ONNX model"):
            read_card(str(path))


def test_a_retrained_model_with_its_weights_beside_it(tmp_path):
    """As exporters write it: only the data file changes, and other numbers come out."""
    weight = np.random.default_rng(0).normal(size=(192, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"], axis=1),
        helper.make_node("MatMul", ["f", "w"], ["out"]),
    ]
    shapes = [("image", ("n", 3, 8, 8)), ("out", ("n", 2))]
    given, out = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes)
    graph = helper.make_graph(nodes, "g", [given], [out], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    card = {"name": "m", "kind": "scores", "names": ["a", "b"], "input": {"size": 8}}
    path.with_suffix(".json").write_text(json.dumps(card))
    images = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), np.uint8)
    before = load_annotator(str(path))
    data = tmp_path / "m.onnx.data"
    spec = RunSpec(name="x", dataset={"path": "."}, annotate=[{"name": "m", "model": str(path)}])
    assert locations(spec)["annotate/m"] == [path, path.with_suffix(".json"), data]
    data.write_bytes((2 * weight).tobytes())
    after = load_annotator(str(path))
    assert before.fingerprint != after.fingerprint
    np.testing.assert_allclose(after.annotate(images), 2 * before.annotate(images), rtol=1e-5)
