"""A run that has ended leaves nothing that only a garbage collection frees."""

import gc
from contextlib import suppress

import pytest

from trioflow import (
    ChainConfig,
    ConditionalConfig,
    EventType,
    GraphConfig,
    MemoryStore,
    ParallelConfig,
    Routes,
    State,
    StateGraph,
    TrioflowError,
    branches_node,
    open_parallel,
    process_chain,
    process_conditional,
    process_parallel,
)


async def keep(*args):
    return args[-1]


def one_node(node, **options):
    graph = StateGraph(GraphConfig(name="one", observer="noop"), **options)
    graph.add_node("only", node)
    graph.set_entry_point("only")
    graph.set_exit_point("only")
    return graph


async def parallel():
    await process_parallel(range(3), keep, config=ParallelConfig(observer="noop"))


async def stream():
    async with open_parallel(range(3), keep, config=ParallelConfig(observer="noop")) as run:
        async for _ in run:
            pass


async def chain():
    await process_chain(range(3), State(n=0), keep, config=ChainConfig(observer="noop"))


async def kept_parallel():
    await process_parallel(range(3), keep, config=ParallelConfig(observer="noop"), store=MemoryStore(), run_id="run")


async def kept_chain():
    config = ChainConfig(observer="noop")
    await process_chain(range(3), State(n=0), keep, config=config, store=MemoryStore(), run_id="run")


async def kept_graph():
    await one_node(keep, store=MemoryStore()).execute(State(n=0), run_id="run")


async def conditional():
    config = ConditionalConfig(observer="noop")
    await process_conditional(1, lambda state: "x", Routes({"x": keep}), config=config)


PLAIN = one_node(keep)
BRANCHED = one_node(branches_node({"a": keep, "b": keep}))


async def graph():
    await PLAIN.execute(State(n=0))


async def stepped_graph():
    async with PLAIN.open_run(State(n=0)) as steps:
        async for _ in steps:
            pass


async def branches():
    await BRANCHED.execute(State(n=0))


PLAIN_RUNS = [parallel, stream, chain, conditional, graph, stepped_graph, branches]
KEPT_RUNS = [kept_parallel, kept_chain, kept_graph]


@pytest.mark.parametrize("run", [*PLAIN_RUNS, *KEPT_RUNS], ids=lambda run: run.__name__)
async def test_a_run_leaves_nothing_for_the_garbage_collector(run):
    await run()
    gc.collect()
    gc.disable()
    try:
        await run()
        assert gc.collect() == 0
    finally:
        gc.enable()


async def fail(*args):
    raise ValueError("no")


async def failing_parallel():
    await process_parallel(range(3), fail, config=ParallelConfig(observer="noop"))


async def failing_chain():
    await process_chain(range(3), State(n=0), fail, config=ChainConfig(observer="noop"))


async def failing_conditional():
    config = ConditionalConfig(observer="noop")
    await process_conditional(1, lambda state: "x", Routes({"x": fail}), config=config)


async def failing_graph():
    await one_node(fail).execute(State(n=0))


FAILING_BRANCHES = one_node(branches_node({"a": keep, "b": fail}))


async def failing_branches():
    await FAILING_BRANCHES.execute(State(n=0))


@pytest.mark.parametrize(
    "run",
    [failing_parallel, failing_chain, failing_conditional, failing_graph, failing_branches],
    ids=lambda run: run.__name__,
)
async def test_a_run_whose_error_is_dropped_leaves_nothing_either(run):
    with suppress(TrioflowError, ValueError):
        await run()
    gc.collect()
    gc.disable()
    try:
        with suppress(TrioflowError, ValueError):
            await run()
        assert gc.collect() == 0
    finally:
        gc.enable()


class Stops:
    """An observer that stops the program at each event of a type."""

    def __init__(self, at):
        self.at = at
        self.seen = []

    def on_event(self, event):
        self.seen.append(event.type)
        if event.type == self.at:
            raise SystemExit(3)


async def stopped_chain(observer):
    await process_chain(range(3), State(n=0), keep, observer=observer, store=MemoryStore(), run_id="run")


async def stopped_graph(observer):
    graph = StateGraph(GraphConfig(name="one"), store=MemoryStore(), observer=observer)
    graph.add_node("only", keep)
    graph.set_entry_point("only")
    graph.set_exit_point("only")
    await graph.execute(State(n=0), run_id="run")


@pytest.mark.parametrize("at", [EventType.CHAIN_START, EventType.GRAPH_START, EventType.CHECKPOINT_SAVE])
@pytest.mark.parametrize("run", [stopped_chain, stopped_graph], ids=lambda run: run.__name__)
async def test_a_run_that_an_observer_stops_is_complete_and_leaves_nothing(run, at):
    # One that is never stopped, as the other kind's start does not occur, leaves nothing either.
    gc.collect()
    gc.disable()
    try:
        observer = Stops(at)
        with suppress(SystemExit):
            await run(observer)
        assert observer.seen[-1] in {EventType.CHAIN_COMPLETE, EventType.GRAPH_COMPLETE}
        assert gc.collect() == 0
    finally:
        gc.enable()
