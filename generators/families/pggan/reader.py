"""Progressive GAN generators in files to our architecture and tensor names, without torch.

The same model has the same fingerprint whatever file it came from.
"""

from __future__ import annotations

from typing import Any

from generators.families.base import Checkpoint
from generators.families.pggan import gan_zoo, genforce, tensorflow
from generators.families.pggan.layers import checkpoint_of


def read(contents: Any) -> Checkpoint | None:
    """The one generator in a file's contents; None where it is none of this family.

    Raises CheckpointError where it nearly is one.
    """
    for layout in (tensorflow, genforce, gan_zoo):
        source = layout.find(contents)
        if source is not None:
            return checkpoint_of(source)
    return None
