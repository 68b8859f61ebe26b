"""The sections under 'analyse': ours, one a module of this folder, and those of other packages."""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field, ModelWrapValidatorHandler, ValidationInfo, create_model, model_validator
from pydantic.fields import FieldInfo

from schemas.catalog import ATTRIBUTE, Catalog
from schemas.errors import PluginError
from schemas.sections.base import AnalysisSection
from schemas.sections.types import SpecModel
from schemas.suggest import suggestion

GROUP = "latentflow.analyses"
"""Entry points of other packages' analyses; their `section` is what is used here."""

_APART = ("base", "catalog")
_FOREIGN: Catalog[Any] = Catalog("analysis", None, GROUP)


def _own() -> dict[str, type[AnalysisSection]]:
    """Ours by key, in the order of running."""
    package = importlib.import_module("schemas.sections")
    found = {}
    for key in (module.name for module in pkgutil.iter_modules(package.__path__)):
        if key in _APART:
            continue
        section = getattr(importlib.import_module(f"schemas.sections.{key}"), ATTRIBUTE, None)
        if isinstance(section, type) and issubclass(section, AnalysisSection):
            found[key] = section
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def _fields(sections: Mapping[str, type[AnalysisSection]]) -> dict[str, Any]:
    return {
        key: (section | None, Field(default=None, description=section.summary))
        for key, section in sections.items()
    }


OWN = _own()


class AnalyseSpec(create_model("Sections", __base__=SpecModel, **_fields(OWN))):  # type: ignore[misc]
    """The analyses to run; a section that is absent is not run, an empty one uses defaults."""

    @model_validator(mode="wrap")
    @classmethod
    def _of_other_packages(
        cls, data: Any, handler: ModelWrapValidatorHandler[AnalyseSpec], info: ValidationInfo
    ) -> AnalyseSpec:
        model = analyse_model(data) if isinstance(data, Mapping) else cls
        if model is cls:
            return handler(data)
        found: AnalyseSpec = model.model_validate(data, context=info.context)
        return found

    @classmethod
    def fields_for(cls, data: Any) -> Mapping[str, FieldInfo]:
        return analyse_model(data if isinstance(data, Mapping) else ()).model_fields

    @classmethod
    def about_unknown(cls, key: str, data: Any) -> str:
        return suggestion(key, list(analyse_model(foreign_keys()).model_fields))


def analyse_model(keys: Iterable[str]) -> type[AnalyseSpec]:
    """The model of a section 'analyse' that has these keys.

    Keys that are none of ours are looked up among other packages' analyses, which run after ours,
    by name. Those that nobody has stay unknown to the model, which refuses them. Raises PluginError
    for a package that cannot be imported, or whose analysis has no section.
    """
    other = {str(key) for key in keys} - set(OWN)
    return _extended(tuple(sorted(key for key in other if key in _FOREIGN)))


@functools.cache
def _extended(keys: tuple[str, ...]) -> type[AnalyseSpec]:
    if not keys:
        return AnalyseSpec
    sections = {key: _foreign(key) for key in keys}
    return create_model(
        "AnalyseSpec", __base__=AnalyseSpec, __doc__=AnalyseSpec.__doc__, **_fields(sections)
    )


def _foreign(key: str) -> type[AnalysisSection]:
    section = getattr(_FOREIGN.load(key), "section", None)
    if not isinstance(section, type) or not issubclass(section, AnalysisSection):
        raise PluginError(
            f"analysis {key!r} of another package has the section {section!r}: it must be a "
            "subclass of 'schemas.sections.base.AnalysisSection'"
        )
    return section


def foreign_keys() -> tuple[str, ...]:
    """Keys of other packages' analyses that can be used, by name."""
    found = []
    for key in _FOREIGN.names():
        with contextlib.suppress(PluginError):
            _foreign(key)
            found.append(key)
    return tuple(key for key in found if key not in OWN)
