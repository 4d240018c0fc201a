"""Large runs: the account still adds up, and nothing grows that should not."""

import random

import pytest
import trio

from trioflow import ParallelConfig, ParallelError, open_parallel, process_parallel

pytestmark = pytest.mark.slow

CONFIG = ParallelConfig(max_workers=3, observer="noop")


async def same(item):
    return item


@pytest.mark.parametrize("fail_fast", [True, False])
async def test_a_hundred_thousand_items(fail_fast):
    rng = random.Random(7)
    fates = [rng.random() for _ in range(100_000)]

    async def work(item):
        if fates[item] < 0.1:
            await trio.lowlevel.checkpoint()
        if not fail_fast and fates[item] > 0.99:
            raise ValueError(f"kind {item % 5}")
        return item

    config = ParallelConfig(max_workers=16, fail_fast=fail_fast, observer="noop")
    result = await process_parallel(range(100_000), work, config=config)
    failed = [item for item, fate in enumerate(fates) if not fail_fast and fate > 0.99]
    assert [failure.index for failure in result.errors] == failed
    assert len(result.results) == 100_000 - len(failed)
    assert result.unfinished == []
    assert result.results == result.indices


async def test_a_thousand_workers(autojump_clock):
    running = most = 0

    async def work(item):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return item

    config = ParallelConfig(max_workers=1000, observer="noop")
    result = await process_parallel(range(10_000), work, config=config)
    assert result.results == list(range(10_000))
    assert most == 1000
    assert trio.current_time() == pytest.approx(10, abs=0.5)


async def test_a_failure_among_a_thousand_workers_cancels_them_all(autojump_clock):
    async def work(item):
        await trio.sleep(1 if item == 999 else 1000)
        raise ValueError("boom")

    with pytest.raises(ParallelError) as caught:
        await process_parallel(range(5000), work, config=ParallelConfig(max_workers=1000, observer="noop"))
    assert trio.current_time() < 500
    assert len(caught.value.result.unfinished) == 4999


async def test_a_long_stream_holds_no_more_than_its_window():
    async def work(item):
        return item

    def source():
        yield from range(50_000)

    config = ParallelConfig(max_workers=8, observer="noop")
    count = 0
    async with open_parallel(source(), work, config=config, keep_results=False, ordered=True) as run:
        async for outcome in run:
            assert outcome.index == count
            count += 1
            if count % 1000 == 0:
                result = run.result()
                assert len(result.results) + len(result.unfinished) <= 16
    assert count == 50_000


async def test_far_more_workers_than_items():
    config = ParallelConfig(max_workers=10_000, observer="noop")
    result = await process_parallel(range(3), same, config=config)
    assert result.results == [0, 1, 2]


async def test_a_run_in_a_run_in_a_run():
    async def innermost(item):
        async with open_parallel(range(item), same, config=CONFIG, ordered=True) as run:
            return [outcome.result async for outcome in run]

    async def inner(item):
        return (await process_parallel(range(item), innermost, config=CONFIG)).results

    assert (await process_parallel(range(4), inner, config=CONFIG)).results == [
        [], [[]], [[], [0]], [[], [0], [0, 1]]
    ]
