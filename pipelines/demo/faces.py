"""Write the built-in face set to a folder: pictures, factor table, truth."""

import csv
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from generators.facerig import ATTRIBUTES, EXPRESSIONS, Faces, complete_design, random_faces, render
from schemas.errors import UsageError

BATCH = 200
SCENE_COLUMNS = ("yaw", "pitch", "roll", "light_x", "light_y", "light_strength")
PERSON_COLUMNS = ("age", "beard", "hair_length", "hair_tone", "skin_tone", "eye_hue")


def write_faces(
    out: Path,
    people: int | None = None,
    n_random: int | None = None,
    resolution: int = 64,
    seed: int = 0,
    processes: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Draw a face set into `out`; returns the number of pictures.

    With `people`, the complete person x 25 expressions x 2 views design; with `n_random`, freely
    sampled factors. Writes ``images/*.png``, ``factors.csv`` (one row a picture: path, person,
    expression, intensity, view, glasses and the continuous factors) and ``truth.npz`` (path,
    landmarks3d float32 (n, 3, 68) in pixels, camera frame, y up; landmarks float32 (n, 68, 2);
    visible bool (n, 68); attributes float32 (n, 10)).

    Raises UsageError unless exactly one of the two counts is given, and is positive.
    """
    if (people is None) == (n_random is None) or (people or n_random or 0) < 1:
        raise UsageError(
            f"people is {people!r} and n_random {n_random!r}: give one of them, at least 1"
        )
    if n_random is None:
        faces, design = complete_design(range(people or 0), seed)
        names = ["{person}_{expression}_{intensity}_{view}.png".format_map(row) for row in design]
    else:
        faces = random_faces(n_random, seed)
        design = [_shown(faces, i) for i in range(n_random)]
        width = max(5, math.ceil(math.log10(n_random + 1)))
        names = [f"r{i:0{width}d}.png" for i in range(n_random)]
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(faces), BATCH)
    parts = [(faces[s : s + BATCH], names[s : s + BATCH]) for s in starts]
    draw = partial(_draw_part, folder=folder, resolution=resolution)
    truth = []
    with ProcessPoolExecutor(processes) as pool:
        for part in pool.map(draw, parts):
            truth.append(part)
            progress(min(len(truth) * BATCH, len(faces)), len(faces))
    points3d, points, visible = (np.concatenate(column) for column in zip(*truth, strict=True))
    np.savez_compressed(
        out / "truth.npz",
        path=np.array([f"images/{name}" for name in names]),
        landmarks3d=points3d,
        landmarks=points,
        visible=visible,
        attributes=faces.attributes(),
        attribute_names=np.array(ATTRIBUTES),
    )
    _write_factors(out / "factors.csv", faces, design, names)
    return len(faces)


def _draw_part(part: tuple[Faces, list[str]], folder: Path, resolution: int):
    faces, names = part
    drawn = render(faces, resolution)
    for image, name in zip(drawn.images, names, strict=True):
        Image.fromarray(image).save(folder / name, compress_level=3)
    return drawn.landmarks3d, drawn.landmarks, drawn.visible


def _shown(faces: Faces, i: int) -> dict:
    """The design factors of a freely sampled face."""
    shown = [e for e in EXPRESSIONS if faces.column(e)[i] > 0]
    intensity = round(4 * faces.column(shown[0])[i]) if shown else 0
    return {
        "person": f"p{faces.person[i]:05d}",
        "expression": shown[0] if shown else "neutral",
        "intensity": intensity,
        "view": "right" if faces.column("yaw")[i] > 0 else "left",
    }


def _write_factors(path: Path, faces: Faces, design: list[dict], names: list[str]) -> None:
    continuous = (*SCENE_COLUMNS, *PERSON_COLUMNS)
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", *design[0], "glasses", *continuous])
        glasses = np.where(faces.column("glasses") > 0.5, "yes", "no")
        columns = [faces.column(c) for c in continuous]
        for i, (name, row) in enumerate(zip(names, design, strict=True)):
            numbers = [f"{column[i]:.4f}" for column in columns]
            table.writerow([f"images/{name}", *row.values(), glasses[i], *numbers])
