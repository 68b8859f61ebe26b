"""FID, KID, precision and recall of what the codes draw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from generators.annotators.card import ONNX_ENDINGS, read_card, read_description
from pipelines.analyses.base import Analysis, Known, Model, Selection
from pipelines.analyses.checks import Problems
from pipelines.analyses.fidelity.figures import fidelity_figures
from pipelines.analyses.fidelity.reference import ROLE, Reference
from pipelines.analyses.figures import Figure
from pipelines.analyses.measured import Measured
from pipelines.analyses.spaces import Spaces
from schemas.errors import LatentflowError
from schemas.sections.fidelity import FidelitySpec
from schemas.suggest import suggestion

if TYPE_CHECKING:
    from generators.protocols import ModelFacts
    from pipelines.analyses.inputs import Data, Fitted

KEY = "analyse.fidelity"


class Fidelity(Analysis[FidelitySpec]):
    """Distances between the features of pictures and of what is drawn."""

    name = "fidelity"
    section = FidelitySpec
    version = 1
    title = "Fidelity and diversity"

    def select(self, known: Known, own: FidelitySpec) -> Selection:
        """The features of what is drawn, and of the originals, or what another run holds."""
        drawn, real = _drawn(known, own), _originals(known, own)
        parameters: dict[str, Any] = {"network": None, "reference": None, "annotator": None}
        if drawn is not None:
            uri = _model(known, drawn)
            parameters["annotator"] = drawn.annotator
            parameters["network"] = _network(uri)
            if own.reference is not None:
                try:
                    found = Reference.find(own.reference, drawn.annotator)
                    parameters["reference"] = found.inputs()
                except (LatentflowError, OSError):  # `problems` tells
                    parameters["reference"] = None
        if own.truncations:
            parameters["drawn_in"] = _drawn_in(known, own)
        measured = tuple(m for m in (drawn, real) if m is not None)
        return Selection(measured=measured, parameters=parameters)

    def parameters(self, known: Known, own: FidelitySpec) -> dict[str, Any]:
        """The section without the reference's path and the space of draws, of which `select` has
        what they stand for."""
        found = super().parameters(known, own)
        for key in ("reference", "space", "truncation_space"):
            del found[key]
        if not own.truncations:
            del found["truncation_samples"]
        return found

    def problems(self, known: Known, own: FidelitySpec) -> Problems:
        """No features; nothing to compare with; another network on the other side."""
        yield from fidelity_problems(known, own)

    def pictures(self, known: Known, own: FidelitySpec) -> int:
        """Those of the sweep of truncations."""
        return own.truncation_samples * len(own.truncations)

    def fit(self, data: Data, own: FidelitySpec) -> Fitted:
        """See `pipelines.analyses.fidelity.fit`."""
        from pipelines.analyses.fidelity.fit import fit_fidelity

        return fit_fidelity(data, own)

    def figures(self, model: Model) -> list[Figure]:
        """The metrics with the rows that they are of; the sweep."""
        return fidelity_figures(model)


def _every(known: Known, labels: str) -> dict[str, Measured]:
    return {m.annotator: m for m in known.measurements(ROLE, labels)}


def _drawn(known: Known, own: FidelitySpec) -> Measured | None:
    every = {name: m for name, m in _every(known, "render").items() if m.render}
    if own.features is None:
        return next(iter(every.values())) if len(every) == 1 else None
    return every.get(own.features)


def _originals(known: Known, own: FidelitySpec) -> Measured | None:
    drawn = _drawn(known, own)
    if drawn is None or own.reference is not None or known.spec.dataset.sampled:
        return None
    return _every(known, "image").get(drawn.annotator)


def _model(known: Known, m: Measured) -> str:
    return next(a.model for a in known.spec.annotate if a.name == m.annotator)


def _facts(known: Known) -> ModelFacts | None:
    return known.spaces.facts if isinstance(known.spaces, Spaces) else None


def _drawn_in(known: Known, own: FidelitySpec) -> str:
    """The space of a sweep's draws."""
    stored, facts = known.space(own), _facts(known)
    if own.truncation_space is not None or facts is None or stored not in facts.spaces:
        return own.truncation_space or stored
    if facts.spaces[stored].prior != "normal":
        return stored
    derived = [s.name for s in facts.spaces.values() if s.prior == "derived"]
    return derived[0] if derived else stored


def _network(uri: str) -> str | None:
    """The official network that a description says it is of."""
    try:
        network = read_description(uri).options.get("network")
    except LatentflowError:  # told where the annotator is used
        return None
    return None if network is None else str(network)


def fidelity_problems(known: Known, own: FidelitySpec) -> Problems:
    """No features; nothing to compare with; another network on the other side."""
    every = sorted(_every(known, "render"))
    drawn = _drawn(known, own)
    if drawn is None:
        if not every:
            yield (
                f"{KEY!r} compares features, and no annotator measures any: add a model of kind "
                f"{ROLE!r} under 'annotate'"
            )
        elif own.features is None and len(every) > 1:
            yield f"'{KEY}.features' is not given and there are {every!r}: name one of these"
        elif own.features is not None and own.features not in every:
            yield (
                f"'{KEY}.features' is {own.features!r}, no annotator of kind {ROLE!r}: "
                f"{suggestion(own.features, every)}"
            )
        else:
            yield (
                f"{KEY!r} compares what is drawn, and annotator {own.features or every[0]!r} has "
                "'render: false': set it to true"
            )
        return
    if own.reference is not None:
        yield from _reference_problems(known, own, drawn)
    elif known.spec.dataset.sampled:
        yield (
            f"{KEY!r} has nothing to compare sampled rows with: name a run of real images under "
            f"'{KEY}.reference'"
        )
    yield from _sweep_problems(known, own, drawn)


def _reference_problems(known: Known, own: FidelitySpec, drawn: Measured) -> Problems:
    try:
        found = Reference.find(str(own.reference), drawn.annotator)
        theirs, ours = found.annotator, read_card(_model(known, drawn)).fingerprint
    except (LatentflowError, OSError) as e:
        yield f"'{KEY}.reference' is {own.reference!r}: {e}"
        return
    if theirs != ours:
        yield (
            f"'{KEY}.reference' is run {found.run!r}, whose features {found.stage!r} are of a "
            f"network with fingerprint {theirs!r}, those here are of {ours!r}: annotate both runs "
            "with one network"
        )


def _sweep_problems(known: Known, own: FidelitySpec, drawn: Measured) -> Problems:
    if not own.truncations:
        return
    key, space = f"{KEY}.truncations", _drawn_in(known, own)
    uri = _model(known, drawn)
    if Path(uri).suffix not in ("", *ONNX_ENDINGS):
        yield f"{key!r} draws and measures where analyses run, with ONNX models, not {uri!r}"
    facts = _facts(known)
    if facts is None:
        return
    drawn_in = [s.name for s in facts.spaces.values() if s.prior != "none"]
    if space not in drawn_in:
        yield (
            f"{key!r} draws codes of {space!r}, which has no prior: set "
            f"'{KEY}.truncation_space' to one of {', '.join(map(repr, drawn_in))}"
        )
        return
    prior = facts.spaces[space].prior
    if prior == "normal" and set(own.truncations) != {1.0}:
        derived = [s.name for s in facts.spaces.values() if s.prior == "derived"]
        one = ", ".join(map(repr, derived))
        cure = f"set '{KEY}.truncation_space' to one of {one}" if derived else "leave it out"
        yield (f"{key!r} is {own.truncations!r}, but codes of {space!r} are not truncated: {cure}")


PLUGIN = Fidelity()
