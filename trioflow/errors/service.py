"""What goes wrong with runs that a service makes."""

from trioflow.errors.tree import TrioflowError

__all__ = ("RemoteError", "RunCancelledError")


class RunCancelledError(TrioflowError):
    """The run was cancelled, and has no result.

    Attributes:
        run_id: the run.
    """

    def __init__(self, message: str, *, run_id: str | None = None) -> None:
        super().__init__(message)
        self.run_id = run_id


class RemoteError(TrioflowError):
    """What was raised in another process: what is known of it here.

    Attributes:
        type: the name of the type that was raised, with its module unless it is Python's own.
        message: what it said.
        traceback: where it was raised there, as text.
    """

    def __init__(self, type: str, message: str, traceback: str = "") -> None:
        super().__init__(type, message, traceback)
        self.type = type
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"
