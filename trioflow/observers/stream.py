"""An observer that is an async iterator of events.

`on_event` is called in the run's own task and must not block, while the reader, such as a web page, may be slow.
So the stream buffers events up to a limit, and drops the oldest beyond it. One reader, one `trio.run`.
"""

from collections import deque
from typing import Self, final

import trio

from trioflow.config.checks import check_count, check_flag, check_in_trio
from trioflow.events import Event

__all__ = ("EventStream",)


@final
class EventStream:
    """Yields events to one reader, in order.

    ::

        stream = EventStream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(show, stream)  # async for event in stream: ...
            await process_parallel(urls, fetch, observer=stream)
            stream.close()

    Leaving the loop does not close the stream: another loop continues with the buffered events.

    Args:
        limit: the most events to buffer; older ones are dropped and counted in `dropped`.
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
        """Buffer `event` for the reader; does nothing after `close`.

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
        """End the iteration after the buffered events; never blocks. Idempotent.

        Raises:
            RuntimeError: the reader waits in another `trio.run`.
        """
        self._wake()
        self._closed = True

    def __aiter__(self) -> Self:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> Event:
        """Return the oldest buffered event, or wait for one.

        Raises:
            trio.BusyResourceError: another task is waiting for an event.

        Cancellation: no event is lost.
        """
        check_in_trio()
        if self._reader is not None:
            raise trio.BusyResourceError("another task is reading this EventStream")
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
        """Wake the reader, if it waits; raises before any change if it waits in another thread's run."""
        if not self._arrivals:
            return
        if not trio.lowlevel.in_trio_run() or trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError("the reader of this EventStream waits in another trio.run")
        self._arrivals.unpark()
