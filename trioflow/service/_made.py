"""One run that this process executes: its cancel scope, why that was cancelled, and how the run ends.

A run is stopped from outside for one of three reasons, in order of precedence: it was lost, and this process must
write nothing more for it; it was cancelled; or it is released, and other processes may take it.
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
    """A run that this process executes.

    Attributes:
        lease: the lease under which it is executed.
        parking: ends its waits.
        scope: the cancel scope that it runs in.
        why: why this process stopped it; None if it did not.
        is_draining: whether no further step may begin.
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
        """Cancel the run's scope; of several reasons, the one of highest precedence counts."""
        if self.why is None or _ORDER.index(why) > _ORDER.index(self.why):
            self.why = why
        self.scope.cancel(reason=f"the run is {self.why}")

    def drain(self) -> None:
        """Let the current step finish, and no other begin; a durable wait ends now."""
        self.is_draining = True
        self.parking.release()

    async def on_step(self, step: GraphStep[Any], is_last: bool) -> None:  # noqa: FBT001 - called by position
        """Stop the run between two steps, if it is to be released.

        Raises:
            Parked: it is.

        Cancellation: not a checkpoint.
        """
        del step
        if self.is_draining and not is_last:
            raise Parked(0.0)

    def end_of_stop(self) -> End | Release | None:
        """Return how a stopped run ends; None if this process must write nothing for it."""
        if self.why == "cancelled":
            return End("cancelled", b"")
        return None if self.why == "lost" else Release(status="queued", delay=0.0)

    async def keep(self, store: ServiceStore, end: End | Release) -> None:
        """Store how the run ended, or release it.

        Raises:
            CheckpointError: it cannot be stored, or another process holds the run.

        Cancellation: it is stored, or not.
        """
        if isinstance(end, Release):
            await store.release(self.run_id, self.lease.epoch, end)
        else:
            await store.finish(self.run_id, self.lease.epoch, end.status, end.outcome, end.reason)


class StillPaused(Parked):
    """A run is paused, and the signal that it waits for has not arrived."""

    def __init__(self) -> None:
        super().__init__(None, RESUME)


def paused() -> Release:
    """Return the release of a paused run."""
    return Release(status="paused", delay=None, waits_for=RESUME, reason=f"waits for the signal '{RESUME}'")


def end_of_result(result: GraphResult[Any]) -> End | Release:
    """Return how a run with this result ends."""
    if result.status == "paused":
        return paused()
    return End("completed", _outcomes.completed(result.exit_point, result.path, result.iterations))


def end_of_error(error: Exception, codec: Codec[Any]) -> End:
    """Return how a run that failed with `error` ends."""
    return End("failed", _outcomes.failed(error, codec), one_line(describe_error(error)))


def release_of(parked: Parked) -> Release:
    """Return the release of a run that waits, or that may continue at once."""
    if parked.waits_for is None and not parked.delay:
        return Release(status="queued", delay=0.0)
    return Release(status="parked", delay=parked.delay, waits_for=parked.waits_for, reason=parked.reason)


