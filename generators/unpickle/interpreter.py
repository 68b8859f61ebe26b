"""A pickle interpreter that builds data and runs nothing.

Python's own unpickler imports whatever a file names and calls it. This one interprets the opcodes
itself: a named global becomes an inert `Global`, a call becomes an inert `Inert` record of its
arguments, and only the handlers in a table that the caller passes are ever run. Nothing is
imported, no attribute of a real object is read or set, and bytes, opcodes, stack and nesting are
capped (`Limits`). Opcodes are decoded by the standard library's `pickletools`.

Globals of the standard library outside a short list of data types make the file unsafe: no model
file needs them, and every known attack does. Other unknown globals stay inert.
"""

from __future__ import annotations

import io
import pickletools
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import CheckpointError, UnsafeCheckpointError

Handler = Callable[..., Any]

#: Data types of the standard library that honest model files name.
HARMLESS_STDLIB: Mapping[str, frozenset[str]] = {
    "builtins": frozenset(
        "set frozenset dict list tuple int float complex bool str bytes bytearray slice range "
        "object".split()
    ),
    "collections": frozenset({"OrderedDict", "defaultdict", "Counter", "deque"}),
    "argparse": frozenset({"Namespace"}),
    "types": frozenset({"SimpleNamespace"}),
    "copyreg": frozenset({"_reconstructor"}),
    "_codecs": frozenset({"encode"}),
    "datetime": frozenset({"datetime", "date", "timedelta", "timezone"}),
    "pathlib": frozenset({"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"}),
    "functools": frozenset({"partial"}),
    "typing": frozenset({"Any", "Dict", "List", "Optional", "Sequence", "Tuple", "Union"}),
    "decimal": frozenset({"Decimal"}),
    "uuid": frozenset({"UUID"}),
}
_PYTHON2_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
#: Standard library modules under Python 2 names that no longer exist.
_PYTHON2_STDLIB = frozenset(
    {"commands", "popen2", "imp", "urllib2", "httplib", "thread", "cPickle", "new", "sets"}
)


@dataclass(frozen=True)
class Limits:
    """Caps for one file. All are far above what any published checkpoint needs."""

    max_bytes: int = 8 << 30
    max_opcodes: int = 5_000_000
    max_stack: int = 1_000_000
    max_depth: int = 1_000
    max_int_bytes: int = 1_024
    max_entries: int = 100_000


class Budget:
    """Opcodes still allowed for one file, shared by the streams nested in it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.opcodes = 0

    def spend(self) -> None:
        """Count one opcode; raises UnsafeCheckpointError above the cap."""
        self.opcodes += 1
        if self.opcodes > self.limits.max_opcodes:
            raise UnsafeCheckpointError(
                f"pickle has more than {self.limits.max_opcodes} opcodes, far more than a "
                "checkpoint needs: do not trust this file"
            )


class Global:
    """The name of a class or function in a pickle; never imported."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    @property
    def path(self) -> str:
        """``module.name``, shortened for messages."""
        return f"{self.module}.{self.name}"[:120]


@dataclass(eq=False, slots=True)
class Inert:
    """A call or object in a pickle that was recorded instead of made."""

    function: Global
    args: tuple[Any, ...] = ()
    kwargs: dict[Any, Any] = field(default_factory=dict)
    state: Any = None
    items: list[Any] = field(default_factory=list)
    mapping: dict[Any, Any] = field(default_factory=dict)


def find_global(module: str, name: str) -> Global:
    """The inert form of a named global; UnsafeCheckpointError for a dangerous module."""
    module = _PYTHON2_NAMES.get(module, module)
    root = module.partition(".")[0]
    stdlib = root in sys.stdlib_module_names or root in _PYTHON2_STDLIB
    if stdlib and name not in HARMLESS_STDLIB.get(module, frozenset()):
        raise UnsafeCheckpointError(
            f"pickle names {Global(module, name).path!r}, which a model file has no use for and "
            "attacks use to run code: nothing was run; do not trust this file"
        )
    return Global(module, name)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """``_codecs.encode`` as protocol 2 uses it for bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise CheckpointError("pickle encodes bytes in an unknown way: the file is damaged")
    return text.encode("latin1")


def _empty_dict(*args: Any) -> dict[Any, Any]:
    """A plain dict for ``OrderedDict()``, ``defaultdict(f)`` or ``OrderedDict([[k, v], ...])``."""
    result: dict[Any, Any] = {}
    if args and isinstance(args[0], list):
        for pair in args[0]:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise CheckpointError("pickle builds a dict from something else than pairs")
            result[_checked_key(pair[0])] = pair[1]
    return result


def _empty_bytes(*args: Any) -> bytes:
    """``bytes()``, which is how protocols 0 to 2 write empty bytes."""
    if args:
        raise CheckpointError("pickle makes bytes from something else than nothing")
    return b""


def _set_of(make: Callable[[Iterable[Any]], Any]) -> Handler:
    """``set([...])`` and ``frozenset([...])``, as protocols up to 3 write them."""

    def build(values: Any = ()) -> Any:
        if not isinstance(values, list | tuple):
            raise CheckpointError("pickle makes a set from something else than a list")
        return make(_checked_key(value) for value in values)

    return build


#: Handlers for data types that are safe in every pickle.
DATA_HANDLERS: Mapping[tuple[str, str], Handler] = {
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _empty_bytes,
    ("builtins", "set"): _set_of(set),
    ("builtins", "frozenset"): _set_of(frozenset),
    ("collections", "OrderedDict"): _empty_dict,
    ("collections", "defaultdict"): _empty_dict,
    ("dnnlib.util", "EasyDict"): _empty_dict,
    ("dnnlib", "EasyDict"): _empty_dict,
}

_SCALARS = (str, bytes, int, float, bool, type(None))


def _checked_key(key: Any) -> Any:
    """A dict key or set item that is cheap to hash.

    Tuples are hashed anew each time, so one tuple nested in itself by memo references 60 times
    would take for ever: only flat tuples pass.
    """
    if isinstance(key, int) and key.bit_length() > 64:
        raise UnsafeCheckpointError("pickle uses an integer above 64 bits as a key")
    if isinstance(key, _SCALARS) or isinstance(key, Global | Inert):
        return key
    if isinstance(key, tuple) and len(key) <= 64 and all(isinstance(k, _SCALARS) for k in key):
        return key
    raise UnsafeCheckpointError(
        f"pickle uses a key of type {type(key).__name__!r}; only strings, numbers and flat tuples "
        "are allowed: do not trust this file"
    )


_MARK = object()
_NOT_SUPPORTED = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
_PUSHES_ARGUMENT = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class Interpreter:
    """Runs one pickle stream.

    handlers : (module, name) -> function called with the arguments of a call of that global,
        in addition to `DATA_HANDLERS`.
    persistent_load : called with each persistent id; None when the stream may have none.
    """

    def __init__(
        self,
        budget: Budget,
        handlers: Mapping[tuple[str, str], Handler] | None = None,
        persistent_load: Callable[[Any], Any] | None = None,
    ) -> None:
        self.budget = budget
        self.limits = budget.limits
        self.handlers = {**DATA_HANDLERS, **(handlers or {})}
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.marks = 0
        self.memo: dict[int, Any] = {}

    def load(self, file: io.BytesIO) -> Any:
        """Value of the pickle at the file's position; leaves the position after it.

        Raises CheckpointError for a damaged pickle, UnsafeCheckpointError for a dangerous one.
        """
        self.stack, self.memo, self.marks = [], {}, 0
        with warnings.catch_warnings():
            # pickletools warns about odd escapes in protocol 0 strings, which a file may choose.
            warnings.simplefilter("ignore", DeprecationWarning)
            return self._run(file)

    def _run(self, file: io.BytesIO) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(file):
                self.budget.spend()
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
                if len(self.stack) > self.limits.max_stack:
                    raise UnsafeCheckpointError(
                        f"pickle needs a stack above {self.limits.max_stack} entries: "
                        "do not trust this file"
                    )
        except CheckpointError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError) as e:
            raise CheckpointError(
                f"pickle cannot be read ({type(e).__name__}: {str(e)[:200]}): the file is "
                "damaged, truncated or not a checkpoint; download or export it again"
            ) from e
        raise CheckpointError("pickle ends without a STOP opcode: the file is truncated")

    def _pop(self) -> Any:
        if not self.stack:
            raise CheckpointError("pickle takes from an empty stack: the file is damaged")
        value = self.stack.pop()
        if value is _MARK:
            raise CheckpointError("pickle takes a mark for a value: the file is damaged")
        return value

    def _pop_mark(self) -> list[Any]:
        """Everything above the last mark, in order; removes the mark."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                values = self.stack[at + 1 :]
                del self.stack[at:]
                self.marks -= 1
                return values
        raise CheckpointError("pickle misses a mark: the file is damaged")

    def _top(self) -> Any:
        value = self._pop()
        self.stack.append(value)
        return value

    def _call(self, function: Any, args: Any, kwargs: Any = None) -> Any:
        if not isinstance(function, Global):
            raise UnsafeCheckpointError(
                f"pickle calls a value of type {type(function).__name__!r} instead of a named "
                "class or function: nothing was run; do not trust this file"
            )
        if not isinstance(args, tuple) or not isinstance(kwargs or {}, dict):
            raise CheckpointError(f"pickle calls {function.path!r} without an argument tuple")
        handler = self.handlers.get((function.module, function.name))
        if handler is None:
            return Inert(function, args, kwargs or {})
        return handler(*args)

    def _set_items(self, target: Any, values: list[Any]) -> None:
        if isinstance(target, Inert):
            target = target.mapping
        if not isinstance(target, dict) or len(values) % 2:
            raise CheckpointError("pickle sets items of something that is not a dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_checked_key(key)] = value

    def _append(self, target: Any, values: list[Any]) -> None:
        if isinstance(target, Inert):
            target = target.items
        if not isinstance(target, list):
            raise CheckpointError("pickle appends to something that is not a list")
        target.extend(values)

    def _build(self, state: Any) -> None:
        target = self._top()
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, dict):  # the state of a dict (its attributes) is dropped
            raise UnsafeCheckpointError(
                f"pickle sets attributes of a {type(target).__name__!r}: do not trust this file"
            )

    def _memoize(self, index: Any) -> None:
        self.memo[int(index)] = self._top()

    def _step(self, name: str, argument: Any) -> None:
        """One opcode, `name` as in `pickletools`."""
        stack = self.stack
        if name in _PUSHES_ARGUMENT:
            if isinstance(argument, int) and argument.bit_length() > 8 * self.limits.max_int_bytes:
                raise UnsafeCheckpointError(
                    f"pickle holds an integer above {self.limits.max_int_bytes} bytes"
                )
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            if name == "PROTO" and argument > 5:
                raise CheckpointError(f"pickle protocol is {argument}, expected at most 5")
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memoize(argument)
        elif name == "MEMOIZE":
            self._memoize(len(self.memo))
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(argument)])
        elif name == "MARK":
            self.marks += 1
            if self.marks > self.limits.max_depth:
                raise UnsafeCheckpointError(
                    f"pickle nests deeper than {self.limits.max_depth} levels: "
                    "do not trust this file"
                )
            stack.append(_MARK)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(self._global(name, argument))
        elif name in _NOT_SUPPORTED:
            raise UnsafeCheckpointError(
                f"pickle uses opcode {name!r}, which no checkpoint needs: do not trust this file"
            )
        elif name == "INST":
            function = self._global("GLOBAL", argument)
            stack.append(self._call(function, tuple(self._pop_mark())))
        else:
            _OPERATIONS[name](self)

    def _global(self, name: str, argument: Any) -> Global:
        if name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
        else:
            attribute = self._pop()
            module = self._pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise CheckpointError("pickle names a global by something that is not a string")
        return find_global(module, attribute)

    # The remaining opcodes, each a method that works on the stack.

    def _op_tuple(self) -> None:
        self.stack.append(tuple(self._pop_mark()))

    def _op_tuple_of(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def _op_list(self) -> None:
        self.stack.append(self._pop_mark())

    def _op_dict(self) -> None:
        values = self._pop_mark()
        result: dict[Any, Any] = {}
        self._set_items(result, values)
        self.stack.append(result)

    def _op_append(self) -> None:
        value = self._pop()
        self._append(self._top(), [value])

    def _op_appends(self) -> None:
        values = self._pop_mark()
        self._append(self._top(), values)

    def _op_setitem(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items(self._top(), [key, value])

    def _op_setitems(self) -> None:
        values = self._pop_mark()
        self._set_items(self._top(), values)

    def _op_additems(self) -> None:
        values = self._pop_mark()
        target = self._top()
        if not isinstance(target, set):
            raise CheckpointError("pickle adds items to something that is not a set")
        target.update(_checked_key(value) for value in values)

    def _op_frozenset(self) -> None:
        self.stack.append(frozenset(_checked_key(value) for value in self._pop_mark()))

    def _op_reduce(self) -> None:
        args = self._pop()
        self.stack.append(self._call(self._pop(), args))

    def _op_newobj(self) -> None:
        args = self._pop()
        self.stack.append(self._call(self._pop(), args))

    def _op_newobj_ex(self) -> None:
        kwargs, args = self._pop(), self._pop()
        self.stack.append(self._call(self._pop(), args, kwargs))

    def _op_obj(self) -> None:
        values = self._pop_mark()
        if not values:
            raise CheckpointError("pickle makes an object without a class")
        self.stack.append(self._call(values[0], tuple(values[1:])))

    def _op_persid(self) -> None:
        if self.persistent_load is None:
            raise CheckpointError("pickle refers to outside data, but there is none in this file")
        self.stack.append(self.persistent_load(self._pop()))

    def _op_pop(self) -> None:
        if not self.stack:
            raise CheckpointError("pickle takes from an empty stack: the file is damaged")
        if self.stack.pop() is _MARK:
            self.marks -= 1

    def _refuse(self) -> None:
        raise CheckpointError("pickle uses a protocol 0 opcode that no checkpoint needs")


_OPERATIONS: Mapping[str, Callable[[Interpreter], None]] = {
    "POP": Interpreter._op_pop,
    "POP_MARK": lambda self: (self._pop_mark(), None)[1],
    "DUP": lambda self: self.stack.append(self._top()),
    "EMPTY_LIST": lambda self: self.stack.append([]),
    "EMPTY_DICT": lambda self: self.stack.append({}),
    "EMPTY_SET": lambda self: self.stack.append(set()),
    "LIST": Interpreter._op_list,
    "DICT": Interpreter._op_dict,
    "TUPLE": Interpreter._op_tuple,
    "TUPLE1": lambda self: self._op_tuple_of(1),
    "TUPLE2": lambda self: self._op_tuple_of(2),
    "TUPLE3": lambda self: self._op_tuple_of(3),
    "APPEND": Interpreter._op_append,
    "APPENDS": Interpreter._op_appends,
    "SETITEM": Interpreter._op_setitem,
    "SETITEMS": Interpreter._op_setitems,
    "ADDITEMS": Interpreter._op_additems,
    "FROZENSET": Interpreter._op_frozenset,
    "REDUCE": Interpreter._op_reduce,
    "BUILD": lambda self: self._build(self._pop()),
    "NEWOBJ": Interpreter._op_newobj,
    "NEWOBJ_EX": Interpreter._op_newobj_ex,
    "OBJ": Interpreter._op_obj,
    "BINPERSID": Interpreter._op_persid,
    "PERSID": Interpreter._refuse,
}
