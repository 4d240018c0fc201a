"""The protocol of stores for services: a queue, leases, signals and timers, beside the saving of runs.

A submitted run has an entry beside its steps. The entry says when the run may be leased: at once, when a wait is
over, when its current lease expires, or not before a signal arrives. Leasing a run claims it, so the epoch that
guards its steps guards its entry too. Times are by the store's clock: a process never compares its clock with
another's. Each method is one transaction.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

from trioflow.checkpoint.protocol import Checkpoint, CheckpointStore, RunStatus

__all__ = (
    "ENDED",
    "EndStatus",
    "Lease",
    "LeaseGrant",
    "LeaseRequest",
    "Release",
    "ServiceRun",
    "ServiceStore",
    "WaitStatus",
)

EndStatus = Literal["completed", "failed", "cancelled"]
"""How a run that was submitted ended."""

WaitStatus = Literal["queued", "parked", "paused", "blocked"]
"""The statuses of runs without a holder that have not ended."""

ENDED: frozenset[RunStatus] = frozenset({"completed", "failed", "cancelled"})
"""The statuses of runs that have ended."""


class LeaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A process's request to renew its leases, and to get new ones."""

    graphs: Sequence[str]
    """The graphs whose runs it can execute."""
    room: int
    """How many more runs it can execute."""
    limits: Mapping[str, int]
    """The most concurrent runs of a graph, over all processes, by the graph's name."""
    lease: float
    """The duration of its leases, in seconds from now."""
    held: Sequence[tuple[str, int]] = ()
    """The runs that it holds, with their epochs."""
    refused: Sequence[str] = ()
    """Runs that it cannot execute, and that must not be granted to it."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was leased to a process."""

    run_id: str
    """The run."""
    graph: str
    """The graph that it is a run of."""
    epoch: int
    """The epoch under which its steps are saved."""
    is_cancelled: bool
    """Whether its cancellation was requested."""
    last: Checkpoint | None = None
    """Its last step as of the lease; None if it has to be loaded, such as one that is large or damaged."""


class LeaseGrant(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a `LeaseRequest`."""

    held: Mapping[str, bool]
    """The runs that the process still holds, and whether their cancellation was requested."""
    taken: Sequence[Lease]
    """The new leases."""
    next_due: float | None
    """Seconds until another run of its graphs becomes due; None is never."""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """How a process releases a run that has not ended."""

    status: WaitStatus
    """Why."""
    delay: float | None
    """Seconds until it may be leased again; None is not before its signal arrives."""
    waits_for: str | None = None
    """The name of the signal upon which it may be leased at once."""
    reason: str | None = None
    """The reason, for `RunInfo.reason`."""


class ServiceRun(msgspec.Struct, frozen=True, kw_only=True):
    """The current state of a submitted run."""

    run_id: str
    """The run."""
    graph: str
    """The graph that it is a run of."""
    status: RunStatus
    """Its status."""
    reason: str | None
    """The reason of its status."""
    outcome: bytes | None
    """Its outcome; None until it has ended."""
    last: Checkpoint | None = None
    """Its last step, if it is completed; None if it has to be loaded, such as one that is large or damaged."""


@runtime_checkable
class ServiceStore(CheckpointStore, Protocol):
    """A `CheckpointStore` that supports services.

    Check an implementation with `trioflow.testing.ServiceStoreConformance`. What a method has written survives a
    crash of the process once it has returned.
    """

    async def submit(self, checkpoint: Checkpoint, delay: float) -> None:
        """Store a new run at its first step; it may be leased in `delay` seconds.

        Raises:
            CheckpointMismatchError: a run of this id exists.

        Cancellation: the run was submitted whole, or not at all.
        """
        ...

    async def lease(self, request: LeaseRequest) -> LeaseGrant:
        """Renew the held leases, and lease due runs, first those whose lease has expired.

        Within a graph, the run that was due first is leased first. Leasing a run claims it. An expired lease is
        renewed if no other process has taken the run meanwhile.

        Cancellation: runs may have been leased; they become due again when the lease expires.
        """
        ...

    async def release(self, run_id: str, epoch: int, release: Release) -> None:
        """Release a run that has not ended.

        A run whose cancellation was requested is cancelled; one that waits for a signal that has arrived may be
        leased at once.

        Raises:
            CheckpointConflictError: `epoch` is not the run's latest, or the run was deleted.

        Cancellation: the run may have been released.
        """
        ...

    async def finish(
        self, run_id: str, epoch: int, status: EndStatus, outcome: bytes, reason: str | None = None
    ) -> None:
        """Store the outcome of the run, so that it is never leased again.

        Raises:
            CheckpointConflictError: `epoch` is not the run's latest, or the run was deleted.

        Cancellation: the outcome was stored whole, or not at all.
        """
        ...

    async def put_signal(self, run_id: str, name: str, payload: bytes) -> None:
        """Store a signal to a run, submitted or not; a run that waits for it may then be leased.

        Raises:
            CheckpointNotFoundError: there is no such run.
            CheckpointMismatchError: the run has ended.

        Cancellation: the signal may have been stored.
        """
        ...

    async def take_signal(self, run_id: str, epoch: int, name: str, wait: str) -> bytes | None:
        """Return the payload of the oldest signal of this name that no other wait has taken, or None.

        Args:
            run_id: the run.
            epoch: its epoch.
            name: the signal's name.
            wait: the identity of the wait; a wait that has taken a signal gets the same one again.

        Raises:
            CheckpointConflictError: `epoch` is not the run's latest, or the run was deleted.
            CheckpointCorruptError: the signal is damaged.

        Cancellation: the signal may have been taken; the same wait gets it again.
        """
        ...

    async def request_cancel(self, run_id: str) -> None:
        """Cancel a submitted run: at once if no process holds it, otherwise through its holder.

        A run that has ended stays as it is.

        Raises:
            CheckpointNotFoundError: no such run was submitted.

        Cancellation: the request may have been stored.
        """
        ...

    async def look(self, run_id: str) -> ServiceRun:
        """Return the current state of a submitted run.

        Raises:
            CheckpointNotFoundError: no such run was submitted.
            CheckpointCorruptError: its outcome is damaged.

        Cancellation: nothing is changed.
        """
        ...

    async def ended(self, run_ids: Sequence[str]) -> Sequence[str]:
        """Return those of the runs that have ended, and those that were not submitted, or were deleted.

        Cancellation: nothing is changed.
        """
        ...

    async def wait_for_change(self, since: int | None, poll: float) -> int:
        """Wait until something may have changed in the store since this method returned `since`.

        Args:
            since: an earlier return value; None returns at once.
            poll: seconds between two polls, for a store that does not notify.

        Cancellation: nothing is changed.
        """
        ...
