"""Items that succeed are handed to an observer with `on_items` many at a time, and nothing else of a run is."""

import pytest
import trio

from trioflow import (
    EventType,
    MetricsObserver,
    MultiObserver,
    ParallelConfig,
    ParallelError,
    RecordingObserver,
    RetryConfig,
    open_parallel,
    process_parallel,
)

TWO = ParallelConfig(max_workers=2, fail_fast=False)


class Batching:
    def __init__(self):
        self.seen = []
        self.items = []

    def on_event(self, event):
        self.seen.append(event)

    def on_items(self, event):
        assert event.type is EventType.WORKER_COMPLETE
        self.items += event.data["items"]

    @property
    def told(self):
        return [(event.type.value, event.data.get("item_index"), event.data.get("status")) for event in self.seen]


async def work(item):
    await trio.lowlevel.checkpoint()
    if item == 3:
        raise ValueError("boom")
    return item


async def test_items_that_succeed_come_together_and_failures_with_both_their_events():
    observer = Batching()
    await process_parallel(range(6), work, config=TWO, observer=observer)
    assert sorted(index for _, index, _, _ in observer.items) == [0, 1, 2, 4, 5]
    assert observer.told == [
        ("parallel.start", None, None),
        ("worker.start", 3, None),
        ("worker.complete", 3, "error"),
        ("parallel.complete", None, "ok"),
    ]


async def test_they_have_worker_index_end_and_duration(autojump_clock):
    observer = Batching()
    await process_parallel([2.0, 1.0], trio.sleep, config=TWO, observer=observer)
    begun, ended = observer.seen[0].timestamp, observer.seen[-1].timestamp
    assert [(index, duration) for _, index, _, duration in observer.items] == [(1, 1.0), (0, 2.0)]
    assert {worker for worker, _, _, _ in observer.items} == {0, 1}
    assert all(begun <= at <= ended for _, _, at, _ in observer.items)


async def test_they_come_a_turn_of_the_scheduler_later_and_not_at_the_end(autojump_clock):
    observer = Batching()
    async with open_parallel([1, 50, 50], trio.sleep, config=ParallelConfig(max_workers=3), observer=observer) as run:
        await trio.sleep(2)
        assert [index for _, index, _, _ in observer.items] == [0]
        run.cancel()
    assert [(index, status) for kind, index, status in observer.told if kind == "worker.complete"] == [
        (1, "cancelled"),
        (2, "cancelled"),
    ] or sorted(observer.told[1:-1]) == sorted(
        [("worker.start", index, None) for index in (1, 2)]
        + [("worker.complete", index, "cancelled") for index in (1, 2)]
    )


async def test_an_item_that_is_tried_again_has_its_start_once_at_the_time_when_it_began(autojump_clock):
    observer, failed = Batching(), []

    async def unsteady(item):
        await trio.sleep(1)
        if len(failed) < 2:
            failed.append(item)
            raise OSError
        return item

    config = ParallelConfig(retry=RetryConfig(initial_delay=1, jitter=False))
    await process_parallel(["x"], unsteady, config=config, observer=observer)
    kinds = [kind for kind, _, _ in observer.told]
    assert kinds == [
        "parallel.start",
        "worker.start",
        "task.retry",
        "task.retry",
        "worker.complete",
        "parallel.complete",
    ]
    start, retry = observer.seen[1:3]
    assert retry.timestamp - start.timestamp == pytest.approx(1, abs=0.5)
    assert observer.items == []


async def test_each_start_has_its_end_for_the_next_item_too():
    observer = Batching()
    with pytest.raises(ParallelError):
        await process_parallel([3, 3, 3], work, config=ParallelConfig(max_workers=1, fail_fast=False), observer=observer)
    assert [kind for kind, _, _ in observer.told[1:-1]] == ["worker.start", "worker.complete"] * 3


async def test_others_beside_it_get_all_events():
    batching, recorder = Batching(), RecordingObserver()
    await process_parallel(range(6), work, config=TWO, observer=MultiObserver(batching, recorder))
    assert len(recorder.events) == 2 + 2 * 6
    assert len(batching.seen) == 2 + 2
    starts = [event for event in recorder.events if event.type is EventType.WORKER_START]
    assert [event.data["item_index"] for event in starts].count(3) == 1


async def test_one_that_raises_is_warned_about_once_and_counted(log):
    class Broken(Batching):
        def on_items(self, event):
            raise LookupError("no idea")

    observer = Broken()
    result = await process_parallel(range(3), work, config=TWO, observer=observer)
    assert len(result.results) == 3
    assert observer.seen[-1].data["observer_failures"] >= 1
    assert len([line for line in log.at("WARNING") if "Broken" in line]) == 1


async def test_what_is_no_exception_passes():
    class Interrupted(Batching):
        def on_items(self, event):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await process_parallel(range(100), work, config=TWO, observer=Interrupted())


async def test_metrics_count_them_as_events(autojump_clock):
    metrics = MetricsObserver()
    await process_parallel([1, 2, 3, 4], trio.sleep, config=TWO, observer=metrics)
    numbers = metrics.snapshot().sources["parallel"]
    assert (numbers.succeeded, numbers.events["worker.start"], numbers.events["worker.complete"]) == (4, 4, 4)
    assert numbers.longest == 4


async def test_a_run_that_is_cancelled_from_outside_loses_none(autojump_clock):
    observer = Batching()
    with trio.move_on_after(1.5):
        await process_parallel([1, 1, 9, 9], trio.sleep, config=ParallelConfig(max_workers=4), observer=observer)
    assert sorted(index for _, index, _, _ in observer.items) == [0, 1]
    assert {index for kind, index, _ in observer.told if kind == "worker.complete"} == {2, 3}
    assert observer.told[-1][0] == "parallel.complete"
