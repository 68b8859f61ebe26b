"""Edit rows along a direction of a run: python examples/apply_direction.py SPEC NAME PNG"""

import sys

import numpy as np
from PIL import Image

import generators
from pipelines.downstream.finished_run import FinishedRun
from pipelines.evaluation.strips import edit_images
from schemas.spec import load_spec

spec, name, out = sys.argv[1:]

run = FinishedRun.of(load_spec(spec))
generator = generators.load(run.spec.generator)
direction = run.direction(name)  # a unit vector, with its standard deviation and its history
pictures = edit_images(generator, run.codes([0, 1, 2]), direction, [-2, 0, 2])
Image.fromarray(np.concatenate(np.concatenate(pictures, axis=1), axis=1)).save(out)
