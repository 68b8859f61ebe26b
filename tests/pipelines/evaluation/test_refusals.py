"""A direction is refused, with both fingerprints and the cure, wherever it could be misused."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from report_fixture import make_run_folder

from generators.peers.directions import write_directions
from pipelines.downstream.finished_run import FinishedRun
from schemas.directions.direction_set import (
    Direction,
    DirectionSet,
    apply,
    check_applies,
    unit_direction,
)
from schemas.errors import DirectionMismatchError
from schemas.spec import parse_spec
from transforms.directions.algebra import combine

OLD, NEW = "ab" * 32, "cd" * 32
CURE = "compute it again by running .* 'latentflow transfer OLD_RUN NEW_RUN -d smile'"


def smile(fp: str = OLD, space: str = "w", name: str = "smile") -> Direction:
    vector = np.array([3.0, 4.0, 0.0])
    facts = {"generator_fp": fp}
    return unit_direction(name, space, vector, method="svm", sd=0.5, provenance=facts)


def refused_by_check():
    check_applies(smile(), NEW, "w")


def refused_by_set():
    DirectionSet(NEW, "w", [smile()])


def refused_by_apply():
    apply(np.zeros((2, 3)), smile(), 1.0, generator_fp=NEW)


def refused_by_combine():
    combine("both", [smile(NEW, name="age"), smile()], [1, 1])


@pytest.mark.parametrize(
    "entry", [refused_by_check, refused_by_set, refused_by_apply, refused_by_combine]
)
def test_another_model_is_named_with_the_ways_to_transfer(entry):
    with pytest.raises(DirectionMismatchError, match=CURE) as error:
        entry()
    assert OLD in str(error.value) and NEW in str(error.value)


def test_codes_of_the_right_model_are_edited_and_other_spaces_refused():
    codes = np.zeros((2, 3))
    edited = apply(codes, smile(), 2.0, generator_fp=OLD, space="w")
    np.testing.assert_allclose(edited, [[0.6, 0.8, 0]] * 2)
    with pytest.raises(DirectionMismatchError, match="in space 'w', not 'z'"):
        apply(codes, smile(), 2.0, space="z")


def test_files_hold_the_directions_of_one_model(tmp_path):
    with pytest.raises(DirectionMismatchError, match=f"{OLD}.*{NEW}.*one generator a file"):
        write_directions([smile(), smile(NEW, name="age")], tmp_path / "x.pt", "anycost")
    assert not (tmp_path / "x.pt").exists()
    write_directions([smile(), smile(name="age")], tmp_path / "x.pt", "anycost")


def test_a_run_whose_codes_are_of_another_model_is_not_opened(tmp_path):
    out = make_run_folder(tmp_path / "out")
    spec = parse_spec(f"name: faces\ndataset: {{path: .}}\noutput: {out}", tmp_path)
    finished = FinishedRun.of(spec)
    path = finished.directions.path
    other = DirectionSet(NEW, finished.directions.space)
    for d in finished.directions:
        other.add(dataclasses.replace(d, provenance={**d.provenance, "generator_fp": NEW}))
    shutil.rmtree(path)
    other.save(path)
    with pytest.raises(DirectionMismatchError, match="its codes are of .*latentflow transfer") as e:
        FinishedRun.of(spec)
    assert NEW in str(e.value) and finished.store.attrs["generator_fp"] in str(e.value)
