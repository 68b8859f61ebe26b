"""Features of a network, stored as it gives them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conformance.annotator import AnnotatorSuite

from generators.annotators import load_annotator
from generators.annotators.card import read_description
from generators.annotators.kinds.catalog import KINDS
from schemas.errors import CheckpointError
from tests.generators.annotators.test_annotator_models import model, pictures


def features(folder: Path, **changes: object) -> str:
    file = model(folder, kind="features", k=6)
    beside = Path(file).with_suffix(".json")
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "names": 6, **changes}))
    return file


class TestFeatures(AnnotatorSuite):
    @pytest.fixture
    def kind(self):
        return KINDS.load("features")

    @pytest.fixture
    def file(self, tmp_path):
        return features(tmp_path)


def test_features_are_stored_as_the_network_gives_them(tmp_path):
    found = load_annotator(features(tmp_path)).annotate(pictures(3))
    assert found.shape == (3, 6)
    assert (np.abs(np.linalg.norm(found, axis=1) - 1) > 1e-3).all()  # as an embedding has not


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"network": "inception"}, "'options.network' is 'inception', expected one of"),
        ({"net": 1}, "unknown keys \\['net'\\]"),
    ],
)
def test_a_network_that_no_metric_is_defined_by_is_refused(tmp_path, options, text):
    with pytest.raises(CheckpointError, match=text):
        read_description(features(tmp_path, options=options))
