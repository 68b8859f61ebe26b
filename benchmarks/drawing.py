"""How fast pictures are drawn, beside the official modules, from the same random weights.

``python -m benchmarks.drawing --official DIR`` takes a checkout of NVlabs/stylegan3, which holds
the modules of StyleGAN3 and of StyleGAN2 (``git clone https://github.com/NVlabs/stylegan3 DIR``;
it must import in this environment, and nothing of it is copied). A model of 1024 px, 18 x 512
(StyleGAN3: config t, 16 x 512) is made there, pickled as official programs pickle it and read by
latentflow. Both then draw from the same codes in this process, in turn, ``--runs`` times, on the
CPU in float32 (``force_fp32``).

For each family: median pictures a second of both, ``ratio`` = official time / ours, and ``error``,
the largest difference of a pixel in standard deviations of the pictures. ``ratio`` at top level is
that of the family that is worst relative to what is wanted of it (`WANTED`). ``--smoke`` draws
small models beside themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import packaging.version
import torch
from torch import Tensor

import generators
from generators.protocols import Code, Generator
from pipelines.engine.memory import PeakMemory

WANTED = {"stylegan3": 0.97, "stylegan2": 1.5}
"""Least ratio of each family: StyleGAN2's official module draws by fused, grouped convolutions,
which are slow on a CPU."""
SETTINGS: dict[str, dict[str, Any]] = {
    "stylegan3": {"channel_base": 32768, "channel_max": 512, "magnitude_ema_beta": 0.999},
    "stylegan2": {"channel_base": 32768, "channel_max": 512, "num_fp16_res": 0},
}
MAPPING = {"stylegan3": 2, "stylegan2": 8}
LIMIT = 1e-4
"""Largest error with which the pictures count as the same."""

Draw = Callable[[Tensor], Tensor]


def official(folder: Path, family: str, resolution: int) -> Any:
    """The official module at random weights, buffers too, so that none of them is without effect.

    Raises ImportError where ``folder`` is no such checkout.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    if (
        "pkg_resources" not in sys.modules and find_spec("pkg_resources") is None
    ):  # which setuptools no longer brings
        stand_in: Any = ModuleType("pkg_resources")
        stand_in.parse_version = packaging.version.parse
        sys.modules["pkg_resources"] = stand_in
    module = import_module(f"training.networks_{family}")
    torch.manual_seed(0)
    model = module.Generator(
        z_dim=512, c_dim=0, w_dim=512, img_resolution=resolution, img_channels=3,
        mapping_kwargs={"num_layers": MAPPING[family]}, **SETTINGS[family],
    )  # fmt: skip
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("bias", "noise_strength")):
            value.data += 0.1 * torch.randn_like(value)
        if name.endswith("magnitude_ema"):
            value.data.fill_(0.5 + float(torch.rand([])))
    return model.eval().requires_grad_(False)


def small(family: str) -> Generator:
    """A small model of the family."""
    if family == "stylegan2":
        return generators.load("bundled:faces64")
    from generators.families.stylegan3.adapter import StyleGAN3Adapter
    from generators.families.stylegan3.design import design
    from generators.families.stylegan3.network import StyleGAN3

    torch.manual_seed(0)
    made = design(img_resolution=32, channel_max=16, z_dim=32, w_dim=32)
    return StyleGAN3Adapter(StyleGAN3(made.config, made.filters))


def pairs(options: argparse.Namespace) -> Iterator[tuple[str, Generator, Draw | None]]:
    """(family, our generator, what draws officially), one after the other; the latter is None
    where there is nothing but ours."""
    for family in options.families:
        if options.smoke:
            yield family, small(family), None
            continue
        model = official(options.official, family, options.resolution)
        with tempfile.TemporaryDirectory(prefix="drawing-") as folder:
            path = Path(folder) / f"{family}.pkl"
            path.write_bytes(pickle.dumps({"G_ema": model}))
            ours = generators.load(path)

        def draw(ws: Tensor, synthesis: Any = model.synthesis) -> Tensor:
            images: Tensor = synthesis(ws, noise_mode="const", force_fp32=True)
            return images

        yield family, ours, draw


def compared(ours: Draw, peer: Draw, codes: Sequence[Tensor]) -> dict[str, float]:
    """Median seconds a picture of both, drawn in turn, and how far the pictures differ."""
    seconds: dict[str, list[float]] = {"ours_s": [], "peer_s": []}
    error = 0.0
    for ws in codes:
        images = []
        for name, draw in (("ours_s", ours), ("peer_s", peer)):
            started = time.perf_counter()
            images.append(draw(ws))
            seconds[name].append((time.perf_counter() - started) / len(ws))
        apart = (images[0] - images[1]).abs().max() / images[1].std()
        error = max(error, float(apart))
    found = {name: statistics.median(values) for name, values in seconds.items()}
    return {**found, "ratio": found["peer_s"] / found["ours_s"], "error": error}


def measured(family: str, generator: Generator, peer: Draw | None, runs: int, batch: int) -> Any:
    """One row of the result. The first picture of each is drawn before the clock starts."""

    def ours(ws: Tensor) -> Tensor:
        return generator.draw(Code("w_plus", ws))

    draws = ours, ours if peer is None else peer
    seeds = range(batch * runs)
    codes = generator.sample("w_plus", list(seeds)).main.split(batch)
    with torch.no_grad():
        for draw in draws:
            draw(codes[0][:1])
        found = compared(*draws, codes)
    print(
        f"{family:<12}{1 / found['peer_s']:9.3f} -> {1 / found['ours_s']:9.3f} pictures/s   "
        f"x {found['ratio']:.2f} (wanted {WANTED[family]})   error {found['error']:.1e} sd",
        flush=True,
    )
    return {"name": family, **found, "wanted": WANTED[family]}


def main() -> int:
    """Draw, print; the exit code is 1 when pictures differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", type=Path, help="checkout of NVlabs/stylegan3")
    parser.add_argument("--families", nargs="+", choices=list(WANTED), default=list(WANTED))
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1, help="pictures drawn at once (default 1)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--smoke", action="store_true", help="small models beside themselves")
    options = parser.parse_args()
    if options.official is None and not options.smoke:
        parser.error("give --official, a checkout of NVlabs/stylegan3, or --smoke")
    torch.set_num_threads(options.threads)
    with PeakMemory() as memory:
        rows = [measured(*pair, options.runs, options.batch) for pair in pairs(options)]
    worst = min(rows, key=lambda row: row["ratio"] / row["wanted"])
    error = max(row["error"] for row in rows)
    result = {
        "name": "drawing",
        **{key: worst[key] for key in ("ours_s", "peer_s", "ratio")},
        "peak_mb": round(memory.peak / 1e6),
        "error": error,
        "cores": os.cpu_count(),
        "threads": options.threads,
        "batch": options.batch,
        "rows": rows,
    }
    print(json.dumps(result))
    return int(not error <= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
