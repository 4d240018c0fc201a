"""The observers that ship, and the registry of their names."""

import pytest
from loguru import logger

from trioflow import (
    ConfigError,
    Event,
    EventType,
    LoggingObserver,
    LoguruObserver,
    MultiObserver,
    NoopObserver,
    Observer,
    ParallelConfig,
    RecordingObserver,
    get_observer,
    process_parallel,
    register_observer,
)
from trioflow.observers import registry


def event(type=EventType.PARALLEL_START, **data):
    return Event(type, 1.0, "parallel", "run", data)


@pytest.fixture
def names(monkeypatch):
    monkeypatch.setattr(registry, "_observers", {})


def test_the_shipped_names(names):
    assert isinstance(get_observer("noop"), NoopObserver)
    assert isinstance(get_observer("loguru"), LoguruObserver)
    assert isinstance(get_observer("logging"), LoggingObserver)
    assert get_observer("loguru") is get_observer("loguru")


def test_an_unknown_name_lists_the_known_ones(names):
    register_observer("mine", RecordingObserver())
    with pytest.raises(ConfigError, match="observer must be one of 'logging', 'loguru', 'mine', 'noop', got 'logru'"):
        get_observer("logru")


async def test_a_registered_observer_serves_a_config_by_name(names):
    heard = RecordingObserver()
    register_observer("mine", heard)

    async def work(item):
        return item

    await process_parallel([1], work, config=ParallelConfig(observer="mine"))
    assert heard.events[-1].type == "parallel.complete"
    register_observer("mine", NoopObserver())
    assert isinstance(get_observer("mine"), NoopObserver)


@pytest.mark.parametrize(("name", "observer"), [("", NoopObserver()), ("x", object()), ("x", None)])
def test_what_cannot_be_registered_is_refused(names, name, observer):
    with pytest.raises(ConfigError):
        register_observer(name, observer)


def test_every_shipped_observer_is_an_observer():
    for observer in (NoopObserver(), LoguruObserver(), LoggingObserver(), MultiObserver(), RecordingObserver()):
        assert isinstance(observer, Observer)
        assert type(observer).__name__ in repr(observer)
    NoopObserver().on_event(event())


def test_recording_keeps_the_latest_and_counts_what_it_dropped():
    heard = RecordingObserver(limit=2)
    for number in range(5):
        heard.on_event(event(number=number))
    assert [kept.data["number"] for kept in heard.events] == [3, 4]
    assert heard.dropped == 3
    heard.clear()
    assert (heard.events, heard.dropped) == ([], 0)


@pytest.mark.parametrize("limit", [0, -1, 1.5])
def test_recording_refuses_a_limit_below_one(limit):
    with pytest.raises(ConfigError, match="limit must be .*1 or more"):
        RecordingObserver(limit)


def test_multi_passes_to_all_and_then_raises_what_they_raised():
    class Failing:
        def on_event(self, event):
            raise OSError("full")

    heard = RecordingObserver()
    with pytest.raises(ExceptionGroup) as caught:
        MultiObserver(Failing(), heard, Failing()).on_event(event())
    assert [type(error) for error in caught.value.exceptions] == [OSError, OSError]
    assert len(heard.events) == 1
    MultiObserver(heard).on_event(event())


def test_multi_refuses_what_is_no_observer():
    with pytest.raises(ConfigError, match="observers must be an observer"):
        MultiObserver(NoopObserver(), "noop")


@pytest.mark.parametrize(
    ("told", "level", "line"),
    [
        (event(item_count=3), "INFO", "parallel.start [run] item_count=3"),
        (
            event(EventType.PARALLEL_COMPLETE, status="error", error=True, duration=1.23456, error_type=None),
            "INFO",
            "parallel.complete [run] error: duration=1.235",
        ),
        (
            event(EventType.WORKER_COMPLETE, status="error", error=True, error_message="a\nb"),
            "WARNING",
            "worker.complete [run] error: error_message=a\\nb",
        ),
        (event(EventType.WORKER_COMPLETE, status="ok", error=False), "TRACE", "worker.complete [run] ok:"),
        (event(EventType.TASK_RETRY, attempt=1), "TRACE", "task.retry [run] attempt=1"),
    ],
)
def test_loguru_levels_and_lines(log, told, level, line):
    LoguruObserver().on_event(told)
    assert log == [(level, line)]


def test_loguru_leaves_braces_and_markup_of_users_alone(log):
    LoguruObserver().on_event(event(error_message="{0} <red>{x}</red>"))
    assert log.at("INFO") == ["parallel.start [run] error_message={0} <red>{x}</red>"]


def test_loguru_builds_no_line_that_no_sink_takes():
    class Expensive:
        def __repr__(self):
            raise AssertionError("the line was built")

    lines = []
    sink = logger.add(lines.append, level="INFO")
    try:
        logger.remove(0)
    except ValueError:
        pass
    try:
        LoguruObserver().on_event(event(EventType.WORKER_START, item=Expensive()))
    finally:
        logger.remove(sink)
    assert lines == []
