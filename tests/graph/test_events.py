"""What a graph tells: each start has its end on every way out, and data stays with those who ask for it."""

import dataclasses
import json

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trioflow import (
    ExecutionError,
    GraphConfig,
    MultiObserver,
    RecordingObserver,
    RetryConfig,
    State,
    get_observer,
    pause,
)


async def more(state):
    return state.set("n", state.get("n", 0) + 1)


async def same(state):
    return state


def types(observer):
    return [event.type.value for event in observer.events]


def of(observer, type):
    return [event.data for event in observer.events if event.type == type]


async def test_a_run_tells_its_whole_way(loop):
    observer = RecordingObserver()
    await loop(more, again=lambda state: state["n"] < 2, observer=observer).execute(State(), run_id="r")
    assert types(observer) == [
        "graph.start",
        "node.start", "node.state", "node.complete", "edge.evaluate", "edge.transition",
        "cycle.detected",
        "node.start", "node.state", "node.complete", "edge.evaluate", "edge.evaluate", "edge.transition",
        "node.start", "node.state", "node.complete",
        "graph.complete",
    ]  # fmt: skip
    assert {event.source for event in observer.events} == {"graph"}
    assert {event.run_id for event in observer.events} == {"r"}
    assert {event.data["graph"] for event in observer.events} == {"loop"}

    assert observer.events[0].data == {
        "graph": "loop", "entry_point": "more", "iterations": 0, "max_iterations": 1000,
    }  # fmt: skip
    assert of(observer, "node.start")[1] == {"graph": "loop", "node": "more", "iteration": 2}
    assert of(observer, "cycle.detected") == [
        {"graph": "loop", "node": "more", "iteration": 2, "visit_count": 2}
    ]
    no, yes = of(observer, "edge.evaluate")[1:]
    assert (no["from"], no["to"], no["edge_index"], no["predicate_name"], no["predicate_result"]) == (
        "more", "more", 0, "again", False,
    )  # fmt: skip
    assert (yes["to"], yes["edge_index"], yes["predicate_name"], yes["predicate_result"]) == ("done", 1, "always", True)
    end = observer.events[-1].data
    assert (end["status"], end["exit_point"], end["iterations"], end["path_length"], end["observer_failures"]) == (
        "ok", "done", 3, 3, 0,
    )  # fmt: skip


async def test_events_are_plain_data_without_states(loop):
    secret = "hunter2"
    observer = RecordingObserver()
    await loop(more, again=lambda state: False, observer=observer).execute(State(secret=secret))
    assert secret not in json.dumps([event.data for event in observer.events])

    asking = RecordingObserver(include_data=True)
    await loop(more, again=lambda state: False, observer=asking).execute(State(secret=secret))
    assert of(asking, "graph.start")[0]["state"]["secret"] == secret
    assert of(asking, "node.start")[0]["state"] == State(secret=secret)
    assert of(asking, "node.state")[0]["state"]["n"] == 1


class Unequal:
    def __ne__(self, other):
        raise ValueError("no order")


class Struct(msgspec.Struct):
    a: int = 0
    b: list[int] = []


@dataclasses.dataclass
class Data:
    a: int = 0
    b: int = 0


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        (State(a=1, b=2, c=3), State(b=2, c=4, d=5), (["d"], ["c"], ["a"])),
        (State(a=1), State(a=1), ([], [], [])),
        (State(a=Unequal()), State(a=Unequal()), ([], ["a"], [])),
        (Struct(1, [1]), Struct(1, [2]), ([], ["b"], [])),
        (Data(1, 2), Data(2, 2), ([], ["a"], [])),
    ],
)
async def test_node_state_names_what_was_set_changed_and_removed(line, before, after, difference):
    async def change(state):
        return after

    observer = RecordingObserver()
    await line(change, state_type=type(before), observer=observer).execute(before)
    told = of(observer, "node.state")[0]
    assert (told["set"], told["changed"], told["removed"]) == difference


async def test_a_change_in_place_is_told_too(line):
    async def grow(state):
        state.b.append(1)
        return state

    observer = RecordingObserver()
    await line(grow, state_type=Struct, observer=observer).execute(Struct())
    assert of(observer, "node.state")[0]["changed"] == ["b"]


def ends(observer):
    return [
        (event.type.value, event.data["status"], event.data["error_type"], event.data["paused"])
        for event in observer.events
        if event.type in {"node.complete", "graph.complete"}
    ]


async def raising(state):
    raise ValueError("boom")


async def leaving(state):
    raise SystemExit(3)


async def nothing(state):
    return None


async def pausing(state):
    pause("secret")


@pytest.mark.parametrize(
    ("node", "node_end", "graph_end"),
    [
        (raising, ("error", "ValueError", False), ("error", "ExecutionError", False)),
        (leaving, ("error", "SystemExit", False), ("error", "SystemExit", False)),
        (nothing, ("error", "TypeError", False), ("error", "ExecutionError", False)),
        (pausing, ("ok", None, True), ("ok", None, True)),
    ],
)
async def test_each_start_has_its_end_whatever_happens(line, node, node_end, graph_end):
    observer = RecordingObserver()
    try:
        await line(same, node, observer=observer).execute(State())
    except (ExecutionError, SystemExit):
        pass
    assert ends(observer)[1:] == [("node.complete", *node_end), ("graph.complete", *graph_end)]
    assert types(observer).count("node.start") == types(observer).count("node.complete") == 2
    assert "secret" not in str([event.data for event in observer.events])


async def test_a_predicate_that_fails_is_told(loop):
    def broken(state):
        raise ValueError("boom")

    observer = RecordingObserver()
    with pytest.raises(ExecutionError):
        await loop(more, again=broken, observer=observer).execute(State())
    told = of(observer, "edge.evaluate")[0]
    assert (told["error"], told["error_type"], told["error_message"]) == (True, "ValueError", "boom")
    assert ends(observer) == [
        ("node.complete", "ok", None, False),
        ("graph.complete", "error", "ExecutionError", False),
    ]


async def test_the_ends_are_told_under_cancellation(line):
    async def slow(state):
        await trio.sleep_forever()

    observer = RecordingObserver()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line(same, slow, observer=observer).execute, State())
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert ends(observer)[1:] == [
        ("node.complete", "cancelled", None, False),
        ("graph.complete", "cancelled", None, False),
    ]


async def test_a_stale_cancelled_is_told_as_the_error_that_it_is(line, stale):
    async def judge(state):
        raise stale

    observer = RecordingObserver()
    with pytest.raises(ExecutionError):
        await line(judge, observer=observer).execute(State())
    assert ends(observer)[0] == ("node.complete", "error", "RuntimeError", False)


async def test_retries_are_told(line, autojump_clock):
    calls = []

    async def flaky(state):
        calls.append(1)
        if len(calls) < 3:
            raise OSError("no")
        return state

    observer = RecordingObserver()
    retry = RetryConfig(initial_delay=1, jitter=False)
    await line(flaky, retry=retry, observer=observer).execute(State())
    told = of(observer, "task.retry")
    assert [(data["node"], data["attempt"], data["delay"], data["error_type"]) for data in told] == [
        ("flaky", 1, 1, "OSError"),
        ("flaky", 2, 2, "OSError"),
    ]
    node = of(observer, "node.complete")[0]
    assert (node["attempts"], node["iteration"], node["duration"]) == (3, 1, pytest.approx(3))
    assert observer.events[-1].data["iterations"] == 3


async def test_a_resumed_run_tells_where_it_goes_on(line):
    async def ask(state):
        if "answer" not in state:
            pause()
        return state

    observer = RecordingObserver()
    graph = line(same, ask, observer=observer)
    await graph.execute(State(), run_id="r")
    observer.clear()
    await graph.resume("r", update=lambda state: state.set("answer", 1))
    start = observer.events[0].data
    assert (start["entry_point"], start["iterations"]) == ("ask", 2)
    assert {event.run_id for event in observer.events} == {"r"}


async def test_an_observer_that_fails_changes_nothing_and_is_counted(loop, log):
    class Broken:
        def on_event(self, event):
            raise ValueError("observer")

    listening = RecordingObserver()
    result = await loop(more, again=lambda state: False, observer=MultiObserver(Broken(), listening)).execute(State())
    assert result.status == "completed"
    assert listening.events[-1].data["observer_failures"] == len(listening.events) - 1
    assert len(log.at("WARNING")) == 1


async def test_an_observer_may_stop_the_run(line):
    class Stop:
        def on_event(self, event):
            if event.type == "node.complete":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await line(same, same, names=["a", "b"], observer=Stop()).execute(State())


async def test_a_default_run_logs_two_lines_and_a_warning_a_failure(line, log):
    name = GraphConfig(name="test").observer
    await line(same, observer=get_observer(name)).execute(State())
    assert (len(log.at("INFO")), log.at("WARNING")) == (2, [])
    with pytest.raises(ExecutionError):
        await line(raising, observer=get_observer(name)).execute(State())
    assert len(log.at("WARNING")) == 1
