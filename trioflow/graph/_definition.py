"""The half of a graph that is built: its nodes, its edges, where runs begin and end, and the faults in that."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast, overload

from trioflow._text import quote
from trioflow.config.checks import check_async, check_callable, check_text
from trioflow.errors import ConfigError, GraphError
from trioflow.graph._plan import NodeFunction, Plan, faults_of, make_plan
from trioflow.graph.edges import Edge, Predicate, always, predicate_name
from trioflow.graph.mermaid import draw

__all__ = ("Definition",)

S = TypeVar("S")
F = TypeVar("F", bound=Callable[..., Any])


class Definition(Generic[S]):
    """What `StateGraph` is told before it is run.

    Args:
        name: the graph's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: dict[str, NodeFunction[S]] = {}
        self._edges: list[Edge[S]] = []
        self._entry: str | None = None
        self._exits: list[str] = []
        self._plan: Plan[S] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self._nodes)} nodes, {len(self._edges)} edges>"

    @property
    def name(self) -> str:
        """The graph's name."""
        return self._name

    def add_node(self, name: str, fn: NodeFunction[S]) -> None:
        """Add a node.

        Args:
            name: what edges, events and errors call it.
            fn: an async function of the state that returns the next state.

        Raises:
            GraphError: there is a node of this name, the name is empty, or `fn` is not async.
        """
        with self._naming():
            check_text("the name of a node", name)
        if name in self._nodes:
            raise GraphError(self.name, [f"there is a node {quote(name)} already"])
        with self._naming():
            check_async(f"the function of node {quote(name)}", fn)
        self._nodes[name] = fn
        self._plan = None

    @overload
    def node(self, name: F, /) -> F: ...

    @overload
    def node(self, name: str | None = None, /) -> Callable[[F], F]: ...

    def node(self, name: Any = None, /) -> Any:
        """Add the function below as a node: `@graph.node` under its own name, `@graph.node("name")` under another.

        Raises:
            GraphError: as for `add_node`.
        """
        if callable(name):
            return self.node()(name)

        def add(fn: F) -> F:
            self.add_node(getattr(fn, "__name__", repr(fn)) if name is None else name, fn)
            return fn

        return add

    def add_edge(
        self, source: str, target: str, when: Predicate[S] | None = None, name: str | None = None
    ) -> None:
        """Add a way from one node to another; either may be added later.

        Args:
            source: the node it leaves.
            target: the node it leads to.
            when: whether it may be taken: a plain function of the state; None is always.
            name: what events and the picture call the predicate; None takes the function's own name.

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

    def set_entry_point(self, name: str) -> None:
        """Make `name` the node that runs begin with.

        Raises:
            GraphError: there is an entry point already, or the name is empty.
        """
        with self._naming():
            check_text("the entry point", name)
        if self._entry is not None:
            second = f"and a second one, {quote(name)}, cannot be set"
            raise GraphError(self.name, [f"its entry point is {quote(self._entry)} already, {second}"])
        self._entry = name
        self._plan = None

    def set_exit_point(self, name: str) -> None:
        """Make `name` a node that runs end after; there may be several.

        Raises:
            GraphError: the name is empty.
        """
        with self._naming():
            check_text("an exit point", name)
        if name not in self._exits:
            self._exits.append(name)
        self._plan = None

    def validate(self) -> None:
        """Look for everything that would keep the graph, and the graphs in its nodes, from running.

        `execute`, `resume` and `open_run` do so too, before any node is called.

        Raises:
            GraphError: with all faults that there are: no nodes, no entry point, no exit point, a name that is no
                node, a node that cannot be reached, a node from which no exit point can be.
        """
        faults = self._faults(set())
        if faults:
            raise GraphError(self.name, faults)

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart; a graph that has faults can be drawn too."""
        return draw(self._nodes, self._edges, self._entry, self._exits)

    def _planned(self) -> Plan[S]:
        if self._plan is None:
            self.validate()
            self._plan = make_plan(self._nodes, self._edges, cast("str", self._entry), self._exits)
        return self._plan

    def _faults(self, seen: set[int]) -> list[str]:
        """Return the faults of this graph and of those in its nodes; `seen` are graphs looked at already."""
        seen.add(id(self))
        faults = list(faults_of(self._nodes, self._edges, self._entry, self._exits))
        for name, fn in self._nodes.items():
            inner = getattr(fn, "subgraph", None)
            if isinstance(inner, Definition) and id(inner) not in seen:
                inside = inner._faults(seen)  # noqa: SLF001 - one of its own kind
                faults += [f"in the graph of node {quote(name)}: {fault}" for fault in inside]
        return faults

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Let a refusal in the block name the graph."""
        try:
            yield
        except ConfigError as error:
            raise GraphError(self.name, [str(error)]) from None
