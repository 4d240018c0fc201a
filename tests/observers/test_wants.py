"""What nobody takes is not built: the question to the observers, and what loguru's observer answers."""

import pytest
import trio
from loguru import logger

import trioflow._runtime.emitter as emitter_module
from trioflow import (
    EventType,
    LoguruObserver,
    MultiObserver,
    ParallelConfig,
    RecordingObserver,
    open_parallel,
    process_parallel,
)
from trioflow._runtime.emitter import Emitter
from trioflow.events import Event


class Choosy:
    def __init__(self, *taken):
        self.taken = taken
        self.events = []

    def wants(self, type):
        return type in self.taken

    def on_event(self, event):
        self.events.append(event)

    @property
    def kinds(self):
        return [event.type for event in self.events]


class Broken(Choosy):
    def wants(self, type):
        raise LookupError("no idea")


async def work(item):
    await trio.lowlevel.checkpoint()
    if item == 3:
        raise ValueError("boom")
    return item


COLLECT_ALL = ParallelConfig(max_workers=2, fail_fast=False)


@pytest.fixture
def sinks():
    """Loguru without the sinks that it has at first, which take TRACE lines under some environments."""
    kept = []

    def add(level):
        lines = []
        kept.append(logger.add(lines.append, level=level, format="{level} {message}"))
        return lines

    try:
        logger.remove(0)
    except ValueError:
        pass
    yield add
    for sink in kept:
        logger.remove(sink)


async def test_an_item_that_no_observer_wants_is_told_only_where_it_fails():
    observer = Choosy()
    await process_parallel(range(6), work, config=COLLECT_ALL, observer=observer)
    assert observer.kinds == ["parallel.start", "worker.complete", "parallel.complete"]
    failure = observer.events[1].data
    assert (failure["item_index"], failure["error_message"]) == (3, "boom")
    assert failure["duration"] >= 0


async def test_one_observer_that_wants_it_is_enough():
    heard = RecordingObserver()
    await process_parallel(range(6), work, config=COLLECT_ALL, observer=MultiObserver(Choosy(), heard))
    assert len(heard.events) == 2 + 2 * 6
    wanting = Choosy(EventType.WORKER_START)
    await process_parallel(range(6), work, config=COLLECT_ALL, observer=MultiObserver(Choosy(), wanting))
    assert len(wanting.events) == 2 + 2 * 6


async def test_an_item_whose_start_was_told_is_told_to_its_end(autojump_clock):
    observer = Choosy(EventType.WORKER_START)
    async with open_parallel([1], trio.sleep, observer=observer) as run:
        await trio.sleep(0.5)
        observer.taken = ()
        run.cancel()
    assert observer.kinds == ["parallel.start", "worker.start", "worker.complete", "parallel.complete"]


async def test_an_item_whose_start_was_not_told_is_not_told_when_it_is_cancelled(autojump_clock):
    observer = Choosy()
    async with open_parallel([1], trio.sleep, observer=observer) as run:
        await trio.sleep(0.5)
        run.cancel()
    assert observer.kinds == ["parallel.start", "parallel.complete"]


async def test_an_observer_that_cannot_say_what_it_wants_gets_all_and_is_warned_about_once(log):
    observer = Broken()
    await process_parallel(range(3), work, config=COLLECT_ALL, observer=observer)
    assert len(observer.events) == 2 + 2 * 3
    assert observer.events[-1].data["observer_failures"] == 3
    assert [line for line in log.at("WARNING") if "Broken" in line and "no idea" in line] == log.at("WARNING")
    assert len(log.at("WARNING")) == 1


def test_nobody_wants_what_nobody_listens_to():
    assert not Emitter(MultiObserver(), "parallel").wants(EventType.WORKER_START)
    assert Emitter(RecordingObserver(), "parallel").wants(EventType.WORKER_START)


async def test_without_a_sink_for_trace_most_items_build_no_event(sinks, monkeypatch):
    lines = sinks("INFO")
    built = []

    def build(*fields):
        built.append(fields)
        return Event(*fields)

    monkeypatch.setattr(emitter_module, "Event", build)
    await process_parallel(range(1000, 2600), work, observer=LoguruObserver())
    assert len(built) <= 2 + 2 * 1600 / 16
    assert [line.split()[1] for line in lines] == ["parallel.start", "parallel.complete"]


async def test_a_sink_that_was_there_before_the_run_misses_no_line(sinks):
    observer = LoguruObserver()
    sinks("INFO")
    await process_parallel(range(10, 30), work, observer=observer)
    lines = sinks("TRACE")
    await process_parallel(range(10, 20), work, observer=observer)
    assert len(lines) == 2 + 2 * 10


async def test_a_sink_that_is_added_in_the_middle_of_a_run_is_served_within_sixteen_items(sinks):
    sinks("INFO")
    late = []

    async def add_late(item):
        await trio.lowlevel.checkpoint()
        if item == 100:
            late.extend([sinks("TRACE")])

    await process_parallel(range(200), add_late, config=ParallelConfig(max_workers=1), observer=LoguruObserver())
    starts = [line for line in late[0] if "worker.start" in line]
    assert 200 - 101 - 16 <= len(starts) <= 200 - 101


async def test_a_sink_that_is_removed_makes_it_quiet_again(sinks):
    observer = LoguruObserver()
    taken = logger.add(lambda _: None, level="TRACE")
    await process_parallel([1, 2], work, observer=observer)
    logger.remove(taken)
    sinks("INFO")
    asked = []
    original = observer.on_event
    chosen = Choosy()
    chosen.wants, chosen.on_event = observer.wants, lambda event: (asked.append(event), original(event))
    await process_parallel(range(10, 42), work, observer=chosen)
    assert len(asked) <= 2 + 2 * 3
