"""Safetensors files hold the values of the arrays, however these lie in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from safetensors.torch import load_file
from safetensors.torch import save as save_torch

from generators.encoders.load import load_encoder, save_encoder
from generators.encoders.w_plus_encoder.network import EncoderConfig, WPlusEncoder
from generators.model_file import read_checkpoint, write_checkpoint
from generators.tensor_files import contiguous, read_safetensors, safetensors_bytes
from tests.stylegan2_layouts import tiny

BASE = np.arange(48, dtype=np.float32).reshape(2, 4, 6)
LAYOUTS = {
    "c": BASE,
    "fortran": np.asfortranarray(BASE),
    "transposed": BASE.T,
    "strided": BASE[:, ::2, ::3],
    "reversed": BASE[::-1],
    "big-endian": BASE.astype(">f4"),
    "big-endian fortran": np.asfortranarray(BASE.astype(">f8")),
    "half": np.asfortranarray(BASE.astype(np.float16)),
    "scalar": np.array(2.5, np.float32),
    "read-only broadcast": np.broadcast_to(BASE[0], (3, 4, 6)),
    "int64 view": np.arange(10)[::3],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_values_come_back_whatever_the_order_in_memory(name: str) -> None:
    array = LAYOUTS[name]
    found = load(safetensors_bytes({"a": array}, {"facts": "{}"}))["a"]
    np.testing.assert_array_equal(found, array)
    assert found.shape == array.shape and found.dtype == array.dtype.newbyteorder("<")
    assert contiguous(array).flags.c_contiguous


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int16", "uint8"])
def test_tensors_of_every_type_that_torch_writes_are_read(dtype: str) -> None:
    made = (torch.arange(24).reshape(2, 3, 4) * 1.25).to(getattr(torch, dtype))
    tensors, metadata = read_safetensors(save_torch({"b": made, "a": made[0].clone()}, {"k": "v"}))
    assert list(tensors) == ["a", "b"] and metadata == {"k": "v"}
    np.testing.assert_array_equal(tensors["b"], made.double().numpy())


def test_safetensors_that_numpy_cannot_hold_are_named() -> None:
    made = save_torch({"weight": torch.ones(3).to(torch.float8_e4m3fn)})
    with pytest.raises(ValueError, match="'weight' has element type 'F8_E4M3'; convert it"):
        read_safetensors(made)
    with pytest.raises(ValueError, match="no safetensors file or is damaged"):
        read_safetensors(made[:-1])


def test_an_encoder_in_channels_last_comes_back(tmp_path: Path) -> None:
    network = WPlusEncoder(EncoderConfig(16, (4, 6), 8, 3, 5))
    images = torch.rand(2, 3, 16, 16)
    expected = network.eval().encode(images)
    save_encoder(network.to(memory_format=torch.channels_last), tmp_path / "e.safetensors")
    for name, value in load_file(tmp_path / "e.safetensors").items():
        assert torch.equal(value, network.state_dict()[name]), name
    found = load_encoder(str(tmp_path / "e.safetensors")).encode(images)
    torch.testing.assert_close(found, expected)


def test_a_generator_in_channels_last_comes_back(tmp_path: Path) -> None:
    generator = tiny()
    expected = {name: value.copy() for name, value in generator.tensors().items()}
    generator.network.to(memory_format=torch.channels_last)
    write_checkpoint(generator.checkpoint(), tmp_path / "g.safetensors")
    for name, value in read_checkpoint(tmp_path / "g.safetensors").tensors.items():
        np.testing.assert_array_equal(value, expected[name])
