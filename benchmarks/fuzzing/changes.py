"""Changes of bytes, and of parsed values in one place."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Path = tuple[Any, ...]

WHOLE = (
    0, 1, -1, 2, 3, 7, 255, 256, -128, 2**15, 2**16, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1,
    2**63 - 1, 2**63, -(2**63), 2**64, 10**30,
)  # fmt: skip
REAL = (0.0, -0.0, 0.5, -1.0, 1e-320, 1e308, -1e308, 3.5e38, math.nan, math.inf, -math.inf)
TEXT = (
    "", " ", "0", "-1", "1e999", "nan", "NaN", "None", "null", "NA", "inf", "true", "no", ".", "..",
    "-", "a b", "x" * 300, "名前", "e\u0301", "\U0001f600", "\u202e", "\x00", "\n", "\t", "\ud800",
    "../outside.png", "a/../../outside", "C:\\x", "<b>&amp;", "{0!r}", "%s", "__class__", "s3://a/b",
    "bundled:", "bundled:../x", "float32", "float16", "BF16", "F8_E4M3", "row", "image_id", "path",
)  # fmt: skip
DTYPES = ("f2", "f4", "f8", ">f4", "i1", "u1", "i4", ">i8", "c8", "?")


@dataclass(frozen=True)
class Choice:
    """A part of a value that is one of some options; of a single one, a part that stays whole."""

    options: tuple[Any, ...]
    index: int = 0

    @property
    def value(self) -> Any:
        return self.options[self.index % len(self.options)]


def changed_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes with one of: bits flipped, bytes set, a number put in, cut, inserted, repeated, taken
    out, swapped."""
    if not data:
        return rng.randbytes(rng.randint(1, 16))
    size, out = len(data), bytearray(data)
    start, stop = sorted((rng.randrange(size), rng.randrange(size)))
    stop = min(stop + 1, start + rng.choice((1, 4, 16, 256, size)))
    kind = rng.randrange(8)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 2, 8))):
            out[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for _ in range(rng.choice((1, 1, 4))):
            out[rng.randrange(size)] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
    elif kind == 2:
        width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
        number = rng.choice(WHOLE) % (1 << 8 * width)
        at = rng.randrange(min(size, rng.choice((16, 64, 256, size))))
        out[at : at + width] = number.to_bytes(width, order)
    elif kind == 3:
        del out[rng.choice((start, size - 1 - rng.randrange(min(size, 16)))) :]
    elif kind == 4:
        out[start:start] = rng.randbytes(rng.choice((1, 2, 16)))
    elif kind == 5:
        out[start:start] = out[start:stop] * rng.choice((1, 1, 2, 100))
    elif kind == 6:
        del out[start:stop]
    else:
        other = rng.randrange(size)
        piece, there = out[start:stop], out[other : other + stop - start]
        out[start:stop], out[other : other + len(piece)] = there, piece
    return bytes(out)


def changed_value(rng: random.Random, value: Any) -> Any:
    """A value with one part changed: another value or type, a name, a part less or twice."""
    places = list(_places(value))
    leaves = [place for place in places if not isinstance(_at(value, place), dict | list | tuple)]
    path = rng.choice(leaves if leaves and rng.random() < 0.7 else places)
    return _put(value, path, lambda part: _changed(rng, part))


def _places(value: Any, path: Path = ()) -> Iterator[Path]:
    if isinstance(value, Choice) and len(value.options) == 1:
        return
    yield path
    parts: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        parts = iter(value.items())
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    for key, part in parts:
        yield from _places(part, (*path, key))


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _put(value: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    """The value with the part at a path changed; nothing of the given one is."""
    if not path:
        return change(value)
    inner = _put(value[path[0]], path[1:], change)
    if isinstance(value, dict):
        return {key: inner if key == path[0] else part for key, part in value.items()}
    parts = list(value)
    parts[path[0]] = inner
    return tuple(parts) if isinstance(value, tuple) else parts


def _changed(rng: random.Random, part: Any) -> Any:
    if isinstance(part, Choice):
        return Choice(part.options, rng.randrange(len(part.options)))
    if isinstance(part, np.ndarray):
        return _array(rng, part)
    if isinstance(part, bytes):
        return changed_bytes(rng, part)
    if isinstance(part, dict) and part and rng.random() < 0.9:
        return _mapping(rng, part)
    if isinstance(part, list | tuple) and part and rng.random() < 0.9:
        found = _sequence(rng, list(part))
        return tuple(found) if isinstance(part, tuple) else found
    return _leaf(rng, part)


def _leaf(rng: random.Random, part: Any) -> Any:
    if isinstance(part, str) and part and rng.random() < 0.4:
        at = rng.randrange(len(part) + 1)
        inserted = rng.choice((*TEXT, part, "_", "9"))
        return rng.choice((part[:at] + inserted + part[at:], part[:at], part[at:], part.upper()))
    same: Sequence[Any] = {bool: (True, False), int: WHOLE, float: REAL, str: TEXT}.get(
        type(part), (None,)
    )
    if isinstance(part, int | float) and math.isfinite(part) and rng.random() < 0.3:
        return rng.choice((part + 1, part - 1, -part, part * 2, part * 1000, part / 3, str(part)))
    if rng.random() < 0.7:
        return rng.choice(same)
    nested: Any = part
    for _ in range(rng.choice((1, 30))):
        nested = [nested]
    anything = (None, True, False, [], {}, [part, part], {"a": part}, nested)
    return rng.choice((*anything, rng.choice(WHOLE), rng.choice(REAL), rng.choice(TEXT)))


def _mapping(rng: random.Random, part: dict[Any, Any]) -> dict[Any, Any]:
    items = list(part.items())
    at, other = rng.randrange(len(items)), rng.randrange(len(items))
    key, value = items[at]
    kind = rng.randrange(5)
    if kind == 0:
        del items[at]
    elif kind == 1:
        name = _leaf(rng, key) if isinstance(key, str) else rng.choice((0, 1, "a"))
        items[at] = (name if isinstance(name, str | int) else str(name), value)
    elif kind == 2:
        items.append((rng.choice(TEXT), value))
    elif kind == 3:
        items[at], items[other] = (key, items[other][1]), (items[other][0], value)
    else:
        items = items[::-1]
    return dict(items)


def _sequence(rng: random.Random, part: list[Any]) -> list[Any]:
    at, other = rng.randrange(len(part)), rng.randrange(len(part))
    kind = rng.randrange(6)
    if kind == 0:
        del part[at]
    elif kind == 1:
        part.insert(other, part[at])
    elif kind == 2:
        part[at], part[other] = part[other], part[at]
    elif kind == 3:
        part.append(_leaf(rng, part[at]))
    elif kind == 4:
        del part[rng.randrange(len(part)) :]
    else:
        part = part * rng.choice((2, 3, 50))
    return part


def _array(rng: random.Random, part: np.ndarray) -> np.ndarray:
    """Another element type or shape, or single values that are not finite, huge or zero."""
    kind = rng.randrange(8)
    if kind == 0:
        with np.errstate(all="ignore"):
            return part.astype(rng.choice(DTYPES))
    if kind == 1:
        return part.reshape(-1)
    if kind == 2:
        return part[None]
    if kind == 3:
        return part.T
    if kind == 4:
        return part[: rng.randrange(len(part) + 1)] if part.ndim else part.reshape(1)
    if kind == 5:
        return np.zeros_like(part)
    out = np.array(part)
    if out.size and out.dtype.kind in "fiu":
        count = out.size if kind == 6 else 1
        values = REAL if out.dtype.kind == "f" else (0, 1, 100)
        chosen = rng.sample(range(out.size), count)
        out.reshape(-1)[chosen] = rng.choice(values)
    return out
