"""Public names that are found where a user looks for them, whatever module defines them.

A package's face names what lies in its modules and imports none of them before it is asked for.
Modules of earlier releases that have moved are found under their old names, with a warning.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

MOVED = {
    "generators.checkpoints": "generators.model_file",
    "generators.direction_files": "generators.peers.directions",
    "generators.direction_writers": "generators.peers.directions",
    "pipelines.edit": "pipelines.evaluation.strips",
    "pipelines.export": "pipelines.downstream.export",
    "pipelines.finished": "pipelines.downstream.finished_run",
    "pipelines.latent_batches": "pipelines.downstream.latent_batches",
    "pipelines.run": "pipelines.runs.run",
    "schemas.direction": "schemas.directions.direction",
    "schemas.rows": "schemas.store.rows",
    "transforms.conditional": "transforms.directions.algebra",
    "transforms.direction_algebra": "transforms.directions.algebra",
    "transforms.hosvd_model": "transforms.hosvd.model",
    "transforms.interfacegan": "transforms.svm.interfacegan",
    "transforms.mean_difference": "transforms.directions.mean_difference",
    "transforms.nrsfm_model": "transforms.nrsfm.model",
    "transforms.pca_result": "transforms.pca.result",
    "transforms.sources": "transforms.accumulate.sources",
    "transforms.svm_model": "transforms.svm.model",
}
"""Public modules of 0.1.0 by their names of then."""

SPLIT = {
    "generators.encoder": (
        "generators.encoders.load",
        "generators.encoders.w_plus_encoder.network",
    ),
    "transforms.beam_fit": tuple(
        f"transforms.{name}.beam" for name in ("pca", "directions", "svm", "hosvd", "nrsfm")
    ),
}
"""Those whose names lie in several modules now."""


def face(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package. names : module of the package -> public names in it."""
    return _Face(package, {name: module for module, found in names.items() for name in found})


@dataclass(frozen=True)
class _Face:
    package: str
    homes: dict[str, str]

    def __call__(self, name: str) -> Any:
        if name not in self.homes:
            raise AttributeError(f"module {self.package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{self.package}.{self.homes[name]}"), name)


class _OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of `MOVED`; asked only for what no other finder knows."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in MOVED and fullname not in SPLIT:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = SPLIT[old] if old in SPLIT else (MOVED[old],)
        warnings.warn(
            f"module {old!r} is now {', '.join(map(repr, new))}: import it by that name",
            DeprecationWarning,
            stacklevel=2,
        )
        for name in new:
            found = vars(importlib.import_module(name))
            vars(module).update({k: v for k, v in found.items() if k[:2] != "__"})


def find_old_names() -> None:
    """Let modules be imported by the names that they had in 0.1.0."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())
