"""The one thread of a store: the calls that wait for it are made together, and each ends by itself.

One of the callers takes all that wait to the thread and waits for it; when it is back, the first of those who
have come meanwhile takes the next ones. So many callers cost one hop to a thread, and a store can do in one
transaction what they want, while each has a result or an error of its own, and no task is left over.

A caller that is cancelled leaves at once while it waits for its turn. One whose call is under way stays: the
thread may look whether any of them was cancelled (`is_given_up`), and come back without having ended all; those
that nobody has given up are made again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any, final

import trio

__all__ = ("Call", "Turns")

MOST = 200
"""Calls that are made together at most: for so many, and no more, do others and other processes wait."""


class Call:
    """What one caller wants.

    Attributes:
        operation: what is to be done.
        args: with what.
        is_done: whether it has ended.
        is_given_up: whether its caller was cancelled while it was under way.
        task: the caller, while it waits for somebody else.
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
        """Return, or raise, what it ended with."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # it would be in a cycle with this frame


@final
class Turns:
    """Those who wait for the thread of one store.

    Args:
        make: makes calls in the thread: it ends each of them, or raises, or leaves some because one is given up.
        may_leave: whether a caller who is cancelled leaves before its turn, and is given up after; else it waits
            until its call is done.
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
        """Make the call when it is its turn, and return what it returns.

        Raises:
            Exception: what the call raises.

        Cancellation: before its turn nothing is done; then it is the thread that says whether to wait. Shielded
            where nobody may leave.
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
        """Wait until the call is done, was given up, or is to be made by its own caller.

        Cancellation: before its turn it is made by nobody; then it is given up, and waited for.
        """
        call.task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            if self._may_leave and call in self._waiting:
                # At once: nothing may be done for who is not there any more.
                del self._waiting[call]
                call.task = None
                return trio.lowlevel.Abort.SUCCEEDED
            call.is_given_up = self._may_leave
            return trio.lowlevel.Abort.FAILED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _lead(self, own: Call) -> None:
        """Make the calls that wait, together.

        Args:
            own: the caller's, which is one of them.

        Cancellation: before the thread has begun nothing is done; then `own` is given up, and waited for.
        """
        self._is_taken = True
        group: list[Call] = []
        try:
            # Whoever is about to call has its chance to be among them.
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

        Without the limiter, the context and the ways back that `trio.to_thread` offers, a hop costs a third less.

        Cancellation: `call` is given up, where it may be, and waited for.
        """
        task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()

        def deliver(end: Any) -> None:
            token.run_sync_soon(trio.lowlevel.reschedule, task, end)

        def abort(_: object) -> trio.lowlevel.Abort:
            call.is_given_up = self._may_leave
            return trio.lowlevel.Abort.FAILED

        trio.lowlevel.start_thread_soon(make, deliver, "trioflow store")
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _pass_on(self) -> None:
        """Let the first who waits take the next ones, where nobody does."""
        if not self._is_taken and self._waiting:
            _wake(next(iter(self._waiting)))


def _wake(call: Call) -> None:
    task, call.task = call.task, None
    if task is not None:
        trio.lowlevel.reschedule(task)
