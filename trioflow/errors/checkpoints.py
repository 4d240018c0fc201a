"""What goes wrong with runs that are kept."""

from trioflow.errors.tree import TrioflowError

__all__ = (
    "CheckpointConflictError",
    "CheckpointCorruptError",
    "CheckpointEncodeError",
    "CheckpointError",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "CheckpointStoreError",
)


class CheckpointError(TrioflowError):
    """The root of what goes wrong with runs that are kept.

    Attributes:
        run_id: the run.
        value: what was paid for and could not be kept: the result of a call, the state after a step, or the
            `ParallelResult` of a fan-out; None where nothing was.
    """

    def __init__(self, message: str, *, run_id: str | None = None, value: object = None) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.value = value


class CheckpointNotFoundError(CheckpointError):
    """There is nothing to resume under this run id."""


class CheckpointConflictError(CheckpointError):
    """Somebody else goes on with this run."""


class CheckpointMismatchError(CheckpointError):
    """What is kept under this run id is not what it is to be used for."""


class CheckpointEncodeError(CheckpointError):
    """A value cannot be kept: it would not come back equal and of the same types. What was kept before stays."""


class CheckpointCorruptError(CheckpointError):
    """What was kept is damaged: it is not what was saved, or a part of it is missing."""


class CheckpointStoreError(CheckpointError):
    """A store cannot do its work: a file that cannot be opened or written, a disk that is full, a lock held."""
