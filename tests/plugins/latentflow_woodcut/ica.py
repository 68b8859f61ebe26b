"""Independent components of the codes (FastICA, Hyvarinen 1999), by scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from pipelines.analyses.base import Analysis, Known, Model, Selection
from pipelines.analyses.figures import Figure, Shares, Table
from schemas.sections.base import AnalysisSection
from schemas.sections.types import Integer

if TYPE_CHECKING:
    from pipelines.analyses.inputs import Data, Fitted


class IcaSection(AnalysisSection):
    """Independent components of the codes."""

    summary = "Independent components."

    n_components: Integer = Field(default=4, ge=1, description="Components to find.")
    max_rows: Integer = Field(
        default=100_000, ge=2, description="Rows to read at most, evenly spread over the dataset."
    )
    seed: Integer = Field(default=0, ge=0, description="Of the first guess.")


class IndependentComponents(Analysis[IcaSection]):
    """Directions along which codes are least normal; reads codes alone."""

    name = "ica"
    section = IcaSection
    version = 1
    title = "Independent components"
    labels = {"ica": "ICA"}

    def select(self, known: Known, own: IcaSection) -> Selection:
        """Codes of the section's space, and nothing beside them."""
        return Selection()

    def fit(self, data: Data, own: IcaSection) -> Fitted:
        """The unmixed components, the least normal first, each the direction that its source moves
        codes along; its sign is that of the source's skewness."""
        from sklearn.decomposition import FastICA

        from pipelines.analyses.inputs import Fitted

        rows = data.ok_rows()
        rows = rows[:: -(-len(rows) // own.max_rows)]
        codes = data.codes_of(rows).reshape(len(rows), -1).astype(np.float64)
        out = Fitted(facts={"rows": len(rows)})
        n = out.limit("ica.n_components", own.n_components, min(codes.shape), "of rows and axes")
        found = FastICA(n, whiten="unit-variance", random_state=own.seed, max_iter=1000)
        sources = found.fit_transform(codes)
        skewness = (sources**3).mean(axis=0)
        order = np.argsort(-np.abs((sources**4).mean(axis=0) - 3), kind="stable")
        out.arrays["mixing"] = found.mixing_.T[order]
        out.arrays["kurtosis"] = ((sources**4).mean(axis=0) - 3)[order]
        for i, k in enumerate(order):
            vector = found.mixing_[:, k] * (1 if skewness[k] >= 0 else -1)
            out.directions.append(data.direction(f"ica.{i:03d}", vector, "ica", None))
        return out

    def figures(self, model: Model) -> list[Figure]:
        """Excess kurtosis of every component."""
        kurtosis = np.asarray(model.arrays["kurtosis"])
        share = np.abs(kurtosis) / max(np.abs(kurtosis).sum(), 1e-300)
        rows = [[f"{i:03d}", f"{value:.3f}"] for i, value in enumerate(kurtosis)]
        return [Table(["component", "excess kurtosis"], rows), Shares(np.sort(share)[::-1])]


PLUGIN = IndependentComponents()
