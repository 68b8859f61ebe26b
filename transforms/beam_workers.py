"""Worker processes of Beam's own runner: a pipeline ends when one of them dies.

Beam notices a worker that dies in the middle of a bundle, but waits for ever for one that was
killed before it called in or between two bundles, and then for the others that have not called in
yet. Importing this module registers a handler of worker processes that answers in the dead
worker's place: with an error, which ends the pipeline.
"""

from __future__ import annotations

import threading
from typing import Any

from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    BeamFnControlServicer,
    SubprocessSdkWorkerHandler,
    WorkerHandler,
)

INTERVAL_S = 0.5


@WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class WatchedWorkerHandler(SubprocessSdkWorkerHandler):
    """A worker process whose instructions are answered by an error once it has ended."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._closed = threading.Event()

    def start_worker(self) -> None:
        """Start the process, and a thread that waits for its end."""
        super().start_worker()
        threading.Thread(target=self._watch, name="worker-watch", daemon=True).start()

    def close(self) -> None:
        """End the process; one that has not called in yet learns it when it does."""
        self._closed.set()
        if self.control_conn._state == BeamFnControlServicer.UNSTARTED_STATE:
            self.control_conn.push(BeamFnControlServicer._DONE_MARKER)
        super().close()

    def _watch(self) -> None:
        self.worker_thread.join()
        while not self._closed.wait(INTERVAL_S):  # instructions may still be given to it
            for instruction, future in list(self.control_conn._futures_by_id.items()):
                error = f"Beam's worker process {self.worker_id!r} ended before it had answered"
                response = beam_fn_api_pb2.InstructionResponse(
                    instruction_id=instruction, error=error
                )
                future.set(response)
                self.control_conn._futures_by_id.pop(instruction, None)
