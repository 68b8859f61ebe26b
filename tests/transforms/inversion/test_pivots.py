"""Methods that begin with the codes of another: pivotal tuning, and feature maps beside codes."""

from __future__ import annotations

from conformance.inversion import InversionSuite


class TestPivotalTuning(InversionSuite):
    method = "pivotal_tuning"
    settings = {"steps": 3, "pivot": {"method": "hybrid", "steps": 4}, "perceptual_weight": 0.0}
    quick = {"steps": 1, "pivot": "encoder"}
    others = {"pivot": {"method": "hybrid", "steps": 5}, "space": "w"}


class TestFeatureStyle(InversionSuite):
    method = "feature_style"
    settings = {"steps": 4, "pivot": {"method": "hybrid", "steps": 4}, "perceptual_weight": 0.0}
    quick = {"steps": 1, "pivot": "encoder"}
    others = {"pivot": "encoder", "layer": "b16.conv1", "space": "w"}
