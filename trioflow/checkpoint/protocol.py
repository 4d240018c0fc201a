"""What a run leaves behind, and what a store has to do with it.

A store keeps checkpoints of runs that go step by step, and items of runs that fan out. It knows nothing of what is
in them. A run belongs to whoever claimed it last: its epoch is the latest, and what comes with an older one is
refused. A run inside a run belongs to its parent: it is claimed by the parent's holder, and goes when that goes.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

__all__ = (
    "CHECKPOINT_VERSION",
    "Checkpoint",
    "CheckpointInfo",
    "CheckpointStore",
    "RunInfo",
    "RunStatus",
    "kind_of_form_1",
)

RunStatus = Literal[
    "running", "completed", "paused", "failed", "cancelled", "corrupt", "queued", "parked", "blocked"
]
"""How a run stands after a step.

In a list of runs only: `corrupt`, what is kept of it is damaged; and of a run that was submitted to a service
`queued`, it waits for its turn, `parked`, for a time or a signal, `blocked`, for a process that knows its node.
"""

CHECKPOINT_VERSION = 2
"""The form of a `Checkpoint`: 2 has `kind` and `forked_from`."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A run after one of its steps."""

    run_id: str
    """The run."""
    graph: str
    """The graph that it is a run of, or the kind of pattern."""
    step: int
    """How many steps were complete."""
    node: str
    """The node that completed last; empty before the first."""
    next_node: str
    """The node that is next; empty where there is none."""
    iterations: int
    """Node attempts so far."""
    state: bytes
    """The encoded state."""
    status: RunStatus
    """How the run stood."""
    pause: bytes | None
    """The encoded payload of a pause; None where there was none."""
    created_at: float
    """When it was made, in seconds since the epoch."""
    kind: str = "graph"
    """What kind of run it is: `graph`, `chain` or `parallel`."""
    forked_from: str | None = None
    """The run that this one was forked from; None for one that began anew."""
    version: int = CHECKPOINT_VERSION
    """The form of this struct."""
    digest: str = ""
    """The hex SHA-256 of all other fields."""


def kind_of_form_1(graph: str) -> str:
    """Return the kind of a run that was saved in form 1, which had it in the graph's name."""
    return {"a fan-out": "parallel", "a chain": "chain"}.get(graph, "graph")


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint without its state, for a history."""

    run_id: str
    """The run."""
    step: int
    """How many steps were complete."""
    node: str
    """The node that completed last."""
    next_node: str
    """The node that is next."""
    iterations: int
    """Node attempts so far."""
    status: RunStatus
    """How the run stood."""
    created_at: float
    """When it was made, in seconds since the epoch."""


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A run that a store keeps something of."""

    run_id: str
    """The run."""
    graph: str
    """The graph that it is a run of, or the kind of pattern; empty where only items are kept."""
    kind: str = ""
    """What kind of run it is: `graph`, `chain` or `parallel`; empty where only items are kept."""
    status: RunStatus
    """How the run stood last."""
    step: int
    """How many steps were complete."""
    items: int
    """How many items are kept."""
    created_at: float
    """When the run was claimed first, in seconds since the epoch."""
    updated_at: float
    """When something of it was saved last."""
    parent: str | None = None
    """The run in which this one was begun; None for one that stands by itself."""
    forked_from: str | None = None
    """The run that this one was forked from; None for one that began anew."""
    reason: str | None = None
    """Why it stands so, where a service says it: what it waits for, or what it failed with."""


@runtime_checkable
class CheckpointStore(Protocol):
    """Where runs are kept.

    A store can be checked against `trioflow.testing.CheckpointStoreConformance`. Every method is a checkpoint, and
    what it wrote survives a crash of the process once it has returned. What a method raises beside the errors
    named here is a `CheckpointStoreError`.
    """

    async def claim(self, run_id: str, *, parent: tuple[str, int] | None = None) -> int:
        """Make the caller the one who may save, and return its epoch: higher than any the store gave out before.

        Whoever had the run, or a run inside it, may save there no more.

        Args:
            run_id: the run; one that is not there is made.
            parent: the id and the epoch of the run in which this one is begun; None for a run by itself.

        Raises:
            CheckpointConflictError: the parent's epoch is not its latest, or the run that is there has another
                parent, or has one and none was given.

        Cancellation: the run may have been claimed.
        """
        ...

    async def save(self, checkpoint: Checkpoint, epoch: int) -> None:
        """Keep `checkpoint`, in place of one of the same step.

        Raises:
            CheckpointConflictError: `epoch` is not the run's latest, or the run was deleted.

        Cancellation: the checkpoint was kept whole, or not at all.
        """
        ...

    async def load(self, run_id: str, step: int | None = None) -> Checkpoint:
        """Return the checkpoint of `step`, or the latest.

        Raises:
            CheckpointNotFoundError: there is none.
            CheckpointCorruptError: it is damaged.

        Cancellation: nothing is changed.
        """
        ...

    async def history(self, run_id: str) -> Sequence[CheckpointInfo]:
        """Return what is kept of the run's steps, oldest first; nothing for a run that is not there.

        Cancellation: nothing is changed.
        """
        ...

    async def list_runs(self, *, after: str | None = None, limit: int | None = None) -> Sequence[RunInfo]:
        """Return the runs that something is kept of, in the order in which they were claimed first.

        A run that is damaged is listed as `corrupt`, and keeps nobody from seeing the others.

        Args:
            after: the last run of the page before; None begins with the first.
            limit: how many to return at most, 1 or more; None returns all.

        Raises:
            CheckpointNotFoundError: there is no run `after`.

        Cancellation: nothing is changed.
        """
        ...

    async def delete(self, run_id: str, epoch: int | None = None) -> None:
        """Forget the run and the runs inside it; one that is not there makes no difference.

        Args:
            run_id: the run.
            epoch: forget it only if this is its latest epoch; None forgets it whoever has it.

        Cancellation: the run was forgotten whole, or not at all.
        """
        ...

    async def save_items(self, run_id: str, epoch: int, batch: Sequence[tuple[str, bytes]]) -> None:
        """Keep items by key, in place of former ones of the same keys; all of `batch`, or nothing.

        Raises:
            CheckpointConflictError: `epoch` is not the run's latest, or the run was deleted.

        Cancellation: the batch was kept whole, or not at all.
        """
        ...

    async def load_items(self, run_id: str) -> Mapping[str, bytes]:
        """Return the items of the run by key; nothing for a run that is not there.

        Raises:
            CheckpointCorruptError: one is damaged.

        Cancellation: nothing is changed.
        """
        ...

    async def aclose(self) -> None:
        """Let go of files and connections; closing again does nothing.

        Cancellation: it is closed all the same.
        """
        ...
