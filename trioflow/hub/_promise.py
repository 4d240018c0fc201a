"""One task that waits for what another one settles, once: a future without callbacks.

Giving up is part of it: `withdraw` is called inside the abort function of the waiting task, in the very moment in
which Trio decides that the task is cancelled. So a message is either withdrawn or delivered, and its sender either
raises or returns; there is no tick between the two in which a handler could take what its sender has given up.
"""

from collections.abc import Callable
from typing import Generic, TypeVar, cast, final

import trio

from trioflow._runtime.errors import ErrorCollector
from trioflow.hub._mailbox import Place

V = TypeVar("V")


@final
class Promise(Generic[V]):
    """Holds a task until it is settled with a value or an error; what settles it first counts.

    Args:
        withdraw: takes the message out of the mailbox; it must not raise, for Trio calls it.
        give_up: is given where the message was when the time is up, and returns the error that says so.

    Attributes:
        done: whether it is settled, or its task gone.
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
        """Let the task go on with `value`."""
        if not self.done:
            self.done, self._value = True, value
            if self._task is not None:
                trio.lowlevel.reschedule(self._task)

    def reject(self, error: BaseException) -> None:
        """Let the task go on with `error`, raised in it."""
        if not self.done:
            self.done, self._errors = True, ErrorCollector()
            self._errors.add(error)
            if self._task is not None:
                trio.lowlevel.reschedule(self._task)

    def expire(self) -> None:
        """Withdraw, and let the task go on with the error that says that the time is up."""
        if not self.done:
            self.reject(self._give_up(self._withdraw()))

    async def wait(self) -> V:
        """Wait until it is settled, and return the value or raise the error.

        Cancellation: withdrawn; where it is settled in the same tick, that counts and nothing is raised here.
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
