"""Waiting for runs to end: one look into the store for all who wait, however many they are.

One of the waiting tasks looks, and when it has what it waits for another one takes its place; so no task is left
over, and what many changes at once amount to is read once.
"""

from typing import final

import trio

from trioflow.checkpoint.service_protocol import ServiceStore

_PACE = 0.01
"""Seconds between two looks where many are waited for: changes that come faster are read together."""

_FEW = 8
"""Runs for which each change is looked at by itself."""


@final
class Endings:
    """The ends of the runs of a store, for those who wait for them.

    Args:
        store: the store.
        poll: seconds between two looks, for a store that nobody wakes.
    """

    __slots__ = ("_is_led", "_poll", "_store", "_waiting")

    def __init__(self, store: ServiceStore, poll: float) -> None:
        self._store = store
        self._poll = poll
        self._waiting: dict[str, set[trio.Event]] = {}
        self._is_led = False

    def __repr__(self) -> str:
        return f"<Endings: {len(self._waiting)} waited for>"

    async def wait(self, run_id: str) -> None:
        """Wait until the run has ended, or is not there.

        Raises:
            CheckpointError: the store cannot be read.

        Cancellation: nothing is changed.
        """
        called = trio.Event()
        self._waiting.setdefault(run_id, set()).add(called)
        try:
            # Looked for after it was entered: an end in between is a change that whoever looks sees.
            while not await self._store.ended([run_id]):
                if self._is_led:
                    await called.wait()
                else:
                    await self._look_for_all(called)
                called = self._again(run_id, called)
        finally:
            self._leave(run_id, called)

    async def _look_for_all(self, called: trio.Event) -> None:
        """Look for all who wait, until `called` is.

        Cancellation: nothing is changed.
        """
        self._is_led = True
        try:
            seen = await self._store.wait_for_change(None, self._poll)
            while True:
                for run_id in await self._store.ended(list(self._waiting)):
                    for waiting in self._waiting.get(run_id, ()):
                        waiting.set()
                if called.is_set():
                    return
                seen = await self._store.wait_for_change(seen, self._poll)
                if len(self._waiting) > _FEW:
                    await trio.sleep(_PACE)
        finally:
            self._is_led = False

    def _again(self, run_id: str, called: trio.Event) -> trio.Event:
        """Return an event in the place of one that may be set."""
        if not called.is_set():
            return called
        waiting = self._waiting[run_id]
        waiting.discard(called)
        fresh = trio.Event()
        waiting.add(fresh)
        return fresh

    def _leave(self, run_id: str, called: trio.Event) -> None:
        waiting = self._waiting[run_id]
        waiting.discard(called)
        if not waiting:
            del self._waiting[run_id]
        if not self._is_led and self._waiting:
            # Whoever looked is gone: another one does.
            for others in self._waiting.values():
                for other in others:
                    other.set()
                    return
