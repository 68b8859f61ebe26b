"""What nobody can see in a network's file, as a JSON of the same name beside it says it.

======== ==========================================================================================
key      what it says
======== ==========================================================================================
family   "plain"
archi-   of a state dict: "dcgan", "lapgan", "msg_gan" or "vae", where several would fit
tecture
entry    of a state dict: the keys that lead to it in its file, "netG_state_dict"
input    {"name": of the code; needed where the network has several inputs,
         "shape": of one row's code, [100] or [100, 1, 1]; needed where the file does not tell,
         "prior": "normal" (by default), "uniform" on [-1, 1], or "truncated_normal" at 2}
output   {"name": of the pictures; needed where the network has several outputs,
         "range": [black, white], by default [-1, 1],
         "layout": "NCHW" (by default) or "NHWC",
         "size": side or [height, width], "channels": 1 or 3; needed where the file does not tell}
labels   null, or {"name": of that input, "classes": how many,
         "as": "one_hot" (float rows of weights) or "number" (int64, one a row)}
vae      whether the network is a VAE's decoder, whose codes may come with a "log_variance"
licence, source, notes   for people
======== ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from generators.families.plain.architectures.catalog import ARCHITECTURES
from schemas.errors import CheckpointError
from schemas.suggest import suggestion

PRIORS = ("normal", "uniform", "truncated_normal")
LAYOUTS = ("NCHW", "NHWC")
LABELS = ("one_hot", "number")
MAX_SIDE, MAX_CODE, MAX_CLASSES = 8192, 1 << 24, 1 << 16
_KEYS: Mapping[str, tuple[str, ...]] = {
    "": ("family", "architecture", "entry", "input", "output", "labels", "vae", "licence", "source",
         "notes"),
    "input": ("name", "shape", "prior"),
    "output": ("name", "range", "layout", "size", "channels"),
    "labels": ("name", "classes", "as"),
}  # fmt: skip


@dataclass(frozen=True)
class Labels:
    """How a network takes classes. given : "one_hot" or "number"."""

    name: str
    classes: int
    given: str = "one_hot"


@dataclass(frozen=True)
class Declaration:
    """The fields of the module text; None where it says nothing."""

    architecture: str | None = None
    entry: str | None = None
    input: str | None = None
    shape: tuple[int, ...] | None = None
    prior: str | None = None
    output: str | None = None
    range: tuple[float, float] = (-1.0, 1.0)
    layout: str = "NCHW"
    size: tuple[int, int] | None = None
    channels: int | None = None
    labels: Labels | None = None
    vae: bool | None = None

    @classmethod
    def read(cls, description: Mapping[str, Any]) -> Self:
        """From the JSON. Raises CheckpointError, with the key, for what it cannot say."""
        given, output = _part(description, "input"), _part(description, "output")
        _known(description, "")
        shape, size = given.get("shape"), output.get("size")
        return cls(
            architecture=_choice(description, "architecture", (None, *ARCHITECTURES)),
            entry=_text(description, "entry"),
            input=_text(given, "name", "input."),
            shape=None if shape is None else _lengths(shape, "input.shape", MAX_CODE),
            prior=_choice(given, "prior", (None, *PRIORS), "input."),
            output=_text(output, "name", "output."),
            range=_range(output.get("range", (-1.0, 1.0))),
            layout=_choice(output, "layout", LAYOUTS, "output.", "NCHW") or "NCHW",
            size=None if size is None else _size(size),
            channels=_choice(output, "channels", (None, 1, 3), "output."),
            labels=_labels(description),
            vae=_choice(description, "vae", (None, False, True)),
        )


def plain(value: Any) -> Any:
    """A dataclass as JSON holds it."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(value).items()}


def _wrong(key: str, value: Any, wanted: str) -> CheckpointError:
    return CheckpointError(
        f"the JSON beside it has {value!r} as {key!r}, expected {wanted}: correct it"
    )


def _known(part: Mapping[str, Any], name: str) -> None:
    for key in part:
        if key not in _KEYS[name]:
            raise CheckpointError(
                f"the JSON beside it has the key {f'{name}.{key}'.lstrip('.')!r}, which is not "
                f"known: {suggestion(key, list(_KEYS[name]))}"
            )


def _part(description: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = description.get(name)
    if part is None:
        return {}
    if not isinstance(part, Mapping):
        raise _wrong(name, part, f"an object of {list(_KEYS[name])!r}")
    _known(part, name)
    return part


def _choice(
    part: Mapping[str, Any], key: str, among: Sequence[Any], within: str = "", default: Any = None
) -> Any:
    value = part.get(key, default)
    if not any(value is each or (type(value) is type(each) and value == each) for each in among):
        raise _wrong(
            within + key, value, f"one of {[each for each in among if each is not None]!r}"
        )
    return value


def _text(part: Mapping[str, Any], key: str, within: str = "") -> str | None:
    value = part.get(key)
    if value is not None and not (isinstance(value, str) and value):
        raise _wrong(within + key, value, "a name")
    return value


def _lengths(value: Any, key: str, most: int) -> tuple[int, ...]:
    found = (value,) if isinstance(value, int) else value
    whole = isinstance(found, list | tuple) and all(type(n) is int and 0 < n <= most for n in found)
    if not whole or not 1 <= len(found) <= 4:
        raise _wrong(key, value, f"one to four lengths from 1 to {most}")
    return tuple(found)


def _size(value: Any) -> tuple[int, int]:
    found = _lengths(value, "output.size", MAX_SIDE)
    if len(found) > 2:
        raise _wrong("output.size", value, "a side or [height, width]")
    return found[0], found[-1]


def _range(value: Any) -> tuple[float, float]:
    numbers = isinstance(value, list | tuple) and len(value) == 2
    if not numbers or any(type(n) not in (int, float) or not abs(n) < 1e6 for n in value):
        raise _wrong("output.range", value, "[black, white]")
    if value[0] == value[1]:
        raise _wrong("output.range", value, "two numbers that differ")
    return float(value[0]), float(value[1])


def _labels(description: Mapping[str, Any]) -> Labels | None:
    part = _part(description, "labels")
    if not part:
        return None
    classes, name = part.get("classes"), _text(part, "name", "labels.")
    if name is None:
        raise _wrong("labels.name", None, "the name of the network's input of labels")
    if type(classes) is not int or not 0 < classes <= MAX_CLASSES:
        raise _wrong("labels.classes", classes, f"a number from 1 to {MAX_CLASSES}")
    return Labels(name, classes, _choice(part, "as", LABELS, "labels.", "one_hot"))
