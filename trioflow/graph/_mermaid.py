"""The diagram of a graph, as a Mermaid flowchart.

Nodes get generated ids, and their names become quoted labels in which every character with a meaning in Mermaid or
HTML is written as its entity code (https://mermaid.js.org/syntax/flowchart.html). Branches, or a graph, inside a
node are drawn as a box in its place.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from trioflow._text import clip, escape
from trioflow.graph.edges import Edge, ErrorEdge, always

_PLAIN = frozenset(" _-.,:!?'/+=()")
_INDENT = "    "


class Drawing(msgspec.Struct, frozen=True):
    """The contents of a graph's diagram."""

    nodes: Mapping[str, object]
    """The functions of the nodes by name."""
    edges: Sequence[Edge[Any] | ErrorEdge[Any]] = ()
    """The edges between them."""
    entry: str | None = None
    """The node at which runs start."""
    exits: Sequence[str] = ()
    """The nodes after which runs end."""


def draw(drawing: Drawing) -> str:
    """Return the flowchart: the entry rounded, exits as double circles, error edges dotted.

    Unknown names are drawn dashed.
    """
    lines = list(_lines(drawing, "n", _INDENT, ()))
    # Styles apply to the whole diagram, and come last.
    styles = [f"{_INDENT}{line.lstrip()}" for line in lines if _is_style(line)]
    return "\n".join(["flowchart TD", *(line for line in lines if not _is_style(line)), *styles]) + "\n"


def _is_style(line: str) -> bool:
    return line.lstrip().startswith("style ")


def _lines(drawing: Drawing, prefix: str, indent: str, around: Sequence[object]) -> Iterator[str]:
    """Yield the lines of one graph, whose ids start with `prefix`; `around` are the graphs that contain it."""
    ids: dict[str, str] = {}
    for name in drawing.nodes:
        ids[name] = f"{prefix}{len(ids)}"
        yield from _node(name, ids[name], drawing, indent, around)
    for edge in drawing.edges:
        for name in (edge.source, edge.target):
            if name not in ids:
                ids[name] = f"{prefix}{len(ids)}"
                yield f"{indent}{ids[name]}[{_label(name)}]"
                yield f"{indent}style {ids[name]} stroke-dasharray: 5 5"
    for edge in drawing.edges:
        yield f"{indent}{ids[edge.source]} {_arrow(edge)} {ids[edge.target]}"


def _node(name: str, id: str, drawing: Drawing, indent: str, around: Sequence[object]) -> Iterator[str]:
    fn = drawing.nodes[name]
    inside = _inside(fn)
    # A graph may run itself in one of its nodes; that node is framed, to end the recursion.
    if inside is None or not inside.nodes or fn in around:
        yield f"{indent}{id}{_shape(name, drawing, framed=inside is not None)}"
        return
    yield f"{indent}subgraph {id}[{_label(name)}]"
    yield from _lines(inside, f"{id}_", indent + _INDENT, (*around, fn))
    yield f"{indent}end"
    if name in drawing.exits:
        yield f"{indent}style {id} stroke-width: 4px"


def _inside(fn: object) -> Drawing | None:
    """Return the diagram of what runs inside a node, if it can be drawn."""
    subgraph, branches = getattr(fn, "subgraph", None), getattr(fn, "branches", None)
    if subgraph is not None:
        drawing: Drawing = subgraph.drawing
        return drawing
    return None if branches is None else Drawing(branches)


def _arrow(edge: Edge[Any] | ErrorEdge[Any]) -> str:
    if isinstance(edge, ErrorEdge):
        return f"-.->|{_label(edge.name)}|"
    if edge.when is always and edge.name == "always":
        return "-->"
    return f"-->|{_label(edge.name or 'a predicate')}|"


def _shape(name: str, drawing: Drawing, *, framed: bool) -> str:
    label = _label(name)
    if name in drawing.exits:
        return f"((({label})))"
    if name == drawing.entry:
        return f"([{label}])"
    return f"[[{label}]]" if framed else f"[{label}]"


def _label(name: str) -> str:
    text = clip(escape(name))
    return '"' + "".join(c if c.isalnum() or c in _PLAIN else f"#{ord(c)};" for c in text) + '"'
