"""Pickled torch modules as data: class names, attributes and tensors of a network and its parts.

A module is an `Inert` record of its class with its ``__dict__`` as state, either as torch
pickles it or wrapped by NVIDIA's ``torch_utils/persistence.py``, which stores the class's source
text (never run here) and the ``__dict__`` of the object in one argument.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from generators.unpickle.interpreter import Inert
from generators.unpickle.torch_files import TensorRecord
from schemas.errors import CheckpointError

MAX_DEPTH = 16
MAX_MODULES = 10_000
_WRAPPERS = 4
#: What runs beside a module's ``forward`` and may change what it computes.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
#: Private attributes of torch's modules and of the official persistent classes.
_PRIVATE = frozenset(
    "_parameters _buffers _non_persistent_buffers_set _modules _backend _version "
    "_backward_hooks _backward_pre_hooks _is_full_backward_hook _forward_hooks _forward_pre_hooks "
    "_forward_hooks_with_kwargs _forward_hooks_always_called _forward_pre_hooks_with_kwargs "
    "_state_dict_hooks _state_dict_pre_hooks _load_state_dict_pre_hooks "
    "_load_state_dict_post_hooks _compiled_call_impl _reversed_padding_repeated_twice "
    "_init_args _init_kwargs".split()
)
_STATE_DICT = (
    "if it changes no image, save the network's state_dict() with torch.save and give that file"
)


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
    for _ in range(_WRAPPERS):
        if found is None:
            return "", {}
        inner = [v for k, v in found[1]["_modules"].items() if k in ("module", "_orig_mod")]
        if len(inner) != 1 or len(found[1]["_modules"]) != 1:
            return found
        found = module_state(inner[0])
    return found or ("", {})


def tensor_in(module: Any, name: str) -> TensorRecord | None:
    """The parameter or buffer ``name``, such as "mapping.fc0.weight", of a pickled network inside
    any wrapper; None where it has none, or is no module."""
    _, state = unwrapped(module)
    *parts, last = name.split(".")
    for part in parts:
        _, state = module_state((state.get("_modules") or {}).get(part)) or ("", {})
    for kind in ("_parameters", "_buffers"):
        found = (state.get(kind) or {}).get(last)
        if isinstance(found, TensorRecord):
            return found
    return None


def walk(module: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(path, class name, ``__dict__``) of the network inside any wrapper, whose path is "", and of
    the modules below it, in their order.

    Raises CheckpointError for what is no module, and for more or deeper ones than any network has.
    """
    class_name, state = unwrapped(module)
    waiting = [("", class_name, state, 0)]
    count = 0
    while waiting:
        path, class_name, state, depth = waiting.pop()
        count += 1
        if not state:
            raise CheckpointError("a network is not stored as a module: the file is damaged or old")
        if depth > MAX_DEPTH:
            raise CheckpointError(f"modules nest deeper than {MAX_DEPTH} levels")
        if count > MAX_MODULES:
            raise CheckpointError(
                f"network has more than {MAX_MODULES} modules: the file is damaged"
            )
        yield path, class_name, state
        for name, child in reversed(state["_modules"].items()):
            if child is not None:
                found = module_state(child) or ("", {})
                waiting.append((f"{path}.{name}".lstrip("."), *found, depth + 1))


def check_class(path: str, class_name: str, known: Collection[str]) -> None:
    """Raise CheckpointError unless a module is of one of the classes that stand at its place: what
    another one computes of the same tensors is not known."""
    if class_name not in known:
        raise CheckpointError(
            f"{called(path)} is of class {class_name!r}, expected one of {sorted(known)!r} of the "
            f"official code: if it computes the same, save the network's state_dict() with "
            "torch.save and give that file"
        )


def check_private(path: str, state: Mapping[Any, Any]) -> None:
    """Raise CheckpointError where a module has hooks, which may change what it computes, or an
    attribute with a private name that neither torch nor the official code gives."""
    for name, value in state.items():
        if not isinstance(name, str) or (name.startswith("_") and name not in _PRIVATE):
            shown = f" {str(value)[:60]}" if isinstance(value, str | int | float) else ""
            raise CheckpointError(
                f"{called(path)} has {str(name)[:60]!r}{shown}, which neither torch nor the "
                f"official code has and which may change what it draws: {_STATE_DICT}"
            )
        if name in _HOOKS and value:
            raise CheckpointError(
                f"{called(path)} has hooks in {name!r}, which may change what it draws: "
                f"{_STATE_DICT}"
            )


def called(path: str) -> str:
    """A module, in messages."""
    return f"module {path[:80]!r}" if path else "the network"
