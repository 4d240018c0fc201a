"""`RateLimiter`: a weighted, shared token bucket by Trio's clock; and `with_rate_limit` around it."""

import pytest
import trio
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
