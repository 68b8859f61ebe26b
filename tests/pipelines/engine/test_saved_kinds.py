"""Saved sums keep their names when classes move: every request and statistic says its own kind."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
from in_process import InProcess
from stores import W_PLUS, create, write_all

from pipelines.analyses.mean_difference.fit import LabelSums
from pipelines.compare.transfer import PairsAlong
from pipelines.engine.saved_sums import SavedStatistics, request_key
from schemas.errors import DataError, UsageError
from transforms.accumulate import requests
from transforms.accumulate.blocks import Sums, statistic_kind
from transforms.accumulate.groups import StatisticOfGroups
from transforms.accumulate.sources import SelectBlocks, StoreBlocks
from transforms.accumulate.stored import statistic_bytes, statistic_of_bytes
from transforms.directions.style_channels import ChannelsOfLabels, StyleLayer
from transforms.hosvd.complete import Fill, FillRequest
from transforms.hosvd.passes import CoreRequest, ModeGramsRequest, SlabGramsRequest
from transforms.nrsfm import passes as nrsfm_passes
from transforms.nrsfm.joint import JointRequest
from transforms.nrsfm.model import SequenceModel, ShapeModel
from transforms.nrsfm.regressor import ParameterMoments, ProjectionRequest
from transforms.nrsfm.sequence import SequenceRequest
from transforms.nrsfm.zoom import ZoomRequest
from transforms.pca import gram as pca_gram
from transforms.pca.latent import MomentsOfScores
from transforms.pca.randomised import ProductsOfMoments
from transforms.svm.passes import CurvatureRequest, EvaluateRequest, LineRequest, MomentsRequest
from transforms.svm.sample import SampleRequest
from transforms.svm.validation import ScoreRequest

# First digits of the keys that release 0.1.0 gave to these requests.
RELEASED = {
    requests.MomentsOfRows: "83ca13ccaa55c02b",
    requests.MomentsAlong: "4dbefee7af867094",
    requests.SumsOfCells: "981f542961c2157c",
    requests.CountsOfCells: "2dee1168172e274b",
    requests.JointMoments: "2ea030389400a1be",
    LabelSums: "f30d5fbb19b97692",
    ModeGramsRequest: "43ba2c6a67a93473",
    CoreRequest: "1ff7b46216bc7da9",
    SlabGramsRequest: "fe3c2f715dee8632",
    FillRequest: "8e79f4b5e18cc4f3",
    pca_gram.GramRequest: "b3ada31643f39f13",
    pca_gram.ProductsRequest: "6e1f43f4f84e593f",
    MomentsOfScores: "a328059d6286b930",
    ProductsOfMoments: "9bf8dde08f0a2fbf",
    MomentsRequest: "0e18bb7a80c4f0be",
    EvaluateRequest: "68642541f563d8f3",
    CurvatureRequest: "0492ad822e34c228",
    LineRequest: "3d72cc7278aa4215",
    SampleRequest: "4669c48431ed7680",
    ScoreRequest: "c946dc7a0038f1f1",
    ChannelsOfLabels: "4852d88dcfb85050",
    ParameterMoments: "3c6280f153a5a6d7",
    ProjectionRequest: "2f75063f3a67ef96",
    StatisticOfGroups: "3cc4c11939672bb5",
    nrsfm_passes.GramRequest: "5971992acb7a9ae6",
    nrsfm_passes.CameraRequest: "e44d5ab2c5b9a823",
    nrsfm_passes.AxisRequest: "1b3fa4e973774cad",
    SequenceRequest: "63a84ca13eaff8de",
    ZoomRequest: "33b56033afd7c47a",
    JointRequest: "43c2c4b4245d6dee",
    PairsAlong: "35e29e9d01725154",
}

V = np.arange(6.0).reshape(2, 3)
SHAPE = ShapeModel(V, V, V, V, V, 0.5, 3, {"robust": True})
VALUES = {
    "np.ndarray": V,
    "ShapeModel": SHAPE,
    "ShapeModel | SequenceModel": SequenceModel(V, V, V, V, 0.5, 3, {}),
    "Fill": Fill(V),
    "bool": True,
    "int": 2,
    "float": 0.5,
    "float | None": "float | None",
    "str": "s",
    "PassRequest": requests.MomentsOfRows(),
    "tuple[StyleLayer, ...]": (StyleLayer(0, V, V[0]),),
}


def filled(cls):
    """One with a value for every parameter that has no default."""
    missing = dataclasses.MISSING
    needed = [f for f in dataclasses.fields(cls) if f.default is f.default_factory is missing]
    return cls(**{f.name: VALUES[f.type] for f in needed})


@pytest.mark.parametrize("cls", RELEASED, ids=lambda cls: cls.kind)
def test_saved_sums_have_the_names_that_the_release_gave_them(cls):
    assert request_key(filled(cls))[:16] == RELEASED[cls]


def test_a_class_that_moves_keeps_its_sums_and_one_that_inherits_has_others():
    @dataclass(frozen=True)
    class Moved:
        kind = requests.MomentsOfRows.kind
        diagonal: bool = False
        token: str = "x"

    assert request_key(Moved()) == request_key(requests.MomentsOfRows())

    @dataclass(frozen=True)
    class Narrower(requests.MomentsOfRows):
        pass

    with pytest.raises(DataError, match=r"Narrower' has no kind of its own.*constant 'kind'"):
        request_key(Narrower())


@statistic_kind("test.Largest")
@dataclass(frozen=True)
class Largest:
    """Column-wise maximum: a statistic that nothing of ours knows."""

    values: np.ndarray

    def merge(self, other):
        return Largest(np.maximum(self.values, other.values))

    def to_arrays(self):
        return {"values": self.values}

    @classmethod
    def from_arrays(cls, arrays):
        return cls(np.asarray(arrays["values"]))


@dataclass(frozen=True)
class LargestOfRows:
    kind = "test.LargestOfRows"
    token: str = "x"

    def prepare(self, arrays):
        return {"x": arrays["x"].reshape(len(arrays["x"]), -1)}

    def statistic(self, prepared):
        return Largest(prepared["x"].max(axis=0))


def test_a_statistic_of_another_package_is_kept_and_read_again(tmp_path):
    store = create(tmp_path / "store", n_rows=70, block_rows=2)
    write_all(store)
    source = SelectBlocks(StoreBlocks(store.path, (W_PLUS,), ("invert",)), {"x": W_PLUS})
    first = SavedStatistics(InProcess(), tmp_path / "sums").sum(source, LargestOfRows())
    again = SavedStatistics(InProcess(), tmp_path / "sums")
    found = again.sum(source, LargestOfRows())
    assert again.blocks_read == 0 and isinstance(found, Largest)
    assert found.values.tobytes() == first.values.tobytes()


def test_a_statistic_says_its_kind_and_two_classes_have_two():
    class Other(Sums):
        pass

    with pytest.raises(UsageError, match=r"Other' has no kind: decorate"):
        statistic_bytes(Other({"a": V}))
    with pytest.raises(UsageError, match=r"Sums.*Other.*kind 'Sums': give the later"):
        statistic_kind("Sums")(Other)
    assert type(statistic_of_bytes(statistic_bytes(Sums({"a": V})))) is Sums
