"""What the tests of graphs share: a way to put one together in a line."""

import itertools

import pytest

from trioflow import GraphConfig, State, StateGraph


@pytest.fixture
def line():
    """Return a function that makes a graph of nodes in a row, the last being the exit."""

    def make(*fns, names=None, state_type=State, observer=None, **settings):
        config = GraphConfig(**{"name": "test", "observer": "noop", **settings})
        graph = StateGraph(config, state_type, observer=observer)
        names = names or [fn.__name__ for fn in fns]
        for name, fn in zip(names, fns, strict=True):
            graph.add_node(name, fn)
        for source, target in itertools.pairwise(names):
            graph.add_edge(source, target)
        graph.set_entry_point(names[0])
        graph.set_exit_point(names[-1])
        return graph

    return make


@pytest.fixture
def loop():
    """Return a function that makes a loop of `fns` that goes on while `again` holds, then to `done`."""

    def make(*fns, again, state_type=State, observer=None, **settings):
        config = GraphConfig(**{"name": "loop", "observer": "noop", **settings})
        graph = StateGraph(config, state_type, observer=observer)
        names = [fn.__name__ for fn in fns]
        for fn in fns:
            graph.add_node(fn.__name__, fn)

        @graph.node
        async def done(state):
            return state

        for source, target in itertools.pairwise(names):
            graph.add_edge(source, target)
        graph.add_edge(names[-1], names[0], again, "again")
        graph.add_edge(names[-1], "done")
        graph.set_entry_point(names[0])
        graph.set_exit_point("done")
        return graph

    return make
