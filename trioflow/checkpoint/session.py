"""One claimed run: what is saved of it, under its epoch, and what is read, verified.

Encoding and hashing a large state take long, so they are done in a thread. A run ends in two steps: that it is
completed is saved, and only then, and only by its holder, it is cleaned up; so who lost the run deletes nothing,
and a clean-up that fails costs nothing. The end is reported in between: the clean-up is the last thing before the
result is returned.
"""

import threading
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import accumulate
from typing import Any, TypeVar, final

import msgspec
import trio

from trioflow._text import describe_error, list_known, one_line, quote
from trioflow.checkpoint.codec import LARGE, Codec, is_large, sealed, verified
from trioflow.checkpoint.memory import MemoryStore
from trioflow.checkpoint.protocol import CHECKPOINT_VERSION, Checkpoint, CheckpointStore, kind_of_form_1
from trioflow.checkpoint.registry import check_store, get_checkpoint_store, is_url
from trioflow.config import CheckpointConfig
from trioflow.errors import (
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointStoreError,
    ConfigError,
)

__all__ = (
    "SAVE_DEADLINE",
    "Session",
    "check_loaded",
    "check_run_id",
    "choose_store",
    "decode",
    "encode",
    "encode_large",
    "in_transactions",
    "load_verified",
    "name_known",
    "open_store",
    "shielded_save",
    "store_errors",
)

V = TypeVar("V")

SAVE_DEADLINE = 10.0
"""Seconds, of the wall's clock, that a save may take that a cancelled or failed run still makes."""

BATCH_ROWS = 1_000
"""Items that are saved in one transaction at most."""

BATCH_BYTES = 4 << 20
"""Bytes of items that are saved in one transaction at most, or one item that is larger."""

_NEAR = 1_000
"""Runs among which near names are looked for."""

_DEFAULT = CheckpointConfig()

_FORBIDDEN = frozenset("\"'`\\")


def check_run_id(run_id: object) -> None:
    """Refuse what would not be safe as the name of a kept run, in a shell, a URL or a file's name."""
    fits = (
        isinstance(run_id, str)
        and 0 < len(run_id.strip()) == len(run_id) <= 512
        and run_id.isprintable()
        and ".." not in run_id
        and not _FORBIDDEN & set(run_id)
    )
    if not fits:
        allowed = "up to 512 printable characters without quotes, backslashes, '..' or blanks around them"
        raise ConfigError.refusing("run_id", run_id, f"{allowed}, where the run is kept")


def choose_store(given: CheckpointStore | None, config: CheckpointConfig | None) -> CheckpointStore | str | None:
    """Return the store to keep a run step by step in, refusing one that is not there; None is not kept.

    An `interval` of 0 is off. Without one, a store that is given or named is used; the one that a config has which
    names none is not.
    """
    if given is not None:
        check_store("store", given)
    interval = None if config is None else config.interval
    if interval == 0:
        return None
    if given is not None or config is None or (interval is None and config.store == _DEFAULT.store):
        return given
    get_checkpoint_store(config.store)
    return config.store


@asynccontextmanager
async def open_store(store: CheckpointStore | str) -> AsyncIterator[CheckpointStore]:
    """Give the store; one that a URL opened is closed afterwards."""
    opened = get_checkpoint_store(store) if isinstance(store, str) else store
    try:
        yield opened
    finally:
        if isinstance(store, str) and is_url(store):
            await shielded_save(opened, opened.aclose)  # noqa: ASYNC102 - shielded and timed in there


async def shielded_save(store: CheckpointStore, work: Callable[[], Awaitable[V]]) -> V:
    """Return what `work` returns, which is done with `store` even if the caller was cancelled.

    What it may take is measured by the wall's clock: a test's clock that jumps while all tasks wait would jump
    over any deadline of Trio's while a thread still writes. A store that bounds its own waiting is not watched.

    Raises:
        CheckpointStoreError: it took longer than `SAVE_DEADLINE` seconds.

    Cancellation: shielded.
    """
    with trio.CancelScope(shield=True) as scope:
        if getattr(type(store), "bounds_waiting", False):
            return await work()
        token = trio.lowlevel.current_trio_token()
        watch = threading.Timer(SAVE_DEADLINE, token.run_sync_soon, [scope.cancel])
        watch.start()
        try:
            return await work()
        finally:
            # Ended and seen to end, or it would call a loop that is gone.
            watch.cancel()
            watch.join()
    raise CheckpointStoreError(f"{quote(repr(store))} did not save within {SAVE_DEADLINE:g} s")


async def name_known(store: CheckpointStore, run_id: str, step: int | None = None) -> CheckpointNotFoundError:
    """Return the error for a checkpoint that a person asked for and that is not there, with what is near it.

    Looking for near names reads the store's list, so nothing that runs by itself does it.

    Cancellation: nothing is changed.
    """
    steps = () if step is None else await store.history(run_id)
    if step is not None and steps:
        found = list_known(step, [info.step for info in steps])
        return CheckpointNotFoundError(f"there is no step {step} of run {quote(run_id)} {found}", run_id=run_id)
    known = [run.run_id for run in await store.list_runs(limit=_NEAR)]
    message = f"there is no run {quote(run_id)} in this store {list_known(run_id, known)}"
    return CheckpointNotFoundError(message, run_id=run_id)


async def load_verified(
    store: CheckpointStore, run_id: str, step: int | None = None, *, suggest: bool = False
) -> Checkpoint:
    """Return the checkpoint, if it is what was saved.

    Args:
        store: where it is kept.
        run_id: the run.
        step: the step; None for the latest.
        suggest: name what is near where it is not there.

    Raises:
        CheckpointNotFoundError: there is none.
        CheckpointCorruptError: it is damaged.
        CheckpointMismatchError: a newer version of trioflow made it.

    Cancellation: nothing is changed.
    """
    try:
        with store_errors(store):
            checkpoint = await store.load(run_id, step)
    except CheckpointNotFoundError as error:
        if not suggest:
            raise
        raise await name_known(store, run_id, step) from error
    return await check_loaded(checkpoint, run_id, step)


async def check_loaded(checkpoint: Checkpoint, run_id: str, step: int | None = None) -> Checkpoint:
    """Return a checkpoint that a store gave out for `run_id`, if it is what was saved.

    Raises:
        CheckpointCorruptError: it is damaged.
        CheckpointMismatchError: a newer version of trioflow made it.

    Cancellation: a checkpoint only where the state is large, and nothing is changed.
    """
    if checkpoint.version > CHECKPOINT_VERSION:
        raise CheckpointMismatchError(
            f"run {quote(run_id)} was saved by a newer version of trioflow (form {checkpoint.version}): upgrade",
            run_id=run_id,
        )
    if len(checkpoint.state) < LARGE:
        verified(checkpoint, run_id, step)
    else:
        await trio.to_thread.run_sync(verified, checkpoint, run_id, step)
    if checkpoint.version == 1:
        return msgspec.structs.replace(checkpoint, kind=kind_of_form_1(checkpoint.graph))
    return checkpoint


@final
class Session:
    """A run that is ours to save, until somebody else claims it.

    Attributes:
        run_id: the run.
        epoch: ours, under which all is saved.
    """

    __slots__ = ("_save_nowait", "_store", "epoch", "run_id")

    def __init__(self, store: CheckpointStore, run_id: str, epoch: int) -> None:
        self.run_id: str = run_id
        self.epoch: int = epoch
        self._store = store
        # A run has checkpoints of its own; one more a step would double what memory costs. Not for a subclass:
        # it may have a `save` of its own.
        self._save_nowait = store.save_nowait if type(store) is MemoryStore else None

    def __repr__(self) -> str:
        return f"<Session of {self.run_id}, epoch {self.epoch}>"

    @classmethod
    async def claim(
        cls, store: CheckpointStore, run_id: str, parent: "Session | tuple[str, int] | None" = None
    ) -> "Session":
        """Claim the run.

        Args:
            store: where it is kept.
            run_id: the run.
            parent: the session, or the id and epoch, of the run that it belongs to.

        Raises:
            CheckpointConflictError: somebody else has claimed the parent, or the run belongs to another one.

        Cancellation: the run may have been claimed; whoever claims it next has it.
        """
        holder = (parent.run_id, parent.epoch) if isinstance(parent, Session) else parent
        # A store that was written before there were runs inside runs keeps those that stand by themselves.
        with store_errors(store):
            claimed = store.claim(run_id) if holder is None else store.claim(run_id, parent=holder)
            return cls(store, run_id, await claimed)

    async def save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint, which is nobody else's yet: it is given its digest.

        Raises:
            CheckpointConflictError: somebody else has claimed the run.
            CheckpointStoreError: the store cannot.

        Cancellation: the checkpoint was saved whole, or not at all.
        """
        if len(checkpoint.state) >= LARGE:
            await trio.to_thread.run_sync(sealed, checkpoint)
        elif self._save_nowait is None:
            sealed(checkpoint)
        if self._save_nowait is None:
            with store_errors(self._store):
                await self._store.save(checkpoint, self.epoch)
        else:
            self._save_nowait(checkpoint, self.epoch)

    async def save_items(self, batch: Sequence[tuple[str, bytes]]) -> None:
        """Save items, in one transaction.

        Raises:
            CheckpointConflictError: somebody else has claimed the run.
            CheckpointStoreError: the store cannot.

        Cancellation: all of them were saved, or none; saving them again does no harm.
        """
        with store_errors(self._store):
            await self._store.save_items(self.run_id, self.epoch, batch)

    async def load_items(self) -> Mapping[str, bytes]:
        """Return the items that were saved.

        Raises:
            CheckpointCorruptError: one is damaged.

        Cancellation: nothing is changed.
        """
        with store_errors(self._store):
            return await self._store.load_items(self.run_id)

    async def forget(self) -> CheckpointError | None:
        """Delete what is kept of the run and of the runs inside it, if it is still ours.

        Returns:
            What went wrong; the run is then there still.

        Cancellation: it was deleted whole, or not at all.
        """
        try:
            await self._store.delete(self.run_id, self.epoch)
        except CheckpointError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever a store raises, the run has its result
            failure = CheckpointStoreError(f"run {quote(self.run_id)} was not deleted: {_why(error)}")
            failure.__cause__ = error
            return failure
        return None


@contextmanager
def store_errors(store: CheckpointStore) -> Iterator[None]:
    """Raise whatever else a store raises as the `CheckpointStoreError` that the protocol asks for.

    With it comes what was paid for, and it is not taken for the failure of what the run calls.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointStoreError(f"the store {quote(repr(store))} failed: {_why(error)}") from error


def _why(error: Exception) -> str:
    return one_line(describe_error(error))


def in_transactions(items: Sequence[tuple[str, bytes]]) -> Iterator[Sequence[tuple[str, bytes]]]:
    """Yield `items` in parts for `Session.save_items`, of at most `BATCH_ROWS` items or `BATCH_BYTES` bytes."""
    start = 0
    while start < len(items):
        part = items[start : start + BATCH_ROWS]
        # A letter of a key may be more than a byte, and that makes little difference.
        sizes = list(accumulate(len(key) + len(value) for key, value in part))
        count = max(1, bisect_right(sizes, BATCH_BYTES))
        yield part[:count]
        start += count


async def encode(codec: Codec[V], value: V) -> bytes:
    """Return `value` as bytes.

    Raises:
        CheckpointEncodeError: it would not come back equal.

    Cancellation: not a checkpoint: what was paid for is encoded, and can be saved.
    """
    plain = codec.plain(value)
    return await encode_large(codec, plain) if is_large(plain) else codec.encode_plain(plain)


async def encode_large(codec: Codec[V], plain: Any) -> bytes:
    """Do in a thread what `encode` does, with what the codec makes of a value.

    Cancellation: shielded: what was paid for is encoded, and can be saved.
    """
    data = b""
    with trio.CancelScope(shield=True):
        data = await trio.to_thread.run_sync(codec.encode_plain, plain)
    return data  # noqa: RET504 - type checkers think that the scope might swallow an exception


async def decode(codec: Codec[V], data: bytes) -> V:
    """Return the value in `data`.

    Raises:
        CheckpointMismatchError: it is not a value of this type.

    Cancellation: a checkpoint only where the data is large, and nothing is changed.
    """
    return codec.decode(data) if len(data) < LARGE else await trio.to_thread.run_sync(codec.decode, data)
