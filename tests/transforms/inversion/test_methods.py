"""Every inversion method keeps what a plug-in must."""

from __future__ import annotations

from conformance.inversion import InversionSuite

from transforms.inversion.catalog import METHODS

STEPS = {"steps": 12, "learning_rate": 0.1}
FEW = {"steps": 2}


class TestEncoder(InversionSuite):
    method = "encoder"


class TestOptimise(InversionSuite):
    method = "optimise"
    settings = STEPS
    quick = FEW


class TestHybrid(InversionSuite):
    method = "hybrid"
    settings = STEPS
    quick = FEW


def test_every_method_is_here() -> None:
    here = {suite.method for suite in InversionSuite.__subclasses__()}
    assert set(METHODS.own()) <= here
