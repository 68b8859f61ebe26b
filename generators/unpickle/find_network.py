"""The network among the entries of a training checkpoint: which one, and under which prefix.

Trainers save more than the averaged generator, and wrappers prefix its names: ``module.``
(DataParallel), ``decoder.`` (pSp, e4e), ``G_ema.`` (Lightning), ``_orig_mod.`` (torch.compile).
A network is recognised by the names of its tensors, whatever they are prefixed with; a family gives
those that each of its networks has, and no other network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from generators.unpickle.interpreter import Inert
from generators.unpickle.plain import plain
from generators.unpickle.tensorflow_pickles import described, tensorflow_networks
from generators.unpickle.torch_files import TensorRecord
from generators.unpickle.torch_modules import tensor_in
from schemas.errors import CheckpointError

_AVERAGE = re.compile(r"(^|[._])(ema|smooth|gs|g_running)([._]|$)")
_DEPTH = 4
#: Where trainers keep the mean of w of a generator that has none itself.
_MEANS = ("latent_avg", "mean_latent")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network in a file.

    state : its tensors by name without the prefix, or the pickled module.
    keys : entries that lead to it. prefix : what stood before the names. latent_avg : mean of w
        stored beside it, None where there is none.
    """

    state: Any
    keys: tuple[str, ...] = ()
    prefix: str = ""
    latent_avg: Any = None

    @property
    def where(self) -> str:
        """Entries and prefix, for people; empty where the file holds nothing else."""
        parts = [repr("/".join(self.keys))] if self.keys else []
        if self.prefix:
            parts.append(f"names under {self.prefix!r}, which is taken off")
        return ", ".join(parts)

    @property
    def averaged(self) -> bool:
        """Whether its entry or prefix names it as the moving average of a training."""
        return any(_AVERAGE.search(text.lower()) for text in (*self.keys, self.prefix))


def find_network(contents: Any, markers: Sequence[str]) -> Candidate | None:
    """The one network in the contents of a file that has one of the tensors ``markers``, such as
    "synthesis.b4.const"; of several, the only moving average; None where there is none.

    Raises CheckpointError where there is no telling which.
    """
    if isinstance(contents, Inert) and not contents.mapping:
        return Candidate(contents) if _is_one(contents, markers) else None
    contents = contents.mapping if isinstance(contents, Inert) else contents
    if not isinstance(contents, dict):
        return None
    found = list(_candidates(contents, markers, set()))
    chosen = [candidate for candidate in found if candidate.averaged] or found
    if len(chosen) > 1:
        names = [candidate.where for candidate in chosen]
        raise CheckpointError(
            f"file holds {len(chosen)} generators: {'; '.join(names)}: save one of them alone"
        )
    return chosen[0] if chosen else None


def told(contents: Any) -> str:
    """What a file holds, for the message that no generator was found in it."""
    if networks := tensorflow_networks(contents):
        return f"it holds {described(networks)}"
    contents = contents.mapping if isinstance(contents, Inert) and contents.mapping else contents
    if isinstance(contents, Inert):
        return f"it holds one object of class {contents.function.path!r}"
    if not isinstance(contents, dict):
        return f"it holds a {type(contents).__name__!r}, neither a network nor a state dict"
    for key in ("G_ema", "g_ema"):
        if isinstance(held := contents.get(key), dict) and not any(map(_is_tensor, held.values())):
            return f"its entry {key!r} is neither a network nor a state dict of tensors"
    keys = [str(key)[:40] for key in list(contents)[:8]]
    return (
        f"it has entries {keys!r}, expected a network as 'G_ema' (official) or 'g_ema', or a state "
        "dict with names such as 'mapping.fc0.weight'; what is not recognised is read from ONNX or "
        "torch.export"
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorRecord | np.ndarray)


def _is_one(module: Any, markers: Sequence[str]) -> bool:
    return any(tensor_in(module, marker) is not None for marker in markers)


def _candidates(
    node: Mapping[Any, Any],
    markers: Sequence[str],
    seen: set[int],
    keys: tuple[str, ...] = (),
    outer: Any = None,
) -> Iterator[Candidate]:
    """seen : ids of entries looked at; a file may hold one under several names, or in itself."""
    names = [name for name in node if isinstance(name, str)]
    prefixes = {
        name.removesuffix(marker)
        for name in names
        for marker in markers
        if name == marker or name.endswith("." + marker)
    }
    if prefixes:
        _refuse_unnamed(node)
    outer = _mean_in(node, "", outer)
    for prefix in sorted(prefixes):
        means = {*_MEANS, *(prefix + key for key in _MEANS)}
        state = {
            name.removeprefix(prefix): node[name]
            for name in names
            if name.startswith(prefix) and name not in means
        }
        yield Candidate(state, keys, prefix, _mean_in(node, prefix, outer))
    if len(keys) >= _DEPTH or prefixes:
        return
    for name in names:
        value = node[name]
        if isinstance(value, Inert) and value.mapping:
            value = value.mapping
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            yield from _candidates(value, markers, seen, (*keys, name[:40]), outer)
        elif isinstance(value, Inert) and _is_one(value, markers):
            yield Candidate(value, (*keys, name[:40]))


def _refuse_unnamed(node: Mapping[Any, Any]) -> None:
    for key, value in node.items():
        if not isinstance(key, str) and _is_tensor(value):
            raise CheckpointError(
                f"a state dict holds a tensor under {str(key)[:80]!r} of type "
                f"{type(key).__name__!r}, expected a name: take it out, or give it its name, and "
                "save that with torch.save"
            )


def _mean_in(node: Mapping[Any, Any], prefix: str, outer: Any) -> Any:
    """The mean of w beside the tensors of a prefix, else the one further out."""
    found = (node.get(prefix + key) for key in _MEANS)
    return next((mean for mean in found if mean is not None), outer)


def arrays_of(candidate: Candidate) -> dict[str, np.ndarray]:
    """The candidate's state dict as arrays.

    Raises CheckpointError for an entry that is no tensor, or cannot be read.
    """
    return {name: array_of(value, name) for name, value in candidate.state.items()}


def array_of(value: Any, name: str) -> np.ndarray:
    """One entry of a state dict as an array; the errors of `arrays_of`."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, TensorRecord):
        return value.array(name)
    if isinstance(value, Inert) and value.function.module.partition(".")[0] == "numpy":
        value = plain(value)
        if isinstance(value, np.ndarray):
            return value
    kind = value.function.path if isinstance(value, Inert) else type(value).__name__
    raise CheckpointError(
        f"entry {name[:80]!r} is a {kind!r}, not a plain tensor: save the network's state_dict() "
        "in float32, float16 or bfloat16"
    )
