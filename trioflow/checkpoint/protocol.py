"""Checkpoints, and the protocol of the stores that save them.

A store saves checkpoints of runs that go step by step, and items of runs that fan out. It does not interpret their
contents. A run belongs to its last claimant, whose epoch is the latest; a write with an older epoch is refused. A
child run belongs to its parent: it is claimed by the holder of the parent's epoch, and deleted with the parent.
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
"""The status of a run after a step.

In lists of runs only: `corrupt` if the stored run is damaged; and for a run submitted to a service, `queued` while
it waits to be executed, `parked` for a time or a signal, and `blocked` for a process that has its node.
"""

CHECKPOINT_VERSION = 2
"""The form of a `Checkpoint`: 2 has `kind` and `forked_from`."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The state of a run after one of its steps."""

    run_id: str
    """The run's id."""
    graph: str
    """The name of its graph, or the kind of pattern."""
    step: int
    """The number of complete steps."""
    node: str
    """The node that completed last; empty before the first."""
    next_node: str
    """The next node; empty if there is none."""
    iterations: int
    """Node attempts so far."""
    state: bytes
    """The encoded state."""
    status: RunStatus
    """The run's status."""
    pause: bytes | None
    """The encoded payload of a pause; None if the run is not paused."""
    created_at: float
    """When the step was first saved, in seconds since the epoch; saving it again does not change that."""
    kind: str = "graph"
    """The kind of run: `graph`, `chain` or `parallel`."""
    forked_from: str | None = None
    """The run that this one was forked from; None for an original run."""
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
    """The run's id."""
    step: int
    """The number of complete steps."""
    node: str
    """The node that completed last."""
    next_node: str
    """The next node."""
    iterations: int
    """Node attempts so far."""
    status: RunStatus
    """The run's status."""
    created_at: float
    """When the step was first saved, in seconds since the epoch; saving it again does not change that."""


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A stored run."""

    run_id: str
    """The run's id."""
    graph: str
    """The name of its graph, or the kind of pattern; empty if only items are stored."""
    kind: str = ""
    """The kind of run: `graph`, `chain` or `parallel`; empty if only items are stored."""
    status: RunStatus
    """The run's last status."""
    step: int
    """The number of complete steps."""
    items: int
    """The number of stored items."""
    created_at: float
    """When the run was first claimed, in seconds since the epoch."""
    updated_at: float
    """When the run was last saved, in seconds since the epoch."""
    parent: str | None = None
    """The parent run, in which this one was started; None for an outermost run."""
    forked_from: str | None = None
    """The run that this one was forked from; None for an original run."""
    reason: str | None = None
    """The reason of the status, if a service gave one: what the run waits for, or its error."""


@runtime_checkable
class CheckpointStore(Protocol):
    """Saves runs.

    Check an implementation with `trioflow.testing.CheckpointStoreConformance`. Every method is a Trio checkpoint,
    and what it has written survives a crash of the process once it has returned. Errors other than the ones named
    here are raised as `CheckpointStoreError`.
    """

    async def claim(self, run_id: str, *, parent: tuple[str, int] | None = None) -> int:
        """Claim a run and return its new epoch, higher than any that the store has issued before.

        The previous holder can no longer save the run, nor the runs inside it.

        Args:
            run_id: the run's id; an unknown run is created.
            parent: the id and the epoch of the parent run; None for an outermost run.

        Raises:
            CheckpointConflictError: the parent's epoch is not its latest, or the stored run has another parent, or
                has one and none was given.

        Cancellation: the run may have been claimed.
        """
        ...

    async def save(self, checkpoint: Checkpoint, epoch: int) -> None:
        """Save `checkpoint`, replacing one of the same step.

        Raises:
            CheckpointConflictError: `epoch` is not the run's latest, or the run was deleted.

        Cancellation: the checkpoint was saved whole, or not at all.
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
        """Return the stored steps of the run, oldest first; nothing for an unknown run.

        Cancellation: nothing is changed.
        """
        ...

    async def list_runs(self, *, after: str | None = None, limit: int | None = None) -> Sequence[RunInfo]:
        """Return the stored runs, in the order in which they were first claimed.

        A damaged run is listed as `corrupt`, and does not hide the others.

        Args:
            after: the last run id of the previous page; None starts with the first run.
            limit: the most runs to return, 1 or more; None returns all.

        Raises:
            CheckpointNotFoundError: there is no run `after`.

        Cancellation: nothing is changed.
        """
        ...

    async def delete(self, run_id: str, epoch: int | None = None) -> None:
        """Delete the run and the runs inside it; does nothing for an unknown run.

        Args:
            run_id: the run's id.
            epoch: delete the run only if this is its latest epoch; None deletes it in any case.

        Cancellation: the run was deleted whole, or not at all.
        """
        ...

    async def save_items(self, run_id: str, epoch: int, batch: Sequence[tuple[str, bytes]]) -> None:
        """Save items by key, replacing those of the same keys; all of `batch`, or nothing.

        Raises:
            CheckpointConflictError: `epoch` is not the run's latest, or the run was deleted.

        Cancellation: the batch was saved whole, or not at all.
        """
        ...

    async def load_items(self, run_id: str) -> Mapping[str, bytes]:
        """Return the items of the run by key; nothing for an unknown run.

        Raises:
            CheckpointCorruptError: one is damaged.

        Cancellation: nothing is changed.
        """
        ...

    async def aclose(self) -> None:
        """Close files and connections; idempotent.

        Cancellation: the store is still closed.
        """
        ...
