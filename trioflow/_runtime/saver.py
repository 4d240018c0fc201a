"""What is kept of a run: told of each step, and of the end, it saves what the config asks for.

Every step is encoded, so that a state that cannot be kept is found at once; every `interval`-th is written, and
the last one when the run pauses, fails or is cancelled. Graphs and chains both have one.
"""

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

import msgspec
import trio

from trioflow._runtime.pausing import Paused
from trioflow._text import describe_error, quote
from trioflow.checkpoint.codec import Codec, is_large
from trioflow.checkpoint.protocol import Checkpoint, CheckpointStore, RunStatus
from trioflow.checkpoint.session import SAVE_DEADLINE, Session, encode, encode_large
from trioflow.config import CheckpointConfig
from trioflow.errors import (
    CheckpointConflictError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
)

__all__ = ("Saver",)

S = TypeVar("S")

_payloads: Codec[Any] = Codec(Any, what="the payload of pause()")


class _Step(msgspec.Struct, frozen=True, gc=False):
    """The last step that can be gone on from."""

    step: int
    node: str
    next_node: str
    state: bytes


@final
class Saver(Generic[S]):
    """Keeps one run.

    Args:
        graph: the graph's name, or the kind of pattern.
        codec: encodes the states.
        config: how often, and whether a completed run is kept.
        tell: told of each save: the step, its node, how the run stood, and the bytes of its state.
    """

    def __init__(
        self,
        graph: str,
        codec: Codec[S],
        config: CheckpointConfig,
        tell: Callable[[int, str, str, int], object],
    ) -> None:
        self._graph = graph
        self._codec = codec
        self._interval = config.interval or 1
        self._preserve = config.preserve
        self._tell = tell
        self._session: Session
        self._last: _Step

    def __repr__(self) -> str:
        return f"<Saver of {self._graph}>"

    async def begin(self, store: CheckpointStore, run_id: str, node: str, state: S) -> None:
        """Claim a new run that begins at `node`.

        Raises:
            CheckpointMismatchError: there is a run of this id.
            CheckpointEncodeError: the state cannot be kept.

        Cancellation: the run may have been claimed.
        """
        data = await encode(self._codec, state)
        try:
            kept = await store.load(run_id)
        except CheckpointNotFoundError:
            self._session = await Session.claim(store, run_id)
            self._last = _Step(0, "", node, data)
        else:
            raise CheckpointMismatchError(
                f"run {quote(run_id)} is there already, {kept.status} at step {kept.step} of {quote(kept.graph)}: "
                "resume it, delete it, or begin under another run_id",
                run_id=run_id,
            )

    async def take_over(self, store: CheckpointStore, checkpoint: Checkpoint, run_id: str) -> None:
        """Claim `run_id` to go on from `checkpoint`, which may be of another run.

        Cancellation: the run may have been claimed.
        """
        self._session = await Session.claim(store, run_id)
        self.stand_at(checkpoint)

    def stand_at(self, checkpoint: Checkpoint) -> None:
        """Go on from `checkpoint`."""
        self._last = _Step(checkpoint.step, checkpoint.node, checkpoint.next_node, checkpoint.state)

    async def update(self, state: S) -> None:
        """Go on with `state` in place of the one that was kept.

        Cancellation: nothing is changed.
        """
        self._last = msgspec.structs.replace(self._last, state=await encode(self._codec, state))

    async def completed(self, node: str, next_node: str, iterations: int, state: S) -> None:
        """Take note of a complete step; the last one, where `next_node` is empty, is saved at the end.

        Raises:
            CheckpointEncodeError: the state cannot be kept; the step before it still is.
            CheckpointConflictError: somebody else has claimed the run.

        Cancellation: the step is saved whole, or not at all; `end` saves it then.
        """
        plain = self._codec.plain(state)
        data = await encode_large(self._codec, plain) if is_large(plain) else self._codec.encode_plain(plain)
        step = self._last.step + 1
        self._last = _Step(step, node, next_node, data)
        if next_node and not step % self._interval:
            await self._session.save(self._checkpoint("running", iterations, None))
            self._tell(step, node, "running", len(data))

    async def end(self, fault: BaseException | None, iterations: int) -> BaseException | None:
        """Save how the run ended, or forget one that completed; return what it ends with now.

        Cancellation: shielded, for at most `SAVE_DEADLINE` seconds.
        """
        problem: CheckpointError | None = None
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SAVE_DEADLINE) as scope:
            try:
                await self._end(fault, iterations)
            except CheckpointError as error:
                problem = error
        if scope.cancelled_caught:
            problem = CheckpointError(f"the end of the run could not be saved within {SAVE_DEADLINE:g} s")
        if problem is None or isinstance(fault, CheckpointConflictError):
            return fault
        if fault is None or isinstance(fault, Paused):
            return problem
        fault.add_note(f"how the run ended was not saved: {describe_error(problem)}")
        return fault

    async def _end(self, fault: BaseException | None, iterations: int) -> None:
        if fault is None and not self._preserve:
            await self._session.forget()
        elif isinstance(fault, Paused):
            await self._save("paused", iterations, _payloads.encode(fault.payload))
        elif not isinstance(fault, CheckpointConflictError):
            status: RunStatus = "completed" if fault is None else "failed"
            await self._save("cancelled" if isinstance(fault, trio.Cancelled) else status, iterations, None)

    async def _save(self, status: RunStatus, iterations: int, pause: bytes | None) -> None:
        last = self._last
        await self._session.save(self._checkpoint(status, iterations, pause))
        self._tell(last.step, last.node, status, len(last.state))

    def _checkpoint(self, status: RunStatus, iterations: int, pause: bytes | None) -> Checkpoint:
        last = self._last
        return Checkpoint(
            run_id=self._session.run_id,
            graph=self._graph,
            step=last.step,
            node=last.node,
            next_node=last.next_node,
            iterations=iterations,
            state=last.state,
            status=status,
            pause=pause,
            created_at=time.time(),
        )
