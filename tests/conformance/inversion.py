"""What every inversion method keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from torch import Tensor

from conformance.folder import Setting, adapter, make, tree
from generators.families.base import Stored
from generators.labelled import Labelled
from generators.protocols import Code, labels_in_turn
from pipelines.engine.blocks import InProcess
from pipelines.folder.qualities import MEASURED
from pipelines.stages.invert import invert
from schemas.sections.invert import MODEL_FILE, SAME_CODES, UNUSED, invert_section, section_of
from schemas.store.latent_store import LatentStore
from schemas.store.layout import companion_path
from schemas.store.reasons import Reason
from transforms.inversion.catalog import invert_batch, method_named
from transforms.inversion.method import Images, Inverted, render, row_generator

N = 4


class InversionSuite:
    """Subclass with a name that begins with ``Test`` and set ``method``.

    method : the name of the inversion method
    settings : keys of 'invert', such as few steps, so that an image takes milliseconds
    quick : other values of ``settings`` for whole stages, where it does not matter how near the
        codes come
    within : the images of codes that are known must be met at least this much better than by the
        mean code: mean squared error of the result / that of the mean code
    others : key -> another value, for keys whose type does not tell one
    """

    method: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    quick: ClassVar[Mapping[str, Any]] = {}
    within: ClassVar[float] = 0.5
    others: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def generator(cls) -> Stored | None:
        """The generator that images are inverted into, of an installed family, for a method that
        is not for all of them; None takes a tiny StyleGAN2, with an encoder."""
        return None

    # ---- what is inverted

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Setting:
        """66 images; row 3 is an empty file."""
        return make(tmp_path_factory.mktemp("conformance"), 66, cls.generator())

    @pytest.fixture(scope="class")
    @classmethod
    def scene(cls) -> Scene:
        return Scene(cls.generator() or adapter(), cls.section().space)

    @classmethod
    def section(cls) -> Any:
        section = invert_section({**cls.settings, "method": cls.method})
        return section.into(default_space(cls))

    def invert(self, scene: Scene, pixels: Tensor, rows: list[int], seed: int = 0) -> Inverted:
        section = self.section()
        ids = [f"{row:064x}" for row in rows] if section.needs.random else []
        rngs = [row_generator(seed, 1, image_id) for image_id in ids]
        encoder = scene.encoder if section.needs.encoder else None
        generator = scene.generator_of(rows)
        entries = () if self.named(section, scene) is None else rows
        return invert_batch(
            Images(pixels[rows], generator, section, encoder, rngs, entries=entries)
        )

    def named(self, section: Any, scene: Scene) -> Sequence[str] | None:
        """What the method knows beforehand: its first entries must be of the scene's images, and
        it must name those of the folder."""
        uris = [f"{row:05}.png" for row in range(66)]
        return method_named(self.method).named(section, scene.generator.facts, uris)

    # ---- what must hold

    def test_a_row_does_not_depend_on_those_beside_it(self, scene: Scene) -> None:
        together = arrays_of(self.invert(scene, scene.pixels, [0, 1, 2, 3]))
        turned = arrays_of(self.invert(scene, scene.pixels, [3, 2, 1, 0]))
        alone = arrays_of(self.invert(scene, scene.pixels, [2]))
        padded = arrays_of(self.invert(scene, scene.pixels, [2, 0, 0, 0]))
        for name, values in together.items():
            for other in (turned[name][1:2], alone[name], padded[name][:1]):
                torch.testing.assert_close(values[2:3], other, rtol=1e-3, atol=1e-3, msg=name)

    def test_the_same_seed_gives_the_same_bits(self, scene: Scene) -> None:
        first, again = (arrays_of(self.invert(scene, scene.pixels, [0, 1])) for _ in range(2))
        for name, values in first.items():
            assert torch.equal(values, again[name]), name
        other = arrays_of(self.invert(scene, scene.pixels, [0, 1], seed=1))
        random = self.section().needs.random
        assert random != torch.equal(first["codes"], other["codes"])

    def test_a_row_that_diverges_is_told_and_touches_no_other(self, scene: Scene) -> None:
        broken = scene.pixels.clone()
        broken[1] = torch.nan
        found, fine = (self.invert(scene, pixels, [0, 1, 2]) for pixels in (broken, scene.pixels))
        assert not torch.isfinite(found.code.main[1]).all(), "a code that is not finite is told"
        for name, values in arrays_of(found).items():
            torch.testing.assert_close(values[[0, 2]], arrays_of(fine)[name][[0, 2]], msg=name)

    def test_what_is_drawn_is_found_again(self, scene: Scene) -> None:
        found = self.invert(scene, scene.pixels, list(range(N)))
        errors = scene.error(found.code, self.section())
        start = scene.error(scene.mean(), self.section())
        assert float(errors.mean()) <= self.within * float(start.mean())

    def test_what_is_announced_is_given(
        self, scene: Scene, folder: Setting, tmp_path: Path
    ) -> None:
        identity = folder.identity(tmp_path, **self.keys())
        section, method, facts = self.section(), method_named(self.method), identity.facts
        assert isinstance(section, method.section)
        assert section.space in method.spaces(facts)
        announced = {array.path for array in identity.arrays}
        given = {f"latents/{section.space}", *(f"quality/{name}" for name in MEASURED)}
        given |= {"quality/lpips_star"} if section.needs.gradients else set()
        given |= {companion_path(section.space, k) for k in method.companions(section, facts)}
        given |= {f"quality/{k}" for k in method.qualities(section)}
        assert announced == given
        assert str(method.cost(section))

    def test_an_interrupted_stage_ends_in_the_same_bytes(
        self, folder: Setting, tmp_path: Path
    ) -> None:
        index = folder.index.__class__(folder.index.table.slice(0, 10), folder.index.factors)

        def run(root: Path, blocks: list[int] | None = None) -> Any:
            identity = folder.identity(tmp_path / root, **self.keys(**self.quick))
            identity = replace(identity, block_rows=8)
            return invert(index, folder.source, identity, engine=InProcess(), blocks=blocks)

        whole = run(Path("whole"))
        assert whole.counts["reasons"] == {"empty": 1} and whole.counts["ok"] == 9
        store = LatentStore.open(run(Path("cut"), [1]).store_path, "r+")
        shard = next(p for p in sorted(Path(store.path, "latents").rglob("c/1/*")) if p.exists())
        (shard.parent / f"{shard.name}.{'1' * 32}.partial").write_bytes(b"half")
        store._write_commit("invert", 1, bytes(32))
        resumed = run(Path("cut"))
        assert resumed.blocks_done == 2
        assert tree(whole.store_path) == tree(resumed.store_path)

    def test_a_row_that_diverges_is_quarantined(
        self, folder: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        method = method_named(self.method)
        original = type(method).invert

        def diverging(self: Any, images: Images) -> Inverted:
            found = original(self, images)
            found.code.main[2] = torch.nan
            return found

        monkeypatch.setattr(type(method), "invert", diverging)
        short = folder.index.__class__(folder.index.table.slice(0, 5), folder.index.factors)
        identity = folder.identity(tmp_path, **self.keys())
        result = invert(short, folder.source, identity, engine=InProcess())
        assert result.counts["reasons"] == {"empty": 1, "not_finite": 1}
        store = LatentStore.open(result.store_path)
        assert list(np.flatnonzero(store.reason("invert") == Reason.NOT_FINITE)) == [2]
        for array in identity.arrays:
            assert np.isnan(store.array(array.path)[2]).all(), array.path

    def test_the_identity_holds_what_decides_the_codes(
        self, folder: Setting, tmp_path: Path
    ) -> None:
        def fp(**changed: Any) -> str:
            return folder.identity(tmp_path, **self.keys(**changed)).store_fp

        fields = section_of(self.method).model_fields
        model = folder.identity(tmp_path, **self.keys()).facts
        spaces = method_named(self.method).spaces(model)
        for key, field in fields.items():
            if key in ("method", "block_rows"):  # the catalog's, and the store's geometry
                continue
            if key == "space" and len(spaces) == 1:
                continue
            free = SAME_CODES in field.metadata or UNUSED in field.metadata
            assert (fp(**{key: self.another(key, spaces)}) == fp()) == free, key

    # ---- the keys of the section

    def keys(self, **changed: Any) -> dict[str, Any]:
        return {**self.settings, "method": self.method, **changed}

    def another(self, key: str, spaces: Sequence[str]) -> Any:
        """A value of a key that is not the one in use."""
        value, field = getattr(self.section(), key), section_of(self.method).model_fields[key]
        if key in self.others:
            return self.others[key]
        if key == "perceptual":
            return {}  # the project's own network
        if key == "space":
            return next(space for space in spaces if space != value)
        choices = [c for c in get_args(field.annotation) if c != value]
        if get_origin(field.annotation) is Literal:
            return choices[0]
        assert MODEL_FILE not in field.metadata, f"name another file for {key!r} under 'others'"
        if isinstance(value, bool) or bool in get_args(field.annotation):
            return not value if value is not None else False
        assert value is None or isinstance(value, int | float), f"give {key!r} under 'others'"
        return 2 if value is None else value + 1


@cache
def default_space(suite: type[InversionSuite]) -> str:
    """Of the generator that a suite's images are inverted into."""
    model: Any = suite.generator() or adapter()
    return str(model.facts.default_space)


def arrays_of(found: Inverted) -> dict[str, Tensor]:
    return {"codes": found.code.main, **found.code.companions, **found.qualities}


class Scene:
    """A generator, images that it draws from known codes near its mean, and an encoder fitted to
    it. A row's class is its number's."""

    def __init__(self, generator: Any, space: str) -> None:
        self.generator, self.space = generator, space
        self.pixels = self.draw(self._codes(range(N)))

    def generator_of(self, rows: Sequence[int]) -> Any:
        """The generator, that draws these rows with their classes where it has any."""
        labels = labels_in_turn(self.generator.facts.classes, rows)
        return self.generator if labels is None else Labelled(self.generator, np.array(labels))

    def draw(self, code: Code, noise: str = "const") -> Tensor:
        return render(self.generator_of(range(len(code))), code, noise)

    def _codes(self, seeds: Sequence[int]) -> Code:
        return self.generator.sample(self.space, seeds, truncation=0.3)

    def mean(self) -> Code:
        centre = self.generator.centre(self.space)
        return Code(self.space, centre.expand(N, *centre.shape))

    def error(self, code: Code, section: Any) -> Tensor:
        """Mean squared error of every image, (n,)."""
        drawn = self.draw(code, section.noise_mode)
        return (drawn - self.pixels).square().flatten(1).mean(dim=1)

    @cached_property
    def encoder(self) -> Any:
        """The ridge regression of codes on pixels."""
        codes = self._codes(range(N, N + 512))
        images = self.draw(codes).flatten(1).double()
        centre = self.generator.centre(self.space)
        gram = images @ images.T + 1e-3 * torch.eye(len(images))
        offsets = (codes.main - centre).flatten(1).double()
        return _Fitted(self.space, centre, images.T @ torch.linalg.solve(gram, offsets))


class _Fitted:
    """A linear encoder."""

    fingerprint = "e" * 64
    size = None

    def __init__(self, space: str, mean: Tensor, weights: Tensor) -> None:
        self.space, self._mean, self._weights = space, mean, weights
        self.network = torch.nn.Module()
        self.network.weights = torch.nn.Parameter(weights, requires_grad=False)

    def encode(self, images: Tensor) -> Tensor:
        offsets = (images.flatten(1).double() @ self.network.weights).float()
        return self._mean + offsets.reshape(-1, *self._mean.shape)
