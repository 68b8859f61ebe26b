"""The stages of annotators: what they look at and write, and what their blocks depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from generators.annotators.card import AnnotatorCard, read_card
from generators.annotators.kinds.catalog import KINDS
from generators.annotators.load import check_trust
from pipelines.engine.blocks import BlockWork, Rows, StageWork
from pipelines.engine.stage_state import StageState
from pipelines.folder.store_identity import INVERT
from pipelines.sources.block_images import View
from schemas.fingerprint import digest
from schemas.index import DatasetIndex
from schemas.sections.types import AUTO
from schemas.spec_models import AnnotateSpec
from schemas.store.latent_store import ArraySpec, LatentStore
from schemas.store.reasons import TRANSIENT, Reason, Status
from transforms.images.preprocess import crop_sizes

#: Raised whenever a stored number changes for the same inputs (a golden test notices).
VERSION = 1
RENDER = "@render"


@dataclass(frozen=True)
class StageModel:
    """One stage: a model and what it looks at.

    name : of the stage and of its array. uri, card : of the model. batch_size : images at a time, 0
        where it is yet to be found.
    of : "original" or "resized": the image at the model's own input size, or the one that was
        inverted, at the generator's.
    """

    name: str
    uri: str
    card: AnnotatorCard
    batch_size: int
    of: str = "original"

    @property
    def render(self) -> bool:
        """Whether it looks at what the generator draws, not at the original image."""
        return self.name.endswith(RENDER)

    def view(self, size: tuple[int, int]) -> View:
        """What it needs of every image, for a generator of images of this (height, width)."""
        if self.render or self.of == "resized":
            return View(size)
        return View(self.card.picture_size(size), self.card.resize)

    @property
    def array(self) -> str:
        """Name of the array it writes."""
        return f"{self.card.group}/{self.name}"

    def spec(self) -> ArraySpec:
        """The array it writes. Units: those of the annotator's kind."""
        kind = KINDS.load(self.card.kind)
        attrs = {"names": list(self.card.names), "kind": kind.name, "units": kind.unit}
        return ArraySpec(self.card.group, self.name, self.card.row_shape, "float32", attrs=attrs)


def stages_of(
    models: Sequence[AnnotateSpec], trust: bool = False, sampled: bool = False
) -> list[StageModel]:
    """The stages of the given models, in order, originals before renders.

    sampled : the rows are drawn from the generator, so that the render is all there is.
    Raises CheckpointError for unusable models, UntrustedError for TorchScript without trust.
    """
    stages = []
    for model in models:
        card = read_card(model.model, model.name)
        check_trust(card, trust)
        batch_size = 0 if model.batch_size == AUTO else model.batch_size
        stage = StageModel(model.name, model.model, card, batch_size, model.of)
        if not sampled:
            stages.append(stage)
        if model.render or sampled:
            stages.append(replace(stage, name=model.name + RENDER))
    return sorted(stages, key=lambda stage: stage.render)


def annotate_inputs(
    models: Sequence[AnnotateSpec], max_pixels: int, sampled: bool = False
) -> dict[str, Any]:
    """Stage -> what its blocks depend on besides their rows and, of renders, their codes."""
    inputs: dict[str, Any] = {}
    for stage in stages_of(models, trust=True, sampled=sampled):
        inputs[stage.name] = {"version": VERSION, "annotator": stage.card.fingerprint}
        if not stage.render:
            inputs[stage.name] |= {"max_pixels": max_pixels, "of": stage.of}
    return inputs


class Originals:
    """What blocks of originals depend on besides their rows and the model.

    size, crop : (height, width) of the images that were inverted.
    """

    def __init__(
        self, index: DatasetIndex, max_pixels: int, size: tuple[int, int], crop: str
    ) -> None:
        self._max_pixels, self._inverted, self._crop = max_pixels, View(size), crop
        sizes: NDArray[np.integer] = index.sizes[:, ::-1]  # the index holds width, then height
        if crop == "centre":
            sizes = crop_sizes(sizes, size)
        self._shrunk = (sizes != size).any(axis=1) & index.active

    def inputs(self, stage: StageModel, rows: slice) -> dict[str, Any]:
        """Inputs of a block. What is measured stands in them where it makes a difference: not
        where every image has the generator's size (and is seen whole), or the model sees just what
        was inverted."""
        found: dict[str, Any] = {"max_pixels": self._max_pixels}
        differs = stage.card.crop is not None or self._shrunk[rows].any()
        if stage.view(self._inverted.size) != self._inverted and differs:
            found["of"] = stage.of
        return found


def extra_of(
    stage: StageModel,
    commit: bytes | None,
    ok: NDArray[np.bool_],
    originals: Originals,
    rows: slice,
) -> dict[str, Any]:
    """What a block's fingerprint holds besides its rows' identity.

    commit, ok : of the block's codes: the fingerprint it is committed with, bool (rows,).
    rows : of the block.
    """
    extra: dict[str, Any] = {"annotator": stage.card.fingerprint}
    if stage.render:
        return extra | {"codes": commit, "rows": digest(np.packbits(ok).tobytes())}
    return extra | originals.inputs(stage, rows)


@dataclass(frozen=True)
class AnnotatePlan:
    """work : blocks with the stages that each one needs. fps : stage -> block -> fingerprint;
    None for renders of blocks that have no codes yet."""

    n_blocks: int
    n_rows: int
    work: list[BlockWork]
    fps: dict[str, list[bytes | None]]


def plan_annotate(
    index: DatasetIndex,
    store: LatentStore,
    stages: Sequence[StageModel],
    max_pixels: int,
    size: tuple[int, int],
    labels: NDArray[np.int64] | None = None,
) -> AnnotatePlan:
    """Which blocks of which stages are missing. Stages the store does not have miss all blocks.

    size : (height, width) in pixels of the images of the store's generator.
    labels : class number of every row, which its render is drawn with.
    A render depends on its block's codes: on their commit and on which rows have one (rows that
    could be read at last change the block, but not its commit).
    """
    rows = Rows(index, store, labels)
    crop = store.attrs["method"].get("crop", "centre")
    originals = Originals(index, max_pixels, size, crop)
    codes = StageState(store, INVERT)
    ok = store.status(INVERT) == Status.OK
    have = set(store.stages())
    states = {s.name: StageState(store, s.name) if s.name in have else None for s in stages}
    fps: dict[str, list[bytes | None]] = {s.name: [] for s in stages}
    work = []
    for block in range(store.n_blocks):
        identity = rows.identity(block)
        needs: dict[str, StageWork] = {}
        for stage in stages:
            commit = codes.commit(block)
            if stage.render and commit is None:
                fps[stage.name].append(None)
                continue
            place = store.block_slice(block)
            extra = extra_of(stage, commit, ok[place], originals, place)
            fp = store.block_fp(stage.name, block, identity, VERSION, extra)
            fps[stage.name].append(fp)
            state = states[stage.name]
            retry = frozenset({Reason.OUT_OF_MEMORY}) if stage.render else TRANSIENT
            need = StageWork(fp) if state is None else state.needs(block, fp, rows, retry)
            if need is not None:
                needs[stage.name] = need
        if needs:
            work.append(rows.work(block, needs))
    return AnnotatePlan(store.n_blocks, store.n_rows, work, fps)
