"""Events for a reader of their own: an observer that is an async iterator.

`on_event` is called in the run's own task and must not wait, and who reads events, a web page say, may be slow. So
the stream keeps the latest events up to a limit, and the oldest go where nobody reads. One reader, one `trio.run`.
"""

from collections import deque
from typing import Self, final

import trio

from trioflow.config.checks import check_count, check_flag, check_in_trio
from trioflow.events import Event

__all__ = ("EventStream",)


@final
class EventStream:
    """Hands events out to one reader, in their order.

    ::

        stream = EventStream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(show, stream)  # async for event in stream: ...
            await process_parallel(urls, fetch, observer=stream)
            stream.close()

    Leaving the loop ends nothing: another one goes on with what is kept.

    Args:
        limit: how many events to keep for the reader; older ones go and are counted in `dropped`.
        include_data: whether events carry items, results, states and messages.

    Raises:
        ConfigError: `limit` is below 1.
    """

    def __init__(self, limit: int = 1000, *, include_data: bool = False) -> None:
        check_count("limit", limit, minimum=1, allowed="1 or more")
        check_flag("include_data", include_data)
        self.limit = limit
        self.include_data = include_data
        self.dropped: int = 0
        self._events: deque[Event] = deque(maxlen=limit)
        self._closed = False
        self._reader: trio.lowlevel.Task | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._arrivals = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        closed = ", closed" if self._closed else ""
        return f"<EventStream: {len(self._events)} of at most {self.limit} events{closed}>"

    @trio.lowlevel.enable_ki_protection
    def on_event(self, event: Event) -> None:
        """Keep `event` for the reader; nothing is kept after `close`.

        Raises:
            RuntimeError: the reader waits in another `trio.run`.
        """
        if self._closed:
            return
        self._wake()
        self.dropped += len(self._events) == self.limit
        self._events.append(event)

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """End the iteration after what is kept; never blocks, and may be called again.

        Raises:
            RuntimeError: the reader waits in another `trio.run`.
        """
        self._wake()
        self._closed = True

    def __aiter__(self) -> Self:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> Event:
        """Return the oldest event that is kept, or wait for one.

        Raises:
            trio.BusyResourceError: another task is waiting for an event.

        Cancellation: nothing was taken.
        """
        check_in_trio()
        if self._reader is not None:
            raise trio.BusyResourceError("another task reads this EventStream")
        self._reader = trio.lowlevel.current_task()
        self._token = trio.lowlevel.current_trio_token()
        try:
            if self._events or self._closed:
                await trio.lowlevel.checkpoint()
            while not self._events:
                if self._closed:
                    raise StopAsyncIteration
                await self._arrivals.park()
            return self._events.popleft()
        finally:
            self._reader = None

    def _wake(self) -> None:
        """Wake the reader, if it waits, before anything changes: another thread must not touch its run."""
        if not self._arrivals:
            return
        if not trio.lowlevel.in_trio_run() or trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError("the reader of this EventStream waits in another trio.run")
        self._arrivals.unpark()
