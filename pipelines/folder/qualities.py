"""What is measured of every row that is inverted, as a store holds it, and how it is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from schemas.sections.invert import InvertSpec
from schemas.store.latent_store import ArraySpec, LatentStore
from transforms.inversion.catalog import method_named
from transforms.inversion.stored import STAGE

GROUP = "quality"
EDITABILITY = "editability"
#: Measured of every reconstruction, whatever the method.
MEASURED = ("mse", "psnr", "ssim", EDITABILITY)


@dataclass(frozen=True)
class Quality:
    """How a quality is told: its name for people, decimal places, unit, and which way is better
    (None: neither).

    first : told among the key figures, and with a histogram.
    """

    title: str
    places: int
    unit: str = ""
    higher_is_better: bool | None = None
    first: bool = False

    def worst(self, values: np.ndarray) -> float | None:
        """What 95 % of the values are better than; None where no way is. values : (m,), m >= 1."""
        if self.higher_is_better is None:
            return None
        return float(np.quantile(values, 0.05 if self.higher_is_better else 0.95))


_TOLD = {
    "psnr": Quality("PSNR", 2, "dB", True, True),
    "ssim": Quality("SSIM", 3, "", True, True),
    "mse": Quality("MSE", 5, "", False),
    "lpips": Quality("LPIPS", 3, "", False, True),
    "lpips_star": Quality("LPIPS*", 3, "", False, True),
    EDITABILITY: Quality("editability", 3, "", True, True),
    "loss_start": Quality("loss at the start", 4),
    "loss_end": Quality("loss at the end", 4, "", False),
    "steps": Quality("steps or passes", 0),
}


def quality_told(name: str) -> Quality:
    """How a quality of a store is told, also one of a method that is not ours."""
    return _TOLD.get(name) or Quality(name.replace("_", " "), 4)


def stored_qualities(store: LatentStore) -> list[str]:
    """The qualities that inversion left in a store, in the order in which they are told: ours
    first, then a method's by name. None of draws from the prior."""
    stored = store.arrays(STAGE) if STAGE in store.stages() else []
    names = [path.removeprefix(f"{GROUP}/") for path in stored if path.startswith(f"{GROUP}/")]
    return sorted(names, key=lambda name: ([*_TOLD, name].index(name), name))


def qualities_of(spec: InvertSpec) -> list[str]:
    """Names of what an inversion measures of each row, but for perceptual distances."""
    return [*MEASURED, *method_named(spec.method).qualities(spec)]


def laid_out(arrays: Iterable[ArraySpec], stored: Iterable[str]) -> tuple[ArraySpec, ...]:
    """Those of a store's arrays that it has: releases before it knew fewer qualities, and its
    blocks stay as they are. stored : paths of the arrays that it was laid out with."""
    stored = set(stored)
    return tuple(array for array in arrays if array.group != GROUP or array.path in stored)
