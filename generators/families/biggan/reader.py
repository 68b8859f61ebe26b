"""BigGAN generators in files to our architecture and tensor names, without torch.

Read: folders and state dicts of Hugging Face's ``pytorch-pretrained-BigGAN``, and state dicts of
Brock's BigGAN-PyTorch, under any prefix. The same model has the same fingerprint whatever file it
came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.checked_tensors import checked_tensors
from generators.families.base import Checkpoint, Configured
from generators.families.biggan import brock, hugging_face
from generators.families.biggan.config import BigGANConfig
from generators.unpickle.find_network import arrays_of, find_network
from generators.unpickle.interpreter import Inert
from schemas.errors import CheckpointError


def read(contents: Any) -> Checkpoint | None:
    """The one generator in a file's contents, None where there is none."""
    said = None
    if isinstance(contents, Configured):
        said, contents = contents.config, contents.contents
    found = find_network(contents, (hugging_face.MARKER, *brock.MARKERS))
    if found is None:
        return None
    if isinstance(found.state, Inert):
        raise CheckpointError(
            "a BigGAN is stored as a whole module: save its state_dict() with torch.save and give "
            "that file"
        )
    tensors = arrays_of(found)
    if hugging_face.MARKER in tensors:
        source, read = "pytorch-pretrained-BigGAN", hugging_face.read_hugging_face(tensors, said)
    else:
        source, read = "BigGAN-PyTorch", brock.read_brock(tensors)
    config, converted, assumed = read
    facts = {"source": source, "assumed": assumed}
    return checked(config, converted, {**facts, "entry": found.where} if found.where else facts)


def checked(
    config: BigGANConfig, tensors: Mapping[str, np.ndarray], metadata: dict[str, Any]
) -> Checkpoint:
    """A checkpoint of these tensors: names, types, shapes and values against the configuration."""
    what = f"a BigGAN of {len(config.blocks)} blocks"
    result = checked_tensors(tensors, config.tensor_shapes(), what)
    for name, value in result.items():
        if name.endswith(".var") and (value < 0).any():
            raise CheckpointError(
                f"tensor {name!r} holds the variance {float(value.min())!r}, below 0: the file is "
                "damaged; use an earlier checkpoint"
            )
    return Checkpoint(config.architecture(), result, metadata=metadata)
