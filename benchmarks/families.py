"""Pictures of every family of generators against official modules or second implementations.

``python -m benchmarks.families`` draws the reference cases that the tests keep of each family
(``tests/generators/families/references/<family>.py``): ours, and those that the official module
drew of the same file and codes, or a second implementation draws now. ``--official DIR`` also
draws larger ones with the official code, of those repositories that have a checkout in DIR under
their own name (``DIR/R3GAN``).

``error`` is the worst difference of one value, in standard deviations of the reference's pictures,
over every configuration of every family; one a family and configuration stands under ``rows``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from generators.families.catalog import FAMILIES

TOLERANCE = 1e-4
"""Of the error: single precision, summed in another order, gives some 1e-6."""

ROOT = Path(__file__).resolve().parents[1]
REFERENCES = "tests.generators.families.references.{}"

Pair = tuple[np.ndarray, np.ndarray]


def main() -> int:
    """Parse the arguments and run; the exit code is 1 where an error is above `TOLERANCE`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", type=Path, metavar="DIR", help="holds checkouts")
    parser.add_argument("--smoke", action="store_true", help="no difference: it takes seconds")
    options = parser.parse_args()
    if options.official is not None and not options.official.is_dir():
        parser.error(f"--official is {str(options.official)!r}, which is no folder")
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    rows = []
    for family, name, pair in cases(options.official):
        started = time.perf_counter()
        error = error_of(pair)
        seconds = time.perf_counter() - started
        rows.append({"family": family, "case": name, "error": error, "seconds": seconds})
        print(f"{family:<12} {error:8.1e}  {name}", flush=True)
    error = max(row["error"] for row in rows)
    print(json.dumps({"name": "families", "error": error, "rows": rows}))
    return int(error > TOLERANCE)


def cases(official: Path | None) -> Iterator[tuple[str, str, Callable[[], Pair]]]:
    """(family, configuration, function of our pictures and the reference's)."""
    for family in compared():
        found = references_of(family)
        for name, pair in found.REFERENCES.items():
            yield family, name, pair
        for name, drawn in getattr(found, "OFFICIAL", {}).items():
            checkout = None if official is None else official / name.partition("/")[0]
            if checkout is not None and checkout.is_dir():
                yield family, name, partial(drawn, checkout)
            elif checkout is not None:
                print(f"{family:<12} left out  {name}: no {str(checkout)!r}", flush=True)


def compared() -> tuple[str, ...]:
    """The families that have references."""
    return tuple(name for name in FAMILIES.own() if find_spec(REFERENCES.format(name)))


def references_of(family: str) -> Any:
    """The module of a family's references: ``REFERENCES``, ``tiny``, it may have ``OFFICIAL``."""
    return importlib.import_module(REFERENCES.format(family))


def error_of(pair: Callable[[], Pair]) -> float:
    """Largest difference of two batches of pictures (n, channels, height, width), in standard
    deviations of the second. Raises ValueError for pictures that show nothing."""
    ours, theirs = (np.asarray(images, np.float64) for images in pair())
    if ours.shape != theirs.shape or ours.ndim != 4:
        raise ValueError(f"pictures are {ours.shape!r} and {theirs.shape!r}, expected one shape")
    if len(ours) < 2:
        raise ValueError(f"there are {len(ours)!r} pictures, expected at least 2")
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise ValueError("pictures are not finite")
    if not float(np.ptp(theirs, axis=0).max()) > 0:
        raise ValueError("pictures are all alike")
    return float(np.abs(ours - theirs).max() / theirs.std())


if __name__ == "__main__":
    sys.exit(main())
