"""What a factory made lives as long as the run that made the calls, whatever kind of run that is."""

from concurrent.futures import ThreadPoolExecutor

import executor_calls as calls
import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trioflow import (
    ChainConfig,
    ConditionalConfig,
    GraphConfig,
    ParallelConfig,
    Routes,
    State,
    StateGraph,
    on_executor,
    open_hub,
    parallel_node,
    process_chain,
    process_conditional,
    process_parallel,
)

pytestmark = pytest.mark.usefixtures("nothing_left")

CONFIG = ParallelConfig(max_workers=4, observer="noop")


class Factory:
    """Makes pools of threads, and knows which are open."""

    def __init__(self):
        self.made = []

    def __call__(self):
        self.made.append(ThreadPoolExecutor(2))
        return self.made[-1]

    @property
    def open(self):
        return [not pool._shutdown for pool in self.made]


def double(number, _=None):
    return number * 2


async def test_a_fan_out_makes_one_and_shuts_it_down():
    factory = Factory()
    processor = on_executor(factory, double)
    assert factory.made == []
    for runs in (1, 2):
        await process_parallel(range(10), processor, config=CONFIG)
        assert factory.open == [False] * runs


async def test_a_run_without_calls_makes_none():
    factory = Factory()
    await process_parallel([], on_executor(factory, double), config=CONFIG)
    assert factory.made == []


async def test_runs_at_the_same_time_have_one_each():
    factory = Factory()
    processor = on_executor(factory, calls.nap)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(lambda: process_parallel([0.05] * 4, processor, config=CONFIG))
    assert factory.open == [False, False]


async def test_a_chain_a_route_and_a_graph_keep_it_until_their_end():
    factory = Factory()
    processor = on_executor(factory, double)

    async def handler(state):
        return await processor(state)

    await process_chain([1, 2, 3], 0, processor, config=ChainConfig(observer="noop"))
    assert factory.open == [False]
    await process_conditional(1, lambda _: "a", Routes({"a": handler}), config=ConditionalConfig(observer="noop"))
    assert factory.open == [False] * 2

    async def node(state):
        return state.set("n", await processor(state["n"]))

    seen = []

    async def last(state):
        seen.extend(factory.open)
        return state

    graph = StateGraph(GraphConfig(name="g", observer="noop"))
    graph.add_node("a", node)
    graph.add_node("b", node)
    graph.add_node("c", last)
    graph.add_edge("a", "b")
    graph.add_edge("b", "c")
    graph.set_entry_point("a")
    graph.set_exit_point("c")
    result = await graph.execute(State(n=1))
    assert result.state["n"] == 4
    assert seen == [False, False, True]  # one for both nodes, open still
    assert factory.open == [False] * 3


async def test_a_fan_out_in_a_graph_is_a_run_of_its_own():
    factory = Factory()
    seen = []

    def collect(state, result):
        seen.extend(factory.open)
        return state.set("n", sum(result.results))

    graph = StateGraph(GraphConfig(name="g", observer="noop"))
    node = parallel_node(on_executor(factory, double), items=[1, 2], aggregate=collect, config=CONFIG)
    graph.add_node("a", node)
    graph.set_entry_point("a")
    graph.set_exit_point("a")
    assert (await graph.execute(State())).state["n"] == 6
    assert seen == [False]


async def test_a_hub_keeps_it_until_its_block_is_left():
    factory = Factory()
    processor = on_executor(factory, double)

    async def handler(message):
        return await processor(message.data)

    async with open_hub() as hub:
        hub.register("a", handler)
        assert (await hub.request("me", "a", 1)).data == 2
        assert (await hub.request("me", "a", 2)).data == 4
        assert factory.open == [True]
    assert factory.open == [False]


async def test_outside_of_a_run_calls_that_overlap_share_one():
    factory = Factory()
    processor = on_executor(factory, calls.nap)
    async with trio.open_nursery() as nursery:
        for seconds in (0.02, 0.05):
            nursery.start_soon(processor, seconds)
    assert factory.open == [False]
    with assert_checkpoints():
        await processor(0)
    assert factory.open == [False, False]


async def test_a_task_that_outlives_its_run_is_outside_of_it():
    factory = Factory()
    processor = on_executor(factory, double)
    go = trio.Event()
    got = []

    async def later():
        await go.wait()
        got.append(await processor(4))

    async with trio.open_nursery() as nursery:

        async def spawn(number):
            nursery.start_soon(later)
            return await processor(number)

        await process_parallel([1], spawn, config=CONFIG)
        await wait_all_tasks_blocked()
        go.set()
    assert got == [8]
    assert factory.open == [False, False]


async def test_an_executor_of_the_callers_stays_open():
    with ThreadPoolExecutor(2) as pool:
        processor = on_executor(pool, double)
        for _ in range(2):
            assert (await process_parallel([1], processor, config=CONFIG)).results == [2]
        assert pool.submit(double, 1).result() == 2


async def test_a_shutdown_that_fails_is_a_warning_and_costs_no_result(log):
    class Stuck(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=wait, cancel_futures=cancel_futures)
            raise OSError("stuck")

    result = await process_parallel([1], on_executor(lambda: Stuck(1), double), config=CONFIG)
    assert result.results == [2]
    assert log.at("WARNING") == ["what was opened for a run could not be closed: stuck"]


async def test_a_run_that_fails_shuts_it_down():
    factory = Factory()
    with pytest.raises(BaseExceptionGroup):
        await process_parallel(range(10), on_executor(factory, calls.square), config=CONFIG)
    assert factory.open == [False]
