"""Inversion by looking codes up: those that another project found for the images.

A code belongs to the image that bears its name (`generators.peers.latents.open_latents` tells how
files name images). Files in which codes merely stand in some order need a list of the images, or
the word that it is the sorted one, which is then checked: of the images of a batch each one's
drawing must mostly be nearest to itself.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generators.peers.latents import ForeignCodes, open_latents
from generators.protocols import Code, ModelFacts
from schemas.errors import InputError, UsageError
from schemas.sections.inversion.imported import ImportedSpec
from transforms.inversion.method import Cost, Images, InversionMethod, Inverted, render

if TYPE_CHECKING:
    from torch import Tensor

LISTED = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".tiff")
"""Endings of the files that e4e and its relatives list."""
THUMBNAIL = 16
"""Side in pixels at which drawings and images are compared."""


class Imported(InversionMethod):
    """The codes as the file has them."""

    section = ImportedSpec

    def named(self, settings: Any, facts: ModelFacts, uris: Sequence[str]) -> Sequence[str]:
        codes = _codes(settings, facts)
        if settings.order is None and codes.names is None:
            raise UsageError(
                f"'invert.codes' is {settings.codes!r}, whose {len(codes)!r} codes have no names, "
                "and codes are never given to images by order alone: give the list of the images "
                "under 'invert.names', or set 'invert.order' to 'sorted' if the codes are in the "
                "order of the sorted paths"
            )
        if settings.order is None:
            return codes.names or ()
        if codes.names is not None:
            raise UsageError(
                f"'invert.order' is {settings.order!r}, and {settings.codes!r} names its images, "
                f"such as {codes.names[0]!r}: leave 'invert.order' out"
            )
        listed = sorted(uri for uri in uris if uri.lower().endswith(LISTED))
        if len(codes) > len(listed):
            raise InputError(
                f"{settings.codes!r} has {len(codes)!r} codes, the dataset {len(listed)!r} images "
                "that would be listed: it is of other images"
            )
        return listed[: len(codes)]

    def cost(self, settings: Any) -> Cost:
        return Cost(forward_passes=int(settings.order is not None))

    def invert(self, images: Images) -> Inverted:
        import torch

        settings, pixels = images.settings, images.pixels
        found = _codes(settings, images.generator.facts)[images.entries]
        code = Code(settings.space, torch.from_numpy(found).to(pixels.device))
        code.main[~torch.isfinite(pixels).flatten(1).all(dim=1)] = torch.nan
        if settings.order is not None:
            _check_order(images, code)
        return Inverted(code)


def _check_order(images: Images, code: Code) -> None:
    """Raise InputError where the drawings are not mostly nearest to the images they are given to.

    A wrong order gives 1 such of a batch on average.
    """
    import torch
    import torch.nn.functional as F

    finite = torch.isfinite(code.main).flatten(1).all(dim=1).tolist()
    own = {entry: at for at, entry in enumerate(images.entries) if finite[at]}
    rows = torch.tensor(sorted(own.values()), device=code.main.device)  # without a batch's padding
    if len(rows) < 2:
        return
    drawn = render(images.generator, code, images.settings.noise_mode)

    def small(pictures: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(pictures, THUMBNAIL).flatten(1)

    distances = torch.cdist(small(drawn[rows]), small(images.pixels[rows]))
    nearest = int((distances.diagonal() <= distances.min(dim=1).values).sum())
    if nearest < max(2, len(rows) / 2):
        raise InputError(
            f"the codes of {images.settings.codes!r} do not fit the images in the order of their "
            f"sorted paths: of {len(rows)!r} codes {nearest!r} draw what is nearest to their own "
            "image; give the list of the images under 'invert.names'"
        )


def _codes(settings: Any, facts: ModelFacts) -> ForeignCodes:
    if settings.codes is None:
        raise UsageError(
            "'invert.codes' is missing, and method 'imported' gives images the codes of a file: "
            "name it, or the folder of one file an image"
        )
    space = facts.space(settings.space)
    stamps = tuple(_stamp(path) for path in (settings.codes, settings.names) if path is not None)
    return _opened(settings.codes, settings.names, settings.format, space.name, space.shape, stamps)


def _stamp(path: str) -> tuple[int, int]:
    """What changes when a file does. Raises InputError where there is none."""
    try:
        told = Path(path).stat()
    except OSError as e:
        raise InputError(f"{path!r} cannot be read: {e.strerror}") from e
    return told.st_mtime_ns, told.st_size


@functools.lru_cache(maxsize=2)
def _opened(
    path: str,
    names: str | None,
    file_format: str | None,
    space: str,
    row_shape: tuple[int, ...],
    stamps: tuple[Any, ...],
) -> ForeignCodes:
    return open_latents(
        path, space=space, row_shape=row_shape, file_format=file_format, names=names
    )


PLUGIN = Imported()
