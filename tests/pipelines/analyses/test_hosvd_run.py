"""The tensor analysis of a run over a store: any factors, holes, repeats, layers, both engines."""

import numpy as np
import pytest
from pydantic import ValidationError
from stores import create, fp_of
from tensors import planted

from pipelines.analyses.hosvd import fit as module
from pipelines.runs.analyse import fit_analysis
from schemas.errors import SpecError
from schemas.index import DatasetIndex, NewRow, encode_categories
from schemas.sections.hosvd import HosvdSpec
from schemas.spec_models import RunSpec
from schemas.store.latent_store import ArraySpec
from schemas.store.reasons import Status
from transforms.accumulate.blocks import sum_blocks
from transforms.accumulate.passes import run_passes
from transforms.beam.engine import BeamEngine
from transforms.hosvd.solve import hosvd
from transforms.hosvd.stacked import stacked_hosvd

SHAPE = (6, 3, 2, 2)  # who, mood, strength, side
NAMES = ("who", "mood", "strength", "side")
CODE = (2, 8)


class InProcess:
    """Sums and solvers in this process."""

    def sum(self, source, request):
        def statistic(block):
            return request.statistic(request.prepare(source.read(block)[1]))

        return sum_blocks(source.n_blocks, statistic)

    def run(self, solver, source):
        return run_passes(solver, source)


@pytest.fixture(scope="module")
def tensor():
    rng = np.random.default_rng(0)
    return planted((3, 2, 1, 2), noise=0.2, shape=(16, *SHAPE)).astype(np.float32), rng


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tensor):
    """Makes a store of the tensor's cells in random order, and a spec with that section."""

    def make(cells, engine=None, **section):
        order = np.random.default_rng(1).permutation(cells)
        levels = np.unravel_index(order, SHAPE)
        rows = [NewRow(f"{i:064x}", f"{i}.png", 8, 8) for i in range(len(order))]
        index = DatasetIndex.empty().append(rows)
        index = index.with_factors(
            {
                name: encode_categories([f"{name}{v}" for v in level], None, "string")
                for name, level in zip(NAMES, levels, strict=True)
            }
        )
        path = tmp_path_factory.mktemp("store") / "store"
        arrays = [ArraySpec("latents", "w_plus", CODE)]
        store = create(path, len(order), 32, arrays=arrays)
        codes = tensor[0].reshape(16, -1).T[order].reshape(-1, *CODE)
        for block in range(store.n_blocks):
            at = store.block_slice(block)
            flags = np.full(at.stop - at.start, Status.OK, "u1"), np.zeros(at.stop - at.start, "u1")
            content = {"latents/w_plus": codes[at]}
            store.write_block("invert", block, content, *flags, fp_of(store, block))
        spec = {"name": "t", "dataset": {"path": "."}, "analyse": {"hosvd": section}}
        return RunSpec.model_validate(spec), store, index, engine or InProcess()

    return make


def fit(made):
    return fit_analysis("hosvd", *made)[0]


def sorted_tensor(tensor, made, modes=NAMES):
    """The tensor with levels in the order of the index' codes."""
    axes = []
    for name in modes:
        categories = made[2].categorical(name)[1]
        axes.append([int(c.removeprefix(name)) for c in categories])
    return tensor[0].astype(np.float64)[np.ix_(range(16), *axes)]


ALL = np.arange(72)


@pytest.mark.parametrize("engine", [None, BeamEngine()])
def test_five_modes_with_pairs_and_intensity(inputs, tensor, engine):
    made = inputs(
        ALL,
        engine,
        modes=list(NAMES),
        energy=1,
        pairs={"side": [["side0", "side1"]]},
        intensity={"mood": "strength"},
    )
    found = fit(made)
    peer = hosvd(sorted_tensor(tensor, made))
    np.testing.assert_allclose(found.arrays["core"], peer.core, atol=1e-5)
    by_name = {d.name: d for d in found.directions}
    assert {"hosvd.mood-mood1", "hosvd.side-side0", "hosvd.side-side0-to-side1"} <= set(by_name)
    data = tensor[0].astype(np.float64)
    turn = data[..., 1].mean(axis=(1, 2, 3)) - data[..., 0].mean(axis=(1, 2, 3))
    vector = by_name["hosvd.side-side0-to-side1"].vector.ravel()
    np.testing.assert_allclose(vector, turn / np.linalg.norm(turn), atol=1e-6)
    moods = made[2].categorical("mood")[1]
    expected = peer.intensity_directions(1, 2)[0][moods.index("mood1")]
    vector = by_name["hosvd.mood-mood1"].vector.ravel()
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)
    assert by_name["hosvd.mood-mood1"].provenance["intensity"] == "strength"
    assert found.facts["shape"] == list(SHAPE) and "completion" not in found.facts


def test_composite_modes_have_an_origin(inputs, tensor):
    made = inputs(ALL, modes=["who", ["mood", "strength"], "side"], energy=1)
    found = fit(made)
    assert found.arrays["apathy1"].shape == (16,)
    assert found.facts["shape"] == [6, 6, 2]
    assert found.arrays["subspace1"].shape == (6, 3)


@pytest.mark.parametrize("stacked", [False, True])
def test_holes_and_repeats_are_completed_in_slabs(inputs, tensor, stacked):
    cells = np.concatenate([np.delete(ALL, [3, 17, 40, 41, 66]), [5, 5, 9]])
    section = {"modes": list(NAMES), "missing": "complete", "energy": 0.9, "stacked": stacked}
    made = inputs(cells, **section)
    found = fit(made)
    assert found.facts["missing_cells"] == 5 and found.facts["repeated_cells"] == 2
    assert found.facts["completion"]["converged"]
    holes = tensor[0].astype(np.float64).reshape(16, -1)
    holes[:, [3, 17, 40, 41, 66]] = np.nan
    holes = sorted_tensor((holes.reshape(16, *SHAPE),), made)
    if stacked:
        from transforms.hosvd.solve import complete_tensor

        filled = complete_tensor(holes, np.isnan(holes[0]), energy=0.9)
        peer = stacked_hosvd(filled.reshape(2, 8, *SHAPE)).models[1]
        assert len(found.facts["ranks_by_layer"]) == 2 and len(found.facts["ranks"]) == 4
        name = "core.01"
    else:
        peer, name = hosvd(holes, missing="complete", energy=0.9), "core"
        found.arrays[name] = found.arrays[name][(slice(None), *(slice(r) for r in peer.ranks))]
    np.testing.assert_allclose(found.arrays[name], peer.core, atol=1e-5)
    if not stacked:
        counts = np.bincount(cells, minlength=72).reshape(1, *SHAPE)
        counts = sorted_tensor((counts.repeat(16, axis=0),), made)[0]
        weighted = fit(inputs(cells, **section, repeats="weighted"))
        heavy = hosvd(holes, missing="complete", energy=0.9, counts=counts)
        core = weighted.arrays["core"][(slice(None), *(slice(r) for r in heavy.ranks))]
        np.testing.assert_allclose(core, heavy.core, atol=1e-5)
        np.testing.assert_allclose(weighted.arrays["mean"], heavy.mean, atol=1e-5)
        assert np.abs(heavy.mean - peer.mean).max() > 1e-4


def test_dropped_persons(inputs, tensor):
    cells = np.delete(ALL, [3, 17, 40])
    made = inputs(cells, modes=list(NAMES), missing="drop_person", energy=1)
    found = fit(made)
    whole = [int(n.removeprefix("who")) for n in found.facts["levels"][0]]
    assert sorted(whole) == [2, 4, 5] and found.facts["shape"] == [3, 3, 2, 2]
    assert found.facts["missing_cells"] == 3
    assert found.arrays["kept0"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(
        found.arrays["mean"], tensor[0][:, whole].mean(axis=(1, 2, 3, 4)), rtol=1e-5
    )
    with pytest.raises(SpecError, match="3 of 72 cells"):
        fit(inputs(cells, modes=list(NAMES)))
    with pytest.raises(SpecError, match="first mode|every cell"):
        fit(
            inputs(
                np.delete(ALL, range(0, 66, 12)),
                modes=["side", "who", "mood", "strength"],
                missing="drop_person",
            )
        )


def test_a_large_core_is_only_made_at_the_ranks_asked_for(inputs, monkeypatch):
    section = {"modes": list(NAMES), "ranks": [3, None, 1, 2], "energy": 0.9}
    full = fit(inputs(ALL, **section))
    monkeypatch.setattr(module, "CORE_BYTES", 100)
    small = fit(inputs(ALL, **section))
    assert full.arrays["core"].shape == (16, *SHAPE)
    assert small.arrays["core"].shape[1:] == tuple(small.facts["ranks"]) == (
        3, full.facts["ranks"][1], 1, 2,
    )  # fmt: skip
    for a, b in zip(full.directions, small.directions, strict=True):
        assert a.name == b.name
        np.testing.assert_allclose(a.vector, b.vector, atol=1e-9)


def test_penalties_are_cross_validated(inputs):
    found = fit(inputs(ALL, modes=list(NAMES), folds=3, energy=0.95))
    facts = found.facts["penalties"]
    assert facts["rows"] == 72 and facts["ridge"] in facts["tried"]
    assert np.shape(facts["transfer_errors"]) == (len(facts["tried"]), 3)


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"pairs": {"who": [["a", "b"]]}}, "not among the modes after the first"),
        ({"intensity": {"mood": "mood"}}, "two different modes"),
        ({"intensity": {"mood": "size"}}, "two different modes"),
        ({"folds": 1}, "2 or more"),
        ({"folds": 2, "stacked": True}, "leave out 'stacked'"),
    ],
)
def test_sections_that_do_not_fit_are_refused(section, text):
    with pytest.raises(ValidationError, match=text):
        HosvdSpec(modes=list(NAMES), **section)


def test_a_pair_without_cells_is_refused(inputs):
    section = {"modes": list(NAMES), "where": {"mood": ["mood0", "mood1"]}}
    with pytest.raises(SpecError, match="without cells"):
        fit(inputs(ALL, **section, pairs={"mood": [["mood0", "mood2"]]}))
