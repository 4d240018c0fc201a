"""A store in a SQLite file: embedded, with nothing to install or to start.

Calls are made in a worker thread, in groups of those that wait for it (`_turns`): nothing blocks the loop, and a
cancellation waits for the call. The writes of a group are one transaction, with one commit; each has a savepoint,
so that a refused one is rolled back alone. See `docs/design/durability.md`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, final

import apsw
import trio

from trioflow._text import describe_error, one_line, quote
from trioflow.checkpoint import _rows, _service_rows
from trioflow.checkpoint._changes import Changes
from trioflow.checkpoint._clock import store_time
from trioflow.checkpoint._schema import immediately, open_to_look, prepare
from trioflow.checkpoint._turns import Call, Turns
from trioflow.checkpoint._users import OneRunAtATime
from trioflow.checkpoint.memory import check_page
from trioflow.checkpoint.protocol import Checkpoint, CheckpointInfo, RunInfo
from trioflow.checkpoint.service_protocol import EndStatus, LeaseGrant, LeaseRequest, Release, ServiceRun
from trioflow.config.checks import check_in_trio
from trioflow.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointStoreError,
    ConfigError,
)

__all__ = ("SqliteStore",)

R = TypeVar("R")

_FAILURES = (apsw.Error, OSError, UnicodeError, ValueError, OverflowError, TypeError)

_MEANINGS: dict[type[Exception], str] = {
    apsw.NotADBError: "is not a SQLite database: name another file",
    apsw.ReadOnlyError: "cannot be written: it is read-only",
    apsw.BusyError: "is locked by another process for too long",
    apsw.FullError: "cannot grow: the disk is full",
    apsw.CantOpenError: "cannot be opened: see whether it is a file, and ours to write",
}


_MOST_BYTES = 4 << 20
"""The most bytes in one transaction, unless a single write is larger: other processes wait meanwhile."""

_ROW_BYTES = 4 << 10
"""Bytes that a row counts for besides its value, which limits a transaction to about a thousand rows."""


class _Write(Call):
    """A call that changes the file, and may share a transaction with others.

    Attributes:
        size: its share of a transaction, in bytes.
    """

    __slots__ = ("size",)

    def __init__(self, operation: Callable[..., Any], *args: Any, size: int) -> None:
        super().__init__(operation, *args)
        self.size = size


class _Close(Call):
    """A call that closes the file, without opening it first."""

    __slots__ = ()


@final
class SqliteStore:
    """A `CheckpointStore` and `ServiceStore` in the SQLite file `path`, opened at first use, created if missing.

    ::

        async with SqliteStore("runs.db") as store:
            await process_parallel(items, call, store=store, run_id="nightly")

    Several processes may use one file at a time. Saved data survives a crash of the machine.

    Args:
        path: the file; its folder must exist.
        read_only: whether to write nothing, and create no files, not even beside this one, which must exist.

    Raises:
        ConfigError: `path` is empty, or not a valid file name.
    """

    bounds_waiting: ClassVar[bool] = True
    """It never waits indefinitely, so the caller need not limit its waiting time."""

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        name = path if isinstance(path, str) else os.fspath(path)
        if not name.strip() or "\0" in name:
            raise ConfigError.refusing("path", path, "the name of a file")
        self._path = name
        self._read_only = read_only
        self._db: apsw.Connection | None = None
        self._user = OneRunAtATime()
        # Callers always wait for an operation that has begun, so the outcome of a write is always known.
        self._turns = Turns(self._make, may_leave=False)
        self._changes = Changes()
        self._seen: int | None = None

    def __repr__(self) -> str:
        return f"<SqliteStore {self._path}{'' if self._db is None else ', open'}>"

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
        return await self._write(_rows.claim, run_id, parent)

    async def save(self, checkpoint: Checkpoint, epoch: int) -> None:
        """See `CheckpointStore.save`.

        Cancellation: waits until it is saved.
        """
        await self._write(_rows.save, checkpoint, epoch, size=len(checkpoint.state))

    async def load(self, run_id: str, step: int | None = None) -> Checkpoint:
        """See `CheckpointStore.load`.

        Cancellation: nothing is changed.
        """
        return await self._call(_rows.load, run_id, step)

    async def history(self, run_id: str) -> Sequence[CheckpointInfo]:
        """See `CheckpointStore.history`.

        Cancellation: nothing is changed.
        """
        return await self._call(_rows.history, run_id)

    async def list_runs(self, *, after: str | None = None, limit: int | None = None) -> Sequence[RunInfo]:
        """See `CheckpointStore.list_runs`.

        Cancellation: nothing is changed.
        """
        check_page(limit)
        return await self._call(_rows.list_runs, after, limit)

    async def delete(self, run_id: str, epoch: int | None = None) -> None:
        """See `CheckpointStore.delete`.

        Cancellation: waits until it is deleted.
        """
        await self._write(_rows.delete, run_id, epoch)
        self._changes.note()

    async def save_items(self, run_id: str, epoch: int, batch: Sequence[tuple[str, bytes]]) -> None:
        """See `CheckpointStore.save_items`.

        Cancellation: waits until they are saved.
        """
        size = sum(len(value) for _, value in batch) + _ROW_BYTES * len(batch)
        await self._write(_rows.save_items, run_id, epoch, batch, size=size)

    async def load_items(self, run_id: str) -> dict[str, bytes]:
        """See `CheckpointStore.load_items`.

        Cancellation: nothing is changed.
        """
        return await self._call(_rows.load_items, run_id)

    async def submit(self, checkpoint: Checkpoint, delay: float) -> None:
        """See `ServiceStore.submit`.

        Cancellation: waits until it is submitted.
        """
        await self._write(_service_rows.submit, checkpoint, delay, store_time(), size=len(checkpoint.state))
        self._changes.note()

    async def lease(self, request: LeaseRequest) -> LeaseGrant:
        """See `ServiceStore.lease`.

        Cancellation: waits until they are leased.
        """
        return await self._write(_service_rows.lease, request, store_time())

    async def release(self, run_id: str, epoch: int, release: Release) -> None:
        """See `ServiceStore.release`.

        Cancellation: waits until it is released.
        """
        await self._write(_service_rows.release, run_id, epoch, release, store_time())
        self._changes.note()

    async def finish(
        self, run_id: str, epoch: int, status: EndStatus, outcome: bytes, reason: str | None = None
    ) -> None:
        """See `ServiceStore.finish`.

        Cancellation: waits until it is stored.
        """
        await self._write(_service_rows.finish, (run_id, epoch), status, outcome, reason, size=len(outcome))
        self._changes.note()

    async def put_signal(self, run_id: str, name: str, payload: bytes) -> None:
        """See `ServiceStore.put_signal`.

        Cancellation: waits until it is stored.
        """
        await self._write(_service_rows.put_signal, run_id, name, payload, store_time())
        self._changes.note()

    async def take_signal(self, run_id: str, epoch: int, name: str, wait: str) -> bytes | None:
        """See `ServiceStore.take_signal`.

        Cancellation: waits until it is taken.
        """
        return await self._write(_service_rows.take_signal, run_id, epoch, name, wait)

    async def request_cancel(self, run_id: str) -> None:
        """See `ServiceStore.request_cancel`.

        Cancellation: waits until it is requested.
        """
        await self._write(_service_rows.request_cancel, run_id)
        self._changes.note()

    async def look(self, run_id: str) -> ServiceRun:
        """See `ServiceStore.look`.

        Cancellation: nothing is changed.
        """
        return await self._call(_service_rows.look, run_id)

    async def ended(self, run_ids: Sequence[str]) -> list[str]:
        """See `ServiceStore.ended`.

        Cancellation: nothing is changed.
        """
        return await self._call(_service_rows.ended, run_ids)

    async def wait_for_change(self, since: int | None, poll: float) -> int:
        """See `ServiceStore.wait_for_change`: this process's changes wake it; it polls for those of others.

        Cancellation: nothing is changed.
        """
        if since != self._changes.count:
            # No poll for changes of other processes here: the next call polls before it waits.
            self._user.check(self)
            await trio.lowlevel.checkpoint()
            return self._changes.count
        await self._look_for_changes()
        while since == self._changes.count:
            with trio.move_on_after(poll):
                await self._changes.wait()
            if since == self._changes.count:
                await self._look_for_changes()
        return self._changes.count

    async def _look_for_changes(self) -> None:
        """Check whether another connection has changed the file, and note that.

        Cancellation: nothing is changed.
        """
        version = await self._call(_service_rows.data_version)
        if version != self._seen:
            self._seen = version
            self._changes.note()

    async def vacuum(self) -> None:
        """Return the space of deleted runs to the disk; other operations wait meanwhile.

        Cancellation: waits until it is done.
        """
        self._check_writable()
        await self._call(_rows.vacuum)

    async def aclose(self) -> None:
        """Close the file; the next use reopens it.

        Cancellation: waits until it is closed.
        """
        self._user.check(self)
        await self._turns.take(_Close(self._close))
        self._user.leave()
        await trio.lowlevel.checkpoint()

    async def _write(self, operation: Callable[..., R], *args: object, size: int = 0) -> R:
        """Make a call that changes the file, in a group with other writes; `size` is the bytes that it writes.

        Cancellation: waits until it is done.
        """
        self._check_writable()
        result: R = await self._take(_Write(operation, *args, size=_ROW_BYTES + size))
        return result

    def _check_writable(self) -> None:
        if self._read_only:
            raise CheckpointStoreError(f"the store {quote(self._path)} was opened to be read only")

    async def _call(self, operation: Callable[..., R], *args: object) -> R:
        """Make a call that reads the file, or changes it in a transaction of its own.

        Cancellation: waits until it is done.
        """
        result: R = await self._take(Call(operation, *args))
        return result

    async def _take(self, call: Call) -> Any:
        self._user.check(self)
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self._turns.take(call)

    # Called in the thread.

    def _make(self, calls: Sequence[Call]) -> None:
        """Make these calls: the writes first, as a group, so that no call reads uncommitted data."""
        for writes in _in_transactions(call for call in calls if isinstance(call, _Write)):
            if len(writes) > 1:
                self._make_together(writes)
        for call in calls:
            if not call.is_done:
                self._make_alone(call)

    def _make_together(self, calls: Sequence[Call]) -> None:
        """Make these calls in one transaction; if it fails, it is rolled back, and none of them ends."""
        ended: list[Callable[[], None]] = []
        try:
            db = self._ready()
            with immediately(db):
                for call in calls:
                    try:
                        with immediately(db):
                            ended.append(partial(call.succeed, call.operation(db, *call.args)))
                    except CheckpointError as error:
                        ended.append(partial(call.fail, error))
        except (CheckpointError, *_FAILURES) as error:
            # The file is locked by another process: the wait for it counts for all of these calls.
            if isinstance(error, apsw.BusyError):
                for call in calls:
                    call.fail(self._meaning(error))
            return
        for end in ended:
            end()

    def _make_alone(self, call: Call) -> None:
        try:
            args = call.args if isinstance(call, _Close) else (self._ready(), *call.args)
            call.succeed(call.operation(*args))
        except CheckpointError as error:
            call.fail(error)
        except _FAILURES as error:
            call.fail(self._meaning(error))

    def _ready(self) -> apsw.Connection:
        if self._db is None:
            self._db = self._open()
        elif self._db.in_transaction:
            # An operation failed and could not be rolled back; nothing may join its transaction.
            self._db.execute("ROLLBACK")
        return self._db

    def _open(self) -> apsw.Connection:
        folder = Path(self._path).parent
        if not folder.is_dir():
            raise CheckpointStoreError(f"the folder {quote(str(folder))} of the store is not there: make it first")
        if self._read_only:
            return open_to_look(self._path)
        db = apsw.Connection(self._path)
        with ExitStack() as undo:
            undo.callback(db.close)
            prepare(db, self._path)
            undo.pop_all()
        return db

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _meaning(self, error: Exception) -> CheckpointError:
        """Return the store error for an error of SQLite."""
        path, why = quote(self._path), one_line(describe_error(error))
        meant: CheckpointError = CheckpointStoreError(f"the store {path} failed: {why}")
        if isinstance(error, apsw.CorruptError):
            meant = CheckpointCorruptError(f"the store {path} is damaged ({why}): restore a copy of it")
        for kind, message in _MEANINGS.items():
            if isinstance(error, kind):
                meant = CheckpointStoreError(f"the store {path} {message}")
        meant.__cause__ = error
        return meant


def _in_transactions(writes: Iterable[_Write]) -> Iterator[Sequence[_Write]]:
    """Yield the writes in order, in parts: those of one transaction each."""
    part: list[_Write] = []
    size = 0
    for write in writes:
        if part and size + write.size > _MOST_BYTES:
            yield part
            part, size = [], 0
        part.append(write)
        size += write.size
    yield part
