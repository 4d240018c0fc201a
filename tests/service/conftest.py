"""Graphs that a service can make, on a clock that jumps, with a store in memory: a second process is a second task."""

from itertools import pairwise

import pytest

from trioflow import GraphConfig, MemoryStore, State, StateGraph


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def graph_of():
    """Return what makes a graph of async functions, one node after the other."""

    def make(*nodes, name="work", **options):
        graph = StateGraph(GraphConfig(name=name, observer="noop"), **options)
        names = []
        for number, node in enumerate(nodes):
            names.append(f"{node.__name__}" if node.__name__ not in names else f"{node.__name__}{number}")
            graph.add_node(names[-1], node)
        for one, other in pairwise(names):
            graph.add_edge(one, other)
        graph.set_entry_point(names[0])
        graph.set_exit_point(names[-1])
        return graph

    return make


@pytest.fixture
def nothing():
    return State(n=0)
