"""The outcome table: what is returned and what is raised when items succeed, fail or never finish."""

import contextvars
import gc
import math
import random
import re
import weakref

import pytest
import trio
from trio.testing import assert_checkpoints

from trioflow import (
    Indexes,
    ParallelConfig,
    ParallelError,
    Progress,
    RecordingObserver,
    TaskError,
    WorkQueue,
    open_parallel,
    process_parallel,
)
from trioflow.workflows._pool import ITEMS_IN_A_ROW

FAIL_FAST = ParallelConfig(max_workers=4, observer="noop")
COLLECT_ALL = ParallelConfig(max_workers=4, fail_fast=False, observer="noop")


async def same(item):
    return item


async def double(item):
    await trio.sleep(0.01)
    return item * 2


async def test_results_come_in_item_order_whatever_order_they_finished_in(autojump_clock):
    async def slower_first(item):
        await trio.sleep(10 - item)
        return item

    result = await process_parallel(range(10), slower_first, config=FAIL_FAST)
    assert result.results == list(range(10))
    assert result.indices == list(range(10))
    assert (result.errors, result.unfinished, result.total) == ([], [], 10)


@pytest.mark.parametrize("fail_fast", [True, False])
async def test_empty_input_is_an_empty_result_with_start_and_complete(fail_fast):
    heard = RecordingObserver()
    result = await process_parallel([], double, config=ParallelConfig(fail_fast=fail_fast), observer=heard)
    assert (result.results, result.errors, result.unfinished, result.total) == ([], [], [], 0)
    assert [event.type for event in heard.events] == ["parallel.start", "parallel.complete"]
    assert heard.events[-1].data["status"] == "ok"


async def test_process_parallel_is_a_checkpoint_with_empty_input_too():
    with assert_checkpoints():
        await process_parallel([], double, config=FAIL_FAST)
    with trio.CancelScope() as scope:
        scope.cancel()
        await process_parallel([], double, config=FAIL_FAST)
    assert scope.cancelled_caught


async def test_fail_fast_raises_and_cancelled_siblings_are_unfinished_not_errors(autojump_clock):
    async def fail_third(item):
        if item == 3:
            await trio.sleep(1)
            raise ConnectionError("connection refused")
        await trio.sleep(0.5 if item < 2 else 5)
        return item

    with pytest.raises(ParallelError) as caught:
        await process_parallel(range(10), fail_third, config=FAIL_FAST)
    error = caught.value
    assert str(error) == "parallel execution failed: item 3: connection refused"
    assert [failure.index for failure in error.errors] == [3]
    assert error.result.results == [0, 1]
    assert error.result.indices == [0, 1]
    assert error.result.unfinished == [2, 4, 5, 6, 7, 8, 9]
    assert error.result.total == 10
    assert trio.current_time() == pytest.approx(autojump_clock.current_time())


async def test_fail_fast_keeps_items_that_finished_anyway():
    async def shielded(item):
        if item == 0:
            await trio.lowlevel.checkpoint()
            raise ValueError("boom")
        with trio.CancelScope(shield=True):
            for _ in range(5):
                await trio.lowlevel.checkpoint()
        return item

    with pytest.raises(ParallelError) as caught:
        await process_parallel(range(4), shielded, config=FAIL_FAST)
    assert caught.value.result.results == [1, 2, 3]
    assert caught.value.result.unfinished == []


async def test_fail_fast_starts_nothing_after_the_failure(autojump_clock):
    started = []

    async def fail_first(item):
        started.append(item)
        await trio.sleep(1 if item == 0 else 2)
        raise ValueError("boom")

    with pytest.raises(ParallelError):
        await process_parallel(range(100), fail_first, config=FAIL_FAST)
    assert started == [0, 1, 2, 3]


async def test_an_error_raised_while_being_cancelled_is_an_error(autojump_clock):
    async def fail_on_cancel(item):
        if item == 0:
            await trio.sleep(1)
            raise ValueError("first")
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("cleanup failed")

    with pytest.raises(ParallelError) as caught:
        await process_parallel(range(2), fail_on_cancel, config=FAIL_FAST)
    assert [(e.index, type(e.error)) for e in caught.value.errors] == [(0, ValueError), (1, KeyError)]


async def test_collect_all_returns_with_errors_in_item_order(autojump_clock):
    async def odd_fail(item):
        await trio.sleep(10 - item)
        if item % 2:
            raise ValueError(f"odd {item}")
        return item

    result = await process_parallel(range(6), odd_fail, config=COLLECT_ALL)
    assert result.results == [0, 2, 4]
    assert result.indices == [0, 2, 4]
    assert [failure.index for failure in result.errors] == [1, 3, 5]
    assert all(isinstance(failure, TaskError) for failure in result.errors)
    assert [failure.item for failure in result.errors] == [1, 3, 5]
    assert [failure.attempts for failure in result.errors] == [1, 1, 1]
    assert (result.unfinished, result.total) == ([], 6)


async def test_collect_all_raises_only_when_all_items_failed():
    async def fail(item):
        raise ValueError("boom")

    with pytest.raises(ParallelError) as caught:
        await process_parallel(range(3), fail, config=COLLECT_ALL)
    assert len(caught.value.errors) == 3
    assert caught.value.result.results == []


async def test_total_is_the_number_pulled_where_the_input_has_no_length():
    result = await process_parallel(iter(range(7)), double, config=FAIL_FAST)
    assert result.total == 7
    assert result.results == [0, 2, 4, 6, 8, 10, 12]


async def test_total_follows_an_input_that_grows_or_shrinks_meanwhile():
    growing = [0, 1]

    async def grow(item):
        if item < 5:
            growing.append(item + 2)
        return item

    result = await process_parallel(growing, grow, config=ParallelConfig(max_workers=1, observer="noop"))
    assert result.total == len(growing) == len(result.results)

    shrinking = list(range(6))

    async def shrink(item):
        if len(shrinking) > 3:
            shrinking.pop()
        return item

    result = await process_parallel(shrinking, shrink, config=ParallelConfig(max_workers=1, observer="noop"))
    assert result.total == len(result.results) < 6
    assert result.unfinished == []


async def test_progress_is_called_after_each_success_only(autojump_clock):
    calls = []

    async def fail_two(item):
        await trio.sleep(item)
        if item == 2:
            raise ValueError("boom")
        return item * 10

    await process_parallel(range(5), fail_two, config=COLLECT_ALL, progress=lambda *call: calls.append(call))
    assert calls == [(1, 5, 0), (2, 5, 10), (3, 5, 30), (4, 5, 40)]


async def test_progress_has_no_total_where_the_input_has_no_length():
    calls = []
    config = ParallelConfig(max_workers=1, observer="noop")
    await process_parallel(iter("ab"), double, config=config, progress=lambda *call: calls.append(call))
    assert calls == [(1, None, "aa"), (2, None, "bb")]


async def test_progress_raising_stops_the_run_and_comes_out_bare(autojump_clock):
    started = []

    async def work(item):
        started.append(item)
        await trio.sleep(1 if item == 0 else 100)
        return item

    def progress(completed, total, result):
        raise LookupError("display gone")

    with pytest.raises(LookupError, match="display gone") as caught:
        await process_parallel(range(10), work, config=FAIL_FAST, progress=progress)
    assert re.fullmatch(r"raised by progress after [4-8] items pulled", caught.value.__notes__[0])
    assert caught.value.__notes__[1] == "when the run ended: 1 succeeded, 0 failed, 9 unfinished"
    assert started == [0, 1, 2, 3]
    assert trio.current_time() < 50


async def test_attempts_count_calls_of_the_processor(autojump_clock):
    from trioflow import RetryConfig

    async def fail(item):
        raise ValueError("boom")

    config = ParallelConfig(fail_fast=False, retry=RetryConfig(max_attempts=4), observer="noop")
    with pytest.raises(ParallelError) as caught:
        await process_parallel(range(3), fail, config=config)
    assert [failure.attempts for failure in caught.value.errors] == [4, 4, 4]


# --- the run's own time limit


async def test_timeout_fails_each_unfinished_item_with_too_slow_error(autojump_clock):
    async def work(item):
        await trio.sleep(1 if item < 2 else math.inf)
        return item

    items = list("abcdefgh")

    async def by_letter(letter):
        return await work(items.index(letter))

    config = ParallelConfig(max_workers=4, fail_fast=False, timeout=5, observer="noop")
    result = await process_parallel(items, by_letter, config=config)
    assert trio.current_time() == pytest.approx(5, abs=0.1)
    assert result.results == [0, 1]
    assert [failure.index for failure in result.errors] == [2, 3, 4, 5, 6, 7]
    assert all(isinstance(failure.error, trio.TooSlowError) for failure in result.errors)
    assert [failure.item for failure in result.errors] == list("cdefgh")
    assert [failure.attempts for failure in result.errors] == [1, 1, 1, 1, 0, 0]
    assert result.unfinished == []


async def test_timeout_under_fail_fast_raises_with_all_unfinished_items(autojump_clock):
    config = ParallelConfig(max_workers=2, timeout=5, observer="noop")

    async def forever(item):
        await trio.sleep_forever()

    with pytest.raises(ParallelError) as caught:
        await process_parallel(range(4), forever, config=config)
    assert [failure.index for failure in caught.value.errors] == [0, 1, 2, 3]
    assert caught.value.result.unfinished == []


@pytest.mark.parametrize("fail_fast", [True, False])
async def test_at_the_timeout_a_cleanup_that_fails_changes_nothing_for_the_others(fail_fast, autojump_clock):
    async def work(item):
        try:
            await trio.sleep_forever()
        finally:
            if item == 1:
                raise ValueError("cleanup")

    config = ParallelConfig(max_workers=3, fail_fast=fail_fast, timeout=5, observer="noop")
    for _ in range(10):  # Trio wakes tasks in random order
        with pytest.raises(ParallelError) as caught:
            await process_parallel(range(5), work, config=config)
        kinds = [type(failure.error) for failure in caught.value.errors]
        assert kinds == [trio.TooSlowError, ValueError, *[trio.TooSlowError] * 3]


async def test_timeout_leaves_no_item_where_the_source_cannot_be_indexed(autojump_clock):
    config = ParallelConfig(max_workers=1, fail_fast=False, timeout=5, observer="noop")

    async def one_then_stuck(item):
        await trio.sleep(1 if item == "a" else math.inf)

    result = await process_parallel({"a": 1, "b": 2, "c": 3}, one_then_stuck, config=config)
    assert [(failure.item, failure.attempts) for failure in result.errors] == [("b", 1), (None, 0)]


async def test_timeout_leaves_no_item_where_the_input_shrank(autojump_clock):
    items = list("abcd")

    async def stuck(item):
        items.pop()
        await trio.sleep_forever()

    config = ParallelConfig(max_workers=1, fail_fast=False, timeout=5, observer="noop")
    with pytest.raises(ParallelError) as caught:
        await process_parallel(items, stuck, config=config)
    assert [failure.item for failure in caught.value.errors] == ["a", "b", "c", None]


async def test_timeout_counts_items_that_an_async_source_gave_but_no_worker_took(autojump_clock):
    async def source():
        for item in range(100):
            yield item

    async def forever(item):
        await trio.sleep_forever()

    config = ParallelConfig(max_workers=1, buffer=2, fail_fast=False, timeout=5, observer="noop")
    with pytest.raises(ParallelError) as caught:
        await process_parallel(source(), forever, config=config)
    assert [(e.index, e.item, e.attempts) for e in caught.value.errors] == [(0, 0, 1), (1, 1, 0), (2, 2, 0)]


async def test_timeout_does_not_reach_into_a_run_that_is_over(autojump_clock):
    config = ParallelConfig(timeout=5, observer="noop")
    result = await process_parallel(range(3), double, config=config)
    await trio.sleep(10)
    assert result.results == [0, 2, 4]


async def test_an_item_that_waits_for_the_rate_was_never_tried(autojump_clock):
    config = ParallelConfig(max_workers=4, fail_fast=False, timeout=1.5, max_per_second=1, observer="noop")
    result = await process_parallel(range(4), double, config=config)
    assert result.indices == [0, 1]
    assert [failure.attempts for failure in result.errors] == [0, 0]


async def test_task_timeout_bounds_one_attempt(autojump_clock):
    config = ParallelConfig(fail_fast=False, task_timeout=2, observer="noop")

    async def work(item):
        await trio.sleep(item)
        return item

    result = await process_parallel([1, 3, 1.5], work, config=config)
    assert result.results == [1, 1.5]
    assert isinstance(result.errors[0].error, trio.TooSlowError)


# --- workers


@pytest.mark.parametrize(
    ("options", "items", "expected"),
    [
        ({"max_workers": 7}, range(3), 7),
        ({}, range(1), 1),
        ({}, range(0), 1),
        ({"worker_cap": 1}, range(100), 1),
    ],
)
async def test_worker_count(options, items, expected):
    heard = RecordingObserver()
    await process_parallel(items, same, config=ParallelConfig(**options), observer=heard)
    assert heard.events[0].data["worker_count"] == expected


async def test_auto_is_twice_the_usable_cpus_up_to_the_cap(monkeypatch):
    import os

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)), raising=False)
    for cap, expected in ((100, 10), (16, 10), (3, 3)):
        heard = RecordingObserver()
        await process_parallel(range(1000), same, config=ParallelConfig(worker_cap=cap), observer=heard)
        assert heard.events[0].data["worker_count"] == expected
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    heard = RecordingObserver()
    await process_parallel(range(1000), same, observer=heard)
    assert heard.events[0].data["worker_count"] == 2


async def test_as_many_at_once_as_workers_and_never_more(autojump_clock):
    running, most = 0, 0

    async def work(item):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1

    await process_parallel(range(20), work, config=ParallelConfig(max_workers=5, observer="noop"))
    assert most == 5
    assert trio.current_time() == pytest.approx(4, abs=0.1)


async def test_a_processor_without_checkpoints_lets_other_tasks_run():
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await trio.lowlevel.checkpoint()
            ticks += 1

    async def busy(item):
        return item

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        await process_parallel(range(800), busy, config=ParallelConfig(max_workers=1, observer="noop"))
        nursery.cancel_scope.cancel()
    assert ticks >= 800 / ITEMS_IN_A_ROW


async def test_a_processor_without_checkpoints_can_be_cancelled():
    async def busy(item):
        return item

    def endless():
        while True:
            yield 1

    with trio.move_on_after(0.05) as scope:
        await process_parallel(endless(), busy, config=FAIL_FAST)
    assert scope.cancelled_caught


async def test_runs_nest(autojump_clock):
    async def inner(item):
        if item == 2:
            raise ValueError("inner")
        return item

    async def outer(item):
        result = await process_parallel(range(item), inner, config=FAIL_FAST)
        return sum(result.results)

    result = await process_parallel(range(4), outer, config=COLLECT_ALL)
    assert result.results == [0, 0, 1]
    assert isinstance(result.errors[0].error, ParallelError)


async def test_open_parallel_under_collect_all_raises_nothing_even_if_all_failed():
    async def fail(item):
        raise ValueError(item)

    async with open_parallel(range(3), fail, config=COLLECT_ALL) as run:
        outcomes = [outcome async for outcome in run]
    assert sorted(outcome.index for outcome in outcomes) == [0, 1, 2]
    assert not any(outcome.ok for outcome in outcomes)


async def test_results_are_freed_with_the_last_reference_and_not_by_the_garbage_collector():
    class Heavy:
        pass

    async def make(item):
        if item == 4:
            raise ValueError("boom")
        return Heavy()

    config = ParallelConfig(max_workers=1, observer="noop")
    gc.collect()
    gc.disable()
    try:
        result = await process_parallel(range(4), make, config=config)
        alive = [weakref.ref(made) for made in result.results]
        del result
        async with open_parallel(range(4), make, config=config) as run:
            outcome = await anext(run)
        alive += [weakref.ref(made) for made in run.result().results]
        del run, outcome
        try:
            await process_parallel(range(5), make, config=config)
        except ParallelError as error:
            alive += [weakref.ref(made) for made in error.result.results]
        assert len(alive) > 8
        assert [ref() for ref in alive if ref() is not None] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("streamed", [False, True])
async def test_max_failures_ends_the_run_with_the_failure_after_these(streamed):
    started = []

    async def fail(item):
        started.append(item)
        await trio.lowlevel.checkpoint()
        if item % 2:
            raise ValueError(f"item {item}")
        return item

    config = ParallelConfig(max_workers=1, fail_fast=False, max_failures=2, observer="noop")
    taken = []
    with pytest.raises(ParallelError) as caught:
        if streamed:
            async with open_parallel(range(20), fail, config=config) as run:
                taken += [outcome async for outcome in run]
        else:
            await process_parallel(range(20), fail, config=config)
    assert started == [0, 1, 2, 3, 4, 5]
    assert [failure.index for failure in caught.value.errors] == [1, 3, 5]
    assert caught.value.result.results == [0, 2, 4]
    assert caught.value.result.status == "failed"
    if streamed:
        assert [outcome.index for outcome in taken] == [0, 1, 2, 3, 4], "the failure that ended it is raised instead"


async def test_as_many_failures_as_may_be_raise_nothing():
    async def fail(item):
        await trio.lowlevel.checkpoint()
        if item < 2:
            raise ValueError(item)

    result = await process_parallel(range(9), fail, config=ParallelConfig(max_failures=2, observer="noop"))
    assert [failure.index for failure in result.errors] == [0, 1]
    assert result.status == "complete"


async def test_a_run_whose_items_all_failed_can_be_told_not_to_raise():
    async def fail(item):
        await trio.lowlevel.checkpoint()
        raise ValueError(item)

    config = ParallelConfig(fail_fast=False, raise_if_all_failed=False, observer="noop")
    result = await process_parallel(range(3), fail, config=config)
    assert [failure.index for failure in result.errors] == [0, 1, 2]


async def test_a_burst_starts_at_once(autojump_clock):
    started = []

    async def note(item):
        started.append(round(trio.current_time(), 3))
        await trio.lowlevel.checkpoint()

    begun = trio.current_time()
    config = ParallelConfig(max_workers=8, max_per_second=1, burst=3, observer="noop")
    await process_parallel(range(5), note, config=config)
    assert [round(at - begun) for at in started] == [0, 0, 0, 1, 2]


# --- on_outcome


async def test_on_outcome_is_called_for_each_success_and_each_failure(autojump_clock):
    async def fail_two(item):
        await trio.sleep(item)
        if item == 2:
            raise ValueError("two")
        return item * 10

    seen = []
    result = await process_parallel(range(4), fail_two, config=COLLECT_ALL, on_outcome=seen.append)
    assert [(outcome.index, outcome.item, outcome.result) for outcome in seen] == [
        (0, 0, 0),
        (1, 1, 10),
        (2, 2, None),
        (3, 3, 30),
    ]
    assert [outcome.duration for outcome in seen] == [0, 1, 2, 3]
    assert [outcome.attempts for outcome in seen] == [1, 1, 1, 1]
    assert seen[2].error is result.errors[0].error


async def test_on_outcome_is_told_of_the_failure_that_ends_the_run_and_not_of_what_is_unfinished(autojump_clock):
    async def work(item):
        await trio.sleep(item)
        if item == 1:
            raise ValueError("one")

    seen = []
    with pytest.raises(ParallelError):
        await process_parallel(range(4), work, config=FAIL_FAST, on_outcome=seen.append)
    assert [(outcome.index, outcome.ok) for outcome in seen] == [(0, True), (1, False)]


@pytest.mark.parametrize("fails", [True, False])
async def test_on_outcome_raising_stops_the_run_and_comes_out_bare(autojump_clock, fails):
    class Full(Exception):
        pass

    async def work(item):
        await trio.sleep(1 if item < 4 else 3)
        if fails:
            raise ValueError(item)

    calls = []

    def on_outcome(outcome):
        calls.append(outcome.index)
        if len(calls) == 2:
            raise Full

    with pytest.raises(Full) as caught:
        await process_parallel(range(100), work, config=COLLECT_ALL, on_outcome=on_outcome)
    assert re.fullmatch(r"raised by on_outcome after \d items pulled", caught.value.__notes__[0])
    assert len(calls) == 2
    assert trio.current_time() <= 3


async def test_on_outcome_is_told_of_items_whose_time_is_up_and_may_raise_then(autojump_clock):
    config = ParallelConfig(max_workers=2, fail_fast=False, timeout=5, observer="noop")
    seen = []
    with pytest.raises(ParallelError):
        await process_parallel(range(50), lambda _: trio.sleep(9), config=config, on_outcome=seen.append)
    assert sorted(outcome.index for outcome in seen) == list(range(50))
    assert {type(outcome.error) for outcome in seen} == {trio.TooSlowError}
    for turn in (1, 2, 3, 30):
        calls = []

        def on_outcome(outcome, calls=calls, turn=turn):
            calls.append(outcome)
            if len(calls) == turn:
                raise KeyError("full")

        with pytest.raises(KeyError) as caught:
            await process_parallel(range(50), lambda _: trio.sleep(9), config=config, on_outcome=on_outcome)
        assert caught.value.__notes__[-1] == "when the run ended: 0 succeeded, 50 failed, 0 unfinished"
        assert len(calls) == turn


async def test_on_outcome_raising_for_an_item_that_left_a_scope_open_stops_the_run(autojump_clock):
    async def leak(item):
        trio.CancelScope().__enter__().cancel()
        await trio.lowlevel.checkpoint()

    def on_outcome(outcome):
        raise KeyError("full")

    with pytest.raises(KeyError):
        await process_parallel(range(100), leak, config=COLLECT_ALL, on_outcome=on_outcome)


async def test_on_outcome_may_be_interrupted():
    def on_outcome(outcome):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await process_parallel(range(100), double, config=COLLECT_ALL, on_outcome=on_outcome)
@pytest.mark.parametrize("workers", [2, 3, 8])
async def test_a_slow_item_at_the_end_of_a_batch_holds_nobody_back(workers, autojump_clock):
    async def slow_at_the_end_of_the_window(item):
        if item == workers + 3:
            await trio.sleep(100)
        finished.append(item)

    finished = []
    config = ParallelConfig(max_workers=workers, buffer=4, observer="noop")
    with trio.move_on_after(50):
        await process_parallel(range(1000), slow_at_the_end_of_the_window, config=config)
    assert len(finished) == 999


async def test_room_that_a_burst_leaves_is_not_forgotten(monkeypatch, autojump_clock):
    async def nap_for_one_in_four(item):
        begun.append(item)
        if item % 4 == 0:
            await trio.sleep(1)

    config = ParallelConfig(max_workers=5, buffer=12, observer="noop")
    for seed in range(10):
        # Whether the consumer or the feeder is first is Trio's choice.
        monkeypatch.setattr(trio._core._run, "_r", random.Random(seed))
        begun = []
        async with open_parallel(range(20), nap_for_one_in_four, config=config, ordered=True) as run:
            with trio.move_on_after(0.5):
                await anext(run)
            assert len(begun) == 17


def workers_now():
    """Return how many workers there are in the run of the caller."""
    tasks = [trio.lowlevel.current_root_task()]
    for task in tasks:
        tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return sum(" worker " in task.name for task in tasks)


async def test_there_are_no_more_workers_than_items_to_work_on(autojump_clock):
    seen = []

    async def look(item):
        await trio.sleep(1)
        seen.append(workers_now())
        return item

    config = ParallelConfig(max_workers=100_000, observer="noop")
    assert (await process_parallel(range(10), look, config=config)).results == list(range(10))
    assert max(seen) == 10

    async def slowly():
        for item in range(5):
            yield item
            await trio.sleep(3)

    seen.clear()
    assert (await process_parallel(slowly(), look, config=config)).results == list(range(5))
    assert max(seen) == 1


async def test_workers_start_in_the_context_of_the_run_whoever_makes_them_needed(autojump_clock):
    name = contextvars.ContextVar("name", default="the run's")
    queue = WorkQueue([0])
    seen = []

    async def put_more(item):
        seen.append(name.get())
        name.set("an item's")
        if item == 0:
            for more in (1, 2, 3):
                queue.put(more)
        await trio.sleep(1)

    await process_parallel(queue, put_more, config=ParallelConfig(max_workers=8, observer="noop"))
    assert seen == ["the run's"] * 4


async def test_unfinished_items_of_a_large_input_take_no_memory():
    async def fail(item):
        raise ValueError("boom")

    with pytest.raises(ParallelError) as caught:
        await process_parallel(range(10**9), fail, config=FAIL_FAST)
    unfinished = caught.value.result.unfinished
    assert isinstance(unfinished, Indexes)
    assert len(unfinished) == 10**9 - len(caught.value.errors) - len(caught.value.result.results)
    assert unfinished[-1] == 10**9 - 1
    with pytest.raises(ParallelError) as caught:
        await process_parallel(range(100), fail, config=FAIL_FAST)
    assert type(caught.value.result.unfinished) is list


@pytest.mark.parametrize("ordered", [False, True])
async def test_items_that_never_began_in_time_are_handed_out_one_by_one_and_kept_nowhere(ordered, autojump_clock):
    async def work(item):
        await trio.sleep(4 if item < 8 else 9)
        return item

    config = ParallelConfig(max_workers=4, timeout=10, fail_fast=False, observer="noop")
    async with open_parallel(range(20_000), work, config=config, ordered=ordered, keep_results=False) as run:
        taken = [await anext(run) for _ in range(1_000)]
        left = run.result()
        assert len(left.errors) == 20_000 - 1_000
        assert left.errors[0].index == 1_000
        assert left.errors[-1].item == 19_999
        assert left.status == "timeout"
        assert len(run._pool.ledger.done.batch) < 100
        taken += [outcome async for outcome in run]
    indexes = [outcome.index for outcome in taken]
    assert (indexes if ordered else sorted(indexes)) == list(range(20_000))
    assert {outcome.index for outcome in taken if outcome.ok} == set(range(8))
    assert {type(outcome.error) for outcome in taken if not outcome.ok} == {trio.TooSlowError}
    assert run.progress.value == Progress(8, 20_000 - 8, 20_000)
    assert run.result().errors == []


async def test_the_account_of_items_that_never_began_is_whole_where_the_body_leaves(autojump_clock):
    async def work(item):
        await trio.sleep_forever()

    observer = RecordingObserver()
    config = ParallelConfig(max_workers=2, timeout=1, fail_fast=False)
    async with open_parallel(range(1_000), work, config=config, keep_results=False, observer=observer) as run:
        await anext(run)
    assert len(run.result().errors) == 999
    assert observer.events[-1].data["items_failed"] == 1_000
    assert observer.events[-1].data["items_unfinished"] == 0


async def test_the_result_at_each_outcome_is_that_of_the_moment(autojump_clock):
    async def work(item):
        await trio.sleep((7 * item) % 10)
        if item % 5 == 0:
            raise ValueError(item)
        return item

    config = ParallelConfig(max_workers=8, fail_fast=False, observer="noop")
    taken, before = [], []
    async with open_parallel(range(60), work, config=config) as run:
        async for outcome in run:
            taken.append(outcome)
            now = run.result()
            assert now.indices == now.results == sorted(now.indices)
            assert [error.index for error in now.errors] == sorted(error.index for error in now.errors)
            assert {outcome.index for outcome in taken} <= {*now.indices, *(error.index for error in now.errors)}
            before.append((now, list(now.results), list(now.errors)))
    assert all(now.results == results and now.errors == errors for now, results, errors in before)
