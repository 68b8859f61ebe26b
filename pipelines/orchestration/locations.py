"""Where a run's inputs lie, and what a look at their directory entries says.

A look costs one ``stat`` a file and reads no file. It tells whether anything may have changed;
whether it did, the fingerprints tell.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import generators
from generators.annotators.card import files_of, resolve_uri
from generators.encoders.files import encoder_files
from pipelines.folder.store_identity import encoder_uri_of
from schemas.errors import CheckpointError
from schemas.sections.types import BUNDLED
from schemas.spec import RunSpec

MISSING = "missing"


def locations(spec: RunSpec) -> dict[str, list[Path]]:
    """Files and folders of every input: "dataset", "generator", "encoder", "annotate/<model>".

    A model that is not there yet is watched at the path that names it.
    """
    dataset = [] if spec.dataset.path is None else [Path(spec.dataset.path)]
    if spec.dataset.factors is not None:
        dataset.append(Path(spec.dataset.factors))
    found = {"dataset": dataset, "generator": generators.files(spec.generator)}
    encoder = encoder_uri_of(spec.generator, spec.encoder_path)
    if spec.invert.needs.encoder and not spec.dataset.sampled and encoder is not None:
        found["encoder"] = _encoder(encoder)
    if spec.invert.compared_by is not None and not spec.dataset.sampled:
        by = spec.invert.compared_by
        own = [path for path in (by.network, by.linear) if path and not path.startswith(BUNDLED)]
        found |= {"perceptual": [Path(path) for path in own]} if own else {}
    for model in spec.annotate:
        found[f"annotate/{model.name}"] = _annotator(model.model)
    return found


def _encoder(uri: str) -> list[Path]:
    try:
        return encoder_files(uri)
    except CheckpointError:
        return [Path(uri), Path(uri).with_suffix(".json")]


def _annotator(uri: str) -> list[Path]:
    try:
        return files_of(uri)
    except CheckpointError:  # one of its files is not there yet
        return _with_description(resolve_uri, uri)


def _with_description(resolve, uri: str) -> list[Path]:  # type: ignore[no-untyped-def]
    try:
        path = resolve(uri)
    except CheckpointError:
        path = Path(uri)
    return [path, path.with_suffix(".json")]


def look(spec: RunSpec) -> dict[str, str]:
    """For every input a digest over (path, size, mtime_ns) of its files, or "missing"."""
    return {name: _look(paths) for name, paths in locations(spec).items()}


def _look(paths: list[Path]) -> str:
    hasher, n = hashlib.sha256(), 0
    for path in paths:
        for name, stat in _files(path):
            n += 1
            hasher.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return hasher.hexdigest() if n else MISSING


def _files(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Name and entry of a file, or of all files below a folder in order of their names."""
    try:
        stat = path.stat()
    except OSError:
        return
    if not path.is_dir():
        yield os.fspath(path), stat
        return
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            file = os.path.join(folder, name)
            try:
                yield file, os.stat(file)
            except OSError:  # gone since it was listed, or a link to nothing
                continue
