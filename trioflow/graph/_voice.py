"""What a run of a graph tells: its events, and what they say."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Generic, TypeVar, final

import msgspec
import trio

from trioflow._runtime.calls import call_plain
from trioflow._runtime.emitter import Emitter, completion_fields, error_fields
from trioflow._runtime.signals import Paused
from trioflow.config import GraphConfig
from trioflow.errors import ExecutionError
from trioflow.events import EventType
from trioflow.graph._plan import PlannedNode
from trioflow.graph.edges import Edge

__all__ = ("Voice",)

S = TypeVar("S")


@final
class Voice(Generic[S]):
    """Tells of one run; every method does nothing where nobody listens."""

    def __init__(self, emitter: Emitter, config: GraphConfig) -> None:
        self._emitter = emitter
        self._graph = config.name
        self._max_iterations = config.max_iterations
        self._telling = emitter.active
        self._visits: Counter[str] = Counter()
        self._started = self._entered = 0.0
        self._iteration = 0
        self._attempts = 0

    def __repr__(self) -> str:
        return f"<Voice of {self._graph}: {self._emitter!r}>"

    def tell_start(self, node: str, iterations: int, state: S) -> None:
        """Tell that the run begins at `node`, after so many `iterations` of it before."""
        if self._telling:
            self._started = trio.current_time()
            data = {"entry_point": node, "iterations": iterations, "max_iterations": self._max_iterations}
            self._emit(EventType.GRAPH_START, data, {"state": state})

    def tell_enter(self, node: str, iteration: int, state: S) -> None:
        """Tell that `node` is entered, and where it was entered before."""
        if not self._telling:
            return
        self._entered = trio.current_time()
        self._iteration, self._attempts = iteration, 1
        self._visits[node] += 1
        if self._visits[node] > 1:
            data = {"node": node, "iteration": iteration, "visit_count": self._visits[node]}
            self._emit(EventType.CYCLE_DETECTED, data)
        self._emit(EventType.NODE_START, {"node": node, "iteration": iteration}, {"state": state})

    def tell_retry(self, node: str, attempt: int, delay: float, error: Exception) -> None:
        """Tell that an attempt at `node` failed and the next one follows."""
        if self._telling:
            self._attempts += 1
            data = {"node": node, "iteration": self._iteration, "attempt": attempt, "delay": delay}
            self._emit(EventType.TASK_RETRY, data | error_fields(error))

    def tell_settled(self, node: PlannedNode[S], before: S, after: S) -> None:
        """Tell that `node` returned `after`, given `before`."""
        if self._telling:
            data = {"node": node.name, "iteration": self._iteration, **_difference(before, after)}
            self._emit(EventType.NODE_STATE, data, {"state": after})
            self.tell_node(node, None)

    def tell_node(self, node: PlannedNode[S], fault: BaseException | None) -> None:
        """Tell that the call of `node` ended."""
        if self._telling:
            cause = fault.__cause__ if isinstance(fault, ExecutionError) and fault.__cause__ is not None else fault
            data = {"node": node.name, "iteration": self._iteration, "attempts": self._attempts}
            data |= _ending(cause, self._entered)
            self._emit(EventType.NODE_COMPLETE, data)

    def tell_edge(self, edge: Edge[S], index: int, error: Exception | None, *, holds: bool) -> None:
        """Tell that `edge` was looked at, and whether it is taken."""
        if self._telling:
            data = {"from": edge.source, "to": edge.target, "edge_index": index, "predicate_name": edge.name}
            answer = {"predicate_result": holds, "error": error is not None, **error_fields(error)}
            self._emit(EventType.EDGE_EVALUATE, data | answer)
            if holds:
                self._emit(EventType.EDGE_TRANSITION, data)

    def tell_saved(self, step: int, node: str, status: str, size: int) -> None:
        """Tell that a checkpoint was saved."""
        if self._telling:
            data = {"step": step, "node": node, "run_status": status, "size": size}
            self._emit(EventType.CHECKPOINT_SAVE, data)

    def tell_resumed(self, step: int, node: str, status: str) -> None:
        """Tell that the run goes on from a checkpoint that was loaded."""
        if self._telling:
            data = {"step": step, "node": node, "run_status": status}
            self._emit(EventType.CHECKPOINT_LOAD, data)
            self._emit(EventType.CHECKPOINT_RESUME, data)

    def tell_end(
        self, fault: BaseException | None, exit_point: str | None, iterations: int, path_length: int
    ) -> None:
        """Tell that the run ended."""
        if self._telling:
            data = {"exit_point": exit_point, "iterations": iterations, "path_length": path_length}
            data |= _ending(fault, self._started)
            data["observer_failures"] = self._emitter.observer_failures
            self._emit(EventType.GRAPH_COMPLETE, data)

    def _emit(self, type: EventType, data: dict[str, Any], private: Mapping[str, Any] | None = None) -> None:
        self._emitter.emit(type, {"graph": self._graph, **data}, private)


def _ending(fault: BaseException | None, started: float) -> dict[str, Any]:
    """Return what an event says of the end of a node or run: a pause is a good one."""
    paused = isinstance(fault, Paused)
    return {"paused": paused, **completion_fields(None if paused else fault, started)}


def _difference(before: object, after: object) -> dict[str, Any]:
    old, new = _parts(before), _parts(after)
    changed = [name for name in new.keys() & old.keys() if _differ(old[name], new[name])]
    return {
        "set": sorted(new.keys() - old.keys()),
        "changed": sorted(changed),
        "removed": sorted(old.keys() - new.keys()),
    }


def _parts(state: object) -> Mapping[str, Any]:
    if isinstance(state, Mapping):
        return state
    if isinstance(state, msgspec.Struct):
        names = state.__struct_fields__
    else:
        names = tuple(field.name for field in dataclasses.fields(state))  # type: ignore[arg-type]  # the third kind
    return {name: getattr(state, name, None) for name in names}


def _differ(old: object, new: object) -> bool:
    if old is new:
        return False
    with suppress(Exception):
        return bool(call_plain(_unequal, old, new))
    return True


def _unequal(old: Any, new: Any) -> Any:
    return old != new
