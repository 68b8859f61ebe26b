"""Features of pictures drawn from the prior at a truncation, made where they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import generators
from generators.protocols import labels_in_turn
from pipelines.analyses.inputs import Data
from pipelines.analyses.spaces import generator_of
from pipelines.engine.loaded_once import LoadedOnce
from schemas.errors import DataError
from schemas.fingerprint import digest
from transforms.accumulate.blocks import Arrays
from transforms.accumulate.derived import DerivedBlocks
from transforms.images.annotate import annotate_batch
from transforms.images.preprocess import to_uint8

if TYPE_CHECKING:
    from generators.annotators.model import AnnotatorModel

VERSION = 1
"""Raised whenever the same seed gives other features."""
BLOCK_ROWS = 512
AT_ONCE = 32
"""Pictures that are drawn and measured at a time; fewer are filled up with the last one."""


@dataclass(frozen=True)
class Seeds:
    """Rows of ``seeds`` first, first + 1, ..., numbered as ``at``."""

    n: int
    first: int
    block_rows: int = BLOCK_ROWS

    @property
    def key(self) -> str:
        """Of all seeds."""
        return self.part_key(range(self.n_blocks))

    def part_key(self, blocks: range) -> str:
        """Of the seeds of these blocks."""
        rows = self.row_range(blocks)
        return digest(["seeds", self.first, rows.start, rows.stop])

    def row_range(self, blocks: range) -> slice:
        """Rows of these blocks."""
        return slice(blocks.start * self.block_rows, min(blocks.stop * self.block_rows, self.n))

    @property
    def n_blocks(self) -> int:
        """Blocks, the last one possibly short."""
        return -(-self.n // self.block_rows)

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Rows with their seeds."""
        own = self.row_range(range(block, block + 1))
        rows = np.arange(own.start, own.stop)
        return rows, {"at": rows, "seeds": rows + self.first}


@dataclass(frozen=True)
class DrawFeatures:
    """Seeds to features: a code of the prior is drawn and measured.

    generator, annotator : where they are read from, with the fingerprints that they must have
    space, truncation : of the codes.  noise : as of `generators.protocols.Generator.draw`
    """

    generator: generators.Source
    generator_fp: str
    annotator: str
    annotator_fp: str
    space: str
    truncation: float
    noise: str

    @property
    def key(self) -> str:
        """Identity of the features of a seed."""
        models = [self.generator_fp, self.annotator_fp]
        return digest([VERSION, models, self.space, self.truncation, self.noise])

    def __call__(self, codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Seeds (m,) -> float32 (m, D).

        Raises DataError for a picture of which there are no features.
        """
        import torch

        model = generator_of(self.generator, self.generator_fp)
        network = _network(self.annotator, self.annotator_fp)
        conditional = model.facts.space(self.space).conditional
        found = [np.zeros((0, *network.card.row_shape), np.float32)]
        for start in range(0, len(codes), AT_ONCE):
            own = codes[start : start + AT_ONCE].tolist()
            seeds = own + own[-1:] * (AT_ONCE - len(own))
            labels = labels_in_turn(model.facts.classes, seeds)
            psi = None if self.truncation == 1 else self.truncation
            with torch.no_grad():
                code = model.sample(self.space, seeds, labels=labels, truncation=psi)
                used = labels if conditional else None
                images = model.draw(code, labels=used, noise=self.noise)
            measured = annotate_batch(network, to_uint8(images.float().cpu().numpy()))
            lost = np.flatnonzero(measured.reasons[: len(own)])
            if len(lost):
                raise DataError(
                    f"annotator {self.annotator!r} gives no features of the picture of seed "
                    f"{own[lost[0]]!r} at truncation {self.truncation!r}: use another network, or "
                    "another 'fidelity.seed'"
                )
            found.append(measured.values[: len(own)])
        return np.concatenate(found)


def drawn_features(data: Data, truncation: float, n: int, seed: int) -> DerivedBlocks:
    """Features ``x`` of `n` pictures of the run's generator, by the annotator whose features the
    analysis reads."""
    annotator = data.annotator(str(data.parameter("annotator")))
    change = DrawFeatures(
        data.generator_source,
        data.generator_fp,
        annotator.path,
        annotator.fingerprint,
        str(data.parameter("drawn_in")),
        float(truncation),
        data.noise_mode,
    )
    return DerivedBlocks(Seeds(n, seed), "seeds", "x", change)


_NETWORKS: LoadedOnce[AnnotatorModel] = LoadedOnce(lambda model: model.fingerprint)


def _network(uri: str, fingerprint: str) -> AnnotatorModel:
    """The annotator, loaded once a process. Raises UsageError where its file is another one."""
    from generators.annotators import load_annotator

    def changed(found: str) -> str:
        return (
            f"annotator {uri!r} has fingerprint {found!r}, the run began with {fingerprint!r}: the "
            "file changed; start again"
        )

    return _NETWORKS.get(fingerprint, lambda: load_annotator(uri), changed)
