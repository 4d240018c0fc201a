"""One item at a time, in the caller's task: pulled when the step before is done; the source is always closed.

An error that the source raises, when pulled or closed, takes precedence over an `Exception` of a step.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import TypeVar

from trioflow._runtime.errors import ErrorCollector
from trioflow.workflows._sources import END, AsyncSource, SyncSource, open_source

T = TypeVar("T")


async def for_each(items: Iterable[T] | AsyncIterable[T], step: Callable[[T], Awaitable[None]]) -> None:
    """Pull each of `items` and await `step` for it.

    Cancellation: passes through, after the source is closed; closing an async generator is shielded, for at most
    `CLOSE_DEADLINE` seconds.
    """
    errors, closing = ErrorCollector(), ErrorCollector()
    source = open_source(items)
    if isinstance(source, SyncSource):
        with errors.collecting():
            await _step_through(source, step)
        with closing.collecting():
            source.close()
    else:
        with source.scope:
            with errors.collecting():
                await _step_through_async(source, step)
            with closing.collecting():
                await source.aclose()
    closing.add(errors.worst())
    errors.replace(None)
    closing.raise_worst()


async def _step_through(source: SyncSource[T], step: Callable[[T], Awaitable[None]]) -> None:
    while (item := source.pull_one()) is not END:
        await step(item)


async def _step_through_async(source: AsyncSource[T], step: Callable[[T], Awaitable[None]]) -> None:
    while (item := await source.pull()) is not END:
        await step(item)
