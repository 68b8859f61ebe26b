"""Models that give their numbers in other shapes, types and rows than a linear one does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from generators.annotators import load_annotator
from generators.annotators.input_output import one_row_each, one_score_each, rows_of_one
from schemas.errors import CheckpointError
from schemas.store.reasons import Reason
from transforms.images.annotate import annotate_batch

SIZE = 8
WEIGHT = np.random.default_rng(0).normal(size=(3 * SIZE * SIZE, 12)).astype(np.float32) / SIZE


def model(
    folder: Path,
    *post: NodeProto,
    k: int = 2,
    names: Sequence[str] = ("a", "b"),
    kind: str = "scores",
    given: Sequence[Any] = ("n", 3, SIZE, SIZE),
    dtype: int = TensorProto.FLOAT,
    outputs: Sequence[str] = ("out",),
    constants: Mapping[str, Any] | None = None,
    input: Mapping[str, Any] | None = None,
    **card: Any,
) -> str:
    """`flatten(image) @ WEIGHT[:, :k]` is "rows" (n, k), "flat" the pictures (n, 192) in 0..1 (0
    to 255 for integers); ``post`` makes "out" of them."""
    axis = 1 if len(given) == 4 else 0
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["x"], ["flat"], axis=axis),
        helper.make_node("MatMul", ["flat", "weight"], ["rows"]),
        *(post or [helper.make_node("Identity", ["rows"], ["out"])]),
    ]
    held = {"weight": WEIGHT[:, :k], **(constants or {})}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", dtype, given)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    text = {"name": "m", "kind": kind, "names": list(names), "output": outputs[0], **card}
    text["input"] = {"size": SIZE, "range": [0, 1], **(input or {})}
    path.with_suffix(".json").write_text(json.dumps(text))
    return str(path)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def pictures(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)


def expected(images: np.ndarray, k: int = 2, scale: float = 255.0) -> np.ndarray:
    """What "rows" holds, in float64."""
    flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1) / scale
    return flat @ WEIGHT[:, :k].astype(np.float64)


def check(path: str, wanted: np.ndarray, images: np.ndarray, alone: str | None = None) -> None:
    """The model's values; why it is run image by image, where it is."""
    loaded = load_annotator(path)
    np.testing.assert_allclose(loaded.annotate(images), wanted, rtol=1e-4, atol=1e-4)
    told = [note for note in loaded.notes if "image by image" in note]
    assert [alone in note for note in told] == ([] if alone is None else [True])


# ---- axes -----------------------------------------------------------------------------------


def test_landmarks_in_planes_and_with_other_numbers(tmp_path):
    names, images = ["p", "q", "r"], pictures(5)
    given = {"names": names, "kind": "landmarks"}
    six = expected(images, 6)
    for shape, order, wanted in [
        ([0, 2, 3], "planes", six.reshape(5, 2, 3).swapaxes(1, 2)),
        ([0, 3, 2], "points", six.reshape(5, 3, 2)),
        ([0, 6], "planes", six.reshape(5, 2, 3).swapaxes(1, 2)),
        ([0, 6], "points", six.reshape(5, 3, 2)),
        ([0, 3, 1, 2, 1], "points", six.reshape(5, 3, 2)),
    ]:
        reshape = node("Reshape", "rows s", "out")
        path = model(tmp_path, reshape, k=6, constants={"s": shape}, order=order, **given)
        check(path, wanted, images)
    nine = expected(images, 9).reshape(5, 3, 3)
    for axes, columns in (("xyz", [0, 1]), ("yxc", [1, 0]), ("cxy", [1, 2])):
        reshape = node("Reshape", "rows s", "out")
        path = model(tmp_path, reshape, k=9, constants={"s": [0, 3, 3]}, axes=axes, **given)
        check(path, nine[..., columns], images)


@pytest.mark.parametrize(
    ("k", "shape", "card", "cure"),
    [
        (6, [0, 2, 3], {}, "set 'order' to 'planes'"),
        (6, [0, 3, 2], {"order": "planes"}, "set 'order' to 'points'"),
        (9, [0, 3, 3], {}, "set 'axes' to the 3 numbers of a point"),
        (9, [0, 9], {}, "set 'axes' to the 3 numbers of a point"),
        (8, [0, 8], {}, "correct 'names' or 'output'"),
    ],
)
def test_landmarks_of_other_axes_are_refused_with_the_cure_that_works(
    tmp_path, k, shape, card, cure
):
    path = model(
        tmp_path,
        node("Reshape", "rows s", "out"),
        k=k,
        constants={"s": shape},
        names=["p", "q", "r"],
        kind="landmarks",
        **card,
    )
    with pytest.raises(CheckpointError, match=rf"m.onnx' gave shape .*promises .*{cure}"):
        load_annotator(path)


def test_landmarks_in_one_row_are_read_as_points_and_said_so(tmp_path):
    given = {"k": 6, "names": ["p", "q", "r"], "kind": "landmarks"}
    (note,) = load_annotator(model(tmp_path, **given)).notes
    assert "x, y, x, y" in note and "planes" in note
    assert load_annotator(model(tmp_path, order="points", **given)).notes == []


def test_shapes_by_themselves(tmp_path):
    path = model(tmp_path, names=["yaw", "pitch", "roll"], kind="pose", k=3)
    card = load_annotator(path).card
    values = np.arange(12.0).reshape(4, 3)
    for shape in [(4, 3), (4, 3, 1), (4, 1, 3), (1, 4, 3)]:
        np.testing.assert_array_equal(one_row_each(values.reshape(shape), 4, card), values)
    for shape in [(3, 4), (2, 2, 3), (12,), (12, 1), (6, 2)]:
        assert one_row_each(values.reshape(shape), 4, card) is None
    assert rows_of_one(values, card).shape == rows_of_one(values[None], card).shape == (4, 3)
    assert rows_of_one(values[:0], card).shape == rows_of_one(np.empty(0), card).shape == (0, 3)
    assert rows_of_one(values.T, card) is None and rows_of_one(values.ravel(), card) is None
    assert one_score_each(values[:, :1], 4, card).tolist() == [0, 3, 6, 9]
    assert one_score_each(values, 4, card) is None


def test_scores_across_the_batch_are_not_mixed_among_images(tmp_path):
    images = pictures(4)
    path = model(tmp_path, node("Transpose", "rows", "out"), k=4, names=list("abcd"))
    check(path, expected(images, 4), images, "gives shape (4, 3)")


def test_rows_that_depend_on_their_batch_are_measured_alone(tmp_path):
    images = pictures(5)
    post = [
        node("ReduceMean", "rows", "mean", axes=[0], keepdims=1),
        node("Add", "rows mean", "out"),
    ]
    check(model(tmp_path, *post), 2 * expected(images), images, "depend on the other images")
    with pytest.raises(CheckpointError, match="batches of 2, but an image's numbers depend"):
        load_annotator(model(tmp_path, *post, given=(2, 3, SIZE, SIZE)))


def test_a_batch_of_one_baked_in(tmp_path):
    images = pictures(5)
    for shape, why in [([1, 2], "fails"), ([1, -1], "gives shape (1, 8)")]:
        path = model(tmp_path, node("Reshape", "rows s", "out"), constants={"s": shape})
        check(path, expected(images), images, why)
    path = model(tmp_path, given=(3, SIZE, SIZE))  # no batch axis at all
    check(path, expected(images), images)


# ---- inputs and outputs ---------------------------------------------------------------------


def test_integer_and_other_inputs(tmp_path):
    images = pictures(3)
    for dtype in (TensorProto.UINT8, TensorProto.INT32):
        path = model(tmp_path, dtype=dtype, input={"range": [0, 255]})
        check(path, expected(images, scale=1.0), images)
    wanted = expected(images, scale=1.0) - 128 * WEIGHT[:, :2].sum(axis=0)
    path = model(tmp_path, dtype=TensorProto.INT8, input={"range": [-128, 127]})
    check(path, wanted, images)
    check(model(tmp_path, dtype=TensorProto.DOUBLE), expected(images), images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": TensorProto.UINT8}, r"takes tensor\(uint8\).*'range' to \[0, 255\]"),
        ({"dtype": TensorProto.BFLOAT16}, r"takes tensor\(bfloat16\).*export it with float"),
        ({"given": ("n", SIZE, SIZE, 3)}, "set 'layout' to 'NHWC'$"),
        ({"given": ("n", 16, 4, 3)}, r"set 'layout' to 'NHWC' and 'size' to \[16, 4\]"),
        ({"input": {"size": 16}}, r"set 'size' to \[8, 8\]"),
        ({"given": ("n", 1, 16, 12)}, "three channels"),
        ({"given": ("n", 192)}, "three channels"),
    ],
)
def test_inputs_that_do_not_fit_the_description(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=f"m.onnx' .*{message}"):
        load_annotator(model(tmp_path, **change))


def test_free_axes_and_a_size_that_does_not_work(tmp_path):
    path = model(tmp_path, given=("n", 3, "h", "w"), input={"size": 16})
    with pytest.raises(CheckpointError, match=r"m.onnx' failed: .*ONNXRuntimeError.*MatMul"):
        load_annotator(path).annotate(pictures(2))


def test_outputs_that_are_no_arrays(tmp_path):
    post = [node("SequenceConstruct", "rows", "out")]
    path = Path(model(tmp_path, *post))
    found = onnx.load(path)
    found.graph.output[0].CopyFrom(
        helper.make_tensor_sequence_value_info("out", TensorProto.FLOAT, None)
    )
    onnx.save(found, path)
    with pytest.raises(CheckpointError, match=r"m.onnx' gives 'out' as seq\(.*no array"):
        load_annotator(str(path))


def test_noise_inside_a_model_is_refused(tmp_path):
    post = [node("RandomNormalLike", "rows", "noise"), node("Add", "rows noise", "out")]
    with pytest.raises(CheckpointError, match="other numbers for the same image"):
        load_annotator(model(tmp_path, *post))


# ---- faces ----------------------------------------------------------------------------------

BRIGHT = [  # "keep" (n,): whether the picture's mean is above 0.6
    node("ReduceMean", "flat", "mean", axes=[1], keepdims=0),
    node("Greater", "mean level", "keep"),
]
LEVEL = {"level": np.float32(0.6)}
FIVE = np.concatenate([np.full((1, SIZE, SIZE, 3), v, np.uint8) for v in (200, 10, 250, 0, 180)])


@pytest.mark.parametrize("batch", ["n", 1])
def test_no_row_is_no_face(tmp_path, batch):
    post = [*BRIGHT, node("Compress", "rows keep", "out", axis=0)]
    path = model(tmp_path, *post, constants=LEVEL, given=(batch, 3, SIZE, SIZE))
    found = annotate_batch(load_annotator(path), FIVE)
    no = Reason.NO_FACE
    assert found.reasons.tolist() == [0, no, 0, no, 0]
    np.testing.assert_allclose(found.values[::2], expected(FIVE[::2]), rtol=1e-4)
    assert np.isnan(found.values[1::2]).all()


def test_of_several_faces_the_most_present_one(tmp_path):
    """Twice as many rows for a bright picture; the second of them is the negative."""
    post = [
        *BRIGHT,
        node("Neg", "rows", "minus"),
        node("Compress", "minus keep", "more", axis=0),
        node("Concat", "rows more", "out", axis=0),
    ]
    given = {"constants": LEVEL, "given": (1, 3, SIZE, SIZE)}
    found = annotate_batch(load_annotator(model(tmp_path, *post, **given)), FIVE)
    assert found.reasons.tolist() == [11, 0, 11, 0, 11] and Reason.SEVERAL_FACES == 11
    np.testing.assert_allclose(found.values[1::2], expected(FIVE[1::2]), atol=1e-4)
    more = [
        node("ReduceMax", "out", "top", axes=[1], keepdims=0),
        node("ReduceMin", "out", "low", axes=[1], keepdims=0),
        node("Sub", "top low", "spread"),
        node("Add", "spread top", "face"),
    ]
    given["presence"] = {"output": "face", "threshold": -100}
    path = model(tmp_path, *post, *more, outputs=["out", "face"], **given)
    found = annotate_batch(load_annotator(path), FIVE)
    rows = expected(FIVE)
    wanted = np.where((rows.max(axis=1) > -rows.min(axis=1))[:, None], rows, -rows)
    wanted[1::2] = rows[1::2]
    assert not found.reasons.any()
    np.testing.assert_allclose(found.values, wanted, atol=1e-4)


def test_rows_of_faces_are_never_taken_for_rows_of_pictures(tmp_path):
    """Of a dark picture no row, of a bright one two: a batch may have as many rows as pictures."""
    post = [
        *BRIGHT,
        node("Greater", "mean dark", "light"),
        node("Compress", "rows light", "one", axis=0),
        node("Neg", "rows", "minus"),
        node("Compress", "minus keep", "more", axis=0),
        node("Concat", "one more", "out", axis=0),
        node("ReduceMax", "out", "face", axes=[1], keepdims=0),
    ]
    constants = {**LEVEL, "dark": np.float32(0.1)}
    presence = {"output": "face", "threshold": -100}
    given: dict[str, Any] = {"constants": constants, "outputs": ["out", "face"]}
    loaded = load_annotator(model(tmp_path, *post, presence=presence, **given))
    found = annotate_batch(loaded, FIVE[1:3])
    assert found.reasons.tolist() == [Reason.NO_FACE, 0]
    row = expected(FIVE[2:3])
    best = row if row.max() > -row.min() else -row
    np.testing.assert_allclose(found.values[1:], best, atol=1e-4)


def test_presence_of_other_shapes(tmp_path):
    """Two numbers a row are refused until the description says which of them is meant."""
    post = [
        node("Identity", "rows", "out"),
        node("ReduceMean", "flat", "mean", axes=[1], keepdims=1),
        node("Neg", "mean", "not"),
        node("Concat", "not mean", "face", axis=1),
    ]
    presence = {"output": "face", "threshold": 0.5}
    path = model(tmp_path, *post, outputs=["out", "face"], presence=presence)
    with pytest.raises(CheckpointError, match=r"\(1, 2\) for its presence, expected \(1,\).*index"):
        load_annotator(path)
    path = model(tmp_path, *post, outputs=["out", "face"], presence={**presence, "index": 1})
    reasons = annotate_batch(load_annotator(path), FIVE).reasons
    assert reasons.tolist() == [0, Reason.NO_FACE, 0, Reason.NO_FACE, 0]
    path = model(tmp_path, *post, outputs=["out", "face"], presence={**presence, "index": 2})
    with pytest.raises(CheckpointError, match="more than 2 a row"):
        load_annotator(path)


def test_several_rows_for_any_picture_are_not_faces(tmp_path):
    post = [node("Concat", "rows rows", "out", axis=0)]
    with pytest.raises(CheckpointError, match=r"gave shape \(2, 2\) for a batch of 1.*presence"):
        load_annotator(model(tmp_path, *post, given=(1, 3, SIZE, SIZE)))


def fails_in_the_dark() -> list[NodeProto]:
    """A Reshape that no rows do not fit into."""
    return [
        *BRIGHT,
        node("Compress", "rows keep", "kept", axis=0),
        node("Reshape", "kept s", "out"),
    ]


@pytest.mark.parametrize("batch", ["n", 1])
def test_one_picture_on_which_a_model_fails_stops_no_other(tmp_path, batch):
    given = {"constants": {**LEVEL, "s": [1, 2]}, "given": (batch, 3, SIZE, SIZE)}
    loaded = load_annotator(model(tmp_path, *fails_in_the_dark(), **given))
    found = annotate_batch(loaded, FIVE)
    failed = Reason.MODEL_FAILED
    assert found.reasons.tolist() == [0, failed, 0, failed, 0]
    np.testing.assert_allclose(found.values[::2], expected(FIVE[::2]), rtol=1e-4)
    assert list(found.messages) == [1, 3] and "Reshape" in found.messages[1]


def test_a_model_that_has_never_worked_is_not_believed(tmp_path):
    """It needs pictures unlike all that it was tried on: half bright, half black."""
    constants = {"level": np.float32(0.55), "top": np.float32(0.95), "s": [1, 2]}
    post = [
        node("ReduceMean", "flat", "mean", axes=[1], keepdims=0),
        node("Greater", "mean level", "bright"),
        node("Less", "mean top", "dull"),
        node("And", "bright dull", "keep"),
        node("Compress", "rows keep", "kept", axis=0),
        node("Reshape", "kept s", "out"),
    ]
    path = model(tmp_path, *post, constants=constants)
    loaded = load_annotator(path)
    assert loaded.unproven is not None
    with pytest.raises(CheckpointError, match=r"m.onnx' failed: .*Reshape"):
        loaded.annotate(FIVE[[1, 3]])
    assert annotate_batch(loaded, FIVE).reasons.tolist() == [0, 12, 12, 12, 0]
    assert annotate_batch(loaded, FIVE[[1, 3]]).reasons.tolist() == [12, 12]


def test_a_device_that_fails_quarantines_nothing(tmp_path, monkeypatch):
    loaded = load_annotator(model(tmp_path))

    def broken(batch):
        raise RuntimeError("CUDA failure 700")

    monkeypatch.setattr(loaded, "_run", broken)
    with pytest.raises(CheckpointError, match="no longer works.*failure 700.*run again"):
        loaded.annotate(FIVE)


def test_not_finite_is_one_rows_matter(tmp_path):
    post = [node("Log", "flat", "log"), node("MatMul", "log weight", "out")]
    images = pictures(3) | 1
    images[1, 0, 0, 0] = 0
    found = annotate_batch(load_annotator(model(tmp_path, *post, activation="softmax")), images)
    assert found.reasons.tolist() == [0, Reason.NOT_FINITE, 0]
    assert np.isfinite(found.values[::2]).all()


# ---- the description ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activaton": "sigmoid"}, r"unknown keys \['activaton'\]"),
        ({"input": {"size": 8, "colour_order": "BGR"}}, "unknown keys"),
        ({"presence": {"output": "out", "treshold": 1}}, "unknown keys"),
        ({"presence": {"output": "out", "threshold": "1"}}, "'presence.threshold' is '1'"),
        ({"presence": {"output": "out", "threshold": 1, "index": -1}}, "'presence.index'"),
        ({"presence": True}, "'presence' is True"),
        ({"input": 8}, "'input' is 8"),
        ({"input": {"size": 8.5}}, "'size' is 8.5"),
        ({"input": {"size": [8, 8, 3]}}, "'size'"),
        ({"input": {"size": True}}, "'size'"),
        ({"input": {"size": 8, "range": [1, 1]}}, "must differ"),
        ({"input": {"size": 8, "range": 255}}, "'range' is 255"),
        ({"input": {"size": 8, "mean": "0.5"}}, "'mean' is '0.5'"),
        ({"input": {"size": 8, "mean": [0, 0, None]}}, "'mean' is None"),
        ({"input": {"size": 8, "name": 0}}, "'input.name' is 0"),
        ({"names": "ab"}, "'names' is 'ab'"),
        ({"names": ["a", ""]}, r"\[''\]"),
        ({"names": ["a", " b"]}, "without space around"),
        ({"names": ["a", 1.5]}, "'names'"),
        ({"names": ["a", "b", "a"]}, r"\['a'\].*each once"),
        ({"output": True}, "'output' is True"),
        ({"kind": "landmarks", "axes": "xx"}, "'axes' is 'xx'"),
        ({"kind": "landmarks", "axes": "abc"}, "'axes'"),
        ({"kind": "landmarks", "order": "flat"}, "'order' is 'flat'"),
        ({"kind": "landmarks", "activation": "sigmoid"}, "only 'scores'"),
        ({"unit": "radians"}, "only 'pose'"),
        ({"kind": "pose", "names": ["yaw", "tilt"]}, "in its order"),
        ({"kind": "pose", "names": ["yaw", "roll"], "unit": "turns"}, "'unit' is 'turns'"),
        ({"input": {"size": 8, "mean": [0.485, 0.456, 0.406]}}, r"range'.*not given.*\[0, 1\]"),
        ({"input": {"size": 8, "std": [1, 1, 1], "range": None}}, "'range'.*not given"),
    ],
)
def test_descriptions_that_say_something_else_than_they_seem_to(tmp_path, change, message):
    path = model(tmp_path)
    sidecar = Path(path).with_suffix(".json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_annotator(path)


def test_a_pose_is_read_in_the_units_and_order_of_its_description(tmp_path):
    images, names = pictures(4), ["pitch", "roll", "yaw"]
    path = model(tmp_path, k=3, kind="pose", names=names)
    degrees = load_annotator(path)
    np.testing.assert_allclose(degrees.annotate(images), expected(images, 3), rtol=1e-4)
    path = model(tmp_path, k=3, kind="pose", names=names, unit="radians")
    radians = load_annotator(path)
    wanted = expected(images, 3) * 180 / np.pi
    np.testing.assert_allclose(radians.annotate(images), wanted, rtol=1e-4)
    assert radians.names == ("pitch", "roll", "yaw") and radians.fingerprint != degrees.fingerprint
    path = model(tmp_path, k=3, kind="pose", names=names, unit="degrees")
    assert load_annotator(path).fingerprint == degrees.fingerprint
    reshape = node("Reshape", "rows s", "out")
    path = model(tmp_path, reshape, k=9, constants={"s": [0, 3, 3]}, kind="pose", names=names)
    with pytest.raises(CheckpointError, match="rotation matrices are no angles: add to the model"):
        load_annotator(path)


def test_names_with_spaces_inside_are_names(tmp_path):
    path = model(tmp_path, names=["light brown", "East Asian"], notes="of hair")
    assert load_annotator(path).names == ("light brown", "East Asian")
