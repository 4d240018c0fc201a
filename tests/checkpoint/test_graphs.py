"""Graphs that are kept: where they go on, what they refuse, and when what is written."""

import dataclasses
import itertools
from typing import Any

import msgspec
import pytest
import trio

from trioflow import (
    CheckpointConfig,
    CheckpointConflictError,
    CheckpointEncodeError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    ConfigError,
    ExecutionError,
    GraphConfig,
    MemoryStore,
    RecordingObserver,
    State,
    StateGraph,
    get_checkpoint_store,
    pause,
)


class Calls(list):
    """What was called, and what is to fail."""

    def __init__(self):
        super().__init__()
        self.failing = set()

    def node(self, name, change=None):
        async def fn(state):
            self.append(name)
            if name in self.failing:
                raise ValueError(f"{name} is down")
            return state.set("path", [*state.get("path", []), name]) if change is None else change(state)

        return fn


@pytest.fixture
def calls():
    return Calls()


def make(calls, names, store=None, *, interval=1, preserve=True, observer=None, name="kept", **settings):
    checkpoint = CheckpointConfig(interval=interval, preserve=preserve)
    config = GraphConfig(name=name, observer="noop", checkpoint=checkpoint, **settings)
    graph = StateGraph(config, store=store, observer=observer)
    for node in names:
        graph.add_node(node, calls.node(node))
    for source, target in itertools.pairwise(names):
        graph.add_edge(source, target)
    graph.set_entry_point(names[0])
    graph.set_exit_point(names[-1])
    return graph


class Stopping(RecordingObserver):
    """Stops the program at one event of a node."""

    def __init__(self, at, node):
        super().__init__()
        self.place = at, node

    def on_event(self, event):
        super().on_event(event)
        data = event.data
        if (event.type, data.get("node") or data.get("from")) == self.place:
            self.place = None
            raise SystemExit(3)


OF_A_STEP = ["node.state", "node.complete", "edge.evaluate", "edge.transition"]


@pytest.mark.parametrize(("at", "interval"), [*itertools.product(OF_A_STEP, [1, 5]), ("checkpoint.save", 1)])
async def test_a_step_after_which_an_observer_stops_the_run_is_not_made_again(store, calls, at, interval):
    stopping = Stopping(at, "b")
    graph = make(calls, "abc", store, observer=stopping, interval=interval)
    with pytest.raises(SystemExit):
        await graph.execute(State(), run_id="r")
    kept = await store.load("r")
    assert (kept.status, kept.step) == ("failed", 2)
    assert [event.data["status"] for event in stopping.events if event.type == "graph.complete"] == ["error"]
    assert (await graph.resume("r")).state["path"] == ["a", "b", "c"]
    assert calls == ["a", "b", "c"]


@pytest.mark.parametrize("at", ["node.state", "node.complete"])
async def test_the_end_at_which_an_observer_stops_the_run_is_kept(store, calls, at):
    graph = make(calls, "ab", store, observer=Stopping(at, "b"), preserve=False)
    with pytest.raises(SystemExit):
        await graph.execute(State(), run_id="r")
    assert (await store.load("r")).status == "completed"
    assert (await graph.resume("r")).state["path"] == ["a", "b"] == calls


async def test_a_step_after_which_an_observer_stops_the_run_is_not_handed_out(store, calls):
    taken = []
    with pytest.raises(SystemExit):
        async with make(calls, "abc", store, observer=Stopping("node.complete", "b")).open_run(State()) as steps:
            async for step in steps:
                taken.append(step.node)
    assert (taken, calls) == (["a"], ["a", "b"])


async def test_an_observer_that_stops_a_failing_run_hides_no_end(store, calls):
    calls.failing = {"b"}
    stopping = Stopping("node.complete", "b")
    with pytest.raises(SystemExit):
        await make(calls, "abc", store, observer=stopping).execute(State(), run_id="r")
    assert (await store.load("r")).status == "failed"
    assert stopping.events[-1].type == "graph.complete"


async def test_a_failed_run_goes_on_where_it_failed(store, calls):
    graph = make(calls, "abc", store)
    calls.failing = {"b"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    assert (await store.load("r")).status == "failed"
    calls.failing = set()
    result = await graph.resume("r")
    assert calls == ["a", "b", "b", "c"]
    assert (result.state["path"], result.path, result.iterations) == (["a", "b", "c"], ["b", "c"], 4)
    assert result.run_id == "r"


async def test_a_cancelled_run_goes_on_where_it_was(store, calls):
    reached = trio.Event()

    async def slow(state):
        calls.append("slow")
        reached.set()
        if calls.count("slow") == 1:
            await trio.sleep_forever()
        return state

    graph = make(calls, "ab", store)
    graph._nodes["b"] = slow
    async with trio.open_nursery() as nursery:
        nursery.start_soon(graph.execute, State(), "r")
        await reached.wait()
        nursery.cancel_scope.cancel()
    assert (await store.load("r")).status == "cancelled"
    await graph.resume("r")
    assert calls == ["a", "slow", "slow"]


async def test_a_finished_run_that_is_kept_returns_its_result_and_runs_nothing(store, calls):
    graph = make(calls, "ab", store)
    first = await graph.execute(State(), run_id="r")
    again = await graph.resume("r")
    assert (again.state, again.status, again.exit_point, again.iterations) == (first.state, "completed", "b", 2)
    assert calls == ["a", "b"]


async def test_a_finished_run_is_forgotten_unless_it_is_to_be_kept(store, calls):
    graph = make(calls, "ab", store, preserve=False)
    await graph.execute(State(), run_id="r")
    assert list(await store.list_runs()) == []
    with pytest.raises(CheckpointNotFoundError, match="no run 'r'"):
        await graph.resume("r")


async def test_every_interval_th_step_is_written_and_the_last_one_at_the_end(store, calls):
    graph = make(calls, "abcdefg", store, interval=3)
    await graph.execute(State(), run_id="r")
    assert [info.step for info in await store.history("r")] == [0, 3, 6, 7]
    calls.failing = {"e"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="f")
    history = await store.history("f")
    kept = [(info.step, info.status, info.next_node) for info in history]
    assert kept == [(0, "running", "a"), (3, "running", "d"), (4, "failed", "e")]


async def test_a_store_that_is_given_means_every_step(calls):
    store = MemoryStore()
    await make(calls, "abc", store, interval=None).execute(State(), run_id="r")
    assert [info.step for info in await store.history("r")] == [0, 1, 2, 3]


@pytest.mark.parametrize("store", [None, MemoryStore()])
async def test_interval_0_is_off_whatever_store_there_is(calls, store):
    graph = make(calls, "ab", store, interval=0)
    await graph.execute(State(), run_id="off-1")
    with pytest.raises(CheckpointNotFoundError, match="checkpointing is not enabled"):
        await graph.resume("off-1")
    with pytest.raises(CheckpointNotFoundError, match="checkpointing is not enabled"):
        await graph.resume("off-1", step=1)


async def test_the_memory_store_is_shared_by_name(calls):
    memory = get_checkpoint_store("memory")
    calls.failing = {"b"}
    with pytest.raises(ExecutionError):
        await make(calls, "ab").execute(State(), run_id="shared-1")
    calls.failing = set()
    assert (await make(calls, "ab").resume("shared-1")).status == "completed"
    await memory.delete("shared-1")


async def test_a_pause_that_cannot_be_kept_is_a_failure_and_listed_as_one(store):
    graph = StateGraph(GraphConfig(name="ask", observer="noop"), store=store)

    @graph.node()
    async def ask(state):
        pause({"a set"})

    graph.set_entry_point("ask")
    graph.set_exit_point("ask")
    with pytest.raises(CheckpointEncodeError, match=r"the payload of pause\(\) cannot be saved: the set"):
        await graph.execute(State(), run_id="r")
    (run,) = await store.list_runs()
    assert (run.status, run.step) == ("failed", 0)


async def test_a_pause_is_kept_and_answered_by_another_graph_object(store):
    async def ask(state):
        if "answer" not in state:
            pause({"question": ["go on?"]})
        return state

    def build():
        graph = StateGraph(GraphConfig(name="ask", observer="noop"), store=store)
        graph.add_node("ask", ask)
        graph.set_entry_point("ask")
        graph.set_exit_point("ask")
        return graph

    paused = await build().execute(State(), run_id="r")
    assert (paused.status, paused.pause) == ("paused", {"question": ["go on?"]})
    assert (await store.load("r")).status == "paused"
    again = await build().resume("r")
    assert (again.status, again.iterations) == ("paused", 2)
    done = await build().resume("r", update=lambda state: state.set("answer", 1))
    assert (done.status, done.state, done.iterations) == ("completed", State(answer=1), 3)


async def test_a_step_that_is_saved_again_is_as_old_as_before(store, monkeypatch):
    """Else the time for which a run paused, or was dead, would count as the time of the step before."""
    times = itertools.count(1000.0)
    monkeypatch.setattr("trioflow._durable.steps.time.time", lambda: next(times))
    graph = StateGraph(GraphConfig(name="ask", observer="noop", checkpoint=CheckpointConfig(preserve=True)), store=store)

    @graph.node
    async def draft(state):
        return state.set("text", "Dear Ada,")

    @graph.node
    async def ask(state):
        if "answer" not in state:
            pause("send it?")
        return state

    graph.add_edge("draft", "ask")
    graph.set_entry_point("draft")
    graph.set_exit_point("ask")
    await graph.execute(State(), run_id="r")
    first = [(info.step, info.created_at) for info in await store.history("r")]
    assert [step for step, _ in first] == [0, 1]
    await graph.resume("r")
    assert [(info.step, info.created_at) for info in await store.history("r")] == first
    await graph.resume("r", update=lambda state: state.set("answer", "yes"))
    *before, (last, ended) = [(info.step, info.created_at) for info in await store.history("r")]
    assert before == first
    assert (last, ended > first[-1][1]) == (2, True)
    fork = await graph.resume("r", step=1)
    assert (await store.history(fork.run_id))[0].created_at > ended


async def test_a_run_forks_from_an_earlier_step_into_a_new_run(store, calls):
    graph = make(calls, "abcd", store)
    original = await graph.execute(State(), run_id="r")
    calls.clear()
    fork = await graph.resume("r", step=2, update=lambda state: state.set("forked", True))
    assert calls == ["c", "d"]
    assert fork.run_id != "r"
    assert fork.state == original.state.set("forked", True)
    assert [info.step for info in await store.history(fork.run_id)] == [2, 3, 4]
    assert [info.step for info in await store.history("r")] == [0, 1, 2, 3, 4]
    with pytest.raises(CheckpointNotFoundError, match="no step 9"):
        await graph.resume("r", step=9)


async def test_the_budget_of_iterations_survives(store, calls):
    graph = make(calls, "ab", store, max_iterations=3)
    calls.failing = {"b"}
    for path in (["a", "b"], ["b"], []):
        with pytest.raises(ExecutionError) as caught:
            await (graph.execute(State(), run_id="r") if path == ["a", "b"] else graph.resume("r"))
        assert caught.value.path == path
    assert caught.value.kind == "max iterations"


async def test_a_run_id_that_is_there_cannot_be_begun_again(store, calls):
    graph = make(calls, "ab", store)
    await graph.execute(State(), run_id="r")
    with pytest.raises(CheckpointMismatchError, match="run 'r' already exists, completed at step 2 of 'kept'"):
        await graph.execute(State(), run_id="r")
    with pytest.raises(CheckpointMismatchError):
        async with graph.open_run(State(), run_id="r") as steps:
            await anext(steps)
    assert calls == ["a", "b"]


async def test_another_graphs_run_is_refused(store, calls):
    await make(calls, "ab", store).execute(State(), run_id="r")
    with pytest.raises(CheckpointMismatchError, match="run 'r' is a run of 'kept', not of graph 'other'"):
        await make(calls, "ab", store, name="other").resume("r")


async def test_a_vanished_node_is_named(store, calls):
    calls.failing = {"judge"}
    with pytest.raises(ExecutionError):
        await make(calls, ["draft", "judge"], store).execute(State(), run_id="r")
    with pytest.raises(CheckpointMismatchError, match="is at node 'judge', which is no longer in graph 'kept'") as caught:
        await make(calls, ["draft", "judges"], store).resume("r")
    assert "did you mean 'judges'?" in str(caught.value)
    assert "add a node of that name, or resume from another step" in str(caught.value)


async def test_edges_that_failed_are_asked_again(store, calls):
    answers = [ValueError("down"), True]

    def ready(state):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    graph = make(calls, "ab", store)
    graph._edges[0] = msgspec.structs.replace(graph._edges[0], when=ready)
    with pytest.raises(ExecutionError, match="predicate"):
        await graph.execute(State(), run_id="r")
    result = await graph.resume("r")
    assert calls == ["a", "b"]
    assert result.path == ["b"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2}]}, r"the set at \['x'\]\['a'\]\[1\]: it would not come back equal"),
        ((1, 2), r"the tuple at \['x'\]"),
        (float("nan"), r"the float at \['x'\]"),
        (2**70, r"the int at \['x'\]"),
        (object(), r"the object at \['x'\]"),
    ],
)
async def test_a_state_that_cannot_be_kept_is_refused_and_the_step_before_stays(store, calls, value, message):
    graph = make(calls, "ab", store)
    graph._nodes["b"] = calls.node("b", lambda state: state.set("x", value))
    with pytest.raises(CheckpointEncodeError, match=message):
        await graph.execute(State(), run_id="r")
    kept = await store.load("r")
    assert (kept.step, kept.node, kept.next_node, kept.status) == (1, "a", "b", "failed")
    with pytest.raises(CheckpointEncodeError):
        await graph.execute(State(x=value), run_id="other")


async def test_cycles_and_deep_nesting_are_refused(store, calls):
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    loop: list[Any] = []
    loop.append(loop)
    graph = make(calls, "a", store)
    for value in (deep, loop):
        with pytest.raises(CheckpointEncodeError):
            await graph.execute(State(x=value), run_id="r")


class Review(msgspec.Struct):
    words: tuple[str, ...] = ()
    scores: dict[str, float] = {}


@dataclasses.dataclass
class Sheet:
    words: tuple[str, ...] = ()
    inner: Review = dataclasses.field(default_factory=Review)


@pytest.mark.parametrize("state", [Review(("a",), {"x": 0.5}), Sheet(("a",), Review(("b",)))])
async def test_typed_states_come_back_as_their_type(store, state):
    fail = [True]

    async def node(given):
        if fail[0]:
            raise ValueError
        return given

    graph = StateGraph(GraphConfig(name="typed", observer="noop"), type(state), store=store)
    graph.add_node("node", node)
    graph.set_entry_point("node")
    graph.set_exit_point("node")
    with pytest.raises(ExecutionError):
        await graph.execute(state, run_id="r")
    fail[0] = False
    assert (await graph.resume("r")).state == state


async def test_a_state_type_that_changed_is_told(store, calls):
    calls.failing = {"a"}
    with pytest.raises(ExecutionError):
        await make(calls, "a", store).execute(State(words=5), run_id="r")
    graph = StateGraph(GraphConfig(name="kept", observer="noop"), Review, store=store)
    graph.add_node("a", calls.node("a"))
    graph.set_entry_point("a")
    graph.set_exit_point("a")
    with pytest.raises(CheckpointMismatchError, match="of another type"):
        await graph.resume("r")


async def test_of_two_that_resume_one_run_one_wins(store):
    started, second = trio.Event(), trio.Event()
    go_on = trio.Event()

    async def node(state):
        (second if started.is_set() else started).set()
        await go_on.wait()
        return state.set("n", state["n"] + 1)

    def build(fn):
        config = GraphConfig(name="race", observer="noop", checkpoint=CheckpointConfig(interval=1, preserve=True))
        graph = StateGraph(config, store=store)
        for name in ("a", "b"):
            graph.add_node(name, fn)
        graph.add_edge("a", "b")
        graph.set_entry_point("a")
        graph.set_exit_point("b")
        return graph

    async def ask(state):
        if "answer" not in state:
            pause()
        return state

    await build(ask).execute(State(n=0), run_id="r")
    outcomes = []

    async def resume():
        try:
            outcomes.append(await build(node).resume("r"))
        except CheckpointConflictError as error:
            outcomes.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(resume)
        await started.wait()
        nursery.start_soon(resume)
        await second.wait()
        go_on.set()
    kinds = sorted(type(outcome).__name__ for outcome in outcomes)
    assert kinds == ["CheckpointConflictError", "GraphResult"]
    assert (await store.load("r")).status == "completed"


async def test_a_run_that_somebody_else_completes_meanwhile_returns_its_result(calls):
    store = MemoryStore()
    graph = make(calls, "ab", store)
    calls.failing = {"b"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    calls.failing = set()
    claim = store.claim

    class Racing:
        def __getattr__(self, name):
            return getattr(store, name)

        async def claim(self, run_id):
            await make(calls, "ab", store).resume("r")
            return await claim(run_id)

    result = await make(calls, "ab", Racing()).resume("r")
    assert (result.status, result.exit_point, result.path) == ("completed", "b", [])
    assert calls == ["a", "b", "b"]


async def test_events_tell_what_is_kept(calls):
    store = MemoryStore()
    observer = RecordingObserver()
    graph = make(calls, "ab", store, observer=observer)
    calls.failing = {"b"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(secret="hunter2"), run_id="r")
    saves = [event.data for event in observer.events if event.type == "checkpoint.save"]
    assert [(data["step"], data["run_status"]) for data in saves] == [
        (0, "running"), (1, "running"), (1, "failed"),
    ]
    calls.failing = set()
    observer.clear()
    await graph.resume("r")
    assert [event.type.value for event in observer.events[:2]] == ["checkpoint.load", "checkpoint.resume"]
    assert "hunter2" not in str([event.data for event in observer.events])


@pytest.mark.parametrize("run_id", ["a'b", 'a"b', "a\0b", "../x", "a\nb", "", " a", "x" * 600, 5, "a\\b"])
async def test_a_run_id_that_is_not_safe_is_refused(calls, run_id):
    graph = make(calls, "a", MemoryStore())
    for call in (lambda: graph.execute(State(), run_id=run_id), lambda: graph.resume(run_id)):
        with pytest.raises(ConfigError) as caught:
            await call()
        assert caught.value.field == "run_id"
    assert calls == []


class Broken:
    """A store whose saves fail."""

    def __init__(self, error, *, hang=False):
        self._store = MemoryStore()
        self._error = error
        self._hang = hang
        self.closed = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def save(self, checkpoint, epoch):
        if checkpoint.step == 0 and checkpoint.status == "running":
            return
        if self._hang:
            await trio.sleep_forever()
        raise self._error


async def test_a_store_that_fails_at_the_end_is_noted_on_the_failure(calls):
    from trioflow import CheckpointStoreError

    graph = make(calls, "a", Broken(CheckpointStoreError("disk full")))
    calls.failing = {"a"}
    with pytest.raises(ExecutionError) as caught:
        await graph.execute(State(), run_id="r")
    assert caught.value.__notes__ == ["the end of the run was not saved: disk full"]
    calls.failing = set()
    with pytest.raises(CheckpointStoreError, match="disk full"):
        await graph.execute(State(), run_id="s")


async def test_saving_the_end_has_a_deadline_by_the_walls_clock(calls, autojump_clock, monkeypatch):
    monkeypatch.setattr("trioflow.checkpoint.session.SAVE_DEADLINE", 0.05)
    graph = make(calls, "a", Broken(None, hang=True))
    calls.failing = {"a"}
    with pytest.raises(ExecutionError) as caught:
        await graph.execute(State(), run_id="r")
    [note] = caught.value.__notes__
    assert note.startswith("the end of the run was not saved: ")
    assert note.endswith("did not save within 0.05 s")


async def test_a_large_state_does_not_block_the_loop(store, calls):
    blob = "x" * (64 << 20)
    longest = [0.0]

    async def watch():
        import time

        while True:
            before = time.perf_counter()
            await trio.lowlevel.checkpoint()
            longest[0] = max(longest[0], time.perf_counter() - before)

    graph = make(calls, "ab", store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await graph.execute(State(blob=blob), run_id="r")
        nursery.cancel_scope.cancel()
    assert (await graph.resume("r")).state["blob"] == blob
    assert longest[0] < 1.0


async def test_a_store_that_a_url_names_is_opened_and_closed_by_each_run(tmp_path, calls):
    url = f"sqlite:///{tmp_path}/runs.db"
    config = GraphConfig(name="url", observer="noop", checkpoint=CheckpointConfig(store=url, interval=1, preserve=True))
    graph = StateGraph(config)
    graph.add_node("a", calls.node("a"))
    graph.set_entry_point("a")
    graph.set_exit_point("a")
    await graph.execute(State(), run_id="r")
    assert (await graph.resume("r")).status == "completed"
    assert not list(tmp_path.glob("*-wal"))
    async with graph.open_run(State(), run_id="s") as steps:
        assert [step.node async for step in steps] == ["a"]


async def test_a_store_that_is_named_is_used_without_an_interval(tmp_path, calls):
    config = GraphConfig(
        name="named", observer="noop", checkpoint=CheckpointConfig(store=f"sqlite:///{tmp_path}/runs.db", preserve=True)
    )
    graph = StateGraph(config)
    graph.add_node("a", calls.node("a"))
    graph.set_entry_point("a")
    graph.set_exit_point("a")
    await graph.execute(State(), run_id="r")
    assert (await graph.resume("r")).status == "completed"
    assert calls == ["a"]


async def test_the_default_config_keeps_nothing(calls):
    graph = make(calls, "ab", interval=None)
    await graph.execute(State(), run_id="default-1")
    assert "default-1" not in [run.run_id for run in await get_checkpoint_store("memory").list_runs()]


async def test_a_run_in_its_first_node_cannot_be_begun_again_and_is_listed(store):
    entered = trio.Event()

    async def slow(state):
        entered.set()
        await trio.sleep_forever()

    def build():
        graph = StateGraph(GraphConfig(name="first", observer="noop"), store=store)
        graph.add_node("slow", slow)
        graph.set_entry_point("slow")
        graph.set_exit_point("slow")
        return graph

    async with trio.open_nursery() as nursery:
        nursery.start_soon(build().execute, State(), "r")
        await entered.wait()
        [run] = await store.list_runs()
        assert (run.run_id, run.status, run.step, run.kind) == ("r", "running", 0, "graph")
        with pytest.raises(CheckpointMismatchError, match="already exists, running at step 0"):
            await build().execute(State(), run_id="r")
        nursery.cancel_scope.cancel()
    assert (await store.load("r")).status == "cancelled"


async def test_who_lost_a_run_deletes_nothing_of_it(store):
    """A process that was stopped, overtaken and continued must not clean up what is another's now."""
    waiting, overtaken = trio.Event(), trio.Event()

    async def last(state):
        if not waiting.is_set():
            waiting.set()
            await overtaken.wait()
        return state.set("n", 1)

    def build():
        graph = StateGraph(GraphConfig(name="lost", observer="noop"), store=store)
        graph.add_node("last", last)
        graph.set_entry_point("last")
        graph.set_exit_point("last")
        return graph

    async def stopped():
        with pytest.raises(CheckpointConflictError):
            await build().execute(State(), "r")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stopped)
        await waiting.wait()
        await store.claim("r")
        overtaken.set()
    assert (await store.load("r")).status == "running"


class FailsToDelete:
    def __init__(self):
        self._store = MemoryStore()

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def delete(self, run_id, epoch=None):
        raise OSError("read-only")


async def test_a_clean_up_that_fails_costs_nothing(calls):
    store = FailsToDelete()
    graph = make(calls, "ab", store, preserve=False)
    result = await graph.execute(State(), run_id="r")
    assert result.status == "completed"
    assert (await graph.resume("r")).state == result.state
    assert calls == ["a", "b"]


async def test_what_update_made_is_written_before_the_node_runs(store):
    seen = []

    async def ask(state):
        if "answer" not in state:
            pause()
        seen.append((await store.load("r")).status)
        raise SystemExit(3)

    graph = StateGraph(GraphConfig(name="ask", observer="noop"), store=store)
    graph.add_node("ask", ask)
    graph.set_entry_point("ask")
    graph.set_exit_point("ask")
    await graph.execute(State(), run_id="r")
    with pytest.raises(SystemExit):
        await graph.resume("r", update=lambda state: state.set("answer", 1))
    assert seen == ["running"]
    with pytest.raises(SystemExit):
        await graph.resume("r")
    assert len(seen) == 2


async def test_the_exit_step_is_handed_out_after_it_is_saved(store, calls):
    graph = make(calls, "ab", store)
    async with graph.open_run(State(), run_id="r") as steps:
        async for step in steps:
            kept = await store.load("r")
            assert (kept.node, kept.status) == (step.node, "completed" if step.node == "b" else "running")


async def test_a_run_is_forgotten_only_when_the_block_has_its_last_step(store, calls):
    entered, go_on = trio.Event(), trio.Event()

    async def slow(state):
        entered.set()
        await go_on.wait()
        return state.set("slow", 1)

    graph = make(calls, "ab", store, preserve=False)
    graph._nodes["b"] = slow
    observer = RecordingObserver()
    with pytest.raises(KeyError):
        async with graph.open_run(State(), run_id="r", observer=observer) as steps:
            await anext(steps)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(anext, steps)
                await entered.wait()
                nursery.cancel_scope.cancel()
            go_on.set()
            while (await store.load("r")).status != "completed":
                await trio.lowlevel.checkpoint()
            raise KeyError
    assert observer.events[-1].data["status"] == "ok"
    assert (await store.load("r")).status == "completed"
    assert (await graph.resume("r")).state["slow"] == 1
    async with graph.open_run(State(), run_id="s") as steps:
        async for _ in steps:
            pass
    assert [run.run_id for run in await store.list_runs()] == ["r"]


async def test_step_0_can_be_forked_under_an_id_of_ones_own(store, calls):
    graph = make(calls, "ab", store)
    original = await graph.execute(State(n=1), run_id="r")
    fork = await graph.resume("r", step=0, as_run_id="again", update=lambda state: state.set("n", 2))
    assert (fork.run_id, fork.path, fork.state["n"], original.state["n"]) == ("again", ["a", "b"], 2, 1)
    runs = {run.run_id: run.forked_from for run in await store.list_runs()}
    assert runs == {"r": None, "again": "r"}


async def test_a_fork_without_a_step_goes_on_from_the_latest(store, calls):
    calls.failing = {"b"}
    graph = make(calls, "abc", store)
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    calls.failing = set()
    fork = await graph.resume("r", as_run_id="fork")
    assert (fork.path, (await store.load("r")).status) == (["b", "c"], "failed")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"step": 2}, ConfigError, "after it nothing is left to do"),
        ({"as_run_id": "other"}, ConfigError, "after it nothing is left to do"),
        ({"step": 1, "as_run_id": "r"}, CheckpointMismatchError, "run 'r' already exists"),
        ({"step": 1, "as_run_id": "a\b"}, ConfigError, "run_id"),
        ({"step": 1, "as_run_id": ""}, ConfigError, "as_run_id"),
    ],
)
async def test_a_fork_that_cannot_be_is_refused_before_anything_is_written(store, calls, options, error, message):
    graph = make(calls, "ab", store)
    await graph.execute(State(), run_id="r")
    before = [await store.history("r"), [run.run_id for run in await store.list_runs()]]
    with pytest.raises(error, match=message):
        await graph.resume("r", **options)
    assert [await store.history("r"), [run.run_id for run in await store.list_runs()]] == before
    assert calls == ["a", "b"]


async def test_a_fork_that_fails_tells_its_id(store, calls):
    calls.failing = {"b"}
    graph = make(calls, "ab", store)
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    with pytest.raises(ExecutionError) as caught:
        await graph.resume("r", step=0)
    assert caught.value.run_id != "r"
    calls.failing = set()
    assert (await graph.resume(caught.value.run_id)).status == "completed"


async def test_a_paid_state_that_cannot_be_kept_is_in_the_error(store, calls):
    graph = make(calls, "a", store)
    graph._nodes["a"] = calls.node("a", lambda state: state.set("x", {1}))
    with pytest.raises(CheckpointEncodeError) as caught:
        await graph.execute(State(), run_id="r")
    assert caught.value.value == State(x={1})
