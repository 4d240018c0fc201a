"""Groups concurrent calls into chunks: the half of an executor's caller that runs in the event loop.

A chunk is sent when it is full, or `max_wait` seconds after its first call. There is no task for that timer: the
first call of a chunk waits for it, and hands it to the next call when it is cancelled. Everything that may block
is left to the sender, in a thread; it reports by `deliver`.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, final

import trio

from trioflow.executors._requests import Call, Outcome, origin_of_call
from trioflow.executors._sender import Sender

_PENDING: Outcome = (None, None)
"""Sentinel for the outcome of an unfinished call, compared by identity."""


@final
class WaitingCall:
    """One call.

    Attributes:
        content: its arguments and origin.
        outcome: its outcome.
        task: the task that waits for it, while it sleeps.
    """

    __slots__ = ("content", "outcome", "task")

    def __init__(self, content: Call) -> None:
        self.content = content
        self.outcome = _PENDING
        self.task: trio.lowlevel.Task | None = None

    def __repr__(self) -> str:
        return f"<WaitingCall: {'waiting' if self.outcome is _PENDING else 'done'}>"

    def wake(self) -> None:
        """Wake the waiting task."""
        if self.task is not None:
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task)

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """Abort the sleep of a cancelled task."""
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


@final
class Chunk:
    """Calls that are sent together.

    Attributes:
        calls: its calls, in order; none is added once it was sent.
        is_sent: whether it was sent.
        waited_for: the number of its calls that a task still waits for.
        timer: the scope in which the first call waits for others.
    """

    __slots__ = ("calls", "is_sent", "timer", "waited_for")

    def __init__(self, due: float) -> None:
        self.calls: list[WaitingCall] = []
        self.is_sent = False
        self.waited_for = 0
        self.timer = trio.CancelScope(deadline=due)

    def __repr__(self) -> str:
        return f"<Chunk of {len(self.calls)}, {self.waited_for} waited for{', sent' if self.is_sent else ''}>"

    @property
    def contents(self) -> list[Call]:
        """The contents of its calls."""
        return [call.content for call in self.calls]


@final
class ChunkedCaller:
    """Makes calls on an executor for one run.

    Args:
        fn: the function to call.
        source: the executor, or a factory of one.
        size: the number of calls in a full chunk.
        max_wait: seconds for which the first call of a chunk waits for others.
    """

    __slots__ = ("_ended", "_max_wait", "_open", "_sender", "_size", "_token")

    def __init__(
        self, fn: Callable[..., Any], source: Executor | Callable[[], Executor], size: int, max_wait: float
    ) -> None:
        self._size = size
        self._max_wait = max_wait
        self._open: Chunk | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        self._sender = Sender(fn, source, deliver=self._deliver_soon, on_end=self._end_soon)

    def __repr__(self) -> str:
        return f"<ChunkedCaller: {self._sender!r}>"

    @trio.lowlevel.enable_ki_protection
    async def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call.

        Cancellation: passes through; a call already running continues, and its outcome is dropped.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        call = WaitingCall((args, kwargs, origin_of_call()))
        chunk = self._join(call)
        try:
            while call.outcome is _PENDING:
                if chunk.is_sent or chunk.calls[0] is not call:
                    call.task = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(call.abort)
                else:
                    await self._wait_for_others(chunk, call)
        finally:
            if call.outcome is _PENDING:
                self._leave(chunk, call)
        result, error = call.outcome
        try:
            if error is not None:
                raise error
            return result
        finally:
            # The traceback of the error refers to this frame: break the reference cycle.
            call.outcome = _PENDING
            del error, call, chunk

    async def aclose(self) -> None:
        """Release the executor; one that was created for this run is shut down.

        Cancellation: the caller shields it.
        """
        if self._sender.close():
            await self._ended.wait()
            if self._sender.failure is not None:
                raise self._sender.failure

    # The decisions of a call: synchronous methods, each of which leaves the chunks consistent.

    def _join(self, call: WaitingCall) -> Chunk:
        if self._open is None:
            self._open = Chunk(trio.current_time() + self._max_wait)
        chunk = self._open
        chunk.calls.append(call)
        if len(chunk.calls) == self._size:
            self._send(chunk)
        return chunk

    async def _wait_for_others(self, chunk: Chunk, call: WaitingCall) -> None:
        with chunk.timer:
            call.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(call.abort)
        if chunk.timer.cancelled_caught and not chunk.is_sent:
            self._send(chunk)

    def _send(self, chunk: Chunk) -> None:
        self._open = None
        chunk.is_sent = True
        chunk.waited_for = len(chunk.calls)
        chunk.timer.deadline = float("inf")
        self._sender.send(chunk)

    def _leave(self, chunk: Chunk, call: WaitingCall) -> None:
        if chunk.is_sent:
            chunk.waited_for -= 1
            if not chunk.waited_for:
                self._sender.cancel(chunk)
            return
        was_first = chunk.calls[0] is call
        chunk.calls.remove(call)
        if not chunk.calls:
            self._open = None
        elif was_first:
            # A scope can be entered only once: the next call waits in a new one.
            chunk.timer = trio.CancelScope(deadline=chunk.timer.deadline)
            chunk.calls[0].wake()

    # Reports of the sender, from other threads.

    def _deliver_soon(self, chunk: Chunk, outcomes: Sequence[Outcome]) -> None:
        with suppress(trio.RunFinishedError):  # no task waits any more
            self._token.run_sync_soon(self._deliver, chunk, outcomes)

    def _deliver(self, chunk: Chunk, outcomes: Sequence[Outcome]) -> None:
        for call, outcome in zip(chunk.calls, outcomes, strict=True):
            call.outcome = outcome
            call.wake()

    def _end_soon(self) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._ended.set)
