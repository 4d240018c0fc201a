"""The same promises on every engine: accounts are exact, order, errors, retries and what is kept are as ever."""

import os
from concurrent.futures import ThreadPoolExecutor

import executor_calls as calls
import pytest
import trio
from executor_pools import thread_pool

from trioflow import (
    ChainConfig,
    MemoryStore,
    ParallelConfig,
    RetryConfig,
    TransferError,
    current_run,
    on_executor,
    open_parallel,
    process_chain,
    process_parallel,
    with_retry,
)
from trioflow.testing import assert_accounted

ITEMS = int(os.environ.get("TRIOFLOW_CALLS", "2000"))

pytestmark = pytest.mark.usefixtures("nothing_left")

QUIET = ParallelConfig(fail_fast=False, raise_if_all_failed=False, observer="noop", max_workers=4)
WIDE = ParallelConfig(fail_fast=False, observer="noop", max_workers=200)


async def test_every_item_is_accounted_for(engine):
    items = range(ITEMS)
    result = await process_parallel(items, on_executor(engine, calls.square, chunk=50), config=WIDE)
    assert_accounted(result, items)
    assert result.status == "complete"
    assert [failed.index for failed in result.errors] == list(range(7, ITEMS, 100))
    assert all(str(failed.error) == f"bad {failed.item}" for failed in result.errors)
    assert result.results == [number * number for number in items if number % 100 != 7]


async def test_a_stream_in_order_with_single_calls(engine):
    async with open_parallel(range(20), on_executor(engine, calls.square), config=QUIET, ordered=True) as run:
        outcomes = [outcome async for outcome in run]
    assert [outcome.index for outcome in outcomes] == list(range(20))
    assert [outcome.ok for outcome in outcomes].count(False) == 1


async def test_an_async_function_has_a_trio_run_over_there(engine):
    result = await process_parallel(range(9), on_executor(engine, calls.square_async), config=QUIET)
    assert result.indices == [0, 1, 2, 3, 4, 5, 6, 8]
    assert isinstance(result.errors[0].error, ValueError)


async def test_an_error_comes_back_as_itself_with_its_traceback(engine):
    result = await process_parallel([3], on_executor(engine, calls.raise_rich), config=QUIET)
    error = result.errors[0].error
    assert type(error) is calls.RichError
    assert error.code == 3
    note = error.__notes__[0]
    assert note.startswith("remote traceback:\nTraceback")
    assert "KeyError: 'cause'" in note
    assert "in raise_rich" in note
    assert "_requests.py" not in note


async def test_current_run_is_there_and_emit_is_not(engine):
    async def here(number):
        context = current_run()
        told = await on_executor(engine, calls.say_run)(number)
        return context, told

    result = await process_parallel([5, 6], here, config=QUIET, run_id="the run")
    for context, told in result.results:
        expected = [context.run_id, "parallel", context.index, 1, context.key]
        assert told == [*expected, "emit() works where the run is, and the run is in another process or thread"]


async def test_current_run_is_not_there_outside_of_a_run(engine):
    assert "while a run calls them" in await on_executor(engine, calls.outside)(None)


async def test_a_span_is_current_over_there_and_gone_afterwards(engine):
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="the SDK of OpenTelemetry makes the spans")
    tracer = sdk.TracerProvider().get_tracer("test")
    say_span = on_executor(engine, calls.say_span)
    with tracer.start_as_current_span("here") as span:
        _, trace_id, span_id = await say_span(None)
    assert (trace_id, span_id) == (span.get_span_context().trace_id, span.get_span_context().span_id)
    assert (await say_span(None))[1:] == (0, 0)


async def test_context_variables_of_one_call_are_not_seen_by_the_next(engine):
    processor = on_executor(engine, calls.set_variable, chunk=5)
    result = await process_parallel("abcde", processor, config=ParallelConfig(max_workers=5, observer="noop"))
    assert result.results == ["unset"] * 5


async def test_keyword_arguments_and_a_chain(engine):
    assert await on_executor(engine, calls.add)(1, third=5) == 6
    total = await process_chain(
        [1, 2, 3], 0, on_executor(engine, calls.add), config=ChainConfig(observer="noop")
    )
    assert total.final == 6


async def test_attempts_are_counted_and_reported(engine, tmp_path):
    processor = with_retry(on_executor(engine, calls.raise_rich), RetryConfig(max_attempts=2, initial_delay=0.01))
    result = await process_parallel([1], processor, config=QUIET)
    assert result.errors[0].attempts == 2


async def test_what_succeeded_is_not_called_again(engine):
    store = MemoryStore()
    kept = {"config": QUIET, "store": store, "run_id": "kept"}
    first = await process_parallel(range(10), on_executor(engine, calls.square), **kept)
    again = await process_parallel(range(10), on_executor(engine, calls.pid), **kept)
    assert again.results[0] == first.results[0] == 0
    assert len(again.results) == 10
    assert again.results[7] not in first.results  # the one that failed, by the other function


async def test_system_exit_stops_the_run_bare(engine):
    with pytest.raises(SystemExit) as caught:
        await process_parallel([1], on_executor(engine, calls.raise_exit), config=QUIET)
    assert caught.value.code == 3


async def test_an_argument_that_does_not_pickle_fails_its_item_alone(engine):
    import threading

    items = [1, threading.Lock(), 2]
    processor = on_executor(engine, calls.pid, chunk=3)
    result = await process_parallel(items, processor, config=QUIET)
    if isinstance(engine, ThreadPoolExecutor):
        assert result.errors == []
        return
    assert_accounted(result, items)
    (failed,) = result.errors
    assert failed.index == 1
    assert isinstance(failed.error, TransferError)
    assert failed.error.what == "argument"
    assert "argument '_' of pid, a lock, cannot be pickled: cannot pickle" in str(failed.error)


@pytest.mark.parametrize(
    ("fn", "what", "says"),
    [
        (calls.give_lock, "result", "the result, a lock, cannot be pickled: cannot pickle"),
        (calls.give_one_way, "result", "the result cannot be unpickled here: no way back"),
        (calls.raise_odd, "error", "the call failed with OddError (odd: a b), an error that cannot be unpickled here"),
        (calls.raise_locked, "error", "the call failed with LockedError (locked), an error that cannot be pickled"),
    ],
)
async def test_what_does_not_come_back_is_named(engine, fn, what, says):
    result = await process_parallel([1], on_executor(engine, fn), config=QUIET)
    if isinstance(engine, ThreadPoolExecutor):
        assert not any(isinstance(failed.error, TransferError) for failed in result.errors)
        return
    error = result.errors[0].error
    assert isinstance(error, TransferError)
    assert error.what == what
    assert says in str(error)
    if what == "error":
        assert "Traceback" in error.__notes__[0]


async def test_an_argument_that_does_not_unpickle_is_named(engine):
    result = await process_parallel([calls.OneWay()], on_executor(engine, calls.pid), config=QUIET)
    if isinstance(engine, ThreadPoolExecutor):
        return
    error = result.errors[0].error
    assert error.what == "argument"
    assert "argument '_' of pid cannot be unpickled by the worker: no way back" in str(error)


async def test_what_two_arguments_share_is_shared_over_there(engine):
    same = [1]
    assert await on_executor(engine, calls.both)(same, second={"same": same})


@pytest.mark.parametrize("seconds", [0.02, 30], ids=["quick calls", "slow calls"])
async def test_cancellation_in_the_middle(factory, seconds):
    """What the run has made is gone when it ends, busy or not."""
    if factory is thread_pool and seconds > 1:
        pytest.skip("a thread cannot be killed")
    naps = [0.02] * 12 + [seconds] * 38
    config = ParallelConfig(fail_fast=False, observer="noop", max_workers=8)
    with trio.fail_after(20):
        async with open_parallel(naps, on_executor(factory, calls.nap, chunk=2), config=config) as run:
            async for outcome in run:
                if outcome.index >= 8:
                    run.cancel()
    result = run.result()
    assert_accounted(result, naps)
    assert result.status == "cancelled"
    assert 1 <= len(result.results) < 50
    assert result.unfinished


async def test_calls_on_an_executor_of_the_callers_are_abandoned(engine):
    with trio.move_on_after(0.2) as scope:
        await process_parallel([0.5] * 8, on_executor(engine, calls.nap), config=QUIET)
    assert scope.cancelled_caught
    assert trio.current_time() - scope.deadline < 1.5  # all calls would take 2 s
    assert await on_executor(engine, calls.square)(2) == 4


async def test_the_loop_is_never_held(factory):
    """An engine starts, works and is shut down while another task wants to run every few milliseconds."""
    longest = 0.0

    async def watch(task_status):
        nonlocal longest
        task_status.started()
        while True:
            before = trio.current_time()
            await trio.sleep(0.002)
            longest = max(longest, trio.current_time() - before)

    async with trio.open_nursery() as nursery:
        await nursery.start(watch)
        await process_parallel([0.01] * 20, on_executor(factory, calls.nap, chunk=2), config=QUIET)
        nursery.cancel_scope.cancel()
    assert longest < 0.5  # starting a pool takes longer than that where it is waited for


async def test_a_large_argument_and_result(engine):
    text = "x" * 3_000_000
    assert await on_executor(engine, calls.length)(text) == 3_000_000
