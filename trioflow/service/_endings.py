"""Waiting for runs to end: one read of the store serves all waiting tasks, however many there are.

One of the waiting tasks reads for all, and when its own run has ended, another one takes its place. So no
background task is needed, and many changes that come at once are read once. A task that starts to wait while the
reader sleeps wakes it, because its run may have ended before.
"""

from typing import final

import trio

from trioflow.checkpoint.service_protocol import ServiceStore

_PACE = 0.01
"""Seconds between two reads when many runs are awaited: changes that come faster are read together."""

_FEW = 8
"""Waiting tasks up to which each change is read at once."""


class _Waiter:
    """A task that waits for a run.

    Attributes:
        run_id: the run's id.
        has_ended: whether the run has ended, or does not exist.
        called: set when it has, or when this task is to become the reader.
    """

    __slots__ = ("called", "has_ended", "run_id")

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.has_ended = False
        self.called = trio.Event()


@final
class Endings:
    """The ends of the runs of a store, for the tasks that wait for them.

    Args:
        store: the store.
        poll: seconds between two reads, for a store that is not notified of changes.
    """

    __slots__ = ("_is_led", "_is_news", "_nap", "_poll", "_store", "_waiters")

    def __init__(self, store: ServiceStore, poll: float) -> None:
        self._store = store
        self._poll = poll
        self._waiters: dict[_Waiter, None] = {}
        self._is_led = False
        self._is_news = False
        self._nap = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<Endings: {len(self._waiters)} waited for>"

    async def wait(self, run_id: str) -> None:
        """Wait until the run has ended, or does not exist.

        Raises:
            CheckpointError: the store cannot be read.

        Cancellation: nothing is changed.
        """
        waiter = _Waiter(run_id)
        self._waiters[waiter] = None
        self._is_news = True
        self._nap.cancel(reason="somebody else waits")
        try:
            while not waiter.has_ended:
                if not self._is_led:
                    await self._look_for_all(waiter)
                    continue
                await waiter.called.wait()
                if not waiter.has_ended:
                    waiter.called = trio.Event()  # called to read: another task already does, or this one is next
        finally:
            del self._waiters[waiter]
            self._pass_on()

    async def _look_for_all(self, waiter: _Waiter) -> None:
        """Read for all waiting tasks, until the run of `waiter` has ended.

        Cancellation: nothing is changed.
        """
        self._is_led = True
        try:
            while True:
                # Tasks that start to wait in the same tick are served by one read.
                await trio.lowlevel.checkpoint()
                self._is_news = False
                seen = await self._store.wait_for_change(None, self._poll)
                ended = set(await self._store.ended(list({each.run_id for each in self._waiters})))
                for each in self._waiters:
                    if each.run_id in ended:
                        each.has_ended = True
                        each.called.set()
                if waiter.has_ended:
                    return
                await self._sleep(seen)
        finally:
            self._is_led = False

    async def _sleep(self, seen: int) -> None:
        """Wait for a change, or for another task to start waiting.

        Cancellation: nothing is changed.
        """
        with trio.CancelScope() as self._nap:
            if not self._is_news:
                await self._store.wait_for_change(seen, self._poll)
                if len(self._waiters) > _FEW:
                    await trio.sleep(_PACE)

    def _pass_on(self) -> None:
        """Make another waiting task the reader, if there is no reader."""
        if not self._is_led:
            for waiter in self._waiters:
                waiter.called.set()
                return
