"""The loop of a run: enter a node, call it, take the state that it returns, and choose the edge to go on by.

The nodes run one after the other in one task of their own (`_runtime/alone`). What a node does to the run is
decided by plain methods; `_settle` is the one place that is told that a step is complete.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Generic, Literal, TypeVar, final

import msgspec
import trio

from trioflow._durable.steps import Saver
from trioflow._runtime.calls import TURN, call_plain
from trioflow._runtime.emitter import Emitter
from trioflow._runtime.errors import foreign_cancelled, run_in_child_task
from trioflow._runtime.policies import with_policies
from trioflow._runtime.signals import AttemptsSpentError, NotAsyncError, Paused
from trioflow._text import quote, show
from trioflow.config import GraphConfig
from trioflow.errors import ExecutionError, GraphError, leaves
from trioflow.events import Observer
from trioflow.graph._isolation import isolate_soon
from trioflow.graph._plan import Plan, PlannedNode
from trioflow.graph._voice import Voice
from trioflow.graph.edges import always, truth
from trioflow.outcomes import GraphResult, GraphStep

__all__ = ("DEFAULT_OBSERVER", "PATH_LIMIT", "Position", "Surroundings", "Walk", "surroundings")

S = TypeVar("S")

PATH_LIMIT = 1_000
"""Nodes that a path keeps, the last ones."""


DEFAULT_OBSERVER = GraphConfig(name="default").observer
"""The name that a config has which does not say who hears; in a node that is the graph's observer."""


class Surroundings(msgspec.Struct, frozen=True):
    """The run that code is called by, for what it starts in turn."""

    run_id: str
    """The run's id."""
    observer: Observer
    """Who hears of the run."""


surroundings: ContextVar[Surroundings] = ContextVar("surroundings")
"""Set in the task of a run, and so in all tasks that its nodes start."""


class Position(msgspec.Struct, Generic[S], frozen=True):
    """Where a run stands: what it takes to go on from here."""

    node: str
    """The next node."""
    state: S
    """What it will be given."""
    iterations: int = 0
    """Node attempts made so far."""
    left: bool = False
    """Whether the node is complete, so that its edges are next."""


@final
class Walk(Generic[S]):
    """One run, from a position to an exit point, a pause or a failure.

    Attributes:
        attempts: node attempts of the run so far, those before a pause included.
        voice: who tells of the run.
        saver: who keeps it; None is nobody.
        on_step: awaited with each step and whether it is the last, so that a stream can hold the run up.
    """

    def __init__(
        self,
        plan: Plan[S],
        position: Position[S],
        config: GraphConfig,
        state_type: type[S],
        around: Surroundings,
    ) -> None:
        self.attempts = position.iterations
        self.voice: Voice[S] = Voice(Emitter(around.observer, "graph", around.run_id), config)
        self.saver: Saver[S] | None = None
        self.on_step: Callable[[GraphStep[S], bool], Awaitable[None]] | None = None
        self._plan = plan
        self._config = config
        self._state_type = state_type
        self._surroundings = around
        self._node = plan.nodes[position.node]
        self._state = position.state
        self._path: deque[str] = deque(maxlen=PATH_LIMIT)
        self._calls: dict[str, Callable[[S], Awaitable[S]]] = {}
        self._entered = 0
        self._running = False
        self._exit_point: str | None = None
        self._left = position.left

    def __repr__(self) -> str:
        return f"<Walk of {self._config.name} at {self._node.name} after {self.attempts} attempts>"

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._surroundings.run_id

    @property
    def position(self) -> Position[S]:
        """Where the run stands: before the node in hand, or the next one."""
        return Position(self._node.name, self._state, self.attempts)

    @trio.lowlevel.enable_ki_protection
    async def execute(self) -> GraphResult[S]:
        """Walk to the end.

        Cancellation: passes through; a run that reached its end returns all the same.
        """
        errors = await run_in_child_task(self._walk, self._foreign, f"trioflow graph {self._config.name}")
        fault = self._weigh(errors.worst())
        if self._running:
            self.voice.tell_node(self._node, fault)
        if self.saver is not None:
            fault = await self.saver.end(fault, self.attempts)
        paused = isinstance(fault, Paused)
        self.voice.tell_end(fault, self._exit_point, self.attempts, self._entered)
        errors.replace(None if paused else fault)
        pause = fault.payload if isinstance(fault, Paused) else None
        del fault
        errors.raise_worst()
        status: Literal["completed", "paused"] = "paused" if paused else "completed"
        run_id = self._surroundings.run_id
        return GraphResult(
            self._state, run_id, status, self._exit_point, list(self._path), self.attempts, pause
        )

    @trio.lowlevel.enable_ki_protection
    async def _walk(self) -> None:
        surroundings.set(self._surroundings)
        self.voice.tell_start(self._node.name, self.attempts, self._state)
        await trio.lowlevel.checkpoint()
        if self._left:
            self._raise(self._go_on(self._node))
        turn = 0
        while self._exit_point is None:
            # Before a step, not after: a run that has reached its end is never cancelled.
            turn = (turn + 1) % TURN
            if not turn:
                await trio.lowlevel.checkpoint()
            node = self._enter()
            try:
                state = await self._calls[node.name](self._state)
            except Exception as error:
                raise self._failure() from error
            step = self._settle(node, state)
            fault = None if node.is_exit else self._go_on(node)
            if self.saver is not None:
                following = self._node.name if fault is None and not node.is_exit else ""
                await self.saver.completed(node.name, following, self.attempts, state)
            if self.on_step is not None:
                await self.on_step(step, node.is_exit)
            self._raise(fault)

    # What a step decides: plain methods, each leaves the run's state consistent.

    def _enter(self) -> PlannedNode[S]:
        node = self._node
        if self.attempts >= self._config.max_iterations:
            raise self._failure("max iterations", self._spent())
        if node.name not in self._calls:
            self._calls[node.name] = self._equip(node)
        self._path.append(node.name)
        self._entered += 1
        self._running = True
        self.voice.tell_enter(node.name, self.attempts + 1, self._state)
        return node

    def _settle(self, node: PlannedNode[S], state: S) -> GraphStep[S]:
        """Take note that the step in hand is complete."""
        if not isinstance(state, self._state_type):
            wanted = f"graph {quote(self._config.name)} wants a {self._state_type.__name__} from each node"
            raise self._failure() from TypeError(f"{wanted}, and this one returned {show(state)}")
        before, self._state = self._state, state
        self._running = False
        if node.is_exit:
            self._exit_point = node.name
        self.voice.tell_settled(node, before, state)
        return GraphStep(node.name, self.attempts, state)

    def _go_on(self, node: PlannedNode[S]) -> ExecutionError | None:
        """Make the target of the first edge that may be taken the next node, or return why none is."""
        for index, edge in enumerate(node.edges):
            try:
                holds = edge.when is always or truth(call_plain(edge.when, self._state))
            except Exception as error:  # noqa: BLE001 - the failure of the edge, reported as such
                self.voice.tell_edge(edge, index, error, holds=False)
                name = f" {quote(edge.name)}" if edge.name else ""
                reason = f"the predicate{name} of the edge to {quote(edge.target)} failed"
                failure = self._failure("predicate", reason)
                failure.__cause__ = error
                return failure
            self.voice.tell_edge(edge, index, None, holds=holds)
            if holds:
                self._node = self._plan.nodes[edge.target]
                return None
        return self._failure("no transition", f"no transition: of its edges ({len(node.edges)}) none may be taken")

    @staticmethod
    def _raise(fault: ExecutionError | None) -> None:
        if fault is not None:
            try:
                raise fault
            finally:
                del fault

    # How a run ends.

    def _weigh(self, fault: BaseException | None) -> BaseException | None:
        """Return what the run ends with, in the words of the graph."""
        if fault is None:
            return None
        parts = list(leaves(fault))
        if all(isinstance(part, Paused) for part in parts):
            return parts[0]
        if isinstance(fault, NotAsyncError):
            wanted = "wants an async function, or a lambda that gives an awaitable, got one that gives"
            return GraphError(self._config.name, [f"node {quote(self._node.name)} {wanted} a {fault.args[0]}"])
        if isinstance(fault, AttemptsSpentError):
            failure = self._failure("max iterations", self._spent())
            failure.__cause__ = fault.__cause__
            return failure
        return fault

    def _foreign(self, error: BaseException) -> BaseException:
        """Return what a `Cancelled` that nobody cancelled for is reported as: the node in hand failed."""
        failure = self._failure()
        failure.__cause__ = foreign_cancelled(error, f"node {quote(self._node.name)}")
        return failure

    def _failure(
        self,
        kind: Literal["node", "predicate", "no transition", "max iterations"] = "node",
        reason: str | None = None,
    ) -> ExecutionError:
        return ExecutionError(self._node.name, self._state, list(self._path), kind=kind, reason=reason)

    def _spent(self) -> str:
        return f"max iterations exceeded: the {self._config.max_iterations} attempts of max_iterations are spent"

    def _equip(self, node: PlannedNode[S]) -> Callable[[S], Awaitable[S]]:
        return with_policies(
            node.fn,
            self,
            task_timeout=self._config.task_timeout,
            retry=self._config.retry,
            on_retry=self._on_retry,
            prepare=isolate_soon,
        )

    def _on_retry(self, attempt: int, delay: float, error: Exception) -> None:
        if self.attempts >= self._config.max_iterations:
            raise AttemptsSpentError from error
        self.voice.tell_retry(self._node.name, attempt, delay, error)
