"""Random graphs with branches, failures, error edges, pauses and kills: what is promised holds in each of them.

A program is a line of nodes; each is plain, or holds branches, a fan-out, a chain or a graph. Its pieces of work fail,
pause, stop the run by an exception that is no `Exception`, or kill it, as often as the program says, and the run is
resumed until it completes. After a kill nothing that the run still writes reaches the store.
"""

import os
from collections import Counter

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trioflow import (
    CheckpointConfig,
    ExecutionError,
    GraphConfig,
    MemoryStore,
    ParallelConfig,
    RecordingObserver,
    State,
    StateGraph,
    branches_node,
    chain_node,
    graph_node,
    parallel_node,
    pause,
)

EXAMPLES = int(os.environ.get("TRIOFLOW_GRAPH_PROGRAMS", "25"))


class Stopped(BaseException):
    """What ends a run at once."""


class Store:
    """A store that a killed run no longer reaches."""

    bounds_waiting = True

    def __init__(self):
        self.inner = MemoryStore()
        self.dead = False

    def __getattr__(self, name):
        return getattr(self.inner, name)

    async def claim(self, run_id, *, parent=None):
        return 0 if self.dead else await self.inner.claim(run_id, parent=parent)

    async def save(self, checkpoint, epoch):
        if not self.dead:
            await self.inner.save(checkpoint, epoch)

    async def save_items(self, run_id, epoch, batch):
        if not self.dead:
            await self.inner.save_items(run_id, epoch, batch)

    async def delete(self, run_id, epoch=None):
        if not self.dead:
            await self.inner.delete(run_id, epoch)


class Work:
    """The pieces of work of a program: what each does before it succeeds, and how often it has succeeded."""

    def __init__(self, trouble, store):
        self.store = store
        self.trouble = {name: list(todo) for name, todo in trouble.items()}
        self.succeeded = Counter()
        self.running = 0

    async def do(self, name):
        self.running += 1
        try:
            await trio.lowlevel.checkpoint()
            if self.trouble.get(name):
                trouble = self.trouble[name].pop(0)
                if trouble == "fail":
                    raise ValueError(name)
                if trouble == "pause":
                    pause(name)
                self.store.dead = trouble == "kill"
                raise Stopped
            await trio.lowlevel.checkpoint()
            self.succeeded[name] += 1
        finally:
            self.running -= 1

    def node(self, name):
        async def fn(state):
            state["log"].append(f"{name} began")  # what a failed node leaves in its copy must not be seen
            await self.do(name)
            return state.set("log", [entry for entry in state["log"] if "began" not in entry]).set(name, 1)

        return fn


KINDS = ["plain", "fan", "chain", "graph", "branches"]
SIZE = 3


def pieces(kind, name):
    return [name] if kind == "plain" else [f"{name}.{index}" for index in range(SIZE)]


def make_node(work, kind, name, depth=0):
    names = pieces(kind, name)
    if kind == "plain":
        return work.node(name)
    if kind == "fan":

        async def process(item):
            await work.do(item)
            return item

        config = ParallelConfig(max_workers=2, observer="noop")
        return parallel_node(
            process, items=names, config=config, aggregate=lambda state, result: state.merge(dict.fromkeys(result.results, 1))
        )
    if kind == "chain":

        async def step(item, state):
            await work.do(item)
            return state.set(item, 1)

        return chain_node(step, items=names)
    if kind == "graph":
        inner = StateGraph(GraphConfig(name=f"inner-{name}", observer="noop"))
        line(inner, {piece: work.node(piece) for piece in names})
        return graph_node(inner, lambda state: state, lambda outer, inner: inner)
    inside = {piece: work.node(piece) for piece in names[:2]}
    inside[names[2]] = make_node(work, "graph" if depth == 0 else "plain", names[2], depth + 1)
    return branches_node(inside, reducers={"log": lambda before, values: before})


def line(graph, nodes):
    previous = None
    for name, fn in nodes.items():
        graph.add_node(name, fn)
        if previous is None:
            graph.set_entry_point(name)
        else:
            graph.add_edge(previous, name)
        previous = name
    graph.set_exit_point(previous)


def all_pieces(kind, name):
    names = pieces(kind, name)
    return names if kind != "branches" else [*names[:2], *pieces("graph", names[2])]


@st.composite
def programs(draw):
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    nodes = {f"n{index}": kind for index, kind in enumerate(kinds)}
    names = [piece for name, kind in nodes.items() for piece in all_pieces(kind, name)]
    trouble = draw(
        st.dictionaries(
            st.sampled_from(names), st.lists(st.sampled_from(["fail", "pause", "stop", "kill"]), min_size=1, max_size=3), max_size=6
        )
    )
    return nodes, trouble, draw(st.sampled_from([1, 1, 3])), draw(st.booleans())


@pytest.mark.parametrize("durable", [True, False])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=programs())
def test_whatever_happens_a_run_that_is_resumed_comes_to_the_same(durable, program):
    nodes, trouble, interval, with_error_edge = program

    async def main():
        store = Store()
        work = Work(trouble, store)
        observer = RecordingObserver()
        checkpoint = CheckpointConfig(interval=interval)
        graph = StateGraph(
            GraphConfig(name="program", checkpoint=checkpoint), store=store, observer=observer
        )
        made = {name: make_node(work, kind, name) for name, kind in nodes.items()}
        if not durable:
            # A kept graph whose patterns are not: they begin anew, and come to the same.
            made = {name: unkept(fn) for name, fn in made.items()}
        line(graph, made)
        if with_error_edge:
            first = next(iter(nodes))
            graph.add_error_edge(first, first, ValueError, lambda state, error: state.set("sorry", 1))
        result = await run_to_the_end(graph, work, trouble)
        names = [piece for name, kind in nodes.items() for piece in all_pieces(kind, name)]
        assert {name for name in result if name.startswith("n")} == set(names)
        assert result["log"] == []
        if durable and interval == 1:
            lost = sum(todo.count("kill") for todo in trouble.values())
            # A kill costs what was in hand beside it; all else that has succeeded is never called again.
            assert sum(work.succeeded.values()) <= len(names) + 2 * lost * SIZE
        assert list(await store.list_runs()) == []
        starts = Counter(event.type.value.split(".")[0] for event in observer.events if event.type.value.endswith(".start"))
        ends = Counter(
            event.type.value.split(".")[0] for event in observer.events if event.type.value.endswith(".complete")
        )
        assert starts == ends

    trio.run(main)


def unkept(fn):
    async def plain(state):
        return await fn(state)

    return plain


async def run_to_the_end(graph, work, trouble):
    begun = False
    for _ in range(3 + sum(map(len, trouble.values()))):
        try:
            if begun:
                result = await graph.resume("r")
            else:
                begun = True
                result = await graph.execute(State(log=[]), run_id="r")
        except (ExecutionError, Stopped, BaseExceptionGroup):
            assert work.running == 0
            work.store.dead = False
            continue
        assert work.running == 0
        if result.status == "completed":
            return result.state
    raise AssertionError("the run did not come to its end")
