"""Directions in other projects' files: read any of them, write any of them.

| format | file | contents |
|---|---|---|
| interfacegan | .npy | float (1, dim), unit; also LowRankGAN, stylegan3-editing |
| idinvert | .npy | dict: boundary (1, L, dim), meta_data: manipulate_layers |
| e4e | .pt | tensor (1, dim) or (1, L, dim), as also PTI and stylegan2 editors use |
| anycost | .pt | dict: name -> (1, dim) |
| ganspace | .npz | lat_comp (k, 1, dim), lat_stdev, var_ratio, ... |
| ganspace_direction | .pkl | dict: lat_comp, lat_stdev, edit_start, edit_end (exclusive), ... |
| ganspace_pca | .pt | dict: comp (k, 1, dim), mean (1, dim), std (k,); rows not unit |
| sefa | .pt | dict: ckpt, eigvec (dim, n), one direction a column |
| tensorgan | .pt | list: six expressions (L dim,), and rotation (L dim,) |
| h_pca | .pt | dict: all, indv -> (components, singular values, scaled components) |
| h_jacobian | .pt | list: singular values (k, steps), vectors (k, steps, c, h, w) |
| asyrp | .pth | dict: time step -> delta of h (c, h, w) |

A file says neither its generator nor, mostly, its space: both are the caller's claim, kept as such.
Files are recognised by their contents. Nothing in them is executed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from generators.foreign_files import read_foreign
from schemas.direction import Direction, unit_direction
from schemas.errors import DirectionMismatchError, InputError, UsageError
from schemas.fingerprint import file_sha256

EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
"""Order of tensorgan's list: AN, DI, FE, HA, SA, SU."""


@dataclass(frozen=True)
class Entry:
    """One vector of a file.

    name : "" for the file's own name. sd : length in the space of the peer's own unit of strength,
    None where it has none. layers : that the file applies it to, None for all.
    """

    name: str
    vector: np.ndarray
    sd: float | None = None
    layers: list[int] | None = None
    quality: dict[str, Any] = field(default_factory=dict)


def _is(value: Any, *ndims: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim in ndims


def _has(value: Any, **ndims: int) -> bool:
    return isinstance(value, dict) and all(_is(value.get(k), n) for k, n in ndims.items())


def _one_vector(value: Any, path: Path) -> list[Entry] | None:
    if not _is(value, 1, 2, 3):
        return None
    if value.ndim > 1:
        if len(value) != 1:
            return None
        value = value[0]
    return [Entry("", value)]


def _layer_list(value: Any) -> list[int] | None:
    """Layers as numbers, or as text like "0-3,5"; nothing, or an empty text, means all."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if value is None or value == "" or value == []:
        return None
    if isinstance(value, int):
        return [value]
    if isinstance(value, list | tuple | set):
        return sorted(int(v) for v in value)
    layers: list[int] = []
    for part in str(value).split(","):
        first, _, last = part.strip().partition("-")
        layers += range(int(first), int(last or first) + 1)
    return layers


def _idinvert(value: Any, path: Path) -> list[Entry] | None:
    if not _has(value, boundary=3) or len(value["boundary"]) != 1:
        return None
    meta = value.get("meta_data")
    layers = meta.get("manipulate_layers") if isinstance(meta, dict) else None
    return [Entry("", value["boundary"][0], layers=_layer_list(layers))]


def _ganspace(value: Any, path: Path) -> list[Entry] | None:
    if not _has(value, lat_comp=3, lat_stdev=1, var_ratio=1):
        return None
    components, deviations, ratios = (value[k] for k in ("lat_comp", "lat_stdev", "var_ratio"))
    if components.shape[1] != 1 or not len(components) == len(deviations) == len(ratios):
        return None
    known = [{"explained_variance_ratio": float(r)} if np.isfinite(r) else {} for r in ratios]
    parts = zip(components, deviations, known, strict=True)
    return [Entry(f"pc{i:03d}", v[0], float(s), quality=q) for i, (v, s, q) in enumerate(parts)]


def _ganspace_direction(value: Any, path: Path) -> list[Entry] | None:
    if not _has(value, lat_comp=2) or "edit_end" not in value or len(value["lat_comp"]) != 1:
        return None
    first, end = int(value["edit_start"]), int(value["edit_end"])
    kept = ("component_index", "latent_space", "model_name", "output_class", "truncation")
    quality = {k: value[k] for k in kept if isinstance(value.get(k), str | int | float)}
    name, sd = _safe_name(str(value.get("name", ""))), float(np.asarray(value["lat_stdev"]))
    layers = list(range(first, end)) or None
    return [Entry(name, value["lat_comp"][0], sd, layers, quality)]


def _ganspace_pca(value: Any, path: Path) -> list[Entry] | None:
    if not _has(value, comp=3, mean=2, std=1) or len(value["comp"]) != len(value["std"]):
        return None
    entries = []
    for i, (row, std) in enumerate(zip(value["comp"], value["std"], strict=True)):
        norm = float(np.linalg.norm(row))
        # The peer moves by strength * std * comp, with comp not of unit length.
        entries.append(Entry(f"pc{i:03d}", row[0], float(std) * norm, quality={"norm": norm}))
    return entries


def _sefa(value: Any, path: Path) -> list[Entry] | None:
    if not _has(value, eigvec=2):
        return None
    return [Entry(f"sefa{i:03d}", column) for i, column in enumerate(value["eigvec"].T)]


def _anycost(value: Any, path: Path) -> list[Entry] | None:
    if not isinstance(value, dict) or not value:
        return None
    if not all(isinstance(k, str) and _is(v, 2) and len(v) == 1 for k, v in value.items()):
        return None
    return [Entry(_safe_name(name), vector[0]) for name, vector in value.items()]


def _asyrp(value: Any, path: Path) -> list[Entry] | None:
    if not isinstance(value, dict) or not value or not all(_is(v, 3, 4) for v in value.values()):
        return None
    if not all(re.fullmatch(r"\d+", str(step)) for step in value):
        return None
    steps = sorted((int(step) for step in value), reverse=True)
    by_step = {int(step): vector for step, vector in value.items()}
    stack = np.stack([by_step[step].reshape(by_step[step].shape[-3:]) for step in steps])
    norm = float(np.linalg.norm(stack.astype(np.float64)))
    return [Entry("", stack, norm, quality={"timesteps": steps})]


def _tensorgan(value: Any, path: Path) -> list[Entry] | None:
    if not isinstance(value, list | tuple) or len(value) != 2 or not _is(value[1], 1):
        return None
    if not isinstance(value[0], list | tuple) or not all(_is(v, 1) for v in value[0]):
        return None
    if len(value[0]) != len(EXPRESSIONS):
        return None
    named = [*zip(EXPRESSIONS, value[0], strict=True), ("rotation", value[1])]
    return [Entry(n, v, float(np.linalg.norm(v.astype(np.float64)))) for n, v in named]


def _h_pca(value: Any, path: Path) -> list[Entry] | None:
    if not isinstance(value, dict) or set(value) != {"all", "indv"}:
        return None
    if not all(isinstance(v, list | tuple) and len(v) == 3 for v in value.values()):
        return None
    samples = re.search(r"samples-(\d+)", path.name)
    entries = []
    for label, prefix in (("all", "pc"), ("indv", "step-pc")):
        # The third entry is scaled by the singular values, sqrt(n - 1) deviations, of each step.
        for i, vector in enumerate(value[label][2]):
            norm = float(np.linalg.norm(vector.astype(np.float64)))
            sd = norm / np.sqrt(int(samples[1]) - 1) if samples and int(samples[1]) > 1 else None
            entries.append(Entry(f"{prefix}{i:03d}", vector, sd))
    return entries


def _h_jacobian(value: Any, path: Path) -> list[Entry] | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    values, vectors = value
    if not _is(values, 2) or not _is(vectors, 5) or vectors.shape[:2] != values.shape:
        return None
    scaled = vectors * values[:, :, None, None, None]
    norms = np.linalg.norm(scaled.reshape(len(scaled), -1).astype(np.float64), axis=1)
    return [
        Entry(f"jacobian{i:03d}", v, float(n), quality={"singular_values": s.tolist()})
        for i, (v, n, s) in enumerate(zip(scaled, norms, values, strict=True))
    ]


FORMATS: dict[str, Callable[[Any, Path], list[Entry] | None]] = {
    "ganspace_direction": _ganspace_direction,
    "ganspace": _ganspace,
    "ganspace_pca": _ganspace_pca,
    "sefa": _sefa,
    "idinvert": _idinvert,
    "h_pca": _h_pca,
    "asyrp": _asyrp,
    "anycost": _anycost,
    "tensorgan": _tensorgan,
    "h_jacobian": _h_jacobian,
    "vector": _one_vector,
}
"""Recognisers by format, the most specific first; a lone vector is interfacegan's or e4e's."""


def _safe_name(text: str) -> str:
    """A direction's name from a peer's."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._-")


def read_directions(
    path: str | os.PathLike[str],
    *,
    space: str,
    generator_fp: str,
    codes: np.ndarray | None = None,
    sd: float | None = None,
    row_shape: Sequence[int] | None = None,
    name: str | None = None,
) -> list[Direction]:
    """The directions in a file of any format of the table above.

    space, generator_fp : what they are for, a claim of the caller.
    codes : (n, *row_shape), codes of that generator in that space, on which sd is measured.
    sd : of every direction, instead. Without either it is the peer's own unit of strength, where
        the file has one.
    row_shape : of the space, by default that of the codes or of the file's vectors. A vector
        (dim,) for a space (L, dim) is used in every layer, or in those that the file names; a flat
        one of L dim values is folded.
    name : of a single direction, or the prefix of several ("<name>.<name in the file>"). By
        default a lone vector has its file's name.

    Raises InputError for files of another kind, UsageError where sd cannot be known,
    DirectionMismatchError for vectors that do not fit the space.
    """
    path = Path(path)
    value = read_foreign(path)
    file_format, entries = _recognised(value, path)
    if codes is not None:
        row_shape = np.shape(codes)[1:]
    claim = {
        "generator_fp": generator_fp,
        "claimed": True,
        "format": file_format,
        "source": path.name,
        "source_sha256": file_sha256(path),
    }
    own = _safe_name(path.stem.removesuffix("_boundary"))
    found = []
    for i, entry in enumerate(entries):
        if sd is not None:
            entry = replace(entry, sd=sd)
        label = entry.name or own
        if name is not None:
            label = name if len(entries) == 1 else f"{name}.{label}"
        direction = _direction(entry, label, space, codes, row_shape, {**claim, "component": i})
        found.append(direction if sd is None else replace(direction, sd=sd))
    return found


def _recognised(value: Any, path: Path) -> tuple[str, list[Entry]]:
    """Name of the first format that the contents have, and the vectors in them."""
    for file_format, recognise in FORMATS.items():
        entries = recognise(value, path)
        if entries is not None:
            return file_format, entries
    raise InputError(
        f"{str(path)!r} holds {_shown(value)}, which is none of the known layouts "
        f"{sorted(FORMATS)!r}: convert it to a .npy of shape (1, dim)"
    )


def _direction(
    entry: Entry,
    label: str,
    space: str,
    codes: np.ndarray | None,
    row_shape: Sequence[int] | None,
    claim: dict[str, Any],
) -> Direction:
    vector, sd, layers = np.asarray(entry.vector, np.float64), entry.sd, entry.layers
    shape = vector.shape if row_shape is None else tuple(row_shape)
    if vector.shape != shape and vector.size == int(np.prod(shape)):
        vector = vector.reshape(shape)
    elif vector.ndim == 1 and len(shape) == 2 and shape[1] == vector.size:
        inside = list(range(shape[0])) if layers is None else [n for n in layers if n < shape[0]]
        wide = np.zeros(shape)
        wide[inside] = vector
        vector, claim = wide, {**claim, "broadcast_from": "w"}
        sd = None if sd is None else sd * np.sqrt(len(inside))
    if vector.shape != shape:
        raise DirectionMismatchError(
            f"direction {label!r} of {claim['source']!r} has shape {vector.shape!r}, space "
            f"{space!r} has {shape!r}: name the space that it was made for"
        )
    if layers is not None and vector.ndim == 2:
        layers = [n for n in layers if n < len(vector)]
    else:
        layers = None
    if layers is not None and len(layers) == len(vector):
        layers = None
    if codes is None and sd is None:
        raise UsageError(
            f"{claim['source']!r} does not say how strong an edit along {label!r} is: give codes "
            "of the generator to measure the standard deviation on"
        )
    return unit_direction(
        label,
        space,
        vector,
        method="imported",
        sd=sd if codes is None else None,
        codes=codes,
        layers=layers,
        quality=entry.quality,
        provenance=claim,
    )


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name} {value.shape!r}"
    if isinstance(value, dict):
        return f"a dict of {[str(k)[:40] for k in list(value)[:8]]!r}"
    return f"a {type(value).__name__}"
