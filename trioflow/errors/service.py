"""Exceptions of runs that a service executes."""

from trioflow.errors.tree import TrioflowError

__all__ = ("RemoteError", "RunCancelledError")


class RunCancelledError(TrioflowError):
    """The run was cancelled and has no result.

    Attributes:
        run_id: the run's id.
    """

    def __init__(self, message: str, *, run_id: str | None = None) -> None:
        super().__init__(message)
        self.run_id = run_id


class RemoteError(TrioflowError):
    """Stands for an exception that was raised in another process.

    Attributes:
        type: the name of its type, with the module unless it is a builtin.
        message: its message.
        traceback: its traceback as text.
    """

    def __init__(self, type: str, message: str, traceback: str = "") -> None:
        super().__init__(type, message, traceback)
        self.type = type
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"
