"""StyleGAN generators in files to our architecture and tensor names, without torch.

Read: official TensorFlow pickles, GenForce's, InterFaceGAN's and HiGAN's ``.pth``, rosinality's
``.model``, and state dicts under our own names. The same model has the same fingerprint whatever
file it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.checked_tensors import checked_tensors
from generators.families.base import Checkpoint
from generators.families.stylegan1.config import StyleGAN1Config, fused_scale_of
from generators.families.stylegan1.layouts import (
    GENFORCE,
    INTERFACEGAN,
    OFFICIAL,
    fused_sides,
    translated,
)
from generators.families.stylegan1.rosinality import ROSINALITY, from_rosinality
from generators.unpickle.find_network import Candidate, arrays_of, find_network
from generators.unpickle.interpreter import Inert
from generators.unpickle.tensorflow_pickles import TensorflowNetwork, tensorflow_networks
from generators.w_avg import NAME, estimate_of_w_avg
from schemas.errors import CheckpointError

BUILDER = "G_style"
PARTS = {"mapping": "G_mapping", "synthesis": "G_synthesis"}
#: A tensor that every generator of a layout has, and no other network.
MARKERS = {
    "synthesis.layer0.apply_noise.weight": ("genforce", GENFORCE),
    "synthesis.layer0.epilogue.apply_noise.weight": ("interfacegan", INTERFACEGAN),
    "synthesis.b4.const.input": ("latentflow", None),
}
#: Settings that change images and that tensors do not show, with the official defaults.
ASSUMED: Mapping[str, Any] = {
    "lr_multiplier": 0.01, "fused_scale": "auto", "output_activation": "linear"
}  # fmt: skip
#: Smallest root mean square of a convolution's scaled weights that is believed: they begin with 1,
#: those of a training without scales with sqrt(2 / inputs).
_SCALED = 0.3
CHANNELS = (1, 3, 4)
#: Of the official code, where the file does not state it; truncation is in the first 8 layers.
MAPPING_LAYERS = 8
TRUNCATION_PSI = 0.7

#: Arguments of the official builders with the only value that is implemented.
_ONLY: Mapping[str, Any] = {
    "mapping_nonlinearity": "lrelu",
    "nonlinearity": "lrelu",
    "use_wscale": True,
    "normalize_latents": True,
    "use_styles": True,
    "const_input_layer": True,
    "use_noise": True,
    "use_pixel_norm": False,
    "use_instance_norm": True,
    "dtype": "float32",
    "blur_filter": [1, 2, 1],
}
#: Arguments that tensors show, or that change no image: training, truncation, how the graph is laid
#: out, which of two equal ways grows the image, and whether noise is drawn anew.
_HARMLESS = frozenset(
    "latent_size label_size dlatent_size dlatent_broadcast mapping_layers mapping_fmaps "
    "num_channels resolution fmap_base fmap_decay fmap_max truncation_psi truncation_cutoff "
    "truncation_psi_val truncation_cutoff_val dlatent_avg_beta style_mixing_prob is_training "
    "is_validation is_template_graph randomize_noise structure force_clean_graph".split()
)


def read(contents: Any) -> Checkpoint | None:
    """The one generator in a file's contents, None where there is none."""
    networks = [n for n in tensorflow_networks(contents) if n.builder == BUILDER]
    if networks:
        return _from_tensorflow(networks[-1])
    found = find_network(contents, (*MARKERS, ROSINALITY))
    if found is None:
        return None
    if isinstance(found.state, Inert):
        raise CheckpointError(
            "file holds a StyleGAN saved whole: save its state_dict() with torch.save and give "
            "that file"
        )
    return _from_state_dict(found)


# --- official --------------------------------------------------------------------------------


def _from_tensorflow(network: TensorflowNetwork) -> Checkpoint:
    for name, builder in PARTS.items():
        part = network.components.get(name)
        if part is None or part.builder != builder:
            kind = "missing" if part is None else f"built by {part.builder[:60]!r}"
            raise CheckpointError(
                f"component {name!r} of the TensorFlow network is {kind}, expected one built by "
                f"{builder!r}: other networks are not implemented"
            )
    parts = [network.components[name] for name in PARTS]
    # a variable of the whole network counts: running it sets that of the synthesis network
    variables = {
        name: part.variables[name] for part in (*parts, network) for name in part.variables
    }
    _check_grown(variables.get("lod"))
    arguments = {
        name: value for part in (*parts, network) for name, value in part.arguments.items()
    }
    settings = {
        "lr_multiplier": _rate(arguments.pop("mapping_lrmul", ASSUMED["lr_multiplier"])),
        "fused_scale": arguments.pop("fused_scale", ASSUMED["fused_scale"]),
    }
    for name, value in arguments.items():
        _check_argument(name, value, network)
    metadata: dict[str, Any] = {"source": "official TensorFlow", "name": network.name[:80]}
    psi = network.arguments.get("truncation_psi", TRUNCATION_PSI)
    if psi not in (None, 1, 1.0):
        metadata["left_out"] = [
            f"the official code draws with truncation {_shown(psi)} unless told otherwise, "
            "latentflow with the one that is asked for"
        ]
    tensors = translated(variables, OFFICIAL)
    stated, depth = arguments.get("mapping_layers", MAPPING_LAYERS), _depth(tensors)
    if stated != depth:
        raise CheckpointError(
            f"the generator was built with {_shown(stated)} mapping layers, its variables are of "
            f"{depth!r}: the file is damaged; download it again"
        )
    return _finish(tensors, settings, metadata)


def _check_argument(name: str, value: Any, network: TensorflowNetwork) -> None:
    if name in _HARMLESS or name not in _ONLY and network.ignores(name):
        return
    if name not in _ONLY:
        raise CheckpointError(
            f"the generator was built with {name[:60]!r} {_shown(value)}, which the official code "
            "does not have and which may change what it draws: it is not implemented"
        )
    expected = _ONLY[name]
    if value is None or (list(value) if isinstance(value, tuple) else value) != expected:
        raise CheckpointError(
            f"the generator was built with {name!r} {_shown(value)}, only {expected!r} is "
            "implemented: use a generator that was trained with the default"
        )


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise CheckpointError(
            f"'mapping_lrmul' of the generator is {_shown(value)}, expected a number above 0"
        )
    return float(value)


def _shown(value: Any) -> str:
    return (
        repr(value)[:60]
        if isinstance(value, str | int | float | list | tuple | None)
        else (f"of {type(value).__name__}")
    )


def _check_grown(lod: np.ndarray | None) -> None:
    """Level of detail 0: 1 and more draw smaller pictures, between them two are blended."""
    if lod is None or (lod.size == 1 and float(lod.reshape(())) == 0.0):
        return
    raise CheckpointError(
        f"the generator has level of detail {lod.ravel()[:1].tolist()!r}, expected 0: it was saved "
        "while its resolution grew; use a later snapshot of the training"
    )


# --- state dicts -----------------------------------------------------------------------------


def _from_state_dict(found: Candidate) -> Checkpoint:
    located = {"entry": found.where} if found.where else {}
    tensors = arrays_of(found)
    if ROSINALITY in tensors:
        ours, said, left_out = from_rosinality(tensors)
        noted = {"left_out": left_out} if left_out else {}
        _shape(ours, "mapping.fc0.weight", 2)
        return _finish(ours, said, {"source": "rosinality", **located, **noted})
    source, rules = next(MARKERS[marker] for marker in MARKERS if marker in tensors)
    _check_grown(tensors.get("synthesis.lod"))
    ours = tensors if rules is None else translated(tensors, rules)
    _shape(ours, "mapping.fc0.weight", 2)
    if source == "genforce":
        _check_scaled(tensors)
    assumed, stated = dict(ASSUMED), {}
    if source == "interfacegan":  # as HiGAN's its code has no tanh, and its names tell the rest
        assumed = {"lr_multiplier": ASSUMED["lr_multiplier"]}
        resolution = _resolution(ours)
        try:
            stated["fused_scale"] = fused_scale_of(fused_sides(tensors), resolution)
        except ValueError as e:
            raise CheckpointError(str(e)) from e
    return _finish(ours, {**assumed, **stated}, {"source": source, **located, "assumed": assumed})


def _check_scaled(tensors: Mapping[str, np.ndarray]) -> None:
    """Of GenForce's code, which can train with weights as they act."""
    name = "synthesis.layer1.weight"
    weight = np.asarray(tensors.get(name, 1.0), np.float64)
    scale = float(np.sqrt(np.square(weight).mean()))
    if scale < _SCALED:
        raise CheckpointError(
            f"tensor {name!r} has root mean square {scale:.2g}, as of a training with use_wscale "
            "False, which is not implemented: use a generator that was trained with the default"
        )


def _shape(tensors: Mapping[str, np.ndarray], name: str, ndim: int) -> tuple[int, ...]:
    if name not in tensors or tensors[name].ndim != ndim:
        found = tensors[name].shape if name in tensors else "missing"
        raise CheckpointError(
            f"tensor {name!r} is {found!r}, expected {ndim} axes: not a StyleGAN generator"
        )
    return tuple(tensors[name].shape)


def _depth(tensors: Mapping[str, np.ndarray]) -> int:
    """Layers of the mapping network."""
    depth = 0
    while f"mapping.fc{depth}.weight" in tensors:
        depth += 1
    return depth


def _resolution(tensors: Mapping[str, np.ndarray]) -> int:
    """Height and width of the images."""
    resolution = 4
    while f"synthesis.b{resolution * 2}.conv0.weight" in tensors:
        resolution *= 2
    return resolution


def _finish(
    tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any], metadata: dict[str, Any]
) -> Checkpoint:
    """Infer the configuration from the tensors' shapes and check every one of them."""
    resolution = _resolution(tensors)
    depth = _depth(tensors)
    sides = [2**i for i in range(2, resolution.bit_length())]
    channels = [_shape(tensors, f"synthesis.b{side}.conv1.weight", 4)[0] for side in sides]
    w_dim = _shape(tensors, "synthesis.b4.conv1.affine.weight", 2)[1]
    hidden, width = _shape(tensors, "mapping.fc0.weight", 2) if depth else (w_dim, w_dim)
    c_dim = 0
    if "mapping.embed.weight" in tensors:
        width, c_dim = _shape(tensors, "mapping.embed.weight", 2)
    try:
        config = StyleGAN1Config(
            z_dim=width,
            w_dim=w_dim,
            c_dim=c_dim,
            img_resolution=resolution,
            img_channels=_shape(tensors, "synthesis.torgb.weight", 4)[0],
            channels=tuple(channels),
            num_mapping_layers=depth,
            mapping_features=hidden if depth > 1 else w_dim,
            **settings,
        )
    except (TypeError, ValueError) as e:
        raise CheckpointError(f"the file describes no StyleGAN generator: {e}") from e
    return checked(config, tensors, estimate_of_w_avg(tensors), metadata)


def checked(
    config: StyleGAN1Config,
    tensors: Mapping[str, np.ndarray],
    estimated: Mapping[str, Any],
    metadata: dict[str, Any],
) -> Checkpoint:
    """A checkpoint of these tensors: names, types, shapes and values against the configuration."""
    if config.img_channels not in CHANNELS:
        raise CheckpointError(
            f"generator draws images of {config.img_channels!r} channels, only 1 (grey), 3 (RGB) "
            "and 4 (RGB and opacity) are implemented"
        )
    what = f"a StyleGAN of {config.img_resolution} pixels"
    shapes = config.tensor_shapes()
    if NAME in estimated and NAME not in tensors:
        del shapes[NAME]
    found = checked_tensors(tensors, shapes, what)
    return Checkpoint(config.architecture(), found, estimated, metadata)
