"""Pickled R3GAN networks of the official code: everything that decides what the modules compute.

The official trainer pickles its networks as plain modules, without their source. What a module
computes then follows from its class and its attributes: a class that the official code does not
have, or an attribute with another value than it would set, is refused by name. Attributes that the
tensors' shapes tell already, or that change no image in float32, are passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from generators.unpickle.interpreter import Global
from generators.unpickle.torch_files import TensorRecord
from generators.unpickle.torch_modules import check_private, walk
from schemas.errors import CheckpointError

_LAYER = r"MainLayers\.\d+\.Layers\.\d+"
#: Names of modules -> classes that stand there.
_CLASSES: Mapping[str, frozenset[str]] = {
    r"": frozenset({"Generator"}),
    r"Model": frozenset({"Generator"}),
    r"MainLayers": frozenset({"ModuleList"}),
    r"MainLayers\.\d+": frozenset({"GeneratorStage"}),
    r"MainLayers\.\d+\.Layers": frozenset({"ModuleList"}),
    _LAYER: frozenset({"GenerativeBasis", "UpsampleLayer", "ResidualBlock"}),
    rf"{_LAYER}\.LinearLayer": frozenset({"Linear", "Convolution"}),
    rf"{_LAYER}\.LinearLayer[123]": frozenset({"Convolution"}),
    rf"{_LAYER}\.LinearLayer[123]?\.Layer": frozenset({"Conv2d"}),
    rf"{_LAYER}\.NonLinearity[12]": frozenset(
        {"BiasedActivationCUDA", "BiasedActivationReference"}
    ),
    rf"{_LAYER}\.Resampler": frozenset(
        {"InterpolativeUpsamplerCUDA", "InterpolativeUpsamplerReference"}
    ),
    r"AggregationLayer": frozenset({"Convolution"}),
    r"AggregationLayer\.Layer": frozenset({"Conv2d"}),
    r"EmbeddingLayer": frozenset({"Linear"}),
}
#: Attributes that the tensors' shapes tell already.
_HARMLESS = frozenset(
    "training z_dim c_dim img_resolution in_channels out_channels in_features out_features "
    "kernel_size groups FilterRadius".split()
)
_CONVOLUTION: Mapping[str, Any] = {
    "stride": (1, 1),
    "dilation": (1, 1),
    "transposed": False,
    "output_padding": (0, 0),
    "padding_mode": "zeros",
}


def read_modules(network: Any) -> tuple[dict[str, TensorRecord], list[str]]:
    """Tensors of a pickled network by their names in the official code, and what the file says of
    it that changes no image in float32, for people.

    Raises CheckpointError for a module that the official generator does not have, or computes
    otherwise.
    """
    tensors: dict[str, TensorRecord] = {}
    formats: Counter[str] = Counter()
    for path, class_name, state in walk(network):
        path = path.removeprefix("Model.")
        _check(path, class_name, state)
        if class_name == "GeneratorStage":
            formats[_kind(path, state)] += 1
        for part in ("_parameters", "_buffers"):
            for name, value in (state.get(part) or {}).items():
                if isinstance(value, TensorRecord):
                    tensors[f"{path}.{name}".lstrip(".")] = value
    del formats["float32"]
    return tensors, [
        f"{kind}, in which {n} {'stage computes' if n == 1 else 'stages compute'}: all is drawn in "
        "float32"
        for kind, n in formats.items()
    ]


def _check(path: str, class_name: str, state: Mapping[str, Any]) -> None:
    """One module's class and attributes, see the module's text."""
    classes = next((found for name, found in _CLASSES.items() if re.fullmatch(name, path)), None)
    if classes is None or class_name not in classes:
        raise CheckpointError(
            f"module {path[:80]!r} is of class {class_name!r}, the official R3GAN generator has "
            + (f"{sorted(classes)!r} there" if classes else "no such module")
            + ": only that one is implemented"
        )
    check_private(path, state)
    expected: dict[str, Any] = {}
    if class_name == "Conv2d":
        expected = {**_CONVOLUTION, "padding": _padding(state)}
    for key, value in state.items():
        name = str(key)
        if name.startswith("_") or name in _HARMLESS:
            continue
        if name == "DataType" and class_name == "GeneratorStage":
            continue
        if name not in expected:
            raise CheckpointError(
                f"module {path[:80]!r} has {name[:60]!r} {_shown(value)}, which the official code "
                "does not have and which may change what it draws: if it changes no image, save "
                "the network's state_dict() with torch.save and give that file"
            )
        given = tuple(value) if isinstance(value, list) else value
        if type(given) is not type(expected[name]) or given != expected[name]:
            raise CheckpointError(
                f"module {path[:80]!r} has {name!r} {_shown(value)}, only {expected[name]!r} is "
                "implemented: use a generator that was trained with the official code"
            )
    if class_name == "InterpolativeUpsamplerReference":
        _check_even(path, state)


def _padding(state: Mapping[str, Any]) -> tuple[int, int]:
    """What keeps the size, of the kernel that the weight has."""
    weight = (state.get("_parameters") or {}).get("weight")
    sides = weight.size[-2:] if isinstance(weight, TensorRecord) else (1, 1)
    return ((sides[0] - 1) // 2, (sides[-1] - 1) // 2)


def _check_even(path: str, state: Mapping[str, Any]) -> None:
    """The reference class gives a picture that is a row short where the filter is odd."""
    kernel = (state.get("_buffers") or {}).get("Kernel")
    if isinstance(kernel, TensorRecord) and kernel.size and kernel.size[0] % 2:
        raise CheckpointError(
            f"module {path[:80]!r} of class 'InterpolativeUpsamplerReference' has a filter of "
            f"{kernel.size[0]!r} taps, with which it does not double the size: only an even "
            "number is implemented"
        )


def _kind(path: str, state: Mapping[str, Any]) -> str:
    """The number format that a stage computes in."""
    kind = state.get("DataType", Global("torch", "float32"))
    known = ("float32", "bfloat16", "float16")
    if not isinstance(kind, Global) or kind.module != "torch" or kind.name not in known:
        shown = kind.path if isinstance(kind, Global) else type(kind).__name__
        raise CheckpointError(
            f"module {path[:80]!r} has 'DataType' {shown!r}, expected one of {list(known)!r}"
        )
    return kind.name


def _shown(value: Any) -> str:
    kind = value.path if isinstance(value, Global) else type(value).__name__
    known = isinstance(value, str | int | float | list | tuple | None)
    return repr(value)[:60] if known else f"of {kind}"
