"""Descriptions of annotator models: what a model file needs, gives, and how its numbers read.

A model ``<name>.onnx`` (or ``.pt``) has its description beside it in ``<name>.json``:

========== =====================================================================================
name       of the annotations
kind       "scores", "landmarks", "pose" (of yaw, pitch and roll one or more, in any order),
           "embedding", or another of `generators.annotators.kinds` and of installed packages
output     name or position of the ONNX output (TorchScript: key or position of the result)
names      of the scores, angles or points, in the order of the output; of an embedding also
           the number of its elements
activation null, "sigmoid" or "softmax", applied to scores
unit       of a pose: "degrees" or "radians"; stored are degrees
coordinates of landmarks: "pixels" of the input (centres at integer + 0.5), "unit" (0..1) or
           "indices" (pixel numbers, centres at integers)
axes       of landmarks: which numbers a point has, "xy" or "yx"; other letters are numbers that
           are left out, such as a depth or a confidence: "xyz", "yxc"
order      of landmarks: "points", (n, points, 2) or in one row x, y, x, y, ...; "planes",
           (n, 2, points) or in one row all x, then all y
scheme     of landmarks: what the order of the points is called, one of
           `schemas.landmark_schemes` ("ibug68", "mediapipe468") or any other name, or null where
           nobody says. It changes no measured number, only what is known about the points (which
           of them are the nose), so it is not part of the fingerprint
presence   null, or {"output": ..., "threshold": ..., "index": ...}: rows below it hold no face;
           "index" is the place of the face's score where the output has several a row. A model
           that gives one picture several rows is taken at its word for the highest of them
input      {"name", "size": side or [height, width], "layout": "NCHW" or "NHWC",
           "range": [low, high] of black and white, [-1, 1] where neither "mean" nor "std" is
           given; "mean", "std": null or three numbers in units of that range,
           "colour": "RGB" or "BGR",
           "resize": "antialias", "bilinear", "bicubic" or "nearest"}
crop       null (the whole picture), or the part that another annotator finds:
           `generators.annotators.crop`
options    null, or what a kind of another package wants to know
licence, source, notes  for people; not part of the fingerprint
========== =====================================================================================

Of a result's shape only axes of length 1 may come or go; everything else is refused.
Neither onnxruntime nor torch is needed here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from generators.annotators.crop import Crop, read_crop
from generators.annotators.kinds.base import AnnotatorKind
from generators.annotators.kinds.catalog import KINDS
from generators.file_kinds import missing, no_bundled
from generators.obtained.recipe import check_obtained, obtained_file
from generators.onnx_files import data_files
from schemas.errors import CheckpointError
from schemas.fingerprint import digest, file_sha256
from schemas.landmark_schemes import SCHEMES
from schemas.sections.types import OBTAINED

ONNX_ENDINGS = (".onnx",)
TORCHSCRIPT_ENDINGS = (".pt", ".pth", ".ts", ".torchscript")
_BUNDLED_ROOT = Path(__file__).parents[1] / "bundled"
_CHOICES: dict[str, tuple[Any, ...]] = {
    "layout": ("NCHW", "NHWC"),
    "colour": ("RGB", "BGR"),
    "resize": ("antialias", "bilinear", "bicubic", "nearest"),
    "coordinates": ("pixels", "unit", "indices"),
    "order": ("points", "planes"),
    "activation": (None, "sigmoid", "softmax"),
    "unit": ("degrees", "radians"),
}
MAX_SIDE = 4096
"""Pixels that a model may read in one direction."""
_INPUT_KEYS = ("name", "size", "layout", "range", "mean", "std", "colour", "resize")
_PRESENCE_KEYS = ("output", "threshold", "index")
_KEYS = (
    *("name", "kind", "output", "names", "activation", "unit", "coordinates", "axes", "order"),
    *("scheme", "presence", "input", "crop", "options", "licence", "source", "notes"),
)


@dataclass(frozen=True)
class AnnotatorCard:
    """What a model's description says; the fields are those of the module text.

    path : the model file. order : None where the description leaves it open ("points").
    finder : of the annotator that finds the crop, where there is one.
    content : sha256 of each of the model's files; filled in by `read_card`.
    fingerprint : 64 hex digits over the bytes of the model's files and over everything in the
        description that changes a number; filled in by `read_card`.
    """

    path: str
    name: str
    kind: str
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
    order: str | None = None
    scheme: str | None = None
    activation: str | None = None
    unit: str = "degrees"
    presence: tuple[str | int, float] | None = None
    presence_index: int | None = None
    crop: Crop | None = None
    finder: AnnotatorCard | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    licence: str | None = None
    source: str | None = None
    content: tuple[str, ...] = field(default=(), compare=False)
    fingerprint: str = field(default="", compare=False)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one image's result."""
        return KINDS.load(self.kind).row_shape(self)

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes in which a model may give one image's numbers; landmarks also in one row."""
        return KINDS.load(self.kind).output_shapes(self)

    @property
    def group(self) -> str:
        """Group of the latent store that holds the results."""
        return KINDS.load(self.kind).group

    def picture_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which it wants a picture whose generator draws this size: its input's
        own, or, where it looks at a part, twice that across with the generator's aspect ratio."""
        if self.finder is None:
            return self.size
        chain: list[AnnotatorCard] = [self]
        while (finder := chain[-1].finder) is not None:
            chain.append(finder)
        across = 2 * max(max(card.size) for card in chain)
        ratio = min(across / min(size), MAX_SIDE / max(size))
        return max(round(size[0] * ratio), 1), max(round(size[1] * ratio), 1)

    def identity(self) -> dict[str, Any]:
        """The part of the description that changes a number (not the name in the store)."""
        found: dict[str, Any] = {
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
        if self.order == "planes":
            found["order"] = self.order
        if self.unit != "degrees":
            found["unit"] = self.unit
        if self.presence_index is not None:
            found["presence_index"] = self.presence_index
        if self.options:
            found["options"] = dict(self.options)
        version = KINDS.load(self.kind).version
        if version > 1:
            found["version"] = version
        if self.crop is not None and self.finder is not None:
            found["crop"] = {**self.crop.identity(), "by": self.finder.fingerprint}
        return found


def resolve_uri(uri: str) -> Path:
    """The model file of "bundled:<set>/<model>", "obtained:<name>" or of a path; in the last case
    its ending may be missing.

    Raises CheckpointError when there is none.
    """
    if uri.startswith(OBTAINED):
        return obtained_file(uri)
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
        if not uri.startswith("bundled:"):
            raise CheckpointError(missing(path, "annotator", (*ONNX_ENDINGS, *TORCHSCRIPT_ENDINGS)))
        models = [p.relative_to(_BUNDLED_ROOT) for p in _BUNDLED_ROOT.glob("*/*.onnx")]
        have = [f"bundled:{model.with_suffix('').as_posix()}" for model in models]
        raise CheckpointError(no_bundled("annotator", uri, have))
    return found


def read_card(uri: str, name: str | None = None) -> AnnotatorCard:
    """The description of the annotator at ``uri``, fingerprint included, without loading it.

    name : of the annotations; by default the description's own.
    Raises CheckpointError for a missing file, or a missing, damaged or contradictory description.
    """
    return _fingerprinted(read_description(uri, name))


def _fingerprinted(card: AnnotatorCard) -> AnnotatorCard:
    if card.finder is not None:
        card = replace(card, finder=_fingerprinted(card.finder))
    model = file_sha256(card.path)
    check_obtained(Path(card.path), model)
    identity = {"model": model, **card.identity()}
    data = [file_sha256(file) for file in _data_files(Path(card.path))]
    beside = [file_sha256(file) for file in KINDS.load(card.kind).data_files(card)]
    if data or beside:
        identity["data"] = data + beside
    return replace(card, fingerprint=digest(identity), content=(model, *data))


def read_description(uri: str, name: str | None = None) -> AnnotatorCard:
    """`read_card` without the fingerprint, for which the whole model file must be read."""
    return _described(resolve_uri(uri), name, ())


def _described(path: Path, name: str | None, asked: tuple[Path, ...]) -> AnnotatorCard:
    """asked : the models that look at a part which this one finds, to tell a circle."""
    sidecar = path.with_suffix(".json")
    try:
        raw = json.loads(sidecar.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as e:
        raise CheckpointError(
            f"annotator {str(path)!r} has no description {str(sidecar)!r}: write one with name, "
            "kind, output, names and input (see 'Annotators' in docs/your-data.md)"
        ) from e
    except (OSError, ValueError, RecursionError) as e:
        raise CheckpointError(
            f"description {str(sidecar)!r} cannot be read: {e}; it must be a JSON file"
        ) from e
    try:
        card = _card(raw, str(path), name)
        KINDS.load(card.kind).data_files(card)
        if card.crop is None:
            return card
        return replace(card, finder=_finder(card.crop, path, (*asked, path.resolve())))
    except (KeyError, ValueError) as e:
        raise CheckpointError(
            f"description {str(sidecar)!r} is not usable: {_why(e)}; "
            "see 'Annotators' in docs/your-data.md for its keys"
        ) from e


def _finder(crop: Crop, path: Path, asked: tuple[Path, ...]) -> AnnotatorCard:
    """The card of the annotator that finds the crop which the model at `path` looks at."""
    known = crop.by.startswith(("bundled:", OBTAINED))
    try:
        found = resolve_uri(crop.by if known else str(path.parent / crop.by))
    except CheckpointError as e:
        raise ValueError(f"'crop.by': {e}") from e
    if found.resolve() in asked:
        raise ValueError(
            f"'crop.by' is {crop.by!r}, which looks at a crop that is found by this annotator: "
            "name one that looks at the whole picture"
        )
    finder = _described(found, None, asked)
    crop.check(finder.kind, finder.names)
    return finder


def files_of(uri: str) -> list[Path]:
    """All files that make up the annotator at ``uri``: model, description, the data files that an
    ONNX model names, those of its kind, and those of the annotator that finds its crop. Raises
    CheckpointError as `read_card` does, of an unusable description nothing."""
    path = resolve_uri(uri)
    own = [path, path.with_suffix(".json"), *_data_files(path)]
    try:
        card = _described(path, None, ())
    except CheckpointError:
        return own
    own += KINDS.load(card.kind).data_files(card)
    return own if card.finder is None else [*own, *files_of(card.finder.path)]


def _data_files(path: Path) -> list[Path]:
    return list(data_files(path).values()) if path.suffix.lower() in ONNX_ENDINGS else []


def _why(error: Exception) -> str:
    return f"key {error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


# ---------------------------------------------------------------------------------------------
# Checking a description: each function raises ValueError, naming key, value and cure


def _card(raw: Any, path: str, name: str | None) -> AnnotatorCard:
    raw = _mapping(raw, "the description", _KEYS)
    given = _mapping(raw["input"], "'input'", _INPUT_KEYS)
    chosen = {
        key: _choice(given if key in _INPUT_KEYS else raw, key)
        for key in _CHOICES
        if key != "order"
    }
    kind = raw["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"'kind' is {kind!r}, expected one of {KINDS.names()!r}")
    measured = KINDS.load(kind)
    names = _names(measured.names(raw["names"]))
    options = _mapping(raw.get("options") or {}, "'options'", None)
    measured.check(names, options)
    for key in ("activation", "unit"):
        if key not in measured.keys and chosen[key] != _CHOICES[key][0]:
            of = [each.name for each in KINDS if key in each.keys]
            raise ValueError(
                f"{key!r} is {chosen[key]!r} and 'kind' {kind!r}: only {of[0]!r} has one, leave it "
                "out"
            )
    mean, std = (_three(given.get(key), key) for key in ("mean", "std"))
    if std is not None and min(std) <= 0:
        raise ValueError(f"'std' is {list(std)!r}: give positive numbers")
    if (mean is not None or std is not None) and given.get("range") is None:
        raise ValueError(
            f"'mean' {mean!r} and 'std' {std!r} are in units of 'range', which is not given: set "
            "it to [0, 1] where they are fractions of white (ImageNet's .485, .456, .406), to "
            "[0, 255] where they are pixel values"
        )
    return AnnotatorCard(
        path=path,
        name=name if name is not None else _text(raw["name"], "name"),
        kind=kind,
        names=names,
        output=None if raw.get("output") is None else _output(raw["output"], "output"),
        input_name=None if given.get("name") is None else _text(given["name"], "input.name"),
        size=_size(given["size"]),
        layout=chosen["layout"],
        value_range=_range(given.get("range", (-1, 1))),
        mean=mean,
        std=std,
        colour=chosen["colour"],
        resize=chosen["resize"],
        coordinates=chosen["coordinates"],
        axes=_axes(raw.get("axes", "xy")),
        order=None if raw.get("order") is None else _choice(raw, "order"),
        scheme=_scheme(raw.get("scheme"), measured, names),
        activation=chosen["activation"],
        unit=chosen["unit"],
        **_presence(raw.get("presence")),
        crop=None if raw.get("crop") is None else read_crop(raw["crop"]),
        options=options,
        licence=raw.get("licence"),
        source=raw.get("source"),
    )


def _mapping(value: Any, what: str, keys: tuple[str, ...] | None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        of = "" if keys is None else f" with the keys {keys!r}"
        raise ValueError(f"{what} is {value!r}, expected an object{of}")
    unknown = [] if keys is None else sorted(set(value) - set(keys))
    if unknown:
        raise ValueError(
            f"{what} has the unknown keys {unknown!r}, known are {keys!r}: correct them, or leave "
            "them out"
        )
    return value


def _choice(given: Mapping[str, Any], key: str) -> Any:
    choices = _CHOICES[key]
    value = given.get(key, choices[0])
    if not any(value is choice or value == choice for choice in choices):
        raise ValueError(f"{key!r} is {value!r}, expected one of {choices!r}")
    return value


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key!r} is {value!r}: give a name")
    return value


def _names(value: Any) -> tuple[str, ...]:
    whole = isinstance(value, list) and all(
        isinstance(n, str | int) and not isinstance(n, bool) for n in value
    )
    names = tuple(map(str, value)) if whole else ()
    if not names or len(set(names)) != len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise ValueError(
            f"'names' is {twice or value!r}: give a list of at least one name, and each once"
        )
    padded = [n for n in names if n != n.strip() or not n]
    if padded:
        raise ValueError(f"'names' has {padded!r}: give names without space around them")
    return names


def _output(value: Any, key: str) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{key!r} is {value!r}: give the name or the position of an output")
    return value


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key!r} is {value!r}: give a number")
    return float(value)


def _size(value: Any) -> tuple[int, int]:
    sides = value if isinstance(value, list) else [value, value]
    if len(sides) != 2 or not all(isinstance(s, int) and not isinstance(s, bool) for s in sides):
        raise ValueError(f"'size' is {value!r}: give a side, or [height, width], in pixels")
    if not 1 <= min(sides) <= max(sides) <= MAX_SIDE:
        raise ValueError(f"'size' is {value!r}: give pixels, 1 to {MAX_SIDE}")
    return sides[0], sides[1]


def _range(value: Any) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"'range' is {value!r}: give [low, high], what black and white are")
    low, high = (_number(v, "range") for v in value)
    if low == high:
        raise ValueError(f"'range' is {value!r}: black and white must differ")
    return low, high


def _three(value: Any, key: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3:
        has = f"has {len(value)!r} numbers" if isinstance(value, list) else f"is {value!r}"
        raise ValueError(f"{key!r} {has}, expected one a colour channel")
    return tuple(_number(v, key) for v in value)


def _axes(value: Any) -> str:
    if (
        not isinstance(value, str)
        or not (value.isalpha() and value.islower() and 2 <= len(value) <= 4)
        or not {"x", "y"} <= set(value)
        or len(set(value)) != len(value)
    ):
        raise ValueError(
            f"'axes' is {value!r}: give one letter a number of a point, x and y among them, such "
            "as 'xy', 'yx' or 'xyz'"
        )
    return value


def _scheme(value: Any, kind: AnnotatorKind, names: tuple[str, ...]) -> str | None:
    if value is None:
        return None
    if "scheme" not in kind.keys or not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"'scheme' is {value!r} and 'kind' {kind.name!r}: give the name of the landmarks' "
            "order, such as 'ibug68', and only for landmarks"
        )
    if value in SCHEMES and len(names) != SCHEMES[value].count:
        raise ValueError(
            f"'scheme' {value!r} has {SCHEMES[value].count!r} points, 'names' has {len(names)!r}: "
            "name them all, or leave 'scheme' out"
        )
    return value


def _presence(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    given = _mapping(value, "'presence'", _PRESENCE_KEYS)
    index = given.get("index")
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
        raise ValueError(f"'presence.index' is {index!r}: give a position, from 0 on, or null")
    threshold = _number(given["threshold"], "presence.threshold")
    output = _output(given["output"], "presence.output")
    return {"presence": (output, threshold), "presence_index": index}
