"""Settings of the specification's generator section for plain networks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.sections.types import SpecModel


class PlainSettings(SpecModel):
    """Of a network of another maker without a declaration beside it, or whose declaration does not
    say it."""

    prior: Literal["normal", "uniform", "truncated_normal"] | None = Field(
        default=None,
        description="What codes are drawn from: 'normal', 'uniform' on [-1, 1], or "
        "'truncated_normal' between -2 and 2. Default: what the declaration says, else what is "
        "usual for the architecture.",
    )
