"""The solver of `transforms.svm.fit`: Newton steps whose systems are solved by conjugate gradients.

The L2 loss of Keerthi and DeCoste (2005), "A modified finite Newton method". The preconditioner is
the Gram matrix of the centred rows, G = V diag(s) V': the Hessian I + 2 C X_a' X_a over active rows
is close to V diag(1 + 2 C f s) V' with f the active fraction.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import Accumulator, ArrayBlocks, Sums
from transforms.accumulate.passes import PassRequest, expect, run_passes
from transforms.svm.geometry import Geometry, HyperplaneOptions
from transforms.svm.line import LineSearch
from transforms.svm.model import Hyperplanes
from transforms.svm.passes import (
    CurvatureRequest,
    EvaluateRequest,
    LabelledMoments,
    LineRequest,
    MomentsRequest,
)
from transforms.svm.sample import RowSample, SampleRequest, principal_axes

GRAM_MAX_FEATURES = 2048
EXACT_MAX_FEATURES = 2048
EXACT_BYTES = 1 << 28
RARE_ACTIVE = 0.1
MOST_PAIRS = 4
PAIR_BYTES = 1 << 27

Phase = Literal["moments", "sample", "evaluate", "curvature", "line", "done"]


def _columns(array: np.ndarray, at: np.ndarray | np.integer, values: np.ndarray) -> np.ndarray:
    """Copy of `array` with the last axis' entries `at` replaced."""
    array = array.copy()
    array[..., at] = values
    return array


@dataclass(frozen=True)
class HyperplaneSolver:
    """The Newton-CG machine (a `PassSolver`).

    A Newton step is: one pass that evaluates the trial point (loss, gradient); passes that return
    Hessian products, or whole active Hessians where few rows are active; and, where the full step
    is not good, passes along the ray. Attributes that meet the tolerance leave the batch.
    """

    options: HyperplaneOptions
    gram_features: int | None = None
    phase: Phase = "moments"
    geometry: Geometry | None = None
    precision: str = "float32"
    n_passes: int = 0
    costs: np.ndarray = field(default_factory=lambda: np.zeros((2, 0)))
    theta: np.ndarray = field(default_factory=lambda: np.zeros((1, 0)))
    gradient: np.ndarray = field(default_factory=lambda: np.zeros((1, 0)))
    step_: np.ndarray = field(default_factory=lambda: np.zeros((1, 0)))
    facts: dict[str, np.ndarray] = field(default_factory=dict)
    alive: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    batch: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    forced: bool = False
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0))
    cg: dict[str, np.ndarray] = field(default_factory=dict)
    line: LineSearch | None = None
    pairs: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    fresh: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    @property
    def done(self) -> bool:
        """Every attribute has converged or been given up."""
        return self.phase == "done"

    @property
    def _known(self) -> Geometry:
        if self.geometry is None:
            raise UsageError("the solver has made no pass yet: drive it with run_passes")
        return self.geometry

    def request(self) -> PassRequest:
        """What the next pass computes."""
        if self.phase == "moments":
            return MomentsRequest(self.gram_features or GRAM_MAX_FEATURES)
        geometry, at = self._known, self.batch
        if self.phase == "sample":
            return SampleRequest(geometry.centre, self.precision, geometry.n_rows)
        common = (geometry.centre, self.precision, at)
        if self.phase == "evaluate":
            trial = self.theta[:, at] + self.lengths[at] * self.step_[:, at]
            return EvaluateRequest(*common, *geometry.centred(trial), self.costs[:, at])
        here = (*geometry.centred(self.theta[:, at]), self.costs[:, at])
        if self.phase == "line" and self.line is not None:
            ray = geometry.centred(self.step_[:, at])
            return LineRequest(*common, *here, *ray, self.line.lengths)
        products = np.flatnonzero(self.cg["open"] & ~self.cg["exact"])
        exact = np.flatnonzero(self.cg["open"] & self.cg["exact"])
        along = geometry.centred(self.cg["p"][:, products])
        return CurvatureRequest(*common, *here, products, *along, exact)

    def step(self, total: Accumulator) -> HyperplaneSolver:
        """State after a pass with the summed statistic `total`."""
        counted = replace(self, n_passes=self.n_passes + 1)
        if isinstance(total, LabelledMoments):
            return counted._start(total)
        if isinstance(total, RowSample):
            geometry = self._known.with_sample(total.rows)
            state = replace(counted, geometry=geometry)._begin()
            complete = len(total.rows) == geometry.n_rows
            return state._continue_at(_solve_in_span(state, total)) if complete else state
        total = expect(total, Sums)
        if self.phase == "evaluate":
            return counted._evaluated(total)
        return counted._walked(total) if self.phase == "line" else counted._curved(total)

    # ---- start

    def _start(self, statistic: LabelledMoments) -> HyperplaneSolver:
        statistic.moments.check(2)
        counts = statistic.counts.astype(np.float64)
        one_class = (counts == 0).any(axis=0)
        if one_class.any() and (self.options.degenerate == "raise" or one_class.all()):
            raise DataError(
                f"attributes {np.flatnonzero(one_class).tolist()!r} have rows of one class only "
                "(labels are -1 and 1; 0 is unlabelled): leave them out, or choose another "
                "threshold"
            )
        state = replace(
            self,
            geometry=Geometry.of(
                statistic, self.options.penalise_intercept, self.options.precision
            ),
            precision=self.options.precision,
            alive=~one_class,
        )
        return replace(state, phase="sample") if statistic.moments.diagonal else state._begin()

    def _costs(self) -> np.ndarray:
        """Cost of a unit of squared slack by class, (2, A)."""
        totals = self._known.statistic.weights
        costs = np.full(totals.shape, float(self.options.c))
        if self.options.balanced:
            costs *= totals.sum(axis=0) / (2 * np.where(totals > 0, totals, 1.0))
        return np.where(self._known.statistic.counts > 0, costs, 0.0)

    def _begin(self) -> HyperplaneSolver:
        """Start at the best constant score, w = 0."""
        geometry, costs = self._known, self._costs()
        statistic = geometry.statistic
        weighted = costs * statistic.weights
        active_cost = weighted.sum(axis=0)
        b = (weighted[1] - weighted[0]) / np.maximum(active_cost, np.finfo(float).tiny)
        pulls = np.stack([-(1 + b), 1 - b])  # y (1 - y b) of the two classes at w = 0
        centred = statistic.sums - statistic.weights[:, :, None] * geometry.centre
        pulled = np.einsum("ca,cad->da", costs * pulls, centred)
        theta = np.zeros((len(geometry.mean) + 1, costs.shape[1]))
        theta[-1] = b
        data = geometry.pull_back(-2 * pulled, -2 * (weighted * pulls).sum(axis=0))
        gradient = geometry.ridge(theta) + data
        reference = np.linalg.norm(data, axis=0)
        if self.options.penalise_intercept:  # liblinear's reference: the gradient at theta = 0
            signs = costs * np.array([[-1.0], [1.0]])
            sums = np.einsum("ca,cad->da", signs, centred)
            origin = geometry.pull_back(2 * sums, 2 * (signs * statistic.weights).sum(axis=0))
            reference = np.linalg.norm(origin, axis=0)
        trace = statistic.moments.second.sum()
        floor = 1e-6 * active_cost * np.sqrt(max(float(trace), 0.0) / geometry.n_rows)
        none = np.zeros(costs.shape[1])
        facts = {
            "objective": (weighted * pulls**2).sum(axis=0)
            + (b * b / 2 if self.options.penalise_intercept else 0.0),
            "active": statistic.counts.sum(axis=0),
            "active_cost": active_cost,
            "correct": statistic.counts.max(axis=0),
            "square": none,
            "reference": np.maximum(reference, np.maximum(floor, np.finfo(float).tiny)),
            "newton": none,
            "stalls": none,
        }
        step = -geometry.precondition(gradient, active_cost)
        facts["slope"] = (gradient * step).sum(axis=0)
        state = replace(self, costs=costs, theta=theta, gradient=gradient, step_=step, facts=facts)
        # Where the first gradient is zero already (equal class means), w = 0 is the solution.
        return state._retire()._try_step()

    def restart(self, c: float) -> HyperplaneSolver:
        """Solve for another C from where this solve ended, with what is known of the rows."""
        options = replace(self.options, c=c)
        state = replace(
            self, options=options, costs=self.costs * (c / self.options.c), n_passes=0,
            alive=np.all(self._known.statistic.counts > 0, axis=0), cg={}, line=None,
        )  # fmt: skip
        none = np.zeros(len(state.alive))
        reference = self.facts["reference"] * (c / self.options.c)
        facts = self.facts | {"reference": reference, "newton": none, "stalls": none}
        return replace(state, facts=facts)._continue_at(self.theta)

    def _continue_at(self, theta: np.ndarray) -> HyperplaneSolver:
        """Go on from theta (D + 1, A), whatever its objective."""
        state = replace(self, theta=theta, step_=np.zeros_like(theta))
        return replace(state._try_step(), forced=True)

    # ---- between steps

    @property
    def relative_gradient(self) -> np.ndarray:
        """Gradient norm over the reference, (A,)."""
        return np.linalg.norm(self.gradient, axis=0) / self.facts["reference"]

    @property
    def _rare(self) -> np.ndarray:
        return self.facts["active"] < RARE_ACTIVE * self._known.n_rows

    @property
    def _met(self) -> np.ndarray:
        """Whether gradient and estimated gap to the minimum meet the tolerance, bool (A,).

        The gradient alone says little where C is large and classes separate: its reference grows
        with C while the solution does not. The gap is about g' H^-1 g / 2; where few rows are
        active the Gram is no model of H, and H >= I bounds it by |g|^2 / 2.
        """
        met = self.relative_gradient <= self.options.tol
        at = np.flatnonzero(met)
        if len(at):
            gradient = self.gradient[:, at]
            model = self._known.precondition(gradient, self.facts["active_cost"][at])
            gap = np.where(
                self._rare[at], (gradient**2).sum(axis=0), (gradient * model).sum(axis=0)
            )
            met[at] = gap / 2 <= 0.01 * self.options.tol * self.facts["objective"][at]
        return met

    def _retire(self) -> HyperplaneSolver:
        finished = self._met
        given_up = (self.facts["newton"] >= self.options.max_newton) | (self.facts["stalls"] >= 3)
        alive = self.alive & ~finished & ~given_up
        # A small gradient with a gap left is at the rounding of float32 products.
        rounded = (alive & (self.relative_gradient <= self.options.tol)).any()
        return replace(self, alive=alive, precision="float64" if rounded else self.precision)

    def _try_step(self) -> HyperplaneSolver:
        """Evaluate theta + step for every attribute that is still in the batch."""
        if not self.alive.any():
            return replace(self, phase="done")
        facts = self.facts | {"newton": self.facts["newton"] + self.alive}
        return replace(
            self,
            phase="evaluate",
            facts=facts,
            batch=np.flatnonzero(self.alive),
            lengths=np.ones(len(self.alive)),
            forced=False,
        )

    # ---- evaluate

    def _evaluated(self, total: Sums) -> HyperplaneSolver:
        geometry, at = self._known, self.batch
        trial = self.theta[:, at] + self.lengths[at] * self.step_[:, at]
        penalty = geometry.ridge(trial)
        objective = (penalty * trial).sum(axis=0) / 2 + total["loss"]
        data = geometry.pull_back(-2 * total["gradient"], -2 * total["gradient_intercept"])
        gradient = penalty + data
        slope = (gradient * self.step_[:, at]).sum(axis=0)
        start, before = self.facts["slope"][at], self.facts["objective"][at]
        noise = 1e-6 if self.precision == "float32" else 1e-12
        good = (np.abs(slope) <= 0.5 * np.abs(start)) & (objective <= before + noise * before)
        if self.forced:
            good[:] = True
        took = at[good]
        facts = dict(self.facts)
        for name, values in (
            ("objective", objective),
            ("active", total["active"]),
            ("active_cost", total["active_cost"]),
            ("correct", total["correct"]),
            ("square", total["square"]),
        ):
            facts[name] = _columns(facts[name], took, values[good])
        state = replace(
            self,
            facts=facts,
            theta=_columns(self.theta, took, trial[:, good]),
            gradient=_columns(self.gradient, took, gradient[:, good]),
        )
        if good.all():
            return state._retire()._begin_newton()
        line = LineSearch.start(start[~good], before[~good], slope[~good])
        return replace(state, phase="line", batch=at[~good], line=line)

    # ---- along the ray

    def _walked(self, total: Sums) -> HyperplaneSolver:
        if self.line is None:
            raise UsageError("no line search is under way: drive the solver with run_passes")
        geometry, at, lengths = self._known, self.batch, self.line.lengths
        theta, step = self.theta[:, at], self.step_[:, at]
        along = geometry.ridge(step)
        straight = (geometry.ridge(theta) * theta).sum(axis=0) / 2
        slope0, bend = (along * theta).sum(axis=0), (along * step).sum(axis=0)
        objective = straight + lengths * slope0 + lengths**2 * bend / 2 + total["loss"]
        slope = slope0 + lengths * bend + total["slope"]
        line = self.line.narrow(objective, slope)
        if not line.settled:
            return replace(self, line=line)
        chosen, improved = line.choice()
        stalls = self.facts["stalls"].copy()
        stalls[at[~improved]] += 1
        chosen = np.where(improved, chosen, 0.0)
        return replace(
            self,
            phase="evaluate",
            forced=True,
            line=None,
            facts=self.facts | {"stalls": stalls},
            lengths=_columns(self.lengths, at, chosen),
            precision="float64" if not improved.all() else self.precision,
        )

    # ---- Newton direction

    def _begin_newton(self) -> HyperplaneSolver:
        if not self.alive.any():
            return replace(self, phase="done")
        geometry = self._known
        # The attributes of the last evaluation, where these hold all that goes on: blocks then
        # know their active rows.
        at = self.batch if np.isin(np.flatnonzero(self.alive), self.batch).all() else None
        at = np.flatnonzero(self.alive) if at is None else at
        on = self.alive[at]
        residual = -self.gradient[:, at]
        size = len(geometry.mean)
        few = geometry.n_rows < 2 * size
        rare = (self._rare[at] | few) & on
        most = _exact_at_once(size)
        exact = rare & (np.cumsum(rare) <= most)
        preconditioned = self._precondition(residual, at)
        cg = {
            "open": on,
            "exact": exact,
            "s": np.zeros_like(residual),
            "r": residual,
            "p": preconditioned,
            "rz": (residual * preconditioned).sum(axis=0),
            "goal": self._forcing[at] * np.linalg.norm(residual, axis=0),
            "rounds": np.zeros(()),
        }
        return replace(self, phase="curvature", batch=at, cg=cg)

    @property
    def _forcing(self) -> np.ndarray:
        """How far each Newton system's residual is reduced, (A,): just enough for the last step."""
        needed = 0.5 * self.options.tol / np.maximum(self.relative_gradient, 1e-300)
        return np.where(needed < 0.02, 0.1, np.minimum(needed, 0.5))

    def _precondition(self, residual: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Approximate inverse Hessian of attributes `at` times residual (D + 1, a).

        The moments' inverse, corrected by the latest Hessian products as in L-BFGS (Morales and
        Nocedal 2000, "Automatic preconditioning by limited memory quasi-Newton updating").
        """
        corrections = []
        for step, product in self.pairs:
            step, product = step[:, at], product[:, at]
            curvature = (step * product).sum(axis=0)
            scale = np.where(curvature > 0, 1 / np.where(curvature > 0, curvature, 1.0), 0.0)
            along = scale * (step * residual).sum(axis=0)
            residual = residual - along * product
            corrections.append((step, product, scale, along))
        solved = self._known.precondition(residual, self.facts["active_cost"][at])
        for step, product, scale, along in reversed(corrections):
            solved = solved + step * (along - scale * (product * solved).sum(axis=0))
        return solved

    def _curved(self, total: Sums) -> HyperplaneSolver:
        geometry, cg = self._known, dict(self.cg)
        blank, fresh = np.zeros_like(self.theta), self.fresh
        still = cg["open"].copy()
        for i, at in enumerate(np.flatnonzero(cg["open"] & cg["exact"])):
            hessian = geometry.hessian(total["hessian"][i])
            try:
                solved = cho_solve(cho_factor(hessian), cg["r"][:, at])
            except LinAlgError:
                solved = cg["p"][:, at]
            cg["s"] = _columns(cg["s"], at, solved)
            still[at] = False
        on = np.flatnonzero(cg["open"] & ~cg["exact"])
        if len(on):
            p, r = cg["p"][:, on], cg["r"][:, on]
            data = geometry.pull_back(2 * total["product"], 2 * total["product_intercept"])
            product = geometry.ridge(p) + data
            curvature = (p * product).sum(axis=0)
            usable = curvature > 0
            alpha = np.where(usable, cg["rz"][on] / np.where(usable, curvature, 1.0), 0.0)
            r = r - alpha * product
            z = self._precondition(r, self.batch[on])
            columns = self.batch[on]
            pair = _columns(blank, columns, p), _columns(blank, columns, product)
            fresh = (pair, *fresh)[:MOST_PAIRS]
            rz = (r * z).sum(axis=0)
            beta = rz / np.maximum(cg["rz"][on], np.finfo(float).tiny)
            cg["s"] = _columns(cg["s"], on, cg["s"][:, on] + alpha * p)
            cg["r"] = _columns(cg["r"], on, r)
            cg["p"] = _columns(cg["p"], on, z + beta * p)
            cg["rz"] = _columns(cg["rz"], on, rz)
            still[on] = usable & (np.linalg.norm(r, axis=0) > cg["goal"][on])
        cg["rounds"] = cg["rounds"] + 1
        cg["open"] = still
        state = replace(self, cg=cg, fresh=fresh)
        if still.any() and cg["rounds"] < self.options.max_cg:
            return state
        step = _columns(self.step_, self.batch, cg["s"])
        slope = (self.gradient * step).sum(axis=0)
        most = max(1, min(MOST_PAIRS, PAIR_BYTES // (2 * step.nbytes)))
        facts, pairs = self.facts | {"slope": slope}, (state.fresh + state.pairs)[:most]
        downhill = replace(state, step_=step, facts=facts, cg={}, pairs=pairs, fresh=())
        return downhill._try_step()

    @property
    def rows_seen(self) -> tuple[np.ndarray, str]:
        """(what the passes subtract from rows (D,), precision): how blocks are prepared now."""
        return self._known.centre, self.precision

    @property
    def hyperplanes(self) -> tuple[np.ndarray, np.ndarray]:
        """(weights (D, A), intercepts (A,)) as they stand, for rows as the passes see them."""
        return self._known.centred(self.theta)

    def result(self) -> Hyperplanes:
        """The hyperplanes as they stand; attributes without both classes are NaN."""
        geometry = self._known
        weights, intercepts = geometry.centred(self.theta)
        counts = geometry.statistic.counts
        missing = (counts == 0).any(axis=0)
        coef = weights.T.copy()
        coef[missing] = np.nan
        norms = np.linalg.norm(coef, axis=1)
        normals = coef / np.where(norms > 0, norms, np.nan)[:, None]
        off = coef @ (geometry.mean - geometry.centre)
        square = np.maximum(self.facts["square"] - geometry.n_rows * off**2, 0.0)
        sd = np.sqrt(square / (geometry.n_rows - 1)) / np.where(norms > 0, norms, np.nan)
        relative = np.where(missing, np.nan, self.relative_gradient)
        return Hyperplanes(
            normals=normals,
            coef=coef,
            intercepts=np.where(missing, np.nan, intercepts - coef @ geometry.centre),
            objective=np.where(missing, np.nan, self.facts["objective"]),
            relative_gradient=relative,
            converged=self._met & ~missing,
            n_positive=counts[1],
            n_negative=counts[0],
            accuracy=self.facts["correct"] / np.maximum(counts.sum(axis=0), 1),
            sd=sd,
            n_rows=geometry.n_rows,
            n_passes=self.n_passes,
        )


def _exact_at_once(n_features: int) -> int:
    """How many whole Hessians a pass may return."""
    if n_features > EXACT_MAX_FEATURES:
        return 0
    return max(1, EXACT_BYTES // (8 * (n_features + 1) ** 2))


def _solve_in_span(solver: HyperplaneSolver, sample: RowSample) -> np.ndarray:
    """theta (D + 1, A) that solves the problem of the sampled rows, in coordinates of their span.

    The normals are combinations of the rows (the representer theorem), so k rows need k
    coordinates; there the whole Hessians are small enough to be had.
    """
    geometry, options = solver._known, solver.options
    rows = sample.rows.astype(np.float64)
    rows += geometry.centre if options.penalise_intercept else geometry.offset
    _, axes, _ = principal_axes(rows, len(rows), 0.0)
    inner = replace(options, tol=options.tol / 2, precision="float64", degenerate="skip")
    theta = solver.theta.copy()
    together = _exact_at_once(axes.shape[1])
    alive = np.flatnonzero(solver.alive)
    for at in (alive[i : i + together] for i in range(0, len(alive), together)):
        arrays = {"x": rows @ axes, "y": sample.labels[:, at], "weight": sample.weights}
        found = run_passes(HyperplaneSolver(inner, axes.shape[1]), ArrayBlocks(arrays))
        weights, intercepts = found._known.centred(found.theta)
        origin = found._known.centre
        theta[:-1, at] = axes @ weights
        theta[-1, at] = intercepts - origin @ weights
    return theta
