"""Pictures of every family against official modules or second implementations, by `references`."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.families import TOLERANCE, compared, error_of, references_of
from generators.families.catalog import FAMILIES

CASES = [(family, name) for family in compared() for name in references_of(family).REFERENCES]


@pytest.mark.parametrize(("family", "name"), CASES, ids=[" ".join(case) for case in CASES])
def test_pictures_are_those_of_the_reference(family: str, name: str) -> None:
    assert error_of(references_of(family).REFERENCES[name]) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES.own())
def test_every_family_has_references_and_a_tiny_model(family: str) -> None:
    references = references_of(family)
    assert references.REFERENCES and references.tiny().family == family


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
