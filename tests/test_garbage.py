"""A run that has ended leaves nothing that only a garbage collection frees."""

import gc

import pytest

from trioflow import (
    ChainConfig,
    ConditionalConfig,
    GraphConfig,
    MemoryStore,
    ParallelConfig,
    Routes,
    State,
    StateGraph,
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
