"""`RateLimiter`: a weighted, shared token bucket by Trio's clock; and `with_rate_limit` around it."""

import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trioflow import ConfigError, ParallelConfig, RateLimiter, process_parallel, with_rate_limit


async def starts(limiter, costs):
    """When each of `costs`, asked for in turn by tasks of their own, was granted."""
    times = {}

    async def one(number, cost):
        await limiter.acquire(cost)
        times[number] = round(trio.current_time() - begun, 6)

    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number, cost in enumerate(costs):
            nursery.start_soon(one, number, cost)
            await wait_all_tasks_blocked()
    return [times[number] for number in range(len(costs))]


async def test_starts_are_evenly_spaced(autojump_clock):
    assert await starts(RateLimiter(2), [1] * 5) == [0, 0.5, 1, 1.5, 2]


async def test_a_full_bucket_gives_a_burst(autojump_clock):
    assert await starts(RateLimiter(1, burst=3), [1] * 5) == [0, 0, 0, 1, 2]


async def test_the_bucket_fills_up_to_the_burst_only(autojump_clock):
    limiter = RateLimiter(1, burst=2)
    await starts(limiter, [1, 1])
    await trio.sleep(100)
    assert await starts(limiter, [1] * 4) == [0, 0, 1, 2]


async def test_per_says_the_seconds_of_the_rate(autojump_clock):
    assert await starts(RateLimiter(60, per=60.0), [1] * 3) == [0, 1, 2]


async def test_costs_weigh(autojump_clock):
    assert await starts(RateLimiter(10, burst=10), [10, 5, 5, 0.5]) == [0, 0.5, 1, 1.05]


async def test_a_cost_above_the_burst_waits_for_a_full_bucket_and_goes_into_debt(autojump_clock):
    limiter = RateLimiter(1, burst=4)
    assert await starts(limiter, [2, 10, 1]) == [0, 2, 9]


async def test_first_come_first_served_even_if_a_later_one_is_cheap(autojump_clock):
    limiter = RateLimiter(1, burst=5)
    order = []

    async def one(name, cost):
        await limiter.acquire(cost)
        order.append(name)

    await limiter.acquire(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "dear", 5)
        await wait_all_tasks_blocked()
        nursery.start_soon(one, "cheap", 0.1)
    assert order == ["dear", "cheap"]


async def test_a_cancelled_acquire_costs_nothing(autojump_clock):
    limiter = RateLimiter(1)
    await limiter.acquire()
    with trio.move_on_after(0.25):
        await limiter.acquire()
    await trio.sleep(0.75)
    before = trio.current_time()
    await limiter.acquire()
    assert trio.current_time() == before
    with trio.CancelScope() as scope:
        scope.cancel()
        await limiter.acquire()
    assert scope.cancelled_caught


async def test_acquire_is_a_checkpoint_on_every_path(autojump_clock):
    limiter = RateLimiter(1)
    for cost in (1, 1, 0):
        with assert_checkpoints():
            await limiter.acquire(cost)


async def test_pause_makes_everybody_wait_also_those_already_waiting(autojump_clock):
    limiter = RateLimiter(1, burst=1)

    async def pause():
        await trio.sleep(0.5)
        limiter.pause(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pause)
        assert await starts(limiter, [1, 1, 1]) == [0, 10.5, 11.5]


async def test_the_pause_that_ends_last_counts(autojump_clock):
    limiter = RateLimiter(10, burst=5)
    limiter.pause(5)
    limiter.pause(1)
    limiter.pause(0)
    assert await starts(limiter, [1, 0]) == [5, 5]


async def test_adjust_charges_and_pays_back(autojump_clock):
    limiter = RateLimiter(1, burst=2)
    await limiter.acquire(2)
    limiter.adjust(3)
    assert await starts(limiter, [1]) == [4]
    limiter.adjust(-100)
    assert await starts(limiter, [1, 1, 1]) == [0, 0, 1]


async def test_adjust_reaches_those_already_waiting(autojump_clock):
    limiter = RateLimiter(1)
    await limiter.acquire()

    async def pay_back():
        await trio.sleep(0.25)
        limiter.adjust(-1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pay_back)
        assert await starts(limiter, [1]) == [0.25]


async def test_runs_share_a_rate_by_sharing_the_limiter(autojump_clock):
    limiter = RateLimiter(1)

    async def work(item):
        return trio.current_time()

    async def run():
        result = await process_parallel(
            range(3), with_rate_limit(work, limiter), config=ParallelConfig(observer="noop")
        )
        times.extend(result.results)

    times = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        nursery.start_soon(run)
    begun = min(times)
    assert sorted(round(time - begun, 6) for time in times) == [0, 1, 2, 3, 4, 5]


async def test_the_configs_rate_paces_each_attempt(autojump_clock):
    from trioflow import RetryConfig

    calls = []

    async def fail_once(item):
        calls.append(round(trio.current_time() - begun, 6))
        if len(calls) == 1:
            raise OSError
        return item

    begun = trio.current_time()
    config = ParallelConfig(
        max_workers=3, max_per_second=1, retry=RetryConfig(initial_delay=0.01, jitter=False), observer="noop"
    )
    await process_parallel(range(3), fail_once, config=config)
    assert calls == [0, 1, 2, 3]


async def test_the_cost_of_a_call_is_a_number_or_follows_from_its_arguments(autojump_clock):
    async def now(*args, **kwargs):
        return round(trio.current_time() - begun, 6)

    begun = trio.current_time()
    limiter = RateLimiter(1, burst=1)
    assert await with_rate_limit(now, limiter)() == 0
    assert await with_rate_limit(now, limiter, cost=2)() == 1
    assert await with_rate_limit(now, limiter, cost=lambda text, *, extra: len(text) + extra)("ab", extra=1) == 3
    assert await with_rate_limit(now, limiter, cost=0)() == 5


# Timers that wake late


def late_starts(clock, limiter, seconds, workers, *, work=0.0, adjust=False):
    """When tasks that always want more got it, over `seconds` of `clock`."""
    times = []

    async def one():
        while True:
            await limiter.acquire()
            now = trio.current_time()
            if now >= seconds:
                return
            times.append(now)
            if work:
                await trio.sleep(work)
            if adjust:
                limiter.adjust(0.25)
                limiter.adjust(-0.25)

    async def main():
        async with trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(one)

    trio.run(main, clock=clock)
    return times


def most_over(times, rate, burst):
    """By how much the starts since the first one were more than rate × time + burst."""
    return max(number - rate * (time - times[0]) - burst for number, time in enumerate(times, 1))


@pytest.mark.parametrize("rate", [10, 100, 600, 1000])
@pytest.mark.parametrize("lateness", [0.0, 0.0004, 0.0011, 0.02, 0.15])
@pytest.mark.parametrize("workers", [1, 40])
def test_timers_that_wake_late_lose_nothing(late_clock, rate, lateness, workers):
    seconds = 10 if rate < 600 else 3
    times = late_starts(late_clock(lateness), RateLimiter(rate), seconds, workers)
    # What the last timer was late by is still to come.
    assert 0.97 * rate * (seconds - lateness) <= len(times) <= rate * seconds + 1
    assert most_over(times, rate, 1) <= 1e-6


def test_neither_adjusting_nor_work_of_ones_own_loses_what_a_timer_was_late_by(late_clock):
    for options in ({"adjust": True}, {"work": 0.03, "adjust": True}, {"work": 0.03}):
        times = late_starts(late_clock(0.004), RateLimiter(100), 10, 8, **options)
        assert 970 <= len(times) <= 1001
        assert most_over(times, 100, 1) <= (0.25 if options.get("adjust") else 1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([10, 60, 600]),
    st.sampled_from([1, 2.5, 10]),
    st.integers(1, 12),
    st.floats(0, 0.2),
    st.floats(0, 0.05),
    st.integers(0, 9999),
)
def test_starts_are_never_more_than_the_rate_allows(rate, burst, workers, most_late, work, seed):
    from tests.policies.conftest import LateClock

    lateness = []
    randomness = random.Random(seed)

    def late():
        lateness.append(randomness.uniform(0, most_late))
        return lateness[-1]

    limiter = RateLimiter(rate, burst=burst)
    times = late_starts(LateClock(late), limiter, 2, workers, work=work)
    assert most_over(times, rate, burst) <= 1e-6
    # In any window: as many as were due in it, or in what timers were late by before it.
    slack = max(lateness, default=0)
    for first in range(0, len(times), 7):
        for last in range(first, len(times), 5):
            assert last - first + 1 <= rate * (times[last] - times[first] + slack) + burst + 1e-6


def test_a_loop_that_stood_still_makes_up_for_a_bounded_time(late_clock):
    def lateness():
        return stood_still.pop() if stood_still else 0.0

    stood_still = [60.0, 0.0]
    clock = late_clock(0)
    clock._delay = lateness
    times = late_starts(clock, RateLimiter(10), 63, 20)
    after = [time for time in times if time >= 60]
    at_once = [time for time in after if time == after[0]]
    assert 5 <= len(at_once) <= 6
    assert len(after) <= 10 * (63 - after[0]) + 6


def test_a_late_grant_is_no_credit_for_who_comes_after_a_pause(late_clock):
    async def main():
        limiter = RateLimiter(10)
        await limiter.acquire()
        await limiter.acquire()  # 0.3 s late
        clock._delay = lambda: 0.0
        await trio.sleep(5)
        return await starts(limiter, [1] * 3)

    clock = late_clock(0.3)
    assert trio.run(main, clock=clock) == [0, 0.1, 0.2]


async def test_a_refund_while_others_wait_fills_the_bucket_and_no_more(autojump_clock):
    limiter = RateLimiter(1, burst=2)
    await limiter.acquire(2)
    begun = trio.current_time()

    async def refund():
        await trio.sleep(0.25)
        limiter.adjust(-100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refund)
        assert await starts(limiter, [1] * 4) == [0.25, 0.25, 1.25, 2.25]
    assert trio.current_time() - begun == 2.25


class Steps(trio.abc.Instrument):
    def __init__(self):
        self.count = 0

    def before_task_step(self, task):
        self.count += 1


async def test_a_thousand_waiters_cost_no_more_each_than_one(autojump_clock):
    async def steps(waiters):
        counter = Steps()
        limiter = RateLimiter(10)
        async with trio.open_nursery() as nursery:
            for _ in range(waiters):
                nursery.start_soon(limiter.acquire)
            await wait_all_tasks_blocked()
            trio.lowlevel.add_instrument(counter)
        trio.lowlevel.remove_instrument(counter)
        return counter.count / waiters

    assert await steps(1000) <= await steps(5) + 1


async def test_waiters_that_are_cancelled_change_nothing_for_the_others(autojump_clock):
    limiter = RateLimiter(1)
    granted = {}

    async def one(number):
        with trio.move_on_after(2.5 if number % 3 == 0 else 1000):
            await limiter.acquire()
            granted[number] = round(trio.current_time() - begun, 6)

    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(one, number)
            await wait_all_tasks_blocked()
    assert granted == {0: 0, 1: 1, 2: 2, 4: 3, 5: 4, 7: 5, 8: 6}


async def test_a_pause_wakes_nobody_early_and_a_charge_during_it_counts(autojump_clock):
    limiter = RateLimiter(10, burst=2)
    limiter.pause(5)

    async def charge():
        await trio.sleep(4.9)
        limiter.adjust(3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(charge)
        assert await starts(limiter, [1, 1]) == [5.1, 5.2]


def test_a_limiter_can_be_made_outside_a_run():
    limiter = RateLimiter(100)
    trio.run(limiter.acquire)
    assert "100/s" in repr(limiter)


def test_a_limiter_begins_anew_in_another_run():
    limiter = RateLimiter(1)

    async def use():
        limiter.pause(0)
        limiter.adjust(1000)
        return trio.current_time()

    async def use_again():
        begun = trio.current_time()
        await limiter.acquire()
        return trio.current_time() - begun

    trio.run(use, clock=trio.testing.MockClock(autojump_threshold=0))
    assert trio.run(use_again, clock=trio.testing.MockClock(autojump_threshold=0)) == 0


@pytest.mark.parametrize("arguments", [{"rate": 0}, {"rate": 1, "per": 0}, {"rate": 1, "burst": -1}, {"rate": "x"}])
def test_a_limiter_refuses_what_is_not_positive(arguments):
    with pytest.raises(ConfigError, match="must be a positive number"):
        RateLimiter(**arguments)


async def test_calls_refuse_what_makes_no_sense():
    limiter = RateLimiter(1)
    with pytest.raises(ConfigError, match="cost must be 0 or more"):
        await limiter.acquire(-1)
    with pytest.raises(ConfigError, match="delta must be a finite number"):
        limiter.adjust(float("nan"))
    with pytest.raises(ConfigError, match="seconds must be 0 or more"):
        limiter.pause(-1)

    async def fn():
        pass

    with pytest.raises(ConfigError, match="limiter must be a RateLimiter"):
        with_rate_limit(fn, 3)
    with pytest.raises(ConfigError, match="fn must be an async function"):
        with_rate_limit(print, limiter)
    with pytest.raises(ConfigError, match="cost must be 0 or more, a function"):
        with_rate_limit(fn, limiter, cost="dear")
