"""Cancellation is Trio's: it passes through, it is nobody's failure, and a stray one makes nothing vanish."""

import pytest
import trio

from trioflow import ParallelConfig, ParallelError, open_parallel, process_parallel
from trioflow.workflows._pool import ITEMS_IN_A_ROW

FAIL_FAST = ParallelConfig(max_workers=4, observer="noop")
COLLECT_ALL = ParallelConfig(max_workers=4, fail_fast=False, observer="noop")
ONE = ParallelConfig(max_workers=1, fail_fast=False, observer="noop")


async def test_an_outer_deadline_passes_through(autojump_clock):
    async def forever(item):
        await trio.sleep_forever()

    with trio.move_on_after(3) as scope:
        await process_parallel(range(10), forever, config=COLLECT_ALL)
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(3, abs=0.1)


async def test_after_an_outer_deadline_the_stream_still_tells_what_completed(autojump_clock):
    async def work(item):
        await trio.sleep(1 if item < 3 else 100)
        return item

    with trio.move_on_after(3) as scope:
        async with open_parallel(range(10), work, config=FAIL_FAST) as run:
            async for _ in run:
                pass
    assert scope.cancelled_caught
    result = run.result()
    assert result.results == [0, 1, 2]
    assert result.unfinished == [3, 4, 5, 6, 7, 8, 9]
    assert result.errors == []


async def test_a_result_that_was_returned_under_an_outer_deadline_is_kept(autojump_clock):
    async def uncancellable(item):
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        return item

    with trio.move_on_after(1) as scope:
        async with open_parallel(range(10), uncancellable, config=FAIL_FAST) as run:
            async for _ in run:
                pass
    assert scope.cancelled_caught
    assert run.result().results == [0, 1, 2, 3]


async def test_a_run_that_finished_all_under_an_outer_deadline_returns_its_result(autojump_clock):
    async def uncancellable(item):
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        return item

    with trio.move_on_after(1) as scope:
        result = await process_parallel(range(4), uncancellable, config=FAIL_FAST)
    assert result.results == [0, 1, 2, 3]
    assert not scope.cancelled_caught


async def test_a_run_that_finished_all_returns_its_result_even_if_a_worker_met_the_cancellation(autojump_clock):
    async def last_one_is_uncancellable(item):
        if item == ITEMS_IN_A_ROW - 1:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
        return item

    with trio.move_on_after(1) as scope:
        result = await process_parallel(range(ITEMS_IN_A_ROW), last_one_is_uncancellable, config=ONE)
    assert result.results == list(range(ITEMS_IN_A_ROW))
    assert not scope.cancelled_caught


async def test_an_item_error_beats_an_outer_cancelled_under_fail_fast(autojump_clock):
    async def fail_when_cancelled(item):
        try:
            await trio.sleep_forever()
        finally:
            if item == 1:
                raise ValueError("cleanup")

    with trio.move_on_after(1), pytest.raises(ParallelError) as caught:
        await process_parallel(range(4), fail_when_cancelled, config=FAIL_FAST)
    assert [failure.index for failure in caught.value.errors] == [1]
    assert caught.value.result.unfinished == [0, 2, 3]


async def test_an_outer_cancelled_beats_item_errors_under_collect_all(autojump_clock):
    async def fail_when_cancelled(item):
        try:
            await trio.sleep_forever()
        finally:
            if item < 4:
                raise ValueError("cleanup")

    with trio.move_on_after(1) as scope:
        await process_parallel(range(10), fail_when_cancelled, config=COLLECT_ALL)
    assert scope.cancelled_caught


async def test_an_outer_cancelled_beats_failures_while_the_source_is_not_at_its_end(autojump_clock):
    async def source():
        yield 1
        yield 2
        await trio.sleep_forever()

    async def fail(item):
        raise ValueError("boom")

    with trio.move_on_after(3) as scope:
        await process_parallel(source(), fail, config=COLLECT_ALL)
    assert scope.cancelled_caught


@pytest.mark.parametrize("items", [range(2), iter(range(2))])
async def test_a_run_that_was_cancelled_before_it_began_is_not_complete(items):
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_parallel(items, shielded, config=FAIL_FAST) as run:
            pass
    result = run.result()
    assert result.status == "cancelled"
    assert result.unfinished == list(range(result.total))


async def test_a_cancelled_run_with_a_time_limit_marks_nothing_too_slow(autojump_clock):
    async def forever(item):
        await trio.sleep_forever()

    config = ParallelConfig(max_workers=2, timeout=50, observer="noop")
    with trio.move_on_after(3):
        async with open_parallel(range(3), forever, config=config) as run:
            async for _ in run:
                pass
    assert run.result().errors == []
    assert run.result().unfinished == [0, 1, 2]


async def test_an_outer_cancellation_stays_one_though_the_time_limit_passes_during_clean_up(autojump_clock):
    async def clean_up_for_long(item):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(9)

    config = ParallelConfig(max_workers=2, timeout=5, observer="noop")
    with trio.move_on_after(1) as outer:
        async with open_parallel(range(3), clean_up_for_long, config=config) as run:
            async for _ in run:
                pass
    assert outer.cancelled_caught
    assert trio.current_time() == 10
    result = run.result()
    assert (result.errors, result.unfinished, result.status) == ([], [0, 1, 2], "cancelled")


@pytest.mark.parametrize("config", [FAIL_FAST, COLLECT_ALL])
async def test_a_stale_cancelled_is_the_failure_of_its_item(config, stale):
    async def work(item):
        await trio.lowlevel.checkpoint()
        if item == 2:
            raise stale
        return item

    if config.fail_fast:
        with pytest.raises(ParallelError) as caught:
            await process_parallel(range(6), work, config=config)
        errors = caught.value.errors
    else:
        result = await process_parallel(range(6), work, config=config)
        assert result.results == [0, 1, 3, 4, 5]
        errors = result.errors
    assert [failure.index for failure in errors] == [2]
    assert isinstance(errors[0].error, RuntimeError)
    assert errors[0].error.__cause__ is stale


async def test_every_item_raising_a_stale_cancelled_is_accounted_for(stale):
    async def work(item):
        raise stale

    with pytest.raises(ParallelError) as caught:
        await process_parallel(range(50), work, config=COLLECT_ALL)
    assert [failure.index for failure in caught.value.errors] == list(range(50))


async def test_a_processor_that_cancels_its_own_scope_succeeds():
    async def work(item):
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.sleep_forever()
        return item

    result = await process_parallel(range(20), work, config=FAIL_FAST)
    assert result.results == list(range(20))


async def test_a_leaked_cancelled_scope_fails_the_item_that_meets_it():
    async def leak(item):
        if item == 1:
            scope = trio.CancelScope()
            scope.__enter__()
            scope.cancel()
            await trio.lowlevel.checkpoint()
        return item

    result = await process_parallel(range(5), leak, config=ONE)
    assert result.results == [0, 2, 3, 4]
    assert [failure.index for failure in result.errors] == [1]
    assert isinstance(result.errors[0].error, RuntimeError)
    assert isinstance(result.errors[0].error.__cause__, trio.Cancelled)


async def test_a_leaked_scope_that_is_cancelled_later_fails_the_item_that_meets_it():
    scopes = []

    async def leak(item):
        if item == 0:
            scopes.append(trio.CancelScope())
            scopes[0].__enter__()
        if item == 3:
            scopes[0].cancel()
            await trio.lowlevel.checkpoint()
        return item

    result = await process_parallel(range(6), leak, config=ONE)
    assert result.results == [0, 1, 2, 4, 5]
    assert [failure.index for failure in result.errors] == [3]


async def test_a_leaked_scope_met_between_items_fails_the_run():
    async def leak(item):
        scope = trio.CancelScope()
        scope.__enter__()
        scope.cancel()
        return item

    async def source():
        yield 0
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        yield 1

    with pytest.raises(RuntimeError, match="a task of the run raised trio.Cancelled") as caught:
        await process_parallel(source(), leak, config=ONE)
    assert isinstance(caught.value.__cause__, trio.Cancelled)


async def test_a_leaked_scope_of_an_async_source_fails_the_run(autojump_clock):
    async def source():
        with trio.move_on_after(5):
            for item in range(100):
                yield item

    async def slow(item):
        await trio.sleep(3)

    with pytest.raises(RuntimeError, match="raised trio.Cancelled"):
        await process_parallel(source(), slow, config=ONE)


async def test_leaking_workers_under_an_outer_cancellation_let_it_through(autojump_clock):
    async def leak(item):
        trio.CancelScope().__enter__()
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        async with open_parallel(range(8), leak, config=FAIL_FAST) as run:
            async for _ in run:
                pass
    assert scope.cancelled_caught
    assert run.result().unfinished == list(range(8))


async def test_a_leaked_nursery_ends_the_run_with_trios_error():
    async def leak(item):
        await trio.open_nursery().__aenter__()

    with pytest.raises(RuntimeError, match="Nursery stack corrupted"):
        await process_parallel(range(3), leak, config=COLLECT_ALL)


async def test_a_group_of_errors_is_the_failure_of_its_item():
    async def work(item):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, ValueError(item))
            nursery.start_soon(fail, KeyError(item))

    async def fail(error):
        raise error

    with pytest.raises(ParallelError) as caught:
        await process_parallel([7], work, config=FAIL_FAST)
    (group,) = caught.value.exceptions
    assert isinstance(group, ExceptionGroup)
    assert {type(leaf) for leaf in group.exceptions} == {ValueError, KeyError}
    assert caught.value.subgroup(KeyError).errors[0].index == 0


async def test_a_group_that_mixes_cancelled_and_errors_keeps_the_errors(stale):
    async def work(item):
        raise BaseExceptionGroup("mixed", [stale, ValueError("real")])

    with pytest.raises(ParallelError) as caught:
        await process_parallel([0], work, config=FAIL_FAST)
    (group,) = caught.value.exceptions
    assert isinstance(group, ExceptionGroup)
    assert [type(leaf) for leaf in group.exceptions] == [ValueError]


async def test_a_worker_goes_on_after_a_group_that_mixes_cancelled_and_errors(stale):
    async def work(item):
        if item == 0:
            raise BaseExceptionGroup("mixed", [stale, ValueError("real")])
        return item

    result = await process_parallel(range(5), work, config=ONE)
    assert result.results == [1, 2, 3, 4]


async def test_a_group_of_nothing_but_stale_cancelled_is_a_stale_cancelled(stale):
    async def work(item):
        raise BaseExceptionGroup("only", [stale, BaseExceptionGroup("nested", [stale])])

    with pytest.raises(ParallelError) as caught:
        await process_parallel([0], work, config=FAIL_FAST)
    assert isinstance(caught.value.exceptions[0], RuntimeError)


async def test_a_processor_that_swallows_cancellation_has_its_result_kept(autojump_clock):
    async def stubborn(item):
        if item == 0:
            await trio.sleep(1)
            raise ValueError("boom")
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return "kept"

    with pytest.raises(ParallelError) as caught:
        await process_parallel(range(10), stubborn, config=FAIL_FAST)
    assert caught.value.result.results == ["kept", "kept", "kept"]
    assert caught.value.result.unfinished == [4, 5, 6, 7, 8, 9]


async def shielded(item):
    with trio.CancelScope(shield=True):
        await trio.sleep(1)
    return item


async def test_a_shielded_processor_starts_no_item_after_an_outer_cancellation(autojump_clock):
    with trio.move_on_after(0.5):
        async with open_parallel(range(100), shielded, config=FAIL_FAST) as run:
            async for _ in run:
                pass
    assert run.result().results == [0, 1, 2, 3]
    assert trio.current_time() < 2


@pytest.mark.parametrize("swallow", [False, True])
async def test_a_processor_that_ignores_cancellation_is_not_fed_after_the_timeout(swallow, autojump_clock):
    async def stubborn(item):
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            return item
        return item

    config = ParallelConfig(max_workers=2, fail_fast=False, timeout=0.5, observer="noop")
    result = await process_parallel(range(20), stubborn if swallow else shielded, config=config)
    # A worker that wakes in the very turn of the timeout may take up one more item before the news is out.
    assert len(result.indices) <= 4
    assert [failure.index for failure in result.errors] == list(range(len(result.indices), 20))
    assert trio.current_time() < 3


async def test_a_cancelled_that_an_observer_raises_out_of_the_blue_is_no_cancellation(stale):
    class Stale:
        def on_event(self, event):
            if event.type == "parallel.start":
                raise stale

    caught = None
    try:
        await process_parallel(range(3), shielded, observer=Stale())
    except BaseException as error:  # a Cancelled that got out would end this test, unseen
        caught = error
    assert isinstance(caught, RuntimeError)
    assert caught.__cause__ is stale


@pytest.mark.parametrize("callback", ["progress", "on_outcome"])
@pytest.mark.parametrize("calls", [1, 3])
async def test_a_stale_cancelled_of_a_callback_fails_the_run_after_the_last_item_too(stale, callback, calls):
    called = []

    def raise_stale(*args):
        called.append(args)
        if len(called) == calls:
            raise stale

    caught = None
    try:
        await process_parallel(range(3), shielded, config=ONE, **{callback: raise_stale})
    except BaseException as error:  # a Cancelled that got out would end this test, unseen
        caught = error
    assert isinstance(caught, RuntimeError)
    assert caught.__cause__ is stale


# --- what is not an Exception


class Stop(BaseException):
    pass


@pytest.mark.parametrize("config", [FAIL_FAST, COLLECT_ALL])
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(3), Stop("now"), GeneratorExit()])
async def test_a_non_exception_stops_the_run_and_comes_out_bare(config, stop, autojump_clock):
    async def work(item):
        await trio.sleep(1 if item == 2 else 100)
        raise stop

    with pytest.raises(type(stop)) as caught:
        await process_parallel(range(10), work, config=config)
    assert caught.value is stop
    assert trio.current_time() < 50


async def test_a_non_exception_in_a_group_comes_out_bare():
    async def work(item):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raise_, Stop("now"))
            nursery.start_soon(trio.sleep_forever)
            raise ValueError("less grave")

    async def raise_(error):
        raise error

    with pytest.raises(Stop, match="now"):
        await process_parallel([0], work, config=FAIL_FAST)


async def test_several_non_exceptions_come_out_as_a_group_of_them():
    async def work(item):
        raise BaseExceptionGroup("both", [Stop("now"), ValueError("x"), KeyboardInterrupt()])

    with pytest.raises(BaseExceptionGroup) as caught:
        await process_parallel([0], work, config=FAIL_FAST)
    assert [type(leaf) for leaf in caught.value.exceptions] == [Stop, KeyboardInterrupt]


async def test_the_same_exit_from_several_workers_comes_out_once():
    async def work(item):
        raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        await process_parallel(range(4), work, config=FAIL_FAST)
    assert caught.value.code == 3


async def test_a_non_exception_beats_an_item_error(autojump_clock):
    async def work(item):
        if item == 0:
            await trio.sleep(1)
            raise ValueError("first")
        try:
            await trio.sleep_forever()
        finally:
            raise Stop("later")

    with pytest.raises(Stop):
        await process_parallel(range(2), work, config=FAIL_FAST)


async def test_a_non_exception_stops_the_body_of_a_stream_at_once(autojump_clock):
    async def work(item):
        await trio.sleep(1)
        raise Stop("now")

    with pytest.raises(Stop):
        async with open_parallel(range(3), work, config=COLLECT_ALL):
            await trio.sleep(1000)
    assert trio.current_time() < 500


async def test_cancelling_many_workers_outright_leaves_no_task(autojump_clock):
    before = trio.lowlevel.current_statistics().tasks_living

    async def forever(item):
        await trio.sleep_forever()

    with trio.move_on_after(1):
        await process_parallel(range(500), forever, config=ParallelConfig(max_workers=300, observer="noop"))
    assert trio.lowlevel.current_statistics().tasks_living == before
