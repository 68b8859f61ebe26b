"""BigGAN generators in files to our architecture and tensor names, without torch.

Read: folders and state dicts of Hugging Face's ``pytorch-pretrained-BigGAN``, and state dicts of
Brock's BigGAN-PyTorch, under any prefix. The same model has the same fingerprint whatever file it
came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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
    expected = config.tensor_shapes()
    missing = [name for name in expected if name not in tensors]
    unknown = sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise CheckpointError(
            f"tensors do not fit a BigGAN of {len(config.blocks)} blocks: missing {missing[:4]!r} "
            f"({len(missing)}), not known {unknown[:4]!r} ({len(unknown)})"
        )
    result: dict[str, np.ndarray] = {}
    for name, shape in expected.items():
        value = np.asarray(tensors[name])
        if value.shape != shape or value.dtype.kind != "f":
            raise CheckpointError(
                f"tensor {name!r} has shape {value.shape!r} of {value.dtype.name!r}, expected "
                f"{shape!r} of numbers: it does not fit the other tensors"
            )
        single = np.ascontiguousarray(value, np.float32).reshape(shape)
        if not np.isfinite(single).all():
            raise CheckpointError(
                f"tensor {name!r} holds values that are not finite: the training diverged; use an "
                "earlier checkpoint"
            )
        if name.endswith(".var") and (single < 0).any():
            raise CheckpointError(
                f"tensor {name!r} holds the variance {float(single.min())!r}, below 0: the file is "
                "damaged; use an earlier checkpoint"
            )
        result[name] = single
    return Checkpoint(config.architecture(), result, metadata=metadata)
