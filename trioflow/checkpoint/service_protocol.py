"""What a store has to do beside keeping runs, so that a service can make them: a queue, leases, signals, timers.

A run that was submitted has an entry beside what is kept of its steps. The entry says when the run may be taken:
at once, when a wait is over, when the lease of whoever has it ends, or not before a signal comes. To take a run is
to claim it, so the epoch that guards its steps guards its entry, too. Times are the store's own: a process never
compares its clock with another's. Each method is one transaction.
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
"""Why nobody has a run that has not ended."""

ENDED: frozenset[RunStatus] = frozenset({"completed", "failed", "cancelled"})
"""The statuses of runs that have ended."""


class LeaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a process asks for: to keep the runs that it has, and to be given others."""

    graphs: Sequence[str]
    """The graphs whose runs it can make."""
    room: int
    """How many more runs it can make."""
    limits: Mapping[str, int]
    """How many runs of a graph may be made at once, over all processes."""
    lease: float
    """Seconds from now until which its runs are nobody else's."""
    held: Sequence[tuple[str, int]] = ()
    """The runs that it has, with their epochs."""
    refused: Sequence[str] = ()
    """Runs that it cannot make, and that are not to be given to it."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was given to a process."""

    run_id: str
    """The run."""
    graph: str
    """The graph that it is a run of."""
    epoch: int
    """The epoch under which its steps are saved."""
    is_cancelled: bool
    """Whether its cancellation was asked for."""
    last: Checkpoint | None = None
    """Its last step, as it was when it was given; None is to be loaded, such as one that is large or damaged."""


class LeaseGrant(msgspec.Struct, frozen=True, kw_only=True):
    """What a process was given."""

    held: Mapping[str, bool]
    """Of the runs that it had, those that it still has, and whether their cancellation was asked for."""
    taken: Sequence[Lease]
    """The runs that it was given."""
    next_due: float | None
    """Seconds until another run of its graphs may be taken by time alone; None is never."""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """How a process lets go of a run that has not ended."""

    status: WaitStatus
    """Why."""
    delay: float | None
    """Seconds until it may be taken again; None is not before what it waits for comes."""
    waits_for: str | None = None
    """The name of the signal that lets it be taken at once."""
    reason: str | None = None
    """What to say of it."""


class ServiceRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was submitted, as it stands."""

    run_id: str
    """The run."""
    graph: str
    """The graph that it is a run of."""
    status: RunStatus
    """How it stands."""
    reason: str | None
    """What is to be said of it."""
    outcome: bytes | None
    """What it ended with; None until it has ended."""
    last: Checkpoint | None = None
    """Its last step, where it is completed; None is to be loaded, such as one that is large or damaged."""


@runtime_checkable
class ServiceStore(CheckpointStore, Protocol):
    """A `CheckpointStore` that can keep the runs of a service.

    It can be checked against `trioflow.testing.ServiceStoreConformance`. What a method wrote survives a crash of
    the process once it has returned.
    """

    async def submit(self, checkpoint: Checkpoint, delay: float) -> None:
        """Keep a new run at its first step, and let it be taken in `delay` seconds.

        Raises:
            CheckpointMismatchError: there is a run of this id.

        Cancellation: the run was submitted whole, or not at all.
        """
        ...

    async def lease(self, request: LeaseRequest) -> LeaseGrant:
        """Prolong the leases that are held, and take runs that may be taken, those first whose lease has ended.

        Of a graph, the run that was due first is taken first. One that is taken is claimed. A lease that has ended
        is prolonged where nobody has taken the run meanwhile.

        Cancellation: runs may have been taken; they come back when their lease ends.
        """
        ...

    async def release(self, run_id: str, epoch: int, release: Release) -> None:
        """Let go of a run that has not ended.

        One whose cancellation was asked for is cancelled; one that waits for a signal which is there may be taken
        at once.

        Raises:
            CheckpointConflictError: `epoch` is not the run's latest, or the run was deleted.

        Cancellation: the run was let go of, or not.
        """
        ...

    async def finish(
        self, run_id: str, epoch: int, status: EndStatus, outcome: bytes, reason: str | None = None
    ) -> None:
        """Keep what the run ended with, and let nobody take it again.

        Raises:
            CheckpointConflictError: `epoch` is not the run's latest, or the run was deleted.

        Cancellation: the outcome was kept whole, or not at all.
        """
        ...

    async def put_signal(self, run_id: str, name: str, payload: bytes) -> None:
        """Keep a signal to a run, which may have been submitted or not; one that waits for it may be taken.

        Raises:
            CheckpointNotFoundError: there is no such run.
            CheckpointMismatchError: the run has ended.

        Cancellation: the signal was kept, or not.
        """
        ...

    async def take_signal(self, run_id: str, epoch: int, name: str, wait: str) -> bytes | None:
        """Return the payload of the oldest signal of this name that no other wait has taken; None where none is.

        Args:
            run_id: the run.
            epoch: its epoch.
            name: the signal's name.
            wait: who takes it: a wait that has taken one is given it again.

        Raises:
            CheckpointConflictError: `epoch` is not the run's latest, or the run was deleted.
            CheckpointCorruptError: the signal is damaged.

        Cancellation: the signal may have been taken; the same wait is given it again.
        """
        ...

    async def request_cancel(self, run_id: str) -> None:
        """Cancel a run that was submitted: at once where nobody has it, else by whoever has it.

        One that has ended stays as it is.

        Raises:
            CheckpointNotFoundError: no such run was submitted.

        Cancellation: the cancellation was asked for, or not.
        """
        ...

    async def look(self, run_id: str) -> ServiceRun:
        """Return how a run that was submitted stands.

        Raises:
            CheckpointNotFoundError: no such run was submitted.
            CheckpointCorruptError: what it ended with is damaged.

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
            since: what it returned; None returns at once.
            poll: seconds between two looks, for a store that nobody wakes.

        Cancellation: nothing is changed.
        """
        ...
