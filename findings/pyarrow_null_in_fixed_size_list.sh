#!/usr/bin/env bash
# pyarrow 25.0.1: a fixed-size list column with a null row can be written to Parquet and not be read
# from it again. `flatten()` of such an array drops the null row's values, so that all later rows
# shift against their row numbers. (Latent codes are such columns.) Seen:
#   flatten of [[1, 2], null, [5, 6]]: [1.0, 2.0, 5.0, 6.0]
#   read: ArrowInvalid: Expected all lists to be of size=2 but index 2 had size=0
# Exit 0: seen again. Exit 1: the behaviour has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check pyarrow==25.0.1
env/bin/python - <<'PYTHON'
import pyarrow as pa
import pyarrow.parquet as pq

codes = pa.array([[1, 2], None, [5, 6]], type=pa.list_(pa.float32(), 2))
flat = codes.flatten().to_pylist()
print("flatten:", flat)
pq.write_table(pa.table({"code": codes}), "codes.parquet")
try:
    print("read:", pq.read_table("codes.parquet").to_pylist())
    refused = False
except pa.ArrowInvalid as e:
    print("read: ArrowInvalid:", e)
    refused = "Expected all lists to be of size=2" in str(e)
raise SystemExit(not (refused and flat == [1, 2, 5, 6]))
PYTHON
