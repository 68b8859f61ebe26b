"""The key ``perceptual`` of ``invert``: the network by which reconstructions are compared."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from schemas.sections.types import BUNDLED, SpecModel, SpecPath

OWN = "bundled:features64/features"


class PerceptualSpec(SpecModel):
    """A perceptual distance: LPIPS* by the project's own network, LPIPS by yours."""

    network: SpecPath = Field(
        default=OWN,
        description="The project's own network (LPIPS*), or a file of VGG16 or AlexNet (LPIPS): a "
        "state dict of torchvision's, or one of lpips.LPIPS or its ONNX export.",
    )
    linear: SpecPath | None = Field(
        default=None,
        description="File of LPIPS's linear weights, where the network's file has none: vgg.pth or "
        "alex.pth of PyPI's package lpips.",
    )

    @model_validator(mode="after")
    def _linear_of_a_file(self) -> Self:
        if self.linear is not None and self.network.startswith(BUNDLED):
            raise ValueError(
                f"'linear' is {self.linear!r}, which {self.network!r} does not take: leave it out, "
                "or name the file of VGG16 or AlexNet under 'network'"
            )
        return self
