"""From the source to the workers: pulls items while there is room, and wakes a worker for them.

The feeder's task pulls from an async source, which may block, and from a plain one when no worker would. A worker
that finds no item pulls from a plain source itself, with `refill`: `next()` never blocks, and the two tasks
between the worker and its next item need not wake up. It first does the collector's pending work, to make room.

No task is woken for each item, but an idle worker, or the feeder, when there is room for several, and the feeder
when the consumer has nothing left to take. The ledger decides how much may be pulled ahead.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

import trio

from trioflow._runtime.context import leave_work
from trioflow.workflows._channel import BatchChannel
from trioflow.workflows._ledger import Ledger
from trioflow.workflows._queue import QueueSource
from trioflow.workflows._sources import END, AsyncSource, Source, SyncSource

T = TypeVar("T")

BURST = 32
"""Items pulled from a plain source in a row; up to twice as many, rather than leaving room for only a few."""


@final
class Feeder(Generic[T]):
    """Moves items from the source to the workers.

    Args:
        source: where items come from.
        ledger: knows how much room there is.
        enough: the room that is worth a wake-up; capped at `BURST`.

    Attributes:
        work: the items that were pulled and not taken yet.
        in_bodies: loops over a stream that have taken an outcome and not come back for another; they may still
            put items into a queue.
        idle: workers without an item, including those that are about to start.
        on_short: called with the number of items in excess of idle workers.
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
        ledger.on_room = self._on_room

    def __repr__(self) -> str:
        return f"<Feeder: {self.source!r}, {self.work!r}>"

    @property
    def is_pulling(self) -> bool:
        """Whether the feeder is waiting for the source's next item."""
        return isinstance(self.source, AsyncSource) and self.source.pulling

    # The feeder's task.

    def open(self) -> None:
        """Take the source for this run.

        Raises:
            ConfigError: it is a queue that another run pulls from.
        """
        if isinstance(self.source, QueueSource):
            self.source.open()

    async def feed(self) -> None:
        """Pull until the source is exhausted, or feeding is stopped.

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
                    self.end_if_over()  # if nothing was ever put, there is no worker to do it
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
        # While a queue is empty there is nothing to pull; `put` asks for room itself.
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

    # Called by workers.

    def join(self) -> None:
        """Note that an idle worker has begun; it takes an item without a checkpoint: its task has just started."""
        self.idle -= 1
        if len(self.work.batch) < 2:
            self.refill()  # for the next worker: the item that this one takes may block it

    async def wait(self, *, refill: bool) -> tuple[int, T] | None:
        """Return the next item, after at least one checkpoint; None is the end.

        Args:
            refill: whether to try that first; if not, it has just failed.

        Cancellation: nothing was taken.
        """
        work, batch = self.work, self.work.batch
        self.idle += 1
        if batch or (refill and self.refill()):
            await trio.lowlevel.checkpoint()
        while not batch and not work.closed:
            if self._ledger.is_asked:
                self.end_if_over()
            await work.wait()
            if not batch:
                # The worker that woke this one may have taken every item, and may be blocked by the last.
                self.refill()
        if not batch:
            return None
        self.idle -= 1
        claimed = batch.popleft()
        if batch or self.refill():
            work.call()  # the next worker: the item that this one takes may block it
        return claimed

    def refill(self, enough: int | None = None) -> bool:
        """Pull as much as there is room for, if that cannot block; return whether there is work to take.

        Args:
            enough: the least room that is worth a pull; None is the feeder's.
        """
        source, ledger, enough = self.source, self._ledger, enough or self._enough
        if self.work.closed or isinstance(source, AsyncSource):
            return False
        if ledger.room < enough:
            ledger.take_in()
            if ledger.room < enough:
                return False
        # Leftover room for fewer than `enough` items would stay empty: it wakes no task.
        most = BURST if ledger.room >= BURST + self._enough else ledger.room
        fresh: deque[T] = deque()
        try:
            source.pull(most, fresh)
        finally:
            self._hand_out(fresh)
        if source.exhausted:
            self._end()
        elif isinstance(source, SyncSource):
            ledger.wake_for(self._enough)
        return bool(self.work.batch)

    def _hand_out(self, items: "deque[T] | list[T]") -> None:
        numbered = self._ledger.begin(items)
        # Items that arrive in the very tick of a stop were pulled, and stay unfinished.
        if numbered and not self.work.closed:
            self.work.batch.extend(numbered)
            short = len(self.work.batch) - self.idle
            if short > 0:
                self.on_short(short)
            self.work.call()

    # Called by the consumer and the pool.

    def _on_room(self) -> None:
        """Have the source pulled, by an idle worker if it may: it would be the next to be woken anyway."""
        if self.idle and isinstance(self.source, SyncSource):
            self.work.call()
        else:
            self._room.unpark()

    def nudge(self) -> None:
        """Use any room there is, however little: the consumer has nothing left to take."""
        if self._ledger.room > 0:
            self._room.unpark()
        self.end_if_over()

    def stop(self) -> None:
        """Hand out no more items; those that were pulled and not taken stay unfinished."""
        self.work.batch.clear()
        self.work.close()
        self._room.unpark_all()

    def drain(self) -> None:
        """Hand out no more items, and end a wait for the source."""
        self.stop()
        if isinstance(self.source, AsyncSource):
            self.source.stop_pulling()

    async def aclose(self) -> None:
        """Close the source, if the feeder's task did not; no task waits for items any more.

        Cancellation: shielded, for at most `CLOSE_DEADLINE` seconds.
        """
        self.work.dispose()
        self.on_short = _nobody
        self._ledger.on_room = self._room.unpark  # without a reference to this object
        if not isinstance(self.source, AsyncSource):
            self.source.close()
        elif not self.source.closed:
            with self.source.scope:
                await self.source.aclose()

    def _end(self) -> None:
        self._ledger.exhausted = True
        self.work.close()
        self._room.unpark_all()

    # For a source that is a queue.

    def _on_put(self) -> None:
        if not self.refill(1):
            self._ledger.wake_for(self._enough)

    def end_if_over(self) -> None:
        """End a queue if no item waits in it, and none is in hand.

        A stream calls this when its consumer wants another outcome; workers call it while a consumer waits.
        """
        source = self.source
        if isinstance(source, QueueSource) and source.is_open and not self.work.closed:
            self._ledger.take_in()
            if self._ledger.idle and not source.waiting and not self.in_bodies:
                source.finish()
                self._end()


def _nobody(short: int) -> None:
    """Start no worker."""
