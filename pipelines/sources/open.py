"""The source of a dataset, by its kind."""

from __future__ import annotations

import importlib

import generators
from generators.protocols import ModelFacts
from pipelines.sources.base import Source
from schemas.sections.dataset import DatasetSpec
from schemas.spec import RunSpec


def open_source(dataset: DatasetSpec, facts: ModelFacts | None = None) -> Source:
    """The source that a specification describes, by the function ``open_dataset`` of the module
    that its kind is named after. Raises SpecError when 'path' or 'labels' do not fit.

    facts : of the run's generator, for rows that are drawn from it
    """
    module = importlib.import_module(f"pipelines.sources.{dataset.kind}")
    source: Source = module.open_dataset(dataset, facts)
    return source


def run_source(spec: RunSpec) -> Source:
    """The source of a run's rows."""
    return open_source(
        spec.dataset, generators.facts(spec.generator) if spec.dataset.sampled else None
    )
