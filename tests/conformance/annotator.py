"""What every kind of annotator, and every annotator of it, must do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from generators.annotators.card import read_card
from generators.annotators.kinds.base import AnnotatorKind
from generators.annotators.kinds.catalog import KINDS
from generators.annotators.load import load_annotator
from schemas.errors import CheckpointError
from schemas.store.reasons import Reason


class AnnotatorSuite:
    """Of a kind, shown by one model of it."""

    @pytest.fixture
    def kind(self) -> AnnotatorKind:
        """The kind."""
        raise NotImplementedError

    @pytest.fixture
    def file(self, kind: AnnotatorKind, tmp_path: Path) -> str:
        """A model file of the kind in ``tmp_path``, with its description beside it."""
        raise NotImplementedError

    changes: dict[str, object] = {}
    """Keys of the description of ``file`` -> other values that change a number."""

    @pytest.fixture
    def images(self, file: str) -> np.ndarray:
        """Pictures that it can measure, uint8 (n, h, w, 3)."""
        size = read_card(file).size
        return np.random.default_rng(0).integers(0, 256, (5, *size, 3), np.uint8)

    def changed(self, file: str, **keys: object) -> None:
        beside = Path(file).with_suffix(".json")
        beside.write_text(json.dumps({**json.loads(beside.read_text()), **keys}))

    def test_it_is_known_by_its_name(self, kind):
        assert kind.name in KINDS and KINDS.load(kind.name).name == kind.name
        assert kind.group in ("annotations", "landmarks")
        assert kind.role is None or kind.role.strip() == kind.role != ""
        assert (kind.group == "landmarks") == (kind.role == "landmarks")

    def test_rows_have_the_shape_that_is_announced(self, kind, file, images):
        card = read_card(file)
        assert card.kind == kind.name and card.group == kind.group
        model = load_annotator(file)
        found = model.predict(images)
        assert found.values.shape == (len(images), *card.row_shape)
        assert found.values.dtype == np.float32
        assert model.predict(images[:0]).values.shape == (0, *card.row_shape)

    def test_batches_do_not_matter(self, file, images):
        model = load_annotator(file)
        whole = model.predict(images)
        assert (whole.reasons == Reason.NONE).any()
        for rows in ([0], [3, 1], [4, 4, 2]):
            part = model.predict(images[rows])
            np.testing.assert_array_equal(part.reasons, whole.reasons[rows])
            np.testing.assert_allclose(part.values, whole.values[rows], rtol=1e-5, atol=1e-6)

    def test_a_crop_that_is_the_whole_picture_changes_nothing(self, kind, file, images):
        card, values = read_card(file), load_annotator(file).annotate(images)
        whole = np.repeat(np.eye(3)[None, :2], len(images), axis=0)
        placed = kind.placed(values, card, whole)
        assert placed.dtype == np.float32
        np.testing.assert_allclose(placed, values, rtol=1e-5, atol=1e-4)

    def test_what_changes_a_number_changes_the_fingerprint(self, file, images):
        before, values = read_card(file).fingerprint, load_annotator(file).annotate(images)
        self.changed(file, name="other", licence="MIT", source="here", notes="none")
        assert read_card(file).fingerprint == before
        beside = Path(file).with_suffix(".json")
        text = beside.read_text()
        for key, value in self.changes.items():
            self.changed(file, **{key: value})
            assert read_card(file).fingerprint != before, key
            assert not np.array_equal(load_annotator(file).annotate(images), values), key
            beside.write_text(text)

    def test_a_damaged_model_or_description_is_refused(self, file):
        with pytest.raises(CheckpointError, match="'shape_of_things'"):
            self.changed(file, shape_of_things=1)
            read_card(file)
        Path(file).with_suffix(".json").write_text("{")
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_card(file)
        Path(file).with_suffix(".json").unlink()
        with pytest.raises(CheckpointError, match="has no description"):
            read_card(file)

    def test_a_cut_model_file_is_refused(self, file):
        data = Path(file).read_bytes()
        Path(file).write_bytes(data[: len(data) // 2])
        with pytest.raises(CheckpointError, match=Path(file).name):
            load_annotator(file)
