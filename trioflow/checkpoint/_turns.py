"""One worker thread per store: calls that wait for it are made as a group, and each has its own result.

One of the callers leads: it passes all waiting calls to the thread, and waits for the thread. Afterwards the first
of the callers that have arrived meanwhile leads the next group. So many callers cost one hop to a thread, and a
store can execute their calls in one transaction, while each gets a result or an error of its own. No background
task is needed.

A caller that is cancelled while it waits for its turn leaves at once. One whose call is in progress stays: the
thread may check whether any call was given up (`is_given_up`), and return before all have ended; calls that were
not given up are then made again.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, final

import trio

__all__ = ("Call", "Turns")

MOST = 200
"""The most calls in one group, which bounds how long other callers and other processes wait for it."""


class Call:
    """One caller's operation.

    Attributes:
        operation: the function to call.
        args: its arguments.
        is_done: whether it has ended.
        is_given_up: whether its caller was cancelled while it was in progress.
        task: the caller's task, while another caller leads.
    """

    __slots__ = ("_error", "_result", "args", "is_done", "is_given_up", "operation", "task")

    def __init__(self, operation: Callable[..., Any], *args: Any) -> None:
        self.operation = operation
        self.args = args
        self.is_done = False
        self.is_given_up = False
        self.task: trio.lowlevel.Task | None = None
        self._result: Any = None
        self._error: Exception | None = None

    def __repr__(self) -> str:
        return f"<Call of {self.operation!r}{', done' if self.is_done else ''}>"

    def succeed(self, result: Any) -> None:
        """End with a result."""
        self._result, self.is_done = result, True

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self._error, self.is_done = error, True

    def result(self) -> Any:
        """Return the result, or raise the error."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame: that would be a cycle


@final
class Turns:
    """The queue for the thread of one store.

    Args:
        make: makes calls in the thread: it ends each of them, or raises, or leaves some because one is given up.
        may_leave: whether a cancelled caller leaves before its turn, and gives up its call after; if not, it
            waits until its call is done.
    """

    __slots__ = ("_is_taken", "_make", "_may_leave", "_waiting")

    def __init__(self, make: Callable[[Sequence[Call]], None], *, may_leave: bool = True) -> None:
        self._make = make
        self._may_leave = may_leave
        self._waiting: dict[Call, None] = {}
        self._is_taken = False

    def __repr__(self) -> str:
        return f"<Turns: {len(self._waiting)} wait>"

    @trio.lowlevel.enable_ki_protection
    async def take(self, call: Call) -> Any:
        """Make the call when its turn comes, and return its result.

        Raises:
            Exception: the error of the call.

        Cancellation: before its turn, nothing is done; after that, the thread decides how long to wait. Shielded
            if callers may not leave.
        """
        self._waiting[call] = None
        try:
            while not call.is_done:
                if self._is_taken:
                    await self._wait(call)
                else:
                    await self._lead(call)
                if call.is_given_up and not call.is_done:
                    call.is_given_up = False
                    await trio.lowlevel.checkpoint_if_cancelled()
                    self._waiting[call] = None
        finally:
            self._waiting.pop(call, None)
            self._pass_on()
        return call.result()

    async def _wait(self, call: Call) -> None:
        """Wait until the call is done, was given up, or its own caller is to lead.

        Cancellation: before its turn, the call is not made; after that, it is given up, and waited for.
        """
        call.task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            if self._may_leave and call in self._waiting:
                # At once: a call must not be made after its caller has left.
                del self._waiting[call]
                call.task = None
                return trio.lowlevel.Abort.SUCCEEDED
            call.is_given_up = self._may_leave
            return trio.lowlevel.Abort.FAILED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _lead(self, own: Call) -> None:
        """Make the waiting calls as a group.

        Args:
            own: the caller's call, which is one of them.

        Cancellation: before the thread has begun, nothing is done; after that, `own` is given up, and waited for.
        """
        self._is_taken = True
        group: list[Call] = []
        try:
            # Lets tasks that are about to call join the group.
            await (trio.lowlevel.checkpoint if self._may_leave else trio.lowlevel.cancel_shielded_checkpoint)()
            group = list(islice(self._waiting, MOST))
            if own not in group:
                group[-1] = own  # or the thread would not see that it is given up
            for call in group:
                del self._waiting[call]
            await self._in_thread(partial(self._make, group), own)
        finally:
            self._is_taken = False
            left = [call for call in group if not (call.is_done or call.is_given_up)]
            self._waiting = dict.fromkeys([*left, *self._waiting]) if left else self._waiting
            for call in group:
                if call.is_done or call.is_given_up:
                    _wake(call)

    async def _in_thread(self, make: Callable[[], None], call: Call) -> None:
        """Run `make` in a thread.

        Without the limiter, the context and the calls back into Trio that `trio.to_thread` offers, a hop takes
        40 % less time.

        Cancellation: `call` is given up, if it may be, and waited for.
        """
        task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()

        def deliver(end: Any) -> None:
            # As in `trio.to_thread`: after an internal error of Trio no task waits any longer.
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(trio.lowlevel.reschedule, task, end)

        def abort(_: object) -> trio.lowlevel.Abort:
            call.is_given_up = self._may_leave
            return trio.lowlevel.Abort.FAILED

        trio.lowlevel.start_thread_soon(make, deliver, "trioflow store")
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _pass_on(self) -> None:
        """Make the first waiting caller lead, if none does."""
        if not self._is_taken and self._waiting:
            _wake(next(iter(self._waiting)))


def _wake(call: Call) -> None:
    task, call.task = call.task, None
    if task is not None:
        trio.lowlevel.reschedule(task)
