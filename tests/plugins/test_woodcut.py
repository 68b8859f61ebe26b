"""The plug-ins of the woodcut, by the suites for their kinds."""

import numpy as np
import pytest
import torch
from conformance.analysis import AnalysisSuite
from conformance.encoder import EncoderSuite
from conformance.generator import GeneratorSuite
from conformance.peer_format import DirectionFormatSuite
from latentflow_woodcut.axes import WoodcutAxes
from latentflow_woodcut.family import WoodcutFamily
from latentflow_woodcut.ica import IndependentComponents
from latentflow_woodcut.linear import Linear
from latentflow_woodcut.rubbing import PLUGIN as RUBBING

from generators.encoders import load_encoder, save_encoder
from generators.encoders.base import TrainableArchitecture
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


class TestEncoder(EncoderSuite):
    @pytest.fixture
    def path(self, tmp_path):
        facts = WoodcutFamily().facts(checkpoint())
        torch.manual_seed(0)
        network = Linear(RUBBING.design(facts, "latent", RUBBING.settings()))
        return str(save_encoder(network, tmp_path / "e.safetensors"))

    @pytest.fixture
    def encoder(self, path):
        return load_encoder(path)

    @pytest.fixture
    def again(self, path):
        return load_encoder(path)

    @pytest.fixture
    def images(self):
        return torch.rand(4, 3, 48, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def test_an_untrained_one_gives_the_mean_code(self, images):
        facts = WoodcutFamily().facts(checkpoint())
        codes = torch.arange(10.0).reshape(2, 5)
        fresh = RUBBING.fresh(RUBBING.design(facts, "latent", RUBBING.settings()), codes)
        assert isinstance(RUBBING, TrainableArchitecture)
        assert torch.equal(fresh.encode(images, "latent"), codes.mean(dim=0).expand(4, 5))


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
