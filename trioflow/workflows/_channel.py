"""A bounded memory channel that carries batches: one wake-up delivers everything that is ready.

A wake-up costs 3.5 to 6 µs, a pass through the scheduler 1.5 to 3, and an entry in a deque 0.02
(`benchmarks/bench_engine.py` shows the total effect). So the channel carries the open batch itself: a deque that
may grow while it is in transit, and is on the channel at most once. The receiving task takes what it needs, and
wakes the next task if something is left. Work that does not block is then done by few tasks, work that blocks
spreads to all of them, and a slow item delays no other.

Sending never blocks: the ledger's window bounds the size of a batch.

No wake-up is lost as long as this invariant holds: if a batch has entries that a task waits for, and no task is
about to look at them, the batch is on the channel. `call` restores the invariant after a change. One call too
many costs a pass through the scheduler; one too few hangs the run.
"""

from collections import deque
from typing import Generic, TypeVar, final

import trio

V = TypeVar("V")


@final
class BatchChannel(Generic[V]):
    """A channel of batches from one kind of task to another.

    Attributes:
        batch: the entries that were put in and not taken yet.
        called: whether the batch is on the channel, or was received by a task that has not looked at it yet.
        closed: whether nothing more will be put in; remaining entries can still be taken.
    """

    __slots__ = ("_receive", "_send", "batch", "called", "closed")

    def __init__(self) -> None:
        self.batch: deque[V] = deque()
        self.called = self.closed = False
        self._send: trio.MemorySendChannel[deque[V]]
        self._receive: trio.MemoryReceiveChannel[deque[V]]
        self._send, self._receive = trio.open_memory_channel(1)

    def __repr__(self) -> str:
        return f"<BatchChannel of {len(self.batch)}, {'closed' if self.closed else 'open'}>"

    def call(self) -> None:
        """Wake a task that waits for the batch, or let the next one that would wait return at once."""
        if not self.called and not self.closed:
            self.called = True
            self._send.send_nowait(self.batch)

    async def wait(self) -> None:
        """Wait for a call, or for the channel to be closed.

        Cancellation: nothing was taken, and no call was consumed.
        """
        try:
            await self._receive.receive()
        except trio.EndOfChannel:
            return
        self.called = False

    def close(self) -> None:
        """Mark that nothing more will be put in."""
        self.closed = True
        self._send.close()

    def dispose(self) -> None:
        """Close both ends: no task will wait any more."""
        self.close()
        self._receive.close()
