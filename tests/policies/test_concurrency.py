"""`with_concurrency_limit`: at most so many calls at once, over whatever shares the limiter."""

import asyncio

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trioflow import ConfigError, ParallelConfig, process_parallel, with_concurrency_limit


class Busy:
    """Counts how many are in it at once."""

    def __init__(self):
        self.now = self.most = 0
        self.order = []

    async def __call__(self, item):
        self.now += 1
        self.most = max(self.most, self.now)
        self.order.append(item)
        try:
            await trio.sleep(1)
        finally:
            self.now -= 1
        return item


async def test_two_runs_share_a_limit(autojump_clock):
    busy = Busy()
    limiter = trio.CapacityLimiter(3)
    config = ParallelConfig(max_workers=10, observer="noop")
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            call = with_concurrency_limit(busy, limiter)
            nursery.start_soon(lambda call=call: process_parallel(range(6), call, config=config))
    assert busy.most == 3
    assert trio.current_time() - begun == 4
    assert limiter.borrowed_tokens == 0


async def test_a_function_of_the_arguments_gives_a_limit_for_each_host(autojump_clock):
    limits = {"a": trio.CapacityLimiter(1), "b": trio.CapacityLimiter(2)}
    most = dict.fromkeys(limits, 0)

    async def fetch(url, *, verify):
        host = url[0]
        most[host] = max(most[host], limits[host].borrowed_tokens)
        await trio.sleep(1)

    call = with_concurrency_limit(fetch, lambda url, *, verify: limits[url[0]])
    async with trio.open_nursery() as nursery:
        for url in ("a1", "a2", "b1", "b2", "b3"):
            nursery.start_soon(lambda url=url: call(url, verify=True))
    assert most == {"a": 1, "b": 2}


async def test_a_call_may_make_another_one_under_the_same_limiter():
    limiter = trio.CapacityLimiter(2)

    async def inner():
        await trio.lowlevel.checkpoint()
        return limiter.borrowed_tokens

    async def outer():
        return await with_concurrency_limit(inner, limiter)()

    assert await with_concurrency_limit(outer, limiter)() == 2
    async with limiter:
        assert await with_concurrency_limit(inner, limiter)() == 2


async def test_first_come_first_served(autojump_clock):
    busy = Busy()
    limiter = trio.CapacityLimiter(1)
    call = with_concurrency_limit(busy, limiter)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(call, number)
            await wait_all_tasks_blocked()
    assert busy.order == [0, 1, 2, 3, 4]


async def test_a_token_goes_back_however_the_call_ends(autojump_clock):
    limiter = trio.CapacityLimiter(1)

    async def fail():
        raise OSError

    with pytest.raises(OSError):
        await with_concurrency_limit(fail, limiter)()
    hang = with_concurrency_limit(trio.sleep_forever, limiter)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang)
        await wait_all_tasks_blocked()
        nursery.start_soon(hang)
        await wait_all_tasks_blocked()
        assert limiter.statistics().tasks_waiting == 1
        nursery.cancel_scope.cancel()
    assert limiter.borrowed_tokens == 0
    assert limiter.statistics().tasks_waiting == 0


class Foreign:
    """What another library's limiter looks like."""

    async def __aenter__(self):
        pass


@pytest.mark.parametrize(
    "limiter",
    [asyncio.Semaphore(3), Foreign(), trio.Semaphore(3), 3, None, trio.CapacityLimiter, trio.sleep, Foreign],
)
def test_what_is_no_limiter_of_trios_is_refused(limiter):
    with pytest.raises(ConfigError, match="limiter must be a (trio.CapacityLimiter, or a )?plain function"):
        with_concurrency_limit(trio.sleep_forever, limiter)


async def test_a_function_that_gives_something_else_is_refused_at_the_call():
    with pytest.raises(ConfigError, match="limiter must be a trio.CapacityLimiter.*got 3"):
        await with_concurrency_limit(trio.sleep_forever, lambda: 3)()
    with pytest.raises(ConfigError, match="fn must be an async function"):
        with_concurrency_limit(print, trio.CapacityLimiter(1))
