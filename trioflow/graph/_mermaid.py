"""The picture of a graph, as a Mermaid flowchart.

Nodes get ids of our own and names stand in quoted labels, with every character that could mean something to
Mermaid or to HTML written as its entity code, `#` and number (https://mermaid.js.org/syntax/flowchart.html).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from trioflow._text import clip, escape
from trioflow.graph.edges import Edge, always

_PLAIN = frozenset(" _-.,:!?'/+=()")


def draw(
    nodes: Mapping[str, object], edges: Iterable[Edge[Any]], entry: str | None, exits: Iterable[str]
) -> str:
    """Return the flowchart: the entry rounded, exits doubly rounded, nodes that hold a graph framed.

    Names that are no nodes are drawn dashed.
    """
    exits = set(exits)
    ids: dict[str, str] = {}
    lines = ["flowchart TD"]
    for name, fn in nodes.items():
        ids[name] = f"n{len(ids)}"
        lines.append(f"    {ids[name]}{_shape(name, fn, entry, exits)}")
    missing = []
    drawn = []
    for edge in edges:
        for name in (edge.source, edge.target):
            if name not in ids:
                ids[name] = f"n{len(ids)}"
                missing.append(ids[name])
                lines.append(f"    {ids[name]}[{_label(name)}]")
        label = "" if edge.when is always and edge.name == "always" else f"|{_label(edge.name or 'a predicate')}|"
        drawn.append(f"    {ids[edge.source]} -->{label} {ids[edge.target]}")
    lines += drawn
    lines += [f"    style {id} stroke-dasharray: 5 5" for id in missing]
    return "\n".join(lines) + "\n"


def _shape(name: str, fn: object, entry: str | None, exits: set[str]) -> str:
    label = _label(name)
    if name in exits:
        return f"((({label})))"
    if name == entry:
        return f"([{label}])"
    return f"[[{label}]]" if getattr(fn, "subgraph", None) is not None else f"[{label}]"


def _label(name: str) -> str:
    text = clip(escape(name))
    return '"' + "".join(c if c.isalnum() or c in _PLAIN else f"#{ord(c)};" for c in text) + '"'
