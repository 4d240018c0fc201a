"""Where the items come from, and how many of them may be held at once.

A plain iterable needs no task: a worker that is free pulls its next item itself. An async one may block, and
only one task may wait for it, so a feeder pulls its items and workers take them. Either way an item is pulled
only while fewer than `window` are held, and a generator is closed on every way out.
"""

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from enum import Enum
from typing import Any, Final, Generic, TypeVar, final

import trio

from trioflow._runtime.calls import CLOSE_DEADLINE, await_next, call_plain, close_async, close_plain, pull_next
from trioflow.workflows._collector import Collector

__all__ = ("FedSource", "PulledSource", "Source", "note_pulled", "open_source")

T = TypeVar("T")

class _End(Enum):
    """What `next` gives where nothing is left."""

    END = 0


_END: Final = _End.END


def open_source(
    items: Iterable[T] | AsyncIterable[T], collector: Collector[T, Any], window: int
) -> "Source[T]":
    """Return the source of `items`, which holds at most `window` of them at once."""
    if isinstance(items, AsyncIterable):
        return FedSource(items, collector, window)
    return PulledSource(items, collector, window)


@final
class PulledSource(Generic[T]):
    """A plain iterable, pulled by the workers themselves."""

    __slots__ = ("_bounded", "_collector", "_items", "_iterator", "_parked", "_window", "ended")

    def __init__(self, items: Iterable[T], collector: Collector[T, Any], window: int) -> None:
        self._items = items
        self._iterator: Iterator[T] | None = None
        self._collector = collector
        self._window = window
        # Without a consumer, what workers hold is all that is held: one item each.
        self._bounded = collector.outlet is not None
        self._parked = trio.lowlevel.ParkingLot()
        self.ended = False

    def __repr__(self) -> str:
        return f"<PulledSource: {'ended' if self.ended else 'open'}>"

    def take(self) -> tuple[int, T] | None:
        """Pull the next item, with its index; None where there is no room, or none is left."""
        collector = self._collector
        if self.ended or (self._bounded and collector.held >= self._window):
            return None
        try:
            if self._iterator is None:
                self._iterator = call_plain(iter, self._items)
            item = pull_next(self._iterator, _END)
        except BaseException as error:
            note_pulled(error, "the source of items", collector.pulled)
            self.stop()
            raise
        if item is _END:
            collector.exhausted = True
            self.stop()
            return None
        return collector.begin(item), item

    async def wait(self) -> None:
        """Wait for room, or for the end.

        Cancellation: nothing was taken.
        """
        await self._parked.park()

    def room_freed(self) -> None:
        """Take note that one item less is held."""
        if self._parked:
            self._parked.unpark()

    def stop(self) -> None:
        """Give no more items."""
        self.ended = True
        self._parked.unpark_all()

    async def aclose(self) -> None:
        """Close the iterator where it is a generator.

        Cancellation: not a checkpoint.
        """
        close_plain(self._items if self._iterator is None else self._iterator)


@final
class FedSource(Generic[T]):
    """An async iterable, pulled by a feeder task ahead of the workers."""

    __slots__ = (
        "_collector",
        "_feeding",
        "_items",
        "_iterator",
        "_parked",
        "_pulling",
        "_queue",
        "_room",
        "_stopped",
        "_window",
    )

    def __init__(self, items: AsyncIterable[T], collector: Collector[T, Any], window: int) -> None:
        self._items = items
        self._iterator: AsyncIterator[T] | None = None
        self._collector = collector
        self._window = window
        self._queue: deque[tuple[int, T]] = deque()
        self._parked = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._feeding = trio.CancelScope()
        self._pulling = False
        self._stopped = False

    def __repr__(self) -> str:
        return f"<FedSource: {len(self._queue)} queued, {'ended' if self.ended else 'open'}>"

    @property
    def ended(self) -> bool:
        """Whether no more items will come."""
        return self._stopped or (self._collector.exhausted and not self._queue)

    def take(self) -> tuple[int, T] | None:
        """Give the next item, with its index; None where there is none, or none is left."""
        if self._stopped or not self._queue:
            return None
        return self._queue.popleft()

    async def wait(self) -> None:
        """Wait for an item, or for the end.

        Cancellation: nothing was taken.
        """
        await self._parked.park()

    def room_freed(self) -> None:
        """Take note that one item less is held."""
        if self._room:
            self._room.unpark()

    def stop(self) -> None:
        """Give no more items and end a wait for one; what is queued stays unsettled."""
        self._stopped = True
        self._parked.unpark_all()
        if self._pulling:
            self._feeding.cancel()
        else:
            self._room.unpark_all()

    async def feed(self) -> None:
        """Pull items while there is room: the feeder task.

        Cancellation: passes through, after the generator is closed; closing it is shielded, for at most
        `CLOSE_DEADLINE` seconds.
        """
        try:
            # One scope around all that the generator does: scopes that it holds across a yield nest inside.
            with self._feeding:
                try:
                    await self._pull_all()
                finally:
                    self._feeding.shield = True
                    self._feeding.deadline = trio.current_time() + CLOSE_DEADLINE
                    await self.aclose()
        except BaseException as error:
            note_pulled(error, "the source of items", self._collector.pulled)
            raise
        finally:
            self._parked.unpark_all()

    async def aclose(self) -> None:
        """Close the iterator where it is a generator.

        Cancellation: passes through to the generator.
        """
        await close_async(self._items if self._iterator is None else self._iterator)

    async def _pull_all(self) -> None:
        collector = self._collector
        self._iterator = iterator = call_plain(self._items.__aiter__)
        while await self._room_for_one():
            self._pulling = True
            try:
                item = await await_next(iterator)
            except StopAsyncIteration:
                collector.exhausted = True
                return
            finally:
                self._pulling = False
            self._queue.append((collector.begin(item), item))
            if self._parked:
                self._parked.unpark()

    async def _room_for_one(self) -> bool:
        while self._collector.held >= self._window and not self._stopped:
            await self._room.park()
        return not self._stopped


Source = PulledSource[T] | FedSource[T]


def note_pulled(error: BaseException, who: str, pulled: int) -> None:
    """Say in a note on `error` who raised it, and how far the run had come."""
    if not isinstance(error, trio.Cancelled):
        error.add_note(f"raised by {who} after {pulled} items pulled")
