"""Who uses a store: one `trio.run` at a time, or it says so.

Locks and limiters of Trio belong to one event loop. Two loops that share a store would wait for each other's tasks
for ever, or trip over an assertion of Trio's; here the second one is told at its first call.
"""

import threading
from typing import final

import trio

from trioflow.config.checks import check_in_trio

__all__ = ("OneRunAtATime",)


@final
class OneRunAtATime:
    """Knows the `trio.run` that uses a store, until it ends or lets go."""

    __slots__ = ("_lock", "_token")

    def __init__(self) -> None:
        self._token: trio.lowlevel.TrioToken | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<OneRunAtATime: {'unused' if self._token is None else 'in use'}>"

    def check(self, store: object) -> None:
        """Make the running `trio.run` the user of `store`.

        Raises:
            RuntimeError: another one is, and has not ended; or there is none.
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
        """Let the next `trio.run` have the store."""
        self._token = None


def _is_running(token: trio.lowlevel.TrioToken) -> bool:
    try:
        token.run_sync_soon(_do_nothing, idempotent=True)
    except trio.RunFinishedError:
        return False
    return True


def _do_nothing() -> None:
    """Wake a loop up, which is how it shows that it runs."""
