"""Where the repository and its golden files lie, for tests in any folder."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
"""Files that earlier releases wrote: each is still read."""
