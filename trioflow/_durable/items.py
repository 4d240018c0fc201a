"""What is kept of a fan-out: each success by the item's identity, so that no call is made twice.

An item is known by `key(item)`, or by its index and a fingerprint. A success is encoded when it happens and
written with others: at least every `flush_interval` seconds, when many have gathered, and at the end, however that
comes.
"""

import time
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
from trioflow._text import describe_error, quote
from trioflow.checkpoint.codec import Codec, fingerprint
from trioflow.checkpoint.protocol import Checkpoint, CheckpointStore, RunStatus
from trioflow.checkpoint.session import Session, decode, encode, load_verified, shielded_save
from trioflow.config import CheckpointConfig
from trioflow.config.checks import check_callable
from trioflow.errors import CheckpointError, CheckpointMismatchError, CheckpointNotFoundError, ConfigError
from trioflow.events import EventType

__all__ = ("Journal", "Place", "open_journal")

T = TypeVar("T")
R = TypeVar("R")

_KIND = "a fan-out"

BATCH = 1_000
"""Successes that are written without waiting for the interval."""

MOST_PENDING = 10_000
"""Successes that may wait to be written; workers wait then."""


class Place(Protocol):
    """Who knows which item is in hand."""

    index: int


class _Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A success, as it is kept."""

    mark: bytes
    total: int | None
    result: bytes


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
    """Return the journal of a run that is to be kept; None for one that is not."""
    check_callable("key", key, optional=True)
    kept_in = choose_store_for(run_id, store, config, always=True)
    if kept_in is None or run_id is None:
        return None
    config = config or CheckpointConfig()
    return Journal(kept_in, run_id, config, key=key, result_type=result_type, total=total, emitter=emitter)


@final
class Journal(Generic[T, R]):
    """Keeps one fan-out.

    Args:
        store: where; a name, a URL or a store.
        run_id: the run's id.
        config: how often, and whether a run that is done is kept.
        key: names an item; None takes its index and a fingerprint.
        result_type: the type that results come back as; None is plain data.
        total: the length of the input, if it has one.
        emitter: who tells.
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
        self._session: Session
        self._session_store: CheckpointStore
        self._kept: dict[str, bytes] = {}
        self._seen: set[str] = set()
        self._recalled = 0
        self._written = 0
        self._pending: list[tuple[str, bytes]] = []
        self._filled = trio.Event()
        self._room = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Journal: {len(self._kept)} kept, {len(self._pending)} to be written>"

    async def open(self, store: CheckpointStore, items: object) -> None:
        """Claim the run, and read what is kept of it.

        Raises:
            CheckpointMismatchError: it had other items, or is no fan-out.

        Cancellation: the run may have been claimed.
        """
        with suppress(CheckpointNotFoundError):
            kind = (await load_verified(store, self._run_id)).graph
            if kind != _KIND:
                message = f"run {quote(self._run_id)} is one of {quote(kind)} and no fan-out: take another run_id"
                raise CheckpointMismatchError(message, run_id=self._run_id)
        self._session_store = store
        self._session = await Session.claim(store, self._run_id)
        self._kept = dict(await self._session.load_items())
        if not self._kept:
            return
        self._tell(EventType.CHECKPOINT_LOAD, items=len(self._kept))
        if not self._inside:
            await self._check_items(items)
        self._tell(EventType.CHECKPOINT_RESUME, items=len(self._kept))

    async def _check_items(self, items: object) -> None:
        """Look whether the items are those that the run was begun with, as far as that can be seen.

        Cancellation: nothing is changed.
        """
        first = self._decode(next(iter(self._kept.values())))
        if self._key is None and not first.mark:
            raise self._mismatch("they were named by key=")
        if self._key is None and first.total != self._total:
            raise self._mismatch(f"there were {_count(first.total)}, and now there are {_count(self._total)}")
        if self._key is None and isinstance(items, Sequence):
            for turn, name in enumerate(self._kept, 1):
                self._check(name, fingerprint(items[int(name)]))
                if not turn % BATCH:
                    await trio.lowlevel.checkpoint()

    def around(
        self, attempt: Callable[[T], Awaitable[R]], place: Place
    ) -> Callable[[T], Awaitable[R]]:
        """Return `attempt` for the worker at `place`: not made where its result is kept, and kept if it succeeds.

        Cancellation: passes through to `attempt`.
        """

        async def journaled(item: T) -> R:
            try:
                name, mark = self._identify(place.index, item)
                kept = self._find(name, mark)
                if kept is not None:
                    self._recalled += 1
                    result: R = await decode(self._codec, kept.result)
                    return result
            except CheckpointError as error:
                raise JournalError from error
            result = await attempt(item)
            try:
                await self._record(name, mark, result)
            except CheckpointError as error:
                raise JournalError from error
            # A full journal holds the next call up, not this result: parking here would be a way to lose it.
            return result

        async def patient(item: T) -> R:
            while len(self._pending) >= MOST_PENDING:
                await self._room.park()
            return await journaled(item)

        return patient

    async def write_until_cancelled(self) -> None:
        """Write what gathers, at intervals or when it is much.

        Raises:
            CheckpointConflictError: somebody else has claimed the run.
            CheckpointStoreError: the store cannot.

        Cancellation: passes through; `finish` writes the rest.
        """
        while True:
            with trio.move_on_after(self._interval):
                await self._filled.wait()
            await self._write()

    def check_end(self, *, exhausted: bool) -> None:
        """Look whether there was an item for each that is kept, once the source is `exhausted`.

        Raises:
            CheckpointMismatchError: there was not.
        """
        if exhausted and self._key is None and not self._inside and self._recalled < len(self._kept):
            raise self._mismatch(f"there were {len(self._kept)} or more, and now there are {self._recalled}")

    async def finish(self, status: RunStatus) -> CheckpointError | None:
        """Write the rest and how the run ended, or forget one that need not be kept; return what went wrong.

        Cancellation: shielded, for as long as `shielded_save` waits.
        """
        try:
            await shielded_save(self._session_store, lambda: self._finish(status))
        except CheckpointError as error:
            return error
        return None

    async def _finish(self, status: RunStatus) -> None:
        await self._write()
        # Where the clean-up fails the run is there still, as completed, and says so to whoever asks.
        await self._session.finish(self._last_word(status), preserve=self._preserve)

    def _last_word(self, status: RunStatus) -> Checkpoint:
        """Return what says how the run stands to whoever lists the runs of the store."""
        return Checkpoint(
            run_id=self._run_id,
            graph=_KIND,
            kind="parallel",
            step=len(self._kept) + self._written,
            node="",
            next_node="",
            iterations=0,
            state=b"",
            status=status,
            pause=None,
            created_at=time.time(),
        )

    def _identify(self, index: int, item: T) -> tuple[str, bytes]:
        if self._key is None:
            return str(index), fingerprint(item)
        name: object = call_plain(self._key, item)
        if not isinstance(name, str):
            raise JournalError from ConfigError.refusing("what key returned", name, "a string")
        if name in self._seen:
            refusal = f"a name of one item only; it is given to item {index} and to one before it"
            raise JournalError from ConfigError.refusing("what key returned", name, refusal)
        self._seen.add(name)
        return name, b""

    def _find(self, name: str, mark: bytes) -> _Record | None:
        kept = self._kept.get(name)
        if kept is None:
            return None
        record = self._decode(kept)
        if self._inside and record.mark != mark:
            # The state that the items come from was updated: this one is another, and is called.
            return None
        self._check(name, mark)
        return record

    def _check(self, name: str, mark: bytes) -> None:
        if self._decode(self._kept[name]).mark != mark:
            other = f"item {name} is another one" if self._key is None else "it was begun without key="
            raise self._mismatch(other)

    async def _record(self, name: str, mark: bytes, result: R) -> None:
        try:
            data = await encode(self._codec, result)
        except CheckpointError as error:
            error.add_note(f"raised by the result of item {name}")
            raise
        self._pending.append((name, _encode(_Record(mark, self._total, data))))
        if len(self._pending) >= BATCH:
            self._filled.set()

    async def _write(self) -> None:
        batch, self._pending = self._pending, []
        self._filled = trio.Event()
        if not batch:
            return
        try:
            await self._session.save_items(batch)
        except BaseException:
            # Whether it was written or not, writing it again does no harm.
            self._pending = batch + self._pending
            raise
        self._written += len(batch)
        self._room.unpark_all()
        self._tell(EventType.CHECKPOINT_SAVE, items=len(batch))

    def _decode(self, data: bytes) -> _Record:
        try:
            return _records.decode(data)
        except msgspec.MsgspecError as error:
            raise self._mismatch(f"what is kept is no fan-out's ({describe_error(error)})") from error

    def _mismatch(self, why: str) -> CheckpointMismatchError:
        run_id = self._run_id
        advice = "give the same items, name items by key=, or take another run_id"
        message = f"the items of run {quote(run_id)} are not those that it was begun with: {why}; {advice}"
        return CheckpointMismatchError(message, run_id=run_id)

    def _tell(self, type: EventType, **data: Any) -> None:
        if self._emitter.active:
            self._emitter.emit(type, data)


def _count(total: int | None) -> str:
    return "no known number" if total is None else f"{total}"
