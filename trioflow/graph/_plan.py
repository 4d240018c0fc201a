"""A graph as a run needs it: what `StateGraph` was told, put together once, and the faults in it."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

from trioflow._text import list_known, quote
from trioflow.graph.edges import Edge

__all__ = ("NodeFunction", "Plan", "PlannedNode", "faults_of", "make_plan")

S = TypeVar("S")

NodeFunction = Callable[[S], Awaitable[S]]
"""What a node does: an async function of the state that returns the next state."""


class PlannedNode(msgspec.Struct, Generic[S], frozen=True):
    """A node, and the ways out of it."""

    name: str
    """What it is called."""
    fn: NodeFunction[S]
    """What it does."""
    edges: tuple[Edge[S], ...]
    """The ways out of it, in the order in which they are tried."""
    is_exit: bool
    """Whether the run ends after it."""


class Plan(msgspec.Struct, Generic[S], frozen=True):
    """A graph that has no faults."""

    entry: str
    """The node that a run begins with."""
    nodes: Mapping[str, PlannedNode[S]]
    """All nodes by name."""


def make_plan(
    nodes: Mapping[str, NodeFunction[S]], edges: Iterable[Edge[S]], entry: str, exits: Iterable[str]
) -> Plan[S]:
    """Return the plan of a graph without faults."""
    leaving = _leaving(nodes, edges)
    exits = set(exits)
    planned = {
        name: PlannedNode(name, fn, tuple(leaving[name]), name in exits) for name, fn in nodes.items()
    }
    return Plan(entry, planned)


def faults_of(
    nodes: Mapping[str, NodeFunction[S]], edges: Iterable[Edge[S]], entry: str | None, exits: Iterable[str]
) -> Iterator[str]:
    """Yield what is wrong with a graph, one sentence each."""
    edges, exits = list(edges), list(exits)
    if not nodes:
        yield "it has no nodes"
    if entry is None:
        yield "no entry point is set"
    if not exits:
        yield "no exit point is set"
    yield from _unknown_names(nodes, edges, entry, exits)
    yield from _dead_ends(nodes, edges, entry, exits)


def _unknown_names(
    nodes: Mapping[str, object], edges: Iterable[Edge[S]], entry: str | None, exits: Iterable[str]
) -> Iterator[str]:
    named = [("the entry point is", entry)] if entry is not None else []
    named += [("an exit point is", name) for name in exits]
    for edge in edges:
        named += [("an edge leaves", edge.source), (f"an edge of {quote(edge.source)} leads to", edge.target)]
    for what, name in named:
        if name not in nodes:
            yield f"{what} {quote(name)}, which is no node {list_known(name, nodes)}"


def _dead_ends(
    nodes: Mapping[str, object], edges: Iterable[Edge[S]], entry: str | None, exits: Sequence[str]
) -> Iterator[str]:
    # The run ends at an exit: what lies behind one is reached only by another way.
    ways = [edge for edge in edges if edge.source not in exits]
    reached = _closure(nodes, [entry], [(edge.source, edge.target) for edge in ways])
    ending = _closure(nodes, exits, [(edge.target, edge.source) for edge in ways])
    leaving = {edge.source for edge in ways}
    for name in nodes:
        if reached and name not in reached:
            yield f"node {quote(name)} cannot be reached from the entry point"
        if name not in leaving and name not in exits:
            yield f"node {quote(name)} leads nowhere: it has no edges and is no exit point"
        elif ending and name not in ending:
            yield f"node {quote(name)} leads nowhere: no exit point can be reached from it"


def _closure(
    nodes: Iterable[str], start: Iterable[str | None], ways: Iterable[tuple[str, str]]
) -> set[str]:
    """Return the nodes that can be reached from those of `start` that are nodes."""
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


def _leaving(nodes: Iterable[str], edges: Iterable[Edge[S]]) -> dict[str, list[Edge[S]]]:
    leaving: dict[str, list[Edge[S]]] = {name: [] for name in nodes}
    for edge in edges:
        leaving[edge.source].append(edge)
    return leaving
