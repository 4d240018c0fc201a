"""What steers a run from inside it: no `Exception`, so that nothing retries it or takes it for a failure.

Each is raised below user code or beside it, and caught at the end of the run, where it becomes a result or an
error that users know. None of them leaves the library.
"""

from typing import Any


class Paused(BaseException):
    """A node asked for a pause."""

    def __init__(self, payload: Any) -> None:
        super().__init__()
        self.payload = payload


class NotAsyncError(BaseException):
    """A lambda turned out not to give an awaitable: no failure of an item, but of the call that was given it."""


class JournalError(BaseException):
    """What was paid for cannot be kept, from what the store or the codec said: the run ends with the cause."""


class AttemptsSpentError(BaseException):
    """A failed attempt was the last that a run of a graph may make."""
