"""Runs inside runs: the ids and the stores of the child runs that nodes start.

What calls nodes (a graph's runner, a branch) is a `Host`: it sets `host` in the task in which they are called, and
a pattern node asks it, passing its own function, for the `Child` that it runs as. The child's identity is the
host's run, the step and the node; so two nodes, and two visits of one node, never collide, and a later attempt,
resume or process finds what the earlier one has stored.

A child is stored in the store of its host, which it sees as a `ChildStore`: its claim there needs the host's
latest epoch, and it is deleted with the host's run. Children stay until then, because their step may have to be
repeated after they have ended.
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
"""Applies to a run's current state the changes between the state that it was entered with and a new one."""

_ENTERED = "entered"
"""The item under which a child run stores the state that it was last entered with."""

_LONGEST_ID = 512


class ChildStore:
    """A host's store as its child runs see it: claims in it belong to the host. Created by `child_store`.

    Args:
        store: the store.
        parent: the id and the epoch of the host's run; None for a run without a parent.
        flush: writes the current step of the host.
        rebase: applies changes of the child's input state to its current state.
    """

    __slots__ = ("_claimed", "_flush", "_parent", "_store", "rebase")

    def __init__(
        self,
        store: CheckpointStore,
        parent: tuple[str, int] | None,
        flush: Callable[[], Awaitable[None]] | None,
        rebase: Rebase,
    ) -> None:
        self._store: CheckpointStore = store._store if isinstance(store, ChildStore) else store  # noqa: SLF001 - same class
        self._parent = parent
        self._claimed: tuple[str, int] | None = None
        self._flush = flush
        self.rebase = rebase

    def __repr__(self) -> str:
        return f"<ChildStore in {self._store!r}>"

    async def claim(self, run_id: str, *, parent: tuple[str, int] | None = None) -> int:
        """See `CheckpointStore.claim`; the current step of the host is written first.

        Raises:
            CheckpointConflictError: another process has claimed the host's run.

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
        """Return the store as a child of the run claimed here sees it."""
        return child_store(self._store, self._claimed, None, self.rebase)

    async def save(self, checkpoint: Checkpoint, epoch: int) -> None:
        """See `CheckpointStore.save`.

        Cancellation: the checkpoint was saved whole, or not at all.
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

        Cancellation: the run was deleted whole, or not at all.
        """
        await self._store.delete(run_id, epoch)

    async def save_items(self, run_id: str, epoch: int, batch: Sequence[tuple[str, bytes]]) -> None:
        """See `CheckpointStore.save_items`.

        Cancellation: the batch was saved whole, or not at all.
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
    """A `ChildStore` whose store limits its own waiting time."""

    __slots__ = ()

    bounds_waiting = True


def child_store(
    store: CheckpointStore,
    parent: tuple[str, int] | None,
    flush: Callable[[], Awaitable[None]] | None,
    rebase: Rebase,
) -> ChildStore:
    """Return the store as a child of `parent` sees it; the arguments are those of `ChildStore`."""
    bounded = getattr(type(store), "bounds_waiting", False)
    return (_BoundedChildStore if bounded else ChildStore)(store, parent, flush, rebase)


class FinishedBranches:
    """The branches that have finished in the current step of a run without a store, in case it pauses.

    Each is known by its fan-out's id and its name, with the states that it was given and that it returned.
    """

    __slots__ = ("_by_run", "_step")

    def __init__(self) -> None:
        self._step = -1
        self._by_run: dict[str, dict[str, tuple[Any, Any]]] = {}

    def __repr__(self) -> str:
        return f"<FinishedBranches of {len(self._by_run)} fan-outs>"

    def at(self, step: int) -> "FinishedBranches":
        """Forget those of earlier steps."""
        if step != self._step:
            self._step = step
            self._by_run.clear()
        return self

    def of(self, run_id: str) -> dict[str, tuple[Any, Any]]:
        """Return the branches of the fan-out `run_id`, to read and to add to."""
        return self._by_run.setdefault(run_id, {})


class Child(msgspec.Struct, frozen=True):
    """A run inside a run."""

    run_id: str | None
    """Its id; None outside a run."""
    observer: Observer
    """Receives the host's events, and its own unless its config names another."""
    store: ChildStore | None
    """Where it is stored; None is nowhere."""
    node: str | None = None
    """The node, or branch, that it is."""
    state_type: type[Any] | None = None
    """The type of the states around it."""
    finished: FinishedBranches | None = None
    """Its finished branches, if the run around it has no store."""


class Host(Protocol):
    """A run in whose nodes other runs start."""

    def child_of(self, node: object) -> Child:
        """Return the child run that `node` starts: the function of a node, or a function that a node calls."""
        ...


host: ContextVar[Host] = ContextVar("trioflow_host")
"""Set in the task in which nodes are called, and so in all tasks that they start."""


def child_id(parent: str, *place: object) -> str:
    """Return the id of the child run at this place of the run `parent`, such as `nightly..3/review`.

    No user-given id can collide with it, because `..` is not allowed there; and the parent and the place remain
    readable. A long id ends in a digest.
    """
    run_id = f"{parent}..{'/'.join(_safe(str(part)) for part in place)}"
    if len(run_id) <= _LONGEST_ID:
        return run_id
    digest = hashlib.blake2b(run_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{run_id[: _LONGEST_ID - 34]}..{digest}"


async def rebase(store: ChildStore, run_id: str, codec: Codec[S], state: S, given: S) -> tuple[S, bytes | None]:
    """Apply to `state` the changes between the state with which a stored run was last entered and the `given` one.

    So an answer that `resume(update=...)` adds to the state of a graph reaches the child run that paused for it.

    Returns:
        The state to continue with, and the data for `note_entered`, or None if nothing changed.

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
    """Store the state that the run was last entered with.

    Cancellation: it was saved, or not at all.
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
