"""Valid generators, encoders, annotators and direction files, tiny, in every layout."""

from __future__ import annotations

import io
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzzing.seeds import Seed, seed_of

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tests")]

DIM, LAYERS = 8, 6
"""w_plus of the tests' tiny generators."""
GENERATOR_FP = "ab" * 32


def checkpoints(folder: Path) -> list[Seed]:
    """Generators in every layout that `read_checkpoint` names, and an encoder."""
    import torch
    from inversion_fixture import encoder_network
    from safetensors.torch import save_file
    from stylegan2_layouts import OfficialPackages, rosinality_state, tiny

    import generators
    from generators.encoders.load import save_encoder
    from generators.families.stylegan2.official_writer import write_official_pickle

    model = tiny()
    state = dict(model.network.state_dict())
    theirs = rosinality_state(model.tensors())
    rosinality = {"g_ema": theirs, "latent_avg": model.w_avg.clone()}

    def whole(path: Path) -> None:
        with OfficialPackages() as packages:
            torch.save(packages.network(model), path)

    def legacy(value: Any) -> Callable[[Path], None]:
        return lambda path: torch.save(value, path, _use_new_zipfile_serialization=False)

    def split(path: Path) -> None:
        names, folder = sorted(state), path.parent
        parts = {
            "g-00001-of-00002.safetensors": names[::2],
            "g-00002-of-00002.safetensors": names[1::2],
        }
        for file, held in parts.items():
            save_file({name: state[name] for name in held}, folder / file)
        places = {name: file for file, held in parts.items() for name in held}
        path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))

    grey = rosinality_state(tiny(img_channels=1).tensors())
    half = {name: value.to(torch.bfloat16) for name, value in state.items()}
    writers: list[tuple[str, str, str, Callable[[Path], Any]]] = [
        ("official pickle", "g.pkl", "pickle", lambda p: write_official_pickle(model, p)),
        ("official pickle by the official code", "o.pkl", "pickle",
         lambda p: OfficialPackages("EasyDict").write(model, p)),
        ("official network in a torch file", "n.pt", "zip", whole),
        ("rosinality .pt", "r.pt", "zip", lambda p: torch.save(rosinality, p)),
        ("rosinality .pt, legacy", "l.pt", "pickle", legacy(rosinality)),
        ("rosinality .pt without an average", "a.pt", "zip",
         lambda p: torch.save({"g_ema": theirs}, p)),
        ("state dict", "s.pt", "zip", lambda p: torch.save(state, p)),
        ("state dict, legacy", "t.pt", "pickle", legacy({"G_ema": state})),
        ("state dict in bfloat16", "b.pt", "zip", lambda p: torch.save({"g_ema": half}, p)),
        ("safetensors", "g.safetensors", "safetensors",
         lambda p: generators.save_safetensors(model, p)),
        ("safetensors, a state dict", "d.safetensors", "safetensors",
         lambda p: save_file(dict(state), p)),
        ("state dict under a prefix", "m.pt", "zip",
         lambda p: torch.save({f"module.{name}": value for name, value in state.items()}, p)),
        ("rosinality grey", "grey.pt", "zip", lambda p: torch.save({"g_ema": grey}, p)),
        ("official pickle with labels", "c.pkl", "pickle",
         lambda p: write_official_pickle(tiny(c_dim=3), p)),
        ("encoder", "encoder.safetensors", "safetensors",
         lambda p: save_encoder(encoder_network(), p)),
    ]  # fmt: skip
    writers.append(("safetensors, split", "g.safetensors.index.json", "json", split))
    seeds = []
    for name, file, codec, write in writers:
        own = folder / file.replace(".", "-")
        own.mkdir()
        write(own / file)
        targets = {file: codec}
        beside = own / f"{Path(file).stem}.json"
        if beside.exists():
            targets[beside.name] = "json"
        seeds.append(seed_of(name, own, file, targets))
    return seeds


def directions(folder: Path) -> list[Seed]:
    """A file in every layout of `generators.peers`, as the peers' own code writes it."""
    import torch
    from safetensors.numpy import save

    _finished_store(folder / "store")
    rng = np.random.default_rng(0)

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype("f4")

    def tensors(*shape: int) -> Any:
        return torch.from_numpy(numbers(*shape))

    def saved(write: Callable[..., None], *args: Any, **options: Any) -> bytes:
        memory = io.BytesIO()
        write(memory, *args, **options)
        return memory.getvalue()

    def torch_file(value: Any, zipped: bool = True) -> bytes:
        memory = io.BytesIO()
        torch.save(value, memory, _use_new_zipfile_serialization=zipped)
        return memory.getvalue()

    w = (1, DIM)
    expressions = [tensors(LAYERS * DIM) for _ in range(6)]
    steps = [tensors(2, 3, LAYERS, DIM), numbers(2), tensors(2, 3, LAYERS, DIM)]
    idinvert = {"boundary": numbers(1, LAYERS, DIM), "meta_data": {"manipulate_layers": "0-1,3"}}
    higan = {"boundary": numbers(*w), "meta_data": {"manipulate_layers": [0, 1]}}
    several = {"smile": numbers(LAYERS, DIM), "age": numbers(LAYERS, DIM)}
    about = {"space": "w_plus", "sd": 1.5, "layers": None, "generator_fp": GENERATOR_FP}
    facts = json.dumps({name: {**about, "method": "pca", "intercept": 0.5} for name in several})
    cache = {
        "act_comp": numbers(3, 4, 2, 2), "lat_comp": numbers(3, 1, DIM), "lat_mean": numbers(*w),
        "lat_stdev": np.float32([3, 2, 1]), "var_ratio": np.float32([0.5, 0.2, 0.1]),
    }  # fmt: skip
    one = {
        "name": "Hair style!", "component_index": 7, "lat_comp": numbers(*w), "edit_start": 1,
        "lat_stdev": np.float32(1.5), "edit_end": 4, "latent_space": "W", "model_name": "StyleGAN2",
    }  # fmt: skip
    pca = {"comp": tensors(2, 1, DIM), "mean": tensors(*w), "std": torch.ones(2)}
    easy = {"B": tensors(4, 3, 6), "alphas": tensors(5, 3)}
    files: list[tuple[str, str, str, bytes]] = [
        ("interfacegan", "age_w_boundary.npy", "npy", saved(np.save, numbers(*w).astype("f8"))),
        ("e4e", "pose.pt", "zip", torch_file(tensors(1, LAYERS, DIM))),
        ("e4e, legacy", "smile.pt", "pickle",
         torch_file(tensors(*w), zipped=False)),
        ("vector of codes", "wplus.npy", "npy", saved(np.save, numbers(LAYERS, DIM)[None])),
        ("vector, one a layer", "layers.npy", "npy", saved(np.save, numbers(LAYERS, DIM))),
        ("latentflow", "set.npz", "zip", saved(np.savez, facts=np.array(facts), **several)),
        ("latentflow, safetensors", "set.safetensors", "safetensors",
         save(several, metadata={"facts": facts})),
        ("named", "several.npz", "zip", saved(np.savez, **several)),
        ("named, safetensors", "several.safetensors", "safetensors", save(several)),
        ("named, torch file", "several.pt", "zip",
         torch_file({"smile": tensors(LAYERS, DIM), "age": tensors(DIM)})),
        ("idinvert, HiGAN", "indoor.npy", "npy", saved(np.save, higan, allow_pickle=True)),
        ("idinvert", "age.npy", "npy", saved(np.save, idinvert, allow_pickle=True)),
        ("anycost", "boundaries.pt", "zip",
         torch_file({"00_5_o_Clock_Shadow": tensors(*w), "31_Smiling": tensors(*w)})),
        ("ganspace", "cache.npz", "zip", saved(np.savez, **cache)),
        ("ganspace_direction", "hair.pkl", "pickle", pickle.dumps(one, 4)),
        ("ganspace_direction, protocol 2", "old.pkl", "pickle", pickle.dumps(one, 2)),
        ("ganspace_pca", "pca.pt", "zip", torch_file(pca)),
        ("sefa", "factor.pt", "zip", torch_file({"ckpt": "x.pt", "eigvec": tensors(DIM, 4)})),
        ("tensorgan", "expressions.pt", "zip", torch_file([expressions, tensors(LAYERS * DIM)])),
        ("h_pca", "pca-samples-10-n.pt", "zip", torch_file({"all": steps, "indv": steps})),
        ("h_jacobian", "num=2.pt", "zip", torch_file([tensors(2, 3), tensors(2, 3, 4, 2, 2)])),
        ("asyrp", "smile.pth", "zip", torch_file({t: tensors(4, 2, 2) for t in ("999", "0")})),
        ("rankonegan", "result.pt", "zip", torch_file(easy)),
        ("styleclip", "S_mean_std", "pickle", pickle.dumps([[numbers(3)], [numbers(3)]])),
    ]  # fmt: skip
    return [Seed(name, {file: data}, file, [(file, codec)]) for name, file, codec, data in files]


def cards(folder: Path) -> list[Seed]:
    """Annotators of every kind, with every key of a card somewhere."""
    import onnx
    from inversion_fixture import annotator

    statistics = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "range": [0, 1]}
    points, ibug = [f"p{i}" for i in range(5)], [f"p{i}" for i in range(68)]
    kinds: list[tuple[str, str, list[str], dict[str, Any]]] = [
        ("scores", "scores", ["smile", "glasses"], {"activation": "sigmoid"}),
        ("scores, softmax", "scores", ["a", "b", "c"],
         {"activation": "softmax", "input": {**statistics, "colour": "BGR"}}),
        ("landmarks in pixels", "landmarks", points, {"coordinates": "pixels", "axes": "xy"}),
        ("landmarks, ibug68", "landmarks", ibug,
         {"coordinates": "unit", "axes": "yx", "scheme": "ibug68", "layout": "NHWC"}),
        ("pose", "pose", ["yaw", "pitch", "roll"], {"input": {"resize": "bicubic"}}),
        ("presence", "landmarks", points,
         {"face": True, "coordinates": "indices",
          "presence": {"output": "face", "threshold": 0.1}}),
        ("fixed batch", "scores", ["smile"],
         {"batch": 1, "licence": "none", "source": "here", "input": {"resize": "nearest"}}),
    ]  # fmt: skip
    seeds = []
    for number, (name, kind, names, card) in enumerate(kinds):
        own = folder / str(number)
        own.mkdir()
        annotator(own, "model", kind, names, **card)
        targets = [("model.json", "json")] * 3 + [("model.onnx", "onnx")]
        seed = seed_of(name, own, "model.onnx", "onnx")
        seeds.append(Seed(name, seed.files, "model.onnx", targets))
    own = folder / "external"
    own.mkdir()
    path, _ = annotator(own, "model", "scores", ["smile", "glasses"])
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    targets = [("model.onnx", "onnx")] * 2 + [("model.json", "json"), ("model.data", "bytes")]
    whole = seed_of("weights in a file beside", own, "model.onnx", "onnx")
    seeds.append(Seed(whole.format, whole.files, "model.onnx", targets))
    return seeds


def _finished_store(path: Path) -> None:
    """Codes of a finished run, on which imported directions are measured."""
    import stores as stored

    from schemas.store.latent_store import ArraySpec

    arrays = [ArraySpec("latents", "w_plus", (LAYERS, DIM))]
    store = stored.create(path, 16, 16, arrays=arrays, generator_fp=GENERATOR_FP)
    codes = np.random.default_rng(1).normal(size=(16, LAYERS, DIM)).astype("f4")
    fp = stored.fp_of(store, 0)
    store.write_block("invert", 0, {"latents/w_plus": codes}, *stored.flags(16), fp)
