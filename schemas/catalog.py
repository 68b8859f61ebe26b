"""Catalogs of plug-ins: the modules of one folder, and the entry points of one group.

A plug-in of another package is a first-class citizen: its package names it in an entry point, and
nothing of ours names it. Nothing is imported before its name is used, so a catalog costs nothing
to have.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import logging
import pkgutil
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from schemas.errors import PluginError, UsageError, is_out_of_memory
from schemas.expected_errors import expected
from schemas.suggest import suggestion

P = TypeVar("P")

log = logging.getLogger(__name__)

ATTRIBUTE = "PLUGIN"
"""What a module of a catalog's folder calls its plug-in."""


@functools.cache
def _modules(package: str) -> tuple[str, ...]:
    folder = importlib.import_module(package)
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folder.__path__)))


@functools.cache
def _entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=group):
        held = found.setdefault(point.name, point)
        if held.value != point.value:
            raise PluginError(
                f"two packages bring a plug-in {point.name!r} of {group!r}, {_package(held)!r} and "
                f"{_package(point)!r}: take one of them out of the environment"
            )
    return found


def _package(point: importlib.metadata.EntryPoint) -> str:
    return point.value if point.dist is None else point.dist.name


@dataclass(frozen=True)
class Catalog(Generic[P]):
    """The plug-ins of one kind, by name.

    kind : what one is called in messages, such as "analysis"
    package : our folder of them, each module (or package) with its plug-in under ``PLUGIN``; None
        for those of other packages alone
    group : of the entry points of other packages; each gives the plug-in itself
    apart : modules of the folder that are none
    base : what a plug-in must be an instance of; None where its user looks at it
    """

    kind: str
    package: str | None
    group: str
    apart: Container[str] = ("base", "catalog")
    base: type[Any] | None = None

    def own(self) -> tuple[str, ...]:
        """Names of those in our folder, in alphabetical order. Imports none of them."""
        if self.package is None:
            return ()
        return tuple(name for name in _modules(self.package) if name not in self.apart)

    def names(self) -> tuple[str, ...]:
        """Names of all, our own first. Imports none of them.

        Raises PluginError where two have one name.
        """
        own, foreign = self.own(), _entry_points(self.group)
        for name in own:
            if name in foreign:
                raise PluginError(
                    f"package {_package(foreign[name])!r} brings a {self.kind} {name!r}, and there "
                    "is one of that name already: take that package out of the environment"
                )
        return own + tuple(sorted(foreign))

    def __contains__(self, name: object) -> bool:
        return name in self.own() or name in _entry_points(self.group)

    def load(self, name: str) -> P:
        """The plug-in of a name.

        Raises UsageError for a name that none has, PluginError for one that cannot be imported, or
        is something else.
        """
        if name in self.own():
            plugin: P = getattr(importlib.import_module(f"{self.package}.{name}"), ATTRIBUTE)
            return plugin
        point = _entry_points(self.group).get(name)
        if point is None:
            cure = suggestion(name, self.names())
            raise UsageError(f"{self.kind} {name!r} is not known: {cure}")
        try:
            foreign: P = point.load()
        except (Exception, SystemExit) as e:
            raise PluginError(
                f"{self.kind} {name!r} of package {_package(point)!r} cannot be imported "
                f"({type(e).__name__}: {e}): repair or remove that package"
            ) from e
        base = self.base
        if base is not None and (isinstance(foreign, type) or not isinstance(foreign, base)):
            raise PluginError(
                f"{self.kind} {name!r} of package {_package(point)!r} is {foreign!r}: its entry "
                f"point must give an instance of '{base.__module__}.{base.__qualname__}'"
            )
        return foreign

    def package_of(self, name: str) -> str | None:
        """The package that brings a plug-in; None for ours, and for a name that none has."""
        point = None if name in self.own() else _entry_points(self.group).get(name)
        return None if point is None else _package(point)

    @contextmanager
    def blamed(self, name: str, doing: str) -> Iterator[None]:
        """Tell what goes wrong within as a mistake of that plug-in, if it is another package's.

        doing : what it is asked to do, such as "fit".

        Raises PluginError with the package and the cause. Errors that are meant to be told (ours,
        the operating system's) and lack of memory are raised as they are.
        """
        try:
            yield
        except Exception as e:
            package = self.package_of(name)
            if package is None or expected(e) is not None or is_out_of_memory(e):
                raise
            log.debug("%s %r of package %r, %s", self.kind, name, package, doing, exc_info=True)
            said = (str(e).strip() or "no text").splitlines()[-1]
            raise PluginError(
                f"{self.kind} {name!r} of package {package!r} failed in {doing!r} "
                f"({type(e).__name__}: {said}): repair or remove that package"
            ) from e

    def __iter__(self) -> Iterator[P]:
        """All that can be used; those that cannot are told by `broken` and stop no other."""
        for name in self.names():
            try:
                yield self.load(name)
            except PluginError:
                continue

    def broken(self) -> dict[str, str]:
        """Plug-ins that cannot be used: name -> what is wrong."""
        found = {}
        for name in self.names():
            try:
                self.load(name)
            except PluginError as e:
                found[name] = str(e)
        return found
