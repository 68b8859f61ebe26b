"""Descriptions of annotator models: what a model file needs, gives, and how its numbers read.

A model ``<name>.onnx`` (or ``.pt``) has its description beside it in ``<name>.json``:

========== =====================================================================================
name       of the annotations
kind       "scores", "landmarks" or "pose"
output     name of the ONNX output (TorchScript: key or position of the result)
names      of the scores, angles or points, in the order of the output's second axis
activation null, "sigmoid" or "softmax", applied to scores
coordinates of landmarks: "pixels" of the input (centres at integer + 0.5), "unit" (0..1) or
           "indices" (pixel numbers, centres at integers)
axes       of landmarks: "xy" or "yx"
scheme     of landmarks: what their order is called, "ibug68" or any other name, or null where
           nobody says. It changes no measured number, only what is known about the points
           ("ibug68": which of them are the nose), so it is not part of the fingerprint
presence   null, or {"output": ..., "threshold": ...}: rows below it hold no face
input      {"name", "size": side or [height, width], "layout": "NCHW" or "NHWC",
           "range": [low, high] of black and white, "mean", "std": null or three numbers in units
           of that range, "colour": "RGB" or "BGR",
           "resize": "antialias", "bilinear", "bicubic" or "nearest"}
licence, source  for people; not part of the fingerprint
========== =====================================================================================

Neither onnxruntime nor torch is needed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from schemas.errors import CheckpointError
from schemas.fingerprint import digest, file_sha256

Kind = Literal["scores", "landmarks", "pose"]
KINDS = ("scores", "landmarks", "pose")
#: Landmark schemes that are known here, with their number of points.
SCHEMES = {"ibug68": 68}
ONNX_ENDINGS = (".onnx",)
TORCHSCRIPT_ENDINGS = (".pt", ".pth", ".ts", ".torchscript")
_BUNDLED_ROOT = Path(__file__).parent / "bundled"
_CHOICES: dict[str, tuple[Any, ...]] = {
    "layout": ("NCHW", "NHWC"),
    "colour": ("RGB", "BGR"),
    "resize": ("antialias", "bilinear", "bicubic", "nearest"),
    "coordinates": ("pixels", "unit", "indices"),
    "axes": ("xy", "yx"),
    "activation": (None, "sigmoid", "softmax"),
}


@dataclass(frozen=True)
class AnnotatorCard:
    """What a model's description says; the fields are those of the module text.

    path : the model file. fingerprint : 64 hex digits over the file's bytes and over everything
        in the description that changes a number; filled in by `read_card`.
    """

    path: str
    name: str
    kind: Kind
    names: tuple[str, ...]
    output: str | int | None = None
    input_name: str | None = None
    size: tuple[int, int] = (64, 64)
    layout: str = "NCHW"
    value_range: tuple[float, float] = (-1.0, 1.0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    colour: str = "RGB"
    resize: str = "antialias"
    coordinates: str = "pixels"
    axes: str = "xy"
    scheme: str | None = None
    activation: str | None = None
    presence: tuple[str | int, float] | None = None
    licence: str | None = None
    source: str | None = None
    fingerprint: str = field(default="", compare=False)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one image's result."""
        return (len(self.names), 2) if self.kind == "landmarks" else (len(self.names),)

    @property
    def group(self) -> str:
        """Group of the latent store that holds the results."""
        return "landmarks" if self.kind == "landmarks" else "annotations"

    def identity(self) -> dict[str, Any]:
        """The part of the description that changes a number (not the name in the store)."""
        return {
            "kind": self.kind,
            "names": list(self.names),
            "output": self.output,
            "input_name": self.input_name,
            "size": list(self.size),
            "layout": self.layout,
            "range": list(self.value_range),
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
            "colour": self.colour,
            "resize": self.resize,
            "coordinates": self.coordinates,
            "axes": self.axes,
            "activation": self.activation,
            "presence": None if self.presence is None else list(self.presence),
        }


def resolve_uri(uri: str) -> Path:
    """The model file of "bundled:<set>/<model>" or of a path, with or without its ending.

    Raises CheckpointError when there is none.
    """
    if uri.startswith("bundled:"):
        relative = uri.removeprefix("bundled:")
        path = _BUNDLED_ROOT / relative
        if ".." in Path(relative).parts or not path.resolve().is_relative_to(_BUNDLED_ROOT):
            raise CheckpointError(
                f"annotator {uri!r} leaves the bundled models: use 'bundled:<set>/<model>'"
            )
    else:
        path = Path(uri)
    candidates = [path, *(path.with_name(path.name + end) for end in ONNX_ENDINGS)]
    found = next((p for p in candidates if p.is_file()), None)
    if found is None:
        raise CheckpointError(
            f"annotator {uri!r} does not exist (looked for {str(path)!r}): give the path of an "
            "ONNX file, or 'bundled:faces64/attributes'"
        )
    return found


def read_card(uri: str, name: str | None = None) -> AnnotatorCard:
    """The description of the annotator at ``uri``, fingerprint included, without loading it.

    name : of the annotations; by default the description's own.
    Raises CheckpointError for a missing file, or a missing, damaged or contradictory description.
    """
    path = resolve_uri(uri)
    sidecar = path.with_suffix(".json")
    try:
        raw = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise CheckpointError(
            f"annotator {str(path)!r} has no description {str(sidecar)!r}: write one with name, "
            "kind, output, names and input (see generators/annotator_card.py)"
        ) from e
    except (OSError, ValueError) as e:
        raise CheckpointError(f"description {str(sidecar)!r} cannot be read: {e}") from e
    try:
        card = _card(raw, str(path), name)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise CheckpointError(
            f"description {str(sidecar)!r} is not usable: {_why(e)}; "
            "see generators/annotator_card.py for its keys"
        ) from e
    fingerprint = digest({"model": file_sha256(path), **card.identity()})
    return AnnotatorCard(**{**vars(card), "fingerprint": fingerprint})


def _why(error: Exception) -> str:
    return f"key {error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def _card(raw: Mapping[str, Any], path: str, name: str | None) -> AnnotatorCard:
    given = dict(raw["input"])
    size = given["size"]
    height, width = (size, size) if isinstance(size, int) else size
    chosen = {
        key: (given if key in ("layout", "colour", "resize") else raw).get(key, choices[0])
        for key, choices in _CHOICES.items()
    }
    for key, value in chosen.items():
        if value not in _CHOICES[key]:
            raise ValueError(f"{key!r} is {value!r}, expected one of {_CHOICES[key]!r}")
    kind = raw["kind"]
    if kind not in KINDS:
        raise ValueError(f"'kind' is {kind!r}, expected one of {KINDS!r}")
    names = tuple(str(n) for n in raw["names"])
    if not names or len(set(names)) != len(names):
        raise ValueError(f"'names' is {list(names)!r}: give at least one, and each once")
    if kind == "pose" and names != ("yaw", "pitch", "roll"):
        raise ValueError(f"'names' of a pose is {list(names)!r}, expected yaw, pitch, roll")
    if min(int(height), int(width)) < 1:
        raise ValueError(f"'size' is {size!r}: give pixels, at least 1")
    low, high = (float(v) for v in given.get("range", (-1, 1)))
    presence = raw.get("presence")
    statistics = [_three(given.get(key), key) for key in ("mean", "std")]
    if statistics[1] is not None and min(statistics[1]) <= 0:
        raise ValueError(f"'std' is {list(statistics[1])!r}: give positive numbers")
    scheme = raw.get("scheme")
    if scheme is not None and (kind != "landmarks" or not isinstance(scheme, str) or not scheme):
        raise ValueError(
            f"'scheme' is {scheme!r} and 'kind' {kind!r}: give the name of the landmarks' order, "
            "such as 'ibug68', and only for landmarks"
        )
    if scheme in SCHEMES and len(names) != SCHEMES[scheme]:
        raise ValueError(
            f"'scheme' {scheme!r} has {SCHEMES[scheme]!r} points, 'names' has {len(names)!r}: "
            "name them all, or leave 'scheme' out"
        )
    return AnnotatorCard(
        path=path,
        name=name if name is not None else str(raw["name"]),
        kind=kind,
        names=names,
        output=raw.get("output"),
        input_name=given.get("name"),
        size=(int(height), int(width)),
        layout=chosen["layout"],
        value_range=(low, high),
        mean=statistics[0],
        std=statistics[1],
        colour=chosen["colour"],
        resize=chosen["resize"],
        coordinates=chosen["coordinates"],
        axes=chosen["axes"],
        scheme=scheme,
        activation=chosen["activation"],
        presence=None if presence is None else (presence["output"], float(presence["threshold"])),
        licence=raw.get("licence"),
        source=raw.get("source"),
    )


def _three(value: Sequence[float] | None, key: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if len(value) != 3:
        raise ValueError(f"{key!r} has {len(value)!r} numbers, expected one a colour channel")
    return tuple(float(v) for v in value)
