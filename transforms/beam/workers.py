"""Worker processes of Beam's own runner: where a path has spaces, and when one of them ends.

Beam starts a worker by a line for the shell, which a space in the interpreter's path cuts in two.
And it notices a worker that dies in the middle of a bundle, but waits for ever for one that ended
before it called in or between two bundles, and then for the others that have not called in yet.
Importing this module registers a handler of worker processes that quotes the line, and that answers
in the ended worker's place: with an error, which ends the pipeline.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    BeamFnControlServicer,
    SubprocessSdkWorkerHandler,
    WorkerHandler,
)
from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker

INTERVAL_S = 0.5


@WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class WatchedWorkerHandler(SubprocessSdkWorkerHandler):
    """A worker process whose instructions are answered by an error once it has ended."""

    def __init__(self, command: bytes, *arguments: Any) -> None:
        self._said = tempfile.NamedTemporaryFile(prefix="latentflow-worker-")
        super().__init__(shell_line(command, self._said.name), *arguments)
        self._closed = threading.Event()

    def start_worker(self) -> None:
        """Start the process, and a thread that waits for its end."""
        self.worker = SubprocessSdkWorker(
            self._worker_command_line, self.control_address, self.provision_info, self.worker_id
        )
        self.worker_thread = threading.Thread(name="run_worker", target=self._run)
        self.worker_thread.start()
        threading.Thread(target=self._watch, name="worker-watch", daemon=True).start()

    def close(self) -> None:
        """End the process; one that has not called in yet learns it when it does."""
        self._closed.set()
        if self.control_conn._state == BeamFnControlServicer.UNSTARTED_STATE:
            self.control_conn.push(BeamFnControlServicer._DONE_MARKER)
        super().close()
        self._said.close()

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):  # of a worker that failed: `_watch` tells of it
            self.worker.run()

    def _watch(self) -> None:
        self.worker_thread.join()
        while not self._closed.wait(INTERVAL_S):  # instructions may still be given to it
            for instruction, future in list(self.control_conn._futures_by_id.items()):
                response = beam_fn_api_pb2.InstructionResponse(
                    instruction_id=instruction, error=self._ended()
                )
                future.set(response)
                self.control_conn._futures_by_id.pop(instruction, None)

    def _ended(self) -> str:
        """What there is to say of a worker that has ended: its last words, too."""
        text = f"Beam's worker process {self.worker_id!r} ended before it had answered"
        said = Path(self._said.name).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        return f"{text}; the last that it wrote is: {last}" if last else text


def shell_line(command: bytes, errors: str) -> bytes:
    """Beam's line that starts a worker with the interpreter's path quoted, the shell's process
    taken over, and standard error written to the file ``errors``."""
    given = command.decode("utf-8")
    if not given.startswith(f"{sys.executable} "):
        return command
    options = given.removeprefix(sys.executable)
    return f"exec {shlex.quote(sys.executable)}{options} 2>{shlex.quote(errors)}".encode()
