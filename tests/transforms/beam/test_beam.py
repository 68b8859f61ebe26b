"""Beam gives what the in-memory functions give, whatever the runner, blocks and bundles."""

import errno
import io
import pickle
import random
import subprocess
import sys

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import (
    DataError,
    FileSystemError,
    NotConvergedError,
    StoreError,
    UsageError,
)
from transforms.accumulate.blocks import ArrayBlocks, NpyBlocks, Sums, sum_blocks
from transforms.accumulate.factor_cells import CellSums, grid_cells
from transforms.accumulate.moments import Moments
from transforms.accumulate.passes import run_passes
from transforms.accumulate.pinned import PINNED
from transforms.accumulate.requests import (
    CountsOfCells,
    JointMoments,
    MomentsAlong,
    MomentsOfRows,
    SumsOfCells,
)
from transforms.accumulate.sources import ColumnBlocks
from transforms.accumulate.stored import statistic_bytes, statistic_of_bytes
from transforms.beam.combine import (
    AccumulateBlocks,
    CreateBlocks,
    SumBlocks,
    SumInOrder,
    block_ranges,
)
from transforms.beam.engine import BeamEngine
from transforms.beam.passes import RunPasses
from transforms.beam.workers import shell_line
from transforms.directions.beam import FitMeanDifferences, FitRegressions
from transforms.directions.mean_difference import (
    fit_regressions,
    mean_differences,
    solve_mean_differences,
    solve_regressions,
)
from transforms.hosvd.beam import FitHOSVD
from transforms.hosvd.passes import CoreSlabs, ModeGrams, SlabCells
from transforms.hosvd.solve import HOSVDSolver, hosvd
from transforms.nrsfm.beam import FitNRSfM
from transforms.nrsfm.fit import NRSfMSolver, factorise
from transforms.pca.beam import FitPCA, run_pca
from transforms.pca.fit import GramSolver, fit_pca
from transforms.svm.beam import FitHyperplanes
from transforms.svm.fit import HyperplaneOptions, HyperplaneSolver, fit_hyperplanes
from transforms.svm.passes import LabelledMoments

N = 400
EXPECTED_BLOCKS = {23: 18, 100: 4}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((N, 10)) * np.linspace(2, 0.5, 10) + 1e3).astype(np.float32)
    person, view = np.divmod(np.arange(N) % 40, 2)
    expression = np.arange(N) // 40 % 5
    scores = (x - 1e3) @ rng.standard_normal((10, 3)) + rng.standard_normal((N, 3))
    return {
        "x": x,
        "y": np.where(scores > 0.3, 1, -1).astype(np.int8),
        "targets": (x[:, :2] - 1e3) @ rng.standard_normal((2, 2)) + rng.standard_normal((N, 2)),
        "factors": {"expression": expression, "person": person, "view": view},
        "points": rng.standard_normal((N, 2, 9)) @ np.diag(np.linspace(3, 0.5, 9)),
    }


def engine(**options):
    return BeamEngine(**options)


def source_of(data, block_rows, *names, **more):
    source = ArrayBlocks({name: data[name] for name in names} | more, block_rows)
    assert source.n_blocks == EXPECTED_BLOCKS[block_rows] > 1
    return source


@pytest.mark.parametrize("block_rows", EXPECTED_BLOCKS)
@pytest.mark.parametrize("per_group", [False, True])
def test_pca(data, block_rows, per_group):
    source = source_of(data, block_rows, "x")
    ours = run_pca(engine(per_group=per_group), source, 4)
    memory = fit_pca(data["x"], 4, block_rows=block_rows)
    np.testing.assert_array_equal(ours.components, memory.components)
    np.testing.assert_array_equal(ours.explained_variance, memory.explained_variance)
    other = fit_pca(data["x"], 4, block_rows=37)
    np.testing.assert_allclose(ours.components, other.components, atol=1e-9)


@pytest.mark.parametrize("block_rows", EXPECTED_BLOCKS)
def test_mean_differences_and_regressions(data, block_rows):
    factors = data["factors"]
    grid = grid_cells(["expression", "person", "view"], factors)
    source = source_of(data, block_rows, "x", "targets", cells=grid.cells)
    ours = solve_mean_differences(engine().sum(source, SumsOfCells()), grid, 0, True)
    pairs = [factors["person"], factors["view"]]
    memory = mean_differences(
        data["x"], factors["expression"], pair_by=pairs, reference=0, block_rows=block_rows
    )
    np.testing.assert_array_equal(ours.vectors, memory.vectors)
    slopes = solve_regressions(engine().sum(source, JointMoments()), 2)
    expected = fit_regressions(data["x"], data["targets"], block_rows=block_rows)
    np.testing.assert_array_equal(slopes.slopes, expected.slopes)
    np.testing.assert_array_equal(slopes.coefficients, expected.coefficients)


def test_hyperplanes(data):
    block_rows = 100
    source = source_of(data, block_rows, "x", "y")
    options = HyperplaneOptions(tol=0.03)
    ours = engine(passes_per_pipeline=4).run(HyperplaneSolver(options), source).result()
    memory = fit_hyperplanes(data["x"], data["y"], tol=0.03, block_rows=block_rows)
    assert ours.converged.all()
    np.testing.assert_array_equal(ours.coef, memory.coef)
    np.testing.assert_array_equal(ours.objective, memory.objective)
    assert ours.n_passes == memory.n_passes
    assert PINNED.n_bytes == 0


def test_hosvd_over_slabs(data):
    grid = grid_cells(["person", "expression", "view"], data["factors"])
    source = source_of(data, 23, "x", cells=grid.cells)
    slabs = SlabCells((ColumnBlocks(source, 0, 6), ColumnBlocks(source, 6, 10)), grid.shape)
    ours = engine().run(HOSVDSolver(), slabs).model()
    means = np.stack([data["x"][grid.cells == c].mean(axis=0, dtype=float) for c in range(200)])
    memory = hosvd(means.T.reshape(10, *grid.shape))
    np.testing.assert_allclose(ours.core, memory.core, atol=1e-9)
    np.testing.assert_allclose(ours.mean, memory.mean, rtol=1e-12)
    counts = engine().sum(source, CountsOfCells()).dense(grid.n_cells)[1]
    assert (counts == 2).all()


def test_nrsfm(data):
    source = source_of(data, 23, "points")
    ours = engine(passes_per_pipeline=3).run(NRSfMSolver(0), source).model()
    memory = factorise(data["points"], 0, block_rows=23)
    np.testing.assert_array_equal(ours.rigid, memory.rigid)
    solver = NRSfMSolver(2, max_rounds=1)
    chunk = engine(passes_per_pipeline=5).run(solver, source).model()
    peer = run_passes(solver, source).model()
    np.testing.assert_array_equal(chunk.axes, peer.axes)
    np.testing.assert_array_equal(chunk.ridge, peer.ridge)


def test_files_of_different_lengths_are_refused(tmp_path):
    paths = {name: str(tmp_path / f"{name}.npy") for name in ("x", "y")}
    for name, path in paths.items():
        np.save(path, np.zeros(3 if name == "x" else 4))
    with pytest.raises(UsageError, match="3.*4|4.*3"):
        NpyBlocks(paths, 2)


def test_two_processes_give_the_same_bits(data, tmp_path):
    paths = {name: str(tmp_path / f"{name}.npy") for name in ("x", "y")}
    for name, path in paths.items():
        np.save(path, data[name])
    source = NpyBlocks(paths, 23)
    assert source.n_blocks == 18
    processes = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    several = BeamEngine(options=processes, passes_per_pipeline=3)
    solver = HyperplaneSolver(HyperplaneOptions())
    theirs = several._run_chunk(solver, source, 3, None)
    ours = solver
    for _ in range(3):
        request = ours.request()
        total = sum_blocks(18, lambda b, r=request: r.statistic(r.prepare(source.read(b)[1])))
        ours = ours.step(total)
    assert theirs.n_passes == ours.n_passes == 3
    np.testing.assert_array_equal(theirs.theta, ours.theta)
    np.testing.assert_array_equal(theirs.gradient, ours.gradient)


def test_transforms_stand_in_any_pipeline(data):
    factors = data["factors"]
    grid = grid_cells(["person", "expression", "view"], factors)
    flat = ArrayBlocks(
        {name: data[name] for name in ("x", "y", "targets", "points")} | {"cells": grid.cells}, 100
    )
    slabs = SlabCells((ColumnBlocks(flat, 0, 10),), grid.shape)
    expected = {
        "PCA": fit_pca(data["x"], 2, block_rows=100).components,
        "Means": mean_differences(
            data["x"],
            factors["person"],
            pair_by=[factors["expression"], factors["view"]],
            block_rows=100,
        ).vectors,
        "Slopes": fit_regressions(data["x"], data["targets"], block_rows=100).slopes,
    }

    def check(values, **limits):
        def matcher(found):
            (value,) = found
            np.testing.assert_allclose(value, values, **limits)

        return matcher

    with beam.Pipeline(runner="FnApiRunner") as p:
        ranges = p | "Blocks" >> CreateBlocks(flat.n_blocks)
        pca = ranges | "PCA" >> FitPCA(flat, 2) | "Components" >> beam.Map(lambda r: r.components)
        assert_that(pca, check(expected["PCA"], atol=0), "check PCA")
        means = ranges | "Means" >> FitMeanDifferences(flat, grid, paired=True)
        vectors = means | "Vectors" >> beam.Map(lambda r: r.vectors)
        assert_that(vectors, check(expected["Means"], atol=0), "check means")
        slopes = ranges | "Slopes" >> FitRegressions(flat, 2) | beam.Map(lambda r: r.slopes)
        assert_that(slopes, check(expected["Slopes"], atol=0), "check slopes")
        planes = ranges | "Planes" >> FitHyperplanes(flat, HyperplaneOptions(), 2)
        stopped = planes | "Stopped" >> beam.Map(lambda r: [r.n_passes, *r.converged])
        assert_that(stopped, check([2, False, False, False]), "check planes")
        shapes = ranges | "Shapes" >> FitNRSfM(flat, 0, n_passes=5)
        rigid = shapes | "Rigid" >> beam.Map(lambda r: r.rigid)
        assert_that(rigid, check(factorise(data["points"], 0, block_rows=100).rigid), "check rigid")
        tensor = p | "Slabs" >> CreateBlocks(1) | "Tensor" >> FitHOSVD(slabs)
        shape = tensor | "Shape" >> beam.Map(lambda r: r.shape)
        assert_that(shape, check((20, 5, 2)), "check shape")


def test_sd_along_directions(data):
    directions = np.eye(10)[:3]
    moments = engine().sum(source_of(data, 100, "x"), MomentsAlong(directions))
    found = np.sqrt(moments.second / (moments.count - 1))
    np.testing.assert_allclose(found, data["x"].std(axis=0, ddof=1, dtype=float)[:3], rtol=1e-9)


def test_a_bad_block_fails_with_its_reason(data):
    y = data["y"].copy()
    y[77, 1] = 5
    source = ArrayBlocks({"x": data["x"], "y": y}, 100)
    with pytest.raises(Exception, match="label 5 of attribute 1"):
        engine(passes_per_pipeline=1).run(HyperplaneSolver(HyperplaneOptions()), source)


def test_too_few_passes_are_an_error(data):
    solver = HyperplaneSolver(HyperplaneOptions())
    with pytest.raises(NotConvergedError, match="more than 1 passes"):
        engine(passes_per_pipeline=1).run(solver, source_of(data, 100, "x", "y"), max_passes=1)


def test_configuration_is_checked_before_anything_is_attached(data):
    source = source_of(data, 100, "x")
    for make, text in (
        (lambda: SumBlocks(source, MomentsOfRows(), -1), "cache_bytes"),
        (lambda: FitPCA(source, 0), "n_components"),
        (lambda: FitPCA(source, 3, solver=GramSolver(2)), "leave the other out"),
        (lambda: run_pca(engine(), source, 3, GramSolver(2)), "leave the other out"),
        (lambda: FitRegressions(source, 0), "n_targets"),
        (lambda: RunPasses(source, HyperplaneSolver(HyperplaneOptions()), 0), "n_passes"),
        (lambda: FitNRSfM(source, -1), "n_shapes"),
        (lambda: CreateBlocks(0), "empty"),
        (lambda: BeamEngine(passes_per_pipeline=0), "passes_per_pipeline"),
        (lambda: BeamEngine(cache_bytes=-1), "cache_bytes"),
    ):
        with pytest.raises(UsageError, match=text):
            make()


# ---- the CombineFn's contract

STATISTICS = {
    "moments": lambda b: Moments.of(np.full((2, 3), b + 0.1) ** [1, 2, 3]),
    "sums": lambda b: Sums({"a": np.array([0.1 * b, 1e8]), "n": np.array(b)}),
    "cells": lambda b: CellSums.of(np.full((2, 2), 0.1 * b), np.array([b % 3, 5])),
    "labelled": lambda b: LabelledMoments.of(
        np.array([[0.1 * b, 1], [2, b]]), np.array([[1], [-1]])
    ),
    "mode grams": lambda b: ModeGrams.of(np.full((2, 3, 2), 0.1 * b)),
    "core": lambda b: CoreSlabs({b: {"core": np.ones((1, 2)) * b}}),
}


def bits(statistic):
    return {name: np.asarray(a).tobytes() for name, a in statistic.to_arrays().items()}


@pytest.mark.parametrize("kind", STATISTICS)
@pytest.mark.parametrize("n_blocks", [1, 16, 37])
def test_combine_contract(kind, n_blocks):
    statistic = STATISTICS[kind]
    combine = pickle.loads(pickle.dumps(SumInOrder(n_blocks)))  # noqa: S301  (our own bytes)
    expected = bits(sum_blocks(n_blocks, statistic))
    elements = [((b, b + 1), statistic(b)) for b in range(n_blocks)]
    random.Random(0).shuffle(elements)
    one = combine.create_accumulator()
    for element in elements:
        one = combine.add_input(one, element)
    assert bits(combine.extract_output(one)) == expected
    each = [combine.add_input(combine.create_accumulator(), e) for e in elements]
    shuffled = (combine.compact(a) for a in [*each, combine.create_accumulator()])
    merged = combine.extract_output(combine.merge_accumulators(shuffled))
    assert bits(merged) == expected
    assert type(merged) is type(elements[0][1])
    again = statistic_of_bytes(statistic_bytes(merged))
    assert bits(again) == expected and type(again) is type(merged)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.randoms(use_true_random=False), st.integers(1, 7))
def test_bundles_never_change_a_bit(n_blocks, order, n_bundles):
    statistic = STATISTICS["moments"]
    combine = SumInOrder(n_blocks)
    elements = [((b, b + 1), statistic(b)) for b in range(n_blocks)]
    order.shuffle(elements)
    bundles = [combine.create_accumulator() for _ in range(n_bundles)]
    for element in elements:
        i = order.randrange(n_bundles)
        bundles[i] = combine.add_input(bundles[i], element)
    merged = combine.extract_output(combine.merge_accumulators(iter(bundles)))
    assert bits(merged) == bits(sum_blocks(n_blocks, statistic))


def test_groups_and_single_blocks_mix():
    statistic = STATISTICS["moments"]
    combine = SumInOrder(18)
    accumulator = combine.create_accumulator()
    for element in (((16, 18), sum_of(statistic, 16, 18)), ((0, 16), sum_of(statistic, 0, 16))):
        accumulator = combine.add_input(accumulator, element)
    assert bits(combine.extract_output(accumulator)) == bits(sum_blocks(18, statistic))


def sum_of(statistic, start, stop):
    total = statistic(start)
    for block in range(start + 1, stop):
        total = total.merge(statistic(block))
    return total


def test_missing_and_repeated_blocks_are_errors():
    combine = SumInOrder(3)
    assert combine.extract_output(combine.create_accumulator()) is None
    one = combine.add_input({}, ((0, 1), STATISTICS["sums"](0)))
    with pytest.raises(UsageError, match="cover"):
        combine.extract_output(one)
    with pytest.raises(UsageError, match="twice"):
        combine.add_input(one, ((0, 1), STATISTICS["sums"](0)))


def test_inputs_are_not_changed():
    combine = SumInOrder(2)
    first = combine.add_input(combine.create_accumulator(), ((0, 1), STATISTICS["sums"](0)))
    before = dict(first)
    combine.add_input(first, ((1, 2), STATISTICS["sums"](1)))
    combine.merge_accumulators([first, {}])
    assert first == before


def test_ranges_cover_every_block_once():
    assert block_ranges(3) == [(0, 1), (1, 2), (2, 3)]
    assert block_ranges(33, per_group=True) == [(0, 16), (16, 32), (32, 33)]
    assert len(block_ranges(65)) == 5 and len(block_ranges(64)) == 64


def test_workers_read_each_block_once_while_the_cache_holds_it(data):
    reads = []

    class Counted(ArrayBlocks):
        def read(self, block):
            reads.append(block)
            return super().read(block)

    source = Counted({"x": data["x"]}, 100)
    work = AccumulateBlocks(source, 1 << 20)
    for _ in range(3):
        for block in range(4):
            list(work.process((block, block + 1), MomentsOfRows()))
    assert reads == [0, 1, 2, 3]
    PINNED.release(source.key)
    assert list(work.process((0, 1), None)) == [(0, ((0, 1), None))]


def test_unknown_statistics_are_refused():
    content = statistic_bytes(Sums({"a": np.ones(2)}))
    assert statistic_of_bytes(content)["a"].tolist() == [1.0, 1.0]
    foreign = io.BytesIO()
    np.savez(foreign, kind="Sumo", a=np.ones(2))
    with pytest.raises(DataError, match="'Sumo'"):
        statistic_of_bytes(foreign.getvalue())


KILLED = """
import sys, threading, time
import numpy as np, psutil
from transforms.beam.engine import BeamEngine
from transforms.accumulate.blocks import NpyBlocks
from transforms.accumulate.requests import (
    CountsOfCells,
    JointMoments,
    MomentsAlong,
    MomentsOfRows,
    SumsOfCells,
)

def workers():
    below = psutil.Process().children(recursive=True)
    return [p for p in below if "sdk_worker_main" in " ".join(p.cmdline())]

def kill():
    while not workers():
        time.sleep(0.01)
    workers()[0].kill()

threading.Thread(target=kill, daemon=True).start()
engine = BeamEngine(options=("--direct_num_workers=2", "--direct_running_mode=multi_processing"))
engine.sum(NpyBlocks({"x": sys.argv[1]}, 23), MomentsOfRows())
"""


def test_a_pipeline_ends_when_a_worker_is_killed_before_it_called_in(data, tmp_path):
    np.save(tmp_path / "x.npy", data["x"])
    command = [sys.executable, "-c", KILLED, str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "ended before it had answered" in done.stderr.splitlines()[-1]


@pytest.fixture
def python(tmp_path, monkeypatch):
    """An interpreter whose path the shell would cut in pieces."""
    path = tmp_path / "a b" / "it's (new) $HOME" / "python"
    path.parent.mkdir(parents=True)
    path.write_text('#!/bin/sh\necho "$@"\necho no library for you >&2\nexit 3\n')
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    return path


def test_a_worker_is_started_by_a_path_with_spaces(python, tmp_path):
    said = tmp_path / "a b" / "said"
    line = shell_line(f"{python} -m some.module".encode(), str(said))
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "-m some.module\n")
    assert said.read_text() == "no library for you\n"
    assert shell_line(b"boot --somebody-elses", str(said)) == b"boot --somebody-elses"


def test_a_worker_that_cannot_start_says_why(python, data, tmp_path):
    np.save(tmp_path / "x.npy", data["x"])
    engine = BeamEngine(
        options=("--direct_num_workers=1", "--direct_running_mode=multi_processing")
    )
    with pytest.raises(RuntimeError, match=r"answered; the last that it wrote is: no library for"):
        engine.sum(NpyBlocks({"x": str(tmp_path / "x.npy")}, 100), MomentsOfRows())


def test_what_a_worker_raises_arrives_as_it_was(data):
    class Refused(ArrayBlocks):
        def read(self, block):
            raise self.error

    source = Refused({"x": data["x"]}, 100)
    for error, kind in (
        (OSError(errno.ENOSPC, "No space left on device", "/a b/0"), FileSystemError),
        (StoreError("array 'x' is damaged: run again"), StoreError),
    ):
        Refused.error = error
        with pytest.raises(kind, match="/a b/0|array 'x' is damaged: run again$"):
            BeamEngine().sum(source, MomentsOfRows())
