"""The benchmark of what a change costs, in its smoke form."""

from __future__ import annotations

from benchmarks.scenarios import SCENARIOS, Measured, unexpected
from tests.smoke import smoke


def test_the_last_line_is_the_result():
    printed, result = smoke("scenarios")
    assert result["name"] == "scenarios" and result["error"] == 0, printed
    assert {"ours_s", "peer_s", "ratio", "peak_mb", "cores"} <= set(result)
    rows = {row["scenario"]: row for row in result["rows"]}
    assert list(rows) == ["first run", *(s.name for s in SCENARIOS)]
    assert rows["nothing changed"]["stages"] == []
    assert rows["first run"]["blocks_inverted"] == 2
    assert rows["pictures added"]["blocks_inverted"] == 1
    assert "unexpected" not in printed


def test_what_no_scenario_allows_is_counted():
    components = next(s for s in SCENARIOS if s.change == "components")
    stages = list(components.stages)
    assert unexpected(components, Measured("x", 0, stages, ["pca"]), ()) == []
    assert len(unexpected(components, Measured("x", 0, stages, ["pca"], blocks_read=1), ())) == 1
    assert len(unexpected(components, Measured("x", 0, stages, ["svm"], passes=1), ())) == 2
    assert len(unexpected(components, Measured("x", 0, ["invert", *stages], ["pca"]), ())) == 1
