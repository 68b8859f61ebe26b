"""Files of perceptual networks, without torch: which network one holds, and its tensors.

=========== ======== ============================================================================
network     distance files of it
=========== ======== ============================================================================
features64  LPIPS*   the project's own, "bundled:features64/features", an ONNX model
vgg16       LPIPS    a state dict of torchvision's `vgg16` (``features.0.weight``, ...), or of
                     `lpips.LPIPS(net="vgg")` (``net.slice1.0.weight``, ...), or its ONNX export
alexnet     LPIPS    likewise, `alexnet` and ``net="alex"``
=========== ======== ============================================================================

VGG16 and AlexNet take linear weights (``lin0.model.1.weight``, ...): the state dict of
`lpips.LPIPS` has them, and PyPI's package lpips ships them (``lpips/weights/v0.1/vgg.pth``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from generators.annotators.card import resolve_uri
from generators.file_kinds import CHECKPOINT_SUFFIXES, missing
from generators.onnx_files import data_files
from generators.unpickle.plain import read_foreign
from schemas.errors import CheckpointError
from schemas.fingerprint import tensors_fingerprint

SIDE = 64
WIDTHS = (16, 32, 64, 96, 128)
"""Pixels of a picture that the project's network sees, and the channels of its maps."""

#: Raised whenever a distance changes for the same tensors.
VERSION = 1
BUNDLED = "bundled:features64/features"


@dataclass(frozen=True)
class Architecture:
    """A network whose maps are compared.

    convolutions : number of the module -> shape of its weight
    maps : channels of the maps. linear : whether a distance takes a weight for each channel.
    title, key : of the distance, as it is shown and as it is stored
    """

    name: str
    convolutions: Mapping[int, tuple[int, int, int, int]]
    maps: tuple[int, ...]
    linear: bool
    title: str
    key: str


def _own() -> dict[int, tuple[int, int, int, int]]:
    pairs = [(3, WIDTHS[0])]
    for width, wider in zip(WIDTHS, WIDTHS[1:], strict=False):
        pairs += [(width, wider), (wider, wider)]
    return {k: (after, before, 3, 3) for k, (before, after) in enumerate(pairs)}


def _vgg16() -> dict[int, tuple[int, int, int, int]]:
    widths = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}
    widths |= dict.fromkeys((17, 19, 21, 24, 26, 28), 512)
    before = [3, *widths.values()]
    return {k: (width, before[i], 3, 3) for i, (k, width) in enumerate(widths.items())}


FEATURES64 = Architecture("features64", _own(), WIDTHS, False, "LPIPS*", "lpips_star")
VGG16 = Architecture("vgg16", _vgg16(), (64, 128, 256, 512, 512), True, "LPIPS", "lpips")
ALEXNET = Architecture(
    "alexnet",
    {
        0: (64, 3, 11, 11),
        3: (192, 64, 5, 5),
        6: (384, 192, 3, 3),
        8: (256, 384, 3, 3),
        10: (256, 256, 3, 3),
    },
    (64, 192, 384, 256, 256),
    True,
    "LPIPS",
    "lpips",
)
ARCHITECTURES = (FEATURES64, VGG16, ALEXNET)

_CONVOLUTION = re.compile(r"(?:.*\.)?(?:net\.slice\d|features|layers)\.(\d+)\.(\w+)")
_LINEAR = re.compile(r"(?:.*\.)?lins?\.?(\d+)\.model\.\d+\.weight")
_GIVE = (
    "give a state dict of torchvision's vgg16 or alexnet, one of lpips.LPIPS with either of them, "
    f"its ONNX export, or {BUNDLED!r}"
)
_LINEAR_FILES = "lpips/weights/v0.1/vgg.pth or alex.pth of PyPI's package lpips"


@dataclass(frozen=True, eq=False)
class PerceptualFile:
    """A network as read.

    tensors : float32, ``<number>.weight`` and ``.bias`` of its convolutions, ``lin<map>`` (c,) of
        its linear weights
    """

    architecture: Architecture
    tensors: dict[str, np.ndarray]

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits, the same for the same distance whatever files it is read from."""
        about = {"perceptual": self.architecture.name, "version": VERSION}
        return tensors_fingerprint(about, self.tensors)


def read_perceptual(uri: str, linear: str | None = None) -> PerceptualFile:
    """The network at ``uri``: a path, or "bundled:features64/features"; see the module text.

    linear : path of the linear weights, where the file has none

    Nothing in a file is executed. Raises CheckpointError when a file is missing, damaged or of
    another network, or linear weights are missing or given twice.
    """
    given = _tensors(uri)
    convolutions, weights = _named(given)
    architecture = _recognised(uri, convolutions)
    if linear is not None:
        if weights or not architecture.linear:
            has = "has linear weights itself" if weights else "takes no linear weights"
            raise CheckpointError(
                f"perceptual network {uri!r} {has}, and {linear!r} is given, too: leave one out"
            )
        weights = _named(_tensors(linear))[1]
    if architecture.linear:
        _check_linear(uri if linear is None else linear, architecture, weights)
        convolutions |= {f"lin{k}": weights[k].reshape(-1) for k in range(len(architecture.maps))}
    tensors = {name: np.ascontiguousarray(v, "<f4") for name, v in convolutions.items()}
    lost = [name for name, values in tensors.items() if not np.isfinite(values).all()]
    if lost:
        raise CheckpointError(
            f"perceptual network {uri!r} has numbers that are not finite in {lost[0]!r}: the file "
            "is damaged; fetch it again"
        )
    return PerceptualFile(architecture, tensors)


def _tensors(uri: str) -> dict[str, np.ndarray]:
    """All tensors of a file, by name. Raises CheckpointError, InputError."""
    path = resolve_uri(uri) if uri.startswith("bundled:") else Path(uri)
    if not path.is_file():
        raise CheckpointError(missing(path, "perceptual network", (*CHECKPOINT_SUFFIXES, ".onnx")))
    if path.suffix.lower() == ".onnx":
        return _of_onnx(path)
    contents = read_foreign(path)
    if isinstance(contents, dict) and isinstance(contents.get("state_dict"), dict):
        contents = contents["state_dict"]
    if not isinstance(contents, dict):
        raise CheckpointError(f"perceptual network {uri!r} holds no tensors by name: {_GIVE}")
    return {str(k): v for k, v in contents.items() if isinstance(v, np.ndarray)}


def _of_onnx(path: Path) -> dict[str, np.ndarray]:
    """The initialisers of a model, which exporters call by their names in the state dict."""
    import onnx
    from onnx import numpy_helper

    try:
        model = onnx.load(str(path), load_external_data=False)
        data_files(path)  # refuses what lies outside the model's folder
        onnx.load_external_data_for_model(model, str(path.parent))
    except CheckpointError:
        raise
    except Exception as e:  # protobuf has its own types, one a failure
        raise CheckpointError(
            f"perceptual network {str(path)!r} is not a usable ONNX model: {e}; {_GIVE}"
        ) from e
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def _named(given: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
    """Tensors of convolutions, by ``<number>.<kind>``, and linear weights by their map's number."""
    convolutions, linear = {}, {}
    for name, values in given.items():
        if found := _CONVOLUTION.fullmatch(name):
            convolutions[f"{int(found[1])}.{found[2]}"] = values
        elif found := _LINEAR.fullmatch(name):
            linear[int(found[1])] = values
    return convolutions, linear


def _recognised(uri: str, tensors: Mapping[str, np.ndarray]) -> Architecture:
    """The architecture of these tensors. Raises CheckpointError, naming what does not fit."""
    first = tensors.get("0.weight")
    same = [a for a in ARCHITECTURES if first is not None and first.shape == a.convolutions[0]]
    if not same:
        found = None if first is None else list(first.shape)
        raise CheckpointError(
            f"perceptual network {uri!r} has a first convolution of shape {found!r}, which is "
            f"none of {', '.join(a.name for a in ARCHITECTURES)}: {_GIVE}"
        )
    architecture = same[0]
    wanted: dict[str, tuple[int, ...]] = {}
    for k, shape in architecture.convolutions.items():
        wanted |= {f"{k}.weight": shape, f"{k}.bias": shape[:1]}
    shapes = {name: tuple(values.shape) for name, values in tensors.items()}
    wrong = [name for name in wanted | shapes if wanted.get(name) != shapes.get(name)]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"perceptual network {uri!r} begins as {architecture.name}, but its tensor {name!r} "
            f"has shape {_shape(shapes, name)}, expected {_shape(wanted, name)}: {_GIVE}"
        )
    return architecture


def _shape(shapes: Mapping[str, Sequence[int]], name: str) -> str:
    return repr(list(shapes[name])) if name in shapes else "none at all"


def _check_linear(uri: str, architecture: Architecture, weights: Mapping[int, np.ndarray]) -> None:
    if not weights:
        raise CheckpointError(
            f"perceptual network {uri!r} has no linear weights, which LPIPS takes beside "
            f"{architecture.name}: name their file, too ({_LINEAR_FILES})"
        )
    sizes = {k: values.size for k, values in weights.items()}
    if sizes != dict(enumerate(architecture.maps)):
        raise CheckpointError(
            f"linear weights {uri!r} are of maps with {list(sizes.values())!r} channels, "
            f"{architecture.name} has {list(architecture.maps)!r}: name those of this network "
            f"({_LINEAR_FILES})"
        )
