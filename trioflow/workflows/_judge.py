"""Whether a `Cancelled` that came out of a worker is a cancellation.

A worker cannot tell by itself: its processor may have raised an old one again, or left a cancelled scope open in
the worker's task. A fresh task can, for only the run's own scopes and the outer ones are around it. See
`docs/design/engine.md`.
"""

from collections.abc import Callable
from typing import Generic, TypeVar, final

import trio

from trioflow._runtime.errors import is_cancelled
from trioflow.workflows._worker import Worker

__all__ = ("Judge",)

T = TypeVar("T")


@final
class Judge(Generic[T]):
    """Decides about workers that ended with a `Cancelled`."""

    def __init__(self) -> None:
        self._suspects: list[tuple[Worker[T], BaseException]] = []

    def __repr__(self) -> str:
        return f"<Judge: {len(self._suspects)} to decide about>"

    def decide_soon(
        self,
        worker: Worker[T],
        error: BaseException,
        nursery: trio.Nursery,
        on_cancelled: Callable[[Worker[T]], None],
        on_stray: Callable[[Worker[T], BaseException], None],
    ) -> None:
        """Decide about `worker`, which ended with `error`, in a task of `nursery`.

        Args:
            worker: who ended.
            error: with what.
            nursery: where the workers run; its other tasks let a true cancellation through.
            on_cancelled: told of each worker that was cancelled.
            on_stray: told of each one that was not, with what it raised.
        """
        if not self._suspects:
            nursery.start_soon(self._decide, on_cancelled, on_stray, name="trioflow judge")
        self._suspects.append((worker, error))

    @trio.lowlevel.enable_ki_protection
    async def _decide(
        self,
        on_cancelled: Callable[[Worker[T]], None],
        on_stray: Callable[[Worker[T], BaseException], None],
    ) -> None:
        cancelled = is_cancelled()
        suspects, self._suspects = self._suspects, []
        for worker, error in suspects:
            if cancelled:
                on_cancelled(worker)
            else:
                on_stray(worker, error)
