"""The boundary to user code: how it is called.

The library's own tasks are protected from `KeyboardInterrupt`, so a Ctrl-C never lands between two changes of
their state. User code is not, so that a Ctrl-C ends a busy loop in it: the functions here lift the protection.
Sources, processors, nodes and handlers are user code, and so are the scopes that they open.
"""

import inspect
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar, TypeVarTuple, cast

import trio

from trioflow._runtime.signals import NotAsyncError
from trioflow.config.checks import may_give_awaitable

T = TypeVar("T")
R = TypeVar("R")
D = TypeVar("D")
Ts = TypeVarTuple("Ts")

TURN = 8
"""Calls that a task may make in a row without a checkpoint of its own."""

CLOSE_DEADLINE = 5.0
"""Seconds that closing an async generator may take, cancelled or not."""


class Counter(Protocol):
    """Counts the calls of a processor."""

    attempts: int


def call_user(
    fn: Callable[[*Ts], Awaitable[R]], counter: Counter, prepare: Callable[[Any], Awaitable[Any]] | None = None
) -> Callable[[*Ts], Awaitable[R]]:
    """Return the async `fn` without protection from `KeyboardInterrupt`, each call counted by `counter`.

    Args:
        fn: the function to call.
        counter: counts the calls.
        prepare: converts the argument before each call; None leaves it as it is.
    """
    call: Any = partial(_call, fn, counter) if prepare is None else partial(_call_prepared, fn, counter, prepare)
    return cast("Callable[[*Ts], Awaitable[R]]", call)


# Trio registers protection by code object, so these functions are defined once, not for each worker.


@trio.lowlevel.disable_ki_protection
async def _call(called: Callable[[*Ts], Awaitable[R]], counter: Counter, /, *args: *Ts) -> R:
    counter.attempts += 1
    return await called(*args)


@trio.lowlevel.disable_ki_protection
async def _call_prepared(
    called: Callable[..., Awaitable[R]],
    counter: Counter,
    prepare: Callable[[Any], Awaitable[Any]],
    /,
    *args: object,
) -> R:
    counter.attempts += 1
    return await called(await prepare(*args))


def awaiting(fn: Callable[[*Ts], Awaitable[R]]) -> Callable[[*Ts], Awaitable[R]]:
    """Return `fn` wrapped in an async function if it is a plain function that may return an awaitable."""

    async def call_and_await(*args: *Ts) -> R:
        awaitable: object = fn(*args)
        if not isinstance(awaitable, Awaitable):
            raise NotAsyncError(type(awaitable).__name__)
        return cast("R", await awaitable)

    return call_and_await if may_give_awaitable(fn) else fn


@trio.lowlevel.disable_ki_protection
def call_plain(fn: Callable[..., R], *args: object) -> R:
    """Call a user's plain function, without protection from `KeyboardInterrupt`."""
    return fn(*args)


@trio.lowlevel.disable_ki_protection
async def call_either(fn: Callable[..., Awaitable[R] | R], *args: object) -> R:
    """Call a user's function, plain or async, without protection from `KeyboardInterrupt`.

    Cancellation: passes through; a checkpoint only if `fn` is one.
    """
    result: Any = fn(*args)
    if isinstance(result, Awaitable):
        result = await result
    return cast("R", result)


@trio.lowlevel.disable_ki_protection
def extend(batch: deque[T], items: Iterable[T]) -> None:
    """Pull the user's items into `batch`; those that came before an error stay in it."""
    batch.extend(items)


@trio.lowlevel.disable_ki_protection
def next_or(iterator: Iterator[T], default: D) -> T | D:
    """Return the user's next item, or `default` if there is none."""
    return next(iterator, default)


@trio.lowlevel.disable_ki_protection
async def await_next(iterator: AsyncIterator[T]) -> T:
    """Return the user's next item, or raise `StopAsyncIteration`."""
    return await iterator.__anext__()


def close_plain(source: object) -> None:
    """Close `source` if it is a generator."""
    if inspect.isgenerator(source):
        call_plain(source.close)


async def close_async(source: object) -> None:
    """Close `source` if it is an async generator.

    Cancellation: passes through to the generator.
    """
    if inspect.isasyncgen(source):
        try:
            await source.aclose()
        except BaseExceptionGroup as group:
            # A nursery that is open in the generator wraps the GeneratorExit that closes it.
            rest: Any = group.split(GeneratorExit)[1]
            if rest is not None:
                raise rest from None
