#!/usr/bin/env bash
# safetensors 0.8.0 (numpy 2.4.6): `safetensors.numpy.save_file` writes an array's memory as it lies.
# A Fortran-ordered or strided array is stored with its own shape and scrambled values, without an
# error; a big-endian array is stored correctly. Seen:
#   given [[0, 1, 2], [3, 4, 5]], Fortran order: read [[0, 3, 1], [4, 2, 5]]
#   given the same array's columns 0 and 2:      read [[0, 1], [2, 3]], not [[0, 2], [3, 5]]
# Exit 0: seen again. Exit 1: the behaviour has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
env/bin/python - <<'PYTHON'
import numpy as np
from safetensors.numpy import load_file, save_file

a = np.arange(6, dtype=np.float32).reshape(2, 3)
given = {"fortran": np.asfortranarray(a), "strided": a[:, ::2], "big_endian": a.astype(">f4")}
save_file(given, "a.safetensors")
read = load_file("a.safetensors")
for name in given:
    print(name, "given", given[name].tolist(), "read", read[name].tolist())
equal = {name: bool((given[name] == read[name]).all()) for name in given}
raise SystemExit(equal != {"fortran": False, "strided": False, "big_endian": True})
PYTHON
