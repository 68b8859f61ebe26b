"""Models that analyses draw and measure with, loaded once a process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from schemas.errors import UsageError

Model = TypeVar("Model")


class LoadedOnce(Generic[Model]):
    """The last model that was asked for. One at a time: they are large."""

    def __init__(self, fingerprint_of: Callable[[Model], str]) -> None:
        self._fingerprint_of = fingerprint_of
        self._lock = threading.Lock()
        self._held: tuple[str, Model] | None = None

    def get(
        self, fingerprint: str, load: Callable[[], Model], changed: Callable[[str], str]
    ) -> Model:
        """The model of this fingerprint.

        changed : what to say of the fingerprint that the file has now. Raises UsageError with that
        text where it is another one.
        """
        with self._lock:
            if self._held is None or self._held[0] != fingerprint:
                model = load()
                found = self._fingerprint_of(model)
                if found != fingerprint:
                    raise UsageError(changed(found))
                self._held = fingerprint, model
            return self._held[1]
