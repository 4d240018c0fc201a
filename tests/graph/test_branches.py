"""`branches_node`: several nodes at the same time, and the join of what they made of the state."""

import dataclasses

import msgspec
import pydantic
import pytest
import trio

from trioflow import (
    BranchesResult,
    CheckpointConfig,
    ConfigError,
    ExecutionError,
    GraphConfig,
    GraphError,
    ParallelConfig,
    ParallelError,
    RecordingObserver,
    RetryConfig,
    State,
    StateGraph,
    branches_node,
    chain_node,
    graph_node,
    parallel_node,
    pause,
)
from trioflow.checkpoint.sqlite import SqliteStore

COLLECT = ParallelConfig(fail_fast=False, observer="noop")


@pytest.fixture(params=["none", "sqlite"])
async def store(request, tmp_path):
    """No store, and one: what a node does must not depend on it."""
    if request.param == "none":
        yield None
    else:
        async with SqliteStore(tmp_path / "runs.db") as opened:
            yield opened


def make(node, store=None, *, state_type=State, name="outer", observer=None, **settings):
    config = GraphConfig(name=name, observer="noop", **settings)
    graph = StateGraph(config, state_type, store=store, observer=observer)
    graph.add_node("node", node)
    graph.set_entry_point("node")
    graph.set_exit_point("node")
    return graph


async def run(node, state=None, store=None, **options):
    state = State() if state is None else state
    return (await make(node, store, state_type=type(state), **options).execute(state)).state


def put(name, value):
    async def branch(state):
        await trio.lowlevel.checkpoint()
        return state.set(name, value)

    return branch


async def boom(state):
    raise ValueError("boom")


async def test_what_each_branch_has_changed_is_in_the_next_state(store):
    async def remove(state):
        return state.without("gone")

    async def nothing(state):
        return state

    node = branches_node({"a": put("x", 1), "b": put("y", [2]), "c": remove, "d": nothing})
    assert await run(node, State(kept=0, gone=1, y=[0]), store) == State(kept=0, x=1, y=[2])


async def test_branches_run_at_the_same_time(autojump_clock):
    async def slow(state):
        await trio.sleep(10)
        return state

    await run(branches_node({str(n): slow for n in range(50)}))
    assert trio.current_time() == pytest.approx(10)


async def test_max_workers_bounds_them(autojump_clock):
    async def slow(state):
        await trio.sleep(10)
        return state

    await run(branches_node({str(n): slow for n in range(6)}, config=ParallelConfig(max_workers=2, observer="noop")))
    assert trio.current_time() == pytest.approx(30)


async def test_each_branch_has_a_copy():
    async def grow(state):
        state["words"].append("x")
        await trio.lowlevel.checkpoint()
        return state.set("count", len(state["words"]))

    async def look(state):
        await trio.lowlevel.checkpoint()
        return state.set("seen", list(state["words"]))

    node = branches_node({"grow": grow, "look": look})
    assert await run(node, State(words=[])) == State(words=["x"], count=1, seen=[])


@pytest.mark.parametrize("second", [2, 1])
async def test_what_several_changed_fails_the_node_equally_or_not(store, second):
    with pytest.raises(ExecutionError, match="several branches changed the same key: 'x' by 'a', 'b'") as caught:
        await run(branches_node({"a": put("x", 1), "b": put("x", second), "c": put("y", 1)}), store=store)
    assert caught.value.node == "node"


async def test_a_reducer_decides_in_the_order_of_the_branches(store, autojump_clock):
    given = []

    def collect(before, values):
        given.append((before, values))
        return [*(before or []), *(value for value in values if value)]

    async def slow(state):
        await trio.sleep(1)
        return state.set("x", "slow")

    async def remove(state):
        return state.without("x")

    node = branches_node({"slow": slow, "b": put("x", "fast"), "c": remove, "d": put("y", 1)}, reducers={"x": collect})
    assert await run(node, State(x=["old"]), store) == State(x=["old", "slow", "fast"], y=1)
    assert given == [(["old"], ["slow", "fast", None])]
    new = branches_node({"a": put("z", 1), "b": put("z", 2)}, reducers={"z": lambda before, values: (before, sum(values))[1]})
    assert await run(new, State(), store) == State(z=3)


class Struct(msgspec.Struct, frozen=True):
    x: int = 0
    y: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Data:
    x: int = 0
    y: tuple[int, ...] = ()


class Model(pydantic.BaseModel):
    x: int = 0
    y: tuple[int, ...] = ()


@pytest.mark.parametrize("kind", [Struct, Data, Model])
async def test_all_kinds_of_state_join(store, kind):
    async def left(state):
        return kind(x=state.x + 1, y=state.y)

    async def right(state):
        return kind(x=state.x, y=(*state.y, 5))

    node = branches_node({"left": left, "right": right})
    joined = await run(node, kind(x=1, y=(4,)), store)
    assert joined == kind(x=2, y=(4, 5))
    assert type(joined) is kind


async def test_a_model_is_a_state_that_is_copied_and_comes_back_as_its_type(store):
    async def spoil(state):
        state.y = (9,)
        raise ValueError

    state = Model(x=1)
    graph = make(spoil, store, state_type=Model)
    with pytest.raises(ExecutionError) as caught:
        await graph.execute(state, run_id="r")
    assert caught.value.state == state == Model(x=1)
    if store is not None:
        graph._nodes["node"] = same
        graph._plan = None
        assert (await graph.resume("r")).state == Model(x=1)


async def same(state):
    return state


async def test_merge_makes_the_state_of_what_all_came_to(store):
    given = []

    async def merge(state, result):
        given.append(result)
        return state.set("sum", sum(inner["x"] for inner in result.states.values()))

    node = branches_node({"b": put("x", 1), "a": put("x", 2)}, merge=merge)
    assert await run(node, store=store) == State(sum=3)
    [result] = given
    assert isinstance(result, BranchesResult)
    assert (list(result.states), result.errors) == (["b", "a"], {})
    plain = branches_node({"a": put("x", 1)}, merge=lambda state, result: result.states["a"])
    assert await run(plain, store=store) == State(x=1)


async def test_a_branch_that_fails_cancels_the_others_and_fails_the_node(store):
    cancelled = []

    async def slow(state):
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(1)

    with pytest.raises(ExecutionError) as caught:
        await run(branches_node({"slow": slow, "bad": boom}), store=store)
    error = caught.value.__cause__
    assert isinstance(error, ParallelError)
    assert [failure.item for failure in error.errors] == ["bad"]
    assert error.exceptions[0].__notes__ == ["raised by branch 'bad' of node 'node'"]
    assert cancelled == [1]


async def test_without_fail_fast_the_node_fails_after_the_others(store):
    done = []

    async def good(state):
        await trio.lowlevel.checkpoint()
        done.append(1)
        return state

    with pytest.raises(ExecutionError) as caught:
        await run(branches_node({"bad": boom, "good": good}, config=COLLECT), store=store)
    error = caught.value.__cause__
    assert isinstance(error, ParallelError)
    assert [failure.item for failure in error.errors] == ["bad"]
    assert done == [1]


@pytest.mark.parametrize("others", [{"good": put("x", 1)}, {}])
async def test_with_merge_and_without_fail_fast_failures_are_given_to_it(store, others):
    def merge(state, result):
        return state.set("failed", {name: str(error) for name, error in result.errors.items()})

    node = branches_node({"bad": boom, **others}, merge=merge, config=COLLECT)
    assert await run(node, store=store) == State(failed={"bad": "boom"})


async def test_a_branch_is_retried_with_a_new_copy(autojump_clock):
    calls = []

    async def flaky(state):
        calls.append(list(state["words"]))
        state["words"].append("x")
        if len(calls) < 3:
            raise ValueError
        return state

    config = ParallelConfig(retry=RetryConfig(max_attempts=3), observer="noop")
    assert await run(branches_node({"a": flaky}, config=config), State(words=[])) == State(words=["x"])
    assert calls == [[], [], []]


async def test_a_branch_that_returns_another_type_is_named():
    async def wrong(state):
        return 5

    with pytest.raises(ExecutionError) as caught:
        await run(branches_node({"w": wrong}))
    [error] = caught.value.__cause__.exceptions
    assert "branch 'w' must return a State, got 5" in str(error)


async def test_branches_may_be_patterns_graphs_and_branches(store):
    async def double(item):
        return item * 2

    async def add(item, state):
        return state.set("sum", state.get("sum", 0) + item)

    inner = make(put("inner", 1), name="inner")
    node = branches_node({
        "fan": parallel_node(double, items=[1, 2], aggregate=lambda state, result: state.set("fan", result.results)),
        "chain": chain_node(add, items=[1, 2, 3]),
        "graph": graph_node(inner, lambda state: state, lambda outer, inner: inner),
        "deep": branches_node({"a": put("a", 1), "b": put("b", 2)}),
    })
    assert await run(node, State(), store) == State(fan=[2, 4], sum=6, inner=1, a=1, b=2)


async def test_branches_alone_are_a_function_of_the_state():
    assert await branches_node({"a": put("x", 1)}, config=COLLECT)(State()) == State(x=1)


# Kept.


@pytest.fixture
async def kept(tmp_path):
    async with SqliteStore(tmp_path / "kept.db") as opened:
        yield opened


class Calls(list):
    def __init__(self):
        super().__init__()
        self.failing = set()
        self.asking = set()

    def node(self, name):
        async def fn(state):
            self.append(name)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            if name in self.failing:
                raise ValueError(name)
            if name in self.asking:
                pause(name)
            return state.set(name, 1)

        return fn

    async def item(self, item):
        self.append(item)
        if item in self.failing:
            raise ValueError(item)
        return item


@pytest.fixture
def calls():
    return Calls()


ONE = ParallelConfig(max_workers=1, observer="noop")


async def test_branches_that_had_finished_do_not_run_again(kept, calls):
    node = branches_node({name: calls.node(name) for name in "abc"}, config=ONE)
    graph = make(node, kept)
    calls.failing = {"b"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(n=0), run_id="r")
    calls.failing = set()
    assert (await graph.resume("r")).state == State(n=0, a=1, b=1, c=1)
    assert calls == ["a", "b", "b", "c"]


@pytest.mark.parametrize("is_kept", [True, False], ids=["in a store", "in memory"])
async def test_a_pause_cancels_the_others_and_those_that_had_finished_do_not_run_again(kept, calls, is_kept):
    cancelled = []

    async def slow(state):
        calls.append("slow")
        if len(cancelled) == 0:
            try:
                await trio.sleep_forever()
            finally:
                cancelled.append(1)
        return state.set("slow", 1)

    async def later(state):
        calls.append("ask")
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        if "answer" not in state:
            pause("well?")
        return state.set("heard", state["answer"])

    node = branches_node({"quick": calls.node("quick"), "slow": slow, "ask": later})
    graph = make(node, kept if is_kept else None)
    paused = await graph.execute(State(), run_id="r")
    assert (paused.status, paused.pause, cancelled) == ("paused", "well?", [1])
    done = await graph.resume("r", update=lambda state: state.set("answer", 42))
    assert done.state == State(answer=42, quick=1, slow=1, heard=42)
    assert sorted(calls) == ["ask", "ask", "quick", "slow", "slow"]


async def test_in_memory_branches_within_branches_do_not_run_again_and_see_the_answer(calls):
    async def ask(state):
        await trio.testing.wait_all_tasks_blocked()
        if "answer" not in state:
            pause("well?")
        return state

    async def wait(state):
        if "answer" not in state:
            await trio.sleep_forever()
        return state

    inner = branches_node({"deep": calls.node("deep"), "wait": wait})
    node = branches_node({"inner": inner, "quick": calls.node("quick"), "ask": ask})
    graph = make(node, None)
    for _ in range(2):
        paused = await graph.execute(State(), run_id="r") if not calls else await graph.resume("r")
        assert (paused.status, sorted(calls)) == ("paused", ["deep", "quick"])
    done = await graph.resume("r", update=lambda state: state.set("answer", 42))
    assert done.state == State(answer=42, deep=1, quick=1)
    assert sorted(calls) == ["deep", "quick"]
    assert (await graph.execute(State(answer=1), run_id="r")).status == "completed"
    assert sorted(calls) == ["deep", "deep", "quick", "quick"]


async def test_in_memory_branches_of_a_node_that_is_not_durable_run_again(calls):
    calls.asking = {"b"}
    graph = make(branches_node({name: calls.node(name) for name in "ab"}, config=ONE, durable=False), None)
    await graph.execute(State(), run_id="r")
    calls.asking = set()
    assert (await graph.resume("r")).state == State(a=1, b=1)
    assert calls == ["a", "b", "a", "b"]


async def test_each_branch_goes_on_where_it_was(kept, calls):
    inner = StateGraph(GraphConfig(name="inner", observer="noop"))
    for name in ("i1", "i2"):
        inner.add_node(name, calls.node(name))
    inner.add_edge("i1", "i2")
    inner.set_entry_point("i1")
    inner.set_exit_point("i2")
    node = branches_node({
        "fan": parallel_node(calls.item, items=["x", "y"], aggregate=lambda s, r: s.set("fan", r.results), config=ONE),
        "graph": graph_node(inner, lambda state: state, lambda outer, inner: inner),
    }, config=COLLECT)
    graph = make(node, kept, checkpoint=CheckpointConfig(preserve=False))
    calls.failing = {"y", "i2"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    tree = {run.run_id: run.parent for run in await kept.list_runs()}
    assert tree == {
        "r": None,
        "r..0/node": "r",
        "r..0/node..fan": "r..0/node",
        "r..0/node..graph": "r..0/node",
    }
    calls.failing = set()
    calls.clear()
    assert (await graph.resume("r")).state == State(fan=["x", "y"], i1=1, i2=1)
    assert sorted(calls) == ["i2", "y"]
    assert list(await kept.list_runs()) == []


async def test_durable_false_keeps_none(kept, calls):
    graph = make(branches_node({name: calls.node(name) for name in "ab"}, config=ONE, durable=False), kept)
    calls.failing = {"b"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    assert [run.run_id for run in await kept.list_runs()] == ["r"]


async def test_what_cannot_be_kept_is_in_the_error(kept):
    from trioflow import CheckpointEncodeError

    with pytest.raises(CheckpointEncodeError) as caught:
        await make(branches_node({"a": put("x", {1})}), kept).execute(State(), run_id="r")
    assert caught.value.value == State(x={1})


# Told and refused.


async def test_events_of_branches_lead_to_the_graph():
    observer = RecordingObserver()
    node = branches_node({"a": put("x", 1)})
    await make(node, observer=observer).execute(State(), run_id="r")
    fan = [event for event in observer.events if event.source == "parallel"]
    assert {(event.run_id, event.parent) for event in fan} == {("r..0/node", "r")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"branches": {}}, "branches must be one branch or more"),
        ({"branches": [same]}, "branches must be a"),
        ({"branches": {"": same}}, "the name of a branch"),
        ({"branches": {5: same}}, "the name of a branch"),
        ({"branches": {"a": len}}, "branch 'a' must be an async function"),
        ({"branches": {"a": same}, "merge": 5}, "merge must be"),
        ({"branches": {"a": same}, "merge": len, "reducers": {}}, "reducers must be None"),
        ({"branches": {"a": same}, "reducers": 5}, "reducers must be"),
        ({"branches": {"a": same}, "reducers": {"x": same}}, "reducers\\['x'\\] must be a plain function"),
        ({"branches": {"a": same}, "reducers": {"": len}}, "the name in reducers"),
        ({"branches": {"a": same}, "config": 5}, "config must be"),
    ],
)
def test_branches_that_cannot_work_are_refused(arguments, message):
    branches = arguments.pop("branches")
    with pytest.raises(ConfigError, match=message):
        branches_node(branches, **arguments)


@pytest.mark.parametrize("kind", [Struct, Data, Model])
def test_a_reducer_for_an_unknown_field_is_a_fault(kind):
    node = branches_node({"a": same}, reducers={"z": max})
    with pytest.raises(GraphError) as caught:
        make(branches_node({"in": node}), state_type=kind).validate()
    [fault] = caught.value.faults
    assert fault.startswith("branch 'in' of node 'node' has a reducer for 'z', which is no field of its state")


def test_the_faults_of_graphs_in_branches_are_found():
    inner = StateGraph(GraphConfig(name="inner", observer="noop"))
    node = branches_node({"b": graph_node(inner, lambda state: state, lambda outer, inner: inner)})
    with pytest.raises(GraphError, match="in the graph of branch 'b' of node 'node': it has no nodes"):
        make(node).validate()
