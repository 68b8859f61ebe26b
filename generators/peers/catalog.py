"""All projects whose files are known: those of this folder and those that other packages bring."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from generators.peers.base import DirectionFormat, Evidence, LatentFormat, Peer
from schemas.catalog import Catalog
from schemas.errors import InputError, PluginError, UsageError
from schemas.suggest import suggestion

logger = logging.getLogger(__name__)

PEERS: Catalog[Peer] = Catalog(
    "peer format",
    "generators.peers",
    "latentflow.peers",
    apart=("base", "catalog", "directions", "latents", "models"),
    base=Peer,
)

Format = TypeVar("Format", DirectionFormat, LatentFormat)


def direction_formats(space: str | None = None) -> dict[str, DirectionFormat]:
    """Formats of directions by name, of one space or of all.

    Raises PluginError where two have one name.
    """
    formats = _by_name((peer.project, f) for peer in PEERS for f in peer.directions)
    return {name: f for name, f in formats.items() if space not in f.not_of}


def latent_formats() -> dict[str, LatentFormat]:
    """Formats of codes by name. Raises PluginError where two have one name."""
    return _by_name((peer.project, f) for peer in PEERS for f in peer.latents)


def _by_name(formats: Iterator[tuple[str, Format]]) -> dict[str, Format]:
    found: dict[str, tuple[str, Format]] = {}
    for project, each in formats:
        if each.name in found:
            raise PluginError(
                f"{found[each.name][0]!r} and {project!r} both bring a file format {each.name!r}: "
                "take the package of one of them out of the environment"
            )
        found[each.name] = (project, each)
    return {name: each for name, (_, each) in found.items()}


def claims(
    value: Any, formats: dict[str, Format], named: str | None = None
) -> tuple[list[Format], Any]:
    """The formats that a file's contents have, those with the most evidence, and the contents.

    Contents that are the only value of a dict or list are looked for inside it. Several formats
    are more than one claim, none is what nobody knows.

    named : the name of the only format to be asked. Raises UsageError for one that is not known.
    """
    if named is not None and named not in formats:
        cure = suggestion(named, tuple(formats))
        raise UsageError(f"format {named!r} is not known: {cure}{_missing()}")
    asked = [f for f in formats.values() if f.evidence is not None]
    asked = asked if named is None else [formats[named]]
    while True:
        found = [each for each in asked if _recognises(each, value)]
        if found:
            most = max(each.evidence or Evidence.NUMBERS for each in found)
            return [f for f in found if (f.evidence or Evidence.NUMBERS) == most], value
        if not isinstance(value, dict | list | tuple) or len(value) != 1:
            return [], value
        value = next(iter(value.values() if isinstance(value, dict) else value))


def only(
    value: Any, path: str, formats: dict[str, Format], named: str | None, cure: str
) -> tuple[Format, Any]:
    """The one format that a file's contents have, and the contents; see `claims`.

    Raises InputError for contents that no format has, and for those that several have.
    """
    found, inner = claims(value, formats, named)
    if len(found) > 1:
        names = " and ".join(repr(each.name) for each in found)
        raise InputError(
            f"{path!r} holds {shown(value)}, which formats {names} both claim: say which it is, "
            f"by --format {found[0].name} or --format {found[1].name}"
        )
    if not found:
        known = sorted(name for name, f in formats.items() if f.evidence is not None)
        what = f"none of the known layouts {known!r}" if named is None else f"no {named!r}"
        raise InputError(f"{path!r} holds {shown(value)}, which is {what}: {cure}{_missing()}")
    return found[0], inner


def _recognises(each: DirectionFormat | LatentFormat, value: Any) -> bool:
    try:
        return each.recognise(value)
    except Exception as e:  # another package's mistake, which must not stop the other formats
        logger.error("file format %r fails on this file: %s: %s", each.name, type(e).__name__, e)
        return False


def _missing() -> str:
    """What is to be said of plug-ins that cannot be imported, where there are any."""
    broken = PEERS.broken()
    return "".join(f"; {text}" for text in broken.values())


def shown(value: Any) -> str:
    """A file's contents in a few words."""
    if isinstance(value, np.ndarray):
        kind = "text" if value.dtype.kind in "US" else value.dtype.name
        return f"{kind} {value.shape!r}"
    if isinstance(value, dict):
        parts = [f"{str(k)[:40]!r}: {shown(v)}" for k, v in list(value.items())[:8]]
        more = ", ..." if len(value) > 8 else ""
        return f"a dict of {', '.join(parts) or 'nothing'}{more}"
    if isinstance(value, list | tuple) and value:
        return f"a {type(value).__name__} of {len(value)!r}, the first {shown(value[0])}"
    return f"a {type(value).__name__}"
