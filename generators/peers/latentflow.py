"""Our own export of directions: vectors by name, and what they are as JSON.

It is written by ``latentflow export --as directions``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from generators.peers.base import DirectionFormat, Entry, Evidence, Peer, is_vector


class Exported(DirectionFormat):
    """Vectors by name, and ``facts``."""

    name = "latentflow"
    files = ".npz, .safetensors"
    contents = "latentflow's own export: vectors by name, and their attributes"
    evidence = Evidence.ITS_WORD

    def recognise(self, value: Any) -> bool:
        if not isinstance(value, dict):
            return False
        try:
            entries = self._entries(value)
        except (ValueError, KeyError, TypeError):
            return False
        return bool(entries) and all(is_vector(entry.vector) for entry in entries)

    def read(self, value: Any, path: Path) -> list[Entry]:
        return self._entries(value)

    @staticmethod
    def _entries(value: dict[Any, Any]) -> list[Entry]:
        vectors = {name: v for name, v in value.items() if not isinstance(v, str)}
        vectors.pop("facts", None)
        facts = json.loads(str(value["facts"]))
        entries = []
        for name, vector in vectors.items():
            own = facts[name]
            quality = {"method": own["method"], "target": own["target"]}
            kept = (own["sd"], own["layers"], quality, own["space"], own["generator_fp"])
            entries.append(Entry(name, vector, *kept))
        return entries


PLUGIN = Peer("latentflow", directions=(Exported(),))
