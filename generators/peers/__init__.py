"""Other projects' files of directions and codes, read and written; nothing in them is executed."""

from typing import TYPE_CHECKING

from schemas.faces import face

if TYPE_CHECKING:
    from generators.peers.directions import read_directions as read_directions
    from generators.peers.directions import write_directions as write_directions
    from generators.peers.latents import read_latents as read_latents
    from generators.peers.latents import write_latents as write_latents

__getattr__ = face(
    __name__,
    {
        "directions": ["read_directions", "write_directions"],
        "latents": ["read_latents", "write_latents"],
    },
)
