"""Two sets of rows compared row with row, block by block: kernel sums and nearest neighbours.

Precision and recall: Kynkäänniemi et al. (2019), "Improved precision and recall metric for
assessing generative models". A row of one set is covered by the other where it lies within the
distance of one of its rows to the k-th nearest of that row's own set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from schemas.errors import DataError
from schemas.fingerprint import digest
from transforms.accumulate.blocks import (
    TRANSFORMS,
    Accumulator,
    ArrayBlocks,
    Arrays,
    BlockSource,
    Sums,
    flatten_rows,
    statistic_kind,
)
from transforms.accumulate.passes import PassRequest, expect, run_passes
from transforms.generator_metrics.kernel import Subsets

REAL, DRAWN = 0, 1
"""The two sets."""
_STRIP_VALUES = 1 << 22
_KEPT_BLOCKS = 2


@dataclass(frozen=True)
class PairsOfBlocks:
    """Blocks of two sets of rows two by two: each two of a set once, and each of one with each of
    the other.

    sets : (real, drawn), each with arrays ``x`` (m, ...) and ``at`` int64 (m,), the number of each
        row among those of its set
    """

    sets: tuple[BlockSource, BlockSource]
    _kept: dict[tuple[int, int], Arrays] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "pairs"} | {"_kept": {}}

    @cached_property
    def pairs(self) -> list[tuple[int, int, int, int]]:
        """(set, block, set, block) of each pair."""
        counts = [source.n_blocks for source in self.sets]
        within = [
            (side, i, side, j)
            for side in (REAL, DRAWN)
            for i in range(counts[side])
            for j in range(i, counts[side])
        ]
        across = [(REAL, i, DRAWN, j) for i in range(counts[REAL]) for j in range(counts[DRAWN])]
        return within + across

    @property
    def key(self) -> str:
        """Of both sets."""
        return digest([source.key for source in self.sets])

    def part_key(self, blocks: range) -> str:
        """Of the blocks that these pairs are of."""
        pairs = [self.pairs[number] for number in blocks]
        used = sorted({at for a, i, b, j in pairs for at in ((a, i), (b, j))})
        keys = [
            self.sets[side].part_key(range(block, block + 1))  # type: ignore[attr-defined]
            for side, block in used
        ]
        return digest([keys, pairs])

    @property
    def n_blocks(self) -> int:
        """Pairs."""
        return len(self.pairs)

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """No row numbers; ``a``, ``a_at``, ``b``, ``b_at``, and ``pair``, int64 (4,)."""
        a, i, b, j = self.pairs[block]
        first, second = self._block(a, i), self._block(b, j)
        return np.zeros(0, np.int64), {
            "a": first["x"],
            "a_at": first["at"],
            "b": second["x"],
            "b_at": second["at"],
            "pair": np.array([a, i, b, j]),
        }

    def _block(self, side: int, block: int) -> Arrays:
        found = self._kept.pop((side, block), None)
        if found is None:
            while len(self._kept) >= _KEPT_BLOCKS:
                self._kept.pop(next(iter(self._kept)), None)
            arrays = self.sets[side].read(block)[1]
            found = {"x": flatten_rows(arrays["x"]), "at": arrays["at"]}
        self._kept[side, block] = found  # as the one that was used last
        return found


@statistic_kind("generator_metrics.Compared")
@dataclass(frozen=True)
class Compared:
    """Sums, and of every row the smallest of some numbers.

    sums : see `Sums`
    least : (set, block) -> float64 (m, k), ascending, infinite where there are fewer than k
    """

    sums: Sums = field(default_factory=Sums.zero)
    least: Mapping[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def merge(self, other: Self) -> Self:
        """Of both."""
        least = dict(self.least)
        for at, values in other.least.items():
            least[at] = smallest([least[at], values]) if at in least else values
        return type(self)(self.sums.merge(other.sums), least)

    def to_arrays(self) -> Arrays:
        """'sum/<name>' and 'least/<set>/<block>' -> array."""
        sums = {f"sum/{name}": array for name, array in self.sums.arrays.items()}
        return sums | {f"least/{a}/{i}": values for (a, i), values in self.least.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`."""
        sums, least = {}, {}
        for name, array in arrays.items():
            what, _, rest = name.partition("/")
            if what == "sum":
                sums[rest] = array
            else:
                side, _, block = rest.partition("/")
                least[int(side), int(block)] = array
        return cls(Sums(sums), least)

    def of(self, side: int, k: int) -> np.ndarray:
        """`least` of all rows of a set, float64 (n, k)."""
        blocks = sorted(block for a, block in self.least if a == side)
        return np.concatenate([np.zeros((0, k)), *(self.least[side, block] for block in blocks)])


def smallest(parts: list[np.ndarray]) -> np.ndarray:
    """Of each row of matrices (m, k) side by side the k smallest numbers, ascending."""
    both = np.concatenate(parts, axis=1)
    return np.sort(both, axis=1)[:, : parts[0].shape[1]]


def _least(values: np.ndarray, k: int) -> np.ndarray:
    """The k smallest numbers of each row of (m, n), ascending, filled up with infinity."""
    found = np.full((len(values), k), np.inf)
    n = min(k, values.shape[1])
    part = np.partition(values, n - 1, axis=1)[:, :n] if 0 < n < values.shape[1] else values
    found[:, :n] = np.sort(part, axis=1)
    return found


def _strips(arrays: Arrays) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """(rows of a, products with all rows of b, squared distances from these), float64."""
    a, b = arrays["a"], arrays["b"].astype(np.float64)
    squares = np.einsum("ij,ij->i", b, b)
    size = max(_STRIP_VALUES // max(len(b), 1), 1)
    for start in range(0, len(a), size):
        rows = slice(start, min(start + size, len(a)))
        part = a[rows].astype(np.float64)
        products = part @ b.T
        distances = np.einsum("ij,ij->i", part, part)[:, None] + squares - 2 * products
        yield rows, products, np.maximum(distances, 0.0)


@dataclass(frozen=True)
class KernelsAndNeighbours:
    """Of each set and of both, sums of the kernel of `transforms.generator_metrics.kernel` over
    pairs of different rows; of each row the squared distances to the nearest of its set.

    n : rows of each set.  neighbours : how many, 0 for none.  subsets : None for no kernel
    """

    kind = f"{TRANSFORMS}.generator_metrics.KernelsAndNeighbours"

    n: tuple[int, int]
    neighbours: int
    subsets: Subsets | None
    token: str = "pairs-kernels"

    def prepare(self, arrays: Arrays) -> Arrays:
        """What the pair adds: pairs are far too many for their rows to be kept between passes."""
        return self._compared(arrays).to_arrays()

    def statistic(self, prepared: Arrays) -> Compared:
        """`Compared` of the pair."""
        return Compared.from_arrays(prepared)

    def _compared(self, prepared: Arrays) -> Compared:
        a, i, b, j = prepared["pair"].tolist()
        k = self.neighbours if a == b else 0
        own = a == b and i == j
        twice = 2.0 if a == b and not own else 1.0
        near = {(a, i): np.full((len(prepared["a"]), k), np.inf)} if k else {}
        if k and not own:
            near[b, j] = np.full((len(prepared["b"]), k), np.inf)
        total, within = 0.0, np.zeros(0 if self.subsets is None else self.subsets.count)
        for rows, products, distances in _strips(prepared):
            same = prepared["a_at"][rows, None] == prepared["b_at"] if own else None
            if self.subsets is not None:
                root = products / prepared["a"].shape[1] + 1
                kernel = root * root * root
                if same is not None:
                    kernel[same] = 0.0
                total += twice * float(kernel.sum())
                members = self.subsets.members(a, self.n[a])[prepared["a_at"][rows]]
                others = self.subsets.members(b, self.n[b])[prepared["b_at"]]
                within = within + twice * np.einsum("is,is->s", members, kernel @ others)
            if k:
                if same is not None:
                    distances[same] = np.inf
                near[a, i][rows] = _least(distances, k)
                if not own:
                    near[b, j] = smallest([near[b, j], _least(distances.T, k)])
        return Compared(self._sums(a, b, total, within), near)

    def _sums(self, a: int, b: int, total: float, within: np.ndarray) -> Sums:
        if self.subsets is None:
            return Sums.zero()
        sums: Arrays = {}
        for first, second in ((REAL, REAL), (DRAWN, DRAWN), (REAL, DRAWN)):
            mine = float((first, second) == (a, b))
            sums[f"all/{first}{second}"] = np.array(mine * total)
            sums[f"subsets/{first}{second}"] = mine * within
        return Sums(sums)


@dataclass(frozen=True)
class Coverage:
    """Of each row how far it is from being within the radius of a row of the other set: the
    smallest squared distance less that row's squared radius, not above 0 where it is covered.

    radii : squared, float64 (n,) of each set
    """

    kind = f"{TRANSFORMS}.generator_metrics.Coverage"

    radii: tuple[np.ndarray, np.ndarray]
    token: str = "pairs-coverage"

    def prepare(self, arrays: Arrays) -> Arrays:
        """What the pair adds, as in `KernelsAndNeighbours`."""
        return self._compared(arrays).to_arrays()

    def statistic(self, prepared: Arrays) -> Compared:
        """`Compared` of the pair, of nothing for two blocks of one set."""
        return Compared.from_arrays(prepared)

    def _compared(self, prepared: Arrays) -> Compared:
        a, i, b, j = prepared["pair"].tolist()
        if a == b:
            return Compared()
        of_a = self.radii[a][prepared["a_at"]][:, None]
        of_b = self.radii[b][prepared["b_at"]]
        first, second = np.full((len(of_a), 1), np.inf), np.full((len(of_b), 1), np.inf)
        for rows, _, distances in _strips(prepared):
            first[rows] = _least(distances - of_b, 1)
            second = smallest([second, _least((distances - of_a[rows]).T, 1)])
        return Compared(Sums.zero(), {(a, i): first, (b, j): second})


@dataclass(frozen=True)
class SetsSolver:
    """Compares two sets over a `PairsOfBlocks`: kernel sums and radii, then who is covered.

    n, neighbours, subsets : see `KernelsAndNeighbours`
    """

    saved_passes: ClassVar[int] = 2

    n: tuple[int, int]
    neighbours: int = 3
    subsets: Subsets | None = None
    sums: Mapping[str, np.ndarray] | None = None
    radii: tuple[np.ndarray, np.ndarray] | None = None
    covered: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if min(self.n) < 2:
            raise DataError(
                f"sets of {self.n[0]!r} and {self.n[1]!r} rows cannot be compared: give at least 2 "
                "each"
            )
        if self.neighbours >= min(self.n):
            raise DataError(
                f"sets of {self.n[0]!r} and {self.n[1]!r} rows have no {self.neighbours!r} nearest "
                "neighbours of a row: give more rows or fewer neighbours"
            )

    @property
    def done(self) -> bool:
        """Nothing is left to compare."""
        return self.sums is not None and (self.neighbours == 0 or self.covered is not None)

    def request(self) -> PassRequest:
        """Kernels and neighbours, then coverage."""
        if self.radii is None:
            return KernelsAndNeighbours(self.n, self.neighbours, self.subsets)
        return Coverage(self.radii)

    def step(self, total: Accumulator) -> SetsSolver:
        """With what a pass found."""
        found = expect(total, Compared)
        if self.sums is None:
            k = self.neighbours
            near = [found.of(side, k) for side in (REAL, DRAWN)]
            radii = (near[REAL][:, k - 1], near[DRAWN][:, k - 1]) if k else None
            return replace(self, sums=dict(found.sums.arrays), radii=radii)
        real, drawn = (found.of(side, 1)[:, 0] <= 0 for side in (REAL, DRAWN))
        return replace(self, covered=(real, drawn))

    @property
    def precision(self) -> float:
        """Share of the drawn rows that are covered by the real ones."""
        return _share(self.covered, DRAWN)

    @property
    def recall(self) -> float:
        """Share of the real rows that are covered by the drawn ones."""
        return _share(self.covered, REAL)


def _share(covered: tuple[np.ndarray, np.ndarray] | None, side: int) -> float:
    return float("nan") if covered is None else float(covered[side].mean())


def compare_sets(
    real: np.ndarray,
    drawn: np.ndarray,
    neighbours: int = 3,
    subsets: Subsets | None = None,
    block_rows: int = 2048,
) -> SetsSolver:
    """Two sets of rows (n, ...) in memory compared: kernel sums, precision and recall.

    Raises DataError for fewer rows than it takes.
    """
    blocks = tuple(
        ArrayBlocks({"x": x, "at": np.arange(len(x))}, block_rows) for x in (real, drawn)
    )
    solver = SetsSolver((len(real), len(drawn)), neighbours, subsets)
    return run_passes(solver, PairsOfBlocks((blocks[0], blocks[1])))
