"""`with_timeout`: a limit on one call."""

import pytest
import trio

from trioflow import ConfigError, ParallelConfig, RetryConfig, process_parallel, with_retry, with_timeout


async def nap(seconds, *, then="done"):
    await trio.sleep(seconds)
    return then


async def test_a_call_in_time_returns(autojump_clock):
    assert await with_timeout(nap, 5)(3, then="well") == "well"


async def test_a_call_that_takes_too_long_raises_too_slow_error(autojump_clock):
    with pytest.raises(trio.TooSlowError, match="timed out after 2.5 s"):
        await with_timeout(nap, 2.5)(3)
    assert trio.current_time() == pytest.approx(2.5)


async def test_a_call_that_returned_counts_even_past_the_limit(autojump_clock):
    async def shielded():
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        return "kept"

    assert await with_timeout(shielded, 1)() == "kept"


async def test_an_outer_cancellation_is_not_a_timeout(autojump_clock):
    with trio.move_on_after(1) as scope:
        await with_timeout(nap, 5)(100)
    assert scope.cancelled_caught


async def test_a_limit_that_cuts_a_back_off_is_raised_from_the_last_failure(autojump_clock):
    failure = ValueError("busy")

    async def busy():
        raise failure

    patient = with_retry(busy, RetryConfig(initial_delay=100, max_delay=100))
    with pytest.raises(trio.TooSlowError) as caught:
        await with_timeout(patient, 5)()
    assert caught.value.__cause__ is failure
    with pytest.raises(trio.TooSlowError) as caught:
        await with_timeout(nap, 5)(10)
    assert caught.value.__cause__ is None


async def test_the_name_and_docstring_stay():
    assert with_timeout(nap, 1).__name__ == "nap"


@pytest.mark.parametrize("cancel", [False, True])
async def test_a_result_is_kept_though_the_call_left_a_scope_open(autojump_clock, cancel):
    left_open = []

    async def leak():
        await trio.sleep(1)
        left_open.append(trio.CancelScope().__enter__())
        if cancel:
            left_open[-1].cancel()
        return "kept"

    assert await with_timeout(leak, 5)() == "kept"
    # The task is as it was: neither the scope that was left open nor its own deadline reach it any more.
    left_open[-1].cancel()
    await trio.sleep(10)


async def test_an_error_of_a_call_that_left_a_scope_open_is_not_lost(autojump_clock):
    async def leak():
        trio.CancelScope().__enter__()
        raise ValueError("mine")

    with pytest.raises(RuntimeError, match="corrupted") as caught:
        await with_timeout(leak, 5)()
    assert isinstance(caught.value.__context__, ValueError)


async def test_a_runtime_error_of_the_call_passes():
    async def fail():
        await trio.lowlevel.checkpoint()
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        await with_timeout(fail, 5)()


async def test_a_run_keeps_such_a_result_and_calls_once(autojump_clock):
    calls = []

    async def leak(item):
        calls.append(item)
        await trio.lowlevel.checkpoint()
        if item == 3:
            trio.CancelScope().__enter__().cancel()
        return item

    config = ParallelConfig(max_workers=2, task_timeout=5, retry=RetryConfig(), fail_fast=False, observer="noop")
    result = await process_parallel(range(20), leak, config=config)
    assert result.results == list(range(20))
    assert sorted(calls) == list(range(20))


@pytest.mark.parametrize("seconds", [0, -1, None, "1", float("inf")])
def test_a_limit_that_is_not_positive_is_refused(seconds):
    with pytest.raises(ConfigError, match="seconds must be a positive number"):
        with_timeout(nap, seconds)


def test_a_function_that_is_not_async_is_refused():
    with pytest.raises(ConfigError, match="fn must be an async function"):
        with_timeout(print, 1)
