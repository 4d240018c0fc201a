"""A run watched step by step: `open_run` hands out each step before the next node is called."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, Self, TypeVar, final

import trio

from trioflow._runtime.errors import ErrorCollector, foreign_cancelled
from trioflow.graph._relay import Relay
from trioflow.graph._walk import Walk
from trioflow.outcomes import GraphResult, GraphStep

__all__ = ("GraphRun", "stepping")

S = TypeVar("S")


@final
class GraphRun(Generic[S]):
    """A run under way: an async iterator of `GraphStep`.

    Made by `StateGraph.open_run` only.
    """

    __slots__ = ("_relay",)

    _relay: Relay[S]

    def __init__(self) -> None:
        raise TypeError("a GraphRun is made by StateGraph.open_run")

    @classmethod
    def _create(cls, relay: Relay[S]) -> Self:
        self = cls.__new__(cls)
        self._relay = relay
        return self

    def __repr__(self) -> str:
        return f"<GraphRun: {self._relay!r}>"

    def __aiter__(self) -> Self:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> GraphStep[S]:
        """Call the next node and return its step.

        Raises:
            ExecutionError: the run failed.

        Cancellation: nothing was taken; the node goes on, and the next call returns its step.
        """
        step = await self._relay.ask()
        if step is not None:
            return step
        fault = self._relay.take_fault()
        if fault is None:
            raise StopAsyncIteration
        try:
            raise fault
        finally:
            del fault

    def result(self) -> GraphResult[S]:
        """Return what the run came to, once the iteration has ended.

        Raises:
            RuntimeError: the run has not ended, failed, or was left before its end.
        """
        result = self._relay.result
        if result is None:
            why = "the run failed, or was left before its end" if self._relay.ended else "iterate to the end first"
            raise RuntimeError(f"there is no result: {why}")
        return result


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def stepping(
    walk: Walk[S], run_walk: Callable[[], Awaitable[GraphResult[S]]]
) -> AsyncIterator[GraphRun[S]]:
    """Run `walk`, by `run_walk`, while the block asks for its steps."""
    relay: Relay[S] = Relay()
    walk.on_step = relay.hand_over
    errors = ErrorCollector()
    with errors.collecting():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pump, run_walk, relay, nursery.cancel_scope, name="trioflow run")
            with errors.collecting():
                yield GraphRun._create(relay)  # noqa: SLF001 - only made here
            nursery.cancel_scope.cancel()
    errors.add(relay.take_fault())
    errors.judge(lambda cancelled: foreign_cancelled(cancelled, "the body of the block"))
    try:
        errors.raise_worst()
    finally:
        del relay, walk, run_walk


@trio.lowlevel.enable_ki_protection
async def _pump(
    run_walk: Callable[[], Awaitable[GraphResult[S]]], relay: Relay[S], block: trio.CancelScope
) -> None:
    errors = ErrorCollector()
    result: GraphResult[S] | None = None
    with errors.collecting():
        await relay.wait_until_wanted()
        result = await run_walk()
    fault = errors.worst()
    errors.replace(None)
    if fault is not None and not isinstance(fault, Exception):
        block.cancel()
    # The block is what was cancelled, or what is around it: each of them hears of it by itself.
    relay.end(result, None if isinstance(fault, trio.Cancelled) else fault)
