"""Encoders in the training checkpoints of the pSp framework, without torch.

Read: files of pSp (Richardson et al. 2021), e4e (Tov et al. 2021), ReStyle (Alaluf et al. 2021) and
HyperStyle's encoder into w (Alaluf et al. 2022): a ``state_dict`` with the encoder's tensors under
``encoder.`` and mostly its generator's under ``decoder.``, the options of the training in ``opts``
and the mean of w in ``latent_avg``. Which encoder it is follows from the tensors, except for what
they do not show:

- whether heads give a layer's code or its offset from the first's: ``opts["encoder_type"]``, which
  must be there;
- whether codes are offsets from the mean of w: always of ReStyle and HyperStyle, else
  ``opts["start_from_latent_avg"]``; assumed where there is a mean and no such option;
- whether images are cars, 4:3: ``opts["dataset_type"]``; assumed to be square without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.checked_tensors import checked_tensors
from generators.encoders.base import EncoderCheckpoint
from generators.encoders.psp.config import PYRAMID, PspConfig
from generators.encoders.psp.training_file import TrainingFile, shape_of, training_file
from generators.unpickle.find_network import array_of
from schemas.errors import CheckpointError

#: Width and height of the images of every encoder; of cars the height is less.
SIDE, CARS_HEIGHT = 256, 192
#: ``encoder_type`` -> (head, whether heads give offsets from the first's code); one head that
#: gives w has none.
TYPES: Mapping[str, tuple[str, bool]] = {
    "GradualStyleEncoder": ("pyramid", False),
    "ResNetGradualStyleEncoder": ("pyramid", False),
    "Encoder4Editing": ("pyramid", True),
    "BackboneEncoder": ("map", False),
    "ResNetBackboneEncoder": ("map", False),
    "ProgressiveBackboneEncoder": ("map", True),
    "ResNetProgressiveBackboneEncoder": ("map", True),
    "BackboneEncoderUsingLastLayerIntoWPlus": ("linear", False),
    "BackboneEncoderUsingLastLayerIntoW": ("pooled", False),
    "SingleStyleCodeEncoder": ("pooled", False),
    "WEncoder": ("pooled", False),
}
#: Of these the code is always an offset from the mean.
FROM_MEAN = ("WEncoder",)
#: Tensors that are not used: counts of batches, and the head of the backbone's first training.
_UNUSED = re.compile(r"(.*\.)?num_batches_tracked|output_layer\..*")


def read(contents: Any) -> EncoderCheckpoint | None:
    """The encoder in a file's contents, None where there is none."""
    file = training_file(contents)
    encoder = {} if file is None else file.network("encoder")
    backbone = backbone_of(encoder)
    if file is None or backbone is None:
        return None
    tensors = {
        name: array_of(value, name)
        for name, value in encoder.items()
        if not _UNUSED.fullmatch(name)
    }
    assumed: dict[str, str] = {}
    head, offsets = _head(tensors, file)
    channels, units, squeeze = stages_of(tensors, backbone)
    styles, w_dim = _codes(tensors, head)
    num_ws = _num_ws(file, styles)
    mean = _mean(file, tensors, backbone, assumed)
    tensors["latent_avg"] = _rows(mean, num_ws, w_dim, head)
    try:
        config = PspConfig(
            size=size_of(file, assumed),
            in_channels=shape_of(tensors, first_of(backbone), 4)[1],
            backbone=backbone,
            channels=channels,
            units=units,
            squeeze=squeeze,
            head=head,
            depth=_depth(tensors) if head in ("pyramid", "map") else 0,
            styles=styles,
            offsets=offsets,
            num_ws=num_ws,
            w_dim=w_dim,
        )
    except ValueError as e:
        raise CheckpointError(f"{file.kind} is of no encoder of pictures into w_plus: {e}") from e
    found = checked_tensors(tensors, config.tensor_shapes(), f"{file.kind} over {backbone!r}")
    metadata: dict[str, Any] = {"source": file.kind}
    if assumed:
        metadata["assumed"] = assumed
    return EncoderCheckpoint(config.architecture(), found, metadata)


def first_of(backbone: str) -> str:
    """Name of a backbone's first weight."""
    return "conv1.weight" if backbone == "resnet" else "input_layer.0.weight"


def backbone_of(names: Mapping[str, Any]) -> str | None:
    """Which backbone a state dict has; None of another network."""
    if "body.0.conv1.weight" in names and first_of("resnet") in names:
        return "resnet"
    if "body.0.res_layer.1.weight" in names and first_of("ir") in names:
        return "ir_se" if "body.0.res_layer.5.fc1.weight" in names else "ir"
    return None


def _head(tensors: Mapping[str, np.ndarray], file: TrainingFile) -> tuple[str, bool]:
    """Head and whether it gives offsets. Raises CheckpointError where that is not told."""
    shown = next(
        (
            head
            for head, name in (
                ("pyramid", "latlayer1.weight"),
                ("map", "styles.0.linear.weight"),
                ("linear", "output_layer_2.3.weight"),
                ("pooled", "linear.weight"),
            )
            if name in tensors
        ),
        None,
    )
    kind = file.text("encoder_type")
    if shown is None:
        raise CheckpointError(
            "the encoder's state dict has a backbone and no head that gives codes: use the file of "
            "an encoder, not of the backbone that its training starts from"
        )
    if kind is not None and TYPES.get(kind, ("", False))[0] == shown:
        return TYPES[kind]
    known = [name for name, (head, _) in TYPES.items() if head == shown]
    if kind is None and shown in ("linear", "pooled"):
        return shown, False
    said = "does not state" if kind is None else f"states {kind!r} for"
    raise CheckpointError(
        f"file {said} 'encoder_type' in its 'opts', and the tensors are those of one of {known!r}, "
        "which give other codes: write the file again with torch.save and the right one in "
        "'opts', {'encoder_type': ...}"
    )


def stages_of(
    tensors: Mapping[str, Any], backbone: str
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Channels of the first convolution and of every stage, units of every stage, and by what
    squeeze and excitation divides; a stage begins where the channels change."""
    conv = "conv1" if backbone == "resnet" else "res_layer.1"
    channels, units = [shape_of(tensors, first_of(backbone), 4)[0]], [0]
    while (name := f"body.{sum(units)}.{conv}.weight") in tensors:
        wide = shape_of(tensors, name, 4)[0]
        if len(channels) == 1 or wide == channels[-1]:
            units[-1] += 1
        else:
            units.append(1)
        if len(channels) == len(units):
            channels.append(wide)
    squeeze = 0
    if backbone == "ir_se":
        narrow, wide, *_ = shape_of(tensors, "body.0.res_layer.5.fc1.weight", 4)
        squeeze = wide // max(narrow, 1)
    return tuple(channels), tuple(units), squeeze


def _codes(tensors: Mapping[str, np.ndarray], head: str) -> tuple[int, int]:
    """Number of layers that heads give a code of (0: one w), and numbers of a code."""
    if head == "pooled":
        return 0, shape_of(tensors, "linear.weight", 2)[0]
    if head == "linear":
        wide, w_dim = shape_of(tensors, "linear.weight", 2)
        return wide // max(w_dim, 1), w_dim
    styles = 0
    while f"styles.{styles}.linear.weight" in tensors:
        styles += 1
    if head == "pyramid" and styles <= PYRAMID[-1]:
        raise CheckpointError(
            f"the encoder has {styles} heads, expected more than {PYRAMID[-1]} on three maps: the "
            "file is cut"
        )
    return styles, shape_of(tensors, "styles.0.linear.weight", 2)[0]


def _depth(tensors: Mapping[str, np.ndarray]) -> int:
    depth = 0
    while f"styles.0.convs.{2 * depth}.weight" in tensors:
        depth += 1
    return depth


def _num_ws(file: TrainingFile, styles: int) -> int:
    """Layers of the generator; of more heads (cars of 512 px with an encoder of 1024 px) the first
    are used."""
    found = file.num_ws()
    if styles and found and found > styles:
        raise CheckpointError(
            f"the encoder gives codes of {styles!r} layers, and the generator beside it has "
            f"{found!r}: the file holds two models that do not belong together"
        )
    return found or styles


def size_of(file: TrainingFile, assumed: dict[str, str]) -> tuple[int, int]:
    """(height, width) of the images; told in `assumed` where the file does not state it."""
    kind = file.text("dataset_type")
    if kind is None:
        assumed["dataset_type"] = "not in the file: takes square images, not those of cars"
    return (CARS_HEIGHT if kind is not None and "cars" in kind else SIDE), SIDE


def _mean(
    file: TrainingFile, tensors: Mapping[str, np.ndarray], backbone: str, assumed: dict[str, str]
) -> np.ndarray | None:
    """What is added to the codes; None for nothing."""
    mean = file.latent_avg()
    refines = shape_of(tensors, first_of(backbone), 4)[1] == 6
    started = file.flag("start_from_latent_avg")
    if refines or file.text("encoder_type") in FROM_MEAN:
        started = True
    elif started is None:
        started = mean is not None
        assumed["start_from_latent_avg"] = (
            f"not in the file: {started}, as it holds {'a' if started else 'no'} 'latent_avg'"
        )
    if started and mean is None:
        raise CheckpointError(
            "codes of this encoder are offsets from the mean of w, and the file has no "
            "'latent_avg': write it again with torch.save and the mean of the generator that the "
            "encoder was trained with as 'latent_avg'"
        )
    return mean if started else None


def _rows(mean: np.ndarray | None, num_ws: int, w_dim: int, head: str) -> np.ndarray:
    """The mean of every layer, float (num_ws, w_dim), or of one w (1, w_dim)."""
    n = max(1, num_ws)
    if mean is None:
        return np.zeros((n, w_dim), np.float32)
    rows = mean.reshape(-1, mean.shape[-1]) if mean.size else mean
    one = len(rows) == 1 or (rows == rows[0]).all()
    if rows.ndim != 2 or rows.shape[1] != w_dim or not (one or len(rows) >= n):
        raise CheckpointError(
            f"'latent_avg' has shape {mean.shape!r}, and codes are of {n!r} x {w_dim!r}: the file "
            "holds the mean of another generator"
        )
    if head == "pooled" and not one:
        raise CheckpointError(
            "'latent_avg' is another in every layer, and the encoder gives one w for all: write "
            "the file again with one mean, (1, w_dim)"
        )
    return np.array(np.broadcast_to(rows[:1], (n, w_dim)) if one else rows[:n])
