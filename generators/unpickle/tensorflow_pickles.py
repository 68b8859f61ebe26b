"""Networks in pickles of NVIDIA's TensorFlow code, read as data: no TensorFlow, nothing executed.

Progressive GAN pickled ``tfutil.Network`` (version 2), StyleGAN ``dnnlib.tflib.network.Network``
(version 3), StyleGAN2 and StyleGAN2-ADA the same class (version 4 and 5), as a rule three of them:
(G, D, Gs), the last with the moving average of G's variables. Unpickled by the official code, each
runs the source text that it carries (``build_module_src``); here it stays text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from generators.unpickle.interpreter import Global, Inert
from generators.unpickle.plain import plain
from schemas.errors import CheckpointError

MAX_NETWORKS = 64
MAX_DEPTH = 4
MAX_ENTRIES = 10_000
_AGAIN = "the file is damaged; download it again"


@dataclass(frozen=True, eq=False)
class TensorflowNetwork:
    """A network of NVIDIA's TensorFlow code.

    module, version : of the class that was pickled: "tfutil" and 2, or "dnnlib.tflib.network" and
        3 or more.
    name : such as "Gs". builder : the function that builds it, such as "G_paper", "G_style" or
        "G_main".
    arguments : of the builder, where they are not its defaults; dicts, lists, numbers and text.
    variables : of this network alone, by name as in the file, such as "4x4/Conv/weight". Reading
        one raises CheckpointError where it is no array.
    components : networks inside it by name, such as "mapping" and "synthesis".
    source : text of the builder's module, never run; empty where the file has none.
    """

    module: str
    version: int
    name: str
    builder: str
    arguments: Mapping[str, Any]
    variables: Mapping[str, np.ndarray]
    components: Mapping[str, TensorflowNetwork]
    source: str = ""

    def ignores(self, argument: str) -> bool:
        """Whether the builder, which takes arguments that it does not name, has no use for one: it
        occurs nowhere in its source. False where the file has no source."""
        return bool(self.source) and not re.search(rf"\b{re.escape(argument)}\b", self.source)


def tensorflow_networks(contents: Any) -> tuple[TensorflowNetwork, ...]:
    """The TensorFlow networks in a file, in its order; () where it holds none.

    Raises CheckpointError where one is damaged.
    """
    if isinstance(contents, Mapping):
        items = list(contents.values())
    else:
        items = list(contents) if isinstance(contents, tuple | list) else [contents]
    left = [MAX_NETWORKS]
    return tuple(_network(item, left, 0) for item in items if _is_network(item))


def described(networks: Sequence[TensorflowNetwork]) -> str:
    """What the networks are, for people."""
    builders = ", ".join(repr(network.builder[:60]) for network in networks)
    of = sorted({f"{network.module[:60]} version {network.version!r}" for network in networks})
    return f"pickled TensorFlow networks, built by {builders} ({', '.join(of)})"


class _Variables(Mapping[str, np.ndarray]):
    """Variables by name, made into arrays when asked for: a file holds three times what is used."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> np.ndarray:
        found = np.asarray(_data(self._stored[name], f"variable {name[:80]!r}"))
        if found.dtype.kind not in "fiub":
            raise CheckpointError(
                f"variable {name[:80]!r} holds {found.dtype.name!r}, expected numbers: {_AGAIN}"
            )
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _class_of(item: Any) -> Global | None:
    """The class of a pickled object, also of one written by protocol 0 or 1."""
    if not isinstance(item, Inert):
        return None
    function = item.function
    if (function.module, function.name) == ("copyreg", "_reconstructor"):
        return item.args[0] if item.args and isinstance(item.args[0], Global) else None
    return function


def _is_network(item: Any) -> bool:
    found = _class_of(item)
    if found is None or found.name != "Network":
        return False
    return found.module == "tfutil" or "tflib" in found.module.split(".")


def _network(item: Inert, left: list[int], depth: int) -> TensorflowNetwork:
    """One network and those inside it. left : how many more the file may hold."""
    left[0] -= 1
    if left[0] < 0 or depth > MAX_DEPTH:
        raise CheckpointError(
            f"file holds more than {MAX_NETWORKS!r} TensorFlow networks, or some nested deeper "
            f"than {MAX_DEPTH!r} levels: {_AGAIN}"
        )
    found = _class_of(item)
    state = item.state
    if found is None or not isinstance(state, dict):
        raise CheckpointError(f"a TensorFlow network in the file has no state: {_AGAIN}")
    version, arguments = state.get("version"), state.get("static_kwargs", {})
    components = state.get("components", {})
    if not isinstance(version, int) or isinstance(version, bool):
        raise CheckpointError(
            f"a TensorFlow network has version {_shown(version)}, expected a number: {_AGAIN}"
        )
    for name, part in (("static_kwargs", arguments), ("components", components)):
        if not isinstance(_mapping(part), dict):
            raise CheckpointError(
                f"{name!r} of a TensorFlow network is {_shown(part)}, expected a dict: {_AGAIN}"
            )
    inner = _mapping(components)
    if not all(isinstance(name, str) and _is_network(part) for name, part in inner.items()):
        raise CheckpointError(
            f"'components' of a TensorFlow network hold something else than networks: {_AGAIN}"
        )
    source = state.get("build_module_src")
    return TensorflowNetwork(
        module=found.module,
        version=version,
        name=_text(state, "name"),
        builder=_text(state, "build_func_name"),
        arguments={
            str(key): _data(value, f"argument {str(key)[:60]!r}")
            for key, value in _mapping(arguments).items()
        },
        variables=_variables(state.get("variables")),
        components={name: _network(part, left, depth + 1) for name, part in inner.items()},
        source=source if isinstance(source, str) else "",
    )


def _mapping(value: Any) -> Any:
    """The items of a subclass of dict, such as an older EasyDict; anything else as it is."""
    return value.mapping if isinstance(value, Inert) and value.state is None else value


def _text(state: Mapping[Any, Any], name: str) -> str:
    value = state.get(name)
    if not isinstance(value, str):
        raise CheckpointError(
            f"{name!r} of a TensorFlow network is {_shown(value)}, expected text: {_AGAIN}"
        )
    return value


def _data(value: Any, what: str) -> Any:
    """A value as plain data; a class or function by its dotted name.

    Entries that hold one another are counted as often as they are reached: twenty lists of ten
    references each would otherwise be unfolded into more than memory holds.
    """
    if isinstance(value, Global):
        return value.path
    waiting, reached = [value], 0
    while waiting:
        item = waiting.pop()
        reached += 1
        if reached > MAX_ENTRIES:
            raise CheckpointError(
                f"{what} of a TensorFlow network holds more than {MAX_ENTRIES!r} entries: {_AGAIN}"
            )
        if isinstance(item, Inert):
            waiting += [item.args, item.state, item.items, item.mapping]
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item
    try:
        return plain(value)
    except (CheckpointError, ValueError) as e:
        raise CheckpointError(f"{what} of a TensorFlow network cannot be read: {e}") from e


def _variables(pairs: Any) -> _Variables:
    if not isinstance(pairs, list | tuple):
        raise CheckpointError(
            f"'variables' of a TensorFlow network are {_shown(pairs)}, expected a list: {_AGAIN}"
        )
    stored: dict[str, Any] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise CheckpointError(
                f"a variable of a TensorFlow network is no pair of name and value: {_AGAIN}"
            )
        if pair[0] in stored:
            raise CheckpointError(f"variable {pair[0][:80]!r} is in the file twice: {_AGAIN}")
        stored[pair[0]] = pair[1]
    return _Variables(stored)


def _shown(value: Any) -> str:
    return repr(value)[:60] if isinstance(value, str | int | float | None) else type(value).__name__
