"""How far runs are: bars where there is a terminal, few plain lines where there is none."""

import builtins
import io
import re
import threading

import pytest
import trio
from rich.console import Console

from trioflow import (
    ChainConfig,
    ConfigError,
    Event,
    EventType,
    GraphConfig,
    MultiObserver,
    ParallelConfig,
    ProgressObserver,
    RecordingObserver,
    State,
    StateGraph,
    process_chain,
    process_parallel,
    register_observer,
)
from trioflow.observers import registry

MANY = ParallelConfig(max_workers=4, fail_fast=False, raise_if_all_failed=False)
DONE = {"status": "ok", "error": False, "error_type": None, "error_message": None, "duration": 0.0}
FAILED = {"status": "error", "error": True, "error_type": "ValueError", "error_message": "no", "duration": 0.0}


class Screen:
    """A console of which every refresh is kept."""

    def __init__(self, *, terminal, width=100):
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=terminal, width=width, height=30, color_system=None)
        self.observer = ProgressObserver(self.console)

    @property
    def text(self):
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.file.getvalue())

    @property
    def lines(self):
        return [line.rstrip() for line in re.split(r"[\r\n]+", self.text) if line.strip()]

    def see(self, at, type, data=None, *, source="parallel", run_id="nightly", parent=None):
        self.observer.on_event(Event(type, 1000.0 + at, source, run_id, dict(data or {}), parent))

    def start(self, at=0.0, total=100, workers=1, **more):
        data = {"item_count": total, "worker_count": workers, "fail_fast": True, "has_progress_callback": False}
        self.see(at, EventType.PARALLEL_START, data, **more)

    def item(self, at, index, ending=None, **more):
        place = {"worker_id": 0, "item_index": index, "total_items": None}
        self.see(at, EventType.WORKER_START, place, **more)
        self.see(at, EventType.WORKER_COMPLETE, {**place, **(ending or DONE), "attempts": 1}, **more)

    def end(self, at, processed, failed=0, ending=None, **more):
        data = {"items_processed": processed, "items_failed": failed, "items_unfinished": 0, "observer_failures": 0}
        self.see(at, EventType.PARALLEL_COMPLETE, {**data, **(ending or DONE)}, **more)


@pytest.fixture
def plain():
    return Screen(terminal=False)


@pytest.fixture
def terminal():
    return Screen(terminal=True)


async def work(item):
    await trio.lowlevel.checkpoint()
    if item % 10 == 3:
        raise ValueError("no")
    return item


# Without a terminal.


async def test_a_run_without_a_terminal_ends_with_one_line(plain):
    await process_parallel(range(100), work, config=MANY, observer=plain.observer, run_id="nightly")
    assert len(plain.lines) == 1
    assert plain.lines[0].startswith("parallel nightly: 100/100, 10 failed")


def test_there_is_at_most_one_line_every_few_seconds(plain):
    plain.start()
    for second in range(100):
        plain.item(second, second)
    plain.end(100.0, 100)
    assert 10 < len(plain.lines) <= 21
    assert "51/100" in plain.text
    assert "1/s" in plain.lines[5]
    assert "left" in plain.lines[5]
    assert plain.lines[-1].startswith("parallel nightly: 100/100")
    assert "left" not in plain.lines[-1]


def test_what_remains_is_told_where_the_total_is_known(plain):
    plain.start(total=100)
    for index in range(20):
        plain.item(10.0, index)
    assert plain.lines[-1] == "parallel nightly: 1/100, 0.1/s, 16:30 left"
    plain.item(20.0, 20)
    assert plain.lines[-1] == "parallel nightly: 21/100, 1.1/s, 1:15 left"


def test_without_a_total_there_is_a_count(plain):
    plain.start(total=None)
    plain.item(10.0, 0)
    assert plain.lines == ["parallel nightly: 1 done, 0.1/s"]


def test_retries_and_what_is_waited_for_are_shown(plain):
    plain.start()
    retry = {"worker_id": 0, "item_index": 0, "total_items": 100, "attempt": 1, "delay": 30.0}
    plain.see(10.0, EventType.TASK_RETRY, {**retry, "error_type": "RateLimitError", "error_message": "429"})
    assert plain.lines == ["parallel nightly: 0/100, 1 retry, waits 30 s after RateLimitError"]
    plain.item(50.0, 0)
    assert "waits" not in plain.lines[-1]


async def test_what_waits_for_the_rate_is_shown(plain, autojump_clock):
    config = ParallelConfig(max_workers=4, max_per_second=0.1)
    shown = []

    async def look(item):
        if item == 0:
            await trio.sleep(1)
            plain.observer.refresh()
            shown.extend(plain.lines)

    await process_parallel(range(4), look, config=config, observer=plain.observer, run_id="slow")
    # Three wait behind the first, ten seconds each; the wall's clock stands still.
    assert shown[-1].endswith("waits 30 s for the rate")


async def test_a_wait_that_is_short_is_not_told(autojump_clock):
    announced = []

    class Asking:
        def on_event(self, event):
            pass

        def on_begin(self, event):
            announced.append(event.data)

    async def work(item):
        pass

    await process_parallel(range(4), work, config=ParallelConfig(max_workers=1, max_per_second=4), observer=Asking())
    assert announced == []
    await process_parallel(range(2), work, config=ParallelConfig(max_workers=2, max_per_second=1), observer=Asking())
    (wait,) = announced
    assert (wait["name"], wait["data"]["item_index"]) == ("rate.wait", 1)
    assert 0.5 <= wait["data"]["delay"] <= 1


def test_how_a_run_ended_is_in_its_last_line(plain):
    plain.start()
    plain.item(0.1, 0, FAILED)
    plain.end(0.2, 0, 1, FAILED)
    assert plain.lines == ["parallel nightly: 1/100, 1 failed, 0.2 s, error"]


def test_items_that_were_kept_are_done_and_not_counted_in_the_rate(plain):
    plain.start()
    plain.see(0.0, EventType.CHECKPOINT_LOAD, {"items": 50})
    plain.item(10.0, 50)
    assert plain.lines == ["parallel nightly: 51/100, 0.1/s, 8:10 left"]


async def test_of_runs_in_runs_only_the_outer_one_has_a_last_line(plain):
    async def step(item, state):
        return state + item

    async def nest(item):
        await process_chain(range(3), 0, step, observer=plain.observer)

    await process_parallel(range(50), nest, config=MANY, observer=plain.observer, run_id="outer")
    assert len(plain.lines) == 1
    assert plain.lines[0].startswith("parallel outer: 50/50")


async def test_a_chain_counts_its_steps(plain):
    async def step(item, state):
        await trio.lowlevel.checkpoint()
        return state + item

    await process_chain(range(5), 0, step, observer=plain.observer)
    assert re.match(r"chain: 5/5, ", plain.lines[0])


async def test_a_graph_shows_the_node_that_it_is_in(terminal, monkeypatch):
    monkeypatch.setattr(registry, "_observers", {})
    register_observer("bars", terminal.observer)

    async def node(state):
        terminal.observer.refresh()
        return state

    graph = StateGraph(GraphConfig(name="review", observer="bars"))
    graph.add_node("plan", node)
    graph.add_node("write", node)
    graph.add_edge("plan", "write")
    graph.set_entry_point("plan")
    graph.set_exit_point("write")
    await graph.execute(State())
    assert any("graph review" in line and "in plan" in line for line in terminal.lines)
    assert any("in write" in line for line in terminal.lines)
    assert terminal.lines[-1].startswith("graph review")
    assert "2 done, " in terminal.lines[-1]


# With one.


def test_bars_are_refreshed_at_most_ten_times_a_second(terminal):
    terminal.start(total=10_000)
    for number in range(10_000):
        terminal.item(number / 10_000, number)
    terminal.end(1.0, 10_000)
    shown = [line for line in terminal.lines if "nightly" in line]
    assert 5 <= len(shown) <= 15
    assert "10000/10000" in shown[-1]


def test_runs_in_runs_are_below_and_go_when_they_end(terminal):
    terminal.start(run_id="outer")
    terminal.start(0.5, total=3, run_id="inner", parent="outer")
    outer, inner = terminal.lines[-2:]
    assert outer.startswith("parallel outer")
    assert inner.startswith("  parallel inner")
    terminal.end(1.0, 3, run_id="inner", parent="outer")
    terminal.end(2.0, 100, run_id="outer")
    assert "inner" not in terminal.lines[-1]
    assert terminal.observer.runs == 0


def test_of_very_many_runs_some_are_shown(terminal):
    terminal.start(run_id="outer")
    for number in range(1000):
        terminal.start(0.001, run_id=f"inner {number}", parent="outer")
    terminal.item(5.0, 0, run_id="outer")
    assert "more runs" in terminal.lines[-1]
    assert len(terminal.lines) < 40


def test_hostile_names_change_neither_colours_nor_lines(terminal, plain):
    for screen in (terminal, plain):
        screen.start(run_id="[red]a\nb\x1b[2J" + "x" * 1_000_000)
        screen.end(1.0, 1, run_id="[red]a\nb\x1b[2J" + "x" * 1_000_000)
        assert "[red]a\\nb\\x1b" in screen.text
        assert len(screen.file.getvalue()) < 5000


@pytest.mark.parametrize("width", [1, 2, 10, 40])
def test_a_narrow_terminal_is_no_trouble(width):
    screen = Screen(terminal=True, width=width)
    screen.start()
    screen.item(1.0, 0)
    screen.end(2.0, 1)
    assert screen.observer.runs == 0


async def test_no_thread_is_started_and_the_cursor_comes_back(terminal):
    async def count(item):
        await trio.lowlevel.checkpoint()
        threads.append(threading.active_count())

    threads = [threading.active_count()]
    await process_parallel(range(10), count, observer=terminal.observer)
    assert len(set(threads)) == 1
    written = terminal.file.getvalue()
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") >= 0


async def test_a_cancelled_run_gives_the_terminal_back(terminal, autojump_clock):
    with trio.move_on_after(1):
        await process_parallel([1], trio.sleep, config=ParallelConfig(max_workers=1), observer=terminal.observer)
    with trio.move_on_after(1):
        await process_parallel([1e9], trio.sleep, observer=terminal.observer)
    assert terminal.observer.runs == 0
    assert "cancelled" in terminal.lines[-1]


def test_leaving_the_block_gives_the_terminal_back_and_nothing_is_taken_then(terminal):
    with terminal.observer as progress:
        terminal.start()
        assert progress.runs == 1
    written = terminal.file.getvalue()
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")
    terminal.item(5.0, 1)
    terminal.observer.close()
    assert terminal.file.getvalue() == written


# What it leaves out.


async def test_a_fast_run_gives_it_few_events_and_the_numbers_are_exact(plain):
    handed, single = [], []

    class Counting:
        def on_items(self, event):
            handed.append(len(event.data["items"]))
            plain.observer.on_items(event)

        def on_event(self, event):
            single.append(event)
            plain.observer.on_event(event)

    await process_parallel(range(20_000), work, config=MANY, observer=Counting())
    assert sum(handed) == 18_000
    assert len(single) == 2 + 2 * 2_000
    assert plain.lines[-1].startswith("parallel")
    assert "20000/20000, 2000 failed" in plain.lines[-1]


async def test_items_that_are_handed_over_together_are_drawn(plain):
    plain.start(total=1000, workers=10)
    items = [(0, index, 10.0, 0.1) for index in range(491)]
    at = 1010.0
    plain.observer.on_items(Event(EventType.WORKER_COMPLETE, at, "parallel", "nightly", {"items": items}))
    assert plain.lines == ["parallel nightly: 491/1000, 49/s, 0:10 left"]


async def test_beside_an_observer_that_takes_everything(plain):
    heard = RecordingObserver()
    await process_parallel(range(50), work, config=MANY, observer=MultiObserver(heard, plain.observer))
    assert len(heard.events) == 102
    assert "50/50, 5 failed" in plain.lines[-1]


# What can go wrong.


async def test_a_console_that_cannot_be_written_fails_no_run(log):
    screen = Screen(terminal=False)
    screen.file.close()
    result = await process_parallel(range(5), work, config=MANY, observer=screen.observer)
    assert (len(result.results), len(result.errors)) == (4, 1)
    assert len(log.at("WARNING")) == 1
    for _ in range(3):
        await process_parallel(range(5), work, config=MANY, observer=screen.observer)
    assert len(log.at("WARNING")) == 1


def test_events_without_a_beginning_are_no_trouble(plain):
    for type in EventType:
        data = {**DONE, "worker_id": 0, "item_index": 0, "node": "n", "name": "x", "data": {}, "items": 1, "iteration": 1}
        plain.see(0.0, type, data)
    assert "ProgressObserver" in repr(plain.observer)


def test_two_runs_of_one_name_at_once(plain):
    for _ in range(2):
        plain.start()
    for _ in range(2):
        plain.end(1.0, 100)
    assert len(plain.lines) == 2
    assert plain.observer.runs == 0


@pytest.mark.parametrize("bad", [{"console": 3}, {"interval": -1.0}, {"line_interval": "x"}])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        ProgressObserver(**bad)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("rich"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"trioflow\[progress\]"):
        ProgressObserver()


async def test_it_is_there_by_default_on_stderr(capsys):
    async def step(item, state):
        return state

    await process_chain([1], 0, step, config=ChainConfig(), observer=ProgressObserver())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("chain: 1/1")
