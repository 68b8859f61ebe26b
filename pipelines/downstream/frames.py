"""Pictures that come one after another, such as a camera's: each is encoded and drawn at once, in
this process (Haas 2023, chapter 5: a table whose drawings are answered by a generator)."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import generators
from generators.encoders.load import load_encoder
from generators.protocols import Code
from pipelines.folder.store_identity import check_trained, encoder_uri_of
from schemas.atomic import is_partial, write_bytes
from schemas.errors import UsageError
from schemas.spec import RunSpec
from transforms.images.preprocess import decode, fit, to_float, to_uint8
from transforms.images.quarantine import Quarantine
from transforms.inversion.encoding import encode

WAIT = 0.02
"""Seconds between two looks for new pictures."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a picture led to.

    name : of its file. code : float32 (*shape of the space). image : uint8 (height, width, 3).
    seconds : from the picture's bytes to the drawn one. refused : why there is none; None else.
    """

    name: str
    code: NDArray[np.float32] | None
    image: NDArray[np.uint8] | None
    seconds: float
    refused: str | None = None


class Answering:
    """Encoder and generator of a specification, ready to answer pictures.

    Raises UsageError for a generator whose codes belong to classes, or without an encoder.
    """

    def __init__(self, spec: RunSpec) -> None:
        torch.set_num_threads(spec.invert.threads)
        self.crop, self.max_pixels = spec.invert.crop, spec.invert.max_pixels
        self.noise = spec.invert.noise_mode
        self.generator = generators.load(spec.generator)
        facts = self.generator.facts
        self.space = facts.space(spec.invert.space or facts.default_space)
        if self.space.conditional:
            raise UsageError(
                f"codes of {self.space.name!r} belong to classes, which frames do not tell: set "
                "'invert.space' to a space without"
            )
        uri = encoder_uri_of(spec.generator, spec.encoder_path)
        if uri is None:
            raise UsageError("there is no encoder for the frames: name one under 'encoder'")
        self.encoder = load_encoder(uri, space=self.space.name)
        check_trained(uri, self.encoder.metadata, facts)

    def __call__(self, name: str, data: bytes) -> Answer:
        """The answer to a picture file's bytes."""
        started = time.perf_counter()
        try:
            image = fit(decode(data, self.max_pixels), self.generator.facts.size, self.crop)
        except Quarantine as e:
            told = e.reason.name.lower().replace("_", " ")
            return Answer(name, None, None, time.perf_counter() - started, told)
        with torch.no_grad():
            pixels = torch.from_numpy(to_float(image[None]))
            codes = encode(pixels, self.encoder, self.space.name, self.space.shape)
            drawn = self.generator.draw(Code(self.space.name, codes), noise=self.noise)
        found = to_uint8(drawn.numpy())[0]
        return Answer(name, codes[0].numpy(), found, time.perf_counter() - started)


def new_files(folder: Path, patience: float, clock: Callable[[], float] = time.monotonic,
              wait: Callable[[float], None] = time.sleep) -> Iterator[Path]:  # fmt: skip
    """The files of a folder by name, then those that come, until none has come for `patience`
    seconds. A file is given once it no longer grows; hidden and partial ones are not."""
    given: dict[Path, None] = {}
    sizes: dict[Path, int] = {}
    last = clock()
    while True:
        found = [p for p in sorted(folder.iterdir()) if p not in given and p.is_file()
                 and not p.name.startswith(".") and not is_partial(p)]  # fmt: skip
        for path in found:
            size = path.stat().st_size
            if size and (sizes.get(path) == size or not patience):
                given[path] = None
                yield path
                last = clock()
            sizes[path] = size
        if clock() - last >= patience:
            return
        wait(WAIT)


def answer_frames(
    answering: Callable[[str, bytes], Answer],
    frames: Iterable[Path],
    out: Path,
    tell: Callable[[Answer], None],
) -> list[float]:
    """Write ``<name>.png`` and ``<name>.npy`` (the code) of every frame; returns the seconds."""
    out.mkdir(parents=True, exist_ok=True)
    seconds = []
    for path in frames:
        answer = answering(path.name, path.read_bytes())
        if answer.image is not None and answer.code is not None:
            write_bytes(out / f"{path.name}.png", _png(answer.image))
            np.save(out / f"{path.name}.npy", answer.code, allow_pickle=False)
            seconds.append(answer.seconds)
        tell(answer)
    return seconds


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def told_latency(seconds: list[float]) -> str:
    """ "120 frames, 12.3 ms each in the middle, 20.1 ms at the 95 % quantile"; the first frame,
    before which nothing is warm, is left out where there are others."""
    counted = seconds[1:] if len(seconds) > 1 else seconds
    middle, late = np.quantile(counted, [0.5, 0.95]) * 1e3 if counted else (np.nan, np.nan)
    return (
        f"{len(seconds)} frames, {middle:.1f} ms each in the middle, {late:.1f} ms at the 95 % "
        "quantile"
    )
