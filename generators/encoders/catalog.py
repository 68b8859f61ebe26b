"""The architectures of encoders that there are, and which of them a file belongs to."""

from __future__ import annotations

from typing import Any

from generators.encoders.base import EncoderArchitecture, EncoderCheckpoint
from generators.unpickle.find_network import told
from schemas.catalog import Catalog
from schemas.errors import CheckpointError

ARCHITECTURES: Catalog[EncoderArchitecture] = Catalog(
    "encoder architecture",
    "generators.encoders",
    "latentflow.encoders",
    apart=("base", "catalog", "files", "load", "networks", "shape"),
    base=EncoderArchitecture,
)


def architecture_of(checkpoint: EncoderCheckpoint) -> EncoderArchitecture:
    """The architecture of an encoder. Raises CheckpointError for one that is not installed."""
    if checkpoint.family not in ARCHITECTURES:
        raise CheckpointError(
            f"'architecture' has family {checkpoint.architecture.get('family')!r}, there are "
            f"{list(ARCHITECTURES.names())!r}: install the package that brings it"
        )
    return ARCHITECTURES.load(checkpoint.family)


def spaces_of(checkpoint: EncoderCheckpoint) -> dict[str, tuple[int, ...]]:
    """The spaces into which an encoder encodes, with the shape of a row's code.

    Raises CheckpointError for an architecture that is not installed or lacks something.
    """
    architecture = architecture_of(checkpoint)
    try:
        return dict(architecture.spaces(checkpoint.architecture))
    except (LookupError, TypeError, ValueError) as e:
        raise CheckpointError(
            f"'architecture' {checkpoint.architecture!r} does not tell the shapes of the codes "
            f"({e!r}): write it again with generators.encoders.save_encoder"
        ) from e


def recognised(contents: Any) -> EncoderCheckpoint:
    """The encoder that another project's file holds, in the words of the one that claims it.

    Raises CheckpointError where no architecture claims it, or two do.
    """
    if (found := claimed(contents)) is not None:
        return found
    raise CheckpointError(
        f"file holds no encoder of the architectures {list(ARCHITECTURES.names())!r}: "
        f"{told(contents)}"
    )


def claimed(contents: Any) -> EncoderCheckpoint | None:
    """`recognised`, but None where the file holds no encoder, nor nearly one."""
    claims: dict[str, EncoderCheckpoint] = {}
    refusals: list[CheckpointError] = []
    for name in ARCHITECTURES.names():
        try:
            with ARCHITECTURES.blamed(name, "recognise"):
                found = ARCHITECTURES.load(name).recognise(contents)
        except CheckpointError as e:
            refusals.append(e)
        else:
            if found is not None:
                claims[name] = found
    if len(claims) > 1:
        raise CheckpointError(f"file is claimed by the encoder architectures {list(claims)!r}")
    if claims:
        return next(iter(claims.values()))
    if refusals:
        raise refusals[0]
    return None
