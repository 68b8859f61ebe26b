"""``invert`` with ``method: hybrid``."""

from __future__ import annotations

from schemas.sections.inversion.optimise import OptimiseSpec
from schemas.sections.invert import Needs


class HybridSpec(OptimiseSpec):
    """Gradient steps from the encoder's code."""

    @property
    def needs(self) -> Needs:
        random = self.schedule == "projector" or self.moves_noise or self.starts > 1
        random = random or self.hops
        return Needs(encoder=True, gradients=True, random=random)


PLUGIN = HybridSpec
