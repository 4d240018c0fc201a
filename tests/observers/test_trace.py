"""The picture of a run: valid JSON after every run, loadable after a crash, one lane a worker, arrows for retries."""

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections import defaultdict
from pathlib import Path

import pytest
import trio

from trioflow import (
    ConditionalConfig,
    ConfigError,
    Event,
    EventType,
    GraphConfig,
    ParallelConfig,
    RetryConfig,
    Routes,
    State,
    StateGraph,
    TraceObserver,
    open_hub,
    process_chain,
    process_conditional,
    process_parallel,
    register_observer,
)
from trioflow.observers import registry

THREE = ParallelConfig(max_workers=3, fail_fast=False)


async def work(item):
    await trio.lowlevel.checkpoint()
    if item == 5:
        raise ValueError("a\nb \ud800")
    return item


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trace.json"


@pytest.fixture
def named(monkeypatch):
    monkeypatch.setattr(registry, "_observers", {})
    return lambda observer: register_observer("traced", observer)


def slices(entries, phase="X"):
    return [entry for entry in entries if entry["ph"] == phase]


def check_nesting(entries):
    """Hold what viewers ask of a lane: of two slices one ends before the other begins, or lies within it."""
    lanes = defaultdict(list)
    for entry in slices(entries):
        lanes[entry["pid"], entry["tid"]].append((entry["ts"], entry["ts"] + entry["dur"]))
    for lane in lanes.values():
        open_until = []
        for begin, end in sorted(lane, key=lambda both: (both[0], -both[1])):
            while open_until and open_until[-1] <= begin + 0.0005:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + 0.0005
            open_until.append(end)


async def test_the_file_is_valid_after_every_run_and_has_a_lane_for_each_worker(path):
    trace = TraceObserver(path)
    for number in range(1, 4):
        await process_parallel(range(20), work, config=THREE, observer=trace, run_id=f"r{number}")
        entries = json.loads(path.read_bytes())
        assert len(slices(entries)) == 20 * number
        assert len(slices(entries, "B")) == len(slices(entries, "E")) == number
    trace.close()
    assert json.loads(path.read_bytes()) == entries
    names = [(entry["name"], entry["args"].get("name")) for entry in slices(entries, "M") if entry["pid"] == 1]
    assert ("process_name", "parallel r1") in names
    assert {name for kind, name in names if kind == "thread_name"} == {"run", "worker 0", "worker 1", "worker 2"}
    assert len({entry["tid"] for entry in slices(entries)}) == 3 * 3
    (failed,) = [entry for entry in slices(entries) if entry["pid"] == 1 and "error_type" in entry["args"]]
    assert failed["name"] == "item 5"
    assert failed["args"]["error_message"] == "a\\nb \\ud800"
    check_nesting(entries)


async def test_retries_are_slices_within_the_item_with_arrows_between_them(path):
    calls = []

    async def unsteady(item):
        await trio.sleep(0.001)
        calls.append(item)
        if len(calls) < 3:
            raise OSError
        return item

    config = ParallelConfig(retry=RetryConfig(initial_delay=0.002, jitter=False))
    with TraceObserver(path) as trace:
        await process_parallel([1], unsteady, config=config, observer=trace)
    entries = json.loads(path.read_bytes())
    assert [entry["name"] for entry in slices(entries)] == ["attempt 1", "attempt 2", "attempt 3", "item 0"]
    first, second, third, _ = slices(entries)
    starts, ends = slices(entries, "s"), slices(entries, "f")
    assert [arrow["id"] for arrow in starts] == [arrow["id"] for arrow in ends]
    assert len({arrow["id"] for arrow in starts}) == 2
    assert [arrow["ts"] for arrow in starts] == [first["ts"], second["ts"]]
    assert [arrow["ts"] for arrow in ends] == [second["ts"], third["ts"]]
    check_nesting(entries)


async def test_time_that_jumps_does_no_harm(path, autojump_clock):
    begun = set()

    async def unsteady(item):
        await trio.sleep(5)
        if item not in begun:
            begun.add(item)
            raise OSError
        return item

    config = ParallelConfig(max_workers=2, retry=RetryConfig(initial_delay=10))
    with TraceObserver(path) as trace:
        await process_parallel(range(6), unsteady, config=config, observer=trace)
    check_nesting(json.loads(path.read_bytes()))


async def test_every_pattern_is_in_the_picture(path, named):
    async def step(item, state):
        return state

    async def handle(message):
        return None

    with TraceObserver(path) as trace:
        named(trace)
        await process_chain([1, 2], 0, step, observer=trace)
        graph = StateGraph(GraphConfig(name="g", observer="traced"))
        for name in ("one", "two"):
            graph.add_node(name, work)
        graph.set_entry_point("one")
        graph.add_edge("one", "two")
        graph.set_exit_point("two")
        await graph.execute(State())
        for _ in range(2):
            config = ConditionalConfig(observer="traced")
            await process_conditional("x", lambda _: "a", Routes({"a": work}), config=config)
        async with open_hub(observer=trace) as hub:
            hub.register("a", handle)
            await hub.send("b", "a", 1)
    entries = json.loads(path.read_bytes())
    assert [entry["name"] for entry in slices(entries)] == ["step 0", "step 1", "one", "two"]
    assert {entry["name"] for entry in slices(entries, "i")} >= {"edge.transition", "node.state"}
    assert "graph g" in {entry["name"] for entry in slices(entries, "B")}
    assert len(slices(entries, "b")) == len(slices(entries, "e")) == 2 * 3 + 2
    processes = {entry["args"]["name"] for entry in slices(entries, "M") if entry["name"] == "process_name"}
    assert {"conditional", "hub default"} < processes
    assert len(processes) == 4
    check_nesting(entries)


async def test_a_run_inside_a_run_names_it(path):
    with TraceObserver(path) as trace:
        trace.on_event(Event(EventType.CHAIN_START, 1.0, "chain", "inner", {"item_count": 3}, "outer"))
        trace.on_event(Event(EventType.CHAIN_COMPLETE, 2.0, "chain", "inner", {"status": "ok"}, "outer"))
    begin, end = [entry for entry in json.loads(path.read_bytes()) if entry["ph"] in "BE"]
    assert begin["args"] == {"timestamp": 1.0, "item_count": 3, "parent": "outer"}
    assert end["args"] == {"status": "ok"}


async def test_no_two_lanes_have_one_number_and_that_of_a_run_has_the_number_of_its_process(path):
    with TraceObserver(path) as trace:
        for number in range(3):
            await process_parallel(range(20), work, config=THREE, observer=trace, run_id=f"r{number}")
    entries = json.loads(path.read_bytes())
    lanes = {(entry["pid"], entry["tid"]) for entry in entries}
    assert len({tid for _, tid in lanes}) == len(lanes) == 3 * 4
    assert {(entry["pid"], entry["tid"]) for entry in slices(entries, "B")} == {(pid, pid) for pid, _ in lanes}


async def test_runs_in_runs_are_slices_in_the_lane_that_started_them_with_an_arrow(path):
    trace = TraceObserver(path)

    async def outer(item):
        for part in "ab":
            await process_parallel([1, 2], work, observer=trace, run_id=f"{item}{part}")

    async def step(item, state):
        await process_parallel([1], outer, observer=trace, run_id="middle")
        return state

    await process_chain(["x"], 0, step, observer=trace, run_id="chain")
    await process_parallel(["p", "q"], outer, config=THREE, observer=trace, run_id="wide")
    trace.close()
    entries = json.loads(path.read_bytes())
    inside = {entry["args"]["run"]: entry for entry in slices(entries) if entry.get("cat") == "run"}
    assert inside.keys() == {"middle", "1a", "1b", "pa", "pb", "qa", "qb"}
    processes = {entry["args"]["name"]: entry["pid"] for entry in slices(entries, "M") if entry["name"] == "process_name"}
    assert (inside["middle"]["pid"], inside["middle"]["tid"]) == (processes["chain chain"],) * 2
    wide = [inside[name] for name in ("pa", "pb", "qa", "qb")]
    assert {entry["pid"] for entry in wide} == {processes["parallel wide"]}
    assert len({entry["tid"] for entry in wide}) == 2
    arrows = [entry for entry in entries if entry.get("cat") == "run" and entry["ph"] in "sf"]
    assert len(arrows) == 2 * 7
    begins, ends = ({entry["id"]: entry for entry in slices(arrows, phase)} for phase in "sf")
    assert begins.keys() == ends.keys()
    assert all(begins[number]["ts"] == ends[number]["ts"] for number in begins)
    check_nesting(entries)


async def test_runs_side_by_side_in_one_call_do_not_overlap_in_its_lane(path):
    trace = TraceObserver(path)

    async def outer(item):
        async with trio.open_nursery() as nursery:
            for part in range(3):
                nursery.start_soon(lambda part=part: process_parallel([1], work, observer=trace, run_id=f"{item}-{part}"))

    await process_parallel(range(3), outer, config=THREE, observer=trace)
    trace.close()
    entries = json.loads(path.read_bytes())
    assert len([entry for entry in slices(entries) if entry.get("cat") == "run"]) >= 3
    assert len([entry for entry in slices(entries, "s") if entry["cat"] == "run"]) == 9
    check_nesting(entries)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_a_million_items_take_no_more_memory_than_a_few():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    trace = TraceObserver(os.devnull)
    items = [(index % 16, index, 100.0 + index / 1e4, 1e-4) for index in range(1000)]
    for number in range(1000):
        if number == 10:
            before = resident()
        event = Event(EventType.WORKER_COMPLETE, 100.0 + number, "parallel", "run", {"items": items})
        trace.on_items(event)
    assert resident() - before < 8 << 20
    assert trace._file._end > 80_000_000
    trace.close()


CHILD = """
import sys, trio
from trioflow import TraceObserver, process_parallel

async def nap(item):
    await trio.sleep(0.0005)
    if item == 3000:
        print("now", flush=True)
        await trio.sleep_forever()

trio.run(lambda: process_parallel(range(10_000), nap, observer=TraceObserver(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")
def test_what_was_written_before_a_kill_can_be_loaded(path):
    child = subprocess.Popen([sys.executable, "-P", "-c", CHILD, str(path)], stdout=subprocess.PIPE)
    with child:
        assert child.stdout.readline() == b"now\n"
        child.kill()
    assert child.returncode == -signal.SIGKILL
    entries = json.loads(path.read_bytes() + b"]")
    assert len(slices(entries)) > 2000
    check_nesting(entries)


async def test_what_is_unwritten_is_bounded_by_number_and_age(path):
    trace = TraceObserver(path)

    def feed(count, at):
        for number in range(count):
            data = {
                "worker_id": 0,
                "item_index": number,
                "status": "error",
                "error": True,
                "error_message": "x" * 1000,
            }
            trace.on_event(Event(EventType.WORKER_COMPLETE, at, "parallel", "run", data))

    feed(3, 100.0)
    feed(1, 102.0)
    assert len(slices(json.loads(path.read_bytes() + b"]"))) == 4
    tracemalloc.start()
    try:
        feed(20_000, 102.0)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    trace.close()
    assert len(slices(json.loads(path.read_bytes()))) == 20_004


async def test_ten_megabytes_of_text_are_a_line_in_it(path):
    with TraceObserver(path) as trace:
        data = {"name": "x" * 10_000_000, "data": {"big": 1 << 80}, "huge": 1 << 80}
        trace.on_event(Event(EventType.CUSTOM, 1.0, "parallel", "run", data))
    assert path.stat().st_size < 2000
    json.loads(path.read_bytes())


def unwritable():
    yield "/no/such/folder/trace.json"
    if Path("/dev/full").exists():
        yield "/dev/full"


@pytest.mark.parametrize("where", list(unwritable()))
async def test_a_file_that_cannot_be_written_fails_no_run_and_is_said_once(where, log):
    with TraceObserver(where) as trace:
        for _ in range(2):
            await process_parallel(range(2000), work, config=THREE, observer=trace)
    assert len(log.at("WARNING")) == 1
    assert "observer TraceObserver failed" in log.at("WARNING")[0]


async def test_a_disk_that_gets_full_leaves_valid_json(path, log, monkeypatch):
    trace = TraceObserver(path)
    await process_parallel(range(50), work, config=THREE, observer=trace)
    good = path.read_bytes()
    put = trace._file._put

    def full(file, data):
        if len(data) > 100:
            put(file, data[:50])
            raise OSError(28, "No space left on device")
        put(file, data)

    monkeypatch.setattr(trace._file, "_put", full)
    await process_parallel(range(50), work, config=THREE, observer=trace)
    await process_parallel(range(50), work, config=THREE, observer=trace)
    trace.close()
    assert json.loads(path.read_bytes()) == json.loads(good)
    assert len(log.at("WARNING")) == 1


async def test_nothing_is_taken_after_close_and_an_empty_trace_is_valid(path):
    with TraceObserver(path) as trace:
        pass
    trace.close()
    assert json.loads(path.read_bytes()) == []
    await process_parallel([1], work, observer=trace)
    assert json.loads(path.read_bytes()) == []
    assert "closed" in repr(trace)


@pytest.mark.parametrize("path", ["", None, 3])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ConfigError, match="path must be"):
        TraceObserver(path)
