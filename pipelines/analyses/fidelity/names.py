"""What metrics are called: with a star, where the network is not the one that defines them."""

from __future__ import annotations

from generators.annotators.kinds.features import INCEPTION, VGG16

OFFICIAL = {"FID": INCEPTION, "KID": INCEPTION, "precision": VGG16, "recall": VGG16}
"""Metric -> the network by whose features it is defined."""


def called(network: str | None) -> dict[str, str]:
    """Metric -> what it is called by features of a network. network : as descriptions name it"""
    return {name: name if network == of else f"{name}*" for name, of in OFFICIAL.items()}
