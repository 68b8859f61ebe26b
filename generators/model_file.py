"""StyleGAN2 checkpoint files to our architecture and tensor names, without torch.

Read: official NVlabs pickles (StyleGAN2-ADA, and StyleGAN2 networks of the StyleGAN3 code), torch
files that hold such a network or its state dict, under any prefix, rosinality's ``.pt``, and
safetensors files, whole or split: our own with its JSON, or a state dict alone. The same model has
the same fingerprint whatever file it came from. Nothing in a file is executed
(`generators.unpickle.interpreter`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from generators.families.stylegan2.config import StyleGAN2Config
from generators.families.stylegan2.official_modules import STYLEGAN3, read_modules
from generators.families.stylegan2.official_writer import write_official_pickle
from generators.families.stylegan2.rosinality import check_filter, from_rosinality
from generators.families.stylegan2.state_dicts import Candidate, array_of, arrays_of, find_generator
from generators.file_kinds import missing, said_of
from generators.tensor_files import (
    is_tensor_file,
    parts_of,
    read_tensors,
    safetensors_bytes,
    stem_of,
)
from generators.unpickle.interpreter import Inert, Limits
from generators.unpickle.tensorflow_pickles import refuse_tensorflow
from generators.unpickle.torch_files import read_any
from schemas.atomic import write_bytes, write_json
from schemas.errors import CheckpointError, NewerLayoutError, UsageError
from schemas.fingerprint import tensors_fingerprint

__all__ = [
    "Checkpoint",
    "files_of",
    "read_checkpoint",
    "write_checkpoint",
    "write_official_pickle",
]

FORMAT = "latentflow-generator"
LAYOUT_VERSION = 1
W_AVG_ESTIMATE: Mapping[str, int] = {"n": 10_000, "seed": 0}
MAX_JSON_BYTES = 1 << 20

#: Settings that change images and that tensors do not show, with the values that are assumed where
#: a file does not state them; a specification may give them.
ASSUMED: Mapping[str, float | None] = {"lr_multiplier": 0.01, "conv_clamp": None}
#: Channels of a picture that can be drawn: grey and RGB.
CHANNELS = (1, 3)


@dataclass(frozen=True)
class Checkpoint:
    """A generator as read: canonical architecture and float32 tensors under the official names.

    w_avg_estimated : the file it first came from had no w_avg. "mapping.w_avg" is then missing
        from `tensors`, or holds an estimate.
    metadata : facts about the file that enter no fingerprint; of them "assumed" holds the settings
        that no file stated, see `ASSUMED`.
    """

    architecture: dict[str, Any]
    tensors: dict[str, np.ndarray]
    w_avg_estimated: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def assumed(self) -> dict[str, float | None]:
        """Settings that no file stated, with the values that are used."""
        return dict(self.metadata.get("assumed", {}))

    @cached_property
    def fingerprint(self) -> str:
        """Generator fingerprint, 64 hex digits (DESIGN section 2).

        An estimated w_avg follows from the other tensors, but only up to rounding, so it is left
        out and the estimate's parameters enter in its place.
        """
        if not self.w_avg_estimated:
            return tensors_fingerprint(self.architecture, self.tensors)
        tensors = {name: value for name, value in self.tensors.items() if name != "mapping.w_avg"}
        architecture = {**self.architecture, "w_avg_estimated": dict(W_AVG_ESTIMATE)}
        return tensors_fingerprint(architecture, tensors)


def read_checkpoint(
    path: str | Path,
    limits: Limits | None = None,
    settings: Mapping[str, float | None] | None = None,
) -> Checkpoint:
    """Read a generator file; the kind of file is recognised by its contents.

    path : ``.pkl``, ``.pt``, ``.pth``, ``.ckpt``, ``.safetensors`` (with our ``.json`` of the same
        name beside it, or alone) or ``.safetensors.index.json``.
    settings : values of `ASSUMED` settings that the file does not state.

    Raises CheckpointError when the file is missing, damaged, or holds something else than a
    StyleGAN2 generator of the skip architecture, or states another value of a setting;
    UnsafeCheckpointError when it tries to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(missing(path, "generator file"))
    try:
        if is_tensor_file(path):
            checkpoint = _read_safetensors(path)
        else:
            checkpoint = _from_contents(read_any(path, limits))
        return _with_settings(checkpoint, settings or {})
    except CheckpointError as e:
        raise type(e)(said_of(path, str(e))) from e
    except (OSError, RecursionError) as e:
        raise CheckpointError(f"{str(path)!r} cannot be read: {e}") from e


def files_of(path: Path) -> list[Path]:
    """Every file that decides what the generator at `path` is; those that exist.

    A file that cannot be read stands for itself.
    """
    files = [path]
    try:
        if path.is_file() and is_tensor_file(path):
            files += [*parts_of(path), _description_of(path)]
    except CheckpointError:
        pass
    return [file for file in dict.fromkeys(files) if file.is_file()]


def mapping_rate(checkpoint: Checkpoint) -> float:
    """The mapping's rate by the scale of its weights, which begin with deviation 1 / rate."""
    tensors = checkpoint.tensors
    weights = [v for k, v in tensors.items() if k.startswith("mapping.fc") and v.ndim == 2]
    return float(1.0 / max(np.sqrt(np.mean([np.square(w).mean() for w in weights])), 1e-30))


def assumptions(checkpoint: Checkpoint) -> dict[str, str]:
    """What is to be told of each setting that no file stated, by name."""
    told = {}
    for name, value in checkpoint.assumed.items():
        shown = "none" if value is None else repr(value)
        text = f"{shown} is assumed, the file does not state it: set 'generator.{name}'"
        rate = mapping_rate(checkpoint)
        if name == "lr_multiplier" and value and not 1 / 3 < rate / value < 3:
            text += f"; the scale of the mapping's weights suggests about {rate:.1g}"
        told[name] = text
    return told


def _with_settings(checkpoint: Checkpoint, settings: Mapping[str, float | None]) -> Checkpoint:
    """The checkpoint with settings that its file does not state."""
    assumed = checkpoint.assumed
    for name, value in settings.items():
        stated = checkpoint.architecture.get(name)
        if name not in assumed and stated != value:
            raise CheckpointError(
                f"'generator.{name}' is {value!r}, but the file states {stated!r}: remove the key"
            )
    architecture = {**checkpoint.architecture, **settings}
    left = {name: value for name, value in assumed.items() if name not in settings}
    metadata = {k: v for k, v in checkpoint.metadata.items() if k != "assumed"}
    if left:
        metadata["assumed"] = left
    return replace(checkpoint, architecture=architecture, metadata=metadata)


# --- our own format -------------------------------------------------------------------------


def _description_of(path: Path) -> Path:
    """The JSON file that belongs to a safetensors file or to an index of such files."""
    return path.with_name(f"{stem_of(path)}.json")


def _read_json(beside: Path) -> dict[str, Any]:
    """The description of a generator, checked."""
    try:
        if beside.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{beside.name!r} has more than {MAX_JSON_BYTES} bytes")
        facts = json.loads(beside.read_bytes())
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{beside.name!r} is not JSON ({e}): write it again") from e
    if isinstance(facts, dict) and facts.get("kind") == "encoder":
        raise CheckpointError(
            f"{beside.name!r} beside it describes an encoder: name it under 'encoder', and a "
            "generator under 'generator'"
        )
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise CheckpointError(
            f"{beside.name!r} beside it does not describe a generator ({FORMAT!r}): give the file "
            "another name to read its tensors alone"
        )
    version = facts.get("layout_version")
    if not isinstance(version, int) or version > LAYOUT_VERSION:
        raise NewerLayoutError(
            f"{beside.name!r} has layout version {version!r}, this release reads up to "
            f"{LAYOUT_VERSION}: upgrade to read it"
        )
    if not isinstance(facts.get("architecture"), dict):
        raise CheckpointError(f"{beside.name!r} lacks 'architecture': copy both files again")
    return facts


def write_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write ``<path>`` (.safetensors) and the ``.json`` beside it, each replaced atomically.

    Raises UsageError for another suffix.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UsageError(f"path {str(path)!r} does not end in '.safetensors': rename it")
    tensors = {name: value.astype("<f4") for name, value in checkpoint.tensors.items()}
    write_bytes(path, safetensors_bytes(tensors))
    write_json(
        path.with_suffix(".json"),
        {
            "format": FORMAT,
            "layout_version": LAYOUT_VERSION,
            "architecture": checkpoint.architecture,
            "fingerprint": checkpoint.fingerprint,
            "w_avg_estimated": checkpoint.w_avg_estimated,
            "metadata": checkpoint.metadata,
        },
    )


def _read_safetensors(path: Path) -> Checkpoint:
    tensors = read_tensors(path)
    beside = _description_of(path)
    if not beside.exists():
        found = find_generator(tensors)
        return _from_tensors(arrays_of(found), found)
    facts = _read_json(beside)
    try:
        config = StyleGAN2Config.from_architecture(facts["architecture"])
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"'architecture' is not that of a StyleGAN2: {e}") from e
    estimated = bool(facts.get("w_avg_estimated", False))
    checkpoint = _checked(config, tensors, estimated, _noted(facts))
    recorded = facts.get("fingerprint") or checkpoint.fingerprint
    if checkpoint.fingerprint != recorded:
        raise CheckpointError(
            f"tensors have fingerprint {checkpoint.fingerprint!r}, {beside.name!r} says "
            f"{recorded!r}: the files do not belong together; copy all of them again, or, where "
            f"they were changed on purpose, take 'fingerprint' out of {beside.name!r}"
        )
    return checkpoint


def _noted(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a description; of "assumed" the settings that there are."""
    metadata = facts.get("metadata")
    noted = dict(metadata) if isinstance(metadata, dict) else {}
    assumed = noted.pop("assumed", None)
    if isinstance(assumed, dict) and assumed:
        noted["assumed"] = {k: facts["architecture"].get(k) for k in ASSUMED if k in assumed}
    return noted


# --- foreign formats ------------------------------------------------------------------------


def _from_contents(contents: Any) -> Checkpoint:
    """Recognise what a pickle or torch file holds."""
    refuse_tensorflow(contents)
    found = find_generator(contents)
    if not isinstance(found.state, Inert):
        return _from_tensors(arrays_of(found), found)
    records, settings = read_modules(found.state)
    tensors = {name: record.array(name) for name, record in records.items()}
    facts = {"source": "official", "class_name": settings.class_name}
    return _finish(tensors, settings.agreed(), _located(facts, found))


def _from_tensors(tensors: dict[str, np.ndarray], found: Candidate) -> Checkpoint:
    """From a state dict: official names, or rosinality's."""
    if "input.input" not in tensors:
        return _finish(tensors, {}, _located({"source": "official"}, found))
    mean = found.latent_avg
    average = None if mean is None else array_of(mean, "latent_avg")
    converted, facts = from_rosinality(tensors, average)
    return _finish(converted, {}, _located({"source": "rosinality", **facts}, found))


def _located(facts: dict[str, Any], found: Candidate) -> dict[str, Any]:
    return {**facts, "entry": found.where} if found.where else facts


# --- common ---------------------------------------------------------------------------------


def _finish(
    tensors: dict[str, np.ndarray], said: Mapping[str, float | None], metadata: dict[str, Any]
) -> Checkpoint:
    """Infer the configuration from the tensors' shapes and check every one of them.

    said : settings that the file states; the others are assumed, and noted in the metadata.
    """
    if any(name.startswith("synthesis.input.") for name in tensors):
        raise CheckpointError(STYLEGAN3)
    for name in [name for name in tensors if name.endswith("resample_filter")]:
        check_filter(name, tensors.pop(name), total=1.0)
    if any(".skip." in name for name in tensors):
        raise CheckpointError(
            "synthesis architecture is 'resnet', only 'skip' is implemented: use a generator "
            "trained with the default architecture"
        )
    assumed = {name: value for name, value in ASSUMED.items() if name not in said}
    config = _infer_config(tensors, {**assumed, **said})
    if assumed:
        metadata = {**metadata, "assumed": assumed}
    return _checked(config, tensors, "mapping.w_avg" not in tensors, metadata)


def _shape(tensors: Mapping[str, np.ndarray], name: str, ndim: int) -> tuple[int, ...]:
    if name not in tensors or tensors[name].ndim != ndim:
        found = tensors[name].shape if name in tensors else "missing"
        raise CheckpointError(
            f"tensor {name!r} is {found!r}, expected {ndim} axes: not a StyleGAN2 generator of the "
            "skip architecture"
        )
    return tuple(tensors[name].shape)


def _infer_config(
    tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> StyleGAN2Config:
    resolution = 4
    while f"synthesis.b{resolution * 2}.conv0.weight" in tensors:
        resolution *= 2
    num_layers = 0
    while f"mapping.fc{num_layers}.weight" in tensors:
        num_layers += 1
    channels = []
    for r in (2**i for i in range(2, resolution.bit_length())):
        channels.append(_shape(tensors, f"synthesis.b{r}.conv1.weight", 4)[0])
    w_dim = _shape(tensors, "synthesis.b4.conv1.affine.weight", 2)[1]
    hidden, width = _shape(tensors, "mapping.fc0.weight", 2)
    embed, c_dim = 0, 0
    if "mapping.embed.weight" in tensors:
        embed, c_dim = _shape(tensors, "mapping.embed.weight", 2)
    try:
        return StyleGAN2Config(
            z_dim=width - embed,
            c_dim=c_dim,
            w_dim=w_dim,
            img_resolution=resolution,
            img_channels=_shape(tensors, "synthesis.b4.torgb.weight", 4)[0],
            channels=tuple(channels),
            num_mapping_layers=num_layers,
            mapping_features=hidden if num_layers > 1 else None,
            embed_features=embed or None,
            lr_multiplier=settings["lr_multiplier"],
            conv_clamp=settings["conv_clamp"],
        )
    except ValueError as e:
        raise CheckpointError(f"tensor shapes describe no StyleGAN2: {e}") from e


def _checked(
    config: StyleGAN2Config,
    tensors: Mapping[str, np.ndarray],
    w_avg_estimated: bool,
    metadata: dict[str, Any],
) -> Checkpoint:
    """Names, types, shapes and values of the tensors against the configuration."""
    if config.img_channels not in CHANNELS:
        raise CheckpointError(
            f"generator draws pictures of {config.img_channels!r} channels, only 1 (grey) and 3 "
            "(RGB) are implemented: of RGB and further channels keep the first three rows of every "
            "'torgb.weight' and 'torgb.bias'"
        )
    expected = config.tensor_shapes()
    missing = [name for name in expected if name not in tensors]
    if w_avg_estimated and "mapping.w_avg" in missing:
        missing.remove("mapping.w_avg")
    unknown = sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise CheckpointError(
            f"tensors do not fit a StyleGAN2 of resolution {config.img_resolution}: missing "
            f"{missing[:4]!r} ({len(missing)}), not known {unknown[:4]!r} ({len(unknown)})"
        )
    result: dict[str, np.ndarray] = {}
    for name in expected:
        if name not in tensors:
            continue
        if tensors[name].dtype.kind != "f":
            raise CheckpointError(
                f"tensor {name!r} holds {tensors[name].dtype.name!r}: quantised weights need the "
                "scales of the program that made them; write them in float32, float16 or bfloat16"
            )
        value = np.ascontiguousarray(tensors[name], dtype=np.float32).reshape(tensors[name].shape)
        if value.shape != expected[name]:
            raise CheckpointError(
                f"tensor {name!r} has shape {value.shape!r}, expected {expected[name]!r}"
            )
        if not np.isfinite(value).all():
            raise CheckpointError(
                f"tensor {name!r} holds values that are not finite: the training diverged; use an "
                "earlier checkpoint"
            )
        result[name] = value
    return Checkpoint(config.architecture(), result, w_avg_estimated, metadata)
