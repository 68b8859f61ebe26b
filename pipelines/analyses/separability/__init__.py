"""Linear separability of latent spaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.analyses.base import Analysis, Known, Model, Selection
from pipelines.analyses.checks import Problems, attribute_problems, threshold_problems
from pipelines.analyses.figures import (
    Count,
    Figure,
    Name,
    NotShownError,
    Number,
    Percent,
    Table,
    Text,
)
from pipelines.analyses.measured import chosen_measurements
from schemas.sections.separability import SeparabilitySpec
from schemas.suggest import suggestion

if TYPE_CHECKING:
    from pipelines.analyses.inputs import Data, Fitted

KEY = "analyse.separability"


class Separability(Analysis[SeparabilitySpec]):
    """exp of the sum of the attributes' conditional entropies given a hyperplane's answer."""

    name = "separability"
    section = SeparabilitySpec
    version = 1
    title = "Linear separability"

    def select(self, known: Known, own: SeparabilitySpec) -> Selection:
        """The chosen attributes, and the spaces."""
        chosen = chosen_measurements(known.measurements("scores"), own.attributes)
        spaces = tuple(name for name in own.spaces or () if name in known.spaces)
        return Selection(spaces=spaces, measured=chosen)

    def parameters(self, known: Known, own: SeparabilitySpec) -> dict[str, Any]:
        """The section, with the spaces in the place of one."""
        found = super().parameters(known, own)
        found["spaces"] = own.spaces or [found["space"]]
        del found["space"]
        return found

    def problems(self, known: Known, own: SeparabilitySpec) -> Problems:
        """Spaces that there are no codes of; attributes that nothing measures."""
        for name in own.spaces or ():
            if name not in known.spaces:
                yield f"'{KEY}.spaces' names {name!r}: {suggestion(name, sorted(known.spaces))}"
            elif known.without_labels(name):
                yield (
                    f"'{KEY}.spaces' names {name!r}, which the generator makes with class labels: "
                    "name their factor under 'dataset.labels', or leave it out"
                )
        scores = known.measurements("scores")
        yield from attribute_problems(f"{KEY}.attributes", own.attributes, scores)
        yield from threshold_problems(f"{KEY}.threshold", own.threshold, known.bounded)

    def fit(self, data: Data, own: SeparabilitySpec) -> Fitted:
        """See `pipelines.analyses.separability.fit`."""
        from pipelines.analyses.separability.fit import fit_separability

        return fit_separability(data, own)

    def figures(self, model: Model) -> list[Figure]:
        """The score of each space, and what each attribute adds to it."""
        spaces = model.facts.get("spaces") or {}
        if not spaces:
            raise NotShownError("the model holds no space")
        first = next(iter(spaces.values()))
        told = "; ".join(f"{{score{i}}} in {{space{i}}}" for i in range(len(spaces)))
        scores = {f"score{i}": Number(each["score"]) for i, each in enumerate(spaces.values())}
        called = {f"space{i}": name for i, name in enumerate(spaces)}
        text = Text(
            f"Separability {told}: 1 where hyperplanes tell {{n}} attributes without a mistake, "
            "and higher the less they tell.",
            {**scores, **called, "n": Count(len(first["attributes"]))},
        )
        columns = [c for name in spaces for c in (f"entropy in {name}", f"accuracy in {name}")]
        rows = []
        for at, name in enumerate(first["attributes"]):
            cells = [
                cell
                for each in spaces.values()
                for cell in (Number(each["entropy"][at]), Percent(each["accuracy"][at]))
            ]
            rows.append([Name(name), Count(first["rows"][at]), *cells])
        return [text, Table(("attribute", "rows", *columns), rows)]


PLUGIN = Separability()
