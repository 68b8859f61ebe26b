"""Two finished runs of a tiny generator and of a changed one, written without Ray or Beam."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from inversion_fixture import adapter, annotator

import generators
from generators.families.stylegan2.adapter import StyleGAN2Adapter
from schemas.directions.direction_set import DirectionSet, unit_direction
from schemas.index import DatasetIndex, NewRow
from schemas.spec import parse_spec
from schemas.store.latent_store import ArraySpec, LatentStore
from schemas.store.reasons import Reason, Status

ROWS, BLOCK = 48, 16
LAYERS, WIDTH = 6, 8
NAMES = ["smile", "tilt"]
SPEC = """
name: NAME
dataset: {path: images}
generator: GENERATOR
invert: {method: optimise}
annotate: [{name: attributes, model: ATTRIBUTES}]
analyse: {sefa: {n_components: 2}}
output: out
"""


@dataclass(frozen=True)
class TwoRuns:
    """Specification files and run folders of both; turn : float64 (WIDTH, WIDTH)."""

    old: Path
    new: Path
    turn: np.ndarray
    codes: np.ndarray
    order: np.ndarray

    @property
    def old_run(self) -> Path:
        return self.old.parent / "out"

    @property
    def new_run(self) -> Path:
        return self.new.parent / "out"


def turned(base: StyleGAN2Adapter, turn: np.ndarray) -> StyleGAN2Adapter:
    """Draws from turn @ w, layer by layer, what `base` draws from w."""
    network = copy.deepcopy(base.network)
    with torch.no_grad():
        for part in base.style_slices:
            affine = network.synthesis.get_submodule(f"{part.name}.affine")
            affine.weight.copy_(affine.weight @ torch.from_numpy(turn.T.astype(np.float32)))
    return StyleGAN2Adapter(network)


def strongest(generator: StyleGAN2Adapter, codes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean gradient of the annotator's first score with respect to the code, (LAYERS, WIDTH)."""
    x = torch.from_numpy(codes).requires_grad_(True)
    images = generator.synthesise(x, "w_plus")
    small = torch.nn.functional.avg_pool2d(images.clamp(-1, 1), 2)
    (small.flatten(1) @ torch.from_numpy(weight[:, :1])).sum().backward()
    return x.grad.double().numpy().mean(axis=0)


def two_runs(root: Path, seed: int = 0, related: bool = True) -> TwoRuns:
    """The new space is the old one turned, with two images fewer and the rows in another order.

    related : else the new codes have nothing to do with the old ones.
    """
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    base = adapter()
    model, weight = annotator(root, "attributes", "scores", NAMES)
    codes = rng.normal(size=(ROWS, LAYERS, WIDTH)).astype("f4")
    order = rng.permutation(ROWS)[2:]
    moved = codes[order] @ turn.T.astype("f4")
    if not related:
        moved = rng.normal(size=moved.shape).astype("f4")
    smile = strongest(base, codes[:16], weight)
    still = rng.normal(size=smile.shape)
    still -= (still * smile).sum() / (smile**2).sum() * smile
    planted = {"svm.smile": (smile, "smile"), "svm.tilt": (smile @ turn, "smile"),
               "pca.000": (smile + 0.1 * still, None)}  # fmt: skip
    specs = []
    for name, generator, x, rows, by in (
        ("old", base, codes, np.arange(ROWS), np.eye(WIDTH)),
        ("new", turned(base, turn), moved, order, turn),
    ):
        folder = root / name
        folder.mkdir()
        generators.save_safetensors(generator, folder / "g.safetensors")
        text = SPEC.replace("NAME", name).replace("GENERATOR", str(folder / "g.safetensors"))
        (folder / "run.yaml").write_text(text.replace("ATTRIBUTES", model))
        directions = DirectionSet(generator.fingerprint, "w_plus")
        for key, (vector, target) in planted.items():
            directions.add(
                unit_direction(
                    key, "w_plus", vector @ by.T, method=key.split(".")[0], codes=x,
                    provenance={"target": target, "analysis": "sefa"},
                )
            )  # fmt: skip
        write_run(folder, x, [f"{row:064x}" for row in rows], directions)
        specs.append(folder / "run.yaml")
    return TwoRuns(specs[0], specs[1], turn, codes, order)


def write_run(
    folder: Path, codes: np.ndarray, ids: list[str], directions: DirectionSet
) -> LatentStore:
    """The folder of a finished run; its last row is quarantined."""
    out, name = folder / "out", f"{folder.name}-0123456789ab"
    spec = parse_spec((folder / "run.yaml").read_text(), folder)
    store = LatentStore.create(
        out / "stores" / name, name=folder.name, generator_fp=directions.generator_fp,
        method={"method": "optimise"}, seed=0, n_rows=len(codes), block_rows=BLOCK,
        arrays=[ArraySpec("latents", "w_plus", (LAYERS, WIDTH))], stages=["invert"],
    )  # fmt: skip
    status, reason = np.full(len(codes), Status.OK, "u1"), np.zeros(len(codes), "u1")
    status[-1], reason[-1] = Status.QUARANTINED, Reason.CORRUPT
    for block in range(store.n_blocks):
        rows = store.block_slice(block)
        identity = [(i, "active") for i in ids[rows]]
        fp = store.block_fp("invert", block, identity, 1)
        store.write_block(
            "invert", block, {"latents/w_plus": codes[rows]}, status[rows], reason[rows], fp
        )
    DatasetIndex.empty().append([NewRow(i, f"{i[-4:]}.png") for i in ids]).save(
        out / "index.parquet"
    )
    directions.save(out / "directions" / name)
    facts = {
        "name": folder.name,
        "spec": spec.model_dump(mode="json"),
        "index": "index.parquet",
        "store": f"stores/{name}",
        "directions": f"directions/{name}",
        "generator_fp": directions.generator_fp,
        "exit_code": 0,
    }
    (out / "run.json").write_text(json.dumps(facts))
    return store
