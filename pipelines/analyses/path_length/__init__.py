"""Perceptual path length of the generator's own spaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.analyses.base import Analysis, Known, Model, Selection
from pipelines.analyses.checks import Problems
from pipelines.analyses.figures import Count, Figure, NotShownError, Number, Table, Text, Value
from pipelines.analyses.path_length.network import name_of, network_fp
from pipelines.analyses.spaces import Spaces
from schemas.errors import LatentflowError
from schemas.sections.path_length import PathLengthSpec
from schemas.suggest import suggestion

if TYPE_CHECKING:
    from generators.protocols import ModelFacts
    from pipelines.analyses.inputs import Data, Fitted

KEY = "analyse.path_length"


class PathLength(Analysis[PathLengthSpec]):
    """Mean squared perceptual distance over short steps, by the steps' squared length."""

    name = "path_length"
    section = PathLengthSpec
    version = 1
    title = "Perceptual path length"

    def select(self, known: Known, own: PathLengthSpec) -> Selection:
        """The network; the store's identity holds the generator's and, of its noise inputs, all
        that is not drawn anew."""
        try:
            fingerprint = network_fp(own.network, own.linear)
        except (LatentflowError, OSError):  # `problems` tells
            fingerprint = None
        return Selection(parameters={"distance": fingerprint, "measured": paths_of(known, own)})

    def parameters(self, known: Known, own: PathLengthSpec) -> dict[str, Any]:
        """The section, with the network's fingerprint in the place of its path."""
        found = super().parameters(known, own)
        for key in ("space", "network", "linear"):
            del found[key]
        return found

    def problems(self, known: Known, own: PathLengthSpec) -> Problems:
        """A network that cannot be read or that PPL has no use for; spaces without a prior."""
        try:
            name_of(own.network, own.linear)
        except (LatentflowError, OSError) as e:
            yield f"'{KEY}.network' is {own.network!r}: {e}"
        facts = _facts(known)
        if facts is None:
            return
        drawn = [s.name for s in facts.spaces.values() if s.prior != "none"]
        for path in own.paths or ():
            space = path.rpartition("_")[0]
            if space not in drawn:
                yield (
                    f"'{KEY}.paths' names {path!r}, and codes of {space!r} cannot be drawn: "
                    f"{suggestion(space, drawn)}"
                )
        if not drawn:
            yield f"{KEY!r} draws codes at random, and no space of the generator has a prior"

    def pictures(self, known: Known, own: PathLengthSpec) -> int:
        """Two of each step."""
        return 2 * own.samples * len(paths_of(known, own))

    def fit(self, data: Data, own: PathLengthSpec) -> Fitted:
        """See `pipelines.analyses.path_length.fit`."""
        from pipelines.analyses.path_length.fit import fit_path_length

        return fit_path_length(data, own)

    def figures(self, model: Model) -> list[Figure]:
        """The length of each path, with the steps that it is the mean of."""
        facts = model.facts
        found = facts.get("paths") or {}
        if not found:
            raise NotShownError("the model holds no path")
        text = (
            "Mean over {n} steps of {epsilon}, without the lowest and the highest percent, in "
            "distances of {distance}"
        )
        text += ", the middle of the pictures alone." if facts["crop"] else "."
        if str(facts["name"]).endswith("*"):
            text += (
                " A star: another network than VGG16, so that the figure is comparable within this "
                "network alone, and with no printed one."
            )
        values: dict[str, Value] = {
            "n": Count(facts["n"]),
            "epsilon": f"{facts['epsilon']:g}",
            "distance": str(facts["distance"]),
        }
        rows: list[list[Value]] = [
            [
                f"{facts['name']} {path.replace('_', ' ')}",
                *(Number(each[key], 4) for key in ("value", "standard_error", "median")),
            ]
            for path, each in found.items()
        ]
        return [Text(text, values), Table(("", "value", "standard error", "median"), rows)]


def _facts(known: Known) -> ModelFacts | None:
    return known.spaces.facts if isinstance(known.spaces, Spaces) else None


def paths_of(known: Known, own: PathLengthSpec) -> list[str]:
    """The paths that are asked for, or the one by default."""
    if own.paths is not None:
        return own.paths
    facts = _facts(known)
    return ["z_end" if facts is not None and "w" not in facts.spaces else "w_end"]


PLUGIN = PathLength()
