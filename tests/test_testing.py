"""What users test with: scripted processors, faulty stores, and the assertion on the account."""

from contextlib import asynccontextmanager

import pytest
import trio

from trioflow import (
    CheckpointStoreError,
    ConfigError,
    GraphConfig,
    MemoryStore,
    ParallelConfig,
    ParallelError,
    ParallelResult,
    RetryConfig,
    State,
    StateGraph,
    TaskError,
    open_hub,
    process_parallel,
)
from trioflow.testing import (
    Answer,
    CheckpointStoreConformance,
    FaultyStore,
    RecordingObserver,
    ScriptedProcessor,
    assert_accounted,
)

# --- tests that a user would write


async def test_a_call_that_fails_twice_is_retried_with_growing_delays(autojump_clock):
    ask = ScriptedProcessor({"x": [ConnectionError("down"), ConnectionError("down"), "up"]})
    retry = RetryConfig(initial_delay=3600, max_delay=7200, jitter=False)
    result = await process_parallel(["x"], ask, config=ParallelConfig(retry=retry))
    assert result.results == ["up"]
    assert [call.started for call in ask.calls] == [0, 3600, 10_800]
    assert [call.status for call in ask.calls] == ["error", "error", "ok"]


async def test_one_bad_page_does_not_stop_the_others(autojump_clock):
    pages = ["/", "/gone", "/slow"]
    fetch = ScriptedProcessor({"/gone": LookupError("404"), "/slow": Answer("late", delay=60)})
    observer = RecordingObserver()
    config = ParallelConfig(fail_fast=False, task_timeout=30)
    result = await process_parallel(pages, fetch, config=config, observer=observer)
    assert_accounted(result, pages)
    assert [type(failure.error) for failure in result.errors] == [LookupError, trio.TooSlowError]
    told = sorted(event.data["status"] for event in observer.events if event.type == "worker.complete")
    assert told == ["error", "error", "ok"]


async def test_never_more_than_three_calls_at_a_time(autojump_clock):
    fetch = ScriptedProcessor(delay=1)
    await process_parallel(range(10), fetch, config=ParallelConfig(max_workers=3))
    assert fetch.most_at_once == 3
    assert fetch.items == list(range(10))
    assert trio.current_time() == 4


async def test_a_failure_cancels_what_is_in_flight(autojump_clock):
    fetch = ScriptedProcessor({0: Answer(delay=60), 1: ValueError("bad")}, delay=1)
    with pytest.raises(ParallelError) as caught:
        await process_parallel(range(2), fetch, config=ParallelConfig(max_workers=2))
    assert_accounted(caught.value, range(2))
    assert [call.status for call in fetch.calls] == ["cancelled", "error"]
    assert trio.current_time() == 1


async def test_what_was_paid_for_is_not_paid_for_again_after_the_store_failed(autojump_clock):
    kept = MemoryStore()
    store = FaultyStore(kept, fail={"save_items": 2})
    fetch = ScriptedProcessor(delay=1)
    config = ParallelConfig(max_workers=1, fail_fast=False)
    with pytest.raises(CheckpointStoreError, match="call 2 of save_items failed"):
        await process_parallel(range(10), fetch, config=config, store=store, run_id="nightly")
    result = await process_parallel(range(10), fetch, config=config, store=kept, run_id="nightly")
    assert result.results == list(range(10))
    paid = sorted(call.item for call in fetch.calls if call.status == "ok")
    assert paid == list(range(10))


async def test_a_store_that_hangs_ends_the_run_in_the_end(autojump_clock):
    store = FaultyStore(MemoryStore(), hang={"save_items": 1}, patience=300)
    with pytest.raises(CheckpointStoreError, match="hung for 300 s"):
        await process_parallel([1], ScriptedProcessor(delay=400), store=store, run_id="nightly")
    assert trio.current_time() >= 300


# --- ScriptedProcessor


async def test_answers_go_by_item_and_attempt():
    given = ScriptedProcessor({"a": [1, KeyError, Answer([3])], "b": [[4, 5]], "c": None})
    assert await given("a") == 1
    with pytest.raises(KeyError):
        await given("a")
    assert await given("a") == await given("a") == [3]
    assert await given("b") == [4, 5]
    assert await given("c") is None
    assert await given("d") == "d"
    assert await given(["e"]) == ["e"]
    assert [call.attempt for call in given.calls] == [1, 2, 3, 4, 1, 1, 1, 1]
    assert repr(given) == "<ScriptedProcessor: 8 calls, 0 running>"


async def test_a_function_may_answer():
    given = ScriptedProcessor(lambda item, attempt: ValueError(item) if attempt == 1 else (item, attempt))
    item = ["unhashable"]
    with pytest.raises(ValueError, match="unhashable"):
        await given(item)
    assert await given(item) == (["unhashable"], 2)


async def test_calls_tell_when_they_ran_and_how_they_ended(autojump_clock):
    given = ScriptedProcessor({"fails": Answer(error=ValueError, delay=2), "hangs": Answer(delay=99)}, delay=1)

    async def call(item):
        try:
            await given(item)
        except ValueError:
            pass

    with trio.move_on_after(10):
        async with trio.open_nursery() as nursery:
            for item in ("fails", "hangs", "ok"):
                nursery.start_soon(call, item)
            await trio.sleep(0.5)
            assert given.running == 3
            assert {call.status for call in given.calls} == {"running"}
            assert {call.ended for call in given.calls} == {None}
    ends = {call.item: (call.status, call.started, call.ended) for call in given.calls}
    assert ends == {"fails": ("error", 0, 3), "hangs": ("cancelled", 0, 10), "ok": ("ok", 0, 1)}
    assert (given.running, given.most_at_once) == (0, 3)


async def test_it_is_a_checkpoint():
    with trio.testing.assert_checkpoints():
        await ScriptedProcessor()("x")


async def test_it_serves_as_a_node_and_as_a_handler(autojump_clock):
    graph = StateGraph(GraphConfig(name="g"))
    graph.add_node("only", ScriptedProcessor(lambda state, attempt: state.set("n", attempt)))
    graph.set_entry_point("only")
    graph.set_exit_point("only")
    assert (await graph.execute(State())).state == State(n=1)
    async with open_hub() as hub:
        hub.register("answers", ScriptedProcessor(lambda message, attempt: message.data + attempt))
        assert (await hub.request("user", "answers", 41)).data == 42


@pytest.mark.parametrize(
    "arguments", [{"script": 3}, {"script": {"a": []}}, {"delay": -1}, {"delay": "x"}, {"script": ScriptedProcessor()}]
)
def test_a_script_that_cannot_work_is_refused(arguments):
    with pytest.raises(ConfigError) as caught:
        ScriptedProcessor(**arguments)
    assert caught.value.field in arguments


# --- assert_accounted


def result(indices, errors, unfinished, total, items=()):
    failures = [TaskError(index, dict(items).get(index), ValueError(), 1) for index in errors]
    return ParallelResult(["r"] * len(indices), indices, failures, unfinished, total)


def test_an_exact_account_passes():
    assert_accounted(result([], [], [], 0))
    assert_accounted(result([0, 3], [1], [2], 4, {1: "b"}.items()), "abcd")
    failed = result([0], [1], [], 2)
    assert_accounted(ParallelError(failed.errors, failed))


@pytest.mark.parametrize(
    ("account", "items", "says"),
    [
        (result([0], [], [], 2), None, r"no outcome or two: \[1\]"),
        (result([0], [0], [1], 2), None, r"no outcome or two: \[0\]"),
        (result([0, 1], [2], [2], 3), None, r"no outcome or two: \[2\]"),
        (result([1, 0], [], [], 2), None, "indices are not in item order"),
        (result([], [1, 0], [], 2), None, "errors are not in item order"),
        (result([], [], [1, 0], 2), None, "unfinished are not in item order"),
        (ParallelResult([1], [0, 1], [], [], 2), None, "one index for each result"),
        (result([0], [1], [], 2, {1: "x"}.items()), "ab", "the error at 1 has another item"),
        (result([0], [], [], 1), "ab", "there were 2 items"),
        (ParallelError(result([], [0], [], 1).errors, result([0], [], [], 1)), None, "of its result differ"),
    ],
)
def test_a_wrong_account_does_not(account, items, says):
    with pytest.raises(AssertionError, match=says):
        assert_accounted(account, items)


# --- FaultyStore


class TestFaultyStoreWithoutFaults(CheckpointStoreConformance):
    @asynccontextmanager
    async def open_store(self):
        yield FaultyStore(MemoryStore())


async def test_calls_fail_hang_or_are_lost_as_said(autojump_clock):
    inner = MemoryStore()
    epoch = await inner.claim("r")
    store = FaultyStore(inner, fail={"load_items": {1, 3}}, hang={"load_items": 2}, lose={"save_items": 1})
    await store.save_items("r", epoch, [("a", b"lost")])
    await store.save_items("r", epoch, [("b", b"kept")])
    for turn in (1, 2, 3):
        with pytest.raises(CheckpointStoreError, match=f"call {turn} of load_items"):
            await store.load_items("r")
    assert await store.load_items("r") == {"b": b"kept"}
    assert trio.current_time() == 60
    assert store.calls == ["save_items", "save_items", *["load_items"] * 4]
    assert repr(store) == "<FaultyStore around <MemoryStore: 1 runs>: 6 calls>"


async def test_a_call_fails_with_the_error_that_is_given_and_is_a_checkpoint():
    store = FaultyStore(MemoryStore(), fail={"claim": 1}, lose={"aclose": 1}, error=OSError("disk full"))
    with pytest.raises(OSError, match="disk full"), trio.testing.assert_checkpoints():
        await store.claim("r")
    with trio.testing.assert_checkpoints():
        await store.aclose()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"fail": {"svae": 1}}, "fail does not take 'svae' (did you mean 'save'?"),
        ({"lose": {"load": 1}}, "lose does not take 'load'"),
        ({"hang": {"load": 0}}, "1 (the first call) or more"),
        ({"hang": {"load": [1, -1]}}, "1 (the first call) or more"),
        ({"fail": {"load": "1"}}, "a whole number"),
        ({"patience": 0}, "patience must be"),
        ({"store": None}, "store must be"),
    ],
)
def test_faults_that_cannot_be_are_refused(arguments, says):
    with pytest.raises(ConfigError) as caught:
        FaultyStore(**({"store": MemoryStore()} | arguments))
    assert says in str(caught.value)
