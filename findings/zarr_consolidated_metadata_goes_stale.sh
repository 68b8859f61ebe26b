#!/usr/bin/env bash
# zarr 3.1.6, format 3: after `zarr.consolidate_metadata`, arrays that are added or resized through
# zarr itself are not seen by the default `zarr.open_group`: it answers from the consolidated copy,
# which writing does not refresh. A new array raises KeyError, a resized one has its former shape.
# `use_consolidated=False` sees both. Seen:
#   default: ['a'] (4,)    use_consolidated=False: ['a', 'b'] (8,)
# Exit 0: seen again. Exit 1: the behaviour has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check zarr==3.1.6
env/bin/python - <<'PYTHON'
import warnings

import zarr

warnings.simplefilter("ignore")
group = zarr.open_group("g.zarr", mode="w", zarr_format=3)
group.create_array("a", shape=(4,), dtype="i4")
zarr.consolidate_metadata("g.zarr")
again = zarr.open_group("g.zarr", mode="r+")
again.create_array("b", shape=(4,), dtype="i4")
again["a"].resize((8,))


def seen(**options):
    group = zarr.open_group("g.zarr", mode="r", **options)
    return sorted(group), group["a"].shape


print("default:", *seen(), "   use_consolidated=False:", *seen(use_consolidated=False))
stale = seen() == (["a"], (4,)) and seen(use_consolidated=False) == (["a", "b"], (8,))
raise SystemExit(not stale)
PYTHON
