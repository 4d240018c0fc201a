"""Numbers of runs: counts that add up, percentiles within one percent, memory that does not grow."""

import math
import tracemalloc

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trioflow import (
    Event,
    EventType,
    MetricsObserver,
    MetricsSnapshot,
    ParallelConfig,
    RetryConfig,
    SourceMetrics,
    open_hub,
    open_parallel,
    process_chain,
    process_parallel,
)


def ended(duration, status="ok", source="parallel"):
    data = {"status": status, "duration": duration}
    return Event(EventType.WORKER_COMPLETE, 1.0, source, "run", data)


async def nap(item):
    await trio.sleep(item)
    if item == 7:
        raise ValueError
    return item


async def test_items_are_counted_and_timed(autojump_clock):
    metrics = MetricsObserver()
    config = ParallelConfig(fail_fast=False, retry=RetryConfig(max_attempts=2, jitter=False))
    await process_parallel(range(10), nap, config=config, observer=metrics)
    (source,) = metrics.snapshot().sources.items()
    name, told = source
    assert name == "parallel"
    assert (told.succeeded, told.failed, told.cancelled) == (9, 1, 0)
    assert told.events == {
        "parallel.start": 1,
        "worker.start": 10,
        "worker.complete": 10,
        "task.retry": 1,
        "parallel.complete": 1,
    }
    assert told.p50 == pytest.approx(4, rel=0.01)
    assert told.p99 == pytest.approx(14.1, rel=0.01)
    assert told.longest == pytest.approx(14.1, rel=0.01)


async def test_cancelled_calls_are_counted_but_not_timed(autojump_clock):
    metrics = MetricsObserver()
    async with open_parallel([1, 500], nap, observer=metrics) as run:
        async for _ in run:
            break
    told = metrics.snapshot().sources["parallel"]
    assert (told.succeeded, told.cancelled) == (1, 1)
    assert told.longest == pytest.approx(1)


async def test_each_source_has_its_own_numbers(autojump_clock):
    async def step(item, state):
        return state

    async def handle(message):
        return None

    metrics = MetricsObserver()
    await process_chain([1, 2], 0, step, observer=metrics)
    async with open_hub(observer=metrics) as hub:
        hub.register("a", handle)
        await hub.send("b", "a", 1)
    sources = metrics.snapshot().sources
    assert {name: told.succeeded for name, told in sources.items()} == {"chain": 2, "hub": 1}


def test_a_snapshot_stays_as_it_was_and_encodes():
    metrics = MetricsObserver()
    assert metrics.snapshot() == MetricsSnapshot(sources={})
    metrics.on_event(Event(EventType.PARALLEL_START, 1.0, "parallel", "run", {}))
    early = metrics.snapshot()
    assert early.sources["parallel"] == SourceMetrics(events={"parallel.start": 1})
    metrics.on_event(ended(2.0))
    assert early.sources["parallel"].succeeded == 0
    late = metrics.snapshot()
    assert late.sources["parallel"].p50 == pytest.approx(2.0, rel=0.01)
    assert msgspec.json.decode(msgspec.json.encode(late), type=MetricsSnapshot) == late
    assert "parallel" in repr(metrics)
    metrics.clear()
    assert metrics.snapshot().sources == {}
    assert "nothing yet" in repr(metrics)


@given(st.lists(st.floats(min_value=1e-8, max_value=1e9), min_size=1, max_size=200))
def test_percentiles_are_right_within_one_percent(durations):
    metrics = MetricsObserver()
    for duration in durations:
        metrics.on_event(ended(duration))
    told = metrics.snapshot().sources["parallel"]
    ordered = sorted(durations)
    for share, value in ((0.5, told.p50), (0.95, told.p95), (0.99, told.p99)):
        assert value == pytest.approx(ordered[math.ceil(share * len(ordered)) - 1], rel=0.01)
    assert told.longest == ordered[-1]


@pytest.mark.parametrize("duration", [0.0, -1.0, 1e300])
def test_durations_that_no_clock_gives_do_no_harm(duration):
    metrics = MetricsObserver()
    metrics.on_event(ended(duration))
    assert metrics.snapshot().sources["parallel"].succeeded == 1


def test_memory_does_not_grow_with_the_number_of_calls():
    metrics = MetricsObserver()

    def feed(count):
        for number in range(count):
            metrics.on_event(ended(1e-6 * 1.013 ** (number % 2000)))

    feed(2000)
    tracemalloc.start()
    try:
        feed(50_000)
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()
