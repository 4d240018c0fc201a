"""How a run ends: its errors are collected while tasks run, weighed once when none is left, and raised once.

A nursery wraps whatever its tasks raise into groups, and mixes in the `Cancelled` of the tasks that it stopped.
`ErrorCollector` takes such groups apart and knows which of several errors comes out; every pattern ends by its
`raise_worst`.

Whose a `Cancelled` is, is decided here too. Trio does not say; but around a task in which user code has never
run, only the run's own scopes and the outer ones can be cancelled. A `Cancelled` of neither is *foreign*: an old
one that was raised again, or that of a scope which user code left open. So user code that is called once at a
time runs in a child task, and the caller's task decides (`run_in_child_task`).

A `BaseException` is held here, and in the loops of the engines that cannot afford a helper for it. Elsewhere one
is at most given a note on its way.
"""

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import final

import trio

from trioflow._runtime.resources import Resources
from trioflow.errors import leaves


@final
class ErrorCollector:
    """The errors of one run, until the one that it ends with is raised."""

    __slots__ = ("_errors",)

    def __init__(self) -> None:
        self._errors: list[BaseException] = []

    def __repr__(self) -> str:
        return f"<ErrorCollector: {', '.join(type(error).__name__ for error in self._errors) or 'none'}>"

    @contextmanager
    def collecting(self, *, unwrap: bool = False) -> Iterator[None]:
        """Keep what the block raises, for a decision after its tasks have ended.

        Args:
            unwrap: take it out of its groups, where the block is a nursery that wraps it.
        """
        try:
            yield
        except BaseException as error:  # noqa: BLE001, ASYNC103 - weighed later, and Cancelled is let pass then
            self._errors.extend(leaves(error) if unwrap else [error])

    def add(self, error: BaseException | None) -> None:
        """Keep `error`; None is none."""
        if error is not None:
            self._errors.append(error)

    def discard_cancelled(self) -> None:
        """Forget every `Cancelled`: it cut nothing, and the caller meets its own at the next checkpoint."""
        self._errors = [error for error in self._errors if not isinstance(error, trio.Cancelled)]

    def worst(self) -> BaseException | None:
        """Return what the run ends with as it stands; None where nothing went wrong."""
        return most_severe(self._errors)

    def replace_foreign(self, on_foreign: Callable[[BaseException], BaseException]) -> None:
        """Replace a `Cancelled` that the run would end with, where nothing around the calling task is cancelled.

        Args:
            on_foreign: gives the error to report for it.
        """
        worst = self.worst()
        if isinstance(worst, trio.Cancelled) and not is_cancelled():
            self.replace(on_foreign(worst))

    def replace(self, error: BaseException | None) -> None:
        """Make `error` what the run ends with, in place of all before; None is nothing."""
        self._errors = [] if error is None else [error]

    def raise_worst(self) -> None:
        """Raise what the run ends with, bare; do nothing where nothing went wrong.

        Nothing is kept: a traceback that leads to a frame which holds its error is a cycle.
        """
        error, self._errors = most_severe(self._errors), []
        if error is not None:
            try:
                raise error
            finally:
                del error


def most_severe(errors: Sequence[BaseException]) -> BaseException | None:
    """Return which of `errors` a run ends with: not an `Exception` > the first `Exception` > `Cancelled`.

    Several that are not `Exception`s come out as a group, unless they say the same: one `SystemExit(3)` speaks
    for those of all workers.
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
    """Return what `error` is about: itself, or what a group says once `Cancelled` is left out.

    A group that holds something else than `Exception` and `Cancelled`, such as a `KeyboardInterrupt`, is about
    that alone: the one, or a group of the several.
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
    """Return the error that stands for a `Cancelled` that nobody cancelled for."""
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
    """Run `work`, which calls user code, in a task of its own, and return what it ended with, bare.

    A scope that user code leaves open corrupts the task it runs in: so that is never the caller's.

    Args:
        work: what to run.
        on_foreign: gives the error to report for a `Cancelled` that nobody cancelled for.
        name: the task's name.

    Cancellation: comes back as the `Cancelled` to raise; where `work` returned all the same, it is not seen here.
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
