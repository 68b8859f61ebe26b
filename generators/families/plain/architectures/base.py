"""What a named architecture says of itself, and how tensors are told by name and shape."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
#: Leaves of a batch normalisation; the count of batches changes no picture.
NORM = ("weight", "bias", "running_mean", "running_var")
#: Channels of a picture that can be drawn: grey and RGB.
CHANNELS = (1, 3)


@dataclass(frozen=True)
class Found:
    """A network of one architecture among the tensors of a file.

    prefix : what stands before all of its names in the file.
    names : our name of a tensor -> name in the file; those left out change no picture.
    shape : of a code. size : (height, width) of the images. channels : 1 or 3.
    """

    prefix: str
    names: Mapping[str, str]
    shape: tuple[int, ...]
    size: tuple[int, int]
    channels: int


@dataclass(frozen=True)
class Architecture:
    """A kind of network whose sizes its tensors tell.

    name : in a declaration. about : where it comes from, a sentence.
    find : the network among tensors of these names and shapes; None where there is none.
    draw : images (n, channels, height, width) of tensors under our names and codes (n, *shape).
    prior : of the codes, where nobody says. log_variance : whether its encoder gives one.
    """

    name: str
    about: str
    find: Callable[[Shapes], Found | None]
    draw: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    prior: str = "normal"
    log_variance: bool = False


def prefix_of(shapes: Shapes, anchor: str) -> str | None:
    """What stands before the one name that ends in `anchor`; None where none or several do."""
    found = [name.removesuffix(anchor) for name in shapes if f".{name}".endswith(f".{anchor}")]
    return found[0] if len(found) == 1 else None


def numbered(shapes: Shapes, prefix: str) -> list[int]:
    """The numbers that follow the prefix, as of the parts of a ``Sequential``, in order."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return sorted({int(m[1]) for name in shapes if (m := pattern.match(name))})


def layer(shapes: Shapes, at: str, to: str, leaves: Sequence[str]) -> dict[str, str]:
    """Our name -> name in the file, of those of the leaves that are there."""
    return {f"{to}.{leaf}": f"{at}.{leaf}" for leaf in leaves if f"{at}.{leaf}" in shapes}


def is_norm(shapes: Shapes, at: str, channels: int) -> bool:
    """Whether a batch normalisation of so many channels stands there, with all of its numbers."""
    return all(shapes.get(f"{at}.{leaf}") == (channels,) for leaf in NORM)


def normalised(tensors: Mapping[str, Tensor], x: Tensor, at: str) -> Tensor:
    """Batch normalisation by the stored moments, never by those of the batch."""
    import torch.nn.functional as F

    weight, bias, mean, variance = (tensors[f"{at}.{leaf}"] for leaf in NORM)
    return F.batch_norm(x, mean, variance, weight, bias, training=False)
