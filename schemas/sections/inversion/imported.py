"""``invert`` with ``method: imported``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.sections.invert import MODEL_FILE, InvertSpec
from schemas.sections.types import SpecPath


class ImportedSpec(InvertSpec):
    """Codes that another project found, each given to the image that bears its name."""

    codes: Annotated[SpecPath | None, MODEL_FILE] = Field(
        default=None,
        description="The codes: another project's file of them, or a folder with one file an "
        "image. Must be given.",
    )
    names: Annotated[SpecPath | None, MODEL_FILE] = Field(
        default=None,
        description="The images' names in the order of the codes, of a file that does not hold "
        "them: a text with one a line, a .json list, or a table with a column such as 'uri' or "
        "'file'. Of a folder: a table that says in 'code' which file is an image's.",
    )
    format: str | None = Field(
        default=None, description="Format of the codes' files, where several fit their contents."
    )
    order: Literal["sorted"] | None = Field(
        default=None,
        description="sorted: the file of codes has no names, and its codes are in the order of "
        "the dataset's sorted paths, as e4e lists a folder. Checked on the images of every batch.",
    )

    @model_validator(mode="after")
    def _one_alignment(self) -> Self:
        if self.order is not None and self.names is not None:
            raise ValueError(
                f"'order' is {self.order!r} and 'names' is {self.names!r}, and both say whose code "
                "each is: keep 'names'"
            )
        if self.order is not None and self.batch_size == 1:
            raise ValueError(
                "'order' is checked by comparing the images of a batch, and 'batch_size' is 1: "
                "raise it, or give 'names'"
            )
        return self


PLUGIN = ImportedSpec
