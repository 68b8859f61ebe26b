"""Every writer of arrays writes their values, however these lie in memory.

Fortran order, transposed and strided views, networks in ``channels_last``, negative strides and
big-endian numbers all reach our writers; a writer that takes memory as it lies scrambles them.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stores
import torch
from safetensors.numpy import load as load_safetensors
from stores import index_of

from generators.peers.catalog import direction_formats
from generators.peers.directions import read_directions, write_directions
from generators.tensor_files import read_safetensors, safetensors_bytes
from generators.unpickle import writer as pickle_writer
from generators.unpickle.plain import read_foreign
from pipelines.downstream.annotation_table import _Column
from pipelines.downstream.arrays import Member
from pipelines.downstream.directions import export_all_directions
from pipelines.evaluation.files import PICTURES, write_evaluation
from schemas.directions.direction_set import DirectionSet, unit_direction
from schemas.index import DatasetIndex, continuous_column
from transforms.accumulate.moments import Moments
from transforms.accumulate.stored import statistic_bytes, statistic_of_bytes

WRITERS = [name for name, each in direction_formats().items() if each.writes]
FLOATS, NUMBERS = ("f2", "f4", "f8"), ("f2", "f4", "f8", "i2", "i4", "i8", "u1")


LAYOUTS = {
    "C": ("C", 1, "<"),
    "Fortran": ("F", 1, "<"),
    "channels_last": ("last", 1, "<"),
    "strided": ("C", 2, "<"),
    "Fortran strided": ("F", 3, "<"),
    "reversed": ("C", -1, "<"),
    "big-endian": ("C", 1, ">"),
    "big-endian Fortran": ("F", 1, ">"),
    "big-endian channels_last reversed": ("last", -2, ">"),
}


def laid_out(values: np.ndarray, order: str, step: int, endian: str) -> Any:
    """An array equal to ``values`` whose axes lie in memory in this order, with these steps."""
    axes = list(range(values.ndim))
    axes = {"C": axes, "F": axes[::-1], "last": [*axes[:1], *axes[2:], *axes[1:2]]}[order]
    shape = [values.shape[axis] * abs(step) for axis in axes]
    wide = np.zeros(shape, values.dtype.newbyteorder(endian)).transpose(np.argsort(axes))
    view = wide[(slice(None, None, step),) * values.ndim]
    view[...] = values
    return view


@dataclass(frozen=True)
class Case:
    """A writer and how its file is read. written : (array, folder) -> what comes back."""

    written: Callable[[Any, Path], Any]
    shape: tuple[int, ...] = (2, 3, 4)
    dtypes: tuple[str, ...] = NUMBERS
    unit: bool = False


def torch_loaded(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def tensor_member(array: Any, folder: Path) -> Any:
    """As e4e's file of codes is written: a head, and the values block by block."""
    member = Member("x", np.dtype("<f4"), array.shape, lambda: iter([array[:1], array[1:]]))
    buffer = io.BytesIO(pickle_writer.tensor_head(array.shape))
    buffer.seek(0, io.SEEK_END)
    member.write(buffer)
    return torch_loaded(buffer.getvalue()).numpy()


def reread(array: Any, folder: Path) -> Any:
    return read_safetensors(safetensors_bytes({"x": array}))[0]["x"]


def torch_file(array: Any, folder: Path) -> Any:
    return torch_loaded(pickle_writer.torch_file({"x": array}))["x"].numpy()


def nested(array: Any, folder: Path) -> Any:
    path = folder / "x.pkl"
    path.write_bytes(pickle_writer.pickle_file({"x": pickle_writer.nested_tensor(array)}))
    return read_foreign(path)["x"]


def object_npy(array: Any, folder: Path) -> Any:
    found = np.load(io.BytesIO(pickle_writer.object_npy({"x": array})), allow_pickle=True)[()]
    return found["x"]  # as the peer reads it


def parquet(array: Any, folder: Path) -> Any:
    """A column of lists, and one of a single element, as `annotation_table` makes them."""
    ok = np.ones(len(array), bool)
    kind = pa.list_(pa.from_numpy_dtype(array.dtype.newbyteorder("=")), array[0].size)
    rows = array.astype(array.dtype.newbyteorder("="), order="K")  # the store's are native
    table = {"x": _Column(pa.field("x", kind), "x").values(rows, ok)}
    flat = rows.reshape(len(rows), -1)
    table["y"] = _Column(pa.field("y", kind.value_type), "x", 0).values(flat, ok)
    pq.write_table(pa.table(table), folder / "x.parquet")
    found = pq.read_table(folder / "x.parquet")
    np.testing.assert_array_equal(
        found["y"].to_pylist(), np.asarray(array).reshape(len(array), -1)[:, 0]
    )
    return np.array(found["x"].to_pylist(), array.dtype).reshape(array.shape)


def stored_block(array: Any, folder: Path) -> Any:
    store = stores.create(folder / "store", 8)
    values = {**stores.values(store, 0), stores.W_PLUS: array}
    store.write_block("invert", 0, values, *stores.flags(8), stores.fp_of(store, 0))
    return store.ok_rows([stores.W_PLUS], 0, ["invert"]).arrays[stores.W_PLUS]


def stored_model(array: Any, folder: Path) -> Any:
    made = DirectionSet("ab" * 32, "w")
    made.save(folder / "set")
    made.save_model("m", {"x": array}, {})
    return made.load_model("m")[0]["x"]


def direction_of(array: Any, space: str = "w_plus") -> Any:
    return unit_direction("age", space, array, method="pca", sd=1.0)


def stored_direction(array: Any, folder: Path) -> Any:
    DirectionSet("ab" * 32, "w_plus", [direction_of(array)]).save(folder / "set")
    return DirectionSet.load(folder / "set")["age"].vector


def exported(ending: str) -> Callable[[Any, Path], Any]:
    def written(array: Any, folder: Path) -> Any:
        made = DirectionSet("ab" * 32, "w_plus", [direction_of(array)])
        (path,) = export_all_directions(SimpleNamespace(directions=made), folder / f"d.{ending}")
        (found,) = read_directions(path, space="w_plus", generator_fp="ab" * 32)
        return found.vector

    return written


def foreign(kind: str, space: str, n: int = 1) -> Callable[[Any, Path], Any]:
    def written(array: Any, folder: Path) -> Any:
        many = [direction_of(array, space)] * n
        if kind == "tensorgan":
            names = "anger disgust fear happiness sadness surprise rotation".split()
            many = [unit_direction(k, space, array, method="pca", sd=1.0) for k in names]
        mean = np.zeros(array.shape)
        write_directions(many, folder / "age", kind, mean=mean)
        found = read_directions(
            folder / "age", space=space, generator_fp="ab" * 32, row_shape=array.shape, sd=1.0
        )
        return found[-1].vector

    return written


def statistic(array: Any, folder: Path) -> Any:
    found = statistic_of_bytes(statistic_bytes(Moments(3, np.zeros(4), array)))
    assert isinstance(found, Moments)
    return found.second


def pictures(array: Any, folder: Path) -> Any:
    write_evaluation(folder, {}, {"x": array}, {}, "f")
    return np.load(folder / PICTURES)["x"]


def npz_member(array: Any, folder: Path) -> Any:
    from pipelines.downstream.arrays import _npy_head, _whole

    member, buffer = _whole("x", array), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("x.npy", "w") as part:
        part.write(_npy_head(member))
        member.write(part)
    return np.load(io.BytesIO(buffer.getvalue()))["x"]


def factor(array: Any, folder: Path) -> Any:
    index = index_of(len(array))
    index.with_factors({"x": continuous_column(array)}).save(folder / "index.parquet")
    return DatasetIndex.load(folder / "index.parquet").continuous("x")


def safetensors(array: Any, folder: Path) -> Any:
    return load_safetensors(safetensors_bytes({"x": array}))["x"]


def pickled(array: Any, folder: Path) -> Any:
    return pickle.loads(pickle_writer.pickle_file({"x": array}))["x"]  # noqa: S301


CASES = {
    "safetensors": Case(safetensors, (2, 3, 4, 5)),
    "safetensors, own reader": Case(reread),
    "torch file": Case(torch_file, (2, 3, 4, 5), FLOATS),
    "torch file of blocks": Case(tensor_member, dtypes=("f4",)),
    "tensor in a pickle": Case(nested, (2, 3, 4, 5), ("f4",)),
    "pickle": Case(pickled),
    "npy of an object": Case(object_npy),
    "npz of rows": Case(npz_member),
    "parquet": Case(parquet, dtypes=("f4", "f8", "i4")),
    "store": Case(stored_block, (8, 3, 4), ("f4",)),
    "model of a set": Case(stored_model, dtypes=("f2", "f8", "i4")),
    "statistic": Case(statistic, (4, 4), ("f8",)),
    "evaluation": Case(pictures, dtypes=("f4", "u1")),
    "factor of the index": Case(factor, (5,), ("f4", "f8")),
    "direction of a set": Case(stored_direction, (3, 4), ("f2", "f8"), unit=True),
    "directions.npz": Case(exported("npz"), (3, 4), FLOATS, unit=True),
    "directions.safetensors": Case(exported("safetensors"), (3, 4), FLOATS, unit=True),
    **{k: Case(foreign(k, "w"), (6,), FLOATS, True) for k in ("interfacegan", "anycost")},
    **{k: Case(foreign(k, "w"), (6,), FLOATS, True) for k in WRITERS if k.startswith("ganspace")},
    "sefa": Case(foreign("sefa", "w", 2), (6,), FLOATS, unit=True),
    **{k: Case(foreign(k, "w_plus"), (3, 4), FLOATS, True) for k in ("e4e", "idinvert")},
    "tensorgan": Case(foreign("tensorgan", "w_plus"), (3, 4), FLOATS, unit=True),
    **{k: Case(foreign(k, "h"), (2, 3, 2, 4), FLOATS, True) for k in ("asyrp", "h_jacobian")},
}


def check(case: Case, folder: Path, layout: str) -> None:
    for dtype in case.dtypes:
        values = (np.arange(1, 1 + np.prod(case.shape)) % 251).reshape(case.shape).astype(dtype)
        array = laid_out(values, *LAYOUTS[layout])
        np.testing.assert_array_equal(array, values)
        (folder / dtype).mkdir()
        found = case.written(array, folder / dtype)
        assert np.shape(found) == values.shape
        if case.unit:
            exact = values.astype("f8")
            np.testing.assert_allclose(found, exact / np.linalg.norm(exact), atol=1e-6)
        else:
            np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_come_back_from_every_writer(name: str, layout: str, tmp_path: Path) -> None:
    check(CASES[name], tmp_path, layout)


def test_no_format_of_directions_is_forgotten() -> None:
    assert set(WRITERS) <= set(CASES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_writer_that_takes_memory_as_it_lies_is_seen(layout: str, tmp_path: Path) -> None:
    def raw(array: Any, folder: Path) -> Any:
        whole = array if array.base is None else array.base
        start = whole.ravel("K")[: array.size]
        return start.view(array.dtype.newbyteorder("<")).reshape(array.shape)

    if layout == "C":
        check(Case(raw), tmp_path, layout)
    else:
        with pytest.raises(AssertionError):
            check(Case(raw), tmp_path, layout)
