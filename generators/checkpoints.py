"""StyleGAN2 checkpoint files to our architecture and tensor names, without torch.

Read: official NVlabs pickles (StyleGAN2-ADA, and StyleGAN2 networks of the StyleGAN3 code), torch
files that hold such a network or its state dict, rosinality's ``.pt``, and our own safetensors
file with its JSON. The same model has the same fingerprint whatever file it came from.
Nothing in a file is executed (`generators.unpickle`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from generators.official_pickle import write_official_pickle
from generators.rosinality import check_filter, from_rosinality
from generators.stylegan2_config import StyleGAN2Config
from generators.tensor_files import safetensors_bytes
from generators.torch_files import TensorRecord, read_any
from generators.unpickle import Inert, Limits
from schemas.atomic import write_bytes, write_json
from schemas.errors import CheckpointError, NewerLayoutError, UsageError
from schemas.fingerprint import tensors_fingerprint

__all__ = [
    "Checkpoint",
    "read_checkpoint",
    "recorded_fingerprint",
    "write_checkpoint",
    "write_official_pickle",
]

FORMAT = "latentflow-generator"
LAYOUT_VERSION = 1
W_AVG_ESTIMATE: Mapping[str, int] = {"n": 10_000, "seed": 0}
MAX_MODULE_DEPTH = 16
MAX_JSON_BYTES = 1 << 20
_PERSISTENT = "_reconstruct_persistent_obj"


@dataclass(frozen=True)
class Checkpoint:
    """A generator as read: canonical architecture and float32 tensors under the official names.

    w_avg_estimated : the file it first came from had no w_avg. "mapping.w_avg" is then missing
        from `tensors`, or holds an estimate.
    metadata : facts about the file that enter no fingerprint.
    """

    architecture: dict[str, Any]
    tensors: dict[str, np.ndarray]
    w_avg_estimated: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

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


def read_checkpoint(path: str | Path, limits: Limits | None = None) -> Checkpoint:
    """Read a generator file; the kind of file is recognised by its contents.

    path : ``.safetensors`` (with a ``.json`` of the same name beside it), ``.pkl``, ``.pt``,
        ``.pth``.

    Raises CheckpointError when the file is missing, damaged, or holds something else than a
    StyleGAN2 generator of the skip architecture; UnsafeCheckpointError when it tries to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"generator file {str(path)!r} does not exist: correct the path")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        contents = read_any(path, limits)
        return _from_contents(contents)
    except CheckpointError as e:
        raise type(e)(f"{path.name!r}: {e}") from e
    except (OSError, RecursionError) as e:
        raise CheckpointError(f"{path.name!r} cannot be read: {e}") from e


def recorded_fingerprint(path: str | Path) -> str | None:
    """The fingerprint that stands in the JSON beside a safetensors file; None for other files.

    Reads no tensors: the claim is verified when the generator is loaded.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return None
    return str(_read_json(path)["fingerprint"])


# --- our own format -------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any]:
    """The description beside a safetensors file, checked."""
    beside = path.with_suffix(".json")
    try:
        if beside.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{beside.name!r} has more than {MAX_JSON_BYTES} bytes")
        facts = json.loads(beside.read_bytes())
    except FileNotFoundError as e:
        raise CheckpointError(
            f"{beside.name!r} is missing beside {path.name!r}: copy both files together"
        ) from e
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{beside.name!r} is not JSON ({e}): write it again") from e
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise CheckpointError(f"{beside.name!r} does not describe a generator ({FORMAT!r})")
    version = facts.get("layout_version")
    if not isinstance(version, int) or version > LAYOUT_VERSION:
        raise NewerLayoutError(
            f"{beside.name!r} has layout version {version!r}, this release reads up to "
            f"{LAYOUT_VERSION}: upgrade to read it"
        )
    if not isinstance(facts.get("architecture"), dict) or not isinstance(
        facts.get("fingerprint"), str
    ):
        raise CheckpointError(f"{beside.name!r} lacks 'architecture' or 'fingerprint'")
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
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    facts = _read_json(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, KeyError, TypeError) as e:
        raise CheckpointError(f"tensors cannot be read ({e}): copy the file again") from e
    try:
        config = StyleGAN2Config.from_architecture(facts["architecture"])
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"'architecture' is not that of a StyleGAN2: {e}") from e
    estimated = bool(facts.get("w_avg_estimated", False))
    checkpoint = _checked(config, tensors, estimated, dict(facts.get("metadata") or {}))
    if checkpoint.fingerprint != facts["fingerprint"]:
        raise CheckpointError(
            f"tensors have fingerprint {checkpoint.fingerprint!r}, the JSON beside them says "
            f"{facts['fingerprint']!r}: the two files do not belong together; copy both again"
        )
    return checkpoint


# --- foreign formats ------------------------------------------------------------------------


def _from_contents(contents: Any) -> Checkpoint:
    """Recognise what a pickle or torch file holds."""
    if isinstance(contents, tuple | list) and any(
        isinstance(item, Inert) and "tflib" in item.function.module for item in contents
    ):
        raise CheckpointError(
            "file is a TensorFlow pickle (G, D, Gs): convert it with 'legacy.py' of the official "
            "PyTorch code first"
        )
    if isinstance(contents, Inert):
        return _from_official(contents)
    if not isinstance(contents, dict):
        raise CheckpointError(
            f"file holds a {type(contents).__name__!r}, expected a network, a dict with 'G_ema' "
            "or 'g_ema', or a state dict"
        )
    for key in ("G_ema", "g_ema"):
        if contents.get(key) is not None:
            inner = contents[key]
            if isinstance(inner, Inert):
                return _from_official(inner)
            return _from_state_dict(inner, contents.get("latent_avg"))
    if "mapping.fc0.weight" in contents or "input.input" in contents:
        return _from_state_dict(contents, None)
    keys = [str(key)[:40] for key in list(contents)[:8]]
    raise CheckpointError(
        f"file has entries {keys!r}, expected 'G_ema' (official) or 'g_ema' (rosinality): give a "
        "StyleGAN2 generator checkpoint"
    )


def _from_state_dict(state: Any, latent_avg: Any) -> Checkpoint:
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, TensorRecord) for name, value in state.items()
    ):
        raise CheckpointError("generator entry is neither a network nor a state dict of tensors")
    tensors = {name: value.array(name) for name, value in state.items()}
    if "input.input" in tensors:
        average = latent_avg.array("latent_avg") if isinstance(latent_avg, TensorRecord) else None
        converted, facts = from_rosinality(tensors, average)
        return _finish(converted, facts, "rosinality")
    return _finish(tensors, {}, "official")


def _module_state(module: Any) -> tuple[str, Mapping[str, Any]]:
    """Class name and ``__dict__`` of a pickled module, persistent or plain."""
    if isinstance(module, Inert):
        state, name = module.state, str(module.function.name)
        if name == _PERSISTENT and len(module.args) == 1:
            meta = module.args[0]
            if not isinstance(meta, dict) or meta.get("type") != "class":
                raise CheckpointError("a persistent object does not describe a class")
            state, name = meta.get("state"), str(meta.get("class_name"))
        if isinstance(state, dict) and isinstance(state.get("_modules"), dict):
            return name[:80], state
    raise CheckpointError("a network is not stored as a module: the file is damaged or too old")


def _walk_modules(
    module: Any, prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(prefix, class name, state) of a module and those below it."""
    if depth > MAX_MODULE_DEPTH:
        raise CheckpointError(f"modules nest deeper than {MAX_MODULE_DEPTH} levels")
    class_name, state = _module_state(module)
    yield prefix, class_name, state
    for name, child in state["_modules"].items():
        if child is not None:
            yield from _walk_modules(child, f"{prefix}{name}.", depth + 1)


def _from_official(module: Inert) -> Checkpoint:
    """From a pickled official network: `G_ema`, or a whole saved generator."""
    tensors: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {}
    clamps: set[float | None] = set()
    for count, (prefix, class_name, state) in enumerate(_walk_modules(module)):
        if count > 10_000:
            raise CheckpointError("network has more than 10000 modules: not a StyleGAN2 generator")
        if not prefix:
            facts["class_name"] = class_name
        for part in ("_parameters", "_buffers"):
            for name, value in (state.get(part) or {}).items():
                if isinstance(value, TensorRecord):
                    tensors[prefix + str(name)] = value.array(prefix + str(name))
        architecture = state.get("architecture", "skip")
        if architecture != "skip":
            raise CheckpointError(
                f"synthesis architecture is {str(architecture)[:40]!r}, only 'skip' is "
                "implemented: use a generator trained with the default architecture"
            )
        if state.get("activation", "lrelu") not in ("lrelu", "linear"):
            raise CheckpointError(
                f"activation is {str(state['activation'])[:40]!r}, only 'lrelu' is implemented"
            )
        if state.get("use_noise", True) is not True:
            raise CheckpointError(
                f"{prefix!r} has no noise inputs ('use_noise' is False): not implemented"
            )
        if "noise_strength" in (state.get("_parameters") or {}):
            clamps.add(_number_or_none(state.get("conv_clamp"), "conv_clamp"))
        if prefix == "mapping.fc0.":
            facts["lr_multiplier"] = _number_or_none(state.get("bias_gain", 0.01), "bias_gain")
    if len(clamps) > 1:
        raise CheckpointError(
            f"layers have different 'conv_clamp' values {sorted(map(str, clamps))!r}"
        )
    facts["conv_clamp"] = clamps.pop() if clamps else None
    return _finish(tensors, facts, "official")


def _number_or_none(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{name!r} is a {type(value).__name__!r}, expected a number")
    return float(value)


# --- common ---------------------------------------------------------------------------------


def _finish(tensors: dict[str, np.ndarray], facts: dict[str, Any], source: str) -> Checkpoint:
    """Infer the configuration from the tensors' shapes and check every one of them."""
    if any(name.startswith("synthesis.input.") for name in tensors):
        raise CheckpointError(
            "file holds a StyleGAN3 generator, which is not implemented: give a StyleGAN2 one"
        )
    for name in [name for name in tensors if name.endswith("resample_filter")]:
        check_filter(name, tensors.pop(name), total=1.0)
    if any(".skip." in name for name in tensors):
        raise CheckpointError(
            "synthesis architecture is 'resnet', only 'skip' is implemented: use a generator "
            "trained with the default architecture"
        )
    config = _infer_config(tensors, facts)
    metadata = {"source": source}
    metadata.update({key: facts[key] for key in ("class_name", "noise_const") if key in facts})
    return _checked(config, tensors, "mapping.w_avg" not in tensors, metadata)


def _shape(tensors: Mapping[str, np.ndarray], name: str, ndim: int) -> tuple[int, ...]:
    if name not in tensors or tensors[name].ndim != ndim:
        found = tensors[name].shape if name in tensors else "missing"
        raise CheckpointError(
            f"tensor {name!r} is {found!r}, expected {ndim} axes: not a StyleGAN2 generator of the "
            "skip architecture"
        )
    return tuple(tensors[name].shape)


def _infer_config(tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> StyleGAN2Config:
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
            lr_multiplier=facts.get("lr_multiplier") or 0.01,
            conv_clamp=facts.get("conv_clamp"),
        )
    except ValueError as e:
        raise CheckpointError(f"tensor shapes describe no StyleGAN2: {e}") from e


def _checked(
    config: StyleGAN2Config,
    tensors: Mapping[str, np.ndarray],
    w_avg_estimated: bool,
    metadata: dict[str, Any],
) -> Checkpoint:
    """Names, shapes and values of the tensors against the configuration."""
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
