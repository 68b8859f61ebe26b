"""Every inversion method keeps what a plug-in must."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance.inversion import InversionSuite, Scene
from networks.plain import Vae, onnx_encoder, randomised

import generators
from generators.families.plain import PLUGIN
from generators.families.plain.vae_encoder import VaeEncoder, read_vae_encoder
from generators.protocols import Code
from schemas.errors import CheckpointError, UsageError
from schemas.sections.invert import invert_section
from transforms.inversion.catalog import METHODS, invert_batch, method_named
from transforms.inversion.method import Images

STEPS = {"steps": 12, "learning_rate": 0.1}
FEW = {"steps": 2}


class TestEncoder(InversionSuite):
    method = "encoder"


class TestOptimise(InversionSuite):
    method = "optimise"
    settings = STEPS
    quick = FEW


class TestHybrid(InversionSuite):
    method = "hybrid"
    settings = STEPS
    quick = FEW


# ---- variational autoencoders --------------------------------------------------------------------


@cache
def vae_folder() -> Path:
    """A VAE's state dict, its decoder's inverse as ONNX, and another one."""
    folder = Path(tempfile.mkdtemp())
    torch.save(randomised(Vae(), seed=1).state_dict(), folder / "vae.pt")
    fitted = Scene(decoder(folder), "z").encoder
    onnx_encoder(folder / "e.onnx", fitted._mean.numpy(), fitted._weights.numpy())
    onnx_encoder(folder / "f.onnx", fitted._mean.numpy(), 2 * fitted._weights.numpy())
    return folder


def decoder(folder: Path) -> Any:
    return PLUGIN.build(generators.read(folder / "vae.pt"))


class TestVae(InversionSuite):
    method = "vae"
    settings = {"model": str(vae_folder() / "e.onnx")}
    others = {
        "model": str(vae_folder() / "f.onnx"), "mean": "mu", "log_variance": "logvar",
    }  # fmt: skip

    @classmethod
    def generator(cls) -> Any:
        return decoder(vae_folder())


def test_a_vae_gives_the_mean_and_log_variance_of_its_own_encoder() -> None:
    file, network = vae_folder() / "vae.pt", randomised(Vae(), seed=1)
    generator = decoder(vae_folder())
    pixels = generator.draw(generator.sample("z", range(3)))
    settings = invert_section({"method": "vae", "model": str(file), "space": "z"})
    assert method_named("vae").companions(settings, generator.facts) == ("log_variance",)
    code = invert_batch(Images(pixels, generator, settings)).code
    with torch.no_grad():
        mean, log_variance = network.encode(pixels)
    torch.testing.assert_close(code.main, mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(code.companions["log_variance"], log_variance, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(generator.draw(code), generator.draw(Code("z", mean)))
    shown = VaeEncoder(read_vae_encoder(str(file)), (0.0, 1.0)).encode(pixels)[0]
    with torch.no_grad():
        torch.testing.assert_close(shown, network.encode(pixels / 2 + 0.5)[0], rtol=1e-4, atol=1e-5)


def test_an_encoder_that_does_not_fit_is_told(tmp_path: Path) -> None:
    facts, method = decoder(vae_folder()).facts, method_named("vae")

    def asked(**keys: Any) -> Any:
        return method.companions(invert_section({"method": "vae", "space": "z", **keys}), facts)

    torch.save(randomised(Vae(z=4)).state_dict(), tmp_path / "other.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "none.pt")
    model = str(vae_folder() / "e.onnx")
    for keys, message in (
        ({}, "'invert.model' is missing"),
        ({"model": str(tmp_path / "no.pt")}, "does not exist"),
        ({"model": str(tmp_path / "other.pt")}, r"codes of shape \(4,\), space 'z' .* \(5,\)"),
        ({"model": str(tmp_path / "none.pt")}, "holds 0 encoders of a VAE"),
        ({"model": model, "mean": "nu"}, r"outputs \['mu', 'logvar'\].*'invert.mean' is 'nu'"),
    ):
        with pytest.raises((CheckpointError, UsageError), match=message):
            asked(**keys)
    assert asked(model=model, mean="mu") == ()


def test_every_method_is_here() -> None:
    here = {suite.method for suite in InversionSuite.__subclasses__()}
    assert set(METHODS.own()) <= here
