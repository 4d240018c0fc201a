"""State graphs: a state, nodes that change it, and edges that choose the next node."""

from trioflow.graph.branches import branches_node
from trioflow.graph.edges import Predicate, all_of, always, any_of, key_equals, key_exists, not_
from trioflow.graph.graph import StateGraph
from trioflow.graph.nodes import chain_node, conditional_node, graph_node, parallel_node, pause
from trioflow.graph.run import GraphRun
from trioflow.graph.state import State

__all__ = (
    "GraphRun",
    "Predicate",
    "State",
    "StateGraph",
    "all_of",
    "always",
    "any_of",
    "branches_node",
    "chain_node",
    "conditional_node",
    "graph_node",
    "key_equals",
    "key_exists",
    "not_",
    "parallel_node",
    "pause",
)
