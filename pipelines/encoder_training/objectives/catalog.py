"""The objectives that there are."""

from __future__ import annotations

from pipelines.encoder_training.objectives.base import Objective
from schemas.catalog import Catalog

OBJECTIVES: Catalog[Objective] = Catalog(
    "training objective",
    "pipelines.encoder_training.objectives",
    "latentflow.encoder_objectives",
    base=Objective,
)
