"""The events of a graph's run.

Every method does nothing if no observer is active, so the runner need not check.

An observer that raises something else than an `Exception` stops the run. What a node returned is recorded before:
such an error of the events of a completed call waits in `stopping` until then.
"""

from collections import Counter
from typing import Any, Generic, TypeVar, final

import trio

from trioflow._runtime.emitter import Emitter, completion_fields, error_fields
from trioflow._runtime.errors import ErrorCollector
from trioflow._runtime.signals import Parked, Paused
from trioflow.config import GraphConfig
from trioflow.errors import ExecutionError
from trioflow.events import EventType
from trioflow.graph.edges import Edge, ErrorEdge
from trioflow.graph.state import changed_names

S = TypeVar("S")


@final
class GraphEvents(Generic[S]):
    """The events of one run.

    Attributes:
        emitter: emits them.
        stopping: what observers raised to stop the run, which then goes no further than to record the step.
    """

    def __init__(self, emitter: Emitter, config: GraphConfig) -> None:
        self.emitter = emitter
        self.stopping = ErrorCollector()
        self._graph = config.name
        self._max_iterations = config.max_iterations
        self._active = emitter.active
        self._visits: Counter[str] = Counter()
        self._started = self._entered = 0.0
        self._iteration = 0
        self._attempts = 0

    def __repr__(self) -> str:
        return f"<GraphEvents of {self._graph}: {self.emitter!r}>"

    def run_started(self, node: str, iterations: int, state: S) -> None:
        """Emit that the run starts at `node`, after `iterations` earlier ones."""
        if self._active:
            self._started = trio.current_time()
            data = {"entry_point": node, "iterations": iterations, "max_iterations": self._max_iterations}
            self.emitter.emit(EventType.GRAPH_START, {"graph": self._graph, **data}, {"state": state})

    def node_started(self, node: str, iteration: int, state: S) -> None:
        """Emit that `node` is entered, and whether it has been entered before."""
        if not self._active:
            return
        self._entered = trio.current_time()
        self._iteration, self._attempts = iteration, 1
        self._visits[node] += 1
        data = {"graph": self._graph, "node": node, "iteration": iteration}
        if self._visits[node] > 1:
            self.emitter.emit(EventType.CYCLE_DETECTED, {**data, "visit_count": self._visits[node]})
        self.emitter.emit(EventType.NODE_START, data, {"state": state})

    def node_retried(self, node: str, attempt: int, delay: float, error: Exception) -> None:
        """Emit that an attempt at `node` failed and is retried after `delay` seconds."""
        if self._active:
            self._attempts += 1
            data = {"graph": self._graph, "node": node, "iteration": self._iteration}
            data |= {"attempt": attempt, "delay": delay} | error_fields(error)
            self.emitter.emit(EventType.TASK_RETRY, data)

    def node_settled(self, node: str, before: S, after: S) -> None:
        """Emit that `node` returned `after`, given `before`."""
        if self._active:
            data = {"graph": self._graph, "node": node, "iteration": self._iteration}
            self._emit_held(EventType.NODE_STATE, data | changed_names(before, after), {"state": after})
            self.node_completed(node, None)

    def node_completed(self, node: str, error: BaseException | None) -> None:
        """Emit that the call of `node` ended."""
        if self._active:
            cause = error.__cause__ if isinstance(error, ExecutionError) and error.__cause__ is not None else error
            data = {"graph": self._graph, "node": node, "iteration": self._iteration, "attempts": self._attempts}
            self._emit_held(EventType.NODE_COMPLETE, data | _end_fields(cause, self._entered))

    def edge_evaluated(
        self, edge: Edge[S] | ErrorEdge[S], index: int, error: Exception | None, *, holds: bool
    ) -> None:
        """Emit that `edge` was evaluated, and whether it is taken."""
        if self._active:
            place = {"graph": self._graph, "from": edge.source, "to": edge.target}
            data = {**place, "edge_index": index, "predicate_name": edge.name}
            answer = {"predicate_result": holds, "error": error is not None, **error_fields(error)}
            self._emit_held(EventType.EDGE_EVALUATE, data | answer)
            if holds:
                self._emit_held(EventType.EDGE_TRANSITION, data)

    def _emit_held(self, type: EventType, data: dict[str, Any], private: dict[str, Any] | None = None) -> None:
        """Emit an event, and hold back an error that is to stop the run."""
        with self.stopping.collecting():
            self.emitter.emit(type, data, private)

    def step_saved(self, step: int, node: str, status: str, size: int) -> None:
        """Emit that a checkpoint of `size` bytes was saved."""
        if self._active:
            data = {"graph": self._graph, "step": step, "node": node, "run_status": status, "size": size}
            self.emitter.emit(EventType.CHECKPOINT_SAVE, data)

    def run_resumed(self, step: int, node: str, status: str) -> None:
        """Emit that the run resumes from a loaded checkpoint."""
        if self._active:
            data = {"graph": self._graph, "step": step, "node": node, "run_status": status}
            self.emitter.emit(EventType.CHECKPOINT_LOAD, data)
            self.emitter.emit(EventType.CHECKPOINT_RESUME, data)

    def run_completed(
        self, error: BaseException | None, exit_point: str | None, iterations: int, path_length: int
    ) -> None:
        """Emit that the run ended."""
        if self._active:
            data = {
                "graph": self._graph,
                "exit_point": exit_point,
                "iterations": iterations,
                "path_length": path_length,
                **_end_fields(error, self._started),
                "observer_failures": self.emitter.observer_failures,
            }
            self.emitter.emit(EventType.GRAPH_COMPLETE, data)


def _end_fields(error: BaseException | None, started: float) -> dict[str, Any]:
    """Return the fields of an event at the end of a node or run; a pause is not an error."""
    paused = isinstance(error, Parked | Paused)
    return {"paused": paused, **completion_fields(None if paused else error, started)}
