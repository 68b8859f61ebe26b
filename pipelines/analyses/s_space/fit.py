"""Style channels of the annotated attributes, and edits by one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.analyses.inputs import Data, Fitted
from pipelines.analyses.labels import Labels
from schemas.directions.direction import Direction, unit_direction
from schemas.errors import DataError, UsageError
from schemas.sections.s_space import SSpaceSpec
from transforms.directions.style_channels import (
    Channels,
    ChannelsOfLabels,
    StyleLayer,
    rank_channels,
)

SHOWN = 10
"""Channels named for each attribute in the facts; the model holds the relevance of all."""


def fit_s_space(data: Data, wanted: SSpaceSpec) -> Fitted:
    """Relevance of every style channel for every attribute; makes no direction of the set's space.

    The channels are edited by name, see `channel_direction`. Relevance and shift of an attribute
    are of the rows that its annotator measured. The model's mean and sd are those of one
    annotator's rows, or, with several, of all rows that have a code.
    """
    from generators.affine import affine_layers

    affine = affine_layers(data.generator())
    layers = tuple(StyleLayer(a.ws_index, a.weight, a.bias) for a in affine)
    measured = data.measurements("scores")
    rows_of_w = data.n_layers
    request = ChannelsOfLabels(layers, rows_of_w)
    out = Fitted()
    found: list[tuple[list[str], Channels]] = []
    skipped: dict[str, str] = {}
    for m in measured:
        columns = m.chosen(wanted.attributes)
        if not columns:
            continue
        names = [m.names[i] for i in columns]
        source = data.blocks(m, Labels(tuple(columns), wanted.threshold))
        try:
            found.append((names, rank_channels(data.engine.sum(source, request))))
        except DataError as e:  # it measured no two rows
            skipped |= dict.fromkeys(names, str(e))
    if not found:
        raise DataError(
            f"no style channel can be ranked, the annotators measured too few rows: {skipped!r}; "
            "leave 's_space' out, or annotate with another model"
        )
    population = found[0][1]
    if len(found) > 1:  # each measured rows of its own
        nobody = {"y": np.zeros((data.n_rows, 0), np.int8)}
        population = rank_channels(data.engine.sum(data.blocks(columns=nobody), request))
    attributes = [name for names, _ in found for name in names]
    out.arrays = {"mean": population.mean, "sd": population.sd} | {
        name: np.concatenate([getattr(channels, name) for _, channels in found])
        for name in ("shift", "relevance", "counts")
    }
    table = [[a.name, a.start, a.stop] for a in affine]
    best = {
        name: [channel_name(table, int(c)) for c in np.argsort(-row, kind="stable")[:SHOWN]]
        for name, row in zip(attributes, out.arrays["relevance"], strict=True)
        if np.isfinite(row).all()
    }
    out.facts = {"attributes": attributes, "layers": table, "best": best}
    if skipped:
        out.facts["skipped"] = skipped
    return out


def channel_name(layers: list[list[Any]], channel: int) -> str:
    """``<layer>.<channel of the layer>`` of a channel of s."""
    for name, start, stop in layers:
        if start <= channel < stop:
            return f"{name}.{channel - start}"
    raise UsageError(f"channel {channel!r} is not one of {layers[-1][2]!r}")


def channel_direction(
    name: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any], generator_fp: str
) -> Direction:
    """A direction of space s that moves one channel, from the stored model of `fit_s_space`.

    name : "s.<attribute>", its most relevant channel; "s.<attribute>.<n>", the n-th from 0, moved
        towards the attribute; or "s.<layer>.<channel>" such as "s.b8.conv1.12".

    Raises UsageError for an unknown name, DataError for an attribute that hardly any row shows or
    a channel that does not vary.
    """
    text = name.removeprefix("s.")
    head, _, tail = text.rpartition(".")
    layers = {layer: (start, stop) for layer, start, stop in facts["layers"]}
    attribute, rank = (text, 0) if text in facts["attributes"] else (head, tail)
    if attribute in facts["attributes"] and str(rank).isdigit():
        row = facts["attributes"].index(attribute)
        relevance = arrays["relevance"][row]
        if not np.isfinite(relevance).all() or int(rank) >= len(relevance):
            raise DataError(
                f"attribute {attribute!r} has no channel of rank {rank!r}: "
                f"{int(arrays['counts'][row])!r} rows show it"
            )
        channel = int(np.argsort(-relevance, kind="stable")[int(rank)])
        sign = float(np.sign(arrays["shift"][row, channel])) or 1.0
        target = attribute
    elif head in layers and tail.isdigit() and int(tail) < layers[head][1] - layers[head][0]:
        channel, sign, target = layers[head][0] + int(tail), 1.0, None
        relevance = None
    else:
        raise UsageError(
            f"there is no channel {name!r}: use 's.<attribute>' with one of "
            f"{facts['attributes']!r}, 's.<attribute>.<rank>', or 's.<layer>.<channel>'"
        )
    sd = float(arrays["sd"][channel])
    if sd == 0:
        raise DataError(f"channel {name!r} does not vary over the rows: choose another")
    vector = np.zeros(len(arrays["sd"]))
    vector[channel] = sign
    quality: dict[str, Any] = {"channel": channel_name(facts["layers"], channel)}
    if relevance is not None:
        quality["relevance"] = float(relevance[channel])
    return unit_direction(
        name,
        "s",
        vector,
        method="s_space",
        sd=sd,
        quality=quality,
        provenance={"target": target, "generator_fp": generator_fp},
    )
