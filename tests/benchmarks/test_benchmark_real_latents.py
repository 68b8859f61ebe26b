"""The benchmark on real latents, in its smoke form, recovers what was planted."""

from __future__ import annotations

from tests.smoke import benchmark, smoke


def test_the_planted_set_is_recovered():
    _, result = smoke("real_latents")
    assert result["name"] == "real_latents" and result["error"] < 0.02
    assert {"ours_s", "peer_s", "ratio", "peak_mb", "rows", "cores", "threads"} <= set(result)
    by_part = {(row["part"], row["method"]): row for row in result["rows"]}
    majority = by_part["gender", "majority"]["accuracy"]
    assert by_part["gender", "hyperplane C=1"]["accuracy"] > majority + 0.1
    pixels = {
        method: row["pixels"] for (part, method), row in by_part.items() if part == "landmarks"
    }
    ridge, ours = pixels["ridge, latents to landmarks"], pixels["NRSfM + latent regressor"]
    assert ridge < 0.3 * pixels["mean"]
    assert ours < 0.5 * ridge  # pose is no linear function of the landmarks
    assert result["error"] == round(1 - by_part["tensor", "HOSVD"]["mean_cosine"], 4)


def test_without_the_data_it_says_what_to_give(tmp_path):
    done = benchmark("real_latents", "--data", str(tmp_path))
    assert done.returncode == 2 and "give --data, or --smoke" in done.stderr
