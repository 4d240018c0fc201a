"""One task that waits for a value that another one sets, once: a future without callbacks.

Cancellation is part of it: `withdraw` is called in the abort function of the waiting task, at the moment when Trio
cancels the wait. So a message is either withdrawn, and its sender raises, or delivered, and its sender returns; no
tick lies between the two in which a handler could take a message whose sender has been cancelled.
"""

from collections.abc import Callable
from typing import Generic, TypeVar, cast, final

import trio

from trioflow._runtime.errors import ErrorCollector
from trioflow.hub._mailbox import Place

V = TypeVar("V")


@final
class Promise(Generic[V]):
    """Suspends a task until it is settled with a value or an error; the first one counts.

    Args:
        withdraw: removes the message from the mailbox; it must not raise, because Trio calls it.
        give_up: takes the place of the message at the deadline, and returns the error to raise.

    Attributes:
        done: whether it is settled, or its task was cancelled.
        withdrawn: where the message was when the waiting task was cancelled.
    """

    __slots__ = ("__weakref__", "_errors", "_give_up", "_task", "_value", "_withdraw", "done", "withdrawn")

    def __init__(
        self, withdraw: Callable[[], Place | None], give_up: Callable[[Place | None], BaseException]
    ) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._value: V | None = None
        self._errors: ErrorCollector | None = None
        self._withdraw = withdraw
        self._give_up = give_up
        self.done = False
        self.withdrawn: Place | None = None

    def __repr__(self) -> str:
        return f"<Promise: {'done' if self.done else 'open'}>"

    def resolve(self, value: V) -> None:
        """Resume the task with `value`."""
        if not self.done:
            self.done, self._value = True, value
            if self._task is not None:
                trio.lowlevel.reschedule(self._task)

    def reject(self, error: BaseException) -> None:
        """Resume the task with `error`, raised in it."""
        if not self.done:
            self.done, self._errors = True, ErrorCollector()
            self._errors.add(error)
            if self._task is not None:
                trio.lowlevel.reschedule(self._task)

    def expire(self) -> None:
        """Withdraw the message, and resume the task with the error of the deadline."""
        if not self.done:
            self.reject(self._give_up(self._withdraw()))

    async def wait(self) -> V:
        """Wait until it is settled, and return the value or raise the error.

        Cancellation: withdrawn; if it is settled in the same tick, that takes precedence and nothing is raised.
        """
        if not self.done:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        if self._errors is not None:
            self._errors.raise_worst()
        return cast("V", self._value)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        self.done = True
        self.withdrawn = self._withdraw()
        return trio.lowlevel.Abort.SUCCEEDED
