"""Annotators that look at the part of a picture which another one finds."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from generators.annotators import load_annotator
from generators.annotators.card import files_of, read_card, read_description
from generators.annotators.crop import Crop, beside, maps_of, placed_at
from generators.annotators.input_output import cut
from generators.annotators.kinds.base import turn_of
from generators.annotators.kinds.catalog import KINDS
from pipelines.stages.annotate_stages import Originals, stages_of
from schemas.errors import CheckpointError, UntrustedError
from schemas.index import DatasetIndex, NewRow
from schemas.spec_models import AnnotateSpec
from schemas.store.reasons import Reason

SIDE, INPUT = 40, 16
BOX = ("left", "top", "right", "bottom", "angle", "score")


def write(folder: Path, name: str, nodes: Sequence[Any], held: dict[str, Any], **card: Any) -> str:
    size = card["input"]["size"]
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), *nodes],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.asarray(value, np.float32), key)
            for key, value in held.items()
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    file = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), file)
    file.with_suffix(".json").write_text(json.dumps({"name": name, "output": "out", **card}))
    return str(file)


def finder(folder: Path, names: Sequence[str] = BOX, name: str = "finder", **card: Any) -> str:
    """Reads the numbers of a picture off the red of its first pixels."""
    weight = np.zeros((3, SIDE, SIDE, len(names)), np.float32)
    weight[0, 0, range(len(names)), range(len(names))] = 1
    nodes = [helper.make_node("MatMul", ["flat", "w"], ["out"])]
    described = {"kind": "boxes", "names": list(names), **card}
    described["input"] = {"size": SIDE, "range": [0, 255]}
    held = {"w": weight.reshape(-1, len(names))}
    return write(folder, name, nodes, held, **described)


def centroid(folder: Path, crop: dict[str, Any] | None, name: str = "spot", **card: Any) -> str:
    """The centre of what is green, in pixels of the input."""
    places = np.zeros((3, INPUT, INPUT, 3), np.float32)
    at = np.arange(INPUT) + 0.5
    places[1, :, :, 0], places[1, :, :, 1], places[1, :, :, 2] = at[None], at[:, None], 1
    nodes = [
        helper.make_node("MatMul", ["flat", "w"], ["sums"]),
        helper.make_node("MatMul", ["sums", "mass"], ["total"]),
        helper.make_node("MatMul", ["sums", "xy"], ["moment"]),
        helper.make_node("Div", ["moment", "total"], ["out"]),
    ]
    described = {"kind": "landmarks", "names": ["spot"], "crop": crop, **card}
    described["input"] = {"size": INPUT, "range": [0, 1], "resize": "bilinear"}
    held = {"w": places.reshape(-1, 3), "xy": np.eye(3)[:, :2], "mass": [[0], [0], [1]]}
    return write(folder, name, nodes, held, **described)


def pictures(boxes: Sequence[Sequence[float]], spots: Sequence[tuple[int, int]]) -> np.ndarray:
    """Pictures with these numbers in the first pixels' red, and a green spot 4 pixels wide."""
    images = np.zeros((len(boxes), SIDE, SIDE, 3), np.uint8)
    for image, box, (x, y) in zip(images, boxes, spots, strict=True):
        image[0, : len(box), 0] = box
        image[y - 2 : y + 2, x - 2 : x + 2, 1] = 255
    return images


@pytest.mark.parametrize("square", [True, False])
def test_points_of_a_crop_are_told_in_pixels_of_the_picture(tmp_path, square):
    finder(tmp_path)
    found = load_annotator(centroid(tmp_path, {"by": "finder", "scale": 1.2, "square": square}))
    boxes = [(8, 10, 28, 30, 0, 9), (5, 12, 35, 32, 30, 9), (16, 6, 28, 34, 100, 9)]
    spots = [(15, 22), (22, 24), (23, 17)]
    images = pictures(boxes, spots)
    points = found.annotate(images)[:, 0]
    np.testing.assert_allclose(points, spots, atol=0.12)
    wide = found.predict(images, (SIDE, 3 * SIDE)).values[:, 0]
    np.testing.assert_allclose(wide, points * [3, 1], rtol=1e-5)
    alone = np.concatenate([found.annotate(images[i : i + 1])[:, 0] for i in range(3)])
    np.testing.assert_allclose(alone, points, atol=1e-5)


def test_a_crop_is_turned_with_its_box_and_scaled_about_the_centre():
    box = np.array([[10.0, 20.0, 30.0, 30.0, 90.0, 1.0]])
    ((linear_x, linear_y),) = maps_of(box, BOX, Crop("f", scale=2, square=False), (8, 4))
    # 40 x 20 pixels about (20, 25) on an input 4 wide and 8 high; its x runs down the picture.
    np.testing.assert_allclose(linear_x, [0, -20 / 8, 20 + 4 * 20 / 8], atol=1e-12)
    np.testing.assert_allclose(linear_y, [40 / 4, 0, 25 - 2 * 40 / 4], atol=1e-12)
    (level,) = maps_of(box, BOX, Crop("f", upright=False), (8, 4))
    np.testing.assert_allclose(level, [[5, 0, 10], [0, 5, 5]], atol=1e-12)  # 20 x 40, unsquashed
    np.testing.assert_allclose(turn_of(maps_of(box, BOX, Crop("f"), (8, 8))), [90])


def test_a_crop_beside_the_picture_is_told():
    """Against the picture's pixels that each crop shows."""
    rng, size, picture = np.random.default_rng(1), (8, 6), (20, 30)
    steps = rng.uniform(0.5, 3, (100, 2))
    centre, turn = rng.uniform(-15, 45, (100, 2)), rng.uniform(-3, 3, 100)
    maps = placed_at(centre, steps, turn, size)
    fine = np.stack(np.meshgrid(np.arange(0, 6, 0.1), np.arange(0, 8, 0.1)), -1) + 0.05
    at = np.einsum("nij,yxj->nyxi", maps[:, :, :2], fine) + maps[:, None, None, :, 2]
    shown = ((at > 0) & (at < [picture[1], picture[0]])).all(-1).mean((1, 2))
    found = beside(maps, size, picture)
    assert 10 < found.sum() < 90
    assert not shown[found].any() and (shown[~found] > 0).mean() > 0.95


def test_a_face_beyond_the_picture_is_none(tmp_path):
    finder(tmp_path)
    found = load_annotator(centroid(tmp_path, {"by": "finder"}))
    boxes = [(8, 10, 28, 30, 0, 9), (60, 10, 80, 30, 0, 9), (30, 30, 90, 90, 0, 9)]
    told = found.predict(pictures(boxes, [(15, 22)] * 3))
    assert told.reasons.tolist()[:2] == [Reason.NONE, Reason.NO_FACE] and not told.messages
    assert np.isfinite(told.values[0]).all() and np.isnan(told.values[1]).all()
    assert told.reasons[2] != Reason.NO_FACE  # partly beyond: what is there is measured


def test_points_are_taken_to_their_places_by_least_squares():
    rng = np.random.default_rng(0)
    places = ((3.0, 4.0), (9.0, 5.0), (6.0, 12.0))
    crop = Crop("f", points=((0,), (1, 2), (4,)), places=places)
    points = rng.normal(size=(6, 5, 2)) * 9 + 50
    maps = maps_of(points, (), crop, (16, 16))
    for own, found in zip(points, maps, strict=True):
        given = np.stack([own[0], (own[1] + own[2]) / 2, own[4]])
        rows = [[[x, -y, 1, 0], [y, x, 0, 1]] for x, y in given]
        a, b, c, d = np.linalg.lstsq(
            np.reshape(rows, (-1, 4)), np.ravel(places), rcond=None
        )[0]  # fmt: skip
        forth = np.array([[a, -b, c], [b, a, d], [0, 0, 1]])
        np.testing.assert_allclose(found, np.linalg.inv(forth)[:2], rtol=1e-9)
    points[2] = 7.0  # all in one spot
    assert np.isnan(maps_of(points, (), crop, (16, 16))[2]).all()


def test_a_crop_may_hang_on_landmarks_that_hang_on_a_box(tmp_path):
    finder(tmp_path)
    centroid(tmp_path, {"by": "finder"}, "first")
    twice = {"by": "first", "points": [[0], [0]], "places": [[4, 4], [9, 9]]}
    with_points = load_annotator(centroid(tmp_path, twice))
    images = pictures([(8, 8, 32, 32, 0, 9)], [(20, 20)])
    assert with_points.predict(images).reasons.tolist() == [Reason.NOT_FINITE]  # in one spot
    around = centroid(tmp_path, {"by": "first", "scale": 2}, "around")
    assert load_annotator(around).predict(images).reasons.tolist() == [Reason.NOT_FINITE]
    assert [Path(file).stem for file in files_of(around)] == [
        name for name in ("around", "first", "finder") for _ in range(2)
    ]
    assert read_card(around).picture_size((64, 32)) == (160, 80)


def test_a_face_that_is_not_found_is_a_reason_of_every_annotator_that_looks_there(tmp_path):
    finder(tmp_path, presence={"output": "out", "index": 5, "threshold": 5})
    first = load_annotator(centroid(tmp_path, {"by": "finder"}, "first"))
    second = load_annotator(centroid(tmp_path, {"by": "first"}, "second"))
    boxes = [(8, 8, 32, 32, 0, 9), (8, 8, 32, 32, 0, 1), (8, 8, 8, 32, 0, 9)]
    images = pictures(boxes, [(20, 20)] * 3)
    assert first.predict(images).reasons.tolist() == [0, Reason.NO_FACE, Reason.NOT_FINITE]
    found = second.predict(images)
    assert found.reasons.tolist() == [Reason.NOT_FINITE, Reason.NO_FACE, Reason.NOT_FINITE]
    assert np.isnan(found.values).all()
    assert first.predict(images[1:]).reasons.tolist() == [Reason.NO_FACE, Reason.NOT_FINITE]


def test_a_roll_and_a_box_of_a_turned_crop_are_those_of_the_picture(tmp_path):
    finder(tmp_path)
    pose = finder(tmp_path, ("yaw", "roll"), "pose", kind="pose", crop={"by": "finder"})
    images = pictures([(8, 8, 32, 32, 30, 9)], [(20, 20)])
    (values,) = load_annotator(pose).annotate(images)
    np.testing.assert_allclose(values[1], -30, atol=3)  # the first pixels of its crop are black
    box = KINDS.load("boxes")
    card = read_card(str(tmp_path / "finder.onnx"))
    maps = maps_of(np.array([[10, 10, 30, 30, 90, 1.0]]), BOX, Crop("f"), card.size)
    inside = np.array([[0, 0, SIDE, SIDE, 10, 0.5], [0, 0, SIDE, SIDE / 2, 0, 0.5]], np.float32)
    placed = box.placed(inside, card, np.repeat(maps, 2, axis=0))
    np.testing.assert_allclose(placed[0], [10, 10, 30, 30, 100, 0.5], rtol=1e-6)
    # The upper half of a crop turned by 90 degrees is the right half of the picture's box.
    np.testing.assert_allclose(placed[1], [15, 15, 35, 25, 90, 0.5], rtol=1e-6)


def test_boxes_are_told_in_pixels_of_the_picture(tmp_path):
    values = np.array([[0.25, 0.5, 0.75, 1.0, 0.0, 0.5]], np.float32)
    box, card = KINDS.load("boxes"), read_card(finder(tmp_path, coordinates="unit"))
    np.testing.assert_allclose(box.finish(values, card, (10, 20)), [[5, 5, 15, 10, 0, 0.5]])
    card = read_card(finder(tmp_path, coordinates="indices"))
    values = np.array([[0, 4, 19, 39, 0, 1]], np.float32)
    np.testing.assert_allclose(box.finish(values, card, (80, 40)), [[0, 8, 20, 80, 0, 1]])
    with pytest.raises(CheckpointError, match="'names' of boxes"):
        read_card(finder(tmp_path, ("left", "top", "right", "score")))


def test_pictures_are_shrunk_before_they_are_sampled():
    whole = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    unit = np.array([[1.0, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(cut(whole, unit, (24, 24), "antialias"), whole)
    fine = np.zeros((64, 64, 3), np.uint8)
    fine[::2, ::2] = fine[1::2, 1::2] = 200
    grey = cut(fine, np.array([[4.0, 0, 0], [0, 4, 0]]), (16, 16), "antialias")
    assert abs(grey.astype(int) - 100).max() <= 2
    beyond = cut(whole, np.array([[1.0, 0, -24], [0, 1, 0]]), (24, 24), "bilinear")
    assert not beyond.any()


def test_a_finder_and_a_network_run_once_for_all_that_look_there(tmp_path, monkeypatch):
    finder(tmp_path)
    uris = [centroid(tmp_path, {"by": "finder"}, name) for name in ("one", "two")]
    first, second = (load_annotator(uri) for uri in uris)
    assert first.finder is second.finder and first._network is second._network
    runs: list[str] = []
    for model in (first.finder, first):
        run = model._network.session.run
        shown = type("Shown", (), {"run": lambda self, *a, r=run: runs.append("") or r(*a)})()
        monkeypatch.setattr(model._network, "session", shown)
    images = pictures([(8, 8, 32, 32, 0, 9)], [(20, 18)])
    np.testing.assert_array_equal(first.annotate(images), second.annotate(images))
    assert len(runs) == 2
    other = pictures([(8, 8, 32, 32, 0, 9)], [(16, 22)])
    np.testing.assert_allclose(second.annotate(other)[0, 0], [16, 22], atol=0.1)
    assert len(runs) == 4


def test_the_fingerprint_tells_what_the_crop_is_and_who_finds_it(tmp_path):
    finder(tmp_path)
    seen = {read_card(centroid(tmp_path, None)).fingerprint}
    for crop in ({}, {"scale": 2}, {"square": False}, {"upright": False}):
        seen.add(read_card(centroid(tmp_path, {"by": "finder", **crop})).fingerprint)
    finder(tmp_path, presence={"output": "out", "index": 5, "threshold": 5})
    seen.add(read_card(str(tmp_path / "spot")).fingerprint)
    assert len(seen) == 6


def test_the_image_is_seen_large_enough_for_its_part(tmp_path):
    finder(tmp_path)
    uri = centroid(tmp_path, {"by": "finder"})
    stages = stages_of([AnnotateSpec(name="spot", model=uri)])
    assert [stage.view((64, 128)).size for stage in stages] == [(80, 160), (64, 128)]
    # An image of the generator's size is enlarged here, and not with 'of: resized'.
    index = DatasetIndex.empty().append([NewRow("0" * 64, "0", 128, 64)])
    originals = Originals(index, 99, (64, 128), "centre")
    assert originals.inputs(stages[0], slice(0, 1)) == {"max_pixels": 99, "of": "original"}


def test_a_crop_that_cannot_be_is_refused(tmp_path):
    finder(tmp_path)
    finder(tmp_path, ("a", "b"), "scores", kind="scores")
    centroid(tmp_path, {"by": "round"}, "spot")
    centroid(tmp_path, {"by": "spot"}, "round")
    places = [[1, 1], [5, 5]]
    for crop, message in [
        ({"by": "nowhere"}, "'.*spot.json'.* 'crop.by': annotator '.*nowhere' does not exist"),
        ({"by": "scores"}, "of kind 'scores': name an annotator of kind 'boxes'"),
        ({"by": "round"}, "looks at a crop that is found by this annotator"),
        ({"by": "finder", "scale": 0}, "'crop.scale' is 0"),
        ({"by": "finder", "square": 1}, "'crop.square' is 1"),
        ({"by": "finder", "size": 3}, "expected an object with the keys"),
        ({"by": ""}, "'crop.by' is ''"),
        ({"by": "finder", "points": [[0], [1]], "places": places}, "'landmarks', or leave"),
        ({"by": "finder", "points": [[0], [1]]}, "go together"),
        ({"by": "finder", "points": [[0], [-1]], "places": places}, "'crop.points' is"),
        ({"by": "finder", "points": [[0]], "places": [[1, 1]]}, "at least two"),
        ({"by": "finder", "points": [[0], [1]], "places": [[1, 1], [2]]}, "'crop.places' is"),
        ({"by": "round", "points": [[0], [1]], "places": places}, "looks at a crop|has 1"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            read_description(centroid(tmp_path, crop, "spot"))
    Path(centroid(tmp_path, None, "deep")).with_suffix(".json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="deep.json' cannot be read"):
        read_description(centroid(tmp_path, {"by": "deep"}))
    centroid(tmp_path, None, "plain")
    with pytest.raises(CheckpointError, match="'crop.points' has 1 and .* has 1 points"):
        crop = {"by": "plain", "points": [[0], [1]], "places": places}
        read_description(centroid(tmp_path, crop))
    # A finder that can run code needs trust as well; of TorchScript the zip's names tell.
    with zipfile.ZipFile(tmp_path / "plain.pt", "w") as archive:
        archive.writestr("plain/code/__torch__.py", "")
        archive.writestr("plain/constants.pkl", "")
    with pytest.raises(UntrustedError, match="plain.pt"):
        load_annotator(centroid(tmp_path, {"by": "plain.pt"}))
