"""One run that this process makes: its cancel scope, why that was cancelled, and how it ends.

A run is ended from outside for one of three reasons, and the one that says most holds: it was lost, and nothing
may be said of it any more; it was cancelled; or it is let go of, and others may take it.
"""

from typing import Any, Literal, final

import msgspec
import trio

from trioflow._durable.waits import Parking
from trioflow._runtime.signals import Parked
from trioflow._text import describe_error, one_line
from trioflow.checkpoint.codec import Codec
from trioflow.checkpoint.service_protocol import EndStatus, Lease, Release, ServiceStore
from trioflow.outcomes import GraphResult, GraphStep
from trioflow.service import _outcomes

__all__ = (
    "RESUME",
    "End",
    "MadeRun",
    "StillPaused",
    "Why",
    "end_of_error",
    "end_of_result",
    "paused",
    "release_of",
)

RESUME = "resume"
"""The signal that a paused run waits for."""

Why = Literal["let go", "cancelled", "lost"]
_ORDER: tuple[Why, ...] = ("let go", "cancelled", "lost")


class End(msgspec.Struct, frozen=True):
    """How a run ended."""

    status: EndStatus
    outcome: bytes
    reason: str | None = None


@final
class MadeRun:
    """A run that this process makes.

    Attributes:
        lease: what it was given with.
        parking: ends its waits.
        scope: what it runs in.
        why: why it was cancelled here; None while it was not.
        is_draining: whether no other step is to begin.
    """

    __slots__ = ("is_draining", "lease", "parking", "scope", "why")

    def __init__(self, lease: Lease, parking: Parking) -> None:
        self.lease = lease
        self.parking = parking
        self.scope = trio.CancelScope()
        self.why: Why | None = None
        self.is_draining = False

    def __repr__(self) -> str:
        return f"<MadeRun {self.lease.run_id}, epoch {self.lease.epoch}, {self.why or 'goes on'}>"

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.lease.run_id

    def stop(self, why: Why) -> None:
        """Cancel what the run does, for this reason, or one that says more and came before."""
        if self.why is None or _ORDER.index(why) > _ORDER.index(self.why):
            self.why = why
        self.scope.cancel(reason=f"the run is {self.why}")

    def drain(self) -> None:
        """Let the step in hand end, and no other begin; a wait ends now."""
        self.is_draining = True
        self.parking.release()

    async def on_step(self, step: GraphStep[Any], is_last: bool) -> None:  # noqa: FBT001 - called by position
        """End the run between two steps, where it is to be let go of.

        Raises:
            Parked: it is.

        Cancellation: not a checkpoint.
        """
        del step
        if self.is_draining and not is_last:
            raise Parked(0.0)

    def end_of_stop(self) -> End | Release | None:
        """Return how the run ends that was cancelled here; None where nothing may be said of it."""
        if self.why == "cancelled":
            return End("cancelled", b"")
        return None if self.why == "lost" else Release(status="queued", delay=0.0)

    async def keep(self, store: ServiceStore, end: End | Release) -> None:
        """Keep how the run ended, or let go of it.

        Raises:
            CheckpointError: it cannot be kept, or is somebody else's.

        Cancellation: it is kept, or not.
        """
        if isinstance(end, Release):
            await store.release(self.run_id, self.lease.epoch, end)
        else:
            await store.finish(self.run_id, self.lease.epoch, end.status, end.outcome, end.reason)


class StillPaused(Parked):
    """A run is paused, and the signal is not there that it waits for."""

    def __init__(self) -> None:
        super().__init__(None, RESUME)


def paused() -> Release:
    """Return how a run is let go of that is paused."""
    return Release(status="paused", delay=None, waits_for=RESUME, reason=f"waits for the signal '{RESUME}'")


def end_of_result(result: GraphResult[Any]) -> End | Release:
    """Return how a run ends that came to `result`."""
    if result.status == "paused":
        return paused()
    return End("completed", _outcomes.completed(result.exit_point, result.path, result.iterations))


def end_of_error(error: Exception, codec: Codec[Any]) -> End:
    """Return how a run ends that failed."""
    return End("failed", _outcomes.failed(error, codec), one_line(describe_error(error)))


def release_of(parked: Parked) -> Release:
    """Return how a run is let go of that waits, or that may go on at once."""
    if parked.waits_for is None and not parked.delay:
        return Release(status="queued", delay=0.0)
    return Release(status="parked", delay=parked.delay, waits_for=parked.waits_for, reason=parked.reason)


