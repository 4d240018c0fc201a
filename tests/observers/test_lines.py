"""What the logs say: the same lines in loguru and `logging`, failures collapsed, places of the user's."""

import logging
import tracemalloc

import pytest
import trio
from loguru import logger

from trioflow import (
    ConfigError,
    Event,
    EventType,
    GraphConfig,
    LoggingObserver,
    LoguruObserver,
    ParallelConfig,
    ParallelError,
    State,
    StateGraph,
    open_hub,
    open_parallel,
    parallel_node,
    process_chain,
    process_parallel,
)
from trioflow.events import Place
from trioflow.observers._lines import RUNS, Lines


class Taken(logging.Handler):
    def __init__(self):
        super().__init__(level=1)
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def records():
    """What the logger "trioflow" was given, at every level."""
    handler, trioflow = Taken(), logging.getLogger("trioflow")
    trioflow.addHandler(handler)
    trioflow.setLevel(1)
    yield handler.records
    trioflow.removeHandler(handler)
    trioflow.setLevel(logging.NOTSET)


@pytest.fixture
def places():
    """The places that loguru's records name: level, name, file, module, function and line."""
    taken = []

    def take(message):
        record = message.record
        taken.append(
            (
                record["level"].name,
                record["name"],
                record["file"].path,
                record["module"],
                record["function"],
                record["line"],
                dict(record["extra"]),
            )
        )

    sink = logger.add(take, level="TRACE")
    yield taken
    logger.remove(sink)


def failure(message="boom", run_id="run", source="parallel"):
    data = {"status": "error", "error": True, "error_message": message}
    return Event(EventType.WORKER_COMPLETE, 1.0, source, run_id, data)


def end(run_id="run", type=EventType.PARALLEL_COMPLETE, **data):
    return Event(type, 1.0, type.value.split(".")[0], run_id, {"status": "ok", **data})


def lines_of(*events):
    lines = Lines()
    return [(line.level, str(line)) for event in events for line in lines.of(event)]


async def test_the_same_lines_go_to_logging(records, log):
    async def work(item):
        await trio.lowlevel.checkpoint()
        if item == 1:
            raise ValueError("a\nb {x} %s")
        return item

    config = ParallelConfig(max_workers=1, fail_fast=False)
    for observer in (LoguruObserver(), LoggingObserver()):
        await process_parallel(range(3), work, config=config, observer=observer, run_id="r")

    def without_duration(lines):
        return [(level, line.partition(", duration")[0]) for level, line in lines]

    logged = [(record.levelname, record.getMessage()) for record in records]
    assert without_duration(logged) == without_duration(log)
    assert [level for level, _ in logged] == ["INFO", *["TRACE"] * 3, "WARNING", *["TRACE"] * 2, "INFO"]
    assert "error_message=a\\nb {x} %s" in logged[4][1]
    assert {record.levelno for record in records} == {5, logging.INFO, logging.WARNING}


def test_another_logger_can_be_named_and_what_is_no_name_is_refused():
    handler = Taken()
    named = logging.getLogger("mine.runs")
    named.addHandler(handler)
    named.setLevel(logging.WARNING)
    try:
        observer = LoggingObserver("mine.runs")
        observer.on_event(failure())
        observer.on_event(end())
    finally:
        named.removeHandler(handler)
    assert [record.name for record in handler.records] == ["mine.runs"]
    assert not observer.wants(EventType.WORKER_START)
    assert observer.wants(EventType.PARALLEL_START)
    with pytest.raises(ConfigError, match="logger must be a non-empty string"):
        LoggingObserver("")


def test_ten_failures_of_a_message_are_lines_and_one_before_the_end_counts_the_rest():
    told = lines_of(*[failure()] * 25, failure("other"), end())
    assert [level for level, _ in told] == ["WARNING"] * 12 + ["INFO"]
    assert told[10] == ("WARNING", "worker.complete [run] error: error_message=other")
    assert told[11] == ("WARNING", "parallel [run] error: 25 failures, 15 of them not shown: boom")


def test_ten_failures_and_no_more_need_no_count():
    assert len(lines_of(*[failure()] * 10, end())) == 11


def test_each_run_counts_for_itself_and_begins_anew():
    runs = [failure(run_id=run) for run in ("a", "b") for _ in range(10)]
    assert len(lines_of(*runs, end("a"), end("b"), *runs)) == 42
    inner = failure("boom", source="chain")
    assert len(lines_of(*[inner] * 10, *[failure()] * 10, end(type=EventType.CHAIN_COMPLETE), failure())) == 21


def test_failures_of_a_hub_are_all_lines_since_no_end_could_count_them():
    assert len(lines_of(*[failure(source="hub")] * 30)) == 30


def test_messages_are_told_apart_by_what_is_shown_of_them():
    told = lines_of(*[failure("x" * 300 + str(number)) for number in range(30)], end())
    assert len(told) == 12


async def test_a_hundred_thousand_failures_write_tens_of_lines():
    lines = []
    sink = logger.add(lines.append, level="INFO", format="{message}")

    async def fail(item):
        raise ValueError(f"cannot do {item % 2}")

    config = ParallelConfig(fail_fast=False)
    try:
        with pytest.raises(ParallelError):
            await process_parallel(range(100_000), fail, config=config, observer=LoguruObserver(), run_id="r")
    finally:
        logger.remove(sink)
    assert len(lines) == 2 + 22
    assert lines[-2] == "parallel [r] error: 50000 failures, 49990 of them not shown: cannot do 1\n"
    assert lines[-1].startswith("parallel.complete [r] error:")


def test_messages_without_end_share_one_count_and_bounded_memory():
    lines = Lines()
    shown = [line for number in range(100_000) for line in lines.of(failure(f"boom {number}"))]
    assert len(shown) == 50 + 10
    *_, last, complete = [str(line) for line in lines.of(end())]
    assert last.endswith(f" {100_000 - 50} failures, {99_990 - 50} of them not shown: other messages")
    assert complete.startswith("parallel.complete")


def test_runs_whose_end_does_not_come_are_forgotten_in_the_end():
    lines = Lines()
    for number in range(RUNS + 5):
        list(lines.of(failure(run_id=str(number))))
    assert len(lines._tallies) == RUNS


def test_a_message_of_a_megabyte_costs_no_more_than_what_is_shown_of_it():
    event = failure("\x1b" * 1_000_000)
    lines = Lines()
    tracemalloc.start()
    try:
        for _ in range(20):
            for line in lines.of(event):
                assert len(str(line)) < 300
        assert sum(len(str(line)) for line in lines.of(end())) < 500
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()


def test_a_run_that_left_items_says_how_many():
    (line,) = lines_of(end(items_processed=4, items_unfinished=96))
    assert line == ("INFO", "parallel.complete [run] ok, 96 unfinished: items_processed=4")
    (line,) = lines_of(end(items_processed=4, items_unfinished=0))
    assert line == ("INFO", "parallel.complete [run] ok: items_processed=4")


async def test_a_drained_run_says_how_many_it_left(log, autojump_clock):
    config = ParallelConfig(max_workers=2)
    async with open_parallel([1] * 10, trio.sleep, config=config, observer=LoguruObserver()) as run:
        await trio.sleep(0.5)
        run.drain()
        async for _ in run:
            pass
    assert "8 unfinished:" in log.at("INFO")[-1]


def test_an_item_that_cannot_be_shown_does_not_break_its_line():
    class Broken:
        def __repr__(self):
            raise ValueError

    event = Event(EventType.WORKER_START, 1.0, "parallel", "run", {"item": Broken()})
    assert lines_of(event) == [("TRACE", "worker.start [run] item=<Broken>")]


async def fail(item):
    raise ValueError(item)


async def test_lines_name_the_place_in_the_users_code(places, records):
    for observer in (LoguruObserver(), LoggingObserver()):
        with pytest.raises(ParallelError):
            await process_parallel([1], fail, observer=observer)
    this = "test_lines_name_the_place_in_the_users_code"
    assert len(places) == 4
    assert {place[1:5] for place in places} == {(__name__, __file__, "test_lines", this)}
    assert all(place[6] == {} for place in places)
    assert {(record.pathname, record.funcName, record.name) for record in records} == {
        (__file__, this, "trioflow")
    }
    assert {place[5] for place in places} == {record.lineno for record in records}


async def test_a_fan_out_in_a_graph_names_the_place_where_the_graph_was_started(places):
    graph = StateGraph(GraphConfig(name="g"))
    node = parallel_node(same, items=[1, 2], aggregate=lambda state, result: state)
    graph.add_node("only", node)
    graph.set_entry_point("only")
    graph.set_exit_point("only")
    await graph.execute(State())
    assert {place[4] for place in places} == {
        "test_a_fan_out_in_a_graph_names_the_place_where_the_graph_was_started"
    }


async def same(item):
    await trio.lowlevel.checkpoint()
    return item


def test_a_part_of_a_run_whose_own_place_is_unknown_names_that_of_the_run_around_it():
    lines = Lines()
    outer = Place("m", "m.py", "f", 3)
    start = Event(EventType.GRAPH_START, 1.0, "graph", "outer", {}, None, outer)
    inner = Event(EventType.PARALLEL_START, 1.0, "parallel", "inner", {}, "outer")
    stranger = Event(EventType.PARALLEL_START, 1.0, "parallel", "inner", {}, "nobody")
    over = Event(EventType.GRAPH_COMPLETE, 1.0, "graph", "outer", {}, None, outer)
    told = [line.place for event in (start, inner, stranger, over, inner) for line in lines.of(event)]
    assert told == [outer, outer, None, outer, None]


def test_a_place_that_is_not_known_is_said_to_be_unknown(places, records):
    LoguruObserver().on_event(failure())
    LoggingObserver().on_event(failure())
    assert places[0][1] == "trioflow.observers.loguru"
    assert records[0].funcName == "(unknown function)"


async def test_loguru_can_still_be_told_to_be_silent_about_the_package(places):
    logger.disable("trioflow")
    try:
        await process_parallel([1], same, observer=LoguruObserver())
    finally:
        logger.enable("trioflow")
    assert places == []


async def test_chains_and_hubs_name_their_place_too(places):
    async def step(item, state):
        return state

    await process_chain([1], 0, step, observer=LoguruObserver())
    async with open_hub(observer=LoguruObserver()) as hub:
        hub.register("a", same)
        await hub.send("b", "a", 1)
    assert {place[4] for place in places} == {"test_chains_and_hubs_name_their_place_too"}
