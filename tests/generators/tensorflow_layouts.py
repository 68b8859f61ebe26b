"""Pickles as NVIDIA's TensorFlow code writes them, of dicts of arrays."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.unpickle.writer import Call, Emitter, Name, numpy_call

TFUTIL = ("tfutil", 2)
STYLEGAN = ("dnnlib.tflib.network", 3)
STYLEGAN2 = ("dnnlib.tflib.network", 4)
ADA = ("dnnlib.tflib.network", 5)
#: Text where the source of the builder is: whatever ran it would not get past its first line.
SOURCE = "raise SystemExit('the source text in a file was run')\n"


def tensorflow_network(
    kind: tuple[str, int],
    builder: str,
    arguments: Mapping[str, Any],
    variables: Mapping[str, Any],
    components: Mapping[str, Any] | None = None,
    name: str = "Gs",
    source: str = SOURCE,
) -> Call:
    """A network for `tensorflow_pickle`. kind : module and version of its class. variables :
    arrays, or numbers, which are written as numpy's float32 scalars, as ``lod`` is."""
    state: dict[str, Any] = {
        "version": kind[1],
        "name": name,
        "static_kwargs": dict(arguments),
        "build_module_src": source,
        "build_func_name": builder,
        "variables": [(key, _value(value)) for key, value in variables.items()],
    }
    if kind != TFUTIL:
        state["components"] = dict(components or {})
    return Call(kind[0], "Network", state=state)


def tensorflow_pickle(generator: Call, *others: Call) -> bytes:
    """The bytes of (G, D, Gs): of others, and of a generator, the average, in the last place."""
    return Emitter().dumps((*others, generator))


def _value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return numpy_call(value.astype(np.float32))
    if isinstance(value, float):
        kind = Call("numpy", "dtype", ("f4", 0, 1), state=(3, "<", None, None, None, -1, -1, 0))
        scalar = np.float32(value).tobytes()
        return Call("numpy.core.multiarray", "scalar", (kind, scalar))
    return value


class Python2(Emitter):
    """Protocol 2 as Python 2 writes it: text and bytes are one kind of string."""

    def __init__(self) -> None:
        super().__init__(protocol=2)

    def _text(self, value: str) -> None:
        self._string(value.encode("latin1"))

    def put(self, value: Any) -> None:
        """Append the opcodes of a value."""
        if isinstance(value, bytes):
            self._string(value)
        elif isinstance(value, Call) and value.name == "Network":
            made = (Name(value.module, value.name), Name("__builtin__", "object"), None)
            super().put(Call("copy_reg", "_reconstructor", made, state=value.state))
        else:
            super().put(value)

    def _string(self, value: bytes) -> None:
        self.out += b"T" + struct.pack("<i", len(value)) + value
