"""How a run ends: errors are collected while tasks run, and once none is left, one of them is raised.

A nursery wraps what its tasks raise in groups, together with the `Cancelled` of the tasks that it stopped.
`ErrorCollector` takes such groups apart and decides which of several errors to raise; every pattern ends with its
`raise_worst`.

This module also decides which scope a `Cancelled` belongs to. Trio does not say; but around a task that has never
run user code, only the run's own scopes and outer ones can be cancelled. A `Cancelled` that belongs to neither is
*foreign*: an old one that was raised again, or one of a scope that user code left open. So user code that is
called sequentially runs in a child task, and the caller's task decides (`run_in_child_task`).

A `BaseException` is caught here, and in the loops of engines that cannot afford a helper for it. Elsewhere it gets
a note at most, and is raised again.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import final

import trio

from trioflow._runtime.resources import Resources
from trioflow.errors import leaves


@final
class ErrorCollector:
    """The errors of one run, until it ends by raising one of them."""

    __slots__ = ("_errors",)

    def __init__(self) -> None:
        self._errors: list[BaseException] = []

    def __repr__(self) -> str:
        return f"<ErrorCollector: {', '.join(type(error).__name__ for error in self._errors) or 'none'}>"

    def __bool__(self) -> bool:
        return bool(self._errors)

    def collecting(self, *, unwrap: bool = False) -> "_Collecting":
        """Collect what the block raises, for a decision after its tasks have ended.

        Args:
            unwrap: take it out of its groups, because the block is a nursery that wraps it.
        """
        return _Collecting(self, unwrap=unwrap)

    def add(self, error: BaseException | None) -> None:
        """Collect `error`; None is ignored."""
        if error is not None:
            self._errors.append(error)

    def discard_cancelled(self) -> None:
        """Drop every `Cancelled`: it cut nothing short, and the caller gets its own at the next checkpoint."""
        self._errors = [error for error in self._errors if not isinstance(error, trio.Cancelled)]

    def worst(self) -> BaseException | None:
        """Return the error that the run would end with now; None if there is none."""
        return most_severe(self._errors)

    def replace_foreign(self, on_foreign: Callable[[BaseException], BaseException]) -> None:
        """Replace a `Cancelled` that the run would end with, if no scope around the calling task is cancelled.

        Args:
            on_foreign: returns the error to report for it.
        """
        worst = self.worst()
        if isinstance(worst, trio.Cancelled) and not is_cancelled():
            self.replace(on_foreign(worst))

    def replace(self, error: BaseException | None) -> None:
        """Make `error` the only error; None clears all."""
        self._errors = [] if error is None else [error]

    def raise_worst(self) -> None:
        """Raise the error that the run ends with, unwrapped; do nothing if there is none.

        Afterwards the collector is empty: an error whose traceback refers to a frame that holds it is a cycle.
        """
        error, self._errors = most_severe(self._errors), []
        if error is not None:
            try:
                raise error
            finally:
                del error


@final
class _Collecting:
    """A block whose error is collected.

    It is no generator: the frames of one would hold the error, and its traceback would hold them.
    """

    __slots__ = ("_collector", "_unwrap")

    def __init__(self, collector: ErrorCollector, *, unwrap: bool) -> None:
        self._collector = collector
        self._unwrap = unwrap

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if error is not None:
            for each in leaves(error) if self._unwrap else [error]:
                self._collector.add(each)
        return True


def most_severe(errors: Sequence[BaseException]) -> BaseException | None:
    """Return which of `errors` a run ends with: not an `Exception` > the first `Exception` > `Cancelled`.

    Several that are not `Exception`s become a group, unless they are equal: one `SystemExit(3)` stands for those
    of all workers.
    """
    stripped = [strip_cancelled(error) for error in errors]
    stopping = [error for error in stripped if _stops_the_run(error)]
    if stopping:
        first = stopping[0]
        if all(type(other) is type(first) and other.args == first.args for other in stopping):
            return first
        every = [leaf for error in stopping for leaf in leaves(error)]
        return BaseExceptionGroup("several tasks stopped the run", every)
    real = (error for error in stripped if isinstance(error, Exception))
    return next(real, stripped[0] if stripped else None)


def strip_cancelled(error: BaseException) -> BaseException:
    """Return the essential part of `error`: itself, or a group without its `Cancelled`.

    If a group has errors other than `Exception` and `Cancelled`, such as a `KeyboardInterrupt`, only those count:
    the one, or a group of several.
    """
    if not isinstance(error, BaseExceptionGroup) or isinstance(error, ExceptionGroup):
        return error
    stopping = [leaf for leaf in leaves(error) if _stops_the_run(leaf)]
    if stopping:
        return stopping[0] if len(stopping) == 1 else BaseExceptionGroup(error.message, stopping)
    rest = error.split(trio.Cancelled)[1]
    return rest if rest is not None else next(leaves(error))


def is_cancelled() -> bool:
    """Whether a scope around the calling task is cancelled: one of the run's, an outer one, or a leaked one."""
    return trio.current_effective_deadline() == -math.inf


def foreign_cancelled(cancelled: BaseException, who: str) -> RuntimeError:
    """Return the error to report for a `Cancelled` that belongs to no cancelled scope."""
    error = RuntimeError(
        f"{who} raised trio.Cancelled, but nothing that it runs in is cancelled: it raised a stale one again, "
        "or left a cancel scope open"
    )
    error.__cause__ = cancelled
    return error


@trio.lowlevel.enable_ki_protection
async def run_in_child_task(
    work: Callable[[], Awaitable[None]], on_foreign: Callable[[BaseException], BaseException], name: str
) -> ErrorCollector:
    """Run `work`, which calls user code, in a task of its own, and return its errors, unwrapped.

    A scope that user code leaves open corrupts the task it runs in, so that must not be the caller's task.

    Args:
        work: the async function to run.
        on_foreign: returns the error to report for a foreign `Cancelled`.
        name: the task's name.

    Cancellation: returned as the `Cancelled` to raise; if `work` returned all the same, there is none.
    """
    errors = ErrorCollector()
    with errors.collecting(unwrap=True):
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - a task of its own is the point
            nursery.start_soon(_collect, work, errors, name=name)
    errors.replace_foreign(on_foreign)
    return errors


@trio.lowlevel.enable_ki_protection
async def _collect(work: Callable[[], Awaitable[None]], errors: ErrorCollector) -> None:
    async with Resources():
        with errors.collecting():
            await work()


def _stops_the_run(error: BaseException) -> bool:
    return not isinstance(error, Exception | trio.Cancelled)
