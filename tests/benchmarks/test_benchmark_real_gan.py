"""What the benchmark of a published GAN makes of a run's summary."""

import math

from benchmarks.real_gan import figures

SUMMARY = {
    "held_out_r2": {
        "linear.yaw": 0.74, "linear.pitch": 0.70, "linear.brightness": 0.73,
        "linear.mouth_opening": 0.43,
    },
    "edits": {
        "linear.yaw": {"down": {"yaw": -24.0, "pitch": 1.0}, "up": {"yaw": 23.0, "pitch": -0.5}}
    },
    "seconds": 400.0,
    "peak_memory_mb": 3000.0,
}  # fmt: skip


def missed(summary, drift=7.0, kept=2.0):
    return [figure.name for figure in figures(summary, drift, kept) if not figure.reached]


def test_every_figure_is_held_against_what_is_wanted():
    assert missed(SUMMARY) == []
    assert missed(SUMMARY, kept=4.0) == ["drift of yaw over that kept"]
    worse = {
        "held_out_r2": {**SUMMARY["held_out_r2"], "linear.pitch": 0.6},
        "edits": {
            "linear.yaw": {"down": {"yaw": -14.0, "pitch": 1.0}, "up": {"yaw": 23.0, "pitch": -4.0}}
        },
        "seconds": 601.0,
        "peak_memory_mb": 5000.0,
    }  # fmt: skip
    assert missed(worse) == [
        "R2 of pitch", "degrees of yaw by 2 sd", "degrees of pitch meanwhile", "seconds",
        "peak memory, MB",
    ]  # fmt: skip


def test_what_was_not_measured_is_not_reached():
    nothing = {**SUMMARY, "held_out_r2": {}, "edits": {}}
    assert len(missed(nothing, math.nan, math.nan)) == 7
    same_way = {"linear.yaw": {"down": {"yaw": 20.0, "pitch": 0}, "up": {"yaw": 20.0, "pitch": 0}}}
    assert missed({**SUMMARY, "edits": same_way}) == ["degrees of yaw by 2 sd"]
