"""A stored row is drawn, edited, measured and converted with all that belongs to its code."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from inversion_fixture import adapter as plain_adapter
from inversion_fixture import annotator, make
from plugin_packages import forget, install
from stores import ARRAYS, create, flags, fp_of, n_of, values, write_all
from tiny_run import direct_zarr

import generators
from generators.edits import Edit
from generators.labelled import Labelled
from generators.protocols import Code, Companion, Space
from pipelines.analyses import spaces
from pipelines.analyses.jacobian.fit import fit_jacobian
from pipelines.downstream.finished_run import FinishedRun
from pipelines.engine.blocks import InProcess
from pipelines.evaluation.actors_meter import ActorsMeter, Models, pieces_of
from pipelines.evaluation.gradient_strips import GradientEdit
from pipelines.evaluation.meter import Sweep
from pipelines.evaluation.samples import Samples
from pipelines.evaluation.strips import edit_images
from pipelines.stages.annotate import annotate
from pipelines.stages.invert import invert
from schemas.directions import DirectionSet
from schemas.directions.direction import unit_direction
from schemas.errors import StoreError
from schemas.sections.invert import invert_section
from schemas.spec_models import AnnotateSpec
from schemas.store.latent_store import ArraySpec, LatentStore
from schemas.store.lock import StoreLock
from transforms.images.preprocess import to_uint8
from transforms.inversion.method import Images
from transforms.inversion.methods.optimise import Optimisation
from transforms.inversion.stored import stored_code

METHOD = """
import numpy as np
import torch

from generators.protocols import Code
from schemas.sections.invert import InvertSpec, Needs
from transforms.inversion.method import Cost, InversionMethod, Inverted


class GrainSpec(InvertSpec):
    @property
    def needs(self):
        return Needs(random=True)


class Grain(InversionMethod):
    section = GrainSpec

    def companions(self, settings, facts):
        return [n for n in facts.space(settings.space).companions if n.startswith("noise/")]

    def cost(self, settings):
        return Cost()

    def invert(self, images):
        space = images.generator.facts.space(images.settings.space)

        def draws(shape):
            rows = [rng.standard_normal(shape, np.float32) for rng in images.rngs]
            return torch.from_numpy(np.stack(rows))

        noise = {n: draws(c.shape) for n, c in space.companions.items() if n.startswith("noise/")}
        return Inverted(Code(space.name, 0.3 * draws(space.shape), noise))


PLUGIN = Grain()
"""
ROWS = np.array([4, 0, 2])


def adapter():
    """One whose noise shows."""
    found = plain_adapter()
    for name, value in found.network.named_parameters():
        if name.endswith("noise_strength"):
            value.fill_(0.5)
    return found


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    found = make(tmp_path_factory.mktemp("images"), 6)
    generators.save_safetensors(adapter(), found.generator)
    return found


@pytest.fixture(scope="module")
def store(setting, tmp_path_factory):
    """Codes of w_plus with noise images of their own; row 3 has none."""
    with direct_zarr(), pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("package")
        install(folder, patch, "latentflow.inversions", "grain", METHOD)
        root = tmp_path_factory.mktemp("stores")
        identity = setting.identity(root, method="grain", space="w_plus")
        invert(setting.index, setting.source, identity, engine=InProcess())
        yield LatentStore.open(identity.path, "r+")
    forget()


@pytest.fixture(scope="module")
def code(store):
    """Of `ROWS`, read array by array."""
    generator = adapter()
    names = [n for n in generator.facts.space("w_plus").companions if n.startswith("noise/")]
    beside = {name: store.array(f"companions/w_plus.{name.replace('/', '--')}") for name in names}
    noise = {name: torch.tensor(np.asarray(array[:])[ROWS]) for name, array in beside.items()}
    assert noise and all(name.startswith("noise/") for name in noise)
    return Code("w_plus", torch.tensor(np.asarray(store.array("latents/w_plus")[:])[ROWS]), noise)


@pytest.fixture(scope="module")
def direction():
    facts = adapter().facts
    vector = np.ones(facts.space("w_plus").shape)
    provenance = {"generator_fp": facts.fingerprint}
    return unit_direction("d", "w_plus", vector, method="none", sd=1.0, provenance=provenance)


def drawn(code, edits=()):
    with torch.no_grad():
        return to_uint8(adapter().draw(code, edits=edits).numpy())


def run_of(store, setting, direction=None):
    """What a finished run would hold."""
    found = DirectionSet(adapter().facts.fingerprint, "w_plus", [direction] if direction else [])
    return FinishedRun(SimpleNamespace(dataset=None), setting.index, store, found)


def test_a_code_is_read_whole_in_the_order_of_the_rows(store, code):
    space = adapter().facts.space("w_plus")
    found = stored_code(store, space, ROWS)
    assert found.companions.keys() == code.companions.keys()
    torch.testing.assert_close(found.main, code.main, rtol=0, atol=0)
    twice = stored_code(store, space, ROWS[[1, 1, 0]])
    for name, noise in code.companions.items():
        assert torch.equal(found.companions[name], noise)
        assert torch.equal(twice.companions[name], noise[[1, 1, 0]])
    assert not stored_code(store, space, ROWS, required=True).companions


def test_edits_are_drawn_with_what_belongs_to_the_codes(store, setting, code, direction):
    generator = adapter()
    samples = run_of(store, setting, direction).samples(ROWS.tolist(), generator.facts)
    images = edit_images(generator, samples, direction, [0.0, 1.5])
    bare = drawn(Code("w_plus", code.main))
    assert (images[:, 0] != bare).any(axis=(1, 2, 3)).all(), "the noise shows"
    np.testing.assert_array_equal(images[:, 0], drawn(code))
    np.testing.assert_array_equal(images[:, 1], drawn(code, [Edit(direction, 1.5)]))
    style = np.eye(1, generator.facts.space("s").shape[0], 3)[0]
    other = unit_direction("s", "s", style, method="none", sd=1.0, provenance=direction.provenance)
    styles = edit_images(generator, samples, other, [0.0])
    assert np.abs(styles[:, 0].astype(int) - drawn(code)).max() <= 1, "also converted first"
    same = edit_images(generator, samples, direction, [0.0], refine=lambda s, e: e)
    np.testing.assert_array_equal(same[:, 0], drawn(code))


def test_edits_are_drawn_with_the_noise_inputs_of_the_inversion(store, code, direction):
    samples = replace(Samples.of(code, None), companions={}, noise="none")
    images = edit_images(adapter(), samples, direction, [0.0])
    bare = Code("w_plus", code.main)
    with torch.no_grad():
        without = to_uint8(adapter().draw(bare, noise="none").numpy())
    np.testing.assert_array_equal(images[:, 0], without)
    assert (without != drawn(bare)).any(), "the noise shows"
    assert samples[[1]].noise == "none" and samples.identity()[-1] == "none"
    assert Samples.stored(store, adapter().facts.space("w_plus"), ROWS, None).noise == "const"


def test_actors_measure_what_is_drawn_whole(store, setting, code, direction, tmp_path):
    samples = Samples.stored(store, adapter().facts.space("w_plus"), ROWS, None)
    models = Models(setting.generator, adapter().facts.fingerprint)
    edits = [Sweep(direction, (0.0, 1.0), 3, measured=False)]
    with StoreLock(tmp_path / "store") as lock:
        meter = ActorsMeter(models, InProcess(), lock, tmp_path / "pieces")
        pictures = meter.edited(samples, edits)[0].pictures
    np.testing.assert_array_equal(pictures[:, 0], drawn(code))
    bare = Samples("w_plus", samples.codes)
    keys = [pieces_of(models, s, edits)[0].key for s in (samples, bare, samples[[0, 2, 1]])]
    assert len(set(keys)) == 3
    given = Samples.of(code, None)
    changed = {name: values + 1 for name, values in given.companions.items()}
    keys += [
        pieces_of(models, s, edits)[0].key for s in (given, replace(given, companions=changed))
    ]
    assert len(set(keys)) == 5


def test_renders_are_of_codes_with_their_noise(store, setting, code):
    model, weight = annotator(setting.root, "bright", "scores", ["bright"], size=16)
    spec = AnnotateSpec(name="bright", model=model, batch_size=4, render=True)
    annotate(
        setting.index, setting.source, store.path, [spec],
        generator_uri=setting.generator, engine=InProcess(),
    )  # fmt: skip
    fresh = LatentStore.open(store.path)
    found = np.asarray(fresh.array("annotations/bright@render")[:])
    pixels = drawn(code).transpose(0, 3, 1, 2).reshape(3, -1) / 127.5 - 1
    np.testing.assert_allclose(found[ROWS], pixels @ weight, atol=1e-4)
    assert np.isnan(found[3]).all()


def test_the_gradient_edit_draws_with_class_and_noise_of_the_row(code):
    generator, seen = adapter(), []

    class Watched(Labelled):
        def draw(self, code, *, labels=None, **options):
            seen.append((code, labels))
            return generator.draw(code, **options)

    watched = Watched(generator, None)
    samples = Samples.of(code, [2, 0, 1])
    d = code.main[0].numel()
    edit = GradientEdit(
        watched, np.zeros(d), np.ones((d, 1)) / d, np.zeros(1), np.ones(1), 1.0, steps=1
    )
    edit(samples, np.repeat(samples.codes[:, None], 2, axis=1))
    own = next(iter(code.companions))
    for row, label in enumerate([2, 0, 1]):
        given = [(c, labels) for c, labels in seen if list(labels) == [label] * 2]
        assert given
        for found, _ in given:
            assert torch.equal(found.companions[own], code.companions[own][[row, row]])


def test_the_jacobian_is_of_the_row_with_its_noise(store, code, monkeypatch):
    generator, drawn_rows = adapter(), []
    space = generator.facts.space("w_plus")

    class Enough(Exception):
        pass

    def gram(draws, codes, front):
        drawn_rows.extend(draw(codes[[i, i]]) for i, draw in enumerate(draws))
        raise Enough

    monkeypatch.setattr("transforms.directions.jacobian.JacobianGram", gram)
    data = SimpleNamespace(
        ok_rows=lambda: np.sort(ROWS),
        generator=lambda: generator,
        noise_mode="const",
        labels=lambda rows: None,
        code_of=lambda rows: stored_code(store, space, rows),
    )
    with pytest.raises(Enough):
        fit_jacobian(data, SimpleNamespace(samples=3, region=None))
    expected = drawn(code)[np.argsort(ROWS)]
    for images, one in zip(drawn_rows, expected, strict=True):
        np.testing.assert_array_equal(to_uint8(images.numpy()), [one, one])


def test_a_store_without_a_required_companion_is_refused(tmp_path):
    write_all(plain := create(tmp_path / "s", 8))
    space = Space("w_plus", (3, 4), companions={"delta/b4": Companion((2,), required=True)})
    for read in (stored_code, lambda *a: Samples.stored(*a, None)):
        with pytest.raises(StoreError, match=r"'delta/b4'.*run the specification again"):
            read(plain, space, np.arange(3))


def test_codes_are_converted_with_what_they_cannot_do_without(tmp_path, monkeypatch):
    scale = ArraySpec("companions", "w_plus.scale", (1,))
    store = create(tmp_path / "s", 20, arrays=[*ARRAYS, scale])
    numbers = np.arange(20, dtype="f4")[:, None] + 1
    for block in range(store.n_blocks):
        more = {scale.path: numbers[store.block_slice(block)]}
        n = n_of(store, block)
        store.write_block(
            "invert", block, {**values(store, block), **more}, *flags(n), fp_of(store, block)
        )
    stored = Space("w_plus", (3, 4), companions={"scale": Companion((1,), required=True)})
    facts = SimpleNamespace(space=lambda name: stored if name == "w_plus" else Space("x", (3, 4)))

    def convert(code, target, labels=None):
        return Code(target, code.main * code.companions["scale"][:, None])

    model = SimpleNamespace(facts=facts, convert=convert)
    monkeypatch.setattr(spaces, "generator_of", lambda *a: model)
    change = spaces.Conversion("g", "f" * 64, ("w_plus", "x"), store=store.path)
    codes, rows = np.asarray(store.array("latents/w_plus")[:]), np.array([19, 3, 8])
    expected = codes[rows] * numbers[rows][:, None]
    np.testing.assert_array_equal(change(codes[rows], rows), expected)
    np.testing.assert_array_equal(change.code_of(store, codes[rows], rows).main, expected)


def test_optimisation_starts_at_the_centre_of_the_class(monkeypatch):
    monkeypatch.setattr("transforms.inversion.descent._SPREAD", {})
    generator, labels = adapter(), np.array([1, 0])

    class OfClass:
        facts = replace(generator.facts, classes=2)

        def __getattr__(self, name):
            return getattr(generator, name)

        def centre(self, space, labels=None):
            centre = generator.centre(space)
            if labels is None:
                return centre
            return centre + torch.tensor(labels, dtype=torch.float32).view(-1, *[1] * centre.ndim)

        def draw(self, code, *, labels=None, **options):
            return generator.draw(code, **options)

    section = invert_section(
        {"method": "optimise", "steps": 1, "space": "w_plus", "learning_rate": 1e-9}
    )
    pixels = torch.zeros(2, 3, 16, 16)
    rngs = [np.random.default_rng(i) for i in range(2)]
    images = Images(pixels, Labelled(OfClass(), labels), section, None, rngs)
    found = Optimisation().invert(images).code.main
    expected = generator.centre("w_plus") + torch.tensor([1.0, 0.0])[:, None, None]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
