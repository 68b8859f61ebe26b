"""What every section under 'analyse' has."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from schemas.sections.types import NAME_PATTERN, SpecModel

SpaceName = Annotated[str, Field(pattern=NAME_PATTERN)]


class AnalysisSection(SpecModel):
    """Base of the sections under 'analyse', one a kind of analysis.

    order : of running among ours, from 10; those of other packages run after them, by name
    summary : what the key is, in one line of the schema
    """

    order: ClassVar[int] = 0
    summary: ClassVar[str] = ""

    space: SpaceName | None = Field(
        default=None,
        description="Space of the codes to analyse: 'invert.space' (the default), one that the "
        "stored codes convert to, such as 'w' from 'z', or a layer whose activations are recorded "
        "while they are drawn, such as 'features.b16.conv1'.",
    )

    def check(self, spec: Any) -> None:
        """Raise ValueError where the rest of the specification, a `RunSpec`, does not fit."""
