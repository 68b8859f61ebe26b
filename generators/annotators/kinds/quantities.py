"""Numbers on scales of their own."""

from __future__ import annotations

from generators.annotators.kinds.base import AnnotatorKind


class Quantities(AnnotatorKind):
    """Continuous numbers, of which no labels are made."""

    name = "quantities"
    text = "continuous numbers, such as an age in years or a brightness, in the output's order"
    role = "quantities"


PLUGIN = Quantities()
