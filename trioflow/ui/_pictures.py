"""The diagram of a run: the nodes of its graph, the edges between them, and those that it took.

If the graph is unknown, the diagram has only the nodes that the run went through.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from trioflow._text import one_line
from trioflow.checkpoint.protocol import CheckpointInfo
from trioflow.graph import StateGraph

MOST_NODES = 100
"""The most nodes that are drawn; the Mermaid text has all."""


class Node(msgspec.Struct):
    """A node in the diagram."""

    name: str
    """Its label: one line."""
    visits: int = 0
    """How often it completed, in the stored steps."""
    entry: bool = False
    """Whether it is the entry point."""
    exit: bool = False
    """Whether it is an exit point."""


class Way(msgspec.Struct):
    """An edge in the diagram, between nodes by their indexes."""

    source: int
    target: int
    label: str = ""
    """The predicate's name; empty for an unconditional edge."""
    error: bool = False
    """Whether it is an error edge."""
    taken: int = 0
    """How often it was taken, in the stored steps."""


class Picture(msgspec.Struct):
    """The diagram of a run."""

    nodes: list[Node]
    ways: list[Way]
    current: int | None
    """The index of the next or running node; None if there is none."""
    mermaid: str | None
    """The whole graph as a Mermaid flowchart; None if the graph is unknown."""


def draw(steps: Sequence[CheckpointInfo], graph: StateGraph[Any] | None) -> Picture:
    """Return the diagram of the run with these steps."""
    names = list(dict.fromkeys(_names(steps, graph)))[:MOST_NODES]
    places = {name: place for place, name in enumerate(names)}
    nodes = [Node(one_line(name)) for name in names]
    ways: dict[tuple[int, int], Way] = {}
    if graph is not None:
        for edge in graph.drawing.edges:
            _lead(ways, places, edge.source, edge.target, label=_label(edge), error=hasattr(edge, "on"))
        for name, node in zip(names, nodes, strict=True):
            node.entry, node.exit = name == graph.drawing.entry, name in graph.drawing.exits
    for step in steps:
        if step.node in places:
            nodes[places[step.node]].visits += 1
    for step in steps:
        _lead(ways, places, step.node, step.next_node, taken=1)
    going = steps[-1].next_node if steps and steps[-1].status != "completed" else ""
    return Picture(nodes, list(ways.values()), places.get(going), None if graph is None else graph.to_mermaid())


def _names(steps: Sequence[CheckpointInfo], graph: StateGraph[Any] | None) -> Iterator[str]:
    """Yield the nodes in drawing order: along the edges from the entry point."""
    if graph is not None:
        drawing = graph.drawing
        ahead = [drawing.entry or ""]
        seen = set(ahead)
        while ahead:
            name = ahead.pop(0)
            if name in drawing.nodes:
                yield name
            onward = [edge.target for edge in drawing.edges if edge.source == name and edge.target not in seen]
            seen.update(onward)
            ahead += onward
        yield from drawing.nodes
    for step in steps:
        yield from (name for name in (step.node, step.next_node) if name)


def _lead(
    ways: dict[tuple[int, int], Way],
    places: dict[str, int],
    source: str,
    target: str,
    *,
    label: str = "",
    error: bool = False,
    taken: int = 0,
) -> None:
    if source not in places or target not in places:
        return
    between = places[source], places[target]
    way = ways.get(between)
    if way is None:
        way = ways[between] = Way(*between, label=label, error=error)
    elif label and label not in way.label:
        # One arrow stands for all edges between two nodes: which of them was taken is not stored.
        way.label = one_line(f"{way.label}, {label}" if way.label else label)
    way.taken += taken


def _label(edge: Any) -> str:
    name = edge.name or "a predicate"
    return "" if name == "always" else one_line(name)


def durations(began: float, steps: Iterable[CheckpointInfo]) -> list[float]:
    """Return for each step the seconds since the previous one was saved, or since the run started."""
    times = [began, *(step.created_at for step in steps)]
    return [max(0.0, after - before) for before, after in pairwise(times)]
