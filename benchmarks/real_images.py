"""Real images end to end: 1,004 photographs-like faces with 5 broken files among them.

``python -m benchmarks.real_images [--images NPZ]`` writes the images of an .npz (its first array
of four axes, uint8 (n, 64, 64, 3)) as PNG files, adds 5 broken ones, exports the bundled generator
in the official pickle layout, and runs the command line on them. The exit code must be 3 (finished,
rows quarantined), every whole image must be ok and every broken one quarantined with its reason.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import generators
from generators.facerig import random_faces, render
from generators.families.stylegan2.official_writer import write_official_pickle

BROKEN = {
    "corrupt.png": lambda png: png[: len(png) // 2] + b"\0" * 40 + png[len(png) // 2 + 40 :],
    "truncated.png": lambda png: png[: len(png) // 3],
    "empty.png": lambda png: b"",
    "text.png": lambda png: b"this is not an image, only a file that is called one",
    "header.jpg": lambda png: b"\xff\xd8\xff\xe0" + b"\0" * 16,
}


def write_dataset(folder: Path, images: np.ndarray) -> None:
    """PNG files of `images` and the broken ones."""
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"face{i:05d}.png")
    whole = (folder / "face00000.png").read_bytes()
    for name, spoil in BROKEN.items():
        (folder / name).write_bytes(spoil(whole))


def spec_text(folder: Path, checkpoint: Path, out: Path) -> str:
    """The run: encoder inversion, all bundled annotators, PCA and hyperplanes."""
    bundled = "bundled:faces64"
    return f"""
name: real
dataset: {{path: "{folder}"}}
generator: "{checkpoint}"
encoder: {bundled}
invert: {{method: encoder, block_rows: 256}}
annotate:
  - {{name: attributes, model: "{bundled}/attributes"}}
  - {{name: pose, model: "{bundled}/pose"}}
analyse: {{pca: {{n_components: 32}}, svm: {{attributes: [happiness, glasses]}}}}
evaluate: {{samples: 20}}
max_quarantined: 0.2
output: "{out}"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="npz; default: 1,004 freely drawn rig faces")
    parser.add_argument("--smoke", action="store_true", help="40 images")
    args = parser.parse_args()
    if args.images is not None:
        archive = np.load(args.images, allow_pickle=False)
        name = next(k for k in archive.files if archive[k].ndim == 4)
        images = archive[name]
    else:
        images = render(random_faces(40 if args.smoke else 1004, seed=77)).images
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_dataset(root / "images", images)
        checkpoint = root / "network.pkl"
        write_official_pickle(generators.load("bundled:faces64"), checkpoint)
        spec = root / "real.yaml"
        spec.write_text(spec_text(root / "images", checkpoint, root / "out"))
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "pipelines", "run", str(spec)], check=False)
        seconds = time.monotonic() - started
        run = json.loads((root / "out" / "run.json").read_text())
        counts = run["counts"]
    print(f"exit code {done.returncode}, {seconds:.0f} s")
    print(f"rows ok {counts['ok']}, quarantined {counts['quarantined']}: {counts['reasons']}")
    right = done.returncode == 3 and counts["ok"] == len(images)
    right = right and counts["quarantined"] == len(BROKEN)
    row = {
        "name": "real_images",
        "ours_s": round(seconds, 2),
        "peer_s": None,
        "ratio": None,
        "peak_mb": run["peak_memory_mb"],
        "error": 0 if right else 1,
        "rows": [{"images": len(images), "exit_code": done.returncode, "counts": counts}],
    }
    print(json.dumps(row))
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
