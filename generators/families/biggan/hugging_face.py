"""Weights of Hugging Face's ``pytorch-pretrained-BigGAN``: BigGAN-deep, with its ``config.json``.

=================================  =========================================================
name in the file                   what it is
=================================  =========================================================
embeddings.weight                  (z_dim, classes): class embedding, beside z in every condition
generator.gen_z.*                  first layer; rows in the order (height, width, channels)
generator.layers.<i>.bn_<j>.*      statistics (51, channels) of the truncations 0, 0.02, ..., 1;
                                   ``scale`` and ``offset`` of the condition
generator.layers.<i>.conv_<j>.*    1 x 1, 3 x 3, 3 x 3, 1 x 1
generator.layers.<i>.snconv1x1_*   self attention, which counts as a layer
generator.bn, conv_to_rgb          the last normalisation and convolution, of whose output the
                                   first three channels are the image
=================================  =========================================================

Which blocks double the sides is in ``config.json`` alone; without it each second one is assumed to,
as in all that were published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.families.biggan.config import BigGANConfig, Block
from generators.families.biggan.tensors import State, check_left
from schemas.errors import CheckpointError

MARKER = "generator.layers.0.bn_0.running_means"
#: What is added to variances in all that were published.
EPS = 1e-4
_RGB = 3
#: Keys of config.json that are read or compared, and those by which files tell about themselves.
READ = (
    "attention_layer_position", "channel_width", "class_embed_dim", "eps", "layers", "n_stats",
    "num_classes", "output_dim", "z_dim",
)  # fmt: skip
ABOUT = (
    "architectures", "dtype", "id2label", "label2id", "license", "library_name", "model_type",
    "name", "tags", "torch_dtype", "transformers_version",
)  # fmt: skip
_ATTENTION = {"theta": "theta", "phi": "phi", "g": "g", "o": "o_conv"}


def read_hugging_face(
    tensors: Mapping[str, np.ndarray], said: Mapping[str, Any] | None
) -> tuple[BigGANConfig, dict[str, np.ndarray], dict[str, Any]]:
    """Configuration, tensors under our names, and what no file states, of a state dict.

    said : the contents of config.json, None without one.
    """
    state = State(tensors)
    sets = state.shape(MARKER, 2)[0]
    assumed: dict[str, Any] = {"statistics_truncation": 1.0} if sets > 1 else {}
    eps = _number(said, "eps") if said is not None else None
    if eps is None:
        assumed["bn_eps"] = eps = EPS
    _check_keys(said or {})
    places = _places(state)
    widths, classes = _widths(state, places), state.shape("embeddings.weight", 2)
    attention = [k for k, is_block in enumerate(places) if not is_block]
    rows, columns = state.shape(_weight_of(state, "generator.gen_z"), 2)
    side = round((rows / widths[0][0]) ** 0.5)
    try:
        config = BigGANConfig(
            z_dim=columns - classes[0],
            c_dim=classes[0],
            classes=classes[1],
            embedded=True,
            kind="deep",
            latents="whole",
            side=side,
            blocks=tuple(
                Block(*pair, doubles)
                for pair, doubles in zip(widths, _doubling(said, widths), strict=True)
            ),
            attention=tuple(k - i for i, k in enumerate(attention)),
            prior="truncated_normal",
            bn_eps=eps,
            statistics=sets,
            statistics_truncation=assumed.get("statistics_truncation"),
        )
    except ValueError as e:
        raise CheckpointError(f"tensor shapes describe no BigGAN-deep: {e}") from e
    _check_said(said, config)
    if said is None or "layers" not in said:
        assumed["blocks"] = config.architecture()["blocks"]
    found = _converted(state, config, places)
    check_left(state)
    return config, found, assumed


def _converted(state: State, config: BigGANConfig, places: list[bool]) -> dict[str, np.ndarray]:
    found = {"embedding.weight": state.take("embeddings.weight")}
    weight, bias = state.weight("generator.gen_z"), state.take("generator.gen_z.bias")
    channels, side = config.width(0), config.side
    if len(weight) != channels * side**2 or bias.shape != (len(weight),):
        raise CheckpointError(
            f"'generator.gen_z' gives {len(weight)!r} numbers, expected those of maps of "
            f"{channels!r} channels: the file is damaged"
        )
    maps = np.arange(len(bias)).reshape(side, side, channels).transpose(2, 0, 1).ravel()
    found |= {"linear.weight": weight[maps], "linear.bias": bias[maps]}
    block = 0
    for k, is_block in enumerate(places):
        at = f"generator.layers.{k}"
        if not is_block:
            for ours, theirs in _ATTENTION.items():
                found[f"attention{block}.{ours}.weight"] = state.weight(f"{at}.snconv1x1_{theirs}")
            found[f"attention{block}.gamma"] = state.take(f"{at}.gamma").reshape(())
            continue
        for j in range(4):
            norm = f"b{block}.norm{j}"
            found |= _statistics(state, f"{at}.bn_{j}", norm)
            found[f"{norm}.scale.weight"] = state.weight(f"{at}.bn_{j}.scale")
            found[f"{norm}.shift.weight"] = state.weight(f"{at}.bn_{j}.offset")
            found[f"b{block}.conv{j}.weight"] = state.weight(f"{at}.conv_{j}")
            found[f"b{block}.conv{j}.bias"] = state.take(f"{at}.conv_{j}.bias")
        block += 1
    found |= _statistics(state, "generator.bn", "output.norm")
    found["output.norm.scale"] = state.take("generator.bn.weight")
    found["output.norm.shift"] = state.take("generator.bn.bias")
    found["output.conv.weight"] = state.weight("generator.conv_to_rgb")[:_RGB]
    found["output.conv.bias"] = state.take("generator.conv_to_rgb.bias")[:_RGB]
    return found


def _statistics(state: State, at: str, to: str) -> dict[str, np.ndarray]:
    names = {"mean": "running_means", "var": "running_vars"}
    return {f"{to}.{ours}": state.take(f"{at}.{theirs}") for ours, theirs in names.items()}


def _weight_of(state: State, at: str) -> str:
    normalised = f"{at}.weight_orig"
    return normalised if normalised in state else f"{at}.weight"


def _places(state: State) -> list[bool]:
    """Of each layer, whether it is a block; else it is self attention."""
    found = []
    for k in range(state.numbers("generator.layers.")):
        at = f"generator.layers.{k}"
        is_block = f"{at}.bn_0.running_means" in state
        if not is_block and f"{at}.gamma" not in state:
            raise CheckpointError(
                f"{at!r} is neither a block, with 'bn_0', nor self attention, with 'gamma': the "
                "file is damaged, or of a network that was changed in its code"
            )
        found.append(is_block)
    return found


def _widths(state: State, places: list[bool]) -> list[tuple[int, int]]:
    """Channels that each block takes and gives."""
    found = []
    for k, is_block in enumerate(places):
        if is_block:
            at = f"generator.layers.{k}"
            taken = state.shape(f"{at}.bn_0.running_means", 2)[1]
            found.append((taken, state.shape(_weight_of(state, f"{at}.conv_3"), 4)[0]))
    return found


def _doubling(said: Mapping[str, Any] | None, widths: list[tuple[int, int]]) -> list[bool]:
    """Of each block, whether it doubles the sides."""
    if said is None or "layers" not in said:
        return [i % 2 == 1 for i in range(len(widths))]
    layers = said["layers"]
    fits = isinstance(layers, list) and all(
        isinstance(each, list) and len(each) == 3 and type(each[0]) is bool for each in layers
    )
    if not fits or len(layers) != len(widths):
        raise CheckpointError(
            f"'layers' of 'config.json' is {layers!r}, expected [doubles, taken, given] for each "
            f"of the {len(widths)!r} blocks: copy both files again"
        )
    base = _number(said, "channel_width") or widths[-1][1]
    for i, (each, pair) in enumerate(zip(layers, widths, strict=True)):
        if [n * base for n in each[1:]] != list(pair):
            raise CheckpointError(
                f"'layers' of 'config.json' says that block {i} takes and gives {each[1:]!r} times "
                f"{base:g} channels, its tensors say {list(pair)!r}: copy both files again"
            )
    return [each[0] for each in layers]


def _check_keys(said: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a config.json of another model, or that says what is not known."""
    kinds = [said.get("model_type"), *_list(said.get("architectures"))]
    other = [kind for kind in kinds if kind is not None and "biggan" not in _plain(kind)]
    if other:
        raise CheckpointError(
            f"'config.json' says that the model is {other[0]!r}, its tensors are a BigGAN-deep's: "
            "they do not belong together; copy both files again"
        )
    unknown = [name for name in said if name not in (*READ, *ABOUT) and not name.startswith("_")]
    if unknown:
        name = unknown[0]
        raise CheckpointError(
            f"'config.json' has {name!r}: {said[name]!r}, which no published BigGAN-deep has and "
            "which may change its pictures: take it out where it does not, else export the "
            "network to ONNX or torch.export"
        )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _plain(kind: Any) -> str:
    """A name without case and marks: 'BigGAN', 'big_gan' and 'big-gan' are one."""
    return "".join(filter(str.isalnum, str(kind))).lower()


def _check_said(said: Mapping[str, Any] | None, config: BigGANConfig) -> None:
    """Raise CheckpointError where config.json says another thing than the tensors."""
    known = {
        "z_dim": config.z_dim,
        "class_embed_dim": config.c_dim,
        "num_classes": config.classes,
        "n_stats": config.statistics,
        "output_dim": config.resolution,
        "attention_layer_position": config.attention[0] if config.attention else None,
    }
    for name, found in known.items():
        value = None if said is None else said.get(name)
        if value is not None and found is not None and value != found:
            raise CheckpointError(
                f"{name!r} of 'config.json' is {value!r}, the tensors say {found!r}: they do not "
                "belong together; copy both files again"
            )


def _number(said: Mapping[str, Any] | None, name: str) -> float | None:
    """A positive number of config.json, None where it is not there."""
    value = None if said is None else said.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value < 1e9:
        raise CheckpointError(
            f"{name!r} of 'config.json' is {value!r}, expected a number above 0: correct it"
        )
    return float(value)
