"""``python -m pipelines.training --work runs/training``: everything bundled, from nothing.

Each part resumes where it was interrupted.
"""

import argparse
import logging
from pathlib import Path

from pipelines.training import (
    annotators,
    brightness,
    bundle,
    gan,
    mapping,
    perceptual,
    stylegan3,
    stylegan3_bundle,
)


def main() -> None:
    """Train generator and encoder, then the annotators, then write them with their cards; the
    feature network, which needs none of them; last the StyleGAN3, which learns what they see."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/training"))
    parser.add_argument("--out", type=Path, default=bundle.BUNDLED)
    parser.add_argument("--images", type=int, default=48_000)
    parser.add_argument("--gan-steps", type=int, default=12_000)
    parser.add_argument("--adversarial-from", type=int, default=8_000)
    parser.add_argument("--mapping-steps", type=int, default=4_000)
    parser.add_argument("--feature-steps", type=int, default=3_000)
    parser.add_argument("--annotator-steps", type=int, default=6_000)
    parser.add_argument("--stylegan3-images", type=int, default=24_000)
    parser.add_argument("--stylegan3-steps", type=int, default=4_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--photographs",
        type=Path,
        nargs="*",
        default=[],
        help="files .npz with 'images', on which the feature network is measured, too",
    )
    parts = ["features", "gan", *gan.STAGES, "mapping", "annotators"]
    parts += ["brightness", "bundle", "perceptual", "stylegan3"]
    parser.add_argument("--only", choices=parts)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.work.mkdir(parents=True, exist_ok=True)
    if args.only in (None, "features"):
        annotators.train_features(args.work, args.images, args.feature_steps, 11, args.threads)
    if args.only in (None, "gan"):
        gan.train(args.work, args.images, args.gan_steps, args.adversarial_from, 7, args.threads)
    for stage in gan.STAGES:
        if args.only in (None, stage):
            gan.train_stage(stage, args.work, args.images, args.threads)
    if args.only in (None, "mapping"):
        mapping.fit_mapping(args.work, args.images, args.mapping_steps, 13, args.threads)
    if args.only in (None, "annotators"):
        redraw = gan.load_pair(args.work).redraw
        annotators.train(args.work, redraw, args.images, args.annotator_steps, 12, args.threads)
    if args.only in (None, "brightness"):
        brightness.write_brightness(args.out.parent / "pictures")
    if args.only in (None, "bundle"):
        bundle.write_bundle(args.work, args.out)
    if args.only in (None, "perceptual"):
        out = args.out.parent / perceptual.FEATURES.name
        perceptual.write(args.work, out, args.photographs)
    if args.only in (None, "stylegan3"):
        seen = args.out / "encoder.safetensors"
        material = stylegan3.Material.prepared(args.work, seen, args.stylegan3_images)
        stylegan3.train(args.work, material, args.stylegan3_steps, args.threads)
        stylegan3.fit_mapping(args.work, material, args.mapping_steps, args.threads)
        out = args.out.parent / stylegan3_bundle.BUNDLED.name
        stylegan3_bundle.write_bundle(args.work, out, args.out, material)


if __name__ == "__main__":
    main()
