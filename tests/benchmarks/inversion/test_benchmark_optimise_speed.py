"""The benchmark of optimisation ends with its result."""

from __future__ import annotations

from tests.smoke import smoke


def test_few_steps_of_l_bfgs_are_nearer_than_fewer_of_adam():
    _, result = smoke("optimise_speed")
    assert result["name"] == "optimise_speed" and result["error"] == 0
    assert result["new_median"] < result["old_median"] and result["ratio"] > 0
