"""What the pictures show, by factor: python examples/annotations_with_duckdb.py SPEC FACTOR SCORE

A run writes ``annotations.parquet``, one row an image, in its folder. pandas reads it whole; duckdb
reads only the columns that a query names, so the table may be larger than memory.
"""

import sys
from pathlib import Path

import duckdb
import pandas as pd

from schemas.spec import load_spec

spec, factor, score = sys.argv[1:]
table = Path(load_spec(spec).output_path) / "annotations.parquet"

frame = pd.read_parquet(table)
measured = frame[frame["status"] == "ok"]
by_pandas = measured.groupby(factor)[score].mean()

query = f"""
    select "{factor}", avg("{score}") as mean, count("{score}") as rows
    from read_parquet($table) where status = 'ok' group by all order by mean desc
"""
by_duckdb = duckdb.execute(query, {"table": str(table)}).df()

sys.stdout.write(by_duckdb.to_string(index=False) + "\n")
