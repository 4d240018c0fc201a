"""Exceptions of the patterns that make one call at a time: they name the place and carry the state.

The original exception is the `__cause__`, and the message quotes it.
"""

from collections.abc import Sequence
from typing import Any, Literal

from trioflow._text import one_line, quote
from trioflow.errors.tree import ConfigError, PlacedError

__all__ = ("ChainError", "ConditionalError", "ExecutionError", "GraphError")


class ChainError(PlacedError):
    """A step of a chain failed; the `__cause__` is what the processor raised.

    Attributes:
        step_index: the step's index, from 0.
        item: the step's item.
        state: the last good state: the input of the step.
    """

    def __init__(self, step_index: int, item: Any, state: Any) -> None:
        super().__init__(step_index, item, state)
        self.step_index = step_index
        self.item = item
        self.state = state

    def _place(self) -> str:
        return f"chain failed at step {self.step_index}"


class ConditionalError(PlacedError):
    """The predicate failed, it returned an unknown route, or the route's handler failed.

    The `__cause__` is what was raised; for an unknown route, a `LookupError` that names the known routes.

    Attributes:
        route: what the predicate returned; None if it failed.
        state: the state given to the predicate.
        kind: what failed: the predicate, the lookup of the route, or the handler.
    """

    def __init__(
        self, route: Any, state: Any, *, kind: Literal["predicate", "route", "handler"] = "handler"
    ) -> None:
        super().__init__(route, state)
        self.route = route
        self.state = state
        self.kind = kind

    def _place(self) -> str:
        if self.route is None:
            return "conditional routing failed"
        return f"conditional routing failed for route {quote(self.route)}"


class GraphError(ConfigError):
    """A graph is invalid: an argument does not fit, or `validate` found faults.

    Attributes:
        graph: the graph's name.
        faults: what is wrong, one sentence each.
    """

    def __init__(self, graph: str, faults: Sequence[str]) -> None:
        super().__init__(f"graph '{one_line(graph)}' cannot work: {'; '.join(faults)}")
        self.graph = graph
        self.faults: list[str] = list(faults)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.graph, self.faults)


class ExecutionError(PlacedError):
    """A run of a graph failed; the `__cause__` is what was raised, if anything was.

    Attributes:
        node: the node that raised, or whose edges raised or had no transition; at the iteration limit, the next
            node.
        state: the last good state; for a failed node, its input.
        path: the nodes of this call, the failed one included; only the last 1,000.
        run_id: the run's id, for `StateGraph.resume`.
        kind: what failed.
        reason: a description of the error, if the cause does not give one.
    """

    def __init__(
        self,
        node: str,
        state: Any,
        path: Sequence[str],
        run_id: str = "",
        *,
        kind: Literal["node", "predicate", "no transition", "max iterations"] = "node",
        reason: str | None = None,
    ) -> None:
        super().__init__(node, state, path, run_id)
        self.node = node
        self.state = state
        self.path: list[str] = list(path)
        self.run_id = run_id
        self.kind = kind
        self.reason = reason

    def _place(self) -> str:
        return f"execution failed at node {one_line(self.node)}"

    def _what(self) -> str:
        said = [self.reason] if self.reason else []
        if self.__cause__ is not None or not said:
            said.append(super()._what())
        return ": ".join(said)
