"""What `plan` tells of generator and encoder."""

from __future__ import annotations

import numpy as np

import generators
from generators.encoders.files import encoder_path, generator_beside
from generators.families.base import Checkpoint
from pipelines.folder.store_identity import StoreIdentity


def model_notes(identity: StoreIdentity) -> list[str]:
    """What their files do not state, and whether the encoder was trained with another generator."""
    notes = [f"generator: {k} {text}" for k, text in identity.facts.assumed.items()]
    notes += [f"encoder: {k} {text}" for k, text in identity.encoder_assumed.items()]
    uri = identity.encoder_uri
    if uri is None:
        return notes
    if encoder_path(uri) == generators.resolve(identity.generator_uri):
        return notes
    beside = generator_beside(uri)
    if beside is not None and not _draw_alike(beside, generators.read(identity.generator_uri)):
        notes.append(
            "encoder: the generator in its file, with which it was trained, draws other images "
            f"than yours: set 'generator' to {uri!r}, or use an encoder of your generator"
        )
    return notes


def _draw_alike(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two generators draw the same of the same w: mappings and means do not count."""

    def drawing(found: Checkpoint) -> dict[str, np.ndarray]:
        return {k: v for k, v in found.tensors.items() if not k.startswith("mapping.")}

    a, b = drawing(one), drawing(other)
    return a.keys() == b.keys() and all(np.array_equal(v, b[name]) for name, v in a.items())
