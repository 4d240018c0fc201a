"""What was paid for and cannot be kept is in the error that says so."""

import pytest
import trio
import trio.testing

from trioflow import (
    CheckpointConfig,
    CheckpointConflictError,
    CheckpointStoreError,
    GraphConfig,
    MemoryStore,
    ParallelConfig,
    State,
    StateGraph,
    open_parallel,
    process_chain,
    process_parallel,
)

SERIAL = ParallelConfig(max_workers=1, observer="noop")


@pytest.fixture
def full(monkeypatch):
    """Return a list; once it holds something, the stores in memory save nothing more."""
    full = []

    def failing(method):
        async def attempt(self, *args):
            await trio.lowlevel.checkpoint()
            if full:
                raise CheckpointStoreError("the disk is full")
            await method(self, *args)

        return attempt

    monkeypatch.setattr(MemoryStore, "save_items", failing(MemoryStore.save_items))
    saved = MemoryStore.save_nowait

    def save_nowait(self, checkpoint, epoch):
        if full:
            raise CheckpointStoreError("the disk is full")
        saved(self, checkpoint, epoch)

    monkeypatch.setattr(MemoryStore, "save_nowait", save_nowait)
    return full


async def test_the_results_of_a_fan_out_are_in_the_error(full):
    async def call(item):
        await trio.lowlevel.checkpoint()
        if item == 2:
            full.append("now")
        return item * 10

    with pytest.raises(CheckpointStoreError) as caught:
        await process_parallel(range(3), call, config=SERIAL, store=MemoryStore(), run_id="r")
    assert caught.value.value.results == [0, 10, 20]


async def test_what_a_stream_has_not_given_out_is_in_the_error(full):
    async def call(item):
        await trio.lowlevel.checkpoint()
        return item * 10

    with pytest.raises(CheckpointStoreError) as caught:
        async with open_parallel(
            range(3), call, config=SERIAL, keep_results=False, store=MemoryStore(), run_id="r"
        ) as run:
            async for _ in run:
                full.append("now")
                await trio.testing.wait_all_tasks_blocked()
                break
    value = caught.value.value
    assert value.results == [10 * index for index in value.indices]
    assert 0 not in value.indices


async def test_the_results_of_who_lost_the_run_are_in_the_error():
    store = MemoryStore()

    async def call(item):
        await store.claim("r")
        return item * 10

    with pytest.raises(CheckpointConflictError) as caught:
        await process_parallel([1], call, config=SERIAL, store=store, run_id="r")
    assert caught.value.value.results == [10]


@pytest.mark.parametrize("interval", [1, 100])
@pytest.mark.parametrize("failing_at", ["a", "b"])
async def test_the_state_of_a_graph_is_in_the_error(full, interval, failing_at):
    config = GraphConfig(name="g", observer="noop", checkpoint=CheckpointConfig(interval=interval))
    graph = StateGraph(config, store=MemoryStore())

    def node(name):
        async def call(state):
            if name == failing_at:
                full.append("now")
            return state.set(name, "paid")

        return call

    graph.add_node("a", node("a"))
    graph.add_node("b", node("b"))
    graph.add_edge("a", "b")
    graph.set_entry_point("a")
    graph.set_exit_point("b")
    with pytest.raises(CheckpointStoreError) as caught:
        await graph.execute(State(), run_id="r")
    assert caught.value.value.get(failing_at) == "paid"


async def test_the_state_of_a_chain_is_in_the_error(full):
    async def add(item, total):
        await trio.lowlevel.checkpoint()
        if item == 3:
            full.append("now")
        return total + item

    with pytest.raises(CheckpointStoreError) as caught:
        await process_chain([1, 2, 3], 0, add, store=MemoryStore(), run_id="r")
    assert caught.value.value == 6


class Once(MemoryStore):
    """Has no room for the end of a run, once; or is slow about it."""

    def __init__(self, on_end):
        super().__init__()
        self.on_end = on_end

    async def save(self, checkpoint, epoch):
        on_end, self.on_end = (self.on_end, None) if checkpoint.status == "completed" else (None, self.on_end)
        if on_end is not None:
            await on_end()
        await super().save(checkpoint, epoch)


def one_node(store, calls):
    graph = StateGraph(GraphConfig(name="g", observer="noop"), store=store)

    @graph.node
    async def only(state):
        calls.append("only")
        return state.set("value", 1)

    graph.set_entry_point("only")
    graph.set_exit_point("only")
    return graph


async def test_a_run_whose_end_could_not_be_saved_at_first_gives_its_result_later():
    async def fail():
        await trio.lowlevel.checkpoint()
        raise CheckpointStoreError("the disk is full")

    calls, store = [], Once(fail)
    with pytest.raises(CheckpointStoreError):
        await one_node(store, calls).execute(State(), run_id="r")
    assert (await store.load("r")).status == "completed"
    result = await one_node(store, calls).resume("r")
    assert (result.status, result.state, calls) == ("completed", State(value=1), ["only"])


async def test_a_run_that_is_cancelled_while_its_end_is_saved_gives_its_result_later():
    calls, scope = [], trio.CancelScope()

    async def cancel():
        scope.cancel()
        await trio.lowlevel.checkpoint()

    store = Once(cancel)
    with scope:
        await one_node(store, calls).execute(State(), run_id="r")
    assert scope.cancelled_caught
    result = await one_node(store, calls).resume("r")
    assert (result.status, result.state, calls) == ("completed", State(value=1), ["only"])
