"""The generator among the entries of a training checkpoint: which one, and under which prefix.

Trainers save more than the averaged generator, and wrappers prefix its names: ``module.``
(DataParallel), ``decoder.`` (pSp, e4e), ``G_ema.`` (Lightning), ``_orig_mod.`` (torch.compile).
A generator is recognised by the names of its tensors, whatever they are prefixed with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from generators.unpickle.interpreter import Inert
from generators.unpickle.plain import plain
from generators.unpickle.torch_files import TensorRecord
from schemas.errors import CheckpointError

#: Tensors that every generator of a layout has, and no other network.
MARKERS = (
    "synthesis.b4.const",
    "synthesis.b4.conv1.weight",
    "synthesis.input.weight",
    "input.input",
)
_AVERAGE = re.compile(r"(^|[._])(ema|smooth|gs)([._]|$)")
_DEPTH = 4
#: Where trainers keep the mean of w of a generator that has none itself.
_MEANS = ("latent_avg", "mean_latent")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A generator in a file.

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


def find_generator(contents: Any) -> Candidate:
    """The one generator in the contents of a file; of several, the only moving average.

    Raises CheckpointError when there is none, or no telling which.
    """
    if isinstance(contents, Inert) and not contents.mapping:
        return Candidate(contents)
    contents = contents.mapping if isinstance(contents, Inert) else contents
    if not isinstance(contents, dict):
        raise CheckpointError(
            f"file holds a {type(contents).__name__!r}, expected a network, a dict with 'G_ema' "
            "or 'g_ema', or a state dict"
        )
    found = list(_candidates(contents, set()))
    chosen = [candidate for candidate in found if candidate.averaged] or found
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        names = [candidate.where for candidate in chosen]
        raise CheckpointError(
            f"file holds {len(chosen)} generators: {'; '.join(names)}: save one of them alone"
        )
    for key in ("G_ema", "g_ema"):
        if isinstance(contents.get(key), Inert):
            return Candidate(contents[key], (key,))
        if contents.get(key) is not None:
            raise CheckpointError(
                f"entry {key!r} is neither a network nor a state dict of tensors of a StyleGAN2"
            )
    keys = [str(key)[:40] for key in list(contents)[:8]]
    raise CheckpointError(
        f"file has entries {keys!r}, none of them a StyleGAN2 generator: expected 'G_ema' "
        "(official), 'g_ema' (rosinality), or a state dict with names such as "
        "'mapping.fc0.weight'; what is not recognised is read from ONNX or torch.export"
    )


def _candidates(
    node: Mapping[Any, Any], seen: set[int], keys: tuple[str, ...] = (), outer: Any = None
) -> Iterator[Candidate]:
    """seen : ids of entries looked at; a file may hold one under several names, or in itself."""
    names = [name for name in node if isinstance(name, str)]
    prefixes = {
        name.removesuffix(marker)
        for name in names
        for marker in MARKERS
        if name == marker or name.endswith("." + marker)
    }
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
            yield from _candidates(value, seen, (*keys, name[:40]), outer)
        elif isinstance(value, Inert) and "synthesis" in unwrapped(value)[1].get("_modules", {}):
            yield Candidate(value, (*keys, name[:40]))


def _mean_in(node: Mapping[Any, Any], prefix: str, outer: Any) -> Any:
    """The mean of w beside the tensors of a prefix, else the one further out."""
    found = (node.get(prefix + key) for key in _MEANS)
    return next((mean for mean in found if mean is not None), outer)


def module_state(module: Any) -> tuple[str, Mapping[str, Any]] | None:
    """Class name and ``__dict__`` of a pickled module, persistent or plain; else None."""
    if not isinstance(module, Inert):
        return None
    state, name = module.state, str(module.function.name)
    if name == "_reconstruct_persistent_obj" and len(module.args) == 1:
        meta = module.args[0]
        if not isinstance(meta, dict) or meta.get("type") != "class":
            return None
        state, name = meta.get("state"), str(meta.get("class_name"))
    if not isinstance(state, dict) or not isinstance(state.get("_modules"), dict):
        return None
    if not all(isinstance(state.get(k) or {}, dict) for k in ("_parameters", "_buffers")):
        return None
    return name[:80], state


def unwrapped(module: Any) -> tuple[str, Mapping[str, Any]]:
    """`module_state` of the network inside a wrapper (DataParallel, torch.compile), or of itself;
    empty for what is no module."""
    found = module_state(module)
    for _ in range(_DEPTH):
        if found is None:
            return "", {}
        inner = [v for k, v in found[1]["_modules"].items() if k in ("module", "_orig_mod")]
        if len(inner) != 1 or len(found[1]["_modules"]) != 1:
            return found
        found = module_state(inner[0])
    return found or ("", {})


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
