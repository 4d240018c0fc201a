"""Durable fan-outs: each result is stored under the item's identity, so that no call is made twice.

An item is identified by `key(item)`, or by its index and a fingerprint. A result is encoded at once and written
in batches, the oldest first: within `flush_interval` seconds, sooner when many are pending, and at the end of the
run, whatever ends it. If the store falls behind, workers wait before a new call, so what a crash costs is bounded
under any load; they never wait while they hold a result.

Stored results are checked before anything is changed: a call with other items, or of another kind, is refused
before it claims the run, and so does not disturb a process that is running it. A run whose items can only be
compared as they are pulled is claimed at the first item that has to be called.

The run's own checkpoint also has its failed items, summed up (`checkpoint/fan_outs.py`), for people who look at
it. They are those of the last call, and saving them never fails a run.
"""

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar, final

import msgspec
import trio

from trioflow._durable.children import ChildStore
from trioflow._durable.stores import choose_store_for
from trioflow._runtime.calls import call_plain
from trioflow._runtime.emitter import Emitter
from trioflow._runtime.signals import JournalError
from trioflow._text import describe_error, one_line, quote
from trioflow.checkpoint.codec import Codec, fingerprint, is_large, is_marked
from trioflow.checkpoint.fan_outs import FailureCounter, Header
from trioflow.checkpoint.protocol import Checkpoint, CheckpointStore, RunStatus
from trioflow.checkpoint.session import (
    Session,
    decode,
    encode_large,
    in_transactions,
    load_verified,
    shielded_save,
    store_errors,
)
from trioflow.config import CheckpointConfig
from trioflow.config.checks import check_callable
from trioflow.errors import (
    CheckpointEncodeError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    ConfigError,
)
from trioflow.events import EventType

T = TypeVar("T")
R = TypeVar("R")
V = TypeVar("V")

_KIND = "a fan-out"

BATCH = 1_000
"""Pending results that are written before the interval is over."""

BATCH_BYTES = 4 << 20
"""The same in bytes."""

MOST_PENDING = 10_000
"""Pending results at which workers wait."""

MOST_PENDING_BYTES = 16 << 20
"""The same in bytes."""

SHOW_FAILURES = 1.0
"""Seconds between two saves of the failed items of a run in progress."""


class Place(Protocol):
    """A worker, with the index and the identity of its current item."""

    index: int
    identity: str | None


class _Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A stored result."""

    mark: bytes
    total: int | None
    result: bytes


_headers = msgspec.msgpack.Decoder(Header)
_records = msgspec.msgpack.Decoder(_Record)
_encode = msgspec.msgpack.Encoder().encode


def open_journal(
    run_id: str | None,
    store: CheckpointStore | None,
    config: CheckpointConfig | None,
    *,
    key: Callable[[T], str] | None,
    result_type: type[R] | None,
    total: int | None,
    emitter: Emitter,
) -> "Journal[T, R] | None":
    """Return the journal of a durable run; None for another."""
    check_callable("key", key, optional=True)
    kept_in = choose_store_for(run_id, store, config, always=True)
    if kept_in is None or run_id is None:
        return None
    config = config or CheckpointConfig()
    return Journal(kept_in, run_id, config, key=key, result_type=result_type, total=total, emitter=emitter)


@final
class Journal(Generic[T, R]):
    """Stores the results of one fan-out.

    Args:
        store: a store, or its name or URL.
        run_id: the run's id.
        config: how often to write, and whether to preserve a completed run.
        key: returns the identity of an item; None is its index and a fingerprint.
        result_type: the type that results are decoded to; None is plain data.
        total: the length of the input, if it has one.
        emitter: emits the run's events.
    """

    def __init__(
        self,
        store: CheckpointStore | str,
        run_id: str,
        config: CheckpointConfig,
        *,
        key: Callable[[T], str] | None,
        result_type: type[R] | None,
        total: int | None,
        emitter: Emitter,
    ) -> None:
        self.store = store
        self._inside = isinstance(store, ChildStore)
        self._run_id = run_id
        self._interval = config.flush_interval
        self._preserve = config.preserve
        self._key = key
        self._codec: Codec[Any] = Codec(Any if result_type is None else result_type, what="a result")
        self._total = total
        self._emitter = emitter
        self._store: CheckpointStore
        self._clock: Callable[[], float]
        self._session: Session | None = None
        self._claiming = trio.Lock()
        self._header = Header(total, key is not None, b"")
        self._kept: dict[str, bytes] = {}
        self._kept_status: RunStatus | None = None
        self._kept_count = 0
        self._recalled: set[str] = set()
        self._seen: set[str] = set()
        self._written = 0
        self._failures = FailureCounter()
        self._failures_saved = 0
        self._failures_due = -math.inf
        self._pending: deque[tuple[float, str, bytes]] = deque()
        self._pending_bytes = 0
        self._filled = trio.Event()
        self._room = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Journal: {self._kept_count} stored, {len(self._pending)} pending>"

    async def open(self, store: CheckpointStore, items: object) -> None:
        """Load and check the stored run, and claim it, unless items must be compared first.

        Raises:
            CheckpointMismatchError: it had other items, results of another type, or is not a fan-out; nothing was
                changed.

        Cancellation: the run may have been claimed.
        """
        self._store = store
        self._clock = trio.lowlevel.current_clock().current_time
        sequence = items if isinstance(items, Sequence) and self._key is None else None
        if sequence:
            self._header = msgspec.structs.replace(self._header, first=fingerprint(sequence[0]))
        await self._load()
        if self._kept:
            self._emit(EventType.CHECKPOINT_LOAD, items=len(self._kept))
            await self._check_kept(sequence)
            self._emit(EventType.CHECKPOINT_RESUME, items=len(self._kept))
        if not self._kept or (sequence is not None and len(self._kept) < len(sequence)):
            await self._claim()

    async def _load(self) -> None:
        """Load the stored run, and check that it is this one.

        Cancellation: nothing is changed.
        """
        try:
            checkpoint = await load_verified(self._store, self._run_id)
        except CheckpointNotFoundError:
            self._kept_status = None
        else:
            if checkpoint.kind != "parallel":
                kind = quote(checkpoint.graph)
                message = f"run {quote(self._run_id)} is a run of {kind}, not a fan-out: use another run_id"
                raise CheckpointMismatchError(message, run_id=self._run_id)
            self._kept_status = checkpoint.status
            if checkpoint.state and not self._inside:
                self._check_header(self._decode_as(_headers, checkpoint.state))
        with store_errors(self._store):
            self._kept = dict(await self._store.load_items(self._run_id))
        self._kept_count = len(self._kept)

    def _check_header(self, begun: Header) -> None:
        if begun.named != self._header.named:
            raise self._mismatch("they were identified by key=" if begun.named else "it was started without key=")
        if begun.named:
            return
        if begun.total != self._total:
            raise self._mismatch(f"there were {_count(begun.total)}, and now there are {_count(self._total)}")
        if begun.first and self._header.first and begun.first != self._header.first:
            raise self._mismatch("item 0 differs")

    async def _check_kept(self, sequence: Sequence[Any] | None) -> None:
        """Check that the items are those that the run was started with, and that its results can be decoded.

        Cancellation: nothing is changed.
        """
        for turn, (name, data) in enumerate(self._kept.items(), 1):
            record = self._decode_as(_records, data)
            if not self._inside:
                self._check_record(name, record, sequence)
            await decode(self._codec, record.result)
            if not turn % BATCH:
                await trio.lowlevel.checkpoint()

    def _check_record(self, name: str, record: _Record, sequence: Sequence[Any] | None) -> None:
        if self._key is None and not record.mark:
            raise self._mismatch("they were identified by key=")
        if self._key is None and record.total != self._total:
            raise self._mismatch(f"there were {_count(record.total)}, and now there are {_count(self._total)}")
        if sequence is not None:
            self._check_mark(name, record, sequence[int(name)])

    async def _claim(self) -> Session:
        """Claim the run, and write that it has started.

        Cancellation: the run may have been claimed.
        """
        async with self._claiming:
            if self._session is None:
                session = await Session.claim(self._store, self._run_id)
                # The previous holder may have saved results before the claim.
                await self._load()
                for name in self._recalled:
                    self._kept.pop(name, None)
                self._recalled.clear()
                await session.save(self._checkpoint("running"))
                self._session = session
        return self._session

    def around(
        self, attempt: Callable[[T], Awaitable[R]], place: Place
    ) -> Callable[[T], Awaitable[R]]:
        """Return `attempt` wrapped for the worker `place`: returns a stored result, or stores a new one.

        Cancellation: passes through to `attempt`.
        """

        async def journaled(item: T) -> R:
            place.identity = None
            # If the store is behind, the next call waits, not a result: a result could be lost to a cancellation.
            # A wait that has ended cannot be cancelled any more, and no item may begin after a cancellation.
            while self._is_behind():
                await self._room.park()
                await trio.lowlevel.checkpoint_if_cancelled()
            try:
                name, mark = self._identify(place, item)
                kept = self._recall(name, item) if self._kept else None
                if kept is not None:
                    result: R = await decode(self._codec, kept.result)
                    return result
                if self._session is None:
                    await self._claim()
                    await trio.lowlevel.checkpoint_if_cancelled()
            except CheckpointError as error:
                raise JournalError from error
            result = await attempt(item)
            await self._record(name, mark, result)
            return result

        return journaled

    def note_failure(self, index: int, error: Exception, *, key: str | None = None, count: int = 1) -> None:
        """Note that the item of this index failed, or `count` items of which it is the first."""
        self._failures.add(index, error, key=key, count=count)

    def _is_behind(self) -> bool:
        pending = self._pending
        return bool(pending) and (
            len(pending) >= MOST_PENDING
            or self._pending_bytes >= MOST_PENDING_BYTES
            or self._clock() - pending[0][0] > self._interval
        )

    async def write_until_cancelled(self) -> None:
        """Write pending results, at intervals or when there are many.

        Raises:
            CheckpointConflictError: another process has claimed the run.
            CheckpointStoreError: the store failed.

        Cancellation: passes through; `finish` writes the rest.
        """
        while True:
            # Half of the interval leaves the other half for writing.
            with trio.move_on_after(self._interval / 2):
                await self._filled.wait()
            await self._write()
            if self._failures.count > self._failures_saved:
                await self._save_failures()

    async def _save_failures(self) -> None:
        """Save the failures so far, unless that was done just now.

        An error of the store is left to the next write of results, or the end of the run, to raise.

        Cancellation: they were saved, or not at all.
        """
        if self._session is None or trio.current_time() < self._failures_due:
            return
        count = self._failures.count
        with suppress(CheckpointError):
            await self._session.save(self._checkpoint("running"))
            self._failures_saved = count
        self._failures_due = trio.current_time() + SHOW_FAILURES

    def check_end(self, *, exhausted: bool) -> None:
        """Check, once the source is `exhausted`, that there was an item for each stored result.

        Raises:
            CheckpointMismatchError: there was not.
        """
        if exhausted and self._key is None and not self._inside and self._kept:
            count = self._kept_count
            raise self._mismatch(f"there were {count} or more, and now there are {count - len(self._kept)}")

    async def finish(self, status: RunStatus) -> None:
        """Write the pending results, and the status of the run; nothing is deleted yet.

        Raises:
            CheckpointConflictError: another process has claimed the run.
            CheckpointStoreError: the store failed.

        Cancellation: shielded, for as long as `shielded_save` waits.
        """
        if self._session is None and (self._kept_status == status or status != "completed"):
            return  # nothing was called: the run stays as it is, for the process that holds it
        await shielded_save(self._store, lambda: self._finish(status))

    async def _finish(self, status: RunStatus) -> None:
        session = self._session or await self._claim()
        await self._write()
        await session.save(self._checkpoint(status))

    async def clean_up(self) -> None:
        """Delete a completed run, unless it is to be preserved, or has items that this call did not include.

        A failure does no harm: the run stays in the store as completed.

        Cancellation: shielded, for as long as `shielded_save` waits.
        """
        if not self._preserve and not self._kept:
            with suppress(CheckpointError):
                await shielded_save(self._store, self._clean_up)

    async def _clean_up(self) -> None:
        session = self._session or await self._claim()
        await session.forget()

    def _checkpoint(self, status: RunStatus) -> Checkpoint:
        """Return the checkpoint that shows the run's status in the store."""
        header = self._header
        if self._failures.count:
            header = msgspec.structs.replace(header, failures=msgspec.Raw(_encode(self._failures.failures())))
        # However often it is saved, a run in progress has one checkpoint: the first.
        written = 0 if status == "running" else self._written
        return Checkpoint(
            run_id=self._run_id,
            graph=_KIND,
            kind="parallel",
            step=self._kept_count + written,
            node="",
            next_node="",
            iterations=0,
            state=_encode(header),
            status=status,
            pause=None,
            created_at=time.time(),
        )

    def _identify(self, place: Place, item: T) -> tuple[str, bytes]:
        if self._key is None:
            return str(place.index), fingerprint(item)
        name: object = call_plain(self._key, item)
        if not isinstance(name, str):
            raise JournalError from ConfigError.refusing("what key returned", name, "a string")
        if name in self._seen:
            refusal = f"unique; item {place.index} and an earlier one have the same"
            raise JournalError from ConfigError.refusing("what key returned", name, refusal)
        self._seen.add(name)
        place.identity = name
        return name, b""

    def _recall(self, name: str, item: T) -> _Record | None:
        """Return the stored result of an item, and drop the reference to it."""
        data = self._kept.get(name)
        if data is None:
            return None
        record = self._decode_as(_records, data)
        if not self._inside:
            self._check_mark(name, record, item)
        del self._kept[name]
        if self._session is None:
            self._recalled.add(name)
        # In a child run, the state that the items come from may have been updated: then the item is called again.
        return record if not self._inside or self._is_of(record, item) else None

    def _is_of(self, record: _Record, item: object) -> bool:
        return is_marked(item, record.mark) if self._key is None else not record.mark

    def _check_mark(self, name: str, record: _Record, item: object) -> None:
        if not self._is_of(record, item):
            other = f"item {name} differs" if self._key is None else "it was started without key="
            raise self._mismatch(other)

    async def _record(self, name: str, mark: bytes, result: R) -> None:
        codec = self._codec
        try:
            plain = codec.plain(result)
            data = await encode_large(codec, plain) if is_large(plain) else codec.encode_plain(plain)
        except CheckpointEncodeError as error:
            error.add_note(f"raised by the result of item {name}")
            error.value = result  # the call was paid for
            raise
        record = _encode(_Record(mark, self._total, data))
        self._pending.append((self._clock(), name, record))
        self._pending_bytes += len(record)
        if len(self._pending) >= BATCH or self._pending_bytes >= BATCH_BYTES:
            self._filled.set()

    async def _write(self) -> None:
        """Write the results that are pending now, the oldest first.

        Cancellation: results that were not written stay pending; writing one twice does no harm.
        """
        self._filled = trio.Event()
        if self._session is None:
            return
        for batch in in_transactions([(name, data) for _, name, data in self._pending]):
            await self._session.save_items(batch)
            for _ in batch:
                self._pending_bytes -= len(self._pending.popleft()[2])
            self._written += len(batch)
            self._room.unpark_all()
            self._emit(EventType.CHECKPOINT_SAVE, items=len(batch))

    def _decode_as(self, decoder: msgspec.msgpack.Decoder[V], data: bytes) -> V:
        try:
            return decoder.decode(data)
        except msgspec.MsgspecError as error:
            why = f"the stored data are not a fan-out's ({one_line(describe_error(error))})"
            raise self._mismatch(why) from error

    def _mismatch(self, why: str) -> CheckpointMismatchError:
        run_id = self._run_id
        advice = "give the same items, identify items by key=, or use another run_id"
        message = f"the items of run {quote(run_id)} are not those that it was started with: {why}; {advice}"
        return CheckpointMismatchError(message, run_id=run_id)

    def _emit(self, type: EventType, **data: Any) -> None:
        if self._emitter.active:
            self._emitter.emit(type, data)


def _count(total: int | None) -> str:
    return "an unknown number" if total is None else f"{total}"
