"""Recognisers of other projects' direction files, one a format: contents to named vectors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import InputError

EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
"""Order of tensorgan's list: AN, DI, FE, HA, SA, SU."""
MAX_LAYERS = 1 << 10
SPACE_AXES = {"z": 1, "w": 1, "w_plus": 2}
"""Axes of a GAN's codes by space."""
_PLACES = ("mean", "centre", "center", "w_avg", "latent_avg", "std", "sd")
_NUMBERS = ("bias", "intercept", "intercept_")
_SPACES = {"z": "z", "w": "w", "wp": "w_plus", "w+": "w_plus", "w_plus": "w_plus"}
_VECTOR_KEYS = ("boundary", "direction", "vector", "normal", "coef_", "coef", "weight")


@dataclass(frozen=True)
class Entry:
    """One vector of a file.

    name : any text, "" where the file has none. sd : length in the space of the peer's own unit of
    strength, None where it has none. layers : that the file applies it to, None for all.
    space, generator_fp : what the file says that it is for, None where it does not.
    """

    name: str
    vector: np.ndarray
    sd: float | None = None
    layers: list[int] | None = None
    quality: dict[str, Any] = field(default_factory=dict)
    space: str | None = None
    generator_fp: str | None = None


def _is(value: Any, *ndims: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim in ndims


def _is_vector(value: Any) -> bool:
    """Numbers that could be a direction, with or without layers and axes of length 1."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and 1 <= value.ndim <= 4


def _lone(value: np.ndarray) -> np.ndarray:
    """A vector without leading axes of length 1."""
    while value.ndim > 1 and len(value) == 1:
        value = value[0]
    return value


def _has(value: Any, **ndims: int) -> bool:
    return isinstance(value, dict) and all(_is(value.get(k), n) for k, n in ndims.items())


def _one_vector(value: Any, path: Path) -> list[Entry] | None:
    return [Entry("", _lone(value))] if _is_vector(value) else None


def _layer_list(value: Any, path: Path) -> list[int] | None:
    """Layers as numbers, flags, or text like "0-3,5"; nothing, an empty text or "all" means all.

    0 and 1 that occur again are flags, too. Raises InputError for anything else.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if value is None or value in ("", "all", [], ()):
        return None
    if isinstance(value, str):
        parts = [part.strip().partition("-") for part in value.split(",")]
        if all(n.strip().isdecimal() for first, _, last in parts for n in (first, last or first)):
            ranges = [range(int(first), int(last or first) + 1) for first, _, last in parts]
            if all(layers.stop <= MAX_LAYERS for layers in ranges):
                return sorted({layer for layers in ranges for layer in layers})
    numbers = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    if not all(isinstance(n, int | float) and float(n).is_integer() for n in numbers):
        raise InputError(
            f"{str(path)!r} names layers {value!r}: give numbers, or a text such as '0-3,5'"
        )
    repeated = len(set(numbers)) < len(numbers) and set(numbers) <= {0, 1}
    if repeated or all(isinstance(n, bool) for n in numbers):
        return [layer for layer, flag in enumerate(numbers) if flag]
    return sorted({int(n) for n in numbers})


def _space_of(text: Any) -> str | None:
    """A peer's name of a space as ours, None for others."""
    return _SPACES.get(text.lower()) if isinstance(text, str) else None


def _boundary(value: Any, path: Path) -> list[Entry] | None:
    """idinvert's and HiGAN's dict, and others of one vector: boundary, and layers beside it."""
    if not isinstance(value, dict):
        return None
    keys = [key for key in _VECTOR_KEYS if _is_vector(value.get(key))]
    if len(keys) != 1:
        return None
    vector = value[keys[0]]
    others = [v for key, v in value.items() if key not in (keys[0], *_PLACES) and _is_vector(v)]
    if any(v.size == vector.size for v in others):
        return None
    meta = value.get("meta_data")
    facts = {**value, **meta} if isinstance(meta, dict) else value
    layers = _layer_list(facts.get("manipulate_layers", facts.get("layers")), path)
    space = _space_of(facts.get("space", facts.get("latent_space")))
    scalars = {key: np.asarray(value[key]) for key in _NUMBERS if key in value}
    numbers = {
        key: v.item()
        for key, v in scalars.items()
        if v.size == 1 and v.dtype.kind in "fiu" and np.isfinite(v).all()
    }
    return [Entry("", _lone(vector), layers=layers, space=space, quality=numbers)]


def _latentflow(value: Any, path: Path) -> list[Entry] | None:
    """Our own export of directions: vectors by name, and what they are as JSON."""
    if not isinstance(value, dict):
        return None
    vectors = {name: v for name, v in value.items() if not isinstance(v, str) and name != "facts"}
    try:
        facts = json.loads(str(value["facts"]))
        entries = []
        for name, vector in vectors.items():
            own = facts[name]
            quality = {"method": own["method"], "target": own["target"]}
            kept = (own["sd"], own["layers"], quality, own["space"], own["generator_fp"])
            entries.append(Entry(name, vector, *kept))
    except (ValueError, KeyError, TypeError):
        return None
    return entries if entries and all(map(_is_vector, vectors.values())) else None


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
    if not 0 <= first <= end <= MAX_LAYERS:
        raise ValueError(f"'edit_start' is {first!r}, 'edit_end' {end!r}")
    kept = ("component_index", "latent_space", "model_name", "output_class", "truncation")
    quality = {k: value[k] for k in kept if isinstance(value.get(k), str | int | float)}
    name, sd = str(value.get("name", "")), float(np.asarray(value["lat_stdev"]))
    layers, space = list(range(first, end)) or None, _space_of(value.get("latent_space"))
    return [Entry(name, value["lat_comp"][0], sd, layers, quality, space)]


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
    return [Entry(name, vector[0]) for name, vector in value.items()]


def _named(value: Any, path: Path) -> list[Entry] | None:
    """Vectors by name, in any of a vector's shapes; single numbers and texts beside them stay."""
    if not isinstance(value, dict):
        return None
    arrays = {str(k): v for k, v in value.items() if isinstance(v, np.ndarray) and v.ndim}
    inside = [v for v in value.values() if isinstance(v, dict | list | tuple)]
    if inside or not arrays or not all(map(_is_vector, arrays.values())):
        return None
    return [Entry(name, _lone(vector)) for name, vector in arrays.items()]


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
    "latentflow": _latentflow,
    "ganspace_direction": _ganspace_direction,
    "ganspace": _ganspace,
    "ganspace_pca": _ganspace_pca,
    "sefa": _sefa,
    "idinvert": _boundary,
    "h_pca": _h_pca,
    "asyrp": _asyrp,
    "anycost": _anycost,
    "tensorgan": _tensorgan,
    "h_jacobian": _h_jacobian,
    "named": _named,
    "vector": _one_vector,
}
"""Recognisers by format, the most specific first; a lone vector is interfacegan's or e4e's."""
DIFFUSION = ("h_pca", "asyrp", "h_jacobian")
"""Formats that codes of a GAN never have, though a dict of theirs may look so."""


def recognise(value: Any, path: Path, space: str) -> tuple[str, list[Entry]]:
    """Name of the first format that the contents have, and the vectors in them.

    Raises InputError for contents that no format has.
    """
    inner = value
    while True:
        for file_format, entries_of in FORMATS.items():
            if file_format in DIFFUSION and space in SPACE_AXES:
                continue
            try:
                entries = entries_of(inner, path)
            except (KeyError, TypeError, ValueError, OverflowError) as e:
                raise InputError(
                    f"{str(path)!r} has the layout {file_format!r}, but cannot be read as one "
                    f"({e!r}): save its vectors alone, in a .npy or .npz"
                ) from e
            if entries is not None:
                return file_format, entries
        if not isinstance(inner, dict | list | tuple) or len(inner) != 1:
            break
        inner = next(iter(inner.values() if isinstance(inner, dict) else inner))
    raise InputError(
        f"{str(path)!r} holds {_shown(value)}, which is none of the known layouts "
        f"{sorted(FORMATS)!r}: save real numbers of shape (dim,) or (layers, dim), alone in a "
        ".npy or .pt, or several by name in a .npz"
    )


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        kind = "text" if value.dtype.kind in "US" else value.dtype.name
        return f"{kind} {value.shape!r}"
    if isinstance(value, dict):
        parts = [f"{str(k)[:40]!r}: {_shown(v)}" for k, v in list(value.items())[:8]]
        more = ", ..." if len(value) > 8 else ""
        return f"a dict of {', '.join(parts) or 'nothing'}{more}"
    if isinstance(value, list | tuple) and value:
        return f"a {type(value).__name__} of {len(value)!r}, the first {_shown(value[0])}"
    return f"a {type(value).__name__}"
