"""The benchmark of obtained annotators, in its smoke form, on faces of known pose."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.annotators_real import same_person
from tests.smoke import benchmark, smoke


def test_the_area_of_pairs_is_scikit_learn_s():
    rng = np.random.default_rng(0)
    vectors, person = rng.normal(size=(30, 4)).round(1), rng.integers(0, 5, 30)
    pairs = [(i, j) for i in range(30) for j in range(i)]
    same = [person[i] == person[j] for i, j in pairs]
    cosine = [vectors[i] @ vectors[j] for i, j in pairs]
    assert abs(same_person(vectors, person) - roc_auc_score(same, cosine)) < 1e-12


def test_drawn_faces_are_turned_to_the_side_they_were_drawn():
    printed, result = smoke("annotators_real")
    assert result["name"] == "annotators_real" and result["error"] == 0
    assert {"ours_s", "peer_s", "ratio", "peak_mb", "ms_per_face", "cores"} <= set(result)
    side = next(row for row in result["rows"] if "sign of yaw, held-out" in row["name"])
    assert side["value"] == 1 and side["of"] >= 4 and side["wanted"] == 0.97
    assert "pose: left, found, all people" in printed


def test_without_the_photographs_it_says_what_to_give(tmp_path):
    done = benchmark("annotators_real", "--data", str(tmp_path))
    assert done.returncode == 2 and "give --data, or --smoke" in done.stderr
