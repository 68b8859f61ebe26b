"""Mean and spread of all codes with xarray and dask: python examples/statistics_with_xarray.py SPEC

Every group of the store opens by itself; dask reads one row block at a time, in parallel, so the
store may be larger than memory.
"""

import sys

import xarray as xr

from pipelines.downstream.finished_run import FinishedRun
from schemas.spec import load_spec
from schemas.store.reasons import Status

store = FinishedRun.of(load_spec(sys.argv[1])).store

latents = xr.open_zarr(
    store.path, group="latents", consolidated=False, chunks={"row": store.block_rows}
)
codes = latents["w_plus"]  # (row, w_plus_layer, w_plus_channel), NaN where a row has no code
ok = xr.DataArray(store.status("invert") == Status.OK, dims="row")

mean = codes.where(ok).mean("row")  # lazy: nothing is read before compute()
spread = codes.where(ok).std("row").mean("w_plus_channel")
mean, spread = xr.align(mean.compute(), spread.compute())

sys.stdout.write(f"{int(ok.sum())} of {len(ok)} rows, in {codes.data.npartitions} pieces\n")
for layer, value in enumerate(spread.values):
    sys.stdout.write(f"layer {layer}: standard deviation {value:.3f}\n")
