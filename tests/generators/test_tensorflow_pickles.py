"""Pickles of NVIDIA's TensorFlow code as data."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generators.model_file import read_checkpoint
from generators.unpickle.interpreter import Budget, Global, Inert, Interpreter, Limits
from generators.unpickle.tensorflow_pickles import TensorflowNetwork, tensorflow_networks
from generators.unpickle.torch_files import read_any
from generators.unpickle.writer import Call, Emitter, Name, easydict
from schemas.errors import CheckpointError
from tests.generators.tensorflow_layouts import (
    ADA,
    SOURCE,
    STYLEGAN,
    TFUTIL,
    Python2,
    tensorflow_network,
    tensorflow_pickle,
)

WEIGHT = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)


def styles() -> Call:
    mapping = tensorflow_network(
        STYLEGAN, "G_mapping", {"mapping_layers": 2}, {"Dense0/weight": WEIGHT[0, 0]}, name="map"
    )
    arguments = {"resolution": 8, "blur_filter": [1, 2, 1], "nested": easydict(a=(1, None))}
    return tensorflow_network(
        STYLEGAN, "G_style", arguments, {"lod": 0.5, "w": WEIGHT}, {"mapping": mapping}
    )


def read(data: bytes, folder: Path) -> tuple[TensorflowNetwork, ...]:
    (folder / "g.pkl").write_bytes(data)
    return tensorflow_networks(read_any(folder / "g.pkl"))


def test_networks_are_read_with_their_components(tmp_path: Path) -> None:
    other = tensorflow_network(STYLEGAN, "D_basic", {}, {}, name="D")
    found = read(tensorflow_pickle(styles(), styles(), other), tmp_path)
    assert [network.builder for network in found] == ["G_style", "D_basic", "G_style"]
    last = found[-1]
    assert (last.module, last.version, last.name) == ("dnnlib.tflib.network", 3, "Gs")
    assert last.arguments == {"resolution": 8, "blur_filter": [1, 2, 1], "nested": {"a": (1, None)}}
    assert last.source == SOURCE
    assert list(last.variables) == ["lod", "w"] and "w" in last.variables
    assert last.variables["lod"] == 0.5 and last.variables["lod"].shape == ()
    np.testing.assert_array_equal(last.variables["w"], WEIGHT)
    assert last.variables["w"].dtype == np.float32
    assert list(last.components) == ["mapping"] and not found[1].components
    inner = last.components["mapping"]
    assert (inner.name, inner.builder, inner.arguments) == (
        "map",
        "G_mapping",
        {"mapping_layers": 2},
    )
    np.testing.assert_array_equal(inner.variables["Dense0/weight"], WEIGHT[0, 0])


def test_a_pickle_of_python_2_is_read_alike(tmp_path: Path) -> None:
    made = tensorflow_network(TFUTIL, "G_paper", {"resolution": 8}, {"4x4/Conv/weight": WEIGHT})
    (new,) = read(tensorflow_pickle(made), tmp_path)
    (old,) = read(Python2().dumps([made]), tmp_path)
    for network in (new, old):
        assert (network.module, network.version, network.builder) == ("tfutil", 2, "G_paper")
        assert network.arguments == {"resolution": 8}
        np.testing.assert_array_equal(network.variables["4x4/Conv/weight"], WEIGHT)


def test_other_files_hold_no_networks(tmp_path: Path) -> None:
    for value in ([1, 2], {"G_ema": 1}, Call("training.networks", "Network", state={"version": 3})):
        assert read(Emitter().dumps(value), tmp_path) == ()


def test_one_that_no_family_reads_is_told_by_its_builder(tmp_path: Path) -> None:
    of = tensorflow_network(ADA, "D_stylegan2", {}, {"w": WEIGHT})
    (tmp_path / "d.pkl").write_bytes(tensorflow_pickle(of))
    with pytest.raises(CheckpointError, match="no generator.*TensorFlow.*'D_stylegan2'.*version 5"):
        read_checkpoint(tmp_path / "d.pkl")


def broken(**changed: Any) -> Call:
    network = styles()
    return Call(network.module, network.name, state={**network.state, **changed})


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Call("tfutil", "Network"), "has no state"),
        (broken(version="3"), "version '3', expected a number"),
        (broken(name=None), "'name' of a TensorFlow network is None"),
        (broken(build_func_name=7), "'build_func_name'.* is 7, expected text"),
        (broken(static_kwargs=[1]), "'static_kwargs'.* is list, expected a dict"),
        (broken(static_kwargs={"f": Call("a", "B")}), "'f'.*object of 'a.B'"),
        (broken(components={"mapping": 3}), "something else than networks"),
        (broken(variables={"w": 1}), "'variables'.* are dict, expected a list"),
        (broken(variables=[("w", 1, 2)]), "no pair of name and value"),
        (broken(variables=[("w", 1), ("w", 2)]), "'w' is in the file twice"),
        (broken(variables=[("w", Name("numpy", "array"))]), "'w' holds 'str"),
        (broken(variables=[("w", "text")]), "'w' holds 'str"),
    ],
)  # fmt: skip
def test_damaged_networks_are_refused(network: Call, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        for found in read(tensorflow_pickle(network), tmp_path):
            assert dict(found.variables)


def test_networks_inside_one_another_are_refused() -> None:
    inner = styles()
    for _ in range(8):
        inner = tensorflow_network(STYLEGAN, "G_style", {}, {}, {"mapping": inner})
    with pytest.raises(CheckpointError, match="nested deeper"):
        from_bytes(tensorflow_pickle(inner))
    with pytest.raises(CheckpointError, match="more than 64"):
        from_bytes(tensorflow_pickle(styles(), *[styles()] * 40))


def test_entries_that_unfold_without_end_are_refused() -> None:
    nested: Any = [1]
    for _ in range(18):
        nested = [nested] * 10
    state = {"version": 3, "name": "Gs", "build_func_name": "G_style", "variables": []}
    network = Inert(Global("tfutil", "Network"), state={**state, "static_kwargs": {"deep": nested}})
    with pytest.raises(CheckpointError, match="'deep'.*more than 10000 entries"):
        tensorflow_networks(network)


def from_bytes(data: bytes) -> tuple[TensorflowNetwork, ...]:
    return tensorflow_networks(Interpreter(Budget(Limits())).load(io.BytesIO(data)))


def test_any_damage_is_told_as_such() -> None:
    data = tensorflow_pickle(styles())
    random = np.random.default_rng(0)
    refused = 0
    for at in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[at] = random.integers(256)
        for case in (bytes(damaged), data[:at]):
            try:
                for network in from_bytes(case):
                    for part in (network, *network.components.values()):
                        dict(part.variables)
            except CheckpointError:
                refused += 1
    assert refused > len(data) // 3
