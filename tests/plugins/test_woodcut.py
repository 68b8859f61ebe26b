"""The plug-ins of the woodcut, by the suites for their kinds."""

import numpy as np
import pytest
from conformance.analysis import AnalysisSuite
from conformance.generator import GeneratorSuite
from conformance.peer_format import DirectionFormatSuite
from latentflow_woodcut.axes import WoodcutAxes
from latentflow_woodcut.family import WoodcutFamily
from latentflow_woodcut.ica import IndependentComponents

from generators.families.base import Checkpoint


def checkpoint():
    """Three papers and five blocks of 48 x 32 pixels."""
    rng = np.random.default_rng(0)
    tensors = {
        "paper": rng.normal(size=(3, 3, 48, 32)).astype("f4") / 4,
        "blocks": rng.normal(size=(5, 3, 48, 32)).astype("f4") / 8,
    }
    return Checkpoint({"family": "woodcut"}, tensors)


class TestFamily(GeneratorSuite):
    family = WoodcutFamily()

    @classmethod
    def checkpoint(cls):
        return checkpoint()


class TestAxes(DirectionFormatSuite):
    @pytest.fixture
    def form(self):
        return WoodcutAxes()


class TestAnalysis(AnalysisSuite):
    @pytest.fixture
    def analysis(self):
        return IndependentComponents()

    @pytest.fixture
    def section(self):
        return {"n_components": 2}
