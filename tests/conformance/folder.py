"""A tiny folder of images, with a generator and an encoder: what the suites invert."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import generators
from generators.encoders.load import save_encoder
from generators.encoders.w_plus_encoder.network import EncoderConfig, WPlusEncoder
from generators.families.base import Stored
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
    encoder: str | None
    source: FolderSource
    index: DatasetIndex

    def identity(self, root: Path, seed: int = 0, **spec: Any) -> StoreIdentity:
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


def make(root: Path, n: int, generator: Stored | None = None) -> Setting:
    """n images, of which row 3 is an empty file; of another generator than ours without encoder."""
    folder = root / "images"
    folder.mkdir(parents=True)
    for i, image in enumerate(drawn(n, seed=1)):
        Image.fromarray(image).save(folder / f"{i:05}.png")
    (folder / "00003.png").write_bytes(b"")
    generators.save_safetensors(generator or adapter(), root / "generator.safetensors")
    if generator is None:
        save_encoder(encoder_network(), root / "encoder.safetensors")
    return Setting(
        root,
        str(root / "generator.safetensors"),
        str(root / "encoder.safetensors") if generator is None else None,
        FolderSource(str(folder.resolve())),
        index_of(folder),
    )


def tree(path: str | Path) -> dict[str, str]:
    """sha256 of every file below ``path``."""
    root = Path(path)
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }
