"""Inversion by changes of the generator's weights (HyperStyle, Alaluf et al. 2022).

The code is the encoder's. Each pass of the hypernetwork is shown the image beside what the code
draws with the changes so far, and adds to them. They are kept with the code as weights of its own
(`generators.tuned`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generators.hypernetwork.file import HypernetworkFile, read_hypernetwork
from generators.protocols import Code, ModelFacts
from generators.tuned import WEIGHTS, length, packed
from schemas.errors import UsageError
from schemas.sections.inversion.hyperstyle import HyperstyleSpec
from transforms.inversion.encoding import encoded, encoded_spaces
from transforms.inversion.method import DESCENT, Cost, Images, InversionMethod, Inverted, render

if TYPE_CHECKING:
    from torch import Tensor

    from generators.hypernetwork.network import Hypernetwork


#: Bytes of weights of the rows that are found at once; of 1024 px a row's are about 120 MB.
AT_ONCE = 1 << 27


class Hyperstyle(InversionMethod):
    """The encoder's code with weights of each row's own."""

    section = HyperstyleSpec

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        return encoded_spaces(facts)

    def companions(self, settings: Any, facts: ModelFacts) -> Mapping[str, tuple[int, ...]]:
        """The weights, in the full form. Raises UsageError without a hypernetwork, CheckpointError
        for one of another generator."""
        own = _own(facts, settings.space)
        _file(_path(settings), _stamp(settings)).check(own, _path(settings))
        return {WEIGHTS: (length(own),)}

    def cost(self, settings: Any) -> Cost:
        passes = settings.passes
        return Cost(encoder_passes=1 + passes, forward_passes=1 + passes)

    def qualities(self, settings: Any) -> Sequence[str]:
        """Mean squared error, of pixels in [-1, 1], of what the code draws without changes and of
        what it draws with them, and passes."""
        return DESCENT

    def invert(self, images: Images) -> Inverted:
        import torch

        facts, settings = images.generator.facts, images.settings
        network = _network(_path(settings), _stamp(settings), _Own(_own(facts, settings.space)))
        network.to(images.pixels.device)
        codes = Code(settings.space, encoded(images))
        many = max(1, AT_ONCE // (4 * self.companions(settings, facts)[WEIGHTS][0]))
        parts = [slice(first, first + many) for first in range(0, len(codes), many)]
        found = [_found(images[part], codes[part], network) for part in parts]
        weights, start, end = (torch.cat([part[k] for part in found]) for k in range(3))
        return Inverted(
            Code(codes.space, codes.main, {WEIGHTS: weights}),
            {"loss_start": start, "loss_end": end, "steps": torch.full_like(end, settings.passes)},
        )


def _found(images: Images, code: Code, network: Hypernetwork) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of some rows, (n, length), and the errors at the start and at the end, (n,)."""
    import torch

    from generators.similarity.measures import mean_squared

    generator, noise = images.generator, images.settings.noise_mode
    companion = generator.facts.space(code.space).companions[WEIGHTS]
    drawn = render(generator, code, noise)
    start = mean_squared(drawn, images.pixels)
    changes: dict[str, Tensor] = {}
    for _ in range(images.settings.passes):
        with torch.no_grad():
            for name, more in network(images.pixels, drawn).items():
                changes[name] = changes[name] + more if name in changes else more
            deltas = {name: _held(generator, name) * change for name, change in changes.items()}
        code = Code(code.space, code.main, {WEIGHTS: packed(companion, deltas)})
        drawn = render(generator, code, noise)
    return code.companions[WEIGHTS], start, mean_squared(drawn, images.pixels)


def _held(generator: Any, name: str) -> Tensor:
    """A weight of the generator."""
    place, key = getattr(generator, "generator", generator).held(name)
    held: Tensor = place[key]
    return held.detach()


def _own(facts: ModelFacts, space: str) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the weights that a row may have changes of."""
    companion = facts.space(space).companions.get(WEIGHTS)
    if companion is None:
        raise UsageError(
            f"'invert.method' is 'hyperstyle', and codes of {space!r} of this {facts.family} "
            "generator take no weights of their own: use a StyleGAN2"
        )
    return companion.tensors


def _path(settings: Any) -> str:
    if settings.hypernetwork is None:
        raise UsageError(
            "'invert.hypernetwork' is missing, and method 'hyperstyle' needs it: give a checkpoint "
            "of HyperStyle, and the encoder into w that belongs to it under 'encoder'"
        )
    return str(settings.hypernetwork)


def _stamp(settings: Any) -> tuple[int, int]:
    """What changes when the file does."""
    path = Path(_path(settings))
    if not path.is_file():
        return 0, 0  # told by the reader
    told = path.stat()
    return told.st_mtime_ns, told.st_size


class _Own(dict[str, tuple[int, ...]]):
    """Shapes of weights, as the key of a cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


@functools.lru_cache(maxsize=1)
def _network(path: str, stamp: tuple[int, int], own: _Own) -> Hypernetwork:
    from generators.hypernetwork.network import built

    return built(_file(path, stamp), own, path)


@functools.lru_cache(maxsize=1)
def _file(path: str, stamp: tuple[int, int]) -> HypernetworkFile:
    return read_hypernetwork(path)


PLUGIN = Hyperstyle()
