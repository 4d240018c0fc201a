"""How runs end: by what they were cut, what was first, and what is left of those that something broke."""

import decimal

import pytest
import trio
from loguru import logger

from trioflow import (
    ParallelConfig,
    ParallelError,
    RecordingObserver,
    RetryConfig,
    open_parallel,
    process_parallel,
)

FAIL_FAST = ParallelConfig(max_workers=4, observer="noop")
COLLECT_ALL = ParallelConfig(max_workers=4, fail_fast=False, observer="noop")


async def nap(seconds):
    await trio.sleep(seconds)
    return seconds


async def fail(item):
    raise ValueError(item)


# --- cancelled from outside


@pytest.mark.parametrize("kind", ["list", "generator", "async"])
@pytest.mark.parametrize("how", ["swallow", "shield"])
async def test_no_item_begins_after_an_outer_cancellation(kind, how, autojump_clock):
    async def generate():
        for item in range(100):
            yield item

    started = []

    async def stubborn(item):
        started.append(item)
        with trio.CancelScope(shield=how == "shield"):
            try:
                await trio.sleep(2)
            except trio.Cancelled:
                pass

    source = {"list": range(100), "generator": iter(range(100)), "async": generate()}[kind]
    with trio.move_on_after(3):
        async with open_parallel(source, stubborn, config=FAIL_FAST) as run:
            async for _ in run:
                pass
    assert len(started) == 8
    assert run.result().indices == list(range(8))
    assert run.result().status == "cancelled"


async def test_no_item_begins_that_had_its_turn_of_the_rate_when_the_run_was_cancelled():
    started = []

    async def cancel_all(item):
        # The other worker has just been given the limiter, and sees no cancellation there any more.
        started.append(item)
        scope.cancel()

    config = ParallelConfig(max_workers=2, max_per_second=1, burst=2, observer="noop")
    with trio.CancelScope() as scope:
        await process_parallel(range(9), cancel_all, config=config)
    assert len(started) == 1


async def test_an_earlier_cancellation_wins_over_a_timeout_of_the_run_during_clean_up(autojump_clock):
    async def slow_to_end(item):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(9)

    heard = RecordingObserver()
    config = ParallelConfig(max_workers=4, timeout=5, fail_fast=True)
    with trio.move_on_after(1) as scope:
        async with open_parallel(range(6), slow_to_end, config=config, observer=heard) as run:
            async for _ in run:
                pass
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(10)
    result = run.result()
    assert (result.status, result.errors, result.unfinished) == ("cancelled", [], list(range(6)))
    ends = [event.data for event in heard.events if event.type == "worker.complete"]
    assert [(end["status"], end["attempts"]) for end in ends] == [("cancelled", 1)] * 4


async def test_an_earlier_timeout_of_the_run_wins_over_a_cancellation_during_clean_up(autojump_clock):
    async def slow_to_end(item):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(9)

    config = ParallelConfig(max_workers=4, timeout=1, fail_fast=True, observer="noop")
    with trio.move_on_after(5) as scope, pytest.raises(ParallelError) as caught:
        await process_parallel(range(6), slow_to_end, config=config)
    assert not scope.cancelled_caught
    assert [failure.attempts for failure in caught.value.errors] == [1, 1, 1, 1, 0, 0]
    assert caught.value.result.status == "timeout"


# --- status


async def end_by(how):
    """Return the result of a run of six items that ends so."""
    config = ParallelConfig(
        max_workers=2, fail_fast=how == "failed", timeout=3 if how == "timeout" else None, observer="noop"
    )
    with trio.move_on_after(3 if how == "outer" else 1000):
        try:
            async with open_parallel([1, 2, 50, 50, 50, 50], fail if how == "failed" else nap, config=config) as run:
                async for outcome in run:
                    if outcome.index == 1 and how == "drained":
                        run.drain()
                    elif outcome.index == 1 and how == "cancelled":
                        run.cancel()
                    elif outcome.index == 1 and how == "left":
                        break
                    elif outcome.index == 1 and how == "raised":
                        raise LookupError
        except (ParallelError, LookupError):
            pass
    return run.result()


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("complete", "complete"),
        ("failed", "failed"),
        ("timeout", "timeout"),
        ("drained", "drained"),
        ("cancelled", "cancelled"),
        ("outer", "cancelled"),
        ("left", "cancelled"),
        ("raised", "cancelled"),
    ],
)
async def test_the_status_says_how_a_run_ended(how, status, autojump_clock):
    assert (await end_by(how)).status == status


async def test_the_status_is_running_while_the_run_is(autojump_clock):
    async with open_parallel([1, 2], nap, config=FAIL_FAST) as run:
        assert run.result().status == "running"
    assert run.result().status == "cancelled"


async def test_collecting_all_failures_is_a_complete_run():
    result = await process_parallel(range(4), odd_fails, config=COLLECT_ALL)
    assert (result.status, len(result.errors)) == ("complete", 2)
    with pytest.raises(ParallelError) as caught:
        await process_parallel(range(4), fail, config=COLLECT_ALL)
    assert caught.value.result.status == "complete"


async def odd_fails(item):
    if item % 2:
        raise ValueError(item)
    return item


async def test_a_timeout_while_waiting_for_a_source_fails_the_item_waited_for(autojump_clock):
    async def source():
        yield 0
        yield 1
        await trio.sleep(100)
        yield 2

    config = ParallelConfig(max_workers=2, fail_fast=False, timeout=3, observer="noop")
    result = await process_parallel(source(), nap, config=config)
    assert (result.status, result.results, result.total) == ("timeout", [0, 1], 3)
    ((index, item, error, attempts),) = [
        (failure.index, failure.item, failure.error, failure.attempts) for failure in result.errors
    ]
    assert (index, item, attempts) == (2, None, 0)
    assert isinstance(error, trio.TooSlowError)


# --- times


async def test_a_duration_begins_with_the_first_attempt_and_not_with_the_wait_for_the_rate(autojump_clock):
    config = ParallelConfig(max_workers=4, max_per_second=0.1, observer="noop")
    async with open_parallel([2, 2, 2], nap, config=config) as run:
        durations = [outcome.duration async for outcome in run]
    assert trio.current_time() > 20
    assert durations == pytest.approx([2, 2, 2])


async def test_a_duration_holds_the_waits_for_the_rate_between_attempts(autojump_clock):
    attempts = []

    async def second_time_lucky(item):
        attempts.append(item)
        if len(attempts) == 1:
            raise ValueError

    retry = RetryConfig(max_attempts=2, initial_delay=1, jitter=False)
    config = ParallelConfig(max_workers=1, max_per_second=0.1, retry=retry, observer="noop")
    async with open_parallel([0], second_time_lucky, config=config) as run:
        (outcome,) = [outcome async for outcome in run]
    assert outcome.duration == pytest.approx(10)


@pytest.mark.parametrize("fail_fast", [False, True])
async def test_a_timeout_that_cuts_a_back_off_is_raised_from_the_last_failure(fail_fast, autojump_clock):
    retry = RetryConfig(max_attempts=3, initial_delay=100, max_delay=100)
    config = ParallelConfig(max_workers=2, fail_fast=fail_fast, timeout=5, retry=retry, observer="noop")
    with pytest.raises(ParallelError) as caught:
        await process_parallel(["a", "b"], fail, config=config)
    for failure in caught.value.errors:
        assert isinstance(failure.error, trio.TooSlowError)
        assert isinstance(failure.error.__cause__, ValueError)
        assert failure.error.__cause__.args == (failure.item,)
        assert failure.attempts == 1


async def test_a_timeout_that_cuts_an_attempt_has_no_cause_of_an_item_before(autojump_clock):
    async def one_retry(item):
        calls.append(item)
        if len(calls) == 1:
            raise ValueError
        await trio.sleep(10 if item else 0)

    calls = []
    config = ParallelConfig(
        max_workers=1, fail_fast=False, timeout=5, retry=RetryConfig(initial_delay=1), observer="noop"
    )
    result = await process_parallel([0, 1], one_retry, config=config)
    assert result.errors[0].error.__cause__ is None


# --- what something else than an item broke


@pytest.mark.parametrize("who", ["the body", "the source"])
async def test_what_breaks_a_stream_leaves_the_account_in_a_note_and_in_the_result(who, autojump_clock):
    def source():
        yield from range(12)
        if who == "the source":
            raise LookupError(who)

    async def nap_or_fail(item):
        await trio.sleep(1 + item)
        if item == 1:
            raise ValueError(item)

    with pytest.raises(LookupError, match=who) as caught:
        async with open_parallel(source(), nap_or_fail, config=COLLECT_ALL) as run:
            async for outcome in run:
                if outcome.index == 2 and who == "the body":
                    raise LookupError(who)
    result = run.result()
    succeeded, failed, unfinished = len(result.results), len(result.errors), len(result.unfinished)
    assert (succeeded > 0, failed, result.status) == (True, 1, "cancelled")
    account = f"when the run ended: {succeeded} succeeded, {failed} failed, {unfinished} unfinished"
    assert account in caught.value.__notes__


async def test_what_breaks_a_run_leaves_the_account_in_a_note(autojump_clock):
    def progress(completed, total, result):
        if completed == 3:
            raise LookupError("progress")

    with pytest.raises(LookupError) as caught:
        await process_parallel([1, 2, 3, 40], nap, config=FAIL_FAST, progress=progress)
    assert "when the run ended: 3 succeeded, 0 failed, 1 unfinished" in caught.value.__notes__


# --- the context of a plain source


async def test_a_generator_that_holds_a_logger_context_is_pulled_to_its_end(log):
    def source():
        with logger.contextualize(batch=7):
            yield from range(100)

    async def turn(item):
        await trio.lowlevel.checkpoint()
        return item

    assert (await process_parallel(source(), turn, config=FAIL_FAST)).results == list(range(100))
    async with open_parallel(source(), turn, config=FAIL_FAST) as run:
        async for _ in run:
            break
    assert log == []


async def test_a_decimal_context_of_the_caller_is_that_of_processors_whatever_a_source_sets():
    def source():
        with decimal.localcontext(decimal.Context(prec=3)):
            yield from range(20)

    async def third(item):
        await trio.lowlevel.checkpoint()
        return decimal.Decimal(1) / 3

    with decimal.localcontext(decimal.Context(prec=9)):
        result = await process_parallel(source(), third, config=FAIL_FAST)
        assert set(result.results) == {decimal.Decimal(1) / 3}
