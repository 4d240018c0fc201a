"""`open_run`: yields each step of a run before the next node is called.

The run has a task of its own. A relay between it and the block holds one step, and lets the run continue when the
next step is requested.
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
    """A running graph: an async iterator of `GraphStep`.

    Created only by `StateGraph.open_run`.
    """

    __slots__ = ("_relay",)

    _relay: "_Relay[S]"

    def __init__(self) -> None:
        raise TypeError("a GraphRun is created only by StateGraph.open_run")

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

        Cancellation: nothing is lost; the node keeps running, and the next call returns its step.
        """
        step = await self._relay.next_step()
        if step is not None:
            return step
        self._relay.errors.raise_worst()
        raise StopAsyncIteration

    def result(self) -> GraphResult[S]:
        """Return the result of the run, once the iteration has ended.

        Raises:
            RuntimeError: the run has not ended, it failed, or the block was left before its end.
        """
        result = self._relay.result
        if result is None:
            why = "the run failed, or ended early" if self._relay.ended else "iterate to the end first"
            raise RuntimeError(f"there is no result: {why}")
        return result


@final
class RunBlock(Block[GraphRun[S]]):
    """The block of `open_run`.

    Args:
        run: runs the graph, and awaits its argument with each step.
        name: the name of the run's task.
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
        return GraphRun._create(self._relay)  # noqa: SLF001 - only created here

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
        # The cancelled scope is the block's or an outer one: the block raises its own Cancelled.
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
    """Holds one step, and whether the next one is wanted.

    Attributes:
        ended: whether no more steps will come.
        errors: the error that the run ended with, until it has been raised.
        result: the result of the run.
    """

    __slots__ = ("_arrived", "_consumer_acted", "_step", "_wanted", "ended", "errors", "result")

    def __init__(self) -> None:
        self.ended = False
        self.errors = ErrorCollector()
        self.result: GraphResult[S] | None = None
        self._step: GraphStep[S] | None = None
        self._wanted = False
        self._consumer_acted = trio.lowlevel.ParkingLot()
        self._arrived = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Relay: {'ended' if self.ended else 'wanted' if self._wanted else 'waiting'}>"

    async def next_step(self) -> GraphStep[S] | None:
        """Request the next step, and return it; None if the run has ended.

        Cancellation: nothing is lost; the next call returns the requested step.
        """
        await trio.lowlevel.checkpoint()
        while self._step is None and not self.ended:
            self._wanted = True
            self._consumer_acted.unpark_all()
            await self._arrived.park()
        step, self._step = self._step, None
        self._consumer_acted.unpark_all()
        return step

    async def wait_until_wanted(self) -> None:
        """Wait until a step is requested.

        Cancellation: passes through.
        """
        while not self._wanted:
            await self._consumer_acted.park()

    async def hand_over(self, step: GraphStep[S], is_last: bool) -> None:  # noqa: FBT001 - called by position
        """Hand over `step`, and wait until the next one is requested, or until the last one has been taken.

        A run is therefore deleted from its store only when the block has its last step.

        Cancellation: passes through; the step can still be taken.
        """
        self._step = step
        self._wanted = False
        self._arrived.unpark()
        if not is_last:
            await self.wait_until_wanted()
        while is_last and self._step is not None:
            await self._consumer_acted.park()

    def end(self) -> None:
        """Wake the waiting consumer: no more steps will come."""
        self.ended = True
        self._arrived.unpark_all()
