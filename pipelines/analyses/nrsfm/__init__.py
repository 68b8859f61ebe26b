"""3D shapes of the landmarks by non-rigid structure from motion."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pipelines.analyses.base import Analysis, Known, Model, Selection
from pipelines.analyses.checks import REGRESSED_FEATURES, Problems, label_problems
from pipelines.analyses.figures import Figure
from pipelines.analyses.measured import Measured, scheme_of
from pipelines.analyses.nrsfm.figures import shape_figures
from schemas.landmark_schemes import IBUG68, SCHEMES, scheme_of_count
from schemas.sections.nrsfm import NrsfmSpec
from schemas.suggest import suggestion

if TYPE_CHECKING:
    from pipelines.analyses.inputs import Data, Fitted

LANDMARKS_NEEDED = 4
FRAMES_NEEDED = 3
MOST_MOTIONS = 23  # principal shapes of a sequence: its cosines but the constant one


class Nrsfm(Analysis[NrsfmSpec]):
    """Rigid shape, basis shapes, and every row's camera and coefficients."""

    name = "nrsfm"
    section = NrsfmSpec
    version = 2
    title = "Landmark shape in 3D"
    labels = {"nrsfm": "NRSfM"}

    def select(self, known: Known, own: NrsfmSpec) -> Selection:
        """The landmarks, and what their order is called, where that is known; of 68 points where
        it is not iBUG's."""
        chosen = _chosen(known.measurements("landmarks", own.labels), own)
        parameters: dict[str, Any] = {}
        n_points = len(chosen[0].names) if chosen else 0
        if scheme_of_count(n_points) is not None:
            scheme = scheme_of(known.spec.annotate, own.landmarks)
            usual = n_points == SCHEMES[IBUG68].count
            if scheme != IBUG68 if usual else scheme in SCHEMES:
                parameters["scheme"] = scheme
        return Selection(measured=tuple(chosen), parameters=parameters)

    def parameters(self, known: Known, own: NrsfmSpec) -> dict[str, Any]:
        """The section; a space only where it is not the run's, as in release 0.1.0."""
        found = super().parameters(known, own)
        if found["space"] == known.stored:
            del found["space"]
        return found

    def problems(self, known: Known, own: NrsfmSpec) -> Problems:
        """A model that gives no landmarks; more basis shapes than they can tell; too few rows."""
        return nrsfm_problems(known, own)

    def fit(self, data: Data, own: NrsfmSpec) -> Fitted:
        """See `pipelines.analyses.nrsfm.fit`."""
        from pipelines.analyses.nrsfm.fit import fit_nrsfm

        return fit_nrsfm(data, own)

    def figures(self, model: Model) -> list[Figure]:
        """The rigid shape, what the basis shapes do, and errors."""
        return shape_figures(model)


def _chosen(every: list[Measured], own: NrsfmSpec) -> list[Measured]:
    return [m for m in every if m.annotator == own.landmarks][:1]


def landmark_problems(name: str, every: list[Measured]) -> Problems:
    """A name that is none of the models of landmarks."""
    known = [m.annotator for m in every]
    if name not in known:
        cure = suggestion(name, known) if known else "add one to 'annotate'"
        yield f"'analyse.nrsfm.landmarks' is {name!r}, no model of kind 'landmarks': {cure}"


def nrsfm_problems(known: Known, own: NrsfmSpec) -> Problems:
    """A model that gives no landmarks; more basis shapes than they can tell; too few rows."""
    key, n_rows = "analyse.nrsfm", known.n_rows()
    every = known.measurements("landmarks", own.labels)
    wrong = list(landmark_problems(own.landmarks, every))
    if wrong:
        yield from wrong
        return
    chosen = [m for m in every if m.annotator == own.landmarks]
    yield from label_problems(f"{key}.labels", own, chosen)
    width = math.prod(known.code_shape(own))
    if own.regressor is not None and width > REGRESSED_FEATURES:
        yield (
            f"'{key}.space' is {known.space(own)!r} of {width!r} coordinates, and the regressor "
            f"solves for at most {REGRESSED_FEATURES!r}: name another space, or set 'regressor' to "
            "null"
        )
    n_points = len(chosen[0].names)
    if n_points < LANDMARKS_NEEDED or n_rows < FRAMES_NEEDED:
        yield (
            f"{key!r} has {n_points!r} landmarks in {n_rows!r} rows, and a 3D shape needs at least "
            f"{LANDMARKS_NEEDED} in {FRAMES_NEEDED}: use another landmark model or more images, or "
            "leave it out"
        )
        return
    most = min(MOST_MOTIONS, n_rows - 1) if own.temporal else n_points - LANDMARKS_NEEDED
    if own.n_shapes > most and not (own.temporal and "n_shapes" not in own.model_fields_set):
        default = "" if "n_shapes" in own.model_fields_set else " by default"
        of = f"a sequence of {n_rows!r} rows" if own.temporal else f"{n_points!r} landmarks"
        yield (
            f"'{key}.n_shapes' is {own.n_shapes!r}{default}, but {of} can tell at most {most!r}: "
            "lower it"
        )


PLUGIN = Nrsfm()
