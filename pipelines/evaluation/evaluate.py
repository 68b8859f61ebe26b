"""The evaluation of a run: samples, effects of directions, comparisons, reconstruction quality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import generators
from generators.protocols import Generator, ModelFacts
from pipelines.engine.blocks import Rows
from pipelines.evaluation.beside import compare
from pipelines.evaluation.meter import EditMeter, Effects, evaluate_directions
from pipelines.evaluation.sample_rows import sample_rows
from pipelines.evaluation.samples import Samples
from pipelines.folder.likeness import EMBEDDING, likeness, likenesses
from pipelines.folder.qualities import GROUP, stored_qualities
from pipelines.folder.store_identity import INVERT, labels_of
from pipelines.sources.base import Source
from pipelines.sources.block_images import BlockImages
from schemas.directions.direction_set import DirectionSet
from schemas.errors import DataError
from schemas.index import DatasetIndex
from schemas.spec import RunSpec
from schemas.store.latent_store import LatentStore
from transforms.accumulate.sources import ok_rows
from transforms.inversion.stored import stored_code, stored_space


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What is evaluated: a finished store with its index and images."""

    spec: RunSpec
    store: LatentStore
    index: DatasetIndex
    source: Source

    def classes_of(self, facts: ModelFacts, rows: np.ndarray) -> np.ndarray | None:
        """Class numbers of rows, int64 (m,); None where the dataset has no labels."""
        labels = labels_of(self.spec.dataset, self.index, facts)
        return None if labels is None else labels[rows]


def evaluate(
    evaluated: Evaluated,
    directions: DirectionSet,
    meter: EditMeter,
    progress: Callable[[int, int], None],
    known: Effects | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(contents of evaluation.json, arrays of evaluation.npz).

    meter : draws in the directions' space with the specification's generator. known : see
        `evaluate_directions`.
    """
    spec, store = evaluated.spec, evaluated.store
    generator = generators.load(spec.generator)
    rows = _sampled_rows(evaluated)
    samples = _samples(evaluated, generator, directions.space, rows)
    strengths = sorted({float(s) for s in spec.evaluate.strengths} | {0.0})
    effects = evaluate_directions(
        meter, directions, samples, strengths, spec.report.strip_rows, progress, known
    )
    models = {n: directions.load_model(n)[1] for n in directions.model_names()}
    hosvd = models.get("hosvd", {})
    modes = ["/".join(m) for m in hosvd.get("modes", [])]
    ranks = dict(zip(modes, hosvd.get("ranks", []), strict=True))
    found = {
        "samples": len(samples),
        "source": spec.evaluate.source,
        "strengths": strengths,
        "unit": "sd",
        "attributes": meter.names("scores"),
        "pose": meter.names("pose"),
        "quantities": meter.names("quantities"),
        "likeness": meter.names(EMBEDDING),
        "directions": [effect for effect, _ in effects.values()],
        "comparison": compare({d.name: d for d in directions}, ranks),
        "svm": models.get("svm", {}).get("held_out", []),
        "reconstruction": _reconstruction(spec, store),
        "nrsfm": {k: models["nrsfm"][k] for k in ("residual", "residual_rigid", "noise", "flags")}
        if "nrsfm" in models
        else {},
    }
    pictures = {f"strips/{name}": images for name, (_, images) in effects.items()}
    shown, pairs = _pairs(evaluated, generator)
    strips = [] if rows is None else rows[: spec.report.strip_rows].tolist()
    found["pictured_rows"] = {"samples": shown, "strips": strips}
    return found, pictures | pairs


def _sampled_rows(evaluated: Evaluated) -> np.ndarray | None:
    """The rows that are edited: random ones, held-out ones where there are any. None of a prior."""
    wanted = evaluated.spec.evaluate
    if wanted.source == "prior":
        return None
    rows = ok_rows(evaluated.store)
    if not len(rows):
        raise DataError(
            f"no row of store {evaluated.store.path!r} has a code to edit: set 'evaluate.source' "
            "to 'prior', or repair the images and run again"
        )
    chosen = sample_rows(evaluated.index, rows, evaluated.spec, wanted.samples, stream=23)
    return np.sort(chosen)


def _samples(
    evaluated: Evaluated, generator: Generator, space: str, rows: np.ndarray | None
) -> Samples:
    """What is edited: these rows, or draws from the prior."""
    if rows is None:
        wanted, seed = evaluated.spec.evaluate, evaluated.spec.evaluate_seed
        psi, noise = wanted.truncation_psi, evaluated.spec.invert.noise_mode
        return Samples.of_prior(generator, space, wanted.samples, seed, psi, noise)
    facts = generator.facts
    classes = evaluated.classes_of(facts, rows)
    return Samples.stored(evaluated.store, facts.space(space), rows, classes)


def _reconstruction(spec: RunSpec, store: LatentStore) -> dict[str, float]:
    """Medians over all finished rows; infinite (null in JSON) where most pictures are equal. Of
    each annotator of embeddings the median cosine of original and render."""
    out: dict[str, float] = {}
    for metric in stored_qualities(store):
        name = f"{GROUP}/{metric}"
        parts = [store.ok_rows([name], b, [INVERT]).arrays[name] for b in range(store.n_blocks)]
        values = np.concatenate(parts).astype(np.float64)
        values = values[~np.isnan(values)]
        if len(values):
            out[f"{metric}_median"] = float(np.median(values))
    asked = {annotator.name for annotator in spec.annotate}
    for name in likenesses(store):
        if name in asked:
            every = [likeness(store, name, b) for b in range(store.n_blocks)]
            values = np.concatenate(every)
            values = values[~np.isnan(values)]
            if len(values):
                out[f"{name}_median"] = float(np.median(values))
    return out


def _pairs(evaluated: Evaluated, generator: Generator) -> tuple[list[int], dict[str, np.ndarray]]:
    """Evenly spread finished rows, and their originals and reconstructions, uint8 (n, h, w, 3); of
    a sampled dataset what is drawn of them."""
    import torch

    from transforms.images.preprocess import to_uint8

    spec, store = evaluated.spec.invert, evaluated.store
    rows = ok_rows(store)
    if not len(rows):
        return [], {}
    n = min(evaluated.spec.report.samples, len(rows))
    chosen = rows[np.linspace(0, len(rows) - 1, n).astype(np.int64)]
    reader = BlockImages(evaluated.source, generator.facts.size, spec.crop, spec.max_pixels)
    work_of = Rows(evaluated.index, store)
    originals, shown = [], chosen.tolist() if evaluated.spec.dataset.sampled else []
    for row in chosen.tolist() if not shown else ():
        block, offset = divmod(row, store.block_rows)
        image, _ = reader.image(work_of.work(block, {}), offset)
        if image is not None:
            originals.append(image)
            shown.append(row)
    reader.close()
    if not shown:
        return [], {}
    with torch.no_grad():
        rows = np.array(shown)
        code = stored_code(store, generator.facts.space(stored_space(store)), rows)
        classes = evaluated.classes_of(generator.facts, rows)
        images = generator.draw(code, labels=classes, noise=spec.noise_mode)
        drawn = to_uint8(images.cpu().numpy())
    if not originals:
        return shown, {"samples/drawn": drawn}
    return shown, {"samples/original": np.stack(originals), "samples/reconstruction": drawn}
