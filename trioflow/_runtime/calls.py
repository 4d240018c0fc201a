"""The border to the user's code: how it is called, and what a `Cancelled` that comes out of it means.

The engine's own code is protected from `KeyboardInterrupt`, so that a Ctrl-C never lands between two changes
of its state; the user's code is not, so that a Ctrl-C ends a busy loop in it. The functions here are where
protection is lifted. The source and the processor are the user's, and so are scopes that they open.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Protocol, TypeVar, cast

import trio

from trioflow.config.checks import is_lambda

__all__ = (
    "Counter",
    "NotAsyncError",
    "await_next",
    "call_plain",
    "is_cancelled",
    "pull_next",
    "stale",
    "unprotected",
)

T = TypeVar("T")
R = TypeVar("R")
D = TypeVar("D")


class NotAsyncError(BaseException):
    """A lambda turned out not to give an awaitable: no failure of an item, but of the call that was given it."""


class Counter(Protocol):
    """Who counts the calls of a processor."""

    attempts: int


def unprotected(fn: Callable[[T], Awaitable[R]], counter: Counter) -> Callable[[T], Awaitable[R]]:
    """Return `fn` as the user's code runs: open to `KeyboardInterrupt`, each call counted by `counter`."""

    @trio.lowlevel.disable_ki_protection
    async def call(argument: T) -> R:
        counter.attempts += 1
        return await fn(argument)

    @trio.lowlevel.disable_ki_protection
    async def call_lambda(argument: T) -> R:
        counter.attempts += 1
        awaitable: object = fn(argument)
        if not isinstance(awaitable, Awaitable):
            raise NotAsyncError(type(awaitable).__name__)
        return cast("R", await awaitable)

    return call_lambda if is_lambda(fn) else call


@trio.lowlevel.disable_ki_protection
def call_plain(fn: Callable[..., R], *args: object) -> R:
    """Call a plain function of the user's, open to `KeyboardInterrupt`."""
    return fn(*args)


@trio.lowlevel.disable_ki_protection
def pull_next(iterator: Iterator[T], end: D) -> T | D:
    """Return the user's next item, or `end`."""
    return next(iterator, end)


@trio.lowlevel.disable_ki_protection
async def await_next(iterator: AsyncIterator[T]) -> T:
    """Return the user's next item, or raise `StopAsyncIteration`."""
    return await iterator.__anext__()


def is_cancelled() -> bool:
    """Whether a scope around the calling task is cancelled: one of the run's, an outer one, or a leaked one."""
    return trio.current_effective_deadline() == -math.inf


def stale(cancelled: BaseException, who: str) -> RuntimeError:
    """Return the error that stands for a `Cancelled` that nobody cancelled for."""
    error = RuntimeError(
        f"{who} raised trio.Cancelled, but nothing that it runs in is cancelled: it raised a stale one again, "
        "or left a cancel scope open"
    )
    error.__cause__ = cancelled
    return error
