"""The families of generators that there are, and which of them a file belongs to."""

from __future__ import annotations

from typing import Any

from generators.families.base import Checkpoint, Configured, GeneratorFamily
from generators.protocols import Generator, ModelFacts
from generators.unpickle.find_network import told
from schemas.catalog import Catalog
from schemas.errors import CheckpointError, PluginError, UnsafeCheckpointError

FAMILIES: Catalog[GeneratorFamily] = Catalog(
    "generator family", "generators.families", "latentflow.generators", base=GeneratorFamily
)


def family_of(checkpoint: Checkpoint) -> GeneratorFamily:
    """The family of a checkpoint. Raises CheckpointError for one that is not installed."""
    if checkpoint.family not in FAMILIES:
        raise CheckpointError(
            f"'architecture' has family {checkpoint.architecture.get('family')!r}, there are "
            f"{list(FAMILIES.names())!r}: install the package that brings it"
        )
    return FAMILIES.load(checkpoint.family)


def facts_of(checkpoint: Checkpoint) -> ModelFacts:
    """What a generator is, in the words of its family.

    Raises CheckpointError for a family that is not installed, PluginError for one that fails.
    """
    name = checkpoint.family
    with FAMILIES.blamed(name, "facts"):
        found = family_of(checkpoint).facts(checkpoint)
    if not isinstance(found, ModelFacts) or found.default_space not in found.spaces:
        space = getattr(found, "default_space", None)
        raise PluginError(
            f"{FAMILIES.kind} {name!r} gives {type(found).__name__!r} with default space {space!r} "
            "in 'facts', expected 'ModelFacts' with one of its spaces: repair its package"
        )
    return found


def built(checkpoint: Checkpoint) -> Generator:
    """The generator, on the CPU. Raises the errors of `facts_of`."""
    with FAMILIES.blamed(checkpoint.family, "build"):
        return family_of(checkpoint).build(checkpoint)


def recognised(contents: Any, family: str | None = None) -> Checkpoint:
    """The generator that a file's contents are, in the words of the one family that claims it.

    family : the only one to ask.

    Raises CheckpointError where no family claims it, or two do.
    """
    claims: dict[str, Checkpoint] = {}
    refusals: list[CheckpointError] = []
    broken: list[str] = []
    for name in FAMILIES.names() if family is None else (family,):
        try:
            found = FAMILIES.load(name).recognise(contents)
        except UnsafeCheckpointError:
            raise
        except CheckpointError as e:
            refusals.append(e)
        except PluginError as e:
            broken.append(str(e))
        except Exception as e:  # another package's mistake, which must not stop the other families
            broken.append(f"generator family {name!r} fails on it ({type(e).__name__}: {e})")
        else:
            if isinstance(found, Checkpoint):
                claims[name] = found
            elif found is not None:
                broken.append(f"generator family {name!r} takes it for {found!r}, no Checkpoint")
    if len(claims) > 1:
        raise CheckpointError(
            f"file is claimed by the generator families {list(claims)!r}: name the right one, "
            "'generator: {path: ..., family: ...}'"
        )
    if claims:
        return next(iter(claims.values()))
    if isinstance(contents, Configured) and not refusals:
        return recognised(contents.contents, family)  # no family knows what its config.json says
    also = "".join(f"; also, {text}" for text in broken)
    if refusals:
        raise type(refusals[0])(f"{refusals[0]}{also}") from refusals[0]
    asked = list(FAMILIES.names()) if family is None else [family]
    raise CheckpointError(
        f"file holds no generator of the families {asked!r}: {told(contents)}{also}"
    )
