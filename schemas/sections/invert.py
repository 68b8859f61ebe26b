"""The section ``invert`` of a run specification: ``method`` chooses what else stands in it.

`InvertSpec` has the keys that all inversion methods share. Each method has a section of its own, a
subclass with its own keys beside them: of ours a file in `schemas.sections.inversion`, of another
package's whatever its plug-in (entry points of the group ``latentflow.inversions``) calls
``section``.

Every key is part of the store's identity, so that another value makes other codes in another
store, but for those marked `SAME_CODES` or `UNUSED`. A `MODEL_FILE` enters by what it holds, a
`MODEL` by its fingerprint, and a key `WHEN_SET` only with another value than its default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    SerializeAsAny,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from schemas.catalog import Catalog
from schemas.errors import CheckpointError, PluginError
from schemas.sections.perceptual import PerceptualSpec
from schemas.sections.types import BatchSize, Integer, Space, SpecModel
from schemas.suggest import suggestion

GROUP = "latentflow.inversions"


@dataclass(frozen=True)
class _Mark:
    """What a key has to do with the codes; an entry of its annotation."""

    meaning: str


SAME_CODES = _Mark("other values give the same codes, up to rounding")
UNUSED = _Mark("accepted, for other methods have it, but without effect")
MODEL_FILE = _Mark("path of a file, or of a folder of them; the bytes count, not where it lies")
MODEL = _Mark("what a model is read from; whoever reads it adds its fingerprint")
WHEN_SET = _Mark("left out at its default: stores of before there was the key keep their identity")


@dataclass(frozen=True)
class Needs:
    """What a method cannot do without.

    encoder : an encoder into the generator's latent space
    gradients : of the drawn image with respect to the code
    random : random numbers of each row's own
    """

    encoder: bool = False
    gradients: bool = False
    random: bool = False


def _known(method: str) -> str:
    if method not in SECTIONS:
        raise ValueError(suggestion(method, SECTIONS.names()))
    return method


class InvertSpec(SpecModel):
    """How images become latent codes: the keys of all methods. Made by `invert_section`."""

    method: Annotated[str, AfterValidator(_known)] = Field(
        default="encoder", description="Inversion method; the other keys depend on it."
    )
    space: Space | None = Field(
        default=None,
        description="Latent space of the stored codes. Default: the generator's own, such as "
        "'w_plus' of StyleGAN2.",
    )
    noise_mode: Literal["const", "none"] = Field(
        default="const", description="The generator's noise inputs: its stored buffers, or zeros."
    )
    batch_size: Annotated[BatchSize, SAME_CODES] = Field(
        default=32,
        description="Images in one forward pass, from 1 to 8192; does not change results beyond "
        "rounding. auto: the most, a power of two, with which an actor stays below "
        "'ray.actor_memory_mb', measured before the first block.",
    )
    block_rows: Annotated[Integer | None, SAME_CODES] = Field(
        default=None,
        description="Rows of a block, a power of two from 64 to 8192. Default: the one that "
        "brings the largest array's block nearest to 32 MB.",
    )
    actors: Annotated[Integer | None, SAME_CODES] = Field(
        default=None,
        ge=1,
        le=4096,
        description="Actors that invert, and that draw and measure when directions are "
        "evaluated. Default: 'ray.actors'.",
    )
    threads: Annotated[Integer, SAME_CODES] = Field(
        default=1, ge=1, le=1024, description="CPU threads of one actor."
    )
    crop: Literal["centre", "stretch"] = Field(
        default="centre",
        description="centre: cut the largest centred part of the generator's aspect ratio, then "
        "resize. stretch: resize both sides independently.",
    )
    max_pixels: Annotated[Integer, SAME_CODES] = Field(
        default=1 << 26,
        ge=1,
        le=178_956_970,
        description="Images with more pixels (width x height) are "
        "quarantined by their header, as decompression bombs.",
    )

    perceptual: Annotated[PerceptualSpec | None, MODEL] = Field(
        default=None,
        description="Measure every reconstruction by a perceptual distance, too (quality/lpips or "
        "quality/lpips_star); {} takes the project's own network. Part of the store's identity. "
        "Methods that take gradient steps measure by the project's own where it is null.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if type(self) is InvertSpec:
            raise ValueError("each method has a section of its own: use 'invert_section'")
        rows = self.block_rows
        if rows is not None and (rows & (rows - 1) or not 64 <= rows <= 8192):
            near = min((1 << k for k in range(6, 14)), key=lambda power: abs(power - rows))
            raise ValueError(
                f"'block_rows' must be a power of two from 64 to 8192, got {rows!r}: try {near}"
            )
        return self

    @property
    def needs(self) -> Needs:
        """What the method cannot do without, with these settings."""
        return Needs()

    def into(self, space: str) -> Self:
        """The same settings with a space: the one that they name, else `space`."""
        return self if self.space is not None else self.model_copy(update={"space": space})

    def brief(self) -> Self:
        """The same settings in least time: as much memory as they take, whatever the codes."""
        return self

    @property
    def compared_by(self) -> PerceptualSpec | None:
        """The perceptual distance that codes are found or measured by; None for neither."""
        return self.perceptual

    @property
    def measured_by(self) -> PerceptualSpec | None:
        """The perceptual distance that reconstructions are measured by: that of `compared_by`, or
        of methods that take gradient steps, beside which it costs nothing, else the project's own.
        Codes do not depend on it, and it is no part of the store's identity."""
        if self.compared_by is None and self.needs.gradients:
            return PerceptualSpec()
        return self.compared_by

    def identity(self) -> dict[str, Any]:
        """The keys that decide the codes, with their values: part of the store's identity. Of
        settings with a space, see `into`.

        Raises CheckpointError for a `MODEL_FILE` that cannot be read.
        """
        kept = {}
        for name, field in type(self).model_fields.items():
            if any(mark in field.metadata for mark in (SAME_CODES, UNUSED, MODEL)):
                continue
            value = getattr(self, name)
            if WHEN_SET in field.metadata and value == field.default:
                continue
            if MODEL_FILE in field.metadata and value is not None:
                value = _sha256(f"invert.{name}", value)
            kept[name] = value
        return kept

    def without_effect(self) -> dict[str, Any]:
        """The keys that were given although the method does not use them."""
        fields = type(self).model_fields
        given = [name for name in fields if name in self.model_fields_set]
        return {name: getattr(self, name) for name in given if UNUSED in fields[name].metadata}

    @classmethod
    def fields_for(cls, data: Any) -> Mapping[str, FieldInfo]:
        return _section_for(data).model_fields

    @classmethod
    def about_unknown(cls, key: str, data: Any) -> str:
        own = _section_for(data)
        others = [name for name in SECTIONS.names() if key in _fields_of(name)]
        if not others:
            return suggestion(key, _of_use(own))
        methods = " and ".join(map(repr, others))
        return (
            f"it is a key of method {methods}, and 'invert.method' is {_method_in(data)!r}: remove "
            f"it, change the method, or use one of {', '.join(_of_use(own))}"
        )


def _sha256(key: str, path: str) -> str:
    """Of a file's bytes; of a folder, of the names and bytes of all files below it."""
    from schemas.fingerprint import digest, file_sha256  # imports numpy

    try:
        if not os.path.isdir(path):
            return file_sha256(path)
        files = sorted(Path(parent, name) for parent, _, own in os.walk(path) for name in own)
        inside = [file.relative_to(path).as_posix() for file in files]
        return digest([[name, file_sha256(file)] for name, file in zip(inside, files, strict=True)])
    except OSError as e:
        raise CheckpointError(f"{key!r} is {path!r}, which cannot be read: {e.strerror}") from e


# ---------------------------------------------------------------------------------------------
# Which section belongs to a method

SECTIONS: Catalog[Any] = Catalog(
    "inversion method", "schemas.sections.inversion", GROUP, apart=("pivot", "similarity_keys")
)


def section_of(method: str) -> type[InvertSpec]:
    """The section of an inversion method.

    Raises UsageError for a method that there is not, PluginError for one that cannot be used.
    """
    found = SECTIONS.load(method)
    section = found if isinstance(found, type) else getattr(found, "section", None)
    if not (isinstance(section, type) and issubclass(section, InvertSpec)):
        raise PluginError(
            f"inversion method {method!r} has the section {section!r}, which is no subclass of "
            "'schemas.sections.invert.InvertSpec': repair or remove its package"
        )
    return section


def methods_without_encoder() -> list[str]:
    """Those of our methods that need no encoder."""
    return [name for name in SECTIONS.own() if not section_of(name)(method=name).needs.encoder]


def methods_without_gradients() -> list[str]:
    """Those of our methods that need no gradients of what a generator draws."""
    return [name for name in SECTIONS.own() if not section_of(name)(method=name).needs.gradients]


def invert_section(data: Any = None, base: str | None = None) -> InvertSpec:
    """The section of the method that ``data`` names, with its values.

    base : folder of relative paths. Raises pydantic's ValidationError.
    """
    return _read({} if data is None else data, {"base": base})


def _method_in(data: Any) -> str:
    method = data.get("method") if isinstance(data, Mapping) else None
    return method if isinstance(method, str) else str(InvertSpec.model_fields["method"].default)


def _section_for(data: Any) -> type[InvertSpec]:
    method = _method_in(data)
    return section_of(method) if method in SECTIONS else InvertSpec


def _fields_of(method: str) -> Mapping[str, FieldInfo]:
    """Keys of a method; none of one that cannot be imported, which is no concern of another."""
    try:
        return section_of(method).model_fields
    except PluginError:
        return {}


def _of_use(section: type[InvertSpec]) -> list[str]:
    return [key for key, field in section.model_fields.items() if UNUSED not in field.metadata]


def _read(data: Any, context: Any) -> InvertSpec:
    if not isinstance(data, Mapping):
        return data  # an instance, or something that pydantic refuses
    section = _section_for(data)
    if section is InvertSpec:  # an unknown method: whether its keys are right is not known either
        data = {key: value for key, value in data.items() if key in InvertSpec.model_fields}
    return section.model_validate(data, context=context)


def _chosen(data: Any, info: ValidationInfo) -> Any:
    return _read(data, info.context)


class _OneOfTheMethods:
    """JSON Schema of the section: that of one of the methods, which its key ``method`` tells."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        choices = []
        for name in SECTIONS.names():
            choice = handler(section_of(name).__pydantic_core_schema__)
            described = handler.resolve_ref_schema(choice)
            method = described["properties"]["method"]
            method["const"] = name
            if method.pop("default") != name:
                described["required"] = [*described.get("required", ()), "method"]
            for key, field in section_of(name).model_fields.items():
                if UNUSED in field.metadata:
                    described["properties"][key]["deprecated"] = True
            choices.append(choice)
        return {"oneOf": choices}


InvertSection = Annotated[SerializeAsAny[InvertSpec], BeforeValidator(_chosen), _OneOfTheMethods()]
