"""Tiny models and a tiny folder of images, for the tests and the kill benchmark."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import generators
from generators.encoders.w_plus import EncoderConfig, WPlusEncoder, save_encoder
from generators.families.stylegan2.adapter import StyleGAN2Adapter
from generators.families.stylegan2.network import StyleGAN2, StyleGAN2Config
from pipelines.folder.store_identity import StoreIdentity, identify
from pipelines.sources.folder import FolderSource
from schemas.index import DatasetIndex, NewRow
from schemas.sections.invert import invert_section

RESOLUTION, W_DIM = 16, 8
CONFIG = StyleGAN2Config(
    z_dim=W_DIM,
    w_dim=W_DIM,
    img_resolution=RESOLUTION,
    channel_base=128,
    channel_max=8,
    num_mapping_layers=2,
)


@dataclass(frozen=True)
class Setting:
    """A folder of images with its index, a generator, an encoder and annotators."""

    root: Path
    generator: str
    encoder: str
    source: FolderSource
    index: DatasetIndex

    def identity(self, root: Path, seed: int = 0, **spec) -> StoreIdentity:
        """The store under `root` that inverting with these settings fills."""
        return identify(
            root,
            invert_section({"block_rows": 64, "batch_size": 16, **spec}),
            name="tiny",
            seed=seed,
            generator_uri=self.generator,
            encoder_uri=self.encoder,
        )

    def file(self, row: int) -> Path:
        return Path(self.source.root) / self.index.uris[row]


def adapter(seed: int = 0) -> StyleGAN2Adapter:
    torch.manual_seed(seed)
    network = StyleGAN2(CONFIG)
    network.mapping.w_avg.copy_(torch.randn(W_DIM) * 0.1)
    return StyleGAN2Adapter(network)


def encoder_network(seed: int = 0) -> WPlusEncoder:
    torch.manual_seed(seed)
    return WPlusEncoder(EncoderConfig(RESOLUTION, (8, 8), 16, CONFIG.num_ws, W_DIM))


def drawn(n: int, seed: int) -> np.ndarray:
    """Smooth random images, uint8 (n, R, R, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    size = (RESOLUTION, RESOLUTION)
    return np.stack([np.asarray(Image.fromarray(c).resize(size)) for c in coarse])


def index_of(folder: Path) -> DatasetIndex:
    files = sorted(folder.iterdir())
    rows = [NewRow(hashlib.sha256(f.read_bytes()).hexdigest(), f.name) for f in files]
    return DatasetIndex.empty().append(rows)


def make(root: Path, n: int) -> Setting:
    """n images; row 3 is an empty file."""
    folder = root / "images"
    folder.mkdir(parents=True)
    for i, image in enumerate(drawn(n, seed=1)):
        Image.fromarray(image).save(folder / f"{i:05}.png")
    (folder / "00003.png").write_bytes(b"")
    generators.save_safetensors(adapter(), root / "generator.safetensors")
    save_encoder(encoder_network(), root / "encoder.safetensors")
    return Setting(
        root,
        str(root / "generator.safetensors"),
        str(root / "encoder.safetensors"),
        FolderSource(str(folder.resolve())),
        index_of(folder),
    )


def annotator(
    root: Path,
    name: str,
    kind: str,
    names: list[str],
    *,
    size: int = 8,
    batch: int | str = "n",
    layout: str = "NCHW",
    face: bool = False,
    input: dict[str, Any] | None = None,
    **card: Any,
) -> tuple[str, np.ndarray]:
    """A linear ONNX model ``flatten(image) @ weight``; returns its path and the weight.

    face : a second output, "face", is the mean of the input.
    """
    width = len(names) * (2 if kind == "landmarks" else 1)
    rng = np.random.default_rng(len(name))
    weight = (rng.standard_normal((3 * size * size, width)) / size).astype(np.float32)
    shape = [batch, 3, size, size] if layout == "NCHW" else [batch, size, size, 3]
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["result"]),
    ]
    outputs = [helper.make_tensor_value_info("result", TensorProto.FLOAT, [batch, width])]
    if face:
        nodes.append(helper.make_node("ReduceMean", ["flat"], ["face"], axes=[1], keepdims=1))
        outputs.append(helper.make_tensor_value_info("face", TensorProto.FLOAT, [batch, 1]))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        outputs,
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(graph, opset_imports=opset, ir_version=10), str(root / f"{name}.onnx")
    )
    write_card(root / f"{name}.json", name, kind, names, size, layout, input or {}, card)
    return str(root / f"{name}.onnx"), weight


def write_card(
    path: Path,
    name: str,
    kind: str,
    names: list[str],
    size: int,
    layout: str,
    input: dict[str, Any],
    more: dict[str, Any],
) -> None:
    given = {"name": "image", "size": size, "layout": layout, "range": [-1, 1], **input}
    card = {"name": name, "kind": kind, "output": "result", "names": names, "input": given, **more}
    path.write_text(json.dumps(card))


def tree(path: str | Path) -> dict[str, str]:
    """sha256 of every file below ``path``."""
    root = Path(path)
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }
