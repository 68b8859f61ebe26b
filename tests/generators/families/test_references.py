"""Pictures of every family against official modules or second implementations, by `references`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.families import TOLERANCE, compared, error_of, references_of
from generators.families.catalog import FAMILIES
from generators.model_file import read_checkpoint, write_checkpoint
from schemas.errors import CheckpointError

CASES = [(family, name) for family in compared() for name in references_of(family).REFERENCES]


@pytest.mark.parametrize(("family", "name"), CASES, ids=[" ".join(case) for case in CASES])
def test_pictures_are_those_of_the_reference(family: str, name: str) -> None:
    assert error_of(references_of(family).REFERENCES[name]) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES.own())
def test_every_family_has_references_and_a_tiny_model(family: str) -> None:
    references = references_of(family)
    assert references.REFERENCES and references.tiny().family == family


@pytest.mark.parametrize("family", [name for name in FAMILIES.own() if name != "plain"])
def test_an_edited_description_is_refused_by_key_and_value(family: str, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    write_checkpoint(references_of(family).tiny(), path)
    beside = path.with_suffix(".json")
    said = json.loads(beside.read_text())
    del said["fingerprint"]
    numbers = [k for k, v in said["architecture"].items() if type(v) in (int, float)]
    changes = [("bogus", 1), *((k, v) for k in numbers for v in ("x", None))]
    if family == "stylegan3":
        changes.remove(("conv_clamp", None))  # no clamp
    for name, value in changes:
        changed = {**said, "architecture": {**said["architecture"], name: value}}
        beside.write_text(json.dumps(changed))
        with pytest.raises(CheckpointError) as told:
            read_checkpoint(path)
        assert repr(value) in str(told.value)


def test_the_error_is_in_standard_deviations_and_odd_pictures_are_told() -> None:
    pictures = np.random.default_rng(0).normal(size=(2, 3, 8, 8)) * 5
    moved = pictures.copy()
    moved[1, 2, 3, 4] += 0.5
    assert error_of(lambda: (moved, pictures)) == pytest.approx(0.5 / pictures.std())
    for ours, theirs, told in (
        (pictures[:1], pictures, r"\(1, 3, 8, 8\).*\(2, 3, 8, 8\)"),
        (pictures[:1], pictures[:1], "at least 2"),
        (np.zeros_like(pictures), np.zeros_like(pictures), "all alike"),
        (pictures * np.nan, pictures, "not finite"),
    ):
        with pytest.raises(ValueError, match=told):
            error_of(lambda ours=ours, theirs=theirs: (ours, theirs))
