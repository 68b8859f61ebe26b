"""What a report shows of FID, KID, precision and recall."""

from __future__ import annotations

import numpy as np

from pipelines.analyses.base import Model
from pipelines.analyses.figures import (
    Count,
    Curve,
    Figure,
    Heading,
    NotShownError,
    Number,
    Table,
    Text,
    Value,
)


def fidelity_figures(model: Model) -> list[Figure]:
    """The metrics with the rows that they are of, and the sweep over truncations."""
    facts = model.facts
    metrics = facts.get("metrics") or {}
    if not metrics:
        raise NotShownError("the model holds no metrics")
    (real, drawn), compared = facts["n"], facts["n_compared"]
    starred = any(name.endswith("*") for name in metrics)
    text = (
        "{real} pictures ({of_real}) and {drawn} ({of_drawn}), by {features} features of {network}."
    )
    if starred:
        text += (
            " A star: the features are of another network than the one that the metric is defined "
            "by, so that the figure is comparable within this network alone, and with no printed "
            "one."
        )
    if facts.get("singular"):
        text += " There are no more pictures than features: FID says little."
    elif facts.get("few"):
        text += " FID falls as pictures are added: compare only figures of as many."
    values: dict[str, Value] = {
        "real": Count(real),
        "drawn": Count(drawn),
        "of_real": str(facts["real"]),
        "of_drawn": str(facts["drawn"]),
        "features": Count(facts["features"]),
        "network": str(facts["network"] or f"annotator {facts['annotator']!r}"),
    }
    subsets, size = facts["kid_subsets"]
    rows = []
    for name, value in metrics.items():
        used, note = compared, f", k = {facts['neighbours']}"
        if name.startswith("FID"):
            used, note = [real, drawn], ""
        elif name.startswith("KID"):
            note = f", mean of {subsets} subsets of {size}"
        rows.append([name + note, Number(value, 4), Count(used[0]), Count(used[1])])
    found: list[Figure] = [
        Text(text, values),
        Table(("", "value", "real", "drawn"), rows),
    ]
    return found + _sweep(facts.get("sweep") or [])


def _sweep(sweep: list[dict[str, float]]) -> list[Figure]:
    if not sweep:
        return []
    names = [name for name in sweep[0] if name not in ("truncation", "n")]
    n = sweep[0]["n"]
    table = Table(
        ("truncation", *names),
        [[f"{each['truncation']:g}", *(Number(each[name], 4) for name in names)] for each in sweep],
    )
    found: list[Figure] = [
        Heading("Over truncations"),
        Text("{n} pictures drawn from the prior at each.", {"n": Count(n)}),
        table,
    ]
    if len(sweep) > 1:
        ordered = sorted(sweep, key=lambda each: each["truncation"])
        x = np.array([each["truncation"] for each in ordered])
        lines = {name: np.array([each[name] for each in ordered], np.float64) for name in names}
        first, rest = names[0], names[1:]
        found.append(Curve(x, {first: lines[first]}, "truncation", first))
        found.append(Curve(x, {name: lines[name] for name in rest}, "truncation", "share"))
    return found
