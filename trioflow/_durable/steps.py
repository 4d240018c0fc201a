"""Saves one run step by step: called for each step and at the end, it writes as often as the config says.

`KeptSteps` writes to a store, under the run's epoch; `UnkeptSteps` is for a run without a store. The caller, a
graph's runner or a chain, need not know which it has.

Every step is encoded, so that a state that cannot be stored fails at once; every `interval`-th step is written,
and the last one when the run pauses, fails or is cancelled. The end of a run is written before the run is deleted:
a process that is killed in between, or that has lost its claim, destroys nothing.
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Generic, Protocol, TypeVar, final

import msgspec
import trio

from trioflow._durable.children import ChildStore, FinishedBranches, Rebase, child_store, note_entered
from trioflow._runtime.signals import Parked, Paused
from trioflow._text import describe_error, quote
from trioflow.checkpoint.codec import Codec, is_large
from trioflow.checkpoint.protocol import Checkpoint, CheckpointStore, RunStatus
from trioflow.checkpoint.session import Session, encode, encode_large, shielded_save, store_errors
from trioflow.errors import (
    CheckpointConflictError,
    CheckpointEncodeError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
)

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)

_payloads: Codec[Any] = Codec(Any, what="the payload of pause()")

Saved = Callable[[int, str, str, int], object]
"""Called for each save with the step, its node, the run's status, and the size of its state in bytes."""


class Position(msgspec.Struct, Generic[S], frozen=True):
    """The position of a run: all that is needed to continue it."""

    node: str
    """The next node."""
    state: S
    """Its input state."""
    iterations: int = 0
    """Node attempts so far."""
    left: bool = False
    """Whether the node is complete, so that its edges are next."""
    step: int = 0
    """The number of complete steps."""


class Keeping(msgspec.Struct, Generic[S], frozen=True):
    """How the runs of a graph, or a chain, are stored."""

    kind: str
    """The kind of run: `graph` or `chain`."""
    name: str
    """The graph's name, or the kind of pattern."""
    codec: Codec[S]
    """Encodes and decodes the states."""
    interval: int
    """Steps between two writes."""
    preserve: bool
    """Whether a completed run stays in the store."""


class Steps(Protocol[S_contra]):
    """Receives the steps of a run."""

    def child_store(self, rebase: Rebase) -> ChildStore | None:
        """Return the store of child runs; None if they are not durable."""
        ...

    def finished_branches(self, step: int) -> FinishedBranches | None:
        """Return the branches that have finished in this step; None if a store has them."""
        ...

    def start(self, on_save: Saved) -> None:
        """Call `on_save` for each save from now on, and for the first one of the run."""

    def completed(
        self, node: str, next_node: str, iterations: int, state: S_contra, *, is_last: bool = False
    ) -> Awaitable[None] | None:
        """Record a complete step, and return an awaitable that writes it; None if nothing is to be written.

        A cancellation while it is awaited saves the step whole, or not at all; then `end` saves it.
        """
        ...

    async def end(self, error: BaseException | None, position: Position[Any]) -> BaseException | None:
        """Record the end of the run, and return the error that it ends with.

        Args:
            error: the error that it ended with so far.
            position: its position.

        Cancellation: shielded, for as long as `shielded_save` waits.
        """

    async def forget(self) -> None:
        """Delete a completed run whose result is about to be returned, unless it is to be preserved.

        Cancellation: shielded, for as long as `shielded_save` waits.
        """


@final
class UnkeptSteps:
    """The steps of a run without a store.

    Args:
        on_end: called with the error that the run ended with, and its position.
        finished: the branches that had finished when the run paused.
    """

    __slots__ = ("_finished", "_on_end")

    def __init__(
        self,
        on_end: Callable[[BaseException | None, Position[Any]], object] | None = None,
        finished: FinishedBranches | None = None,
    ) -> None:
        self._on_end = on_end
        self._finished = finished

    def __repr__(self) -> str:
        return "<UnkeptSteps>"

    def child_store(self, rebase: Rebase) -> ChildStore | None:
        """Return None: child runs are not durable either."""

    def finished_branches(self, step: int) -> FinishedBranches | None:
        """See `Steps.finished_branches`; None if the run cannot be resumed."""
        return None if self._finished is None else self._finished.at(step)

    def start(self, on_save: Saved) -> None:
        """Do nothing: nothing will be saved."""

    def completed(
        self, node: str, next_node: str, iterations: int, state: object, *, is_last: bool = False
    ) -> Awaitable[None] | None:
        """Return None: nothing is to be written."""

    async def end(self, error: BaseException | None, position: Position[Any]) -> BaseException | None:
        """See `Steps.end`.

        Cancellation: not a checkpoint.
        """
        if self._on_end is not None:
            self._on_end(error, position)
        return error

    async def forget(self) -> None:
        """Do nothing.

        Cancellation: not a checkpoint.
        """


class _Step(msgspec.Struct, frozen=True, gc=False):
    """The last step from which the run can continue."""

    step: int
    node: str
    next_node: str
    state: bytes


@final
class KeptSteps(Generic[S]):
    """The steps of a run claimed in a store; created by `begin_steps` and `take_over_steps`.

    Attributes:
        store: the store.
        session: the claim.
    """

    def __init__(
        self,
        store: CheckpointStore,
        session: Session,
        keeping: Keeping[S],
        last: _Step,
        *,
        forked_from: str | None = None,
        saved_at: float | None = None,
    ) -> None:
        self.store = store
        self.session = session
        self._keeping = keeping
        self._last = last
        self._forked_from = forked_from
        self._saved_at = saved_at
        self._iterations = 0
        self._unsaved = False
        self._is_last = False
        self._state: S | None = None
        self._on_save: Saved | None = None
        self._written: tuple[int, str, str, int] | None = None

    def __repr__(self) -> str:
        return f"<KeptSteps of run {self.session.run_id}, step {self._last.step}>"

    def child_store(self, rebase: Rebase) -> ChildStore:
        """See `Steps.child_store`."""
        return child_store(self.store, (self.session.run_id, self.session.epoch), self.flush, rebase)

    def finished_branches(self, step: int) -> None:
        """Return None: the store has them."""

    def start(self, on_save: Saved) -> None:
        """See `Steps.start`; also sets `outermost` for the runs inside this one."""
        self._on_save = on_save
        if not isinstance(self.store, ChildStore):
            outermost.set(self)
        if self._written is not None:
            on_save(*self._written)

    def stand_at(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint` instead."""
        self._last = _step_of(checkpoint)
        self._saved_at = checkpoint.created_at

    async def write(self, iterations: int, state: S | None = None, entered: bytes | None = None) -> None:
        """Write the position of a claimed run, with `state` in place of the stored one.

        Args:
            iterations: node attempts so far.
            state: the state to continue with; None is the stored one.
            entered: the entered state that `rebase` returned, to be stored.

        Cancellation: it is written whole, or not at all.
        """
        if state is not None:
            self._last = msgspec.structs.replace(self._last, state=await encode(self._keeping.codec, state))
        self._iterations = iterations
        await self._save("running")
        # After the state, never before: after a crash in between, the next process would not rebase again.
        if entered is not None:
            await note_entered(self.session, entered)

    async def flush(self) -> None:
        """Write the last step, if it is not written yet: a child run depends on it.

        Cancellation: it is written whole, or not at all.
        """
        if self._unsaved:
            await self._save("running")

    def completed(
        self, node: str, next_node: str, iterations: int, state: S, *, is_last: bool = False
    ) -> Awaitable[None] | None:
        """See `Steps.completed`; every `interval`-th step is written, and the last one.

        Raises:
            CheckpointEncodeError: the state cannot be stored, and is in the error; the step before it is stored.
            CheckpointConflictError: another process has claimed the run; the state is in the error.
            CheckpointStoreError: the store failed; the state is in the error.
        """
        codec = self._keeping.codec
        self._state = state
        try:
            plain = codec.plain(state)
            if is_large(plain):
                return self._completed_large(plain, (node, next_node, iterations, state, is_last))
            data = codec.encode_plain(plain)
        except CheckpointEncodeError as error:
            error.value = state
            raise
        return self._note(node, next_node, iterations, data, is_last=is_last)

    async def _completed_large(self, plain: Any, step: tuple[str, str, int, S, bool]) -> None:
        node, next_node, iterations, state, is_last = step
        try:
            data = await encode_large(self._keeping.codec, plain)
        except CheckpointEncodeError as error:
            error.value = state
            raise
        saving = self._note(node, next_node, iterations, data, is_last=is_last)
        if saving is not None:
            await saving

    def _note(
        self, node: str, next_node: str, iterations: int, data: bytes, *, is_last: bool
    ) -> Awaitable[None] | None:
        step = self._last.step + 1
        self._last = _Step(step, node, next_node, data)
        self._iterations = iterations
        self._saved_at = None
        self._unsaved = True
        self._is_last = is_last
        if is_last:
            return self._save("completed")
        return self._save("running") if next_node and not step % self._keeping.interval else None

    async def end(self, error: BaseException | None, position: Position[Any]) -> BaseException | None:
        """See `Steps.end`.

        Cancellation: shielded, for as long as `shielded_save` waits.
        """
        if isinstance(error, CheckpointConflictError):
            return error
        self._iterations = position.iterations
        try:
            await shielded_save(self.store, lambda: self._end(error))
        except CheckpointError as store_error:
            lost = isinstance(store_error, CheckpointConflictError)
            if lost or error is None or isinstance(error, Parked | Paused):
                return store_error
            error.add_note(f"the end of the run was not saved: {describe_error(store_error)}")
        return error

    async def forget(self) -> None:
        """See `Steps.forget`. If it fails, the run stays in the store as completed.

        Cancellation: shielded, for as long as `shielded_save` waits.
        """
        if not self._keeping.preserve:
            with suppress(CheckpointError):
                await shielded_save(self.store, self.session.forget)

    async def _end(self, error: BaseException | None) -> None:
        if isinstance(error, Parked):
            # It is still running, but not here.
            await self.flush()
        elif isinstance(error, Paused):
            await self._save_pause(error)
        elif self._is_last and error is not None:
            # It reached its end, which could not be saved: a resume returns the result.
            await self._save("completed")
        elif error is not None:
            await self._save("cancelled" if isinstance(error, trio.Cancelled) else "failed")
        elif self._written is None or self._written[2] != "completed":
            await self._save("completed")

    async def _save_pause(self, pause: Paused) -> None:
        payload, refused = b"", None
        try:
            payload = _payloads.encode(pause.payload)
        except CheckpointEncodeError as error:
            refused = error
        if refused is None:
            await self._save("paused", payload)
            return
        # Nobody could answer the pause: the run ends with this error.
        await self._save("failed")
        try:
            raise refused
        finally:
            del refused

    async def _save(self, status: RunStatus, pause: bytes | None = None) -> None:
        last = self._last
        # Saved again, at a pause or a resume, a step is as old as before: the wait belongs to the next one.
        saved_at = time.time() if self._saved_at is None else self._saved_at
        checkpoint = Checkpoint(
            run_id=self.session.run_id,
            graph=self._keeping.name,
            kind=self._keeping.kind,
            step=last.step,
            node=last.node,
            next_node=last.next_node,
            iterations=self._iterations,
            state=last.state,
            status=status,
            pause=pause,
            created_at=saved_at,
            forked_from=self._forked_from,
        )
        try:
            await self.session.save(checkpoint)
        except CheckpointError as error:
            error.value = self._state  # the calls were paid for
            raise
        self._saved_at = saved_at
        self._unsaved = False
        self._written = (last.step, last.node, status, len(last.state))
        if self._on_save is not None:
            self._on_save(*self._written)


outermost: ContextVar[KeptSteps[Any]] = ContextVar("trioflow_outermost")
"""The steps of the outermost durable run, in its own task and in those of the runs inside it."""


def served_steps(
    store: CheckpointStore, run_id: str, epoch: int, keeping: Keeping[S], checkpoint: Checkpoint
) -> KeptSteps[S]:
    """Return the steps of a run that a service has claimed, continuing from `checkpoint`."""
    session = Session(store, run_id, epoch)
    last, forked_from, saved_at = _step_of(checkpoint), checkpoint.forked_from, checkpoint.created_at
    return KeptSteps(store, session, keeping, last, forked_from=forked_from, saved_at=saved_at)


async def begin_steps(
    store: CheckpointStore, run_id: str, keeping: Keeping[S], position: Position[S]
) -> KeptSteps[S]:
    """Claim a new run, and write its first position.

    Raises:
        CheckpointMismatchError: a run of this id exists.
        CheckpointEncodeError: the state cannot be stored.

    Cancellation: the run may have been claimed, and written.
    """
    data = await encode(keeping.codec, position.state)
    await refuse_existing(store, run_id)
    first = _Step(position.step, "", position.node, data)
    steps = KeptSteps(store, await Session.claim(store, run_id), keeping, first)
    await steps.write(position.iterations)
    return steps


async def take_over_steps(
    store: CheckpointStore, run_id: str, keeping: Keeping[S], checkpoint: Checkpoint
) -> KeptSteps[S]:
    """Claim `run_id` to continue from `checkpoint`, which may belong to the run that it is forked from.

    Cancellation: the run may have been claimed.
    """
    is_fork = checkpoint.run_id != run_id
    forked_from = checkpoint.run_id if is_fork else checkpoint.forked_from
    saved_at = None if is_fork else checkpoint.created_at
    session = await Session.claim(store, run_id)
    return KeptSteps(store, session, keeping, _step_of(checkpoint), forked_from=forked_from, saved_at=saved_at)


def _step_of(checkpoint: Checkpoint) -> _Step:
    return _Step(checkpoint.step, checkpoint.node, checkpoint.next_node, checkpoint.state)


async def refuse_existing(store: CheckpointStore, run_id: str) -> None:
    """Raise if a run of this id exists.

    Raises:
        CheckpointMismatchError: it does.

    Cancellation: nothing is changed.
    """
    try:
        with store_errors(store):
            kept = await store.load(run_id)
    except CheckpointNotFoundError:
        return
    raise CheckpointMismatchError(
        f"run {quote(run_id)} already exists, {kept.status} at step {kept.step} of {quote(kept.graph)}: "
        "resume it, delete it, or use another run_id",
        run_id=run_id,
    )
