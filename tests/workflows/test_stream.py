"""The stream: outcomes as they complete or in item order, and the handle that watches and ends the run."""

import gc
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trioflow import (
    ParallelConfig,
    ParallelError,
    ParallelRun,
    Progress,
    RecordingObserver,
    TaskOutcome,
    open_parallel,
)

FAIL_FAST = ParallelConfig(max_workers=4, observer="noop")
COLLECT_ALL = ParallelConfig(max_workers=4, fail_fast=False, observer="noop")


async def nap(seconds):
    await trio.sleep(seconds)
    return seconds


async def test_outcomes_come_as_they_complete(autojump_clock):
    async with open_parallel([3, 1, 2], nap, config=FAIL_FAST) as run:
        outcomes = [outcome async for outcome in run]
    assert [outcome.index for outcome in outcomes] == [1, 2, 0]
    assert [outcome.result for outcome in outcomes] == [1, 2, 3]
    assert all(isinstance(outcome, TaskOutcome) and outcome.ok for outcome in outcomes)


async def test_ordered_outcomes_come_in_item_order(autojump_clock):
    async with open_parallel([3, 1, 2, 0.5], nap, config=FAIL_FAST, ordered=True) as run:
        outcomes = [outcome async for outcome in run]
    assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3]


async def test_an_outcome_tells_attempts_and_duration_by_trios_clock(autojump_clock):
    async with open_parallel([2.5], nap, config=FAIL_FAST) as run:
        (outcome,) = [outcome async for outcome in run]
    assert outcome.attempts == 1
    assert outcome.duration == pytest.approx(2.5)
    assert outcome.item == 2.5


async def test_an_ordered_stream_skips_what_failed_under_fail_fast(autojump_clock):
    async def work(item):
        await trio.sleep([1, 5, 2, 3][item])
        if item == 1:
            raise ValueError("boom")
        return item

    seen = []
    with pytest.raises(ParallelError):
        async with open_parallel(range(4), work, config=FAIL_FAST, ordered=True) as run:
            seen = [outcome.index async for outcome in run]
    assert seen == [0, 2, 3]


async def test_fail_fast_ends_the_iteration_and_leaving_the_block_raises(autojump_clock):
    async def work(item):
        await trio.sleep(item)
        if item == 2:
            raise ValueError("boom")
        return item

    seen, after_loop = [], False
    with pytest.raises(ParallelError) as caught:
        async with open_parallel(range(10), work, config=FAIL_FAST) as run:
            async for outcome in run:
                seen.append(outcome.index)
            await trio.sleep(50)
            after_loop = True
    assert seen == [0, 1]
    assert after_loop, "the body is not cancelled"
    assert caught.value.result.unfinished == [3, 4, 5, 6, 7, 8, 9]
    assert caught.value.result == run.result()


async def test_fail_fast_raises_even_if_the_body_never_looked(autojump_clock):
    async def fail(item):
        raise ValueError("boom")

    with pytest.raises(ParallelError):
        async with open_parallel(range(3), fail, config=FAIL_FAST):
            await trio.sleep(1)


async def test_collect_all_yields_failed_outcomes_and_raises_nothing(autojump_clock):
    async def work(item):
        await trio.sleep(item)
        if item == 1:
            raise ValueError("boom")
        return item

    async with open_parallel(range(3), work, config=COLLECT_ALL) as run:
        outcomes = [outcome async for outcome in run]
    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    with pytest.raises(ValueError, match="boom"):
        outcomes[1].unwrap()
    assert outcomes[2].unwrap() == 2


@pytest.mark.parametrize("ordered", [False, True])
async def test_timeout_yields_every_unfinished_item_as_failed(ordered, autojump_clock):
    config = ParallelConfig(max_workers=2, fail_fast=False, timeout=5, observer="noop")
    async with open_parallel([9, 1, 9, 9], nap, config=config, ordered=ordered) as run:
        outcomes = [outcome async for outcome in run]
    assert sorted((outcome.index, outcome.ok) for outcome in outcomes) == [
        (0, False),
        (1, True),
        (2, False),
        (3, False),
    ]
    if ordered:
        assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3]


async def test_breaking_out_cancels_the_rest(autojump_clock):
    async with open_parallel([1, 2, 3, 100, 100], nap, config=FAIL_FAST) as run:
        async for outcome in run:
            if outcome.index == 1:
                break
    assert trio.current_time() < 50
    assert run.result().indices == [0, 1]
    assert run.result().unfinished == [2, 3, 4]


async def test_an_exception_of_the_body_comes_out_as_it_is_and_cancels_the_rest(autojump_clock):
    error = LookupError("body")
    with pytest.raises(LookupError) as caught:
        async with open_parallel([1, 100], nap, config=FAIL_FAST) as run:
            async for _ in run:
                raise error
    assert caught.value is error
    assert trio.current_time() < 50


async def test_a_group_raised_by_the_body_comes_out_as_it_is():
    group = ExceptionGroup("body", [ValueError(1), KeyError(2)])
    with pytest.raises(ExceptionGroup) as caught:
        async with open_parallel([], nap, config=FAIL_FAST):
            raise group
    assert caught.value is group


async def test_an_exception_of_the_body_beats_an_item_error(autojump_clock):
    async def fail(item):
        raise ValueError("item")

    with pytest.raises(LookupError):
        async with open_parallel(range(3), fail, config=FAIL_FAST):
            await trio.sleep(1)
            raise LookupError("body")


async def test_a_non_exception_of_the_body_comes_out_bare():
    with pytest.raises(KeyboardInterrupt):
        async with open_parallel([1], nap, config=FAIL_FAST):
            raise KeyboardInterrupt


async def test_a_source_error_comes_out_on_leaving_the_block(autojump_clock):
    def source():
        yield 0
        raise LookupError("source")

    reached = False
    with pytest.raises(LookupError):
        async with open_parallel(source(), nap, config=FAIL_FAST) as run:
            async for _ in run:
                pass
            reached = True
    assert reached


async def test_a_return_from_the_block_cancels_the_rest(autojump_clock):
    async def first():
        async with open_parallel([100, 1, 100], nap, config=FAIL_FAST) as run:
            async for outcome in run:
                return outcome.result

    assert await first() == 1
    assert trio.current_time() < 50


# --- drain and cancel


async def test_drain_pulls_no_more_and_lets_those_in_flight_finish(autojump_clock):
    async with open_parallel(range(100), lambda_nap(2), config=FAIL_FAST) as run:
        await trio.sleep(1)
        run.drain()
        seen = [outcome.index async for outcome in run]
    assert sorted(seen) == [0, 1, 2, 3]
    assert trio.current_time() == pytest.approx(2, abs=0.1)
    assert run.result().unfinished == list(range(4, 100))


def lambda_nap(seconds):
    async def work(item):
        await trio.sleep(seconds)
        return item

    return work


async def test_drain_leaves_items_that_were_pulled_but_not_started_unfinished(autojump_clock):
    async def source():
        for item in range(100):
            yield item

    config = ParallelConfig(max_workers=2, buffer=3, observer="noop")
    async with open_parallel(source(), lambda_nap(2), config=config) as run:
        await trio.sleep(1)
        run.drain()
        seen = [outcome.index async for outcome in run]
    assert sorted(seen) == [0, 1]
    assert run.result().unfinished == [2, 3, 4]
    assert run.result().total == 5


async def test_drain_leaves_items_unfinished_that_were_pulled_to_the_end_of_the_source(autojump_clock):
    config = ParallelConfig(max_workers=2, buffer=3, observer="noop")
    async with open_parallel(range(5), lambda_nap(2), config=config) as run:
        await trio.sleep(1)
        run.drain()
        run.drain()
        seen = [outcome.index async for outcome in run]
    assert sorted(seen) == [0, 1]
    assert run.result().unfinished == [2, 3, 4]
    assert run.result().status == "drained"


async def test_drain_with_everything_in_flight_ends_a_complete_run(autojump_clock):
    async with open_parallel(range(4), lambda_nap(2), config=FAIL_FAST) as run:
        await trio.sleep(1)
        run.drain()
        assert len([outcome async for outcome in run]) == 4
    assert run.result().status == "complete"


@pytest.mark.parametrize("how", ["drain", "cancel"])
async def test_drain_and_cancel_from_another_thread_are_refused_and_change_nothing(how):
    async def one_turn(item):
        await trio.lowlevel.checkpoint()
        return item

    async def in_another_run(stop):
        stop()

    async with open_parallel(range(50), one_turn, config=FAIL_FAST) as run:
        await anext(run)
        stop = getattr(run, how)
        with pytest.raises(RuntimeError, match="from_thread"):
            await trio.to_thread.run_sync(stop)
        with pytest.raises(RuntimeError, match="from_thread"):
            await trio.to_thread.run_sync(trio.run, in_another_run, stop)
        assert len([outcome async for outcome in run]) == 49
    assert run.result().status == "complete"


@pytest.mark.parametrize("how", ["drain", "cancel"])
async def test_another_thread_is_refused_before_the_run_has_begun_too(how):
    async with open_parallel([0] * 5, nap, config=FAIL_FAST) as run:
        with ThreadPoolExecutor(1) as threads:  # no await: the tasks of the run have not had their first turn
            refused = threads.submit(getattr(run, how)).exception()
        assert len([outcome async for outcome in run]) == 5
    assert isinstance(refused, RuntimeError)
    assert run.result().status == "complete"


async def test_drain_ends_a_wait_for_the_source(autojump_clock):
    closed = []

    async def source():
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            closed.append(True)

    async with open_parallel(source(), nap, config=FAIL_FAST) as run:
        seen = []
        async for outcome in run:
            seen.append(outcome.result)
            run.drain()
    assert seen == [1]
    assert closed == [True]
    assert run.result().results == [1]


async def test_drain_wakes_workers_that_wait_for_room(autojump_clock):
    config = ParallelConfig(max_workers=2, buffer=1, observer="noop")
    async with open_parallel(range(100), lambda_nap(0.1), config=config) as run:
        await trio.sleep(5)
        run.drain()
        seen = [outcome.index async for outcome in run]
    assert sorted(seen) == [0, 1, 2]


async def test_cancel_stops_at_once_and_keeps_what_completed(autojump_clock):
    async with open_parallel([1, 2, 100, 100, 100], nap, config=FAIL_FAST) as run:
        await trio.sleep(3)
        run.cancel()
        seen = [outcome.index async for outcome in run]
    assert seen == [0, 1]
    assert trio.current_time() < 50
    assert run.result().indices == [0, 1]
    assert run.result().unfinished == [2, 3, 4]


async def test_cancel_before_anything_ran_leaves_everything_unfinished():
    async with open_parallel([1, 2], nap, config=FAIL_FAST) as run:
        run.cancel()
        assert [outcome async for outcome in run] == []
    assert run.result().unfinished == [0, 1]


async def test_drain_and_cancel_after_the_end_do_nothing(autojump_clock):
    async with open_parallel([1, 2], nap, config=FAIL_FAST) as run:
        assert len([outcome async for outcome in run]) == 2
        run.drain()
        run.cancel()
    run.drain()
    run.cancel()
    assert run.result().results == [1, 2]


# --- result, progress, memory


async def test_result_can_be_asked_for_at_any_time(autojump_clock):
    async with open_parallel([1, 2, 3], nap, config=FAIL_FAST) as run:
        assert run.result().unfinished == [0, 1, 2]
        await trio.sleep(2.5)
        result = run.result()
        assert (result.indices, result.unfinished, result.total) == ([0, 1], [2], 3)
        async for _ in run:
            pass
    assert run.result().results == [1, 2, 3]


async def test_without_keeping_results_only_what_was_not_taken_is_held(autojump_clock):
    async def work(item):
        await trio.sleep(item)
        if item in {1, 3}:
            raise ValueError(item)
        return item

    config = ParallelConfig(max_workers=4, fail_fast=False, observer="noop")
    async with open_parallel(range(4), work, config=config, keep_results=False) as run:
        await trio.sleep(5)
        taken = [await anext(run), await anext(run)]
        result = run.result()
    assert [outcome.index for outcome in taken] == [0, 1]
    assert result.results == [2]
    assert [failure.index for failure in result.errors] == [3]
    assert run.progress.value == Progress(2, 2, 4)


async def test_without_keeping_results_a_fail_fast_error_still_has_its_failures(autojump_clock):
    async def fail(item):
        raise ValueError("boom")

    with pytest.raises(ParallelError) as caught:
        async with open_parallel([1], fail, config=FAIL_FAST, keep_results=False) as run:
            async for _ in run:
                pass
    assert [failure.index for failure in caught.value.errors] == [0]


async def test_without_keeping_results_taken_outcomes_are_freed():
    class Heavy:
        pass

    async def make(item):
        return Heavy()

    alive = []
    async with open_parallel(range(100), make, config=FAIL_FAST, keep_results=False) as run:
        async for outcome in run:
            alive.append(weakref.ref(outcome.result))
            del outcome
        gc.collect()
        assert sum(ref() is not None for ref in alive) <= 1


async def test_progress_is_live_and_can_be_waited_for(autojump_clock):
    seen = []

    async def watch(run):
        async for progress in run.progress.eventual_values():
            seen.append(progress)
            if progress.completed + progress.failed == 3:
                return

    async def work(item):
        await trio.sleep(item)
        if item == 2:
            raise ValueError("boom")

    async with trio.open_nursery() as nursery, open_parallel([1, 2, 3], work, config=COLLECT_ALL) as run:
        assert run.progress.value == Progress(0, 0, 3)
        nursery.start_soon(watch, run)
        await run.progress.wait_value(lambda progress: progress.completed == 1)
        assert trio.current_time() == pytest.approx(1, abs=0.1)
        async for _ in run:
            pass
    assert seen == [Progress(0, 0, 3), Progress(1, 0, 3), Progress(1, 1, 3), Progress(2, 1, 3)]


async def test_progress_goes_on_while_the_consumer_is_slow(autojump_clock):
    async with open_parallel([0.1, 0.1, 0.1], nap, config=FAIL_FAST) as run:
        await trio.sleep(5)
        assert run.progress.value == Progress(3, 0, 3)


async def test_a_slow_consumer_slows_the_producer(autojump_clock):
    started = []

    async def work(item):
        started.append(item)
        return item

    config = ParallelConfig(max_workers=2, buffer=2, observer="noop")
    async with open_parallel(range(100), work, config=config) as run:
        await wait_all_tasks_blocked()
        assert len(started) == 4
        await anext(run)
        await wait_all_tasks_blocked()
        assert len(started) == 5


async def test_taking_an_outcome_is_a_checkpoint_on_every_path():
    async with open_parallel([0, 0], nap, config=FAIL_FAST) as run:
        await wait_all_tasks_blocked()
        for _ in range(2):
            with assert_checkpoints():
                await anext(run)
        with assert_checkpoints(), pytest.raises(StopAsyncIteration):
            await anext(run)


async def test_a_cancelled_wait_for_an_outcome_takes_nothing(autojump_clock):
    async with open_parallel([2, 3], nap, config=FAIL_FAST) as run:
        with trio.move_on_after(1):
            await anext(run)
        await trio.sleep(10)
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(run)
        assert [outcome.index async for outcome in run] == [0, 1]


async def test_several_consumers_share_the_outcomes(autojump_clock):
    taken = []

    async def consume(run):
        async for outcome in run:
            taken.append(outcome.index)
            await trio.sleep(0.1)

    async with open_parallel(range(50), lambda_nap(0.1), config=FAIL_FAST) as run:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(consume, run)
    assert sorted(taken) == list(range(50))


async def test_all_consumers_wake_when_one_outcome_frees_several(autojump_clock):
    taken = []

    async def consume(run):
        outcome = await anext(run)
        taken.append(outcome.index)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with open_parallel([2, 1, 1, 100], nap, config=FAIL_FAST, ordered=True) as run:
            for _ in range(3):
                nursery.start_soon(consume, run)
            await trio.sleep(5)
            assert sorted(taken) == [0, 1, 2]
        nursery.cancel_scope.cancel()


async def test_an_ordered_stream_that_is_cancelled_yields_what_lies_behind_a_gap_in_order(autojump_clock):
    for _ in range(5):
        async with open_parallel([100, 3, 2, 1], nap, config=FAIL_FAST, ordered=True) as run:
            await trio.sleep(5)
            run.cancel()
            assert [outcome.index async for outcome in run] == [1, 2, 3]


async def test_progress_ends_with_the_run(autojump_clock):
    seen = []

    async def watch(run):
        async for progress in run.progress.eventual_values():
            seen.append(progress.completed)

    async with open_parallel([1, 2], nap, config=FAIL_FAST) as run, trio.open_nursery() as nursery:
        nursery.start_soon(watch, run)
        async for _ in run:
            pass
    assert seen == [0, 1, 2]
    assert [progress.completed async for progress in run.progress.eventual_values()] == [2]


async def test_progress_that_is_asked_for_after_the_end_ends_at_once(autojump_clock):
    async with open_parallel([1], nap, config=FAIL_FAST) as run:
        await anext(run)
    assert [progress.completed async for progress in run.progress.eventual_values()] == [1]


async def test_the_stream_can_be_read_after_the_block():
    async with open_parallel([0, 0], nap, config=FAIL_FAST) as run:
        await wait_all_tasks_blocked()
    assert sorted([outcome.index async for outcome in run]) == [0, 1]


async def test_no_task_outlives_the_block(autojump_clock):
    before = trio.lowlevel.current_statistics().tasks_living
    async with open_parallel([1, 100], nap, config=FAIL_FAST) as run:
        await anext(run)
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_the_complete_event_says_how_the_block_was_left(autojump_clock):
    async def status_of(leave):
        heard = RecordingObserver()
        try:
            with trio.move_on_after(5):
                config = ParallelConfig(max_workers=2)
                async with open_parallel([1, 2, 100], nap, config=config, observer=heard) as run:
                    await leave(run)
        except LookupError:
            pass
        assert heard.events[-1].type == "parallel.complete"
        return heard.events[-1].data["status"]

    async def drain(run):
        await trio.sleep(0.5)
        run.drain()
        async for _ in run:
            pass

    async def break_(run):
        await anext(run)

    async def raise_(run):
        raise LookupError

    async def drain_and_leave(run):
        run.drain()

    assert await status_of(drain) == "cancelled", "an item is unfinished"
    assert await status_of(drain_and_leave) == "cancelled"
    assert await status_of(break_) == "cancelled"
    assert await status_of(raise_) == "error"
    assert await status_of(lambda run: trio.sleep_forever()) == "cancelled"


async def test_a_run_is_made_by_open_parallel_only_and_says_how_it_stands():
    with pytest.raises(TypeError, match="open_parallel"):
        ParallelRun()
    async with open_parallel([0], nap, config=FAIL_FAST) as run:
        await wait_all_tasks_blocked()
        assert "1 ok" in repr(run)


async def test_an_error_that_is_kept_does_not_keep_the_run_alive(autojump_clock):
    class Heavy:
        pass

    async def work(item):
        if item == 1:
            raise ValueError("boom")
        return item

    kept, items = [], [Heavy(), 1]
    alive = weakref.ref(items[0])
    config = ParallelConfig(max_workers=2, fail_fast=False, observer="noop")
    async with open_parallel(iter(items), work, config=config, keep_results=False) as run:
        async for outcome in run:
            if not outcome.ok:
                kept.append(outcome.error)
            del outcome
    items.clear()
    del run
    gc.collect()
    assert alive() is None
    assert kept[0].__traceback__ is not None


# --- a stream inside an async generator


LEFT_EARLY = """
import sys
import trio
from trioflow import ParallelConfig, open_parallel


async def same(item):
    await trio.lowlevel.checkpoint()
    return item


async def outcomes():
    async with open_parallel(range(100), same, config=ParallelConfig(max_workers=3, observer="noop")) as run:
        async for outcome in run:
            yield outcome.result


async def bare():
    async for _ in outcomes():
        break
    await trio.sleep(60)


async def scoped():
    with trio.move_on_after(60):
        await bare()


async def in_a_task():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bare)


trio.run(globals()[sys.argv[1]])
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["bare", "scoped", "in_a_task"])
def test_a_block_in_an_async_generator_that_is_left_early_ends_with_an_error_that_says_what_to_use(where):
    code = [sys.executable, "-P", "-W", "ignore", "-c", LEFT_EARLY, where]
    done = subprocess.run(code, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "put @trio.as_safe_channel on that generator" in done.stderr


async def test_a_block_in_an_async_generator_that_is_closed_where_it_was_begun_is_left_as_any():
    async def outcomes():
        async with open_parallel(range(100), nap_not, config=FAIL_FAST) as run:
            async for outcome in run:
                yield outcome.result

    seen = []
    async with aclosing(outcomes()) as results:
        async for result in results:
            seen.append(result)
            if len(seen) == 3:
                break
    assert len([result async for result in outcomes()]) == 100


async def nap_not(item):
    await trio.lowlevel.checkpoint()
    return item


async def test_a_stream_on_a_safe_channel_can_be_left_early():
    @trio.as_safe_channel
    async def outcomes():
        async with open_parallel(range(100), nap_not, config=FAIL_FAST, ordered=True) as run:
            async for outcome in run:
                yield outcome.result

    seen = []
    async with outcomes() as results:
        async for result in results:
            seen.append(result)
            if len(seen) == 3:
                break
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("keep", [False, True])
async def test_a_stream_can_be_left_at_every_item(ordered, keep):
    for last in range(12):
        taken = []
        async with open_parallel(
            iter(range(12)), nap_not, config=FAIL_FAST, ordered=ordered, keep_results=keep
        ) as run:
            async for outcome in run:
                taken.append(outcome.index)
                assert run.progress.value.done >= len(taken)
                assert outcome.index not in run.result().unfinished
                if len(taken) > last:
                    break
        result = run.result()
        kept = set(result.indices) | set(taken)
        assert kept | set(result.unfinished) == set(range(result.total))
        assert (set(taken) <= set(result.indices)) is keep


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_all_the_room_is_used_while_the_consumer_waits(kind, autojump_clock):
    async def generate():
        for item in range(50):
            yield item

    async def slow_third(item):
        begun.append(item)
        await trio.sleep(100 if item == 3 else 0)

    begun = []
    config = ParallelConfig(max_workers=4, buffer=6, observer="noop")
    source = range(50) if kind == "plain" else generate()
    async with open_parallel(source, slow_third, config=config, ordered=True) as run:
        with trio.move_on_after(10):
            async for _ in run:
                pass
        # Three were taken, which is less than what the feeder is otherwise woken for.
        assert begun == list(range(13))
