"""Pieces of work of `benchmarks.invert_quality`: rows of pictures inverted in one way and measured.

Each is one file of a folder, by a hash of what it is of, so that whatever ended is not done again.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import generators
from benchmarks._persons import Persons
from benchmarks.projector import compared, project, rig_faces
from generators.annotators import load_annotator
from generators.encoders import load_encoder
from generators.perceptual import load_perceptual
from generators.protocols import Code
from pipelines.folder.likeness import cosines
from schemas.atomic import replacing
from schemas.errors import LatentflowError
from schemas.fingerprint import canonical_json
from schemas.sections.invert import invert_section
from schemas.sections.perceptual import OWN
from transforms.images import metrics
from transforms.images.preprocess import to_uint8
from transforms.inversion.catalog import invert_batch
from transforms.inversion.editability import editability
from transforms.inversion.loss import RowLosses
from transforms.inversion.method import Images, render, row_generator

RIG, MODEL, PLAIN = "faces64", "bundled:faces64", "obtained:gan_face_generate"
BATCH = 32
TARGETS = 10**6
"""First seed of a plain generator's own pictures, which are inverted: it has no others."""
PROJECTOR, SAMPLED = "official projector", "sampled"
SETTLED, FIRST_SAMPLE = 3000, 50_000
"""Sampled codes that directions are fitted to, and the first seed of those that are edited."""
STRENGTH, EDITED = 2.0, 32
EDITED_TOO = ("codes", "editability")
FEW = 4
"""Rows, for which what is measured by is fitted in little time, too."""
HIGHER = {"psnr", "ssim", "cosine", "code cosine", "identity*", "editability"}

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Piece:
    """Rows of one scene inverted in one way.

    scene : `RIG`, or the uri of a plain generator, whose own pictures are inverted
    method : of the catalog; `PROJECTOR`; or `SAMPLED`, codes of the prior, which nothing inverts
    steps : gradient steps, None for the method's own number
    rows : of the scene, from the first
    edited : edits of the first `EDITED` of these codes are measured, and nothing else
    """

    scene: str
    method: str
    space: str
    rows: int
    encoder: str | None = None
    steps: int | None = None
    edited: bool = False

    @property
    def file(self) -> str:
        """Name of its file."""
        told = hashlib.sha256(canonical_json(asdict(self))).hexdigest()[:12]
        return f"{self.method.replace(' ', '-')}-{self.space}-{told}.npz"


def made(piece: Piece, folder: Path) -> Arrays:
    """What was measured of every row, by name; read from the folder where it was done before.

    codes, seconds (of one row), and of inverted rows ``HIGHER``, mse, lpips_star, loss and the
    method's own qualities. Of an ``edited`` piece codes, editability, and moved (rows, edits): the
    change of what each edit is for, in its standard deviations over sampled codes, of 2 asked for.
    """
    path = folder / piece.file
    if path.exists():
        with np.load(path) as held:
            return dict(held)
    torch.set_num_threads(1)
    found = _moved(piece, folder) if piece.edited else _measured(piece)
    with replacing(path) as file:
        np.savez(file, **found)
    return found


def is_there(uri: str) -> bool:
    """Whether a generator can be loaded here."""
    try:
        generators.facts(uri)
    except LatentflowError:
        return False
    return True


def uri_of(scene: str) -> str:
    """Of the scene's generator."""
    return MODEL if scene == RIG else scene


@cache
def generator_of(scene: str) -> Any:
    """The generator of a scene."""
    return generators.load(uri_of(scene), "cpu")


@cache
def _targets(scene: str, rows: int) -> tuple[Tensor, Code | None]:
    """Pictures float32 (rows, 3, h, w) in [-1, 1], and their codes where they are known."""
    if scene == RIG:
        return rig_faces(rows), None
    generator = generator_of(scene)
    code = generator.sample(generator.facts.default_space, range(TARGETS, TARGETS + rows))
    return render(generator, code).clamp(-1, 1), code


def _measured(piece: Piece) -> Arrays:
    generator = generator_of(piece.scene)
    if piece.method == SAMPLED:
        code = generator.sample(piece.space, range(FIRST_SAMPLE, FIRST_SAMPLE + piece.rows))
        return {"codes": code.main.numpy(), "editability": editability(generator, code).numpy()}
    pixels, truth = _targets(piece.scene, piece.rows)
    invert = _projected if piece.method == PROJECTOR else _inverted
    parts: list[Arrays] = []
    started = time.process_time()
    codes = [
        invert(piece, pixels[i : i + BATCH], range(i, i + BATCH))
        for i in range(0, len(pixels), BATCH)
    ]
    seconds = (time.process_time() - started) / len(pixels)
    for k, (code, told) in enumerate(codes):
        rows = slice(k * BATCH, k * BATCH + len(code))
        own = None if truth is None else truth.main[rows]
        parts.append({**told, **_compared(piece, code, pixels[rows], own)})
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {**found, "seconds": np.full(len(pixels), seconds)}


def _inverted(piece: Piece, pixels: Tensor, rows: range) -> tuple[Code, Arrays]:
    """The catalog's method, as the stage asks it."""
    keys: dict[str, Any] = {"method": piece.method, "space": piece.space}
    if piece.steps is not None:
        keys["steps"] = piece.steps
    section = invert_section(keys)
    encoder = perceptual = None
    if section.needs.encoder:
        encoder = load_encoder(piece.encoder or uri_of(piece.scene), "cpu", piece.space)
    if section.compared_by is not None:
        by = section.compared_by
        perceptual = load_perceptual(by.network, by.linear)
    ids = [f"{row:064x}" for row in rows][: len(pixels)] if section.needs.random else []
    rngs = [row_generator(0, 1, image_id) for image_id in ids]
    generator = generator_of(piece.scene)
    found = invert_batch(Images(pixels, generator, section, encoder, rngs, perceptual))
    return found.code, {name: value.numpy() for name, value in found.qualities.items()}


def _projected(piece: Piece, pixels: Tensor, rows: range) -> tuple[Code, Arrays]:
    """The official projector's last code, of the loss by which `optimise` compares."""
    generator, last = generator_of(piece.scene), []
    for row, picture in zip(rows, pixels, strict=False):
        losses = _losses(generator, piece.space, picture[None])
        done = project(
            generator,
            compared(picture, lambda drawn, _, losses=losses: losses(drawn)),
            space=piece.space,
            noise_images=False,
            random=np.random.default_rng(row),
            steps=piece.steps or 0,
        )
        last.append(done.codes[-1])
    return Code(piece.space, torch.stack(last)), {}


def _losses(generator: Any, space: str, pixels: Tensor) -> RowLosses:
    """Loss of each row by the default settings of `optimise`."""
    section = invert_section({"method": "optimise", "space": space})
    return RowLosses(Images(pixels, generator, section))


def _compared(piece: Piece, code: Code, pixels: Tensor, truth: Tensor | None) -> Arrays:
    """Every figure of rows' codes and of what they draw."""
    generator = generator_of(piece.scene)
    x = render(generator, code)
    loss = _losses(generator, piece.space, pixels)(x)
    images, drawn = (to_uint8(each.numpy()) for each in (pixels, x))
    error = metrics.mse(images, drawn)
    flat = [each.reshape(len(x), -1).astype(np.float64) / 127.5 - 1 for each in (images, drawn)]
    found = {
        "codes": code.main.numpy(),
        "psnr": metrics.psnr_from_mse(error),
        "ssim": metrics.ssim(images, drawn),
        "mse": error,
        "cosine": cosines(*flat),
        "lpips_star": _lpips()(images, drawn),
        "loss": loss.numpy(),
        "editability": editability(generator, code).numpy(),
    }
    if piece.scene == RIG:
        found["identity*"] = _persons(piece.rows <= FEW).cosine(images, drawn)
    if truth is not None:
        found["code cosine"] = cosines(truth.flatten(1).numpy(), code.main.flatten(1).numpy())
    return found


@cache
def _lpips() -> Any:
    return load_perceptual(OWN)


@cache
def _persons(few: bool) -> Persons:
    return Persons(*((24, 6) if few else ()))


# ---- edits --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Edits:
    """Directions of w for what annotators measure, fitted to sampled codes.

    names : of the measures. mean, deviation : of each over sampled codes. moves : (k, w), each of
        `STRENGTH` deviations by the linear fit
    """

    names: list[str]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    moves: Tensor


@cache
def edits(samples: int = SETTLED) -> Edits:
    """Of the bundled attributes and pose; scores as log odds."""
    generator = generator_of(RIG)
    codes = generator.sample("w", range(20_000, 20_000 + samples))
    values, names = _annotated(codes)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    x = (codes.main - codes.main.mean(dim=0)).double().numpy()
    covariance = x.T @ x / len(x)
    ridge = 1e-3 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    slopes = np.linalg.solve(covariance + ridge, x.T @ ((values - mean) / deviation) / len(x))
    ways = covariance @ slopes
    moves = STRENGTH * ways / (ways * slopes).sum(axis=0)
    return Edits(names, mean, deviation, torch.from_numpy(moves.T).float())


def _annotated(code: Code) -> tuple[NDArray[np.float64], list[str]]:
    generator, values = generator_of(RIG), []
    attributes, pose = (load_annotator(f"{MODEL}/{name}") for name in ("attributes", "pose"))
    for start in range(0, len(code), BATCH):
        images = to_uint8(render(generator, code[start : start + BATCH]).numpy())
        p = np.clip(attributes.annotate(images).astype(np.float64), 1e-6, 1 - 1e-6)
        values.append(np.concatenate([np.log(p / (1 - p)), pose.annotate(images)], axis=1))
    return np.concatenate(values), [*attributes.names, *pose.names]


def _moved(piece: Piece, folder: Path) -> Arrays:
    """Half the change of each measure between the edits by plus and minus `STRENGTH`."""
    held = made(replace(piece, edited=False), folder)
    generator, kept = generator_of(piece.scene), {n: held[n][:EDITED] for n in EDITED_TOO}
    code = Code(piece.space, torch.from_numpy(kept["codes"]))
    fitted, changes = edits(SETTLED if piece.rows > FEW else 200), []
    base = generator.centre("w")[None]
    for k, move in enumerate(fitted.moves):
        step = move
        if piece.space == "s":
            styles = [generator.convert(Code("w", w), "s").main for w in (base + move, base)]
            step = (styles[0] - styles[1])[0]
        ends = [_annotated(code.moved(code.main + sign * step))[0][:, k] for sign in (1, -1)]
        changes.append((ends[0] - ends[1]) / 2 / fitted.deviation[k])
    return {**kept, "moved": np.stack(changes, axis=1)}
