"""What the demonstration on published models tells of its run."""

from types import SimpleNamespace

from pipelines.demo.real import _lines, summarise


def folder():
    """A run of one regression, and one direction that is none."""
    entry = {
        "name": "linear.yaw", "method": "regression",
        "pose": {"yaw": [-20.0, -9.0, 1.0, 12.0, 24.0], "pitch": [2.0, 2.0, 2.0, 2.0, None]},
        "quantities": {"brightness": [0.25, 0.5, 0.5, 0.5, 0.75]},
    }  # fmt: skip
    other = {"name": "pca.000", "method": "pca", "pose": {"yaw": [0.0] * 5}}
    evaluation = {
        "strengths": [-2.0, -1.0, 0.0, 1.0, 2.0], "directions": [other, entry], "svm": [],
        "nrsfm": {},
    }  # fmt: skip
    directions = [
        SimpleNamespace(name="linear.yaw", quality={"held_out_r2": 0.75}),
        SimpleNamespace(name="pca.000", quality={}),
    ]
    run = {"peak_memory_mb": 2048, "stages": [{"name": "invert", "seconds": 3.0}]}
    store = SimpleNamespace(n_rows=10)
    return SimpleNamespace(
        needed=lambda name, value: value,
        store=store,
        directions=directions,
        evaluation=evaluation,
        run=run,
    )


def test_edits_are_told_each_way_from_the_picture_before():
    made = folder()
    found = summarise(made)
    assert found["held_out_r2"] == {"linear.yaw": 0.75}
    assert found["edits"] == {
        "linear.yaw": {
            "down": {"yaw": -21.0, "pitch": 0.0, "brightness": -0.25},
            "up": {"yaw": 23.0, "brightness": 0.25},
        }
    }
    assert found["stages"] == {"invert": 3.0} and found["rows"] == 10
    lines = _lines({**found, "seconds": 61.2})
    assert lines == [
        "10 rows in 61 s, peak memory 2.0 GB",
        "yaw: R2 on held-out rows 0.750, -21 and +23 at -2 and +2 sd",
    ]
