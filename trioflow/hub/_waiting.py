"""One task that waits to be told something by another, once."""

from typing import Generic, TypeVar, cast, final

import trio

__all__ = ("Waiting",)

V = TypeVar("V")


@final
class Waiting(Generic[V]):
    """Holds a task until it is told a value or an error; the first word counts.

    Attributes:
        told: whether it has been.
    """

    __slots__ = ("_error", "_task", "_value", "told")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._value: V | None = None
        self._error: BaseException | None = None
        self.told = False

    def __repr__(self) -> str:
        return f"<Waiting: {'told' if self.told else 'waiting'}>"

    def tell(self, value: V) -> None:
        """Let the task go on with `value`."""
        self._end(value, None)

    def fail(self, error: BaseException) -> None:
        """Let the task go on with `error`, raised in it."""
        self._end(None, error)

    async def wait(self) -> V:
        """Wait to be told, and return the value or raise the error.

        Cancellation: not told; what was told is not lost.
        """
        if not self.told:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        return cast("V", self._value)

    def _end(self, value: V | None, error: BaseException | None) -> None:
        if self.told:
            return
        self.told, self._value, self._error = True, value, error
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
