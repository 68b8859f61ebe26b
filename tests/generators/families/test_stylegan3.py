"""StyleGAN3: the conformance of small models, and what the family alone has."""

from __future__ import annotations

from conformance.generator import GeneratorSuite

from generators.families.base import Checkpoint
from generators.families.stylegan3 import PLUGIN
from tests.generators.families.references_stylegan3 import small


class TestConfigurationT(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        return small(seed=1).checkpoint()


class TestConfigurationR(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        made = dict(conv_kernel=1, use_radial_filters=True, c_dim=3, labels="linear")
        return small(seed=2, img_channels=4, **made).checkpoint()


class TestXL(GeneratorSuite):
    family = PLUGIN

    @classmethod
    def checkpoint(cls) -> Checkpoint:
        made = dict(c_dim=3, labels="table", embed_features=7, img_channels=1)
        return small(seed=3, **made).checkpoint()
