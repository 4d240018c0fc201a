"""Building a graph: nodes, edges, entry and exit points, and their validation.

`GraphBuilder` is the half of `StateGraph` that defines the graph. A run needs a `Plan`: the validated graph,
assembled once.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast, overload

import msgspec

from trioflow._text import list_known, quote
from trioflow.config import RetryConfig
from trioflow.config.checks import check_async, check_callable, check_instance, check_seconds, check_text
from trioflow.errors import ConfigError, GraphError
from trioflow.graph._mermaid import Drawing, draw
from trioflow.graph.edges import (
    Edge,
    ErrorEdge,
    ErrorFilter,
    Predicate,
    always,
    check_error_filter,
    error_filter_name,
    predicate_name,
)
from trioflow.graph.state import field_names

S = TypeVar("S")
E = TypeVar("E", Edge[Any], ErrorEdge[Any])
F = TypeVar("F", bound=Callable[..., Any])

NodeFunction = Callable[[S], Awaitable[S]]
"""A node: an async function of the state that returns the next state."""


class NodePolicies(msgspec.Struct, frozen=True):
    """The policies of one node; None falls back to the graph's config."""

    retry: RetryConfig | None = None
    """How failed attempts are retried."""
    task_timeout: float | None = None
    """Seconds for one attempt."""


class PlannedNode(msgspec.Struct, Generic[S], frozen=True):
    """A node and its outgoing edges."""

    name: str
    """Its name."""
    fn: NodeFunction[S]
    """Its function."""
    edges: tuple[Edge[S], ...]
    """Its outgoing edges, in the order in which they are evaluated."""
    error_edges: tuple[ErrorEdge[S], ...]
    """Its error edges, in the same order."""
    policies: NodePolicies
    """Its own policies."""
    is_exit: bool
    """Whether the run ends after it."""


class Plan(msgspec.Struct, Generic[S], frozen=True):
    """A validated graph."""

    entry: str
    """The node at which a run starts."""
    nodes: Mapping[str, PlannedNode[S]]
    """All nodes by name."""


class GraphBuilder(Generic[S]):
    """The half of `StateGraph` that defines the graph.

    Args:
        name: the graph's name.
        state_type: the type of its states.
    """

    def __init__(self, name: str, state_type: type[S]) -> None:
        self._name = name
        self._state_type = state_type
        self._nodes: dict[str, NodeFunction[S]] = {}
        self._policies: dict[str, NodePolicies] = {}
        self._edges: list[Edge[S]] = []
        self._error_edges: list[ErrorEdge[S]] = []
        self._entry: str | None = None
        self._exits: list[str] = []
        self._plan: Plan[S] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self._nodes)} nodes, {len(self._edges)} edges>"

    @property
    def name(self) -> str:
        """The graph's name."""
        return self._name

    def add_node(
        self,
        name: str,
        fn: NodeFunction[S],
        retry: RetryConfig | None = None,
        task_timeout: float | None = None,
    ) -> None:
        """Add a node.

        Args:
            name: its name in edges, events and errors.
            fn: an async function of the state that returns the next state.
            retry: how failed attempts are retried; None falls back to the graph's config.
            task_timeout: seconds for one attempt; None falls back to the graph's config.

        Raises:
            GraphError: a node of this name exists, the name is empty, `fn` is not async, or a policy is invalid.
        """
        with self._naming():
            check_text("the name of a node", name)
        if name in self._nodes:
            raise GraphError(self.name, [f"a node {quote(name)} already exists"])
        with self._naming():
            check_async(f"the function of node {quote(name)}", fn)
        with self._naming():
            if retry is not None:
                check_instance(f"the retry of node {quote(name)}", retry, RetryConfig)
            check_seconds(f"the task_timeout of node {quote(name)}", task_timeout)
        self._nodes[name] = fn
        self._policies[name] = NodePolicies(retry, task_timeout)
        self._plan = None

    @overload
    def node(self, name: F, /) -> F: ...

    @overload
    def node(
        self,
        name: str | None = None,
        *,
        retry: RetryConfig | None = None,
        task_timeout: float | None = None,
    ) -> Callable[[F], F]: ...

    def node(
        self, name: Any = None, *, retry: RetryConfig | None = None, task_timeout: float | None = None
    ) -> Any:
        """Decorate a function to add it as a node: `@graph.node`, or `@graph.node("name")` under another name.

        Args:
            name: as for `add_node`; None is the function's own name.
            retry: as for `add_node`.
            task_timeout: as for `add_node`.

        Raises:
            GraphError: as for `add_node`.
        """
        if callable(name):
            return self.node()(name)

        def add(fn: F) -> F:
            self.add_node(getattr(fn, "__name__", repr(fn)) if name is None else name, fn, retry, task_timeout)
            return fn

        return add

    def add_edge(
        self, source: str, target: str, when: Predicate[S] | None = None, name: str | None = None
    ) -> None:
        """Add an edge from one node to another; the nodes may be added later.

        Args:
            source: the node it leaves.
            target: the node it leads to.
            when: whether it may be taken: a plain function of the state; None is always.
            name: the predicate's name in events and diagrams; None is the function's own name.

        Raises:
            GraphError: a name is empty, or `when` is not a plain function.
        """
        between = f"of the edge from {quote(source)} to {quote(target)}"
        with self._naming():
            check_text(f"the source {between}", source)
        with self._naming():
            check_text(f"the target {between}", target)
        with self._naming():
            check_callable(f"the predicate {between}", when, optional=True)
        if name is not None:
            with self._naming():
                check_text(f"the name {between}", name)
        predicate: Predicate[S] = always if when is None else when
        self._edges.append(Edge(source, target, predicate, name or predicate_name(predicate)))
        self._plan = None

    def add_error_edge(
        self,
        source: str,
        target: str,
        on: ErrorFilter = Exception,
        update: Callable[[S, Exception], S] | None = None,
    ) -> None:
        """Add an edge that is taken if a node fails, after its retries.

        The first of a node's error edges that matches the error is taken. Errors are what the node raised, a
        timeout and a return value of the wrong type included; a pause, a cancellation and `max_iterations` are
        not.

        Args:
            source: the node it leaves, which may be an exit point.
            target: the node it leads to.
            on: the errors that it matches: a type, a tuple of types, or a predicate of the error.
            update: a plain function of the failed node's input state and the error that returns the state to
                continue with; None continues with the input state.

        Raises:
            GraphError: a name is empty, `on` is none of these, or `update` is not a plain function.
        """
        between = f"of the error edge from {quote(source)} to {quote(target)}"
        with self._naming():
            check_text(f"the source {between}", source)
        with self._naming():
            check_text(f"the target {between}", target)
        with self._naming():
            check_error_filter(f"the on= {between}", on)
        with self._naming():
            check_callable(f"the update {between}", update, optional=True)
        self._error_edges.append(ErrorEdge(source, target, on, update, error_filter_name(on)))
        self._plan = None

    def set_entry_point(self, name: str) -> None:
        """Make `name` the node at which runs start.

        Raises:
            GraphError: an entry point is already set, or the name is empty.
        """
        with self._naming():
            check_text("the entry point", name)
        if self._entry is not None:
            second = f"and a second one, {quote(name)}, cannot be set"
            raise GraphError(self.name, [f"its entry point is already {quote(self._entry)}, {second}"])
        self._entry = name
        self._plan = None

    def set_exit_point(self, name: str) -> None:
        """Make `name` a node after which runs end; there may be several.

        Raises:
            GraphError: the name is empty.
        """
        with self._naming():
            check_text("an exit point", name)
        if name not in self._exits:
            self._exits.append(name)
        self._plan = None

    def validate(self) -> None:
        """Check the graph, and the graphs in its nodes.

        `execute`, `resume` and `open_run` validate too, before any node is called.

        Raises:
            GraphError: with all the faults found: no nodes, no entry point, no exit point, an unknown node name, a
                node that cannot be reached, or a node from which no exit point can be reached.
        """
        faults = self._faults(set())
        if faults:
            raise GraphError(self.name, faults)

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart; the graph need not be valid.

        Branches, and graphs in nodes, are drawn inside their node; error edges are dotted.
        """
        return draw(self.drawing)

    @property
    def drawing(self) -> Drawing:
        """The contents of the graph's diagram."""
        return Drawing(self._nodes, [*self._edges, *self._error_edges], self._entry, self._exits)

    def _planned(self) -> Plan[S]:
        if self._plan is None:
            self.validate()
            self._plan = self._make_plan(cast("str", self._entry))
        return self._plan

    def _make_plan(self, entry: str) -> Plan[S]:
        edges = _by_source(self._nodes, self._edges)
        error_edges = _by_source(self._nodes, self._error_edges)
        nodes = {
            name: PlannedNode(
                name,
                fn,
                tuple(edges[name]),
                tuple(error_edges[name]),
                self._policies.get(name, NodePolicies()),
                name in self._exits,
            )
            for name, fn in self._nodes.items()
        }
        return Plan(entry, nodes)

    def _faults(self, seen: set[int]) -> list[str]:
        """Return the faults of this graph and of those in its nodes; `seen` are the graphs already checked."""
        seen.add(id(self))
        faults = list(_faults_of(self._nodes, self._edges, self._error_edges, self._entry, self._exits))
        for name, fn in self._nodes.items():
            faults += self._faults_inside(f"node {quote(name)}", fn, seen)
        return faults

    def _faults_inside(self, where: str, fn: object, seen: set[int]) -> Iterator[str]:
        """Yield the faults inside a node, or inside a branch of it."""
        inner = getattr(fn, "subgraph", None)
        if isinstance(inner, GraphBuilder) and id(inner) not in seen:
            inside = inner._faults(seen)  # noqa: SLF001 - of the same class
            yield from (f"in the graph of {where}: {fault}" for fault in inside)
        fields = field_names(self._state_type)
        for name in getattr(fn, "reducers", None) or ():
            if fields is not None and name not in fields:
                known = list_known(name, fields)
                yield f"{where} has a reducer for {quote(name)}, which is no field of its state {known}"
        for name, branch in (getattr(fn, "branches", None) or {}).items():
            yield from self._faults_inside(f"branch {quote(name)} of {where}", branch, seen)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Turn a `ConfigError` in the block into a `GraphError` that names the graph."""
        try:
            yield
        except ConfigError as error:
            raise GraphError(self.name, [str(error)]) from None


def _faults_of(
    nodes: Mapping[str, object],
    edges: Sequence[Edge[S]],
    error_edges: Sequence[ErrorEdge[S]],
    entry: str | None,
    exits: Sequence[str],
) -> Iterator[str]:
    """Yield the faults of a graph, one sentence each."""
    if not nodes:
        yield "it has no nodes"
    if entry is None:
        yield "no entry point is set"
    if not exits:
        yield "no exit point is set"
    yield from _unknown_names(nodes, (edges, error_edges), entry, exits)
    # The run ends at an exit: a node behind one is reached only by another path, or by an error edge of the exit.
    onward = [edge for edge in edges if edge.source not in exits]
    yield from _dead_ends(nodes, onward, error_edges, entry, exits)


def _unknown_names(
    nodes: Mapping[str, object],
    edges: tuple[Sequence[Edge[S]], Sequence[ErrorEdge[S]]],
    entry: str | None,
    exits: Iterable[str],
) -> Iterator[str]:
    named = [("the entry point is", entry)] if entry is not None else []
    named += [("an exit point is", name) for name in exits]
    ways = [("an edge", edge.source, edge.target) for edge in edges[0]]
    ways += [("an error edge", edge.source, edge.target) for edge in edges[1]]
    for what, source, target in ways:
        named += [(f"{what} leaves", source), (f"{what} of {quote(source)} leads to", target)]
    for what, name in named:
        if name not in nodes:
            yield f"{what} {quote(name)}, which is no node {list_known(name, nodes)}"


def _dead_ends(
    nodes: Mapping[str, object],
    edges: Sequence[Edge[S]],
    error_edges: Sequence[ErrorEdge[S]],
    entry: str | None,
    exits: Sequence[str],
) -> Iterator[str]:
    ways = [(edge.source, edge.target) for edge in edges]
    ways += [(edge.source, edge.target) for edge in error_edges]
    reached = _closure(nodes, [entry], ways)
    ending = _closure(nodes, exits, [(target, source) for source, target in ways])
    leaving = {edge.source for edge in edges}
    failing = {edge.source for edge in error_edges}
    for name in nodes:
        if reached and name not in reached:
            yield f"node {quote(name)} cannot be reached from the entry point"
        if name not in leaving and name not in exits:
            why = "it has only error edges" if name in failing else "it has no edges"
            yield f"node {quote(name)} leads nowhere: {why} and is no exit point"
        elif ending and name not in ending:
            yield f"node {quote(name)} leads nowhere: no exit point can be reached from it"


def _closure(
    nodes: Iterable[str], start: Iterable[str | None], ways: Iterable[tuple[str, str]]
) -> set[str]:
    """Return the nodes that can be reached from `start`; names that are not nodes are ignored."""
    onward: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in ways:
        if source in onward and target in onward:
            onward[source].append(target)
    found = {name for name in start if name is not None and name in onward}
    ahead = list(found)
    while ahead:
        fresh = {name for name in onward[ahead.pop()] if name not in found}
        found |= fresh
        ahead += fresh
    return found


def _by_source(nodes: Iterable[str], edges: Iterable[E]) -> dict[str, list[E]]:
    leaving: dict[str, list[E]] = {name: [] for name in nodes}
    for edge in edges:
        leaving[edge.source].append(edge)
    return leaving
