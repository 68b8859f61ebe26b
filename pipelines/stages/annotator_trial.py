"""Annotators are tried before the first image is inverted, not hours later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from pipelines.sources.base import Source, read_checked
from schemas.errors import CheckpointError, InputError
from schemas.index import DatasetIndex
from schemas.spec import RunSpec
from schemas.spec_models import AnnotateSpec
from transforms.images.preprocess import cropped, decode

#: Images of the dataset that a model is tried on when it works on no made-up picture.
IMAGES = 16


def try_annotators(
    models: Sequence[AnnotateSpec],
    index: DatasetIndex,
    source: Source,
    spec: RunSpec,
    trust: bool,
    console: Console,
) -> None:
    """Load every model, which tries it, and print how it will be read. Where actors have GPUs that
    is theirs to do: what runs there may not run here.

    A model that fails on made-up pictures, as a detector may, is shown the dataset's first ones.
    Raises CheckpointError when one does not give what its description promises, or works on none.
    """
    from generators.annotators import load_annotator

    if spec.ray.gpus_per_actor:
        return
    uris, ids, active = index.uris, index.image_ids, np.flatnonzero(index.active)
    for model in models:
        annotator = load_annotator(model.model, model.name, trust=trust)
        for note in annotator.notes:
            console.print(note, markup=False, soft_wrap=True)
        if annotator.unproven is None or spec.dataset.sampled:  # the workers draw pictures first
            continue
        shown: list[str] = []
        for row in active[:IMAGES]:
            try:
                data = read_checked(source, uris[row], ids[row])
                image = cropped(decode(data, spec.invert.max_pixels), spec.invert.crop)
            except InputError:  # the stages give such rows a reason
                continue
            shown.append(uris[row])
            if annotator.prove(image[None]):
                break
        else:
            if shown:
                raise CheckpointError(
                    f"annotator {annotator.card.path!r} fails on every one of the first "
                    f"{len(shown)} images, such as {shown[0]!r}: {annotator.unproven}"
                )
