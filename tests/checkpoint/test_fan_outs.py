"""Fan-outs that are kept: what succeeded is not called again, whatever happened."""

import math
from contextlib import suppress

import msgspec
import pytest
import trio

from trioflow import (
    ChainError,
    CheckpointConfig,
    CheckpointConflictError,
    CheckpointEncodeError,
    CheckpointMismatchError,
    CheckpointStoreError,
    ConfigError,
    GraphConfig,
    MemoryStore,
    ParallelConfig,
    ParallelError,
    RecordingObserver,
    State,
    StateGraph,
    open_parallel,
    process_chain,
    process_parallel,
)

LENIENT = ParallelConfig(observer="noop", fail_fast=False, max_workers=4)
KEPT = ParallelConfig(observer="noop", fail_fast=False, max_workers=4, checkpoint=CheckpointConfig(preserve=True))


class Calls(list):
    def __init__(self):
        super().__init__()
        self.failing = set()

    async def __call__(self, item):
        self.append(item)
        await trio.lowlevel.checkpoint()
        if item in self.failing:
            raise ValueError(f"{item} is down")
        return {"item": item}


@pytest.fixture
def calls():
    return Calls()


async def test_a_second_call_calls_only_what_did_not_succeed(store, calls):
    calls.failing = {3, 7}
    first = await process_parallel(range(10), calls, config=LENIENT, store=store, run_id="r")
    assert len(first.errors) == 2
    calls.clear()
    calls.failing = {7}
    second = await process_parallel(range(10), calls, config=LENIENT, store=store, run_id="r")
    assert sorted(calls) == [3, 7]
    assert second.indices == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert second.results[3] == {"item": 3}
    calls.clear()
    calls.failing = set()
    third = await process_parallel(range(10), calls, config=LENIENT, store=store, run_id="r")
    assert calls == [7]
    assert third.results == [{"item": item} for item in range(10)]
    assert list(await store.list_runs()) == []


async def test_a_run_that_is_kept_executes_nothing_and_returns_the_same(store, calls):
    first = await process_parallel(range(5), calls, config=KEPT, store=store, run_id="r")
    calls.clear()
    second = await process_parallel(range(5), calls, config=KEPT, store=store, run_id="r")
    assert calls == []
    assert second == first


async def test_fail_fast_and_cancellation_keep_what_succeeded(store, calls):
    calls.failing = {5}
    config = ParallelConfig(observer="noop", max_workers=1)
    with pytest.raises(ParallelError):
        await process_parallel(range(10), calls, config=config, store=store, run_id="r")
    assert len(await store.load_items("r")) == 5

    async def slow(item):
        if item == 3:
            scope.cancel()
            await trio.sleep_forever()
        return item

    with trio.CancelScope() as scope:
        await process_parallel(range(10), slow, config=config, store=store, run_id="c")
    assert scope.cancelled_caught
    assert len(await store.load_items("c")) == 3


async def test_how_a_run_ended_can_be_listed(store, calls):
    calls.failing = {3}
    await process_parallel(range(5), calls, config=KEPT, store=store, run_id="failed")
    with pytest.raises(ParallelError):
        await process_parallel(range(5), calls, store=store, run_id="first failure")
    with trio.CancelScope() as scope:

        async def stop(item):
            scope.cancel()
            await calls(item)

        await process_parallel(range(5), stop, config=KEPT, store=store, run_id="cancelled")
    calls.failing = set()
    async with open_parallel(range(100), calls, config=KEPT, store=store, run_id="left") as run:
        async for _ in run:
            break
    runs = {run.run_id: (run.graph, run.status) for run in await store.list_runs()}
    assert runs == {
        "failed": ("a fan-out", "failed"),
        "first failure": ("a fan-out", "failed"),
        "cancelled": ("a fan-out", "cancelled"),
        "left": ("a fan-out", "cancelled"),
    }
    await process_parallel(range(5), calls, config=KEPT, store=store, run_id="failed")
    (run,) = [run for run in await store.list_runs() if run.run_id == "failed"]
    assert (run.status, run.items, run.step) == ("completed", 5, 5)


async def test_the_run_of_a_chain_is_no_fan_outs(store, calls):
    async def step(item, state):
        raise ValueError

    with pytest.raises(ChainError):
        await process_chain([1], 0, step, store=store, run_id="r")
    with pytest.raises(CheckpointMismatchError, match="run 'r' is a run of 'a chain', not a fan-out: use another run_id"):
        await process_parallel(range(5), calls, config=KEPT, store=store, run_id="r")
    assert calls == []
    assert [run.status for run in await store.list_runs()] == ["failed"]


async def test_leaving_a_stream_early_keeps_what_succeeded(store, calls):
    async with open_parallel(range(100), calls, config=LENIENT, store=store, run_id="r") as run:
        async for outcome in run:
            if outcome.index >= 10:
                break
    kept = await store.load_items("r")
    assert len(kept) >= 10
    calls.clear()
    async with open_parallel(range(100), calls, config=LENIENT, store=store, run_id="r") as run:
        outcomes = [outcome async for outcome in run]
    assert len(calls) == 100 - len(kept)
    assert sorted(outcome.unwrap()["item"] for outcome in outcomes) == list(range(100))
    assert {outcome.attempts for outcome in outcomes} == {0, 1}


@pytest.mark.parametrize(
    ("items", "why"),
    [
        (range(11), "there were 10, and now there are 11"),
        (range(9), "there were 10, and now there are 9"),
        ([0, 1, 2, 99, 4, 5, 6, 7, 8, 9], "item 3 differs"),
    ],
)
async def test_other_items_are_refused_before_any_call(store, calls, items, why):
    await process_parallel(range(10), calls, config=KEPT, store=store, run_id="r")
    calls.clear()
    with pytest.raises(CheckpointMismatchError, match=f"items of run 'r' are not those that it was started with: {why}"):
        await process_parallel(items, calls, config=KEPT, store=store, run_id="r")
    assert calls == []
    assert len(await store.load_items("r")) == 10


async def numbers(*given):
    for number in given:
        yield number


async def test_an_async_source_is_compared_as_it_is_pulled(store, calls):
    await process_parallel(numbers(1, 2, 3), calls, config=KEPT, store=store, run_id="r")
    calls.clear()
    assert len((await process_parallel(numbers(1, 2, 3), calls, config=KEPT, store=store, run_id="r")).results) == 3
    assert calls == []
    with pytest.raises(CheckpointMismatchError, match="item 1 differs"):
        await process_parallel(numbers(1, 5, 3), calls, config=KEPT, store=store, run_id="r")
    with pytest.raises(CheckpointMismatchError, match="there were 3 or more, and now there are 2"):
        await process_parallel(numbers(1, 2), calls, config=KEPT, store=store, run_id="r")


async def test_named_items_may_come_and_go(store, calls):
    def key(item):
        return f"item {item}"

    await process_parallel([1, 2, 3], calls, config=KEPT, store=store, run_id="r", key=key)
    calls.clear()
    result = await process_parallel([3, 4, 1], calls, config=KEPT, store=store, run_id="r", key=key)
    assert calls == [4]
    assert result.results == [{"item": 3}, {"item": 4}, {"item": 1}]
    with pytest.raises(CheckpointMismatchError, match="they were identified by key="):
        await process_parallel([1, 2, 3], calls, config=KEPT, store=store, run_id="r")
    await process_parallel([1, 2, 3], calls, config=KEPT, store=store, run_id="i")
    with pytest.raises(CheckpointMismatchError, match="it was started without key="):
        await process_parallel([1, 2, 3], calls, config=KEPT, store=store, run_id="i", key=str)


@pytest.mark.parametrize(("key", "message"), [(lambda item: "same", "must be unique; item 1"), (lambda item: item, "a string")])
async def test_a_key_names_each_item_by_a_string_of_its_own(calls, key, message):
    with pytest.raises(ConfigError, match=message):
        await process_parallel([1, 2], calls, config=LENIENT, store=MemoryStore(), run_id="r", key=key)


class Answer(msgspec.Struct):
    words: tuple[str, ...]


async def test_results_come_back_as_their_type(store):
    calls = []

    async def answer(item):
        calls.append(item)
        return Answer((item,))

    options = {"config": KEPT, "store": store, "run_id": "r", "result_type": Answer}
    first = await process_parallel(["a", "b"], answer, **options)
    second = await process_parallel(["a", "b"], answer, **options)
    assert first == second
    assert second.results == [Answer(("a",)), Answer(("b",))]
    assert calls == ["a", "b"]


@pytest.mark.parametrize("made", [{2}, math.nan, {"nested": [math.nan]}])
async def test_a_result_that_cannot_be_kept_fails_its_item_and_is_not_lost(store, made):
    async def answer(item):
        await trio.lowlevel.checkpoint()
        return made if item == 2 else item

    config = ParallelConfig(observer="noop", fail_fast=False, max_workers=1)
    for _ in range(2):
        result = await process_parallel(range(5), answer, config=config, store=store, run_id="r")
        assert result.results == [0, 1, 3, 4]
        (failure,) = result.errors
        assert failure.index == 2
        assert isinstance(failure.error, CheckpointEncodeError)
        assert failure.error.value is made, "it was paid for"
        assert failure.error.__notes__ == ["raised by the result of item 2"]
    assert len(await store.load_items("r")) == 4


async def test_a_run_is_written_when_it_begins(store):
    listed = []

    async def look(item):
        listed.append([(run.run_id, run.kind, run.status) for run in await store.list_runs()])

    await process_parallel([1], look, config=LENIENT, store=store, run_id="r")
    assert listed == [[("r", "parallel", "running")]]


@pytest.mark.parametrize("kind", ["chain", "graph"])
async def test_a_killed_fan_out_is_not_wiped_by_a_run_of_another_kind(store, calls, kind):
    calls.failing = {2}
    await process_parallel(range(3), calls, config=LENIENT, store=store, run_id="r")

    async def step(*arguments):
        raise AssertionError("called")

    with pytest.raises(CheckpointMismatchError):
        if kind == "chain":
            await process_chain([1], 0, step, store=store, run_id="r")
        else:
            graph = StateGraph(GraphConfig(name="g", observer="noop"), store=store)
            graph.add_node("a", step)
            graph.set_entry_point("a")
            graph.set_exit_point("a")
            await graph.execute(State(), run_id="r")
    assert len(await store.load_items("r")) == 2


@pytest.mark.parametrize(
    ("items", "options"),
    [
        (range(11), {}),
        ([0, 1, 2, 99, 4, 5, 6, 7, 8, 9], {}),
        (range(10), {"key": str}),
        (range(10), {"result_type": Answer}),
    ],
)
async def test_a_wrong_call_leaves_who_is_running_the_run_alone(store, autojump_clock, items, options):
    refused = []

    async def slow(item):
        await trio.sleep(1)
        return item

    async def call_wrongly():
        while len(await store.load_items("r")) < 4:  # noqa: ASYNC110 - the store has no event
            await trio.sleep(0.1)
        with pytest.raises(CheckpointMismatchError):
            await process_parallel(items, slow, config=LENIENT, store=store, run_id="r", **options)
        refused.append(items)

    config = ParallelConfig(observer="noop", max_workers=1, checkpoint=CheckpointConfig(flush_interval=0.5))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call_wrongly)
        result = await process_parallel(range(10), slow, config=config, store=store, run_id="r")
    assert result.results == list(range(10))
    assert refused


async def test_a_keyed_call_that_asks_for_nothing_forgets_nothing(store, calls):
    calls.failing = {0}
    await process_parallel(range(50), calls, config=LENIENT, store=store, run_id="r", key=str)
    await process_parallel([], calls, config=LENIENT, store=store, run_id="r", key=str)
    assert len(await store.load_items("r")) == 49
    calls.failing.clear()
    calls.clear()
    await process_parallel(range(10), calls, config=LENIENT, store=store, run_id="r", key=str)
    assert calls == [0]
    assert len(await store.load_items("r")) == 50, "forty of them this call did not ask for"
    await process_parallel(range(50), calls, config=LENIENT, store=store, run_id="r", key=str)
    assert await store.list_runs() == []


@pytest.mark.parametrize("leaving", ["raises", "breaks", "takes all but the last"])
async def test_a_stream_is_forgotten_only_when_all_was_taken_and_the_block_left_well(store, calls, leaving):
    taken = []
    config = ParallelConfig(observer="noop", fail_fast=False, max_workers=4, buffer=20)
    with suppress(LookupError):
        async with open_parallel(range(20), calls, config=config, store=store, run_id="r") as run:
            await run.progress.wait_value(lambda progress: progress.completed == 20)
            async for outcome in run:
                taken.append(outcome.index)
                if leaving == "raises" and len(taken) == 18:
                    raise LookupError
                if leaving == "breaks" and len(taken) == 18:
                    break
                if len(taken) == 19:
                    break
    assert len(await store.load_items("r")) == 20
    calls.clear()
    async with open_parallel(range(20), calls, config=LENIENT, store=store, run_id="r") as run:
        assert sorted([outcome.index async for outcome in run]) == list(range(20))
    assert calls == []
    assert await store.list_runs() == []


async def test_a_clean_up_that_fails_costs_nothing(calls):
    class Stuck:
        def __init__(self):
            self.store = MemoryStore()

        def __getattr__(self, name):
            return getattr(self.store, name)

        async def delete(self, run_id, epoch=None):
            await trio.lowlevel.checkpoint()
            raise CheckpointStoreError("read-only now")

    store = Stuck()
    result = await process_parallel(range(3), calls, config=LENIENT, store=store, run_id="r")
    assert len(result.results) == 3
    assert [run.status for run in await store.list_runs()] == ["completed"]
    calls.clear()
    again = await process_parallel(range(3), calls, config=LENIENT, store=store, run_id="r")
    assert (again.results, calls) == (result.results, [])


async def test_unwritten_results_are_bounded_in_bytes_and_in_age(autojump_clock):
    pending = []

    class Slow:
        def __init__(self):
            self.store = MemoryStore()

        def __getattr__(self, name):
            return getattr(self.store, name)

        async def save_items(self, run_id, epoch, batch):
            assert len(batch) <= 1_000
            assert sum(len(data) for _, data in batch) <= max(4 << 20, len(batch[0][1]))
            await trio.sleep(1)
            await self.store.save_items(run_id, epoch, batch)

    store = Slow()
    begun = {}

    async def work(item):
        begun[item] = trio.current_time()
        await trio.sleep(0.01)
        kept = len(store.store._runs["r"].items)
        pending.append(item - kept)
        return "x" * 100_000

    checkpoint = CheckpointConfig(flush_interval=0.1, preserve=True)
    config = ParallelConfig(observer="noop", max_workers=4, checkpoint=checkpoint)
    await process_parallel(range(300), work, config=config, store=store, run_id="r")
    assert max(pending) <= 4 * 10 * 2 + 8, "what finishes within an interval, or is written, and what is in hand"
    assert len(await store.load_items("r")) == 300


async def test_the_memory_of_what_was_recalled_is_given_back(calls):
    store = MemoryStore()
    await process_parallel(range(2_000), calls, config=KEPT, store=store, run_id="r")
    async with open_parallel(range(2_000), calls, config=KEPT, store=store, run_id="r", keep_results=False) as run:
        journal = run._pool._journal
        async for _ in run:
            pass
        assert not journal._kept


async def test_an_item_that_has_no_form_as_data_needs_a_key(calls):
    with pytest.raises(CheckpointEncodeError, match="give key="):
        await process_parallel([object()], calls, config=LENIENT, store=MemoryStore(), run_id="r")


async def test_somebody_else_who_claims_the_run_stops_this_one(store, autojump_clock):
    async def slow(item):
        if item == 1:
            await store.claim("r")
        await trio.sleep(1)
        return item

    config = ParallelConfig(observer="noop", max_workers=1)
    with pytest.raises(CheckpointConflictError):
        await process_parallel(range(100), slow, config=config, store=store, run_id="r")


async def test_successes_are_written_within_the_interval(autojump_clock):
    store = MemoryStore()
    seen = []

    async def slow(item):
        await trio.sleep(1)
        return item

    async def look():
        while True:
            await trio.sleep(0.6)
            seen.append(len(await store.load_items("r")))

    checkpoint = CheckpointConfig(flush_interval=0.5, preserve=True)
    config = ParallelConfig(observer="noop", max_workers=1, checkpoint=checkpoint)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await process_parallel(range(5), slow, config=config, store=store, run_id="r")
        nursery.cancel_scope.cancel()
    # What had finished half a second before a look is there at the look.
    assert len(seen) >= 6
    assert all(count >= int(0.6 * number - 0.5 - 1e-6) for number, count in enumerate(seen, start=1))


async def test_many_successes_are_written_at_once(monkeypatch):
    from trioflow._durable import items as journal_module

    monkeypatch.setattr(journal_module, "BATCH", 10)
    store = MemoryStore()
    batches = []
    save = store.save_items

    class Watching:
        def __getattr__(self, name):
            return getattr(store, name)

        async def save_items(self, run_id, epoch, batch):
            batches.append(len(batch))
            await save(run_id, epoch, batch)

    async def work(item):
        await trio.lowlevel.checkpoint()
        return item

    checkpoint = CheckpointConfig(flush_interval=1_000, preserve=True)
    config = ParallelConfig(observer="noop", max_workers=2, checkpoint=checkpoint)
    await process_parallel(range(100), work, config=config, store=Watching(), run_id="r")
    assert len(batches) > 3
    assert len(await store.load_items("r")) == 100


async def test_workers_wait_while_too_much_waits_to_be_written(monkeypatch):
    from trioflow._durable import items as journal_module

    monkeypatch.setattr(journal_module, "BATCH", 5)
    monkeypatch.setattr(journal_module, "MOST_PENDING", 10)
    store = MemoryStore()
    most = [0]
    started = [0]

    class Slow:
        def __getattr__(self, name):
            return getattr(store, name)

        async def save_items(self, run_id, epoch, batch):
            for _ in range(50):
                await trio.lowlevel.checkpoint()
            await store.save_items(run_id, epoch, batch)
            most[0] = max(most[0], started[0] - len(await store.load_items("r")))

    async def work(item):
        started[0] += 1
        await trio.lowlevel.checkpoint()
        return item

    config = ParallelConfig(observer="noop", max_workers=2, checkpoint=CheckpointConfig(preserve=True))
    result = await process_parallel(range(200), work, config=config, store=Slow(), run_id="r")
    assert len(result.results) == 200
    assert most[0] <= 10 + 10 + 2


@pytest.mark.parametrize("waits_for", ["the claim", "room"])
async def test_no_item_begins_after_a_cancellation_that_came_while_its_wait_for_the_store_was_ending(
    waits_for, calls, monkeypatch, autojump_clock
):
    from trioflow._durable import items as journal_module

    monkeypatch.setattr(journal_module, "MOST_PENDING", 1)
    memory = MemoryStore()
    kept = msgspec.structs.replace(KEPT, max_workers=1)
    if waits_for == "the claim":
        await process_parallel(iter(range(1)), calls, config=kept, store=memory, run_id="r")
        calls.clear()
    else:
        calls.failing = {0}

    class Cancelling:
        """Its caller is cancelled once it has done what it was told."""

        def __getattr__(self, name):
            return getattr(memory, name)

        async def save(self, checkpoint, epoch):
            if calls:
                scope.cancel()  # the failures of a run are saved when there is room again, in the same tick
            await memory.save(checkpoint, epoch)
            if waits_for == "the claim":
                scope.cancel()

    with trio.CancelScope() as scope:
        await process_parallel(iter(range(3)), calls, config=kept, store=Cancelling(), run_id="r")
    assert scope.cancelled_caught
    assert calls == ([] if waits_for == "the claim" else [0, 1])


async def test_a_store_that_fails_stops_the_run(calls):
    class Broken:
        def __init__(self):
            self._store = MemoryStore()

        def __getattr__(self, name):
            return getattr(self._store, name)

        async def save_items(self, run_id, epoch, batch):
            await trio.lowlevel.checkpoint()
            raise CheckpointStoreError("disk full")

    with pytest.raises(CheckpointStoreError, match="disk full"):
        await process_parallel(range(10), calls, config=KEPT, store=Broken(), run_id="r")


async def test_events_tell_what_is_kept_and_recalled(store, calls):
    observer = RecordingObserver()
    calls.failing = {2}
    await process_parallel(range(4), calls, config=LENIENT, store=store, run_id="r", observer=observer)
    saved = [event.data["items"] for event in observer.events if event.type == "checkpoint.save"]
    assert sum(saved) == 3
    observer.clear()
    calls.failing = set()
    await process_parallel(range(4), calls, config=LENIENT, store=store, run_id="r", observer=observer)
    types = [event.type.value for event in observer.events]
    assert types[:3] == ["parallel.start", "checkpoint.load", "checkpoint.resume"]
    attempts = {e.data["item_index"]: e.data["attempts"] for e in observer.events if e.type == "worker.complete"}
    assert attempts == {0: 0, 1: 0, 2: 1, 3: 0}


async def test_a_mismatch_is_told_as_the_end_of_a_run_that_began(store, calls):
    await process_parallel(range(4), calls, config=KEPT, store=store, run_id="r")
    observer = RecordingObserver()
    with pytest.raises(CheckpointMismatchError):
        await process_parallel(range(5), calls, config=KEPT, store=store, run_id="r", observer=observer)
    assert (observer.events[0].type, observer.events[-1].type) == ("parallel.start", "parallel.complete")
    assert observer.events[-1].data["error_type"] == "CheckpointMismatchError"


async def test_a_run_without_an_id_is_not_kept(calls):
    result = await process_parallel(range(3), calls, config=KEPT)
    assert len(result.results) == 3
