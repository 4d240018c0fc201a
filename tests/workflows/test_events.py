"""What a run tells: pairs on every way out, silence with noop, faults of observers kept apart, secrets kept in."""

import msgspec
import pytest
import trio
from loguru import logger

import trioflow._runtime.emitter as emitter_module
from trioflow import (
    EventType,
    MultiObserver,
    NoopObserver,
    ParallelConfig,
    ParallelError,
    RecordingObserver,
    RetryConfig,
    open_parallel,
    process_parallel,
    with_retry,
    with_timeout,
)

COLLECT_ALL = ParallelConfig(max_workers=2, fail_fast=False)


async def odd_fails(item):
    await trio.sleep(1)
    if item % 2:
        raise ValueError(f"odd {item}")
    return item * 10


class Failing:
    def __init__(self, error):
        self.error, self.calls = error, 0

    def on_event(self, event):
        self.calls += 1
        raise self.error


async def test_the_run_tells_its_start_and_end(autojump_clock):
    heard = RecordingObserver()
    await process_parallel(
        range(3), odd_fails, config=COLLECT_ALL, observer=heard, run_id="run-7", progress=lambda *_: None
    )
    start, *_, complete = heard.events
    assert start.type is EventType.PARALLEL_START
    assert start.data == {
        "item_count": 3,
        "worker_count": 2,
        "fail_fast": False,
        "has_progress_callback": True,
    }
    assert complete.type is EventType.PARALLEL_COMPLETE
    assert complete.data == {
        "status": "ok",
        "items_processed": 2,
        "items_failed": 1,
        "items_unfinished": 0,
        "error": False,
        "error_type": None,
        "error_message": None,
        "duration": pytest.approx(2, abs=0.01),
        "observer_failures": 0,
    }
    assert {event.run_id for event in heard.events} == {"run-7"}
    assert {event.source for event in heard.events} == {"parallel"}
    assert start.timestamp > 1_600_000_000


async def test_each_item_tells_its_start_and_end(autojump_clock):
    heard = RecordingObserver()
    await process_parallel(range(2), odd_fails, config=COLLECT_ALL, observer=heard)
    starts = [event.data for event in heard.events if event.type == "worker.start"]
    ends = {event.data["item_index"]: event.data for event in heard.events if event.type == "worker.complete"}
    assert sorted((data["worker_id"], data["item_index"]) for data in starts) in (
        [(0, 0), (1, 1)],
        [(0, 1), (1, 0)],
    )
    assert all(data["total_items"] == 2 for data in starts)
    assert ends[0]["status"] == "ok"
    assert ends[0]["error"] is False
    assert ends[1]["status"] == "error"
    assert ends[1]["error"] is True
    assert (ends[1]["error_type"], ends[1]["error_message"]) == ("ValueError", "odd 1")
    assert ends[1]["duration"] == pytest.approx(1)


async def test_events_carry_plain_values_that_encode(autojump_clock):
    heard = RecordingObserver()
    await process_parallel([object(), object()], unjsonable, config=COLLECT_ALL, observer=heard)
    for event in heard.events:
        assert msgspec.json.decode(msgspec.json.encode(event))["type"] == event.type


async def unjsonable(item):
    return object()


@pytest.mark.parametrize("fail_fast", [True, False])
@pytest.mark.parametrize("way", ["ok", "error", "cancel", "timeout", "grave", "source", "progress", "break"])
async def test_every_start_has_its_end_on_every_way_out(way, fail_fast, autojump_clock):
    heard = RecordingObserver()
    config = ParallelConfig(max_workers=3, fail_fast=fail_fast, timeout=5 if way == "timeout" else None)

    async def work(item):
        await trio.sleep(item)
        if item == 2 and way == "error":
            raise ValueError("boom")
        if item == 2 and way == "grave":
            raise KeyboardInterrupt
        return item

    def source():
        yield from range(8)
        if way == "source":
            raise LookupError

    def progress(*_):
        if way == "progress":
            raise LookupError

    async def go():
        if way == "break":
            async with open_parallel(source(), work, config=config, observer=heard) as run:
                async for outcome in run:
                    if outcome.index == 2:
                        break
            return
        await process_parallel(source(), work, config=config, observer=heard, progress=progress)

    with trio.move_on_after(5.5 if way == "cancel" else 1000):
        try:
            await go()
        except (ParallelError, LookupError, KeyboardInterrupt):
            pass
    kinds = [event.type for event in heard.events]
    assert kinds[0] == "parallel.start"
    assert kinds[-1] == "parallel.complete"
    started = [event.data["item_index"] for event in heard.events if event.type == "worker.start"]
    ended = [event.data["item_index"] for event in heard.events if event.type == "worker.complete"]
    assert sorted(started) == sorted(ended)
    assert len(set(ended)) == len(ended)
    assert all(event.data["duration"] >= 0 for event in heard.events if event.type.endswith("complete"))
    statuses = {event.data["status"] for event in heard.events if event.type == "worker.complete"}
    assert statuses <= {"ok", "error", "cancelled"}
    expected = {"ok": "ok", "cancel": "cancelled", "break": "cancelled", "grave": "error", "source": "error"}
    if way in expected:
        assert heard.events[-1].data["status"] == expected[way]


async def test_a_timed_out_item_is_told_as_an_error(autojump_clock):
    heard = RecordingObserver()
    config = ParallelConfig(max_workers=2, fail_fast=False, timeout=5)
    with pytest.raises(ParallelError):
        await process_parallel([1, 2], forever, config=config, observer=heard)
    ends = [event.data for event in heard.events if event.type == "worker.complete"]
    assert [data["error_type"] for data in ends] == ["TooSlowError", "TooSlowError"]


async def forever(item):
    await trio.sleep_forever()


@pytest.mark.parametrize("by", ["config", "user"])
async def test_each_retry_is_told_and_counted(by, autojump_clock):
    heard = RecordingObserver()
    calls = 0

    async def flaky(item):
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ConnectionError("refused")
        return item

    retry = RetryConfig(initial_delay=1, jitter=False)
    config = ParallelConfig(max_workers=1, retry=retry if by == "config" else None)
    processor = flaky if by == "config" else with_retry(flaky, retry)
    await process_parallel(["x"], processor, config=config, observer=heard)
    retries = [event.data for event in heard.events if event.type == "task.retry"]
    assert [(data["attempt"], data["delay"]) for data in retries] == [(1, 1), (2, 2)]
    assert retries[0]["item_index"] == 0
    assert (retries[0]["error_type"], retries[0]["error_message"]) == ("ConnectionError", "refused")
    (end,) = [event.data for event in heard.events if event.type == "worker.complete"]
    assert end["attempts"] == 3


async def test_a_retry_below_another_wrapper_is_not_taken_for_the_outermost(autojump_clock):
    answers = [ConnectionError("refused"), "ok"]

    async def ask(item):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    processor = with_timeout(with_retry(ask, RetryConfig(initial_delay=1)), 60)
    async with open_parallel(["x"], processor, config=COLLECT_ALL) as run:
        (outcome,) = [outcome async for outcome in run]
    assert (outcome.result, outcome.attempts) == ("ok", 1)


async def test_a_retry_inside_the_processor_is_the_processors_own_business(autojump_clock):
    heard = RecordingObserver()
    answers = [ConnectionError("refused"), "ok"]

    async def helper():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def work(item):
        return await with_retry(helper)()

    async with open_parallel(["x"], work, observer=heard) as run:
        (outcome,) = [outcome async for outcome in run]
    assert outcome.attempts == 1
    assert not [event for event in heard.events if event.type == "task.retry"]


async def test_with_noop_no_event_is_built(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("an event was built")

    monkeypatch.setattr(emitter_module, "Event", refuse)
    for observer in (None, NoopObserver(), MultiObserver(), MultiObserver(NoopObserver(), MultiObserver())):
        config = ParallelConfig(observer="noop", retry=RetryConfig(max_attempts=2, initial_delay=0.001))
        result = await process_parallel([0, 2], odd_quick, config=config, observer=observer)
        assert result.results == [0, 2]


async def odd_quick(item):
    return item


async def test_items_and_results_are_told_only_to_observers_that_ask(autojump_clock):
    discreet, curious = RecordingObserver(), RecordingObserver(include_data=True)
    await process_parallel(
        ["secret"], shout, config=COLLECT_ALL, observer=MultiObserver(discreet, curious)
    )
    assert "secret" not in repr(discreet.events).lower()
    start = next(event for event in curious.events if event.type == "worker.start")
    end = next(event for event in curious.events if event.type == "worker.complete")
    assert start.data["item"] == "secret"
    assert (end.data["item"], end.data["result"]) == ("secret", "SECRET")


async def shout(item):
    return item.upper()


async def test_an_observer_that_raises_never_changes_the_outcome(log, autojump_clock):
    first, second, fine = Failing(RuntimeError("bad\ndisk")), Failing(OSError("full")), RecordingObserver()
    result = await process_parallel(
        range(4), odd_fails, config=COLLECT_ALL, observer=MultiObserver(first, MultiObserver(second, fine))
    )
    assert result.results == [0, 20]
    assert fine.events[-1].type == "parallel.complete"
    assert fine.events[-1].data["observer_failures"] == 2 * (len(fine.events) - 1)
    warnings = log.at("WARNING")
    assert len(warnings) == 2
    assert "bad\\ndisk" in warnings[0]
    assert "full" in warnings[1]


async def test_an_observer_that_changes_its_event_changes_nobody_elses():
    class Vandal:
        def on_event(self, event):
            event.data.clear()

    heard = RecordingObserver()
    await process_parallel([2], odd_quick, observer=MultiObserver(Vandal(), heard))
    assert heard.events[-1].data["items_processed"] == 1


async def test_a_log_that_fails_never_changes_the_outcome():
    def broken(message):
        raise OSError("disk full")

    sink = logger.add(broken, level="INFO", catch=False)
    try:
        result = await process_parallel([2], odd_quick)
    finally:
        logger.remove(sink)
    assert result.results == [2]


async def test_each_run_warns_anew_of_an_observer_that_raises(log):
    observer = Failing(RuntimeError("bad"))
    for _ in range(2):
        await process_parallel([2], odd_quick, observer=observer)
    assert len(log.at("WARNING")) == 2


@pytest.mark.parametrize("at", ["parallel.start", "worker.start", "worker.complete", "parallel.complete"])
async def test_a_non_exception_of_an_observer_passes(at, autojump_clock):
    class Stop(BaseException):
        pass

    class Stopping:
        def on_event(self, event):
            if event.type == at:
                raise Stop

    with pytest.raises(Stop):
        await process_parallel(range(4), odd_fails, config=COLLECT_ALL, observer=Stopping())


async def test_a_run_without_an_id_gets_one():
    heard = RecordingObserver()
    for _ in range(2):
        await process_parallel([2], odd_quick, observer=heard)
    ids = {event.run_id for event in heard.events}
    assert len(ids) == 2
    assert all(ids)


async def test_the_default_log_is_a_start_an_end_and_a_warning_for_each_failure(log, autojump_clock):
    config = ParallelConfig(max_workers=2, fail_fast=False, retry=RetryConfig(max_attempts=2, jitter=False))
    await process_parallel(range(4), odd_fails, config=config)
    visible = [(level, line) for level, line in log if level != "TRACE"]
    assert [level for level, _ in visible] == ["INFO", "WARNING", "WARNING", "INFO"]
    assert "parallel.start" in visible[0][1]
    assert "odd 1" in visible[1][1]
    end = visible[-1][1]
    assert "items_processed=2" in end
    assert "items_failed=2" in end
    assert "duration=" in end
    assert sum("worker.start" in line for line in log.at("TRACE")) == 4
    assert sum("task.retry" in line for line in log.at("TRACE")) == 2


async def test_no_control_character_of_a_user_reaches_the_log(log):
    async def hostile(item):
        raise ValueError("forged\n2026-01-01 | INFO | all is well \x1b[2J\u202e")

    with pytest.raises(ParallelError):
        await process_parallel([1], hostile, run_id="id\nwith newline")
    for _, line in log:
        assert line.isprintable(), line
