"""Obtained face models on real photographs: is the pose right, and how many faces are found?

``python -m benchmarks.annotators_real`` reads ``cmu_faces.npz`` (Mitchell's CMU Face Images: 20
people x 4 poses x 4 expressions x 2 eyes, 120 x 128 grey, damaged frames marked) from ``--data``,
and the models that ``latentflow obtain`` has fetched; ``--smoke`` draws faces by the rig, and
measures them by the bundled models. The size of the crop was chosen on every second person; figures
are of the others, those of all people stand beside them.

Each function of ``PARTS`` gives its figures: what was measured, what is wanted of it, and whether
that is reached. ``ours_s`` is the time of the pose from photograph to angles, ``peer_s`` that of
its two networks alone on inputs that are ready; ``error`` is how many figures are not reached.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from generators.annotators import load_annotator
from generators.annotators.input_output import prepare
from generators.facerig import random_faces, render
from pipelines.engine.memory import PeakMemory
from schemas.errors import CheckpointError
from schemas.store.reasons import Reason

DATA = Path(__file__).parents[2] / "shared" / "data" / "faces"
FILE = "cmu_faces.npz"
SIGN_WANTED = 0.97
"""Share of the faces found that are turned to the side that their name says."""
IDENTITY_WANTED = 0.95
"""Area under the ROC of "the same person" by the cosine of two photographs that face the camera."""
MODELS = {"pose": "obtained:face_pose", "identity": "obtained:face_identity"}
SMOKE_MODELS = {"pose": "bundled:faces64/pose"}
BATCH = 64


@dataclass(frozen=True)
class Photographs:
    """images : uint8 (n, h, w, 3). person, pose : number in `poses` of each. held_out : bool (n,),
    people that nothing was tuned on."""

    images: np.ndarray
    person: np.ndarray
    pose: np.ndarray
    poses: tuple[str, ...]
    held_out: np.ndarray

    def posed(self, name: str) -> np.ndarray:
        """Which photographs have a pose, bool (n,)."""
        return self.pose == self.poses.index(name)


@dataclass(frozen=True)
class Figure:
    """wanted : the least that reaches it, None where nothing is wanted. of : photographs."""

    name: str
    value: float
    of: int
    wanted: float | None = None

    @property
    def reached(self) -> bool:
        return self.wanted is None or self.value >= self.wanted


@dataclass
class Times:
    """Seconds of processor time, of ours and of the bare networks."""

    ours: float = 0.0
    peer: float = 0.0


Part = Callable[[Photographs, Mapping[str, str], Times], list[Figure]]


def read(path: Path) -> Photographs:
    """The photographs without damaged frames."""
    with np.load(path, allow_pickle=False) as z:
        whole = ~z["glitch"]
        person = z["person"][whole]
        return Photographs(
            images=np.repeat(z["images"][whole][..., None], 3, axis=3),
            person=person,
            pose=z["pose"][whole],
            poses=tuple(str(name) for name in z["pose_names"]),
            held_out=person % 2 == 1,
        )


def drawn(n: int = 24) -> Photographs:
    """Faces by the rig, sorted into poses by the yaw that they were drawn with."""
    faces = random_faces(n)
    yaw = faces.column("yaw")
    pose = np.where(yaw > 10, 1, np.where(yaw < -10, 2, 0))
    person = np.arange(n)
    images = render(faces).images
    return Photographs(images, person, pose, ("straight", "left", "right"), person % 2 == 1)


# ---------------------------------------------------------------------------------------------
# Pose


def pose(photographs: Photographs, models: Mapping[str, str], times: Times) -> list[Figure]:
    """Left or right by the sign of yaw, and how many faces are found, by pose. People turned to
    their left look to the image's right, where yaw is above 0."""
    model = load_annotator(models["pose"])
    yaw_at = list(model.names).index("yaw")
    started = time.process_time()
    parts = [
        model.predict(photographs.images[i : i + BATCH])
        for i in range(0, len(photographs.images), BATCH)
    ]
    times.ours += time.process_time() - started
    times.peer += _networks(model, photographs.images)
    found = np.concatenate([part.reasons for part in parts]) == Reason.NONE
    yaw = np.concatenate([part.values for part in parts])[:, yaw_at]
    left, right = photographs.posed("left"), photographs.posed("right")
    correct = np.where(left, yaw > 0, yaw < 0)
    figures = []
    for people, chosen in (("held-out people", photographs.held_out), ("all people", None)):
        among = np.ones(len(yaw), bool) if chosen is None else chosen
        turned = among & found & (left | right)
        figures.append(
            Figure(
                f"pose: side by the sign of yaw, {people}",
                float(correct[turned].mean()),
                int(turned.sum()),
                SIGN_WANTED if chosen is not None else None,
            )
        )
        for name in photographs.poses:
            these = among & photographs.posed(name)
            share = float(found[these].mean())
            figures.append(Figure(f"pose: {name}, found, {people}", share, int(these.sum())))
    return figures


def _networks(model: Any, images: np.ndarray) -> float:
    """Seconds of the networks of a model and its finders, in batches, on inputs that are ready."""
    seconds = 0.0
    while model is not None:
        # The pictures whole where a crop would be: a network takes as long for either.
        inputs = prepare(images[:BATCH], model.card)
        batches = -(-len(images) // BATCH)
        given = {model._input: inputs}
        started = time.process_time()
        model._session.run(model.outputs, given)
        seconds += batches * (time.process_time() - started)
        model = model.finder
    return seconds


# ---------------------------------------------------------------------------------------------
# Identity


def identity(photographs: Photographs, models: Mapping[str, str], times: Times) -> list[Figure]:
    """Whether two photographs show the same person, by the cosine of their embeddings: every pair
    of the faces found, of those that face the camera and of all."""
    if "identity" not in models:
        return []
    model = load_annotator(models["identity"])
    parts = [
        model.predict(photographs.images[i : i + BATCH])
        for i in range(0, len(photographs.images), BATCH)
    ]
    found = np.concatenate([part.reasons for part in parts]) == Reason.NONE
    vectors = np.concatenate([part.values for part in parts])
    figures = []
    for people, among in (
        ("held-out people", found & photographs.held_out),
        ("all people", found),
    ):
        for of, chosen in (
            ("facing the camera", among & photographs.posed("straight")),
            ("all poses", among),
        ):
            wanted = IDENTITY_WANTED if chosen is not among and people != "all people" else None
            area = same_person(vectors[chosen], photographs.person[chosen])
            name = f"identity: area under ROC, {of}, {people}"
            figures.append(Figure(name, area, int(chosen.sum()), wanted))
    return figures


def same_person(vectors: np.ndarray, person: np.ndarray) -> float:
    """Chance that a pair of one person has a larger cosine than a pair of two, which is the area
    under the ROC. vectors : float (n, d) of length 1. person : (n,)."""
    first, second = np.triu_indices(len(person), 1)
    cosine = (vectors.astype(np.float64) @ vectors.T.astype(np.float64))[first, second]
    same = person[first] == person[second]
    ranks = rankdata(cosine)
    n = int(same.sum())
    return float((ranks[same].sum() - n * (n + 1) / 2) / (n * (len(same) - n)))


PARTS: tuple[Part, ...] = (pose, identity)


def main() -> int:
    """Parse the arguments, measure, print the table and the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few drawn faces, bundled models")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the photographs")
    options = parser.parse_args()
    if not options.smoke and not (options.data / FILE).exists():
        parser.error(f"there is no {FILE!r} in {str(options.data)!r}: give --data, or --smoke")
    photographs = drawn() if options.smoke else read(options.data / FILE)
    times = Times()
    figures: list[Figure] = []
    with PeakMemory() as memory:
        try:
            for part in PARTS:
                figures += part(photographs, SMOKE_MODELS if options.smoke else MODELS, times)
        except CheckpointError as e:
            parser.error(str(e))
    for figure in figures:
        wanted = "" if figure.wanted is None else f", wanted {figure.wanted:g}"
        missed = "" if figure.reached else "  NOT REACHED"
        print(f"{figure.name:64} {figure.value:.3f} of {figure.of}{wanted}{missed}")
    result = {
        "name": "annotators_real",
        "ours_s": round(times.ours, 3),
        "peer_s": round(times.peer, 3),
        "ratio": round(times.peer / times.ours, 3),
        "ms_per_face": round(1e3 * times.ours / len(photographs.images), 2),
        "peak_mb": round(memory.peak / 1e6),
        "error": sum(not figure.reached for figure in figures),
        "rows": [asdict(figure) | {"reached": figure.reached} for figure in figures],
        "cores": os.cpu_count(),
        "threads": 1,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
