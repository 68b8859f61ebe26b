"""anycost-gan (mit-han-lab/anycost-gan): the boundaries of its forty attributes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from generators.peers.base import DirectionFormat, Entry, Evidence, Peer, is_array, of_axes
from generators.unpickle.writer import torch_file
from schemas.directions.direction import Direction


class Boundaries(DirectionFormat):
    """A dict by attribute."""

    name = "anycost"
    files = ".pt"
    contents = "dict: name -> (1, dim)"
    evidence = Evidence.SHAPES

    def recognise(self, value: Any) -> bool:
        if not isinstance(value, dict) or not value:
            return False
        return all(isinstance(k, str) and is_array(v, 2) and len(v) == 1 for k, v in value.items())

    def read(self, value: Any, path: Path) -> list[Entry]:
        return [Entry(name, vector[0]) for name, vector in value.items()]

    def write(self, directions: Sequence[Direction], mean: np.ndarray | None) -> bytes:
        vectors = {d.name: of_axes(d, 1, self.name)[None].astype("<f4") for d in directions}
        return torch_file(vectors)


PLUGIN = Peer("anycost-gan", directions=(Boundaries(),))
