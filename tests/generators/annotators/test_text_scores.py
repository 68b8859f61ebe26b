"""Scores of texts by a model of images and texts, against CLIP's formula."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conformance.annotator import AnnotatorSuite

from generators.annotators import load_annotator
from generators.annotators.card import files_of, read_card, read_description
from generators.annotators.kinds.catalog import KINDS
from generators.tensor_files import safetensors_bytes
from pipelines.evaluation.meter import attributes
from schemas.errors import CheckpointError
from schemas.store.reasons import Reason
from tests.generators.annotators.test_annotator_models import expected, model, node, pictures
from transforms.images.annotate import annotate_batch

D, NAMES = 6, ["smiling", "serious", "glasses", "hat"]
TEXTS = np.random.default_rng(3).normal(size=(4, D)).astype(np.float32)
GROUPS = [["smiling", "serious"], ["hat", "glasses"]]


def words(folder: Path, file: str = "words.npz", **changes: np.ndarray) -> None:
    held = {**dict(zip(NAMES, TEXTS, strict=True)), "unused": TEXTS[0], **changes}
    if file.endswith(".npz"):
        np.savez(folder / file, **held)
    else:
        (folder / file).write_bytes(safetensors_bytes(held))


def clip(folder: Path, *post, names=NAMES, texts="words.npz", activation=None, **options) -> str:
    """A linear image encoder of D numbers and its description."""
    options = {"texts": texts, "scale": 100.0, **options}
    return model(folder, *post, kind="text_scores", k=D, names=names, activation=activation,
                 options=options)  # fmt: skip


def logits(images: np.ndarray, scale: float = 100.0) -> torch.Tensor:
    """As CLIP computes `logits_per_image`, in float64."""
    image, text = torch.from_numpy(expected(images, D)), torch.from_numpy(TEXTS).double()
    image = image / image.norm(dim=-1, keepdim=True)
    text = text / text.norm(dim=-1, keepdim=True)
    return scale * image @ text.t()


class TestTextScores(AnnotatorSuite):
    changes = {
        "activation": "sigmoid",
        "options": {"texts": "words.npz", "scale": 50.0},
        "names": NAMES[::-1],
    }

    @pytest.fixture
    def kind(self):
        return KINDS.load("text_scores")

    @pytest.fixture
    def file(self, tmp_path):
        words(tmp_path)
        return clip(tmp_path)


@pytest.mark.parametrize("file", ["words.npz", "words.safetensors"])
def test_scores_are_clip_s_logits_by_name(tmp_path, file):
    words(tmp_path, file)
    images = pictures(5)
    found = load_annotator(clip(tmp_path, texts=file)).annotate(images)
    np.testing.assert_allclose(found, logits(images), rtol=1e-5, atol=1e-4)
    turned = load_annotator(clip(tmp_path, names=["hat", "smiling"], texts=file)).annotate(images)
    np.testing.assert_allclose(turned, logits(images)[:, [3, 0]], rtol=1e-5, atol=1e-4)
    card = read_card(str(tmp_path / "m.onnx"))
    assert attributes([card]) == [(card, ("hat", "smiling"))]


def test_probabilities_of_all_texts_of_groups_and_of_each(tmp_path):
    words(tmp_path)
    images = pictures(5)

    def close(path, wanted):
        found = load_annotator(path).annotate(images)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)

    close(clip(tmp_path, activation="softmax", scale=9), logits(images, 9).softmax(-1))
    wanted = logits(images, 9)
    for columns in ([0, 1], [3, 2]):
        wanted[:, columns] = wanted[:, columns].softmax(-1)
    close(clip(tmp_path, activation="softmax", scale=9, groups=GROUPS), wanted)
    some = logits(images, 9)
    some[:, [3, 2]] = some[:, [3, 2]].softmax(-1)
    close(clip(tmp_path, activation="softmax", scale=9, groups=GROUPS[1:]), some)
    # SigLIP: each text by itself
    siglip = clip(tmp_path, activation="sigmoid", scale=9, bias=-3.5)
    close(siglip, torch.sigmoid(logits(images, 9) - 3.5))


def test_several_texts_of_one_name_are_averaged_as_unit_vectors(tmp_path):
    each = np.stack([TEXTS[0] * 7, TEXTS[1]])
    words(tmp_path, smiling=each)
    images = pictures(3)
    found = load_annotator(clip(tmp_path, names=["smiling"])).annotate(images)
    unit = each / np.linalg.norm(each, axis=1, keepdims=True)
    mean, image = unit.mean(0), expected(images, D)
    wanted = 100 * image @ mean / np.linalg.norm(mean) / np.linalg.norm(image, axis=1)
    np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-5, atol=1e-4)


def test_other_texts_are_another_annotator(tmp_path):
    words(tmp_path)
    file = clip(tmp_path)
    before, values = read_card(file), load_annotator(file).annotate(pictures(2))
    assert tmp_path / "words.npz" in files_of(file)
    words(tmp_path, hat=-TEXTS[3])
    assert read_card(file).fingerprint != before.fingerprint
    assert not np.array_equal(load_annotator(file).annotate(pictures(2)), values)
    assert read_card(file).content == before.content  # the network is the same one


def test_an_image_without_a_direction_is_a_row_with_a_reason(tmp_path):
    words(tmp_path)
    images = pictures(3)
    images[1] = 0
    found = annotate_batch(load_annotator(clip(tmp_path)), images)
    assert list(found.reasons) == [Reason.NONE, Reason.NOT_FINITE, Reason.NONE]
    assert np.isnan(found.values[1]).all() and np.isfinite(found.values[[0, 2]]).all()


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"hat": np.zeros(D, "f4")}, {}, "text 'hat' of 'words.npz' has no direction"),
        ({"hat": np.full(D, np.nan, "f4")}, {}, "text 'hat' .* it is zero, or not finite"),
        ({"hat": TEXTS[0, :4]}, {}, "'hat': 4.* numbers: encode all of them with one model"),
        ({"hat": np.arange(D)}, {}, "text 'hat' of 'words.npz' is int64 .6,.: give its"),
        ({"hat": np.zeros((0, D), "f4")}, {}, "text 'hat' .* is float32 .0, 6.: give"),
        ({}, {"names": ["smiling", "beard"]}, "has no texts .'beard'., only .*'glasses'"),
        ({}, {"texts": "other.npz"}, "'options.texts' names 'other.npz', which is not beside"),
        ({}, {"texts": "../words.npz"}, "'options.texts' is '../words.npz': name the file"),
        ({}, {"texts": None}, "'options.texts' is None"),
        ({}, {"texts": "m.onnx"}, "'m.onnx' holds no text embeddings"),
        ({}, {"scale": 0}, "'options.scale' is 0: give a number above 0"),
        ({}, {"scale": True}, "'options.scale' is True"),
        ({}, {"bias": "1"}, "'options.bias' is '1': give a number"),
        ({}, {"logit_scale": 1}, "'options' has .'logit_scale'.: kind 'text_scores' knows"),
        ({}, {"groups": GROUPS}, "'options.groups' is given and 'activation' is None"),
        ({}, {"groups": [["hat"]]}, "give lists of names, two or more"),
        ({}, {"groups": [["hat", "cap"], ["hat", "glasses"]]}, "has .'cap', 'hat'.: give names"),
    ],
)
def test_bad_texts_and_options_are_refused(tmp_path, changes, options, message):
    words(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_description(clip(tmp_path, **options))


def test_texts_of_another_model_are_told_when_the_model_is_tried(tmp_path):
    words(tmp_path, **{name: TEXTS[i, :4] for i, name in enumerate(NAMES)}, unused=TEXTS[0, :4])
    with pytest.raises(CheckpointError, match="gave shape .1, 6.*texts of .* have 4 numbers"):
        load_annotator(clip(tmp_path))


def test_a_file_with_pickled_objects_is_not_opened(tmp_path):
    np.savez(tmp_path / "words.npz", **{name: np.array([{}]) for name in NAMES})
    with pytest.raises(CheckpointError, match="holds no text embeddings .*allow_pickle=False"):
        read_description(clip(tmp_path))


def test_a_file_that_promises_or_unpacks_to_too_much_is_refused(tmp_path):
    """A head of 10^13 numbers; 300 MB of zeros in some kilobytes; packed bytes that are damaged."""
    path, head = tmp_path / "words.npz", io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**4)}
    np.lib.format.write_array_header_1_0(head, shape)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hat.npy", head.getvalue())
    with pytest.raises(CheckpointError, match="holds no text embeddings .*Unable to allocate"):
        read_description(clip(tmp_path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("hat.npy", "w") as entry:
            for _ in range(300):
                entry.write(bytes(1 << 20))
    with pytest.raises(CheckpointError, match="314572800 bytes unpacked, texts have at most"):
        read_description(clip(tmp_path))
    np.savez_compressed(path, hat=np.arange(4000.0))
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="holds no text embeddings"):
        read_description(clip(tmp_path))


def test_clip_s_preparation_can_be_described(tmp_path):
    from PIL import Image

    words(tmp_path)
    file = clip(tmp_path, node("Identity", "rows", "out"))
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    beside = Path(file).with_suffix(".json")
    card = json.loads(beside.read_text())
    card["input"] |= {"mean": mean, "std": std, "resize": "bicubic"}
    beside.write_text(json.dumps(card))
    picture = np.random.default_rng(0).integers(0, 256, (1, 20, 20, 3), np.uint8)
    small = Image.fromarray(picture[0]).resize((8, 8), Image.Resampling.BICUBIC)
    given = (np.asarray(small)[None] / 255 - mean) / std
    image = torch.from_numpy(expected(given, D, scale=1.0))
    text = torch.from_numpy(TEXTS).double()
    wanted = 100 * torch.nn.functional.cosine_similarity(image[:, None], text[None], dim=-1)
    np.testing.assert_allclose(load_annotator(file).annotate(picture), wanted, rtol=1e-4, atol=1e-3)
