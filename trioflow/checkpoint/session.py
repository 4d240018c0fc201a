"""One claimed run: what is saved of it, under its epoch, and what is read, verified.

Encoding and hashing a large state take long, so they are done in a thread.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, final

import trio

from trioflow._text import quote
from trioflow.checkpoint.codec import Codec, sealed, verified
from trioflow.checkpoint.large import LARGE, is_large
from trioflow.checkpoint.memory import MemoryStore
from trioflow.checkpoint.protocol import CHECKPOINT_VERSION, Checkpoint, CheckpointStore
from trioflow.checkpoint.registry import check_store, get_checkpoint_store, is_url
from trioflow.config import CheckpointConfig
from trioflow.errors import CheckpointMismatchError, ConfigError

__all__ = (
    "SAVE_DEADLINE",
    "Session",
    "check_run_id",
    "choose_store",
    "decode",
    "encode",
    "encode_large",
    "load_verified",
    "open_store",
)

V = TypeVar("V")

SAVE_DEADLINE = 10.0
"""Seconds that a save may take that a cancelled or failed run still makes."""

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
    """Return the store to keep a run in, refusing one that is not there; None where none is asked for."""
    if given is not None:
        check_store("store", given)
        return given
    if config is None or not config.saves_steps:
        return None
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
            with trio.CancelScope(shield=True, deadline=trio.current_time() + SAVE_DEADLINE):
                await opened.aclose()


async def load_verified(store: CheckpointStore, run_id: str, step: int | None = None) -> Checkpoint:
    """Return the checkpoint, if it is what was saved.

    Raises:
        CheckpointNotFoundError: there is none.
        CheckpointCorruptError: it is damaged.
        CheckpointMismatchError: a newer version of trioflow made it.

    Cancellation: nothing is changed.
    """
    checkpoint = await store.load(run_id, step)
    if checkpoint.version > CHECKPOINT_VERSION:
        raise CheckpointMismatchError(
            f"run {quote(run_id)} was saved by a newer version of trioflow (form {checkpoint.version}): upgrade",
            run_id=run_id,
        )
    if len(checkpoint.state) < LARGE:
        return verified(checkpoint, run_id, step)
    return await trio.to_thread.run_sync(verified, checkpoint, run_id, step)


@final
class Session:
    """A run that is ours to save, until somebody else claims it."""

    __slots__ = ("_epoch", "_save_nowait", "_store", "run_id")

    def __init__(self, store: CheckpointStore, run_id: str, epoch: int) -> None:
        self.run_id: str = run_id
        self._store = store
        self._epoch = epoch
        # A run has checkpoints of its own; one more a step would double what memory costs. Not for a subclass:
        # it may have a `save` of its own.
        self._save_nowait = store.save_nowait if type(store) is MemoryStore else None

    def __repr__(self) -> str:
        return f"<Session of {self.run_id}, epoch {self._epoch}>"

    @classmethod
    async def claim(cls, store: CheckpointStore, run_id: str) -> "Session":
        """Claim the run.

        Cancellation: the run may have been claimed; whoever claims it next has it.
        """
        return cls(store, run_id, await store.claim(run_id))

    async def save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint, which is nobody else's yet: it is given its digest.

        Raises:
            CheckpointConflictError: somebody else has claimed the run.
            CheckpointStoreError: the store cannot.

        Cancellation: the checkpoint was saved whole, or not at all.
        """
        if len(checkpoint.state) < LARGE:
            sealed(checkpoint)
        else:
            await trio.to_thread.run_sync(sealed, checkpoint)
        if self._save_nowait is None:
            await self._store.save(checkpoint, self._epoch)
        else:
            self._save_nowait(checkpoint, self._epoch)

    async def save_items(self, batch: Sequence[tuple[str, bytes]]) -> None:
        """Save items.

        Raises:
            CheckpointConflictError: somebody else has claimed the run.
            CheckpointStoreError: the store cannot.

        Cancellation: the batch was saved whole, or not at all.
        """
        await self._store.save_items(self.run_id, self._epoch, batch)

    async def load_items(self) -> Mapping[str, bytes]:
        """Return the items that were saved.

        Raises:
            CheckpointCorruptError: one is damaged.

        Cancellation: nothing is changed.
        """
        return await self._store.load_items(self.run_id)

    async def forget(self) -> None:
        """Delete what is kept of the run.

        Cancellation: it was deleted whole, or not at all.
        """
        await self._store.delete(self.run_id)


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
        data = await trio.to_thread.run_sync(codec.encode_large, plain)
    return data  # noqa: RET504 - type checkers think that the scope might swallow an exception


async def decode(codec: Codec[V], data: bytes) -> V:
    """Return the value in `data`.

    Raises:
        CheckpointMismatchError: it is not a value of this type.

    Cancellation: a checkpoint only where the data is large, and nothing is changed.
    """
    return codec.decode(data) if len(data) < LARGE else await trio.to_thread.run_sync(codec.decode, data)
