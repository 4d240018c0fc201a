"""The loop of a run: enter a node, call it, take the state that it returns, and choose the next edge.

The nodes run one after the other in one child task (`run_in_child_task`). Synchronous methods change the run's
state; `_settle` is the one place where a step completes. `steps` saves the steps, or does not.
"""

import inspect
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, Generic, Literal, TypeVar, final

import trio

from trioflow._durable.children import Child, child_id, host
from trioflow._durable.steps import KeptSteps, Position, Steps, UnkeptSteps
from trioflow._durable.waits import not_here
from trioflow._runtime.calls import TURN, call_plain
from trioflow._runtime.context import (
    WorkInHand,
    is_changed,
    nothing_in_hand,
    reset_context,
    task_name,
    working,
)
from trioflow._runtime.emitter import Emitter
from trioflow._runtime.errors import ErrorCollector, foreign_cancelled, run_in_child_task
from trioflow._runtime.policies import Policies
from trioflow._runtime.signals import AttemptsSpentError, JournalError, NotAsyncError, Parked, Paused
from trioflow._text import quote, show
from trioflow.config import GraphConfig
from trioflow.errors import ExecutionError, GraphError, leaves
from trioflow.events import Observer
from trioflow.graph._builder import Plan, PlannedNode
from trioflow.graph._events import GraphEvents
from trioflow.graph.edges import ErrorEdge, always, truth
from trioflow.graph.state import isolate, isolate_soon, rebased
from trioflow.outcomes import GraphResult, GraphStep

S = TypeVar("S")

PATH_LIMIT = 1_000
"""The most nodes in a path, the last ones."""


@final
class GraphRunner(Generic[S]):
    """One run, from a position to an exit point, a pause or an error.

    Attributes:
        run_id: the run's id.
        observer: receives the run's events.
        attempts: node attempts of the run so far, those before a pause included.
        events: emits the run's events.
        steps: saves the run's steps.
        on_step: awaited with each step and whether it is the last, so that a stream can suspend the run.
    """

    def __init__(
        self,
        plan: Plan[S],
        position: Position[S],
        config: GraphConfig,
        state_type: type[S],
        *,
        run_id: str,
        observer: Observer,
    ) -> None:
        self.run_id = run_id
        self.observer = observer
        self.attempts = position.iterations
        self.events: GraphEvents[S] = GraphEvents(Emitter(observer, "graph", run_id), config)
        self.steps: Steps[S] = UnkeptSteps()
        self.on_step: Callable[[GraphStep[S], bool], Awaitable[None]] | None = None
        self._plan = plan
        self._config = config
        self._state_type = state_type
        self._node = plan.nodes[position.node]
        self._state = position.state
        self._left = position.left
        self._step = position.step
        self._path: deque[str] = deque(maxlen=PATH_LIMIT)
        self._calls: dict[str, Callable[[S], Awaitable[S]]] = {}
        self._entered = 0
        self._attempts_before = 0
        self._task: trio.lowlevel.Task | None = None
        self._waits = (0, 0)
        self._node_in_hand = False
        self._failed_over = False
        self._exit: PlannedNode[S] | None = None
        self._stuck: ErrorCollector | None = None

    def __repr__(self) -> str:
        return f"<GraphRunner of {self._config.name} at {self._node.name} after {self.attempts} attempts>"

    @property
    def position(self) -> Position[S]:
        """The position of the run: before the running node, or the next one."""
        return Position(self._node.name, self._state, self.attempts, step=self._step)

    @property
    def task_name(self) -> str:
        """The name of its task."""
        return task_name(self.events.emitter, "graph", self._config.name)

    @property
    def worker(self) -> None:
        """None: a graph has no workers."""

    @property
    def emitter(self) -> Emitter:
        """Emits the events of the run."""
        return self.events.emitter

    def in_hand(self) -> WorkInHand:
        """Return the running node, for `current_run`."""
        if not self._node_in_hand:
            raise nothing_in_hand()
        attempt = self.attempts - self._attempts_before
        name, node = self._config.name, self._node.name
        return WorkInHand(self.run_id, "graph", attempt, name=name, node=node, step=self._step)

    def begin_wait(self) -> tuple[KeptSteps[Any], str]:
        """See `WaitHost.begin_wait`: waits are numbered within each attempt at a node, in order of call."""
        if not self._node_in_hand or trio.lowlevel.current_task() is not self._task:
            raise not_here()
        if not isinstance(self.steps, KeptSteps):
            name = quote(self._config.name)
            raise RuntimeError(  # noqa: TRY004 - no argument is wrong
                f"a durable wait needs a durable run: give graph {name} a store"
            )
        attempt, number = self._waits
        number = number + 1 if attempt == self.attempts else 1
        self._waits = self.attempts, number
        return self.steps, f"{self._step}/{self._node.name}/{number}"

    def child_of(self, node: object) -> Child:
        """See `Host.child_of`: a run that is the running node itself is stored with this run."""
        if not self._node_in_hand or inspect.unwrap(self._node.fn) is not node:
            return Child(uuid.uuid4().hex, self.observer, None, None, self._state_type)
        run_id = child_id(self.run_id, self._step, self._node.name)
        store = self.steps.child_store(rebased)
        finished = self.steps.finished_branches(self._step)
        return Child(run_id, self.observer, store, self._node.name, self._state_type, finished)

    @trio.lowlevel.enable_ki_protection
    async def execute(self) -> GraphResult[S]:
        """Run to the end.

        Cancellation: passes through; a run that reached its end returns all the same.
        """
        errors = await run_in_child_task(self._run_nodes, self._foreign, self.task_name)
        # Both refer to this runner: a cycle would keep every run until a garbage collection.
        self._task = None
        self._calls.clear()
        errors.replace(self._as_graph_error(errors.worst()))
        if self._node_in_hand:
            self.events.node_completed(self._node.name, errors.worst())
        errors.add(self.events.stopping.worst())
        self.events.stopping.replace(None)
        errors.replace_foreign(self._foreign)
        # The exit was reached, but the run was cancelled before the block took the last step: the run has
        # completed, and stays in the store.
        untaken = self._exit is not None and isinstance(errors.worst(), trio.Cancelled)
        if untaken:
            ending = ErrorCollector()
            await self._end(ending, forget=False)
            if not isinstance(ending.worst(), Exception):
                errors.add(ending.worst())
            ending.replace(None)
            errors.raise_worst()
        await self._end(errors)
        paused = errors.worst()
        status: Literal["completed", "paused"] = "completed"
        payload = None
        if isinstance(paused, Paused):
            status, payload = "paused", paused.payload
            errors.replace(None)
        del paused
        errors.raise_worst()
        path, exit_point = list(self._path), None if self._exit is None else self._exit.name
        return GraphResult(self._state, self.run_id, status, exit_point, path, self.attempts, payload)

    async def _end(self, errors: ErrorCollector, *, forget: bool = True) -> None:
        """Save the end of the run and emit its event; leave the error that it ends with in `errors`.

        Cancellation: shielded, if anything is to be saved.
        """
        # An observer may stop the program while the end is saved, which is still the end of the run.
        with errors.collecting():
            errors.replace(await self.steps.end(errors.worst(), self.position))
        exit_point = None if self._exit is None else self._exit.name
        with errors.collecting():
            self.events.run_completed(errors.worst(), exit_point, self.attempts, self._entered)
        # Last, so that nothing can take the result from the caller any more.
        if forget and errors.worst() is None:
            await self.steps.forget()

    @trio.lowlevel.enable_ki_protection
    async def _run_nodes(self) -> None:
        await self._start()
        turn, context = 0, copy_context()
        while self._goes_on():
            # Before a step, not after: a run that has reached its end is never cancelled.
            turn = (turn + 1) % TURN
            if not turn:
                await trio.lowlevel.checkpoint()
            node = self._enter()
            try:
                self._settle(node, await self._calls[node.name](self._state))
            except Exception as error:  # noqa: BLE001 - raised again as the node's, unless an error edge matches
                self._take_error_edge(node, error)
            finally:
                if is_changed(context):
                    await reset_context(context)  # noqa: ASYNC102 - shielded in there
            following = self._leave(node)
            is_last = node is self._exit
            saving = self.steps.completed(node.name, following, self.attempts, self._state, is_last=is_last)
            if saving is not None:
                await saving
            # A step that ended with an error edge is not yielded: nothing was returned.
            if self.on_step is not None and not (self._failed_over or self.events.stopping):
                await self.on_step(GraphStep(node.name, self.attempts, self._state), is_last)

    async def _start(self) -> None:
        self._task = trio.lowlevel.current_task()
        working.set(self)
        host.set(self)
        self.events.run_started(self._node.name, self.attempts, self._state)
        self.steps.start(self.events.step_saved)
        await trio.lowlevel.checkpoint()
        if self._left:
            self._choose_edge(self._node)

    # The decisions of a step: synchronous methods, each of which leaves the run's state consistent.

    def _goes_on(self) -> bool:
        """Whether there is a node to enter; raises why there is none, now that the step is saved."""
        if self._stuck is not None:
            self._stuck.raise_worst()
        return self._exit is None and not self.events.stopping

    def _enter(self) -> PlannedNode[S]:
        node = self._node
        if self.attempts >= self._config.max_iterations:
            raise self._error("max iterations", self._spent())
        if node.name not in self._calls:
            self._calls[node.name] = self._with_policies(node)
        self._path.append(node.name)
        self._entered += 1
        self._attempts_before = self.attempts
        self._node_in_hand = True
        self.events.node_started(node.name, self.attempts + 1, self._state)
        return node

    def _settle(self, node: PlannedNode[S], state: S) -> None:
        """Complete the running node, which returned `state`.

        Raises:
            TypeError: `state` is not a state of the graph.
        """
        if not isinstance(state, self._state_type):
            wanted = f"graph {quote(self._config.name)} wants a {self._state_type.__name__} from each node"
            raise TypeError(f"{wanted}, and this one returned {show(state)}")
        before, self._state = self._state, state
        self._node_in_hand = self._failed_over = False
        self._step += 1
        if node.is_exit:
            self._exit = node
        self.events.node_settled(node.name, before, state)

    def _leave(self, node: PlannedNode[S]) -> str:
        """Choose the next node after a completed one; return its name, or an empty string if there is none."""
        if self._failed_over:
            return self._node.name
        return "" if node.is_exit else self._choose_edge(node)

    def _choose_edge(self, node: PlannedNode[S]) -> str:
        """Make the target of the first edge that may be taken the next node, and return its name."""
        for index, edge in enumerate(node.edges):
            try:
                holds = edge.when is always or truth(call_plain(edge.when, self._state))
            except Exception as error:  # noqa: BLE001 - reported as the edge's error
                self.events.edge_evaluated(edge, index, error, holds=False)
                name = f" {quote(edge.name)}" if edge.name else ""
                reason = f"the predicate{name} of the edge to {quote(edge.target)} failed"
                return self._get_stuck(self._error("predicate", reason, cause=error))
            self.events.edge_evaluated(edge, index, None, holds=holds)
            if holds:
                self._node = self._plan.nodes[edge.target]
                return edge.target
        reason = f"no transition: none of its {len(node.edges)} edges may be taken"
        return self._get_stuck(self._error("no transition", reason))

    def _get_stuck(self, error: ExecutionError) -> str:
        self._stuck = ErrorCollector()
        self._stuck.add(error)
        return ""

    def _take_error_edge(self, node: PlannedNode[S], error: Exception) -> None:
        """Make the target of the first error edge that matches `error` the next node.

        Raises:
            ExecutionError: from `error`, if none matches; or from what an `on` or `update` raised.
        """
        for index, edge in enumerate(node.error_edges, len(node.edges)):
            try:
                holds = edge.matches(error)
                state = self._updated(edge, error) if holds else self._state
            except Exception as raised:
                self.events.edge_evaluated(edge, index, raised, holds=False)
                raise self._error() from raised
            if holds:
                self._node_in_hand, self._failed_over = False, True
                self.events.node_completed(node.name, error)
            self.events.edge_evaluated(edge, index, None, holds=holds)
            if holds:
                self._state = state
                self._step += 1
                self._node = self._plan.nodes[edge.target]
                return
        raise self._error() from error

    def _updated(self, edge: ErrorEdge[S], error: Exception) -> S:
        if edge.update is None:
            return self._state
        state = call_plain(edge.update, isolate(self._state), error)
        if not isinstance(state, self._state_type):
            wanted = f"the update of the error edge to {quote(edge.target)} must return a"
            raise TypeError(f"{wanted} {self._state_type.__name__}, got {show(state)}")
        return state

    # How a run ends.

    def _as_graph_error(self, error: BaseException | None) -> BaseException | None:
        if error is None:
            return None
        parts = list(leaves(error))
        if all(isinstance(part, Parked | Paused) for part in parts):
            return parts[0]
        if isinstance(error, NotAsyncError):
            wanted = "wants an async function, or a lambda that returns an awaitable, got one that returns"
            return GraphError(self._config.name, [f"node {quote(self._node.name)} {wanted} a {error.args[0]}"])
        if isinstance(error, JournalError):
            # A store error of a child run is not an error of the node.
            return error.__cause__
        if isinstance(error, AttemptsSpentError):
            return self._error("max iterations", self._spent(), cause=error.__cause__)
        return error

    def _foreign(self, error: BaseException) -> BaseException:
        """Return the error for a stray `Cancelled`: the running node failed."""
        return self._error(cause=foreign_cancelled(error, f"node {quote(self._node.name)}"))

    def _error(
        self,
        kind: Literal["node", "predicate", "no transition", "max iterations"] = "node",
        reason: str | None = None,
        *,
        cause: BaseException | None = None,
    ) -> ExecutionError:
        name, path = self._node.name, list(self._path)
        error = ExecutionError(name, self._state, path, self.run_id, kind=kind, reason=reason)
        error.__cause__ = cause
        return error

    def _spent(self) -> str:
        return f"max iterations exceeded: all {self._config.max_iterations} attempts of max_iterations are used"

    def _with_policies(self, node: PlannedNode[S]) -> Callable[[S], Awaitable[S]]:
        own = node.policies
        policies = Policies(
            node.fn,
            task_timeout=self._config.task_timeout if own.task_timeout is None else own.task_timeout,
            retry=self._config.retry if own.retry is None else own.retry,
            prepare=isolate_soon,
        )
        return policies.around(self, self._on_retry)

    def _on_retry(self, attempt: int, delay: float, error: Exception) -> None:
        if self.attempts >= self._config.max_iterations:
            raise AttemptsSpentError from error
        self.events.node_retried(self._node.name, attempt, delay, error)
