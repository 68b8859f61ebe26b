"""What every analysis must do."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.analyses.base import Analysis
from pipelines.analyses.inputs import Data, Fitted
from pipelines.runs.lineage import analysis_inputs, known_of
from schemas.fingerprint import digest
from schemas.index import DatasetIndex, NewRow, continuous_column, encode_categories
from schemas.spec_models import RunSpec
from schemas.store.latent_store import ArraySpec, LatentStore
from schemas.store.reasons import Status
from transforms.accumulate.blocks import BlockSource, group_blocks, sum_in_order
from transforms.accumulate.passes import PassRequest
from transforms.accumulate.stored import statistic_bytes, statistic_of_bytes

N, BLOCK_ROWS, SHAPE, POINTS = 72, 16, (3, 4), 12
ANNOTATORS = {
    "marks": ("annotations", "scores", ["smile", "glasses"], (2,)),
    "angle": ("annotations", "pose", ["pitch", "yaw", "roll"], (3,)),
    "points": ("landmarks", "landmarks", [f"p{i}" for i in range(POINTS)], (POINTS, 2)),
    "unused": ("annotations", "scores", ["hat"], (1,)),
    "look": ("annotations", "features", list("abcd"), (4,)),
}
"""Annotator -> group in the store, kind, names and shape of a row; all of the render."""
ORIGINAL = "look"
"""The one that the originals are measured by, too."""


class CarefulEngine:
    """Sums in this process as a cluster would: requests travel, statistics go through bytes, and
    what a bundle sums arrives in any order."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def sum(self, source: BlockSource, request: PassRequest) -> Any:
        """Of a whole source; blocks are read in a random order."""
        return self._sum(source, request, {})

    def _sum(self, source: BlockSource, request: PassRequest, kept: dict[Any, Any]) -> Any:
        request = pickle.loads(pickle.dumps(request))  # noqa: S301  (our own)
        partials = {}
        for block in self.rng.permutation(source.n_blocks).tolist():
            if (request.token, block) not in kept:
                kept[request.token, block] = request.prepare(source.read(block)[1])
            statistic = request.statistic(kept[request.token, block])
            partials[block] = statistic_of_bytes(statistic_bytes(statistic))
        groups = group_blocks(source.n_blocks)
        return sum_in_order(sum_in_order(partials[b] for b in group) for group in groups)

    def run(self, solver: Any, source: BlockSource) -> Any:
        """A solver that travels between its passes, over a source that travelled."""
        kept: dict[Any, Any] = {}
        source = pickle.loads(pickle.dumps(source))  # noqa: S301  (our own)
        while not solver.done:
            solver = pickle.loads(pickle.dumps(solver))  # noqa: S301  (our own)
            solver = solver.step(self._sum(source, solver.request(), kept))
        return solver


@dataclasses.dataclass(frozen=True)
class World:
    """A store of made-up codes and measurements that follow from them, and its index."""

    store: LatentStore
    index: DatasetIndex

    @classmethod
    def make(cls, path: Path) -> World:
        """72 rows in 5 blocks."""
        rng = np.random.default_rng(7)
        codes = rng.standard_normal((N, *SHAPE)).astype(np.float32)
        flat = codes.reshape(N, -1)
        rigid = rng.standard_normal((3, POINTS))
        turn = np.stack([np.cos(flat[:, 0] / 3), np.sin(flat[:, 0] / 3)], axis=1)
        x = turn[:, :1] * rigid[0] + turn[:, 1:] * rigid[2]
        points = np.stack([x, rigid[1] + 0.1 * flat[:, 1:2] * rigid[0]], axis=2)
        noise = rng.standard_normal((N, 3))
        values = {
            "marks": 1 / (1 + np.exp(-2 * flat[:, :2] - 0.3 * noise[:, :2])),
            "angle": 10 * flat[:, 2:5] + noise,
            "points": 8 + 3 * points,
            "unused": 1 / (1 + np.exp(-flat[:, 5:6])),
            "look": flat[:, 6:10],
        }
        latents = ArraySpec("latents", "w_plus", SHAPE)
        identity = {"name": "made", "generator_fp": "ab" * 32, "method": {}, "seed": 0}
        store = LatentStore.create(
            path, n_rows=N, block_rows=BLOCK_ROWS, arrays=[latents], stages=["invert"], **identity
        )
        for name, (group, kind, names, shape) in ANNOTATORS.items():
            attrs = {"names": names} if kind == "landmarks" else {"names": names, "kind": kind}
            stage = f"{name}@render"
            store.add_arrays(stage, [ArraySpec(group, stage, shape, attrs=attrs)])
            if name == ORIGINAL:
                store.add_arrays(name, [ArraySpec(group, name, shape, attrs=attrs)])
        seen = values[ORIGINAL][::-1] * 1.1
        for block in range(store.n_blocks):
            rows = store.block_slice(block)
            write(store, "invert", block, {latents.path: codes[rows]})
            for name, (group, *_) in ANNOTATORS.items():
                array = {f"{group}/{name}@render": values[name][rows].astype(np.float32)}
                write(store, f"{name}@render", block, array)
            array = {f"annotations/{ORIGINAL}": seen[rows].astype(np.float32)}
            write(store, ORIGINAL, block, array)
        return cls(store, cls.index_with(CHANGES["none"]))

    @classmethod
    def index_with(cls, change: Mapping[str, int]) -> DatasetIndex:
        """The index; a factor that is named has another value in the row given."""
        i = np.arange(N)
        levels = {
            "person": [f"p{v}" for v in i // 2 % 6],
            "mood": [["calm", "glad"][v] for v in i % 2],
            "other": [f"o{v}" for v in i // 12 % 2],
        }
        age = 20.0 + i % 31
        for name, row in change.items():
            if name == "age":
                age[row] += 1
            else:
                levels[name][row] = next(v for v in levels[name] if v != levels[name][row])
        columns = {n: encode_categories(v, None, "string") for n, v in levels.items()}
        rows = [NewRow(f"{v:064x}", f"{v}.png", 64, 64) for v in i]
        made = DatasetIndex.empty().append(rows)
        return made.with_factors({**columns, "age": continuous_column(age.tolist())})


CHANGES: dict[str, dict[str, int]] = {
    "none": {},
    **{name: {name: 5} for name in ("person", "mood", "other", "age")},
}


def write(
    store: LatentStore, stage: str, block: int, arrays: Mapping[str, Any], v: int = 1
) -> None:
    """A block of a stage, every row ok. v : another one gives another fingerprint."""
    rows = store.block_slice(block)
    n = rows.stop - rows.start
    identity = [(f"image-{row}", "active") for row in range(rows.start, rows.stop)]
    ok, reasons = np.full(n, Status.OK, "u1"), np.zeros(n, "u1")
    store.write_block(stage, block, arrays, ok, reasons, store.block_fp(stage, block, identity, v))


def bits(fitted: Fitted) -> str:
    """Digest of all that an analysis made."""
    arrays = {n: [a.dtype.str, list(a.shape), a.tobytes().hex()] for n, a in fitted.arrays.items()}
    each = [[d.name, d.vector.tobytes().hex(), repr(d.quality)] for d in fitted.directions]
    return digest([arrays, each, repr(sorted(fitted.facts.items()))])


class AnalysisSuite:
    """Of an analysis. Its section must be known: as an entry point of the group
    ``latentflow.analyses``, or by a test's monkeypatch."""

    fits = True
    """Whether it can be fitted to made-up codes; False for one that needs their generator."""

    @pytest.fixture
    def analysis(self) -> Analysis[Any]:
        """The analysis."""
        raise NotImplementedError

    @pytest.fixture
    def section(self) -> dict[str, Any]:
        """Its section of the specification."""
        return {}

    @pytest.fixture(scope="class")
    @classmethod
    def world(cls, tmp_path_factory: pytest.TempPathFactory) -> World:
        """What it is fitted to. Nothing may change it."""
        return World.make(tmp_path_factory.mktemp("world") / "store")

    @pytest.fixture
    def spec(self, analysis: Analysis[Any], section: dict[str, Any]) -> RunSpec:
        """A specification that asks for it alone."""
        return RunSpec.model_validate(
            {
                "name": "made",
                "dataset": {"path": "."},
                "annotate": [{"name": n, "model": f"/{n}.onnx"} for n in ANNOTATORS],
                "analyse": {analysis.name: section},
            }
        )

    @pytest.fixture
    def inputs(self, analysis: Analysis[Any], spec: RunSpec) -> Callable[[World], dict[str, Any]]:
        """World -> what its fingerprint is of."""
        return lambda world: analysis_inputs(analysis.name, spec, world.store, world.index)

    def test_it_says_what_it_is(self, analysis, spec):
        assert analysis.name and analysis.title and analysis.version >= 1
        assert isinstance(getattr(spec.analyse, analysis.name), analysis.section)

    def test_select_reads_no_array(self, analysis, spec, world, inputs, tmp_path):
        shutil.copytree(world.store.path, tmp_path / "store")
        for group in ("latents", "annotations", "landmarks"):
            for array in (tmp_path / "store" / group).iterdir():
                shutil.rmtree(array / "c", ignore_errors=True)
        emptied = World(LatentStore.open(tmp_path / "store"), world.index)
        assert inputs(emptied) == inputs(world)
        known = known_of(spec, emptied.store, emptied.index)
        assert list(analysis.problems(known, getattr(spec.analyse, analysis.name))) == []

    def test_its_fingerprint_is_of_what_it_selects(self, analysis, spec, world, inputs, tmp_path):
        known = known_of(spec, world.store, world.index)
        selection = analysis.select(known, getattr(spec.analyse, analysis.name))
        before = inputs(world)
        for name in CHANGES.keys() - {"none"}:
            changed = inputs(World(world.store, World.index_with(CHANGES[name])))
            assert (changed != before) == (name in selection.factors), name
        shutil.copytree(world.store.path, tmp_path / "store")
        store = LatentStore.open(tmp_path / "store", "r+")
        read = {"invert", *(m.stage for m in selection.measured)}
        for stage in store.stages():
            arrays = {
                n: np.asarray(store.array(n)[: store.block_rows]) for n in store.arrays(stage)
            }
            write(store, stage, 0, arrays, v=2)
            after = inputs(World(store, world.index))
            assert (after != before) == (stage in read), stage
            before = after

    def test_it_reaches_nothing_else(self, analysis, spec, world, tmp_path):
        if not self.fits:
            pytest.skip("it needs a generator of the codes")
        own = getattr(spec.analyse, analysis.name)
        known = known_of(spec, world.store, world.index)
        data = Data.of(analysis, own, known, world.store, CarefulEngine(0))
        shutil.copytree(world.store.path, tmp_path / "store")
        kept = {"latents/w_plus", *(m.array for m in data.selection.measured)}
        for name, (group, *_) in ANNOTATORS.items():
            if f"{group}/{name}@render" not in kept:
                shutil.rmtree(tmp_path / "store" / group / f"{name}@render")
        other = {n: 5 for n in ("person", "mood", "other", "age") if n not in data.factors}
        less = dataclasses.replace(
            data,
            engine=CarefulEngine(1),
            _store=LatentStore.open(tmp_path / "store"),
            _index=World.index_with(other),
            _spec=None,
        )
        assert bits(analysis.fit(less, own)) == bits(analysis.fit(data, own))
