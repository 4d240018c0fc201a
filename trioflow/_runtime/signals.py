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


class Parked(BaseException):
    """A run is let go of until later: it waits for longer than it may stay in memory, or its service ends.

    Attributes:
        delay: seconds until it goes on; None is not before the signal comes.
        waits_for: the signal's name; None is none.
        reason: what to say of it.
    """

    def __init__(self, delay: float | None, waits_for: str | None = None, reason: str | None = None) -> None:
        super().__init__()
        self.delay = delay
        self.waits_for = waits_for
        self.reason = reason


class NotAsyncError(BaseException):
    """A call did not give the awaitable that it was to give: no failure of an item, but a wrong argument.

    Of a lambda, which cannot say what it gives, or of a plain function whose annotation is wrong.
    """


class JournalError(BaseException):
    """What was paid for cannot be kept, from what the store or the codec said: the run ends with the cause."""


class AttemptsSpentError(BaseException):
    """A failed attempt was the last that a run of a graph may make."""
