"""Runs inside runs: where a run that a node begins is kept, and what it is called.

Whoever calls nodes (a graph's runner, a branch) is a `Host`: it sets `host` in the task in which they are called,
and a pattern that is a node asks it, by its own function, for the `Child` that it is to run as. The child's
identity is the host's run, the step and the node; so two nodes, and two visits of one node, never meet, and an
attempt, a resume or a process that comes later finds what the one before has kept.

A child is kept in the store of its host, which it sees as a `ChildStore`: what it claims there belongs to the
host, whose epoch has to be the latest, and goes when the host's run goes. Children stay until then: the step that
they belong to may have to be made again after they have ended.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar, final

import msgspec

from trioflow.checkpoint.codec import Codec
from trioflow.checkpoint.protocol import Checkpoint, CheckpointInfo, CheckpointStore, RunInfo
from trioflow.checkpoint.session import Session, decode, encode, store_errors
from trioflow.events import Observer

S = TypeVar("S")

Rebase = Callable[[Any, Any, Any], Any]
"""Makes a state of: the one that a run has come to, the one it was begun with, and the one it is given."""

_ENTERED = "entered"
"""The item under which a run inside a run keeps the state that it was entered with last."""

_LONGEST_ID = 512


class ChildStore:
    """The store of a host, as a run inside it sees it: what it claims belongs to the host. `child_store` makes it.

    Args:
        store: the store.
        parent: the id and the epoch of the host's run; None for a run that is kept by itself.
        flush: writes the step that the host stands at.
        rebase: brings what was changed in the state that the child is given into the one that it has come to.
    """

    __slots__ = ("_claimed", "_flush", "_parent", "_store", "rebase")

    def __init__(
        self,
        store: CheckpointStore,
        parent: tuple[str, int] | None,
        flush: Callable[[], Awaitable[None]] | None,
        rebase: Rebase,
    ) -> None:
        self._store: CheckpointStore = store._store if isinstance(store, ChildStore) else store  # noqa: SLF001 - one of us
        self._parent = parent
        self._claimed: tuple[str, int] | None = None
        self._flush = flush
        self.rebase = rebase

    def __repr__(self) -> str:
        return f"<ChildStore in {self._store!r}>"

    async def claim(self, run_id: str, *, parent: tuple[str, int] | None = None) -> int:
        """See `CheckpointStore.claim`; the step that the host stands at is written first.

        Raises:
            CheckpointConflictError: somebody else has claimed the host.

        Cancellation: the run may have been claimed.
        """
        if self._flush is not None:
            await self._flush()
        holder = parent or self._parent
        claimed = self._store.claim(run_id) if holder is None else self._store.claim(run_id, parent=holder)
        epoch = await claimed
        self._claimed = (run_id, epoch)
        return epoch

    def inside(self) -> "ChildStore":
        """Return the store as it is seen by a run inside the one that was claimed here."""
        return child_store(self._store, self._claimed, None, self.rebase)

    async def save(self, checkpoint: Checkpoint, epoch: int) -> None:
        """See `CheckpointStore.save`.

        Cancellation: the checkpoint was kept whole, or not at all.
        """
        await self._store.save(checkpoint, epoch)

    async def load(self, run_id: str, step: int | None = None) -> Checkpoint:
        """See `CheckpointStore.load`.

        Cancellation: nothing is changed.
        """
        return await self._store.load(run_id, step)

    async def history(self, run_id: str) -> Sequence[CheckpointInfo]:
        """See `CheckpointStore.history`.

        Cancellation: nothing is changed.
        """
        return await self._store.history(run_id)

    async def list_runs(self, *, after: str | None = None, limit: int | None = None) -> Sequence[RunInfo]:
        """See `CheckpointStore.list_runs`.

        Cancellation: nothing is changed.
        """
        return await self._store.list_runs(after=after, limit=limit)

    async def delete(self, run_id: str, epoch: int | None = None) -> None:
        """See `CheckpointStore.delete`.

        Cancellation: the run was forgotten whole, or not at all.
        """
        await self._store.delete(run_id, epoch)

    async def save_items(self, run_id: str, epoch: int, batch: Sequence[tuple[str, bytes]]) -> None:
        """See `CheckpointStore.save_items`.

        Cancellation: the batch was kept whole, or not at all.
        """
        await self._store.save_items(run_id, epoch, batch)

    async def load_items(self, run_id: str) -> Mapping[str, bytes]:
        """See `CheckpointStore.load_items`.

        Cancellation: nothing is changed.
        """
        return await self._store.load_items(run_id)

    async def aclose(self) -> None:
        """Do nothing: the store is the host's.

        Cancellation: not a checkpoint.
        """


@final
class _BoundedChildStore(ChildStore):
    """One whose store bounds its own waiting."""

    __slots__ = ()

    bounds_waiting = True


def child_store(
    store: CheckpointStore,
    parent: tuple[str, int] | None,
    flush: Callable[[], Awaitable[None]] | None,
    rebase: Rebase,
) -> ChildStore:
    """Return the store as a run inside `parent` sees it; the arguments are those of `ChildStore`."""
    bounded = getattr(type(store), "bounds_waiting", False)
    return (_BoundedChildStore if bounded else ChildStore)(store, parent, flush, rebase)


class Child(msgspec.Struct, frozen=True):
    """What a run inside a run is."""

    run_id: str | None
    """Its id; None where it is in no run."""
    observer: Observer
    """What receives the host's events, and its own unless its config names another."""
    store: ChildStore | None
    """Where it is kept; None is nowhere."""
    node: str | None = None
    """The node, or branch, that it is."""
    state_type: type[Any] | None = None
    """The type of the states around it."""


class Host(Protocol):
    """A run in whose nodes other runs are begun."""

    def child_of(self, node: object) -> Child:
        """Return what a run is that `node` begins, which is the function of a node, or is called by one."""
        ...


host: ContextVar[Host] = ContextVar("trioflow_host")
"""Set in the task in which nodes are called, and so in all tasks that they start."""


def child_id(parent: str, *place: object) -> str:
    """Return the id of the run at this place of the run `parent`, such as `nightly..3/review`.

    No run that a user names can have it, for `..` is refused there; and it can be seen what is the parent and
    what the place. A long one ends in a digest.
    """
    run_id = f"{parent}..{'/'.join(_safe(str(part)) for part in place)}"
    if len(run_id) <= _LONGEST_ID:
        return run_id
    digest = hashlib.blake2b(run_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{run_id[: _LONGEST_ID - 34]}..{digest}"


async def rebase(store: ChildStore, run_id: str, codec: Codec[S], state: S, given: S) -> tuple[S, bytes | None]:
    """Bring what was changed in the state that a kept run is `given`, since it was entered last, into its `state`.

    So an answer that `resume(update=...)` puts into the state of a graph reaches the run inside it that had asked.

    Returns:
        The state to go on with, and what `note_entered` has to keep; None where nothing was changed.

    Cancellation: nothing is changed.
    """
    given_data = await encode(codec, given)
    with store_errors(store):
        noted = (await store.load_items(run_id)).get(_ENTERED)
        entered_data = (await store.load(run_id, 0)).state if noted is None else noted
    if entered_data == given_data:
        return state, None
    return store.rebase(state, await decode(codec, entered_data), given), given_data


async def note_entered(session: Session, data: bytes) -> None:
    """Keep the state that the run was entered with last.

    Cancellation: it was kept, or not at all.
    """
    await session.save_items([(_ENTERED, data)])


def _safe(part: str) -> str:
    if all(letter.isalnum() or letter in "_-" for letter in part):
        return part
    return "".join(
        letter if letter.isalnum() or letter in "_-" else _percent_encoded(letter) for letter in part
    )


def _percent_encoded(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))
