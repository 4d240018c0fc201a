"""A run watched step by step: `open_run` hands out each step before the next node is called.

The run is in a task of its own, and between it and the block stands a relay: it holds one step, and lets the run
go on when the next one is asked for.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, Self, TypeVar, final

import trio

from trioflow._runtime.block import Block
from trioflow._runtime.errors import ErrorCollector
from trioflow.outcomes import GraphResult, GraphStep

__all__ = ("GraphRun", "RunBlock")

S = TypeVar("S")


@final
class GraphRun(Generic[S]):
    """A run under way: an async iterator of `GraphStep`.

    Made by `StateGraph.open_run` only.
    """

    __slots__ = ("_relay",)

    _relay: "_Relay[S]"

    def __init__(self) -> None:
        raise TypeError("a GraphRun is made by StateGraph.open_run")

    @classmethod
    def _create(cls, relay: "_Relay[S]") -> Self:
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
        self._relay.errors.raise_worst()
        raise StopAsyncIteration

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


@final
class RunBlock(Block[GraphRun[S]]):
    """The block of `open_run`.

    Args:
        run: runs the graph, telling the relay that it is given of each step.
        name: what its task is called.
    """

    def __init__(self, run: "Callable[[OnStep[S]], Awaitable[GraphResult[S]]]", name: str) -> None:
        super().__init__(ErrorCollector())
        self._run = run
        self._name = name
        self._relay: _Relay[S] = _Relay()
        self._scope: trio.CancelScope

    def _open(self, nursery: trio.Nursery) -> GraphRun[S]:
        self._scope = nursery.cancel_scope
        nursery.start_soon(self._run_graph, name=self._name)
        return GraphRun._create(self._relay)  # noqa: SLF001 - only made here

    async def _leave(self, *, in_peace: bool) -> None:
        del in_peace
        self._scope.cancel(reason="the block of open_run was left")

    def _conclude(self) -> None:
        self._errors.add(self._relay.errors.worst())
        self._relay.errors.replace(None)

    @trio.lowlevel.enable_ki_protection
    async def _run_graph(self) -> None:
        relay = self._relay
        with relay.errors.collecting():
            await relay.wait_until_wanted()
            relay.result = await self._run(relay.hand_over)
        # The block is what was cancelled, or what is around it: each of them hears of it by itself.
        relay.errors.discard_cancelled()
        worst = relay.errors.worst()
        if worst is not None and not isinstance(worst, Exception):
            self._scope.cancel(reason="the run was stopped")
        del worst
        relay.end()


OnStep = Callable[[GraphStep[S], bool], Awaitable[None]]
"""Awaited with each step and whether it is the last."""


@final
class _Relay(Generic[S]):
    """One step, and whether the next one is wanted.

    Attributes:
        ended: whether no more steps will come.
        errors: what the run ended with, until somebody has been told.
        result: what the run came to.
    """

    __slots__ = ("_arrived", "_asked", "_step", "_wanted", "ended", "errors", "result")

    def __init__(self) -> None:
        self.ended = False
        self.errors = ErrorCollector()
        self.result: GraphResult[S] | None = None
        self._step: GraphStep[S] | None = None
        self._wanted = False
        self._asked = trio.lowlevel.ParkingLot()
        self._arrived = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Relay: {'ended' if self.ended else 'wanted' if self._wanted else 'waiting'}>"

    async def ask(self) -> GraphStep[S] | None:
        """Ask for the next step, and return it; None where the run has ended.

        Cancellation: nothing was taken; the step that was asked for is kept for who asks next.
        """
        await trio.lowlevel.checkpoint()
        while self._step is None and not self.ended:
            self._wanted = True
            self._asked.unpark_all()
            await self._arrived.park()
        step, self._step = self._step, None
        self._asked.unpark_all()
        return step

    async def wait_until_wanted(self) -> None:
        """Wait until somebody asks.

        Cancellation: passes through.
        """
        while not self._wanted:
            await self._asked.park()

    async def hand_over(self, step: GraphStep[S], is_last: bool) -> None:  # noqa: FBT001 - called by position
        """Hand out `step`, and wait until the next one is wanted, or the last one was taken.

        So a run is cleaned up only when the block has what it came to.

        Cancellation: passes through; the step can still be taken.
        """
        self._step = step
        self._wanted = False
        self._arrived.unpark()
        if not is_last:
            await self.wait_until_wanted()
        while is_last and self._step is not None:
            await self._asked.park()

    def end(self) -> None:
        """Tell whoever waits that no more steps will come."""
        self.ended = True
        self._arrived.unpark_all()
