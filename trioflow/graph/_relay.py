"""What stands between the task that walks a graph and the block that iterates over its steps."""

from typing import Generic, TypeVar, final

import trio

from trioflow.outcomes import GraphResult, GraphStep

__all__ = ("Relay",)

S = TypeVar("S")


@final
class Relay(Generic[S]):
    """One step, and whether the next one is wanted.

    Attributes:
        ended: whether no more steps will come.
        fault: what the run failed with, until somebody has been told.
        result: what the run came to.
    """

    __slots__ = ("_arrived", "_asked", "_step", "_wanted", "ended", "fault", "result")

    def __init__(self) -> None:
        self.ended = False
        self.fault: BaseException | None = None
        self.result: GraphResult[S] | None = None
        self._step: GraphStep[S] | None = None
        self._wanted = False
        self._asked = trio.lowlevel.ParkingLot()
        self._arrived = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Relay: {'ended' if self.ended else 'wanted' if self._wanted else 'waiting'}>"

    async def ask(self) -> GraphStep[S] | None:
        """Ask for the next step, and return it; None where the run has ended.

        Cancellation: nothing was taken; the step that was asked for is kept for who asks next.
        """
        await trio.lowlevel.checkpoint()
        while self._step is None and not self.ended:
            self._wanted = True
            self._asked.unpark_all()
            await self._arrived.park()
        step, self._step = self._step, None
        return step

    async def wait_until_wanted(self) -> None:
        """Wait until somebody asks.

        Cancellation: passes through.
        """
        while not self._wanted:
            await self._asked.park()

    async def hand_over(self, step: GraphStep[S], last: bool) -> None:  # noqa: FBT001 - called by position
        """Hand out `step` and, unless it is the last, wait until the next one is wanted.

        Cancellation: passes through; the step can still be taken.
        """
        self._step = step
        self._wanted = False
        self._arrived.unpark()
        if not last:
            await self.wait_until_wanted()

    def end(self, result: GraphResult[S] | None, fault: BaseException | None) -> None:
        """Take note of what the run came to."""
        self.result, self.fault = result, fault
        self.ended = True
        self._arrived.unpark_all()

    def take_fault(self) -> BaseException | None:
        """Return what the run failed with, once."""
        fault, self.fault = self.fault, None
        return fault
