"""Features of a network, as it gives them: what metrics of generators compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generators.annotators.kinds.base import AnnotatorKind, numbered

INCEPTION = "inception-v3-2015-12-05"
VGG16 = "vgg16-fc2"
OFFICIAL: Mapping[str, str] = {
    INCEPTION: "the pool features (2048) of TensorFlow's Inception of 2015-12-05: FID and KID",
    VGG16: "the second layer of 4096 features of VGG-16: precision and recall",
}
"""Networks by which metrics are defined: name in a description -> what they give."""


class Features(AnnotatorKind):
    """A vector an image, stored as the network gives it.

    ``names`` of a description may be the number of its elements. ``options``: ``{"network": ...}``
    says that it is the official network of that name, see `OFFICIAL`; metrics then have their
    official names, else a star.
    """

    name = "features"
    text = (
        "a vector an image as the network gives it, for metrics of generators; `names` may be the"
        " number of its elements"
    )
    role = "features"
    unit = "feature"

    def names(self, value: Any) -> Any:
        return numbered(value)

    def check(self, names: tuple[str, ...], options: Mapping[str, Any]) -> None:
        unknown = sorted(set(options) - {"network"})
        if unknown:
            raise ValueError(
                f"'options' has the unknown keys {unknown!r}, known is 'network': leave them out"
            )
        network = options.get("network")
        if network is not None and network not in OFFICIAL:
            raise ValueError(
                f"'options.network' is {network!r}, expected one of {sorted(OFFICIAL)!r}: leave it "
                "out for any other network"
            )


PLUGIN = Features()
