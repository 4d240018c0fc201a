"""From the source to the workers: items are pulled while there is room, and a worker is called to them.

The feeder's task pulls an async source, which may block, and a plain one when nobody else would. A worker that
finds nothing pulls from a plain source itself, by `refill`: `next()` never blocks, and the two tasks between the
worker and its next item need not wake up. It first enters what the collector has not, so that there is room.

The feeder is woken for room for several items, or when the consumer has nothing left to take; not for each item.
The ledger decides how much may be pulled ahead.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

import trio

from trioflow._runtime.context import leave_work
from trioflow.workflows._channel import BatchChannel
from trioflow.workflows._ledger import Ledger
from trioflow.workflows._queue import QueueSource
from trioflow.workflows._sources import END, AsyncSource, Source

T = TypeVar("T")

BURST = 32
"""Items that are pulled from a plain source in a row; up to twice as many, rather than leave room for a few."""


@final
class Feeder(Generic[T]):
    """What lies between the source and the workers.

    Args:
        source: where items come from.
        ledger: the account, which knows how much room there is.
        enough: the room that is worth being woken for; or less where it is all that can be.

    Attributes:
        work: the items that were pulled and not taken.
        in_bodies: loops over a stream that have taken an outcome and not come back for another; they may put
            something into a queue.
        idle: workers that have nothing in hand, those included that are about to start.
        on_short: called with how many items more there are than idle workers.
    """

    __slots__ = ("_enough", "_ledger", "_room", "idle", "in_bodies", "on_short", "source", "work")

    def __init__(self, source: Source[T], ledger: Ledger[T, Any], enough: int) -> None:
        self.source = source
        self.work: BatchChannel[tuple[int, T]] = BatchChannel()
        self.in_bodies = self.idle = 0
        self.on_short: Callable[[int], object] = _nobody
        self._ledger = ledger
        self._enough = max(1, min(enough, BURST))
        self._room = trio.lowlevel.ParkingLot()
        ledger.on_room = self._room.unpark

    def __repr__(self) -> str:
        return f"<Feeder: {self.source!r}, {self.work!r}>"

    @property
    def is_pulling(self) -> bool:
        """Whether the next item is being waited for."""
        return isinstance(self.source, AsyncSource) and self.source.pulling

    # The feeder's task.

    def open(self) -> None:
        """Take the source for this run.

        Raises:
            ConfigError: it is a queue that another run has.
        """
        if isinstance(self.source, QueueSource):
            self.source.open()

    async def feed(self) -> None:
        """Pull until nothing is left, or the feeding was stopped.

        Cancellation: passes through, after an async generator is closed; closing it is shielded, for at most
        `CLOSE_DEADLINE` seconds.
        """
        try:
            if isinstance(self.source, AsyncSource):
                leave_work()
                await self._feed_async(self.source)
                return
            if isinstance(self.source, QueueSource):
                self.source.on_put = self._on_put
            while not self.work.closed:
                self.refill(1)
                if self._ledger.is_asked:
                    self.end_if_over()  # where nothing was ever put there is no worker to do it
                await self._wait_for_room()
        finally:
            self.work.close()

    async def _feed_async(self, source: AsyncSource[T]) -> None:
        with source.scope:
            try:
                while not self.work.closed:
                    item = await source.pull()
                    if item is END:
                        self._ledger.exhausted = True
                        break
                    self._hand_out([item])
                    if self._ledger.room < 1:
                        await self._wait_for_one()
            finally:
                await source.aclose()

    async def _wait_for_room(self) -> None:
        # Where a queue is empty it is `put` that has room looked for.
        if not isinstance(self.source, QueueSource) or self.source.waiting:
            self._ledger.wake_for(self._enough)
        if not self.work.closed:
            await self._room.park()

    async def _wait_for_one(self) -> None:
        ledger = self._ledger
        while not self.work.closed:
            ledger.take_in()
            if ledger.room > 0:
                return
            with ledger.waited_for():
                await self._wait_for_room()

    # What workers do.

    def join(self) -> None:
        """Note that an idle worker has begun; it takes an item without a turn, for its task began with one."""
        self.idle -= 1
        if len(self.work.batch) < 2:
            self.refill()  # for the next one: this one may be held up by what it takes

    async def wait(self) -> tuple[int, T] | None:
        """Return the next item after at least a turn of the scheduler; None is the end.

        Cancellation: nothing was taken.
        """
        work, batch = self.work, self.work.batch
        self.idle += 1
        if batch or self.refill():
            await trio.lowlevel.checkpoint()
        while not batch and not work.closed:
            if self._ledger.is_asked:
                self.end_if_over()
            await work.wait()
            if not batch:
                # Who called for help may have done all that there was, and be held up by the last of it.
                self.refill()
        if not batch:
            return None
        self.idle -= 1
        claimed = batch.popleft()
        if batch or self.refill():
            work.call()  # the next one: this one may be held up by what it takes
        return claimed

    def refill(self, enough: int | None = None) -> bool:
        """Pull what there is room for, where that never blocks; return whether something can be taken.

        Args:
            enough: the room for which it is worth it; None is the feeder's.
        """
        source, ledger, enough = self.source, self._ledger, enough or self._enough
        if self.work.closed or isinstance(source, AsyncSource):
            return False
        if ledger.room < enough:
            ledger.take_in()
            if ledger.room < enough:
                return False
        # Room for too few to be woken for would stay empty.
        most = BURST if ledger.room >= BURST + self._enough else ledger.room
        fresh: deque[T] = deque()
        try:
            source.pull(most, fresh)
        finally:
            self._hand_out(fresh)
        if source.exhausted:
            self._end()
        return bool(self.work.batch)

    def _hand_out(self, items: "deque[T] | list[T]") -> None:
        numbered = self._ledger.begin(items)
        # What comes in the very tick of a stop was pulled, and stays unfinished.
        if numbered and not self.work.closed:
            self.work.batch.extend(numbered)
            short = len(self.work.batch) - self.idle
            if short > 0:
                self.on_short(short)
            self.work.call()

    # What the consumer and the pool do.

    def nudge(self) -> None:
        """Have whatever room there is used: the consumer has nothing left to take."""
        if self._ledger.room > 0:
            self._room.unpark()
        self.end_if_over()

    def stop(self) -> None:
        """Give no more items; those that were pulled and not taken stay unfinished."""
        self.work.batch.clear()
        self.work.close()
        self._room.unpark_all()

    def drain(self) -> None:
        """Give no more items, and end a wait for the source."""
        self.stop()
        if isinstance(self.source, AsyncSource):
            self.source.stop_pulling()

    async def aclose(self) -> None:
        """Close the source where the task did not; nobody waits for items any more.

        Cancellation: shielded, for at most `CLOSE_DEADLINE` seconds.
        """
        self.work.dispose()
        self.on_short = _nobody
        if not isinstance(self.source, AsyncSource):
            self.source.close()
        elif not self.source.closed:
            with self.source.scope:
                await self.source.aclose()

    def _end(self) -> None:
        self._ledger.exhausted = True
        self.work.close()
        self._room.unpark_all()

    # Where the source is a queue.

    def _on_put(self) -> None:
        if not self.refill(1):
            self._ledger.wake_for(self._enough)

    def end_if_over(self) -> None:
        """Decide that a queue is at its end: nothing waits, and nobody has anything in hand.

        Of a stream it is asked by who wants another outcome, and by workers while somebody does.
        """
        source = self.source
        if isinstance(source, QueueSource) and source.is_open and not self.work.closed:
            self._ledger.take_in()
            if self._ledger.idle and not source.waiting and not self.in_bodies:
                source.finish()
                self._end()


def _nobody(short: int) -> None:
    """Start no worker."""
