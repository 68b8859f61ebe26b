"""Directions: one, a set of them in a file, and whether one may be applied."""

from typing import TYPE_CHECKING

from schemas.faces import face

if TYPE_CHECKING:
    from schemas.directions.direction import Direction as Direction
    from schemas.directions.direction import apply as apply
    from schemas.directions.direction import broadcast_layers as broadcast_layers
    from schemas.directions.direction import check_applies as check_applies
    from schemas.directions.direction import unit_direction as unit_direction
    from schemas.directions.direction_set import DirectionSet as DirectionSet

__getattr__ = face(
    __name__,
    {
        "direction": ["Direction", "apply", "broadcast_layers", "unit_direction", "check_applies"],
        "direction_set": ["DirectionSet"],
    },
)
