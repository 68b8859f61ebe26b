"""Pickles of NVIDIA's TensorFlow code, told apart: which of them the official converter reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from generators.unpickle.interpreter import Inert
from schemas.errors import CheckpointError

#: The first version of pickled networks that ``legacy.py`` converts: StyleGAN2's.
CONVERTIBLE = 4


def refuse_tensorflow(contents: Any) -> None:
    """Raise CheckpointError, with what to do, where a pickle holds TensorFlow networks.

    Progressive GAN wrote class ``tfutil.Network`` with version 2, StyleGAN
    ``dnnlib.tflib.network.Network`` with version 3, StyleGAN2 and StyleGAN2-ADA version 4 and up.
    """
    found = list(_networks(contents))
    if not found:
        return
    states = [item.state for item in found if isinstance(item.state, dict)]
    versions = [s["version"] for s in states if isinstance(s.get("version"), int)]
    builders = {str(s.get("build_func_name", ""))[:40] for s in states}
    if any(item.function.module == "tfutil" for item in found):
        kind = "Progressive GAN"
    elif "G_style" in builders or (versions and min(versions) < CONVERTIBLE):
        kind = "StyleGAN (the first one)"
    else:
        raise CheckpointError(
            "file is a TensorFlow pickle of StyleGAN2 (G, D, Gs): convert it with 'legacy.py' of "
            "the official PyTorch code (stylegan2-ada-pytorch) and give the .pkl that it writes"
        )
    raise CheckpointError(
        f"file is a TensorFlow pickle of {kind}, which is another architecture, and the official "
        "converter to PyTorch does not read it either: give a StyleGAN2 generator"
    )


def _networks(contents: Any) -> Iterator[Inert]:
    if isinstance(contents, dict):
        items = list(contents.values())
    else:
        items = list(contents) if isinstance(contents, tuple | list) else [contents]
    for item in items:
        if isinstance(item, Inert):
            module = item.function.module
            if module == "tfutil" or "tflib" in module:
                yield item
