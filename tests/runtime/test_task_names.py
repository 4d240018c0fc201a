"""What tasks are called: by the id of their run and what it calls, so that a tree of tasks can be read."""

from functools import partial

import trio
from trio.testing import wait_all_tasks_blocked

from trioflow import (
    GraphConfig,
    ParallelConfig,
    State,
    StateGraph,
    open_parallel,
    process_chain,
    process_parallel,
)

SILENT = ParallelConfig(max_workers=2, observer="noop")


def names(task=None):
    task = task or trio.lowlevel.current_root_task()
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield child.name
            yield from names(child)


async def seen(run):
    """The names of the tasks of a run that is under way."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        found = {name for name in names() if name.startswith("trioflow")}
        nursery.cancel_scope.cancel()
    return found


async def fetch(item):
    await trio.sleep_forever()


async def test_tasks_of_a_fan_out_carry_its_id_and_the_processor():
    found = await seen(lambda: process_parallel([1, 2], fetch, config=SILENT, run_id="nightly"))
    assert {f"trioflow nightly[fetch] {what}" for what in ("worker 0", "worker 1", "collector")} <= found


async def test_a_run_without_an_id_is_called_by_its_kind_also_where_one_was_made():
    for config in (SILENT, ParallelConfig(max_workers=1)):
        found = await seen(lambda config=config: process_parallel([1], partial(fetch), config=config))
        assert "trioflow parallel[fetch] worker 0" in found


async def test_a_stream_and_a_hostile_name():
    async def stream():
        async with open_parallel([1], fetch, config=SILENT, run_id="a\n\x1b[31m") as run:
            async for _ in run:
                pass

    found = await seen(stream)
    assert "trioflow a\\n\\x1b[31m[fetch] run" in found
    assert all(name.isprintable() for name in found)


async def test_chains_and_graphs():
    async def step(item, state):
        await trio.sleep_forever()

    assert "trioflow daily[step]" in await seen(lambda: process_chain([1], 0, step, run_id="daily"))
    graph = StateGraph(GraphConfig(name="review", observer="noop"))
    graph.add_node("one", fetch)
    graph.set_entry_point("one")
    graph.set_exit_point("one")
    assert "trioflow graph[review]" in await seen(lambda: graph.execute(State()))
    assert "trioflow r7[review]" in await seen(lambda: graph.execute(State(), run_id="r7"))
