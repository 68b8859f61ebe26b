"""Reading a run specification: YAML to `RunSpec`, and errors that say where, what and the cure."""

from __future__ import annotations

import math
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError, create_model
from pydantic.fields import FieldInfo

from schemas.errors import SpecError
from schemas.sections.catalog import AnalyseSpec, analyse_model, foreign_keys
from schemas.sections.invert import InvertSpec
from schemas.sections.types import SpecModel
from schemas.spec_models import (
    AnnotateSpec,
    BeamSpec,
    DatasetSpec,
    EvaluateSpec,
    GeneratorSpec,
    HoldoutSpec,
    RaySpec,
    ReportSpec,
    RunSpec,
)
from schemas.suggest import suggestion

__all__ = [
    "AnalyseSpec",
    "AnnotateSpec",
    "BeamSpec",
    "DatasetSpec",
    "EvaluateSpec",
    "GeneratorSpec",
    "HoldoutSpec",
    "InvertSpec",
    "RaySpec",
    "ReportSpec",
    "RunSpec",
    "json_schema",
    "load_spec",
    "parse_spec",
]

MAX_SPEC_BYTES = 1 << 20
_TRUST = (
    "whether code inside a model file may run is never decided by a specification file: "
    "remove the key and give --trust on the command line if you trust the model"
)

_FORMS = {
    "list_type": "must be a list, [a, b] or lines that begin with '- '",
    "tuple_type": "must be a list, [a, b]",
    "dict_type": "must hold entries of the form 'name: value'",
    "literal_error": "not one of the values that it may have",
}

Location = tuple[str | int, ...]


def load_spec(path: str | os.PathLike[str]) -> RunSpec:
    """Read a YAML run specification; file paths in it are relative to its own folder.

    A section, list or analysis that is named without a value (``pca:``) has its defaults.

    Raises SpecError naming the file and, for every problem at once, line, key path, value and
    cure: unreadable file, YAML syntax, doubled or unknown keys, wrong values.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_SPEC_BYTES + 1)
    except OSError as e:
        raise SpecError(
            f"specification {str(path)!r} cannot be read: {e.strerror}: check the path"
        ) from e
    if len(raw) > MAX_SPEC_BYTES:
        raise SpecError(
            f"specification {str(path)!r} is larger than {MAX_SPEC_BYTES} bytes: is it YAML?"
        )
    return parse_spec(raw, base=path.absolute().parent, name=str(path))


def parse_spec(text: str | bytes, base: str | os.PathLike[str], name: str = "spec") -> RunSpec:
    """`load_spec` for text: ``base`` is the folder of relative paths, ``name`` names the file."""
    try:
        loader = _SpecLoader(text)
        try:
            node = loader.get_single_node()
            lines = _lines(node)
            data = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as e:
        raise SpecError(f"specification {name!r} is not valid YAML: {_yaml_problem(e)}") from e
    except _DoubledKeyError as e:
        raise SpecError(f"specification {name!r}: {e}") from e
    if not isinstance(data, dict):
        raise SpecError(
            f"specification {name!r} must be a mapping of keys, got "
            f"{type(data).__name__!r}: start with 'name:' and 'dataset:'"
        )
    _fill_in(data, RunSpec)
    try:
        return RunSpec.model_validate(data, context={"base": Path(base)})
    except ValidationError as e:
        raise SpecError(_problems(e, data, lines, name)) from e


def _fill_in(data: dict[str, Any], model: type[SpecModel]) -> None:
    """Take out sections and lists without a value, in place, so that they have their defaults."""
    for key, field in model.fields_for(data).items():
        if key not in data:
            continue
        section = next(_models_in(field.annotation), None)
        if data[key] is not None:
            if section is not None and isinstance(data[key], dict):
                _fill_in(data[key], section)
        elif isinstance(field.default, BaseModel | list):
            del data[key]
        elif issubclass(model, AnalyseSpec):
            data[key] = {}


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the run specification, for editors and documentation.

    With the sections of other packages' analyses, as far as they can be imported.
    """
    spec, analyse = RunSpec, analyse_model(foreign_keys())
    if analyse is not AnalyseSpec:
        field = RunSpec.model_fields["analyse"]
        spec = create_model(
            "RunSpec", __base__=RunSpec, __doc__=RunSpec.__doc__, analyse=(analyse, field)
        )
    schema = spec.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# ---------------------------------------------------------------------------------------------
# YAML


_NUMBERS = ("int", "float", "timestamp")


class _SpecLoader(yaml.SafeLoader):
    """Numbers and dates as YAML 1.2 reads them, so that factor levels stay themselves: the rules of
    YAML 1.1 make 511 of ``0777``, 90 of ``1:30``, 1000 of ``1_000`` and a date of ``2024-05-01``.
    What is a text here still becomes a number where the specification wants one.
    """

    yaml_implicit_resolvers: typing.ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {
        first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] not in _NUMBERS]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def written_float(self, node: yaml.ScalarNode) -> float | str:
        """The number, or its text where that is more than the number (``1.10`` as a level)."""
        value: float = self.construct_yaml_float(node)
        plain = not math.isfinite(value) or repr(value) == node.value
        return value if plain else str(node.value)


for _tag, _rule in (
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+"),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)"),
):
    _SpecLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?i)^(?:{_rule})$"), list("-+.0123456789")
    )
_SpecLoader.add_constructor("tag:yaml.org,2002:float", _SpecLoader.written_float)


class _DoubledKeyError(Exception):
    pass


def _lines(root: yaml.Node | None) -> dict[Location, int]:
    """Key path -> line number (from 1). Refuses doubled keys, which YAML would silently merge,
    and aliases, which no specification needs and which can make a small file endless."""
    lines: dict[Location, int] = {}
    seen: set[int] = set()

    def walk(node: yaml.Node, where: Location) -> None:
        if id(node) in seen and not isinstance(node, yaml.ScalarNode):
            raise _DoubledKeyError(
                f"line {node.start_mark.line + 1}: anchors and aliases are not supported: "
                "write the section out"
            )
        seen.add(id(node))
        lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
                line = key.start_mark.line + 1
                if name in keys:
                    raise _DoubledKeyError(
                        f"line {line}: key {_dotted((*where, name))!r} stands twice: remove one"
                    )
                keys.add(name)
                lines[(*where, name)] = line
                walk(value, (*where, name))
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                walk(value, (*where, i))

    if root is not None:
        walk(root, ())
    return lines


def _yaml_problem(error: BaseException) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    return f"line {mark.line + 1}: {problem}" if mark is not None else " ".join(problem.split())


# ---------------------------------------------------------------------------------------------
# Messages


def _problems(
    error: ValidationError, data: Mapping[str, Any], lines: Mapping[Location, int], name: str
) -> str:
    found: dict[Location, str] = {}
    for detail in error.errors():
        where = _existing(detail["loc"], data, detail["type"] == "missing")
        line = _line(where, lines)
        text = _problem(where, detail, data)
        # the members of a union each complain about the same place: the first one will do
        found.setdefault(where, f"line {line}: {text}" if line else text)
    # and the one that got furthest into the place knows it best
    inner = {where[:end] for where in found for end in range(len(where))}
    texts = [text for where, text in found.items() if where not in inner]
    if len(texts) == 1:
        return f"specification {name!r}, {texts[0]}"
    return f"specification {name!r} has {len(texts)} problems:\n" + "\n".join(
        f"  {text}" for text in texts
    )


def _existing(loc: Sequence[str | int], data: Any, missing: bool) -> Location:
    """The part of pydantic's location that is a path in the file (union tags are left out)."""
    path: list[str | int] = []
    for i, step in enumerate(loc):
        if isinstance(data, Mapping) and step in data:
            data = data[step]
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        elif not (missing and i == len(loc) - 1):
            continue
        path.append(step)
    return tuple(path)


def _line(where: Location, lines: Mapping[Location, int]) -> int | None:
    for end in range(len(where), 0, -1):
        if where[:end] in lines:
            return lines[where[:end]]
    return None


def _dotted(where: Sequence[str | int]) -> str:
    text = ""
    for step in where:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _problem(where: Location, detail: Mapping[str, Any], data: Any) -> str:
    key, kind, value = _dotted(where), detail["type"], detail.get("input")
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        last = str(where[-1])
        if last == "trust":
            return f"{key!r} is not a key of a specification: {_trust_value(value)}{_TRUST}"
        section = next(_models_in(_annotation_at(where[:-1], data)))
        cure = section.about_unknown(last, _value_at(where[:-1], data))
        return f"unknown key {key!r} (value {_shown(value)}): {cure}"
    if kind == "missing":
        return f"key {key!r} is missing: add it ({_description(where, data)})"
    annotation = _annotation_at(where, data)
    if kind == "literal_error" and (choices := _choices(annotation)):
        return f"{key!r} is {_shown(value)}: {suggestion(str(value), choices)}"
    if kind == "value_error":
        text = str(context.get("error", detail["msg"]))
        within = f"{key!r}: " if key and not text.startswith("'") else ""
        return (
            f"{within}{text}" if isinstance(value, dict) else f"{key!r} is {_shown(value)}: {text}"
        )
    if kind == "string_pattern_mismatch":
        marks = "'_', '-' and '.'" if "." in str(context.get("pattern")) else "'_' and '-'"
        return (
            f"{key!r} is {_shown(value)}: use letters, digits, {marks} only, beginning with a "
            "letter or digit"
        )
    if kind == "invalid_key":
        return f"key {value!r} is no text: put it between quotes"
    if kind in ("model_type", "model_attributes_type"):
        fields = next(_models_in(annotation)).fields_for(value)
        keys = f"must hold keys of its own ({', '.join(fields)})"
        optional = not any(field.is_required() for field in fields.values())
        rest = ", or nothing, for its defaults" if optional else ""
        return f"{key!r} is {_shown(value)}: {keys}{rest}"
    hint = ""
    if kind == "string_type" and isinstance(value, bool | int | float):
        hint = ": put it between quotes"
        if isinstance(value, bool):
            hint += " (YAML reads yes, no, on and off as true and false)"
    text = _FORMS.get(kind, _lower(detail["msg"]))
    return f"{key!r} is {_shown(value)}: {text}{hint} ({_description(where, data)})"


def _trust_value(value: Any) -> str:
    return f"(value {_shown(value)}) " if value is not None else ""


def _lower(text: str) -> str:
    text = text.replace("Tuple", "list").replace(" after validation", "")
    return text[:1].lower() + text[1:]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _description(where: Location, data: Any) -> str:
    for end in range(len(where), 0, -1):
        field = _fields_at(where[: end - 1], data).get(str(where[end - 1]))
        if field is not None and field.description:
            return str(field.description).rstrip(".")
    return "see 'latentflow schema'"


def _fields_at(where: Location, data: Any) -> Mapping[str, FieldInfo]:
    for model in _models_in(_annotation_at(where, data)):
        return model.fields_for(_value_at(where, data))
    return {}


def _annotation_at(where: Location, data: Any) -> Any:
    """Type annotation of the place ``where`` in the specification ``data``."""
    here: Any = RunSpec
    for depth, step in enumerate(where):
        model = next(_models_in(here), None)
        if isinstance(step, int):
            arguments = [a for a in _flatten(here) if typing.get_origin(a) is list]
            here = typing.get_args(arguments[0])[0] if arguments else None
            continue
        fields = {} if model is None else model.fields_for(_value_at(where[:depth], data))
        field = fields.get(step)
        if field is None:
            return None
        here = field.annotation
    return here


def _value_at(where: Location, data: Any) -> Any:
    """What stands at the place ``where``; None where nothing does."""
    for step in where:
        if isinstance(data, Mapping):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            return None
    return data


def _flatten(annotation: Any) -> Iterator[Any]:
    """The annotation itself, and its members where it is a union or Annotated."""
    yield annotation
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _flatten(member)
    elif origin is typing.Annotated:
        yield from _flatten(typing.get_args(annotation)[0])


def _models_in(annotation: Any) -> Iterator[type[SpecModel]]:
    for member in _flatten(annotation):
        if isinstance(member, type) and issubclass(member, SpecModel):
            yield member


def _choices(annotation: Any) -> list[str]:
    """The values of a choice; none where there are other ways to give a value."""
    members = list(_flatten(annotation))
    choices = [m for m in members if typing.get_origin(m) is typing.Literal]
    if any(typing.get_origin(member) is list for member in members):
        return []
    return [str(choice) for member in choices for choice in typing.get_args(member)]
