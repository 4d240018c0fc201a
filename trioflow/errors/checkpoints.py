"""Exceptions of durable runs and checkpoint stores."""

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
    """Base of the errors of durable runs and checkpoint stores.

    Attributes:
        run_id: the run's id; None if the error concerns no single run.
        value: what could not be stored: the result of a call, the state after a step, or the `ParallelResult` of a
            fan-out; None if nothing was lost.
    """

    def __init__(self, message: str, *, run_id: str | None = None, value: object = None) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.value = value


class CheckpointNotFoundError(CheckpointError):
    """No run is stored under this id."""


class CheckpointConflictError(CheckpointError):
    """The run was claimed by another process, or deleted, since this one claimed it; the write was refused."""


class CheckpointMismatchError(CheckpointError):
    """The run stored under this id does not match the call: another kind, graph or input, or the id is taken."""


class CheckpointEncodeError(CheckpointError):
    """A value would not decode to an equal value of the same types; the previous checkpoint stays."""


class CheckpointCorruptError(CheckpointError):
    """A stored run is damaged: its contents differ from what was saved, or a part is missing."""


class CheckpointStoreError(CheckpointError):
    """A store failed: the file cannot be opened or written, the disk is full, or a lock is held."""
