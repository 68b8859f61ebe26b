"""Every inversion method keeps what a plug-in must."""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance.folder import adapter
from conformance.inversion import InversionSuite, Scene
from networks.plain import Vae, onnx_encoder, randomised
from pydantic import ValidationError

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


class TestRefine(InversionSuite):
    method = "refine"
    settings = {"passes": 2}


class TestEncoderTuning(InversionSuite):
    method = "encoder_tuning"
    settings = {"steps": 4, "learning_rate": 1e-4, "perceptual_weight": 0}
    quick = {"steps": 1, "attention": "none", "latent_weight": 0, "structural_weight": 0}


# ---- tuned encoders -----------------------------------------------------------------------------


def tuned(scene: Scene, pixels: torch.Tensor, **keys: Any) -> Any:
    keys = {"steps": 10, "learning_rate": 1e-4, "perceptual_weight": 0, **keys}
    settings = invert_section({"method": "encoder_tuning", "space": "w_plus", **keys})
    return invert_batch(Images(pixels, scene.generator, settings, scene.encoder))


def test_a_tuned_encoder_is_tuned_for_one_row_and_forgotten() -> None:
    """The same bits whatever the batch, repeated rows computed once, and the encoder as it was."""
    scene = Scene(adapter(), "w_plus")
    mirrored = scene.pixels.flip(-1)
    before = scene.encoder.encode(mirrored)
    together = tuned(scene, mirrored)
    alone = tuned(scene, mirrored[2:3])
    padded = tuned(scene, mirrored[[1, 2, 2, 2]])
    assert torch.equal(scene.encoder.encode(mirrored), before)
    assert torch.equal(together.code.main[2], alone.code.main[0])
    assert torch.equal(together.code.main[[1, 2, 2, 2]], padded.code.main)
    start, end = together.qualities["loss_start"], together.qualities["loss_end"]
    assert bool((end < start).all()) and bool((together.qualities["steps"] == 10).all())


def test_a_kept_code_is_one_that_the_encoder_can_give() -> None:
    """A planted encoder of rank one: tuned codes lie on its line, which free codes leave."""
    scene = Scene(adapter(), "w_plus")
    line = torch.randn(scene.generator.facts.space("w_plus").shape).flatten().double()

    class OnALine:
        fingerprint, space, size = "a" * 64, "w_plus", None

        def __init__(self) -> None:
            self.network = torch.nn.Linear(3 * 16 * 16, 1, dtype=torch.float64)

        def encode(self, images: torch.Tensor) -> torch.Tensor:
            along = self.network(images.flatten(1).double())
            return (along * line).float().reshape(len(images), 6, -1)

    scene.encoder = OnALine()
    codes = tuned(scene, scene.pixels).code.main.flatten(1).double()
    along = codes @ line / (line @ line)
    torch.testing.assert_close(codes, along[:, None] * line, rtol=1e-5, atol=1e-5)


def test_an_encoder_that_refines_is_tuned_by_its_first_pass() -> None:
    """A planted one that moves the mean code by a learned part of what the picture differs by."""
    scene = Scene(adapter(), "w_plus")

    class Refining:
        fingerprint, space, size, mean = "b" * 64, "w_plus", None, None

        def __init__(self) -> None:
            self.network = torch.nn.Linear(1, 6 * 8)

        def refine(self, images: torch.Tensor, drawn: torch.Tensor, code: Code) -> Code:
            differs = (images - drawn).flatten(1).mean(dim=1, keepdim=True)
            return code.moved(code.main + self.network(differs).reshape(-1, 6, 8))

    scene.encoder = Refining()
    found = tuned(scene, scene.pixels[:2], steps=5, learning_rate=0.01)
    assert bool((found.qualities["loss_end"] < found.qualities["loss_start"]).all())


def test_an_encoder_without_weights_is_told() -> None:
    scene = Scene(adapter(), "w_plus")
    fixed = scene.encoder
    del fixed.network
    with pytest.raises(UsageError, match="no weights that could be optimised: use method 'hybrid'"):
        tuned(scene, scene.pixels)


def test_tuning_takes_the_heat_of_the_perceptual_network() -> None:
    section = invert_section({"method": "encoder_tuning", "attention": "grad_cam"})
    assert section.compared_by is not None
    silent = dict.fromkeys(("pixel", "cosine", "divergence", "structural", "perceptual"), 0)
    keys = {f"{name}_weight": value for name, value in silent.items()}
    with pytest.raises(ValidationError, match="nothing to optimise"):
        invert_section({"method": "encoder_tuning", **keys})


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
    """Read, not imported: the suites of some methods lie in other modules of tests."""
    tests = Path(__file__).parents[2].rglob("test_*.py")
    text = "\n".join(path.read_text() for path in tests)
    here = re.findall(
        r'^class Test\w+\(InversionSuite\):\n    method = "(\w+)"', text, re.MULTILINE
    )
    assert set(METHODS.own()) <= set(here)
