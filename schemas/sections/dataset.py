"""The section 'dataset': where a run's rows come from, and a table of what is known about them.

`KINDS` is the one list of what a dataset can be. A kind of its own is one line there and one module
`pipelines.sources.<kind>` with a function ``open_dataset``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from schemas.sections.types import (
    Integer,
    Level,
    Levels,
    Number,
    SpecModel,
    SpecPath,
    Strings,
    once,
)
from schemas.suggest import suggestion

SAMPLED = "sampled"
IN_TURN = "in turn"
LABEL = "label"
"""Factor that holds the class labels which a dataset itself gives."""


@dataclass(frozen=True)
class DatasetKind:
    """One kind of dataset.

    text : what 'path' is, or what there is in its place
    keys : of the section that not every kind has
    endings : of 'path', by which the kind is known where none is given
    """

    text: str
    keys: frozenset[str]
    endings: tuple[str, ...] = ()


_FILES = frozenset({"path", "pattern", "exclude"})
_DRAWS = frozenset({"n", "seed", "truncation"})

KINDS = {
    "folder": DatasetKind("image files below 'path'", _FILES),
    "zip": DatasetKind("one zip file of images, or a folder of them", _FILES, (".zip",)),
    "parquet": DatasetKind(
        "one Parquet file, or a folder of them, with a column of image bytes or of paths below "
        "the table's folder",
        _FILES | {"image_column", "columns"},
        (".parquet", ".pq"),
    ),
    "webdataset": DatasetKind(
        "one uncompressed tar file, or a folder of them", _FILES | {"columns"}, (".tar",)
    ),
    SAMPLED: DatasetKind("'n' rows drawn from the generator's own prior, no images", _DRAWS),
}

KIND_OF_ENDING = {ending: name for name, kind in KINDS.items() for ending in kind.endings}


def _kind(name: str) -> str:
    if name not in KINDS:
        raise ValueError(suggestion(name, list(KINDS)))
    return name


Kind = Annotated[
    str, AfterValidator(_kind), WithJsonSchema({"enum": list(KINDS), "type": "string"})
]
Labels = (
    Level
    | Annotated[list[Level], AfterValidator(once), Field(min_length=1)]
    | Annotated[dict[Level, Annotated[Integer, Field(ge=1)]], Field(min_length=1)]
)


def _with_endings(name: str) -> str:
    endings = ", ".join(KINDS[name].endings)
    return f"'kind: {name}'" + (f" ({endings} files)" if endings else "")


class DatasetSpec(SpecModel):
    """The rows, and a table of what is known about them."""

    kind: Kind = Field(
        default="folder",
        description="; ".join(f"{name}: {kind.text}" for name, kind in KINDS.items())
        + ". Default: by the ending of 'path' (.zip, .parquet, .tar), else folder. The labels in "
        "a dataset.json of a zip or folder (StyleGAN's form) become the factor 'label'.",
    )
    path: SpecPath | None = Field(
        default=None, description="Folder or file that holds the images; 'sampled' has none."
    )
    n: Integer | None = Field(
        default=None,
        ge=1,
        description="sampled: number of rows. A larger one appends rows, a smaller one removes "
        "some.",
    )
    seed: Integer = Field(
        default=0,
        ge=0,
        lt=1 << 62,
        description="sampled: seed of the first row; each next row has the next seed. A row "
        "depends on its own seed only.",
    )
    truncation: Number = Field(
        default=1.0,
        gt=0,
        le=1,
        description="sampled: truncation psi; 1 is no truncation.",
    )
    labels: Labels | None = Field(
        default=None,
        description="Class labels, for a class-conditional generator. Of images: name of the "
        "factor that holds each image's class, as a number from 0 or by name. sampled: 'in turn' "
        "(the default), one class, a list of classes that take turns, or proportions such as "
        "{0: 1, 7: 3}; the labels become the factor 'label'.",
    )
    pattern: Strings | None = Field(
        default=None,
        description="Glob of the files to take, relative to 'path', or a list of globs: "
        "'**/*.png', 'train/*'. Without a slash it matches file names at any depth. Every match "
        "becomes a row, decodable or not. Default: all files with a known image ending (for "
        "parquet: all *.parquet; for zip and webdataset: all members with a known image ending). "
        "Hidden files are taken only by a pattern that begins with a dot.",
    )
    exclude: Strings = Field(
        default=[], description="Globs of files to leave out, matched like 'pattern'."
    )
    image_column: str = Field(
        default="image",
        description="parquet: column with the encoded image as bytes, with a struct of 'bytes' "
        "and 'path', or with paths (relative to the table, or absolute below 'path').",
    )
    columns: Strings = Field(
        default=[],
        description="Factor columns inside the dataset itself: columns of the Parquet table, or "
        "fields of a WebDataset sample's .json ('attributes.age' within objects; 'cls' for its "
        ".cls).",
    )
    factors: SpecPath | None = Field(
        default=None,
        description="Table with what is known about each image: CSV (commas, semicolons, tabs), "
        "CelebA's text lists, JSON, JSON lines or Parquet.",
    )
    key: str | None = Field(
        default=None,
        description="Column of the factor table that identifies the image, by its path or by the "
        "sha256 of its file. Default: the first of image_id, path, file, file_name, filename, uri "
        "in which an image is found, else the column in which most are.",
    )
    missing: Levels = Field(
        default=[],
        description="Texts that mean a missing value, besides the usual ones (those of pandas: an "
        "empty cell, NA, None, null, nan, ...).",
    )
    literal: Strings = Field(
        default=[],
        description="Factor columns in which texts such as 'None' or 'NA' are levels; only empty "
        "cells are missing there.",
    )
    continuous: Strings = Field(
        default=[],
        description="Factor columns to take as continuous although their values are integers. By "
        "default, columns with decimals are continuous, all others categorical.",
    )
    categorical: Strings = Field(
        default=[], description="Factor columns to take as categorical although they have decimals."
    )
    ignore: Strings = Field(
        default=[], description="Columns of the factor table to leave out of the index."
    )

    @model_validator(mode="before")
    @classmethod
    def _kind_of_path(cls, data: Any) -> Any:
        if isinstance(data, dict) and "kind" not in data and isinstance(data.get("path"), str):
            kind = KIND_OF_ENDING.get(os.path.splitext(data["path"])[1].lower())
            return data if kind is None else {**data, "kind": kind}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        both = sorted(set(self.continuous) & set(self.categorical))
        if both:
            raise ValueError(
                f"columns {both!r} stand under both 'continuous' and 'categorical': keep one"
            )
        self._of_the_kind()
        if self.key is not None and self.factors is None:
            raise ValueError(
                f"'key' is {self.key!r} but there is no factor table: "
                "name the table under 'factors', or remove 'key'"
            )
        return self

    def _of_the_kind(self) -> None:
        """Refuse keys of other kinds, and a missing one of this kind."""
        for key in sorted(frozenset[str]().union(*(kind.keys for kind in KINDS.values()))):
            kinds = [name for name, kind in KINDS.items() if key in kind.keys]
            changed = getattr(self, key) != type(self).model_fields[key].default
            if changed and self.kind not in kinds:
                needed = " or ".join(map(_with_endings, kinds))
                raise ValueError(
                    f"{key!r} needs {needed}, got {self.kind!r}: set 'kind' to that of the "
                    f"dataset, or leave {key!r} out"
                )
        if self.sampled and self.n is None:
            raise ValueError("'dataset.n' is missing: add it (number of rows to draw)")
        if not self.sampled and self.path is None:
            raise ValueError(
                "'dataset.path' is missing: add it (folder or file that holds the images), or set "
                "'kind: sampled' for rows drawn from the generator"
            )
        if not self.sampled and not isinstance(self.labels, str | None):
            raise ValueError(
                f"'labels' is {self.labels!r}, but classes of images are read from a factor: name "
                "that factor, or set 'kind: sampled'"
            )

    @property
    def sampled(self) -> bool:
        """Whether the rows are drawn from the generator, and there are no images."""
        return self.kind == SAMPLED

    @property
    def patterns(self) -> tuple[str, ...] | None:
        """'pattern' as sources take it."""
        return None if self.pattern is None else tuple(self.pattern)
