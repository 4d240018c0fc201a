"""An `async with` block that owns the tasks of a run: the return value of the `open_*` functions.

It is a class, and not a generator with `@asynccontextmanager`: a `KeyboardInterrupt` that lands in the frames of a
generator-based context manager can be swallowed, whereas the two methods here are protected from their first
instruction to their last. Errors of the body, of the tasks and of the end all go to one `ErrorCollector`, which
raises at the very end.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, NoReturn, TypeVar

import trio

from trioflow._runtime.errors import ErrorCollector, foreign_cancelled
from trioflow.config.checks import check_in_trio

V = TypeVar("V")

_LEFT_ELSEWHERE = (
    "a block of a run was left in another task than it was entered in, as happens where an async generator that "
    "yields inside it is not exhausted: put @trio.as_safe_channel on that generator"
)


class Block(ABC, Generic[V]):
    """A block that can be entered once.

    Args:
        errors: collects the errors of the block.
    """

    def __init__(self, errors: ErrorCollector) -> None:
        self._errors = errors
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> V:
        check_in_trio()
        if self._manager is not None:
            raise RuntimeError("this block was entered before: open another one")
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self._open(self._nursery)

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        del kind, traceback
        if self._nursery.parent_task is not trio.lowlevel.current_task():
            self._refuse_other_task()
        errors, manager = self._errors, self._manager
        errors.add(error)
        with errors.collecting():
            await self._leave(in_peace=error is None)  # noqa: ASYNC102 - as the tasks are: see `_leave`
        with errors.collecting(unwrap=True):
            await manager.__aexit__(None, None, None)  # type: ignore[union-attr]  # noqa: ASYNC102 - a nursery's
        errors.replace_foreign(lambda foreign: foreign_cancelled(foreign, "an observer or the body of the block"))
        await self._release()  # noqa: ASYNC102 - shielded in there
        self._conclude()
        if errors.worst() is error:
            errors.replace(None)
            return False
        try:
            errors.raise_worst()
        finally:
            del self, error, errors, manager
        return True

    def _refuse_other_task(self) -> NoReturn:
        """Cancel the tasks, and raise: exiting a nursery in a task other than the one that opened it hangs.

        The nursery stays open in the task that opened it, so it cancels that task too, which reports the same.
        """
        self._nursery.cancel_scope.cancel(reason=_LEFT_ELSEWHERE)
        raise RuntimeError(_LEFT_ELSEWHERE)

    @abstractmethod
    def _open(self, nursery: trio.Nursery) -> V:
        """Start the tasks in `nursery`, and return the value for the block."""

    @abstractmethod
    async def _leave(self, *, in_peace: bool) -> None:
        """Make the tasks end; `in_peace` if the body did not raise.

        Cancellation: passes through; the tasks are in the same scopes, and so are cancelled too.
        """

    async def _release(self) -> None:
        """Close what the run's code has opened, once no task is left.

        Cancellation: shielded.
        """

    @abstractmethod
    def _conclude(self) -> None:
        """Decide what the run ends with, once no task is left."""
