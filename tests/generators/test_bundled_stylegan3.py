"""The bundled StyleGAN3: a face that its encoder sees is drawn where it is, and turned as it is."""

from __future__ import annotations

import numpy as np
import torch

import generators
from generators.annotators import load_annotator
from generators.encoders.load import load_encoder
from generators.facerig import random_faces, render
from generators.protocols import Code
from pipelines.training.data import as_input
from transforms.images.preprocess import to_uint8


def test_faces_of_known_landmarks_and_pose_are_drawn_with_them():
    faces = random_faces(16, seed=77)
    truth = render(faces, 64, 1)
    model, encoder = generators.load("bundled:faces64t"), load_encoder("bundled:faces64t")
    assert model.facts.family == "stylegan3" and model.facts.size == (64, 64)
    assert encoder.space == model.facts.default_space
    with torch.no_grad():
        codes = encoder.encode(as_input(truth.images))
        drawn = to_uint8(model.draw(Code("w_plus", codes)).numpy())
    assert torch.equal(codes, codes[:, :1].expand_as(codes))  # all layers have the same w
    found = load_annotator("bundled:faces64/landmarks").annotate(drawn)
    assert np.linalg.norm(found - truth.landmarks, axis=2).mean() < 1.7
    yaw = load_annotator("bundled:faces64/pose").annotate(drawn)[:, 0]
    assert np.abs(yaw - faces.column("yaw")).mean() < 5
