"""Methods that begin with the codes of another: pivotal tuning, and feature maps beside codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance.folder import adapter, drawn, make, tree
from conformance.inversion import InversionSuite
from pydantic import ValidationError
from torch import nn

from generators.families.catalog import built
from generators.labelled import Labelled
from generators.protocols import Code, ModelFacts, Space
from generators.tuned import WEIGHTS, DrawsOwnParts, by_row, tunable, unpacked
from pipelines.analyses.spaces import Conversion
from pipelines.engine.blocks import InProcess
from pipelines.stages.invert import invert
from schemas.errors import UsageError
from schemas.sections.invert import invert_section
from schemas.store import sibling
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Status
from schemas.store.sibling import siblings_of
from tests.generators.families.references.biggan import tiny as biggan
from transforms.images.metrics import mse
from transforms.images.preprocess import to_uint8
from transforms.inversion.catalog import method_named
from transforms.inversion.method import Images, render, row_generator
from transforms.inversion.methods.feature_style import maps_of, scale_of
from transforms.inversion.methods.pivotal_tuning import tuned
from transforms.inversion.stored import own_numbers, stored_code


class TestPivotalTuning(InversionSuite):
    method = "pivotal_tuning"
    settings = {"steps": 2, "pivot": {"method": "hybrid", "steps": 2}, "perceptual_weight": 0.0}
    quick = {"steps": 1, "pivot": "encoder"}
    others = {"pivot": {"method": "hybrid", "steps": 3}, "space": "w"}


class TestFeatureStyle(InversionSuite):
    method = "feature_style"
    settings = {"steps": 2, "pivot": {"method": "hybrid", "steps": 2}, "perceptual_weight": 0.0}
    quick = {"steps": 1, "pivot": "encoder"}
    others = {"pivot": "encoder", "layer": "b16.conv1", "space": "w"}


# ---- pivotal tuning ------------------------------------------------------------------------------

WIDTH, SIDE = 5, 4
SHAPES = {"map.weight": (3 * SIDE * SIDE, WIDTH)}


class Linear(DrawsOwnParts):
    """Draws a linear map of z, whose weights rows may change."""

    def __init__(self) -> None:
        space = Space("z", (WIDTH,), "normal")
        facts = ModelFacts("linear", "ab" * 32, (SIDE, SIDE), {"z": space}, "z")
        self.facts = tunable(facts, SHAPES)
        self.network = nn.ModuleDict({"map": nn.Linear(WIDTH, 3 * SIDE * SIDE, bias=False)})
        self.network.requires_grad_(False)

    def sample(self, space: str, seeds: Any, *, labels: Any = None, truncation: Any = None) -> Code:
        rows = [np.random.RandomState(seed).standard_normal(WIDTH) for seed in seeds]
        return Code(space, torch.from_numpy(np.stack(rows).astype(np.float32)))

    @by_row
    def draw(self, code: Code, *, labels: Any = None, edits: Any = (), noise: str = "const") -> Any:
        return self.network["map"](code.main).reshape(-1, 3, SIDE, SIDE)


def tuned_linear(pivot: Code, pixels: torch.Tensor, **keys: Any) -> Any:
    model = Linear()
    section = invert_section(
        {
            "method": "pivotal_tuning",
            "space": "z",
            "steps": 250,
            "learning_rate": 0.02,
            "perceptual_weight": 0,
            **keys,
        }
    )
    rngs = [row_generator(0, 1, "0" * 64)] if section.needs.random else []
    return model, tuned(Images(pixels, model, section, None, rngs), pivot)


@pytest.mark.parametrize("rank", [None, 1])
def test_tuned_weights_of_a_linear_map_draw_the_picture(rank: int | None) -> None:
    """What a code that is 0 in a coordinate cannot tell, no step changes."""
    torch.manual_seed(1)
    pivot = Code("z", torch.tensor([[1.0, -0.5, 0.0, 2.0, 0.0]]))
    pixels = torch.rand(1, 3, SIDE, SIDE) * 2 - 1
    model, found = tuned_linear(pivot, pixels, rank=rank)
    weights = found.code.companions[WEIGHTS]
    delta = unpacked(SHAPES, weights[0])["map.weight"]
    wanted = pixels.reshape(-1) - model.network["map"](pivot.main)[0]
    torch.testing.assert_close(delta @ pivot.main[0], wanted, atol=2e-2, rtol=0)
    assert torch.linalg.matrix_rank(delta, atol=1e-4) == 1 or rank is None
    if rank is None:
        assert not delta[:, [2, 4]].any()
    assert float(found.loss_start[0]) == pytest.approx(float(wanted.square().mean()), rel=1e-5)
    assert float(found.loss_end[0]) < 1e-4 and float(found.steps[0]) == 250
    torch.testing.assert_close(model.draw(found.code), pixels, atol=2e-2, rtol=0)


def test_locality_holds_what_is_drawn_elsewhere() -> None:
    torch.manual_seed(1)
    pivot = Code("z", torch.tensor([[2.0, 0.1, 0.1, 0.1, 0.1]]))
    pixels = torch.rand(1, 3, SIDE, SIDE) * 2 - 1
    others = Linear().sample("z", range(20))

    def changed(**keys: Any) -> tuple[float, float]:
        model, found = tuned_linear(pivot, pixels, **keys)
        own = found.code.companions[WEIGHTS].expand(len(others), -1)
        after = model.draw(Code("z", others.main, {WEIGHTS: own}))
        return float((after - model.draw(others)).square().mean()), float(found.loss_end[0])

    (free, reached), (held, near) = changed(), changed(locality_weight=0.01, locality_radius=10.0)
    assert reached < 1e-4 and near < 0.1 and held < 0.6 * free


def test_a_row_that_is_near_enough_is_done() -> None:
    pivot, pixels = Code("z", torch.ones(1, WIDTH)), torch.zeros(1, 3, SIDE, SIDE)
    _, whole = tuned_linear(pivot, pixels)
    _, near = tuned_linear(pivot, pixels, stop_below=0.01)
    assert float(whole.loss_end[0]) < float(near.loss_end[0]) <= 0.01
    assert 0 < float(near.steps[0]) < 0.5 * float(whole.steps[0])
    _, still = tuned_linear(pivot, pixels, tolerance=0.5)
    assert 0 < float(still.steps[0]) < float(whole.steps[0])


def test_a_pivot_that_is_none_has_no_weights() -> None:
    pivot = Code("z", torch.full((1, WIDTH), torch.nan))
    _, found = tuned_linear(pivot, torch.zeros(1, 3, SIDE, SIDE), steps=2)
    assert bool(found.code.companions[WEIGHTS].isnan().all()) and bool(found.loss_end.isnan().all())


# ---- what is stored ------------------------------------------------------------------------------


class Died(BaseException):
    pass


def test_weights_too_large_for_the_store_survive_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sibling, "MAX_ROW_BYTES", 8192)
    monkeypatch.setattr(sibling, "BLOCK_BYTES", 1 << 16)
    setting = make(tmp_path / "images", 9)
    keys = {"method": "pivotal_tuning", "pivot": "encoder", "steps": 2, "perceptual_weight": 0,
            "batch_size": 3}  # fmt: skip

    def run(root: str) -> Any:
        identity = setting.identity(tmp_path / root, **keys)
        invert(setting.index, setting.source, identity, engine=InProcess())
        return identity

    whole = run("whole")
    (large,) = whole.large
    store = LatentStore.open(whole.path)
    (beside,) = siblings_of(store)
    assert large.path == "companions/w_plus.weights" and beside.block_rows == 4
    put, left = LatentStore._put, [9]

    def dying(self: Any, key: str, data: Any) -> None:
        if not left[0]:
            raise Died
        left[0] -= 1
        put(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(LatentStore, "_put", dying)
        with pytest.raises(Died):
            run("cut")
    cut = LatentStore.open(run("cut").path)
    assert tree(cut.path) == tree(store.path)
    assert tree(siblings_of(cut)[0].path) == tree(beside.path)
    rows = np.flatnonzero(store.status("invert") == Status.OK)
    generator = adapter()
    code = stored_code(store, generator.facts.space("w_plus"), rows)
    assert bool(code.companions[WEIGHTS].any(dim=1).all())
    # analyses of another space see each row's own weights, too
    assert own_numbers(store, "w_plus") == code.companions[WEIGHTS].shape[1]
    way = ("w_plus", "s")
    change = Conversion(setting.generator, generator.facts.fingerprint, way, store=store.path)
    converted = change(code.main.numpy(), rows)
    assert np.array_equal(converted, generator.convert(code, "s").main.numpy())
    bare = generator.convert(Code("w_plus", code.main), "s").main.numpy()
    assert (converted != bare).any(axis=1).all()
    measured = mse(drawn(9, seed=1)[rows], to_uint8(render(generator, code).numpy()))
    stored = np.asarray(store.array("quality/mse")[:])[rows]
    np.testing.assert_allclose(measured, stored, rtol=1e-5)


# ---- settings ------------------------------------------------------------------------------------


def test_the_pivot_is_a_method_with_its_own_keys() -> None:
    section = invert_section(
        {"method": "pivotal_tuning", "space": "w", "pivot": {"method": "optimise", "steps": 7}}
    )
    pivot = section.pivot_settings()
    assert (pivot.method, pivot.steps, pivot.space) == ("optimise", 7, "w")
    assert section.needs == pivot.needs and not section.needs.encoder
    again = invert_section(section.model_dump(mode="json"))
    assert again.pivot == section.pivot and again.identity() == section.identity()
    kept = section.identity()["pivot"]
    assert kept["steps"] == 7 and "space" not in kept and "batch_size" not in kept
    assert section.brief().steps == section.brief().pivot_settings().steps == 2
    method = method_named("pivotal_tuning")
    cost = method.cost(section)
    assert (cost.forward_passes, cost.backward_passes) == (7 + 1 + 351, 7 + 350)
    assert str(method.qualities(section)[-3:]) == "['loss_start', 'loss_end', 'steps']"


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"pivot": "pivotal_tuning"}, "begins with the codes of another itself"),
        ({"pivot": {"method": "encoder", "space": "w"}}, "'space'.*move them there"),
        ({"pivot": {"steps": 3}}, "with 'method'"),
        ({"pivot": {"method": "hybrid", "stepz": 3}}, "stepz"),
        ({"pivot": "hybird"}, "hybrid"),
        ({"pixel_weight": 0, "perceptual_weight": 0}, "nothing to optimise"),
        ({"rank": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_pivots_are_refused(keys: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        invert_section({"method": "pivotal_tuning", **keys})


def test_what_a_generator_does_not_take_is_told() -> None:
    bare = ModelFacts("f", "ab" * 32, (4, 4), {"z": Space("z", (3,), "normal")}, "z")
    for name in ("pivotal_tuning", "feature_style"):
        with pytest.raises(UsageError, match=name):
            method_named(name).spaces(bare)
    facts = adapter().facts
    section = invert_section({"method": "feature_style", "space": "w_plus", "layer": "b16.conv2"})
    with pytest.raises(UsageError, match=r"'invert.layer' is 'b16.conv2'.*'b16.conv1'"):
        method_named("feature_style").companions(section, facts)
    section = invert_section({"method": "pivotal_tuning", "space": "w", "pivot": "vae"})
    with pytest.raises(UsageError, match="'invert.space' is 'w', and 'invert.pivot', 'vae'"):
        method_named("pivotal_tuning").companions(section, facts)


def test_the_default_layer_is_low_enough() -> None:
    facts = adapter().facts
    section = invert_section({"method": "feature_style", "space": "w_plus"})
    found = method_named("feature_style").companions(section, facts)
    assert found == {"features/b4.conv1": (8, 4, 4)}


# ---- pivots that are imported --------------------------------------------------------------------


def test_a_pivot_that_is_imported_gives_each_image_its_own_code(tmp_path):
    np.save(tmp_path / "codes.npy", np.zeros((2, WIDTH), np.float32))
    (tmp_path / "names.txt").write_text("b.png\na.png\n")
    pivot = {"method": "imported", "codes": "codes.npy", "names": "names.txt"}
    given = {"method": "pivotal_tuning", "space": "z", "pivot": pivot}
    spec = invert_section(given, str(tmp_path))
    found = method_named("pivotal_tuning").named(spec, Linear().facts, ["a.png", "b.png"])
    assert list(found or ()) == ["b.png", "a.png"]


def test_equal_pictures_with_codes_of_their_own_are_taken_one_by_one():
    settings = invert_section({"method": "pivotal_tuning", "space": "z"})
    pixels = torch.zeros(3, 3, SIDE, SIDE)
    images = Images(pixels, Linear(), settings, entries=[4, 4, 5])
    assert [images.repeats(i) for i in range(3)] == [False, True, False]


def test_what_a_feature_map_is_measured_by_is_the_same_for_all_rows():
    model = built(biggan())
    space = model.facts.space(model.facts.default_space)
    layer = next(iter(maps_of(model.facts, space.name)))
    found = [
        scale_of(Labelled(model, np.array(labels)), space.name, f"features.{layer}", "const")
        for labels in ([1, 0], [0, 1], [1])
    ]
    code = Code(space.name, model.centre(space.name, [0]).reshape(1, *space.shape))
    recorded = model.convert(code, f"features.{layer}", labels=[0]).main
    assert len(set(found)) == 1 and found[0] == pytest.approx(recorded.square().mean().sqrt())
