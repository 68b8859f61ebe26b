"""The encoder that we have, by the suite of encoders."""

from __future__ import annotations

import pytest
import torch
from conformance.encoder import EncoderSuite

from generators.encoders import load_encoder


@pytest.mark.parametrize("space", ["w_plus", "w"])
class TestBundled(EncoderSuite):
    @pytest.fixture
    def encoder(self, space):
        return load_encoder("bundled:faces64", space=space)

    @pytest.fixture
    def again(self, space):
        return load_encoder("bundled:faces64", space=space)

    @pytest.fixture
    def images(self):
        return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
