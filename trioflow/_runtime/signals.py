"""Exceptions that control a run from within: not `Exception`s, so nothing retries them or counts them as failures.

Each is raised below user code or beside it, and caught at the end of the run, where it becomes a result or a
public error. None of them leaves the library.
"""

from typing import Any


class Paused(BaseException):
    """A node asked for a pause."""

    def __init__(self, payload: Any) -> None:
        super().__init__()
        self.payload = payload


class Parked(BaseException):
    """A run is released until later: it waits for longer than it may stay in memory, or its service ends.

    Attributes:
        delay: seconds until it continues; None is not before the signal arrives.
        waits_for: the signal's name; None is no signal.
        reason: why, for people who look at the run.
    """

    def __init__(self, delay: float | None, waits_for: str | None = None, reason: str | None = None) -> None:
        super().__init__()
        self.delay = delay
        self.waits_for = waits_for
        self.reason = reason


class NotAsyncError(BaseException):
    """A call did not return an awaitable: not a failure of an item, but a wrong argument.

    The function is a lambda, which cannot declare what it returns, or a plain function with a wrong annotation.
    """


class JournalError(BaseException):
    """A result or a wait cannot be stored: the run ends with the cause, such as an error of the store."""


class AttemptsSpentError(BaseException):
    """A failed attempt was the last that the run of a graph may make."""
