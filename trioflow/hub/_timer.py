"""Deadlines: one sleeping task and one heap for a whole hub.

A cancel scope for each request would cost a quarter of the request (`benchmarks/bench_hub.py`). Most requests are
answered long before their deadline, so the heap refers to them weakly: the entry of a finished request is removed
at its deadline, or when the heap has grown.
"""

from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Protocol, final
from weakref import ref

import trio

AT_ONCE = 100
"""Expired entries handled between checkpoints."""

KEPT = 1_000
"""The least size of the heap at which finished entries are purged."""


class Timed(Protocol):
    """What a timer expires."""

    def expire(self) -> None:
        """End it, if it is not done yet."""


@final
class Timer:
    """Calls `expire` on its entries at their deadlines, while `run` runs."""

    __slots__ = ("_heap", "_limit", "_next", "_order", "_scope")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ref[Timed]]] = []
        self._limit = KEPT
        # Entries with equal deadlines are compared by their order, never by themselves.
        self._order = count()
        self._scope = trio.CancelScope()
        self._next = inf

    def __repr__(self) -> str:
        return f"<Timer: {len(self._heap)} entries>"

    def add(self, time: float, entry: Timed) -> None:
        """Expire `entry` at `time`, unless it has been garbage-collected by then."""
        heap = self._heap
        heappush(heap, (time, next(self._order), ref(entry)))
        if time < self._next:
            self._next = self._scope.deadline = time
        if len(heap) > self._limit:
            heap[:] = [item for item in heap if item[2]() is not None]
            heapify(heap)
            self._limit = KEPT + 2 * len(heap)

    async def run(self) -> None:
        """Expire due entries until cancelled.

        Cancellation: passes through.
        """
        while True:
            self._next = self._heap[0][0] if self._heap else inf
            self._scope = trio.CancelScope(deadline=self._next)
            with self._scope:
                await trio.sleep_forever()
            while self._expire_some():  # noqa: ASYNC110 - not polling: lets other tasks run between batches
                await trio.lowlevel.checkpoint()

    def _expire_some(self) -> bool:
        """Expire a batch of due entries; return whether there may be more."""
        now = trio.current_time()
        for _ in range(AT_ONCE):
            if not self._heap or self._heap[0][0] > now:
                return False
            entry = heappop(self._heap)[2]()
            if entry is not None:
                entry.expire()
        return True
