"""A separate connection on which the server notifies a store of changes.

One task at a time waits on it, in Trio's loop: when the socket becomes readable, what has arrived is read at once.
Without a connection, because the server is unavailable or a proxy closes idle connections, the store is polled.
"""

from collections.abc import Callable
from typing import final

import psycopg
import trio
from psycopg.sql import SQL, Identifier

from trioflow.checkpoint._postgres_link import Link
from trioflow.checkpoint._postgres_schema import Connection
from trioflow.errors import CheckpointStoreError

__all__ = ("Notifications",)

LONGEST_SILENCE = 30.0
"""Seconds without a notification after which the store is read all the same."""


@final
class Notifications:
    """Receives the server's notifications for one store.

    Args:
        link: makes the connection.
        channel: the channel to listen on.
        note: called when something has changed, or may have.
        own: returns the process id of the backend whose changes are noted without a notification.

    Attributes:
        is_taken: whether a task is waiting.
    """

    __slots__ = ("_channel", "_db", "_link", "_note", "_own", "_patience", "_schema", "is_taken")

    def __init__(
        self, link: Link, channel: str, note: Callable[[], object], own: Callable[[], int | None]
    ) -> None:
        self._link = link
        self._channel = channel
        self._note = note
        self._own = own
        self._db: Connection | None = None
        self._schema = b""
        self._patience = trio.CancelScope()
        self.is_taken = False

    def __repr__(self) -> str:
        return f"<Notifications: {'open' if self.is_open else 'closed'}>"

    @property
    def is_open(self) -> bool:
        """Whether this connection is listening."""
        return self._db is not None

    async def wait(self, poll: float) -> None:
        """Wait for a notification; without a connection, for `poll` seconds.

        Cancellation: nothing is lost.
        """
        if self.is_taken:
            await trio.lowlevel.checkpoint()
            return
        self.is_taken = True
        try:
            if self._db is None:
                await self._open(poll)
            else:
                until = trio.current_time() + LONGEST_SILENCE
                with trio.CancelScope(deadline=until) as self._patience:
                    await trio.lowlevel.wait_readable(self._db.fileno())
                self._read()
                if trio.current_time() >= until:
                    self._note()  # the network may be down, which would go unnoticed
        finally:
            self.is_taken = False

    def wake(self) -> None:
        """End the current wait: something has changed in this process.

        The server's notification of it may have been read before the write returned here.
        """
        self._patience.cancel(reason="something has changed in this process")

    async def aclose(self) -> None:
        """Close the connection; the next wait reconnects.

        Cancellation: the caller shields it.
        """
        self._close()
        await trio.lowlevel.checkpoint()

    async def _open(self, poll: float) -> None:
        try:
            self._db, self._schema = await trio.to_thread.run_sync(self._listen)
        except (psycopg.Error, CheckpointStoreError):
            # The store's own connection reports what is wrong with the server.
            self._close()
            await trio.sleep(poll)
        self._note()  # there may have been changes before it listened

    def _listen(self) -> tuple[Connection, bytes]:
        db = self._link.ready(trio.from_thread.check_cancelled)
        db.execute(SQL("LISTEN {}").format(Identifier(self._channel)))
        row = db.execute("SELECT current_schema()").fetchone()
        return db, str(row[0] if row else "").encode()

    def _read(self) -> None:
        if self._db is None:
            return
        changed = False
        try:
            self._db.pgconn.consume_input()
            while (notification := self._db.pgconn.notifies()) is not None:
                changed = changed or (
                    notification.extra == self._schema and notification.be_pid != self._own()
                )
            if changed:
                self._note()
        except psycopg.Error:
            self._close()
            self._note()

    def _close(self) -> None:
        if self._db is not None:
            db, self._db = self._db, None
            if not db.closed:
                trio.lowlevel.notify_closing(db.fileno())
        self._link.close()
