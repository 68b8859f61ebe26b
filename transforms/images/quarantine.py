"""The signal that one image, not the run, has failed."""

from __future__ import annotations

from schemas.errors import InputError
from schemas.store.reasons import Reason


class Quarantine(InputError):
    """One image cannot be used; the run goes on without it.

    reason : schemas.store.reasons.Reason, stored in the row's ``reason/<stage>`` cell
    text : what is wrong with the file, for the log and the report
    """

    kind = "quarantine"

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = Reason(reason)
        self.text = text

    def __reduce__(self) -> tuple[type[Quarantine], tuple[Reason, str]]:
        return type(self), (self.reason, self.text)
