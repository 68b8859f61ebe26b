"""The cure for a name that nothing has: the one most like it, and which there are."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

SHOWN = 20


def suggestion(given: str, known: Sequence[str]) -> str:
    """ "did you mean 'expression'? (one of age, expression)", or "use one of age, expression"."""
    shown = ", ".join(known[:SHOWN])
    if len(known) > SHOWN:
        shown += f", ... ({len(known)} in all)"
    alike = [name for name in known if name.strip().casefold() == given.strip().casefold()]
    close = alike or difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}? (one of {shown})" if close else f"use one of {shown}"
