"""Files and declarations to checkpoints of plain networks, without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from generators.families.base import Checkpoint
from generators.families.plain.architectures.catalog import (
    ARCHITECTURES,
    Candidate,
    networks_in,
    shapes_of,
    states_in,
    the_one,
)
from generators.families.plain.declaration import (
    MAX_CODE,
    MAX_SIDE,
    Declaration,
    Labels,
    plain,
)
from generators.onnx_files import Port
from generators.programs import TORCHSCRIPT, WORDS, Program
from generators.unpickle.torch_files import TensorRecord
from schemas.errors import CheckpointError

FAMILY = "plain"
#: In place of a program's format, of a network that is built of its tensors.
STATE = "state dict"
_FLOATS = ("float32", "float16", "float64", "bfloat16")


# ---- state dicts ---------------------------------------------------------------------------------


def from_state(contents: Any, said: Declaration | None) -> Checkpoint | None:
    """The network in a file of tensors; None where there is none and nobody said that there is.

    Raises CheckpointError where what is said does not fit.
    """
    only = None if said is None else said.architecture
    candidates = networks_in(contents, only)
    if said is not None and said.entry is not None:
        candidates = [each for each in candidates if each.where == said.entry]
    if said is None and len({each.architecture.name for each in candidates}) > 1:
        candidates = []  # another family's file that holds parts alike
    found = the_one(candidates)
    if found is None and said is not None:
        raise CheckpointError(_nothing_found(contents, said))
    return None if found is None else _of_state(found, said or Declaration())


def _nothing_found(contents: Any, said: Declaration) -> str:
    states = [where or "the file" for where, _ in states_in(contents)]
    wanted = repr(said.architecture) if said.architecture else f"any of {list(ARCHITECTURES)!r}"
    at = "" if said.entry is None else f" under {said.entry!r}"
    held = f"of {states!r}" if states else "among its contents, which hold no tensors by name"
    return (
        f"holds no network of the architecture {wanted}{at} {held}: correct 'architecture' or "
        "'entry' in the JSON beside it, or export the network to ONNX"
    )


def _of_state(candidate: Candidate, said: Declaration) -> Checkpoint:
    architecture, found = candidate.architecture, candidate.found
    _agree("input.shape", said.shape, found.shape)
    _agree("output.size", said.size, found.size)
    _agree("output.channels", said.channels, found.channels)
    for key, value in (
        ("labels", said.labels),
        ("input.name", said.input),
        ("output.name", said.output),
        ("output.layout", None if said.layout == "NCHW" else said.layout),
    ):
        if value is not None:
            raise CheckpointError(
                f"the JSON beside it gives {key!r}, which a state dict of {architecture.name!r} "
                "does not have: leave it out, or export the network to ONNX"
            )
    tensors = {
        name.removeprefix(found.prefix): _array(candidate.state[name], name)
        for name in found.names.values()
    }
    metadata: dict[str, Any] = {"source": architecture.name}
    if candidate.where:
        metadata["entry"] = candidate.where
    described = {
        "family": FAMILY,
        "architecture": architecture.name,
        "shape": list(found.shape),
        "size": list(found.size),
        "channels": found.channels,
        "range": list(said.range),
        "log_variance": architecture.log_variance if said.vae is None else said.vae,
    }
    return _with_prior(Checkpoint(described, tensors, metadata=metadata), said, architecture.prior)


def _array(value: Any, name: str) -> np.ndarray:
    array = value.array(name) if isinstance(value, TensorRecord) else np.asarray(value)
    found = array.astype(np.float32)
    if not np.isfinite(found).all():
        raise CheckpointError(
            f"tensor {name!r} holds numbers that are not finite, with which no picture can be "
            "drawn: take an earlier checkpoint of the training"
        )
    if name.endswith("running_var") and found.size and float(found.min()) < 0:
        raise CheckpointError(
            f"tensor {name!r} holds a variance of {float(found.min())!r}, expected none below 0: "
            "the file is damaged; copy it again"
        )
    return found


def _with_prior(checkpoint: Checkpoint, said: Declaration, usual: str) -> Checkpoint:
    described = {**checkpoint.architecture, "prior": said.prior or usual}
    metadata = dict(checkpoint.metadata)
    if said.prior is None:
        metadata["assumed"] = {"prior": usual}
    return replace(checkpoint, architecture=described, metadata=metadata)


def check_state(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError where the tensors of our own format are not of their architecture."""
    described = checkpoint.architecture
    architecture = ARCHITECTURES.get(str(described.get("architecture")))
    found = None if architecture is None else architecture.find(shapes_of(checkpoint.tensors))
    if found is None or set(found.names.values()) != set(checkpoint.tensors):
        raise CheckpointError(
            f"tensors are not those of the architecture {described.get('architecture')!r}, of "
            f"which there are {list(ARCHITECTURES)!r}: copy both files again"
        )
    told = (list(found.shape), list(found.size), found.channels)
    noted = tuple(described.get(key) for key in ("shape", "size", "channels"))
    if noted != told:
        raise CheckpointError(
            f"'architecture' gives shape, size and channels {noted!r}, its tensors {told!r}: copy "
            "both files again"
        )


def _agree(key: str, said: Any, found: Any) -> None:
    if said is not None and said != found:
        raise CheckpointError(
            f"the JSON beside it has {_shown(said)} as {key!r}, the file {_shown(found)}: correct "
            "it, or leave it out"
        )


def _shown(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


# ---- programs ------------------------------------------------------------------------------------


def from_program(program: Program, said: Declaration | None) -> Checkpoint:
    """The network in a program. Raises CheckpointError where what is said does not fit it, or more
    has to be said."""
    if said is None:
        fitting = declaration_for(program)
        held = {**fitting["input"], **fitting["output"]}
        examples = ", ".join(key for key in _EXAMPLES if key in held)
        raise CheckpointError(
            f"is {WORDS[program.container]} of {seen(program)}: as a generator it needs a JSON of "
            f"the same name beside it that names its family and gives the right {examples}, such "
            f"as {json.dumps(fitting)}"
        )
    if said.architecture is not None or said.entry is not None:
        raise CheckpointError(
            f"the JSON beside it names an 'architecture' or 'entry', but {program.container} "
            "holds its own: leave it out"
        )
    source = _code_input(program, said)
    target = _image_output(program, said)
    shape = _merged("input.shape", said.shape, None if source is None else source.shape)
    declared = _picture_axes(said)
    picture = _merged("output", declared, None if target is None else target.shape, said.layout)
    channels, height, width = _unordered(picture, said.layout)
    if math.prod(shape) > MAX_CODE or max(height, width) > MAX_SIDE:
        raise CheckpointError(
            f"takes codes of shape {list(shape)!r} and gives {height} x {width} pixels, expected "
            f"at most {MAX_CODE} numbers and {MAX_SIDE} pixels a side: export the generator alone"
        )
    if channels not in (1, 3):
        raise CheckpointError(
            f"gives pictures of shape {list(picture)!r}, which as {said.layout!r} have "
            f"{channels!r} channels, expected 1 or 3: correct 'output.layout' or 'output.name' in "
            "the JSON beside it"
        )
    labels = None if said.labels is None else plain(said.labels)
    described = {
        "family": FAMILY,
        "program": program.container,
        "input": source.name if source is not None else said.input,
        "output": target.name if target is not None else said.output,
        "labels": labels,
        "shape": list(shape),
        "size": [height, width],
        "channels": channels,
        "range": list(said.range),
        "layout": said.layout,
        "log_variance": bool(said.vae),
    }
    tensors = {name: np.asarray(value) for name, value in program.parts.items()}
    found = Checkpoint(described, tensors, metadata={"source": program.container})
    return _with_prior(found, said, "normal")


def seen(program: Program) -> str:
    """Inputs and outputs of a program, in words."""
    if program.container == TORCHSCRIPT:
        return "inputs and outputs that it does not tell"
    given, gives = ("; ".join(map(str, ports)) or "nothing" for ports in _sides(program))
    return f"{given} -> {gives}"


#: Keys of input and output in `declaration_for` that hold an example: the file does not tell.
_EXAMPLES = ("prior", "range", "shape", "size", "channels")


def _sides(program: Program) -> tuple[Sequence[Port], Sequence[Port]]:
    return program.inputs, program.outputs


def declaration_for(program: Program) -> dict[str, Any]:
    """A declaration that would fit the program, as far as it can be told from it."""
    source: dict[str, Any] = {"shape": [100]} if program.container == TORCHSCRIPT else {}
    target: dict[str, Any] = {"range": [-1, 1]}
    if program.container == TORCHSCRIPT:
        target |= {"size": [64, 64], "channels": 3}
    floats = [port for port in program.inputs if port.kind in _FLOATS]
    others = [port for port in program.inputs if port.kind not in _FLOATS]
    pictures = [p for p in program.outputs if p.shape is not None and len(p.shape) == 4]
    if len(program.inputs) > 1 and floats:
        source["name"] = floats[0].name
    if len(program.outputs) > 1:
        largest = max(pictures or program.outputs, key=_volume)
        target["name"] = largest.name
        pictures = [largest]
    if pictures and pictures[0].shape is not None:
        axes = pictures[0].shape[1:]
        target["layout"] = "NHWC" if axes[0] not in (1, 3) and axes[2] in (1, 3) else "NCHW"
        if None in axes:
            target["size"] = [64, 64]
    description: dict[str, Any] = {"family": FAMILY, "input": {**source, "prior": "normal"}}
    if others:
        description["labels"] = {"name": others[0].name, "classes": 10, "as": "number"}
    elif len(floats) > 1:
        classes = (floats[1].shape or (None,))[-1] or 10
        description["labels"] = {"name": floats[1].name, "classes": classes, "as": "one_hot"}
    return {**description, "output": target}


def _volume(port: Port) -> int:
    return int(np.prod([axis or 1 for axis in (port.shape or (0,))]))


def _code_input(program: Program, said: Declaration) -> Port | None:
    """The input of the codes; None of a program that does not tell its inputs."""
    if program.container == TORCHSCRIPT:
        return None
    by_name = {port.name: port for port in program.inputs}
    for key, name in (("input", said.input), ("labels", said.labels and said.labels.name)):
        if name is not None and name not in by_name:
            raise CheckpointError(
                f"has inputs {list(by_name)!r}, the JSON beside it names {name!r}: correct "
                f"'{key}.name'"
            )
    left = [name for name in by_name if said.labels is None or name != said.labels.name]
    name = said.input if said.input is not None or len(left) != 1 else left[0]
    others = [each for each in left if each != name]
    if name is None or others:
        raise CheckpointError(
            f"has inputs {list(by_name)!r}, the JSON beside it names {said.input!r} as that of "
            f"codes and {None if said.labels is None else said.labels.name!r} as that of labels: "
            "name each, or export the network with the others fixed"
        )
    source = by_name[name]
    if source.kind not in _FLOATS:
        raise CheckpointError(
            f"takes {name!r} as {source.kind}, and codes are float32: correct 'input.name' in the "
            "JSON beside it"
        )
    if source.shape is not None and source.shape[:1] and source.shape[0] is not None:
        raise CheckpointError(
            f"takes {name!r} as {list(source.shape)!r}, {source.shape[0]} rows at a time, and is "
            f"drawn with any number: {fixed_cure(program.container)}"
        )
    if said.labels is not None:
        _check_labels(by_name[said.labels.name], said.labels)
    return source


def _check_labels(port: Port, said: Labels) -> None:
    """Whether the input of labels takes them as they are declared, as far as the file tells."""
    wanted: tuple[int, ...] = (said.classes,) if said.given == "one_hot" else ()
    row = None if port.shape is None else port.shape[1:]
    if row is None or (len(row) == len(wanted) and all(n in (None, *wanted) for n in row)):
        return
    raise CheckpointError(
        f"takes {port}, the JSON beside it gives it labels as {said.given!r} of "
        f"{said.classes!r} classes, (n{''.join(f', {n}' for n in wanted)}): correct "
        "'labels.classes' or 'labels.as'"
    )


def fixed_cure(container: str) -> str:
    """How a program is exported for any number of rows."""
    return {
        "onnx": "export it with a free first axis (torch.onnx.export(..., dynamic_shapes=...)), "
        "a StyleGAN2 without fused modulated convolutions",
        "torch.export": "export it with a free first axis (torch.export.export(..., "
        "dynamic_shapes=({0: torch.export.Dim('n')},))) and at least 2 rows as the example",
        STATE: "take an earlier checkpoint, or declare what it is in a JSON beside it",
    }.get(container, "script it (torch.jit.script), or trace it without the rows' number in it")


def _image_output(program: Program, said: Declaration) -> Port | None:
    if program.container == TORCHSCRIPT:
        return None
    by_name = {port.name: port for port in program.outputs}
    name = said.output
    if name is None and len(by_name) == 1:
        (name,) = by_name
    if name is None or name not in by_name:
        raise CheckpointError(
            f"has outputs {list(by_name)!r}, the JSON beside it names {said.output!r} as that of "
            "pictures: correct 'output.name'"
        )
    return by_name[name]


def _merged(
    key: str,
    said: tuple[int | None, ...] | None,
    stated: tuple[int | None, ...] | None,
    layout: str | None = None,
) -> tuple[int, ...]:
    """A row's shape, of what is said and what the file states; see `from_program`."""
    found = None if stated is None else stated[1:]
    how = "" if layout is None else f" ({layout})"
    if said is not None and found is not None:
        if len(said) != len(found) or any(
            None not in (a, b) and a != b for a, b in zip(said, found, strict=False)
        ):
            raise CheckpointError(
                f"the JSON beside it gives {key!r} the shape {_shown(said)}{how} a row, the file "
                f"{_shown(found)}: correct it, or leave it out"
            )
        found = tuple(b if a is None else a for a, b in zip(said, found, strict=True))
    found = said if found is None else found
    if found is None or None in found or not found:
        wanted = "'input.shape'" if key == "input.shape" else "'output.size' and 'output.channels'"
        raise CheckpointError(
            f"does not tell the shape of its {key.partition('.')[0]} (it has "
            f"{None if found is None else _shown(found)}): give {wanted} in the JSON beside it"
        )
    return tuple(n for n in found if n is not None)


def _picture_axes(said: Declaration) -> tuple[int | None, ...] | None:
    if said.size is None and said.channels is None:
        return None
    height, width = said.size or (None, None)
    axes = (said.channels, height, width)
    return axes if said.layout == "NCHW" else (*axes[1:], axes[0])


def _unordered(picture: tuple[int, ...], layout: str) -> tuple[int, int, int]:
    if len(picture) != 3:
        raise CheckpointError(
            f"gives an output of shape {list(picture)!r} a row, and a picture has three axes: "
            "correct 'output.name' in the JSON beside it"
        )
    a, b, c = picture
    return (a, b, c) if layout == "NCHW" else (c, a, b)
