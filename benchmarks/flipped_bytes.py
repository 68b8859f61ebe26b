"""One byte of a finished run changed, anywhere: does something say so?

``python -m benchmarks.flipped_bytes`` takes every file of a finished run on tiny models, its
images, models, descriptions and tables included, and changes one byte of it at its first, last,
middle and a few random places, one at a time, size and time of change kept. Each time `latentflow
plan` must tell of something to do or fail, or `latentflow verify` must find a problem. ``--smoke``
changes one byte of one file of each kind.

``error`` is the number of changed bytes that nothing noticed, ``missed`` the first of them, with
those that ended in an error that nobody expected. A change is not tried where it changes nothing
(``exempt``, with the reason).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

EXEMPT = {
    "out/hashes.sqlite": "every entry has a checksum: a changed one is hashed again",
    "weights/": "where the test's models were made; no run reads it",
}


def exempt(relative: str) -> bool:
    """Whether a change of the file is without effect, see `EXEMPT`."""
    return any(relative.startswith(start) for start in EXEMPT)


def kind_of(relative: str) -> str:
    """Files of one kind have the same bytes at the same places: names are left out."""
    parts = [re.sub(r"[0-9a-f]{12,}|\d+", "#", part) for part in relative.split("/")]
    if parts[:2] in (["out", "stores"], ["out", "directions"]):
        named = {"c": "c", "zarr.json": "zarr.json"}
        parts[4:] = ["*", *(named[part] for part in parts[4:] if part in named)]
    return "/".join(parts)


def files_of(
    root: Path, rng: np.random.Generator, smoke: bool, limit: int | None = None
) -> list[Path]:
    """Files to change: all, or with `smoke` one of each kind, of at most `limit` kinds."""
    found = [path for path in sorted(root.rglob("*")) if path.is_file() and path.stat().st_size]
    found = [path for path in found if not exempt(path.relative_to(root).as_posix())]
    if not smoke:
        return found
    kinds: dict[str, list[Path]] = {}
    for path in found:
        kinds.setdefault(kind_of(path.relative_to(root).as_posix()), []).append(path)
    chosen = rng.permutation(sorted(kinds))[: limit or len(kinds)]
    return [kinds[kind][int(rng.integers(len(kinds[kind])))] for kind in chosen]


def changes_of(data: bytes, rng: np.random.Generator, smoke: bool) -> Iterator[tuple[int, bytes]]:
    """Places, and the bytes with another one there: half of the time one bit differs."""
    places = {0, len(data) - 1, len(data) // 2, *rng.integers(len(data), size=3).tolist()}
    if smoke:
        places = {int(rng.integers(len(data)))}
    for place in sorted(places):
        change = 1 << int(rng.integers(8)) if rng.random() < 0.5 else int(rng.integers(1, 256))
        changed = bytearray(data)
        changed[place] ^= change
        if not says_the_same(data, bytes(changed)):
            yield place, bytes(changed)


def says_the_same(data: bytes, changed: bytes) -> bool:
    """Whether both are the same JSON but for white space and what people are told of a model."""
    try:
        both = json.loads(data), json.loads(changed)
    except ValueError:
        return False
    told = ("name", "licence", "source") if "output" in both[0] else ()  # of an annotator's card
    first, second = ({k: v for k, v in one.items() if k not in told} for one in both)
    return first == second


def state_of(root: Path) -> Any:
    """What plan and verify say of the run: plan's stages and verify's problems, or their errors;
    None for one that nobody expected."""
    from pipelines.runs.plan import plan_stages
    from pipelines.upkeep.verify import verify
    from schemas.errors import LatentflowError
    from schemas.spec import load_spec

    said: list[Any] = []
    try:
        stages = plan_stages(load_spec(root / "spec.yaml"))
        said.append([(p.name, p.state, p.causes, p.notes) for stage in stages for p in stage])
        said.append([(problem.where, problem.what) for problem in verify(root / "out").problems])
    except LatentflowError as e:
        return str(e)
    except Exception as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        return None
    return said


def flip(root: Path, seed: int, smoke: bool, limit: int | None = None) -> dict[str, Any]:
    """Change bytes of a finished run, and put every one back."""
    rng = np.random.default_rng(seed)
    tried, missed = 0, []
    clean = state_of(root)
    if not isinstance(clean, list) or clean[1]:
        raise RuntimeError(f"the run is not good before anything was changed: {clean!r}")
    for path in files_of(root, rng, smoke, limit):
        data, facts = path.read_bytes(), path.stat()
        for place, changed in changes_of(data, rng, smoke):
            path.write_bytes(changed)
            os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            tried += 1
            if state_of(root) in (clean, None):
                missed.append(f"{path.relative_to(root).as_posix()}:{place}")
        path.write_bytes(data)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    return {"tried": tried, "noticed": tried - len(missed), "error": len(missed), "missed": missed}


def main() -> int:
    """Make a run, change its bytes, print what was noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one byte of one file of each kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from direct_zarr import direct_zarr
    from tiny_run import make_tiny, run_tiny

    with tempfile.TemporaryDirectory(prefix="flipped-") as folder:
        root = Path(folder)
        run_tiny(make_tiny(root, 40 if given.smoke else 90), "report")
        started = time.monotonic()
        with direct_zarr():
            result = flip(root, given.seed, given.smoke)
    print(f"{result['noticed']} of {result['tried']} changed bytes were noticed")
    for name in result["missed"]:
        print(f"missed: {name}")
    result["missed"] = result["missed"][:20]
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"name": "flipped_bytes", **result, "exempt": EXEMPT, "seconds": seconds}))
    return int(result["error"] > 0)


if __name__ == "__main__":
    sys.exit(main())
