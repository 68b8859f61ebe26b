"""Directions taken to another model by a map of codes, fitted on the images that both runs hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.compare.trial import mapped_direction
from pipelines.compare.two_runs import ComparedRun, Pairs
from schemas.directions.direction import Direction
from schemas.directions.direction_set import DirectionSet
from schemas.errors import DataError, UsageError
from schemas.names import safe_name
from schemas.store.lock import StoreLock
from transforms.accumulate.blocks import PIPELINES, Arrays, sum_blocks
from transforms.accumulate.moments import Moments
from transforms.accumulate.requests import MomentsAlong
from transforms.drift.latent_maps import MapChoice

METHOD = "transferred"


@dataclass(frozen=True)
class PairsAlong:
    """Joint moments of pairs' coordinates: old codes along old directions, new ones along new.

    old : float64 (k, *row_shape) vectors;  new : (k, *row_shape of the new space)
    """

    kind = f"{PIPELINES}.transfer.PairsAlong"

    old: np.ndarray
    new: np.ndarray
    token: str = "pairs"

    def prepare(self, arrays: Arrays) -> Arrays:
        """x and targets as they are."""
        return arrays

    def statistic(self, prepared: Arrays) -> Moments:
        """`Moments` of (m, 2 k) coordinates."""
        x, y = (
            prepared[name].astype(np.float64) @ vectors.reshape(len(vectors), -1).T
            for name, vectors in (("x", self.old), ("targets", self.new))
        )
        return Moments.of(np.concatenate([x, y], axis=1))


def transfer_directions(
    old: ComparedRun, new: ComparedRun, names: Sequence[str], wait_s: float = 0.0
) -> list[Direction]:
    """Map directions of the old run and add them to the new run's direction set.

    They are called ``transferred.<name>``, have the method "transferred", stay when analyses are
    renewed, and say in ``quality`` how far the map is off: ``map_error``, the relative error on
    images held out of its fit, and ``correlation``, between these images' coordinates along the
    old direction and along the new one. sd is measured on the new run's codes.
    wait_s : how long to wait for a run that holds the new run's lock.

    Raises UsageError for unknown names, directions of another space than the old run's codes, and
    where the runs share too few images, DataError where no linear map links the spaces,
    LockedError while a run goes on.
    """
    chosen = [old.directions[name] for name in names]
    others = {d.name: d.space for d in chosen if d.space != old.space}
    if others:
        raise UsageError(
            f"directions {others!r} are not of the space {old.space!r} that the old run stores, "
            "whose codes alone can be paired: compute them again by running the new specification"
        )
    if old.directions.generator_fp == new.directions.generator_fp and old.space == new.space:
        raise UsageError(
            f"both runs are of generator {old.directions.generator_fp!r} and space {old.space!r}: "
            "nothing is to be mapped; take the directions over as they are, with 'latentflow "
            "export OLD.yaml --as directions' and 'latentflow import'"
        )
    pairs = Pairs.of(old, new)
    choice, unlinked = pairs.link()
    if choice is None:
        raise UsageError(
            f"no map can be fitted: {unlinked}; index the same images in both runs, or compute the "
            "directions again by running the new specification"
        )
    if choice.chosen is None:
        raise DataError(
            f"no linear map leads from the old codes to the new ones, the best has a relative "
            f"error of {choice.error:.2f} on {choice.held_out!r} held-out images; compute the "
            "directions again by running the new specification"
        )
    mapped = [mapped_direction(d, choice.chosen, new.directions.generator_fp) for d in chosen]
    correlations = _correlations(pairs, chosen, mapped)
    deviations = _deviations(new, mapped)
    found = [
        _described(*parts, old, new, choice)
        for parts in zip(chosen, mapped, correlations, deviations, strict=True)
    ]
    with StoreLock(new.path / "run.lock").acquire(wait_s):
        path = str(new.directions.path)
        current = DirectionSet.load(path)
        for direction in found:
            current.replace(direction)
        current.save(path)
    return found


def _described(
    direction: Direction,
    mapped: Direction,
    correlation: float,
    sd: float,
    old: ComparedRun,
    new: ComparedRun,
    choice: MapChoice,
) -> Direction:
    quality = {
        "map": choice.relation,
        "map_error": choice.error,
        "map_errors": choice.errors,
        "images_fitted": choice.fitted,
        "images_held_out": choice.held_out,
        "correlation": correlation,
    }
    origin = {
        "name": direction.name,
        "method": direction.method,
        "generator_fp": old.directions.generator_fp,
        "store_fp": old.store.store_fp,
        "space": direction.space,
        "sd": direction.sd,
        "fingerprint": direction.provenance.get("fingerprint"),
    }
    provenance = {
        "target": direction.provenance.get("target"),
        "generator_fp": new.directions.generator_fp,
        "transferred_from": origin,
        "store_fp": new.store.store_fp,
    }
    return dataclasses.replace(
        mapped,
        name=safe_name(f"{METHOD}.{direction.name}"),
        space=new.space,
        method=METHOD,
        sd=sd,
        converged=None,
        quality=quality,
        provenance=provenance,
    )


def _correlations(
    pairs: Pairs, chosen: Sequence[Direction], mapped: Sequence[Direction]
) -> list[float]:
    """Of held-out images' coordinates before and after; 0 where one does not vary."""
    request = PairsAlong(np.stack([d.vector for d in chosen]), np.stack([d.vector for d in mapped]))
    second = pairs.sum(request, held_out=True).second
    k = len(chosen)
    spread = np.sqrt(np.diag(second))
    scale = spread[:k] * spread[k:]
    across = np.diag(second[:k, k:])
    found = np.divide(across, scale, out=np.zeros(k), where=scale > 0)
    return [float(r) for r in np.clip(found, -1.0, 1.0)]


def _deviations(new: ComparedRun, mapped: Sequence[Direction]) -> list[float]:
    request = MomentsAlong(np.stack([d.vector.ravel() for d in mapped]))
    source = new.blocks()

    def statistic(block: int) -> Moments:
        return request.statistic(request.prepare(source.read(block)[1]))

    along = sum_blocks(source.n_blocks, statistic)
    return [float(sd) for sd in np.sqrt(along.second.ravel() / max(along.count - 1, 1))]
