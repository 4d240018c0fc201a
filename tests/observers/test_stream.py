"""Events for a reader: in order, bounded, closed after what is kept, and nothing lost by a cancellation."""

import threading

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trioflow import ConfigError, Event, EventStream, EventType, ParallelConfig, open_parallel, process_parallel


def event(number):
    return Event(EventType.CUSTOM, 1.0, "parallel", "run", {"number": number})


def numbers(events):
    return [kept.data["number"] for kept in events]


async def work(item):
    await trio.sleep(1)
    return item


async def test_a_reader_gets_the_events_of_a_run_while_it_works(autojump_clock):
    stream = EventStream()
    read = []

    async def show():
        async for told in stream:
            read.append((trio.current_time(), told.type.value))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(show)
        config = ParallelConfig(max_workers=1)
        await process_parallel(range(2), work, config=config, observer=stream)
        stream.close()
    assert [type for _, type in read] == [
        "parallel.start",
        *["worker.start", "worker.complete"] * 2,
        "parallel.complete",
    ]
    assert read[1][0] - began == pytest.approx(0, abs=0.01)
    assert read[2][0] - began == pytest.approx(1, abs=0.01)
    assert stream.dropped == 0


async def test_the_oldest_go_where_nobody_reads_and_close_ends_after_what_is_kept():
    stream = EventStream(limit=3)
    for number in range(10):
        stream.on_event(event(number))
    assert stream.dropped == 7
    stream.close()
    stream.close()
    stream.on_event(event(99))
    assert numbers([told async for told in stream]) == [7, 8, 9]
    assert [told async for told in stream] == []
    assert stream.dropped == 7


async def test_close_wakes_a_reader_that_waits():
    stream = EventStream()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read():
            assert [told async for told in stream] == []

        await wait_all_tasks_blocked()
        stream.close()


async def test_a_reader_that_breaks_off_can_go_on():
    stream = EventStream()
    for number in range(4):
        stream.on_event(event(number))
    async for told in stream:
        if told.data["number"] == 1:
            break
    stream.close()
    assert numbers([told async for told in stream]) == [2, 3]


@pytest.mark.parametrize("kept", [0, 3])
async def test_a_cancellation_loses_nothing(kept):
    stream = EventStream()
    for number in range(kept):
        stream.on_event(event(number))
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(stream)
    assert scope.cancelled_caught
    stream.on_event(event(kept))
    stream.close()
    assert numbers([told async for told in stream]) == list(range(kept + 1))


async def test_a_cancellation_in_the_tick_of_an_arrival_loses_nothing():
    for cancel_first in (True, False):
        stream = EventStream()
        read = []

        async def reader(scope, stream=stream, read=read):
            with scope:
                async for told in stream:
                    read.append(told)

        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader, scope)
            await wait_all_tasks_blocked()
            if cancel_first:
                scope.cancel()
            stream.on_event(event(0))
            scope.cancel()
        stream.close()
        assert numbers([*read, *[told async for told in stream]]) == [0]


async def test_reading_is_a_checkpoint_whether_there_is_something_or_not():
    stream = EventStream()
    stream.on_event(event(0))
    with assert_checkpoints():
        await anext(stream)
    stream.close()
    with assert_checkpoints(), pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_second_reader_is_refused_and_the_first_goes_on():
    stream = EventStream()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read():
            assert numbers([await anext(stream)]) == [5]

        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(stream)
        stream.on_event(event(5))


async def test_another_thread_is_refused_and_hurts_nobody(log):
    stream = EventStream()
    caught = []

    def elsewhere():
        for act in (lambda: stream.on_event(event(1)), stream.close):
            try:
                act()
            except RuntimeError as error:
                caught.append(str(error))

        async def main():
            await process_parallel([1], work, config=ParallelConfig(max_workers=1), observer=stream)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read():
            assert numbers([await anext(stream)]) == [2]

        await wait_all_tasks_blocked()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        await trio.to_thread.run_sync(thread.join)
        stream.on_event(event(2))
    assert caught == ["the reader of this EventStream waits in another trio.run"] * 2
    assert "observer EventStream failed" in log.at("WARNING")[0]


async def test_a_slow_reader_of_a_long_run_costs_bounded_memory():
    stream = EventStream(limit=10)

    async def quick(item):
        return item

    async with open_parallel(range(5000), quick, observer=stream, keep_results=False) as run:
        async for _ in run:
            pass
    stream.close()
    kept = [told async for told in stream]
    assert len(kept) == 10
    assert kept[-1].type == "parallel.complete"
    assert stream.dropped == 2 + 2 * 5000 - 10


def test_it_says_what_it_is_and_refuses_a_limit_below_one():
    stream = EventStream(limit=2)
    stream.on_event(event(1))
    assert repr(stream) == "<EventStream: 1 of at most 2 events>"
    stream.close()
    assert "closed" in repr(stream)
    with pytest.raises(ConfigError, match="limit must be .*1 or more"):
        EventStream(0)
