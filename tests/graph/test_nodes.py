"""Nodes made of the other patterns: their failures, their state, and who hears of them."""

import msgspec
import pytest
import trio

from trioflow import (
    ChainConfig,
    ChainError,
    ConditionalError,
    ConfigError,
    ExecutionError,
    GraphConfig,
    ParallelConfig,
    ParallelError,
    RecordingObserver,
    Routes,
    State,
    StateGraph,
    chain_node,
    conditional_node,
    graph_node,
    parallel_node,
    pause,
)


async def double(item):
    if item == 13:
        raise ValueError("unlucky")
    return item * 2


async def add(item, state):
    return state.set("sum", state.get("sum", 0) + item)


def keep(state, result):
    return state.merge(results=result.results, failed=[error.item for error in result.errors])


async def run(line, node, state, **options):
    return (await line(node, names=["node"], **options).execute(state)).state


async def test_a_chain_node_goes_from_state_to_state(line):
    assert await run(line, chain_node(add, items=[1, 2, 3]), State()) == State(sum=6)
    computed = chain_node(add, items=lambda state: state["items"])
    assert (await run(line, computed, State(items=(4, 5))))["sum"] == 9


async def test_a_chain_node_that_fails_says_where(line):
    async def fails(item, state):
        raise ValueError("boom")

    with pytest.raises(ExecutionError, match="execution failed at node node: chain failed at step 0: boom") as caught:
        await run(line, chain_node(fails, items=[1]), State())
    assert isinstance(caught.value.__cause__, ChainError)


async def test_a_parallel_node_gives_the_whole_account_to_aggregate(line):
    node = parallel_node(
        double, items=lambda state: state["items"], aggregate=keep, config=ParallelConfig(fail_fast=False)
    )
    state = await run(line, node, State(items=(1, 13, 3)))
    assert (state["results"], state["failed"]) == ([2, 6], [13])


async def test_aggregate_may_be_async(line):
    async def later(state, result):
        await trio.lowlevel.checkpoint()
        return state.set("count", len(result.results))

    assert (await run(line, parallel_node(double, items=[1, 2], aggregate=later), State()))["count"] == 2


@pytest.mark.parametrize(("items", "fail_fast"), [([1, 13], True), ([13, 13], False)])
async def test_a_parallel_node_fails_where_the_fan_out_does(line, items, fail_fast):
    node = parallel_node(double, items=items, aggregate=keep, config=ParallelConfig(fail_fast=fail_fast))
    with pytest.raises(ExecutionError, match="parallel execution failed") as caught:
        await run(line, node, State())
    assert isinstance(caught.value.__cause__, ParallelError)


async def test_what_items_and_aggregate_raise_fails_the_node(line):
    def broken(*args):
        raise ValueError("boom")

    for node in (
        parallel_node(double, items=broken, aggregate=keep),
        parallel_node(double, items=[1], aggregate=broken),
        chain_node(add, items=broken),
    ):
        with pytest.raises(ExecutionError, match="boom"):
            await run(line, node, State())


async def test_a_conditional_node_chooses_a_handler(line):
    async def small(state):
        return state.set("size", "small")

    async def large(state):
        return state.set("size", "large")

    node = conditional_node(lambda s: "large" if s["n"] > 5 else "small", Routes({"small": small, "large": large}))
    assert (await run(line, node, State(n=9)))["size"] == "large"
    unknown = conditional_node(lambda s: "huge", Routes({"small": small}))
    with pytest.raises(ExecutionError, match="unknown route 'huge'") as caught:
        await run(line, unknown, State())
    assert isinstance(caught.value.__cause__, ConditionalError)


class Inner(msgspec.Struct, frozen=True):
    n: int


def make_inner(node, **options):
    graph = StateGraph(GraphConfig(name="inner"), Inner, **options)
    graph.add_node("work", node)
    graph.set_entry_point("work")
    graph.set_exit_point("work")
    return graph


async def increment(state):
    return Inner(state.n + 1)


def as_node(inner):
    return graph_node(inner, lambda outer: Inner(outer["n"]), lambda outer, inner: outer.set("n", inner.n))


async def test_a_graph_node_maps_the_state_in_and_out(line):
    assert await run(line, as_node(make_inner(increment)), State(n=1, kept=True)) == State(n=2, kept=True)


async def test_a_graph_node_that_fails_names_both_nodes(line):
    async def fails(state):
        raise ValueError("boom")

    with pytest.raises(ExecutionError) as caught:
        await run(line, as_node(make_inner(fails)), State(n=1))
    assert str(caught.value) == "execution failed at node node: execution failed at node work: boom"
    assert caught.value.__cause__.node == "work"


async def test_enter_must_give_what_the_inner_graph_takes(line):
    with pytest.raises(ExecutionError, match="state must be a Inner, got 5"):
        await run(line, graph_node(make_inner(increment), lambda s: 5, lambda s, i: s), State())


async def test_a_pause_inside_pauses_the_outer_run_and_the_inner_one_begins_anew(line):
    calls = []

    async def ask(state):
        calls.append(state.n)
        if state.n < 10:
            pause("larger?")
        return state

    graph = line(as_node(make_inner(ask)), names=["node"])
    paused = await graph.execute(State(n=1))
    assert (paused.status, paused.pause, paused.state) == ("paused", "larger?", State(n=1))
    done = await graph.resume(paused.run_id, update=lambda state: state.set("n", 11))
    assert done.state == State(n=11)
    assert calls == [1, 11]


@pytest.mark.parametrize("pattern", ["chain", "parallel", "conditional"])
async def test_a_pause_in_a_pattern_pauses_the_run(line, pattern):
    async def ask(*args):
        pause("why?")

    node = {
        "chain": chain_node(ask, items=[1]),
        "parallel": parallel_node(ask, items=[1, 2, 3], aggregate=keep),
        "conditional": conditional_node(lambda state: "x", Routes({"x": ask})),
    }[pattern]
    observer = RecordingObserver()
    result = await line(node, names=["node"], observer=observer).execute(State())
    assert (result.status, result.pause) == ("paused", "why?")
    inside = [event.data for event in observer.events if event.source == pattern and "status" in event.data]
    assert "error" not in {data["status"] for data in inside}


async def test_what_runs_inside_is_a_run_of_its_own_that_leads_to_the_graphs(line):
    observer = RecordingObserver()
    nodes = [
        chain_node(add, items=[1]),
        parallel_node(double, items=[1], aggregate=lambda state, result: state.set("n", 1)),
        conditional_node(lambda state: "x", Routes({"x": lambda state: same(state)})),
        as_node(make_inner(increment)),
    ]
    await line(*nodes, names=list("abcd"), observer=observer).execute(State(), run_id="outer")
    assert {event.source for event in observer.events} == {"graph", "chain", "parallel", "conditional"}
    ids = {(event.run_id, event.parent) for event in observer.events}
    assert ids == {
        ("outer", None),
        ("outer..0/a", "outer"),
        ("outer..1/b", "outer"),
        ("outer..2/c", "outer"),
        ("outer..3/d", "outer"),
    }
    assert {event.data["graph"] for event in observer.events if event.source == "graph"} == {"test", "inner"}


async def same(state):
    return state


async def test_an_inner_graph_keeps_an_observer_of_its_own(line):
    outer, own = RecordingObserver(), RecordingObserver()
    await line(as_node(make_inner(increment, observer=own)), names=["a"], observer=outer).execute(State(n=1), "r")
    assert {event.data["graph"] for event in own.events} == {"inner"}
    assert {event.data["graph"] for event in outer.events} == {"test"}
    assert {(event.run_id, event.parent) for event in own.events} == {("r..0/a", "r")}


async def test_an_inner_graph_that_names_another_observer_is_heeded(line):
    observer = RecordingObserver()
    inner = StateGraph(GraphConfig(name="inner", observer="noop"), Inner)
    inner.add_node("work", increment)
    inner.set_entry_point("work")
    inner.set_exit_point("work")
    await line(as_node(inner), names=["a"], observer=observer).execute(State(n=1))
    assert {event.data["graph"] for event in observer.events} == {"test"}


async def test_a_config_that_names_another_observer_is_heeded(line):
    observer = RecordingObserver()
    node = chain_node(add, items=[1], config=ChainConfig(observer="noop"))
    await line(node, names=["a"], observer=observer).execute(State())
    assert {event.source for event in observer.events} == {"graph"}


async def test_nodes_can_be_called_on_their_own(log):
    quiet = {"config": ParallelConfig(observer="noop")}
    assert (await parallel_node(double, items=[1], aggregate=keep, **quiet)(State()))["results"] == [2]
    assert (await chain_node(add, items=[1], config=ChainConfig(observer="noop"))(State()))["sum"] == 1
    assert log == []
    assert (await as_node(make_inner(increment))(State(n=1)))["n"] == 2
    assert len(log.at("INFO")) == 2

    async def ask(state):
        pause("why?")

    with pytest.raises(RuntimeError, match="works only in a node of a running graph"):
        await as_node(make_inner(ask, observer=RecordingObserver()))(State(n=1))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: chain_node(print, items=[1]), "processor"),
        (lambda: chain_node(add, items=iter([1])), "items"),
        (lambda: chain_node(add, items=5), "items"),
        (lambda: chain_node(add, items=[1], config=ParallelConfig()), "config"),
        (lambda: parallel_node(print, items=[1], aggregate=keep), "processor"),
        (lambda: parallel_node(double, items=(n for n in [1]), aggregate=keep), "items"),
        (lambda: parallel_node(double, items=[1], aggregate=5), "aggregate"),
        (lambda: parallel_node(double, items=[1], aggregate=keep, config=None), "config"),
        (lambda: conditional_node(5, Routes({"x": same})), "predicate"),
        (lambda: conditional_node(same, {"x": same}), "routes"),
        (lambda: conditional_node(same, Routes({"x": same}), config=None), "config"),
        (lambda: graph_node(5, same, same), "subgraph"),
        (lambda: graph_node(make_inner(increment), 5, keep), "enter"),
        (lambda: graph_node(make_inner(increment), keep, same), "leave"),
    ],
)
def test_bad_input_is_refused_when_the_node_is_made(make, field):
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.field == field
