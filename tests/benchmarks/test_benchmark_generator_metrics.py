"""The benchmark of metrics of generators, but for the large networks, on few rows."""

from __future__ import annotations

from benchmarks.generator_metrics import (
    MOST,
    closed_forms,
    features,
    metrics,
    relative,
    separable,
    written_out,
)
from transforms.generator_metrics.kernel import Subsets


def test_every_metric_equals_its_oracle():
    rows = [*closed_forms(300, 8), separable(200, 4)]
    assert max(row["error"] for row in rows) < MOST
    real, drawn, subsets = features(120, 6, 1), features(90, 6, 2) + 0.1, Subsets(5, 30)
    ours, (_, theirs) = metrics(real, drawn, subsets, 32), written_out(real, drawn, subsets)
    assert theirs.pop("seconds") > 0 and theirs.keys() == ours.keys()
    assert max(relative(ours[name], value) for name, value in theirs.items()) < MOST
