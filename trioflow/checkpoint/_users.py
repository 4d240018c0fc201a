"""Ensures that only one `trio.run` at a time uses a store.

Trio's locks and limiters belong to one event loop. Two loops that shared a store would deadlock, or fail an
assertion in Trio; here the second one gets a clear error at its first call.
"""

import threading
from typing import final

import trio

from trioflow.config.checks import check_in_trio

__all__ = ("OneRunAtATime",)


@final
class OneRunAtATime:
    """Tracks the `trio.run` that uses a store, until it ends or leaves."""

    __slots__ = ("_lock", "_token")

    def __init__(self) -> None:
        self._token: trio.lowlevel.TrioToken | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<OneRunAtATime: {'unused' if self._token is None else 'in use'}>"

    def check(self, store: object) -> None:
        """Make the current `trio.run` the user of `store`.

        Raises:
            RuntimeError: another one uses it and has not ended, or no `trio.run` is running here.
        """
        check_in_trio()
        token = trio.lowlevel.current_trio_token()
        if token is self._token:
            return
        with self._lock:
            if self._token is not None and _is_running(self._token):
                raise RuntimeError(
                    f"{store!r} is in use by another trio.run: open a store for each, or close it there first"
                )
            self._token = token

    def leave(self) -> None:
        """Release the store to the next `trio.run`."""
        self._token = None


def _is_running(token: trio.lowlevel.TrioToken) -> bool:
    try:
        token.run_sync_soon(_do_nothing, idempotent=True)
    except trio.RunFinishedError:
        return False
    return True


def _do_nothing() -> None:
    """Wake a loop, to test whether it is running."""
