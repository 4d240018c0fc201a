"""A store in PostgreSQL, for many processes and machines.

Calls are made in a worker thread, on the store's single connection, and a save is one round trip; calls that wait
at the same time become one statement (`_postgres_calls`). After a lost connection the store reconnects, and checks
the outcome of the interrupted calls before it repeats anything. Nothing waits forever, and no password is shown.
See `docs/design/durability.md`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Self, TypeVar, final

import trio

try:
    import psycopg
except ImportError as _missing:
    _message = "the PostgreSQL store needs the extra 'postgres': pip install 'trioflow[postgres]'"
    raise ImportError(_message) from _missing

from trioflow._text import quote
from trioflow.checkpoint import _postgres_rows as rows
from trioflow.checkpoint import _postgres_service as _service
from trioflow.checkpoint._changes import Changes
from trioflow.checkpoint._postgres_calls import Alone, Calls, Close, Together
from trioflow.checkpoint._postgres_link import Bounds, Link
from trioflow.checkpoint._postgres_notify import Notifications
from trioflow.checkpoint._postgres_schema import CHANNEL, Connection
from trioflow.checkpoint._turns import Turns
from trioflow.checkpoint._users import OneRunAtATime
from trioflow.checkpoint.memory import check_page
from trioflow.checkpoint.protocol import Checkpoint, CheckpointInfo, RunInfo
from trioflow.checkpoint.service_protocol import EndStatus, LeaseGrant, LeaseRequest, Release, ServiceRun
from trioflow.config.checks import check_in_trio
from trioflow.errors import CheckpointStoreError, ConfigError

__all__ = ("PostgresStore",)

R = TypeVar("R")

VACUUM_LIMIT = 3_600.0
"""Seconds that `vacuum` may take."""

@final
class PostgresStore:
    """A `CheckpointStore` and `ServiceStore` in a PostgreSQL database.

    Connects at first use, and creates its tables.

    ::

        async with PostgresStore("postgresql://worker@db.example/runs") as store:
            await process_parallel(items, call, store=store, run_id="nightly")

    Any number of processes on any number of machines may use one database. Saved data survives a crash of the
    server. While a server restarts, operations wait for it, for up to a minute. Passwords and TLS are libpq's:
    `~/.pgpass`, `PGPASSWORD`, `sslmode=verify-full` in the URL.

    Args:
        url: a libpq URL: `postgresql://user@host:5432/database?sslmode=verify-full`.
        read_only: whether to write nothing, and create no tables.

    Raises:
        ConfigError: `url` is not a valid libpq URL.
    """

    bounds_waiting: ClassVar[bool] = True
    """It never waits indefinitely, so the caller need not limit its waiting time."""

    _bounds: ClassVar[Bounds] = Bounds()

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._link = _link(url, read_only=read_only, bounds=self._bounds)
        self._read_only = read_only
        self._calls = Calls(self._link)
        self._turns = Turns(self._calls.make)
        self._user = OneRunAtATime()
        self._changes = Changes()
        self._notifications = Notifications(
            _link(url, read_only=True, bounds=self._bounds),
            CHANNEL,
            self._changes.note,
            lambda: self._link.process,
        )

    def __repr__(self) -> str:
        return f"<PostgresStore {self._link.name}{', open' if self._link.is_open else ''}>"

    async def __aenter__(self) -> Self:
        check_in_trio()
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.aclose()

    async def claim(self, run_id: str, *, parent: tuple[str, int] | None = None) -> int:
        """See `CheckpointStore.claim`.

        Cancellation: the run may have been claimed.
        """
        return await self._write(rows.claim, run_id, parent)

    async def save(self, checkpoint: Checkpoint, epoch: int) -> None:
        """See `CheckpointStore.save`.

        Cancellation: waits up to two seconds for the write; the checkpoint was then saved whole, or not at all.
        """
        run_id, size = checkpoint.run_id, len(checkpoint.state)
        await self._write_together(Together(rows.save, checkpoint, epoch, run_id=run_id, size=size))

    async def load(self, run_id: str, step: int | None = None) -> Checkpoint:
        """See `CheckpointStore.load`.

        Cancellation: nothing is changed.
        """
        found: Checkpoint = await self._take(Together(rows.load, run_id, step))
        return found

    async def history(self, run_id: str) -> Sequence[CheckpointInfo]:
        """See `CheckpointStore.history`.

        Cancellation: nothing is changed.
        """
        return await self._read(rows.history, run_id)

    async def list_runs(self, *, after: str | None = None, limit: int | None = None) -> Sequence[RunInfo]:
        """See `CheckpointStore.list_runs`.

        Cancellation: nothing is changed.
        """
        check_page(limit)
        return await self._read(rows.list_runs, after, limit)

    async def delete(self, run_id: str, epoch: int | None = None) -> None:
        """See `CheckpointStore.delete`.

        Cancellation: waits up to two seconds for the write; the run was then deleted whole, or not at all.
        """
        await self._change(rows.delete, run_id, epoch)

    async def save_items(self, run_id: str, epoch: int, batch: Sequence[tuple[str, bytes]]) -> None:
        """See `CheckpointStore.save_items`.

        Cancellation: waits up to two seconds for the write; the batch was then saved whole, or not at all.
        """
        await self._write(rows.save_items, run_id, epoch, batch)

    async def load_items(self, run_id: str) -> dict[str, bytes]:
        """See `CheckpointStore.load_items`.

        Cancellation: nothing is changed.
        """
        return await self._read(rows.load_items, run_id)

    async def submit(self, checkpoint: Checkpoint, delay: float) -> None:
        """See `ServiceStore.submit`.

        Cancellation: waits up to two seconds for the write; the run was then submitted whole, or not at all.
        """
        await self._write_together(Together(_service.submit, checkpoint, delay, size=len(checkpoint.state)))
        self._note()

    async def lease(self, request: LeaseRequest) -> LeaseGrant:
        """See `ServiceStore.lease`.

        Cancellation: runs may have been leased; they become due again when the lease expires.
        """
        return await self._write(_service.lease, request)

    async def release(self, run_id: str, epoch: int, release: Release) -> None:
        """See `ServiceStore.release`.

        Cancellation: waits up to two seconds for the write; the run may then have been released.
        """
        await self._change(_service.release, run_id, epoch, release)

    async def finish(
        self, run_id: str, epoch: int, status: EndStatus, outcome: bytes, reason: str | None = None
    ) -> None:
        """See `ServiceStore.finish`.

        Cancellation: waits up to two seconds for the write; the outcome was then stored whole, or not at all.
        """
        await self._write_together(
            Together(_service.finish, run_id, epoch, status, outcome, reason, run_id=run_id)
        )
        self._note()

    async def put_signal(self, run_id: str, name: str, payload: bytes) -> None:
        """See `ServiceStore.put_signal`.

        Cancellation: waits up to two seconds for the write; the signal may then have been stored.
        """
        await self._change(_service.put_signal, run_id, name, payload)

    async def take_signal(self, run_id: str, epoch: int, name: str, wait: str) -> bytes | None:
        """See `ServiceStore.take_signal`.

        Cancellation: the signal may have been taken; the same wait gets it again.
        """
        return await self._write(_service.take_signal, run_id, epoch, name, wait)

    async def request_cancel(self, run_id: str) -> None:
        """See `ServiceStore.request_cancel`.

        Cancellation: the request may have been stored.
        """
        await self._change(_service.request_cancel, run_id)

    async def look(self, run_id: str) -> ServiceRun:
        """See `ServiceStore.look`.

        Cancellation: nothing is changed.
        """
        found: ServiceRun = await self._take(Together(_service.look, run_id))
        return found

    async def ended(self, run_ids: Sequence[str]) -> list[str]:
        """See `ServiceStore.ended`.

        Cancellation: nothing is changed.
        """
        found: list[str] = await self._take(Together(_service.ended, run_ids))
        return found

    async def wait_for_change(self, since: int | None, poll: float) -> int:
        """See `ServiceStore.wait_for_change`: the server notifies; without a connection for that, this polls.

        Cancellation: nothing is changed.
        """
        self._user.check(self)
        await trio.lowlevel.checkpoint()
        if not self._notifications.is_open:
            await self._notifications.wait(poll)
        while since == self._changes.count:
            if self._notifications.is_taken:
                # One task waits for the server, and wakes the others; if it leaves, another one takes its place.
                with trio.move_on_after(poll):
                    await self._changes.wait()
            else:
                await self._notifications.wait(poll)
        return self._changes.count

    async def vacuum(self) -> None:
        """Return the space of deleted runs to the disk; other operations wait meanwhile.

        Cancellation: it is done, or nothing was changed.
        """
        await self._write(self._vacuum)

    async def aclose(self) -> None:
        """Close the connection; the next use reconnects.

        Cancellation: waits until it is closed; running operations get two seconds to finish.
        """
        self._user.check(self)
        self._calls.closing.set()
        try:
            with trio.CancelScope(shield=True):
                await self._turns.take(Close())
                await self._notifications.aclose()
        finally:
            self._calls.closing.clear()
        self._user.leave()
        await trio.lowlevel.checkpoint()

    async def _write(self, operation: Callable[..., R], *args: object) -> R:
        """Run an operation that changes the database.

        Cancellation: done, not started, or in an unknown state but atomic.
        """
        self._check_writable()
        tried = rows.Tried()
        result: R = await self._take(Alone(partial(operation, tried=tried), *args, tried=tried))
        return result

    async def _write_together(self, call: Together) -> None:
        """Make a call that changes the database, together with other calls of its kind.

        Cancellation: done, not started, or in an unknown state but atomic.
        """
        self._check_writable()
        await self._take(call)

    def _check_writable(self) -> None:
        if self._read_only:
            raise CheckpointStoreError(f"the store {quote(self._link.name)} was opened to be read only")

    async def _change(self, operation: Callable[..., R], *args: object) -> R:
        """Run an operation whose change other tasks wait for.

        Cancellation: done, not started, or in an unknown state but atomic.
        """
        result = await self._write(operation, *args)
        self._note()
        return result

    def _note(self) -> None:
        """Note a change by this process."""
        self._changes.note()
        self._notifications.wake()

    async def _read(self, operation: Callable[..., R], *args: object) -> R:
        result: R = await self._take(Alone(operation, *args, tried=rows.Tried()))
        return result

    async def _take(self, call: Alone) -> Any:
        self._user.check(self)
        return await self._turns.take(call)

    def _vacuum(self, db: Connection, *, tried: rows.Tried) -> None:
        if tried.again:
            raise CheckpointStoreError("the connection was lost during the vacuum: try again")
        with self._link.taking(VACUUM_LIMIT):
            rows.vacuum(db)


def _link(url: object, *, read_only: bool, bounds: Bounds) -> Link:
    allowed = "a URL that libpq takes, such as postgresql://user@host/database"
    if not isinstance(url, str):
        raise ConfigError.refusing("url", type(url), allowed)
    # libpq's message quotes the part that it cannot parse, which may be the password.
    refused = ConfigError.refusing("url", f"{url.partition('://')[0]}://…" if "://" in url else "…", allowed)
    if not url.startswith("postgresql://") or "\0" in url:
        raise refused
    try:
        return Link(url, read_only=read_only, bounds=bounds)
    except psycopg.ProgrammingError:
        raise refused from None
