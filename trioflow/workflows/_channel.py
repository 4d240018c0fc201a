"""A bounded memory channel that carries batches: one wake-up hands over all that is there.

A wake-up costs 3.5 to 6 µs and a turn of the scheduler 1.5 to 3, an entry in a deque 0.02
(`benchmarks/bench_engine.py` shows what that comes to). So what is sent is the open batch itself, a deque that
may grow on its way and is on the channel at most once at a time. Whoever receives it takes what it needs, and
calls the next task if something is left. Work that does not block is then done by few tasks, work that blocks
spreads to all, and a slow item holds back no other.

The channel never blocks a sender: the ledger's window bounds how much can lie in a batch.

No wake-up is lost as long as this holds: while a batch has something in it that somebody waits for, and that
nobody is about to look at, it is on the channel. `call` restores that after a change. One call too many costs a
turn of the scheduler, one too few hangs the run.
"""

from collections import deque
from typing import Generic, TypeVar, final

import trio

V = TypeVar("V")


@final
class BatchChannel(Generic[V]):
    """Batches on their way from one kind of task to another.

    Attributes:
        batch: what was put in and not taken.
        closed: whether nothing more will be put in; what is there can still be taken.
    """

    __slots__ = ("_called", "_receive", "_send", "batch", "closed")

    def __init__(self) -> None:
        self.batch: deque[V] = deque()
        self.closed = False
        # Whether the batch is on the channel, or received by a task that has not looked at it yet.
        self._called = False
        self._send: trio.MemorySendChannel[deque[V]]
        self._receive: trio.MemoryReceiveChannel[deque[V]]
        self._send, self._receive = trio.open_memory_channel(1)

    def __repr__(self) -> str:
        return f"<BatchChannel of {len(self.batch)}, {'closed' if self.closed else 'open'}>"

    def call(self) -> None:
        """Have the batch looked at: by a task that waits, or by the next one that would."""
        if not self._called and not self.closed:
            self._called = True
            self._send.send_nowait(self.batch)

    async def wait(self) -> None:
        """Wait to be called, or for the end.

        Cancellation: nothing was taken, and nobody's call was.
        """
        try:
            await self._receive.receive()
        except trio.EndOfChannel:
            return
        self._called = False

    def close(self) -> None:
        """Say that nothing more will be put in."""
        self.closed = True
        self._send.close()

    def dispose(self) -> None:
        """Close both ends: nobody will wait any more."""
        self.close()
        self._receive.close()
