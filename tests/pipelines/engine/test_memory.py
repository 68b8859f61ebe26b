"""What a worker's process keeps of the memory that it frees, and when circles are searched for."""

import gc
import subprocess
import sys

import pytest
from places import ROOT

from pipelines.engine.memory import uncollected

FAULTS = """
import resource
import numpy as np
from pipelines.engine.blocks import WorkActor

class Guard:
    def watch(self):
        pass

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        batch = np.ones(20_000_000, np.uint8) + 1
        del batch
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
elsewhere = faults()
WorkActor(None, Guard())
faults()
print(elsewhere, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_worker_uses_the_memory_of_its_last_batch_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    elsewhere, in_worker = map(int, done.stdout.split())
    assert in_worker < 500 < elsewhere


def test_circles_are_searched_for_again_after_rows_were_made():
    with pytest.raises(ZeroDivisionError), uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled()
        _ = 1 / 0
    assert gc.isenabled()
