"""Runs inside runs: a fan-out, a chain or a graph in a node of a kept graph goes on where it was."""

import itertools

import pytest
import trio

from trioflow import (
    ChainConfig,
    CheckpointConfig,
    CheckpointConflictError,
    ExecutionError,
    GraphConfig,
    MemoryStore,
    ParallelConfig,
    RecordingObserver,
    RetryConfig,
    State,
    StateGraph,
    chain_node,
    graph_node,
    parallel_node,
    pause,
    with_retry,
)
from trioflow._durable.children import child_id


class Down(Exception):
    """What fails."""


class Calls(list):
    """What was called; an item fails, or pauses, while it is in `failing` or `asking`."""

    def __init__(self):
        super().__init__()
        self.failing = set()
        self.asking = set()

    def check(self, item):
        self.append(item)
        if item in self.failing:
            raise Down(item)
        if item in self.asking:
            pause(item)

    async def upper(self, item):
        await trio.lowlevel.checkpoint()
        self.check(item)
        return item.upper()

    async def bang(self, item):
        self.check(item)
        return f"{item}!"

    async def fold(self, item, state):
        self.check(item)
        return state.set("sum", [*state.get("sum", []), item])

    def node(self, name):
        async def fn(state):
            self.check(name)
            return state.set("path", [*state.get("path", []), name])

        return fn


@pytest.fixture
def calls():
    return Calls()


SERIAL = ParallelConfig(max_workers=1)


def put(name):
    return lambda state, result: state.set(name, result.results)


def make(store, nodes, *, name="outer", preserve=False, **settings):
    config = GraphConfig(name=name, observer="noop", checkpoint=CheckpointConfig(preserve=preserve), **settings)
    graph = StateGraph(config, store=store)
    names = list(nodes)
    for node, fn in nodes.items():
        graph.add_node(node, fn)
    for source, target in itertools.pairwise(names):
        graph.add_edge(source, target)
    graph.set_entry_point(names[0])
    graph.set_exit_point(names[-1])
    return graph


def same(outer, inner):
    return inner


def patterns(calls):
    inner = make(None, {name: calls.node(name) for name in "abcd"}, name="inner")
    return {
        "fan": parallel_node(calls.upper, items=list("abcd"), aggregate=put("sum"), config=SERIAL),
        "chain": chain_node(calls.fold, items=list("abcd")),
        "graph": graph_node(inner, enter=lambda state: state, leave=same),
    }


@pytest.mark.parametrize("pattern", ["fan", "chain", "graph"])
async def test_after_a_failure_only_what_is_missing_is_called(store, calls, pattern):
    graph = make(store, {"node": patterns(calls)[pattern]})
    calls.failing = {"c"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    calls.failing = set()
    calls.clear()
    result = await graph.resume("r")
    assert calls == ["c", "d"]
    assert result.state.get("sum", result.state.get("path")) in (list("abcd"), list("ABCD"))
    assert list(await store.list_runs()) == []


@pytest.mark.parametrize("pattern", ["fan", "chain", "graph"])
async def test_a_pause_inside_goes_on_inside(store, calls, pattern):
    graph = make(store, {"node": patterns(calls)[pattern]})
    calls.asking = {"c"}
    paused = await graph.execute(State(), run_id="r")
    assert (paused.status, paused.pause) == ("paused", "c")
    calls.asking = set()
    calls.clear()
    assert (await graph.resume("r")).status == "completed"
    assert calls == ["c", "d"]


@pytest.mark.parametrize("pattern", ["fan", "chain", "graph"])
async def test_after_a_cancellation_only_what_is_missing_is_called(store, calls, pattern):
    waiting = trio.Event()

    class Slow(Calls):
        def check(self, item):
            calls.append(item)

        async def upper(self, item):
            self.check(item)
            await self.wait(item)
            return item.upper()

        async def fold(self, item, state):
            self.check(item)
            await self.wait(item)
            return state.set("sum", [*state.get("sum", []), item])

        def node(self, name):
            async def fn(state):
                self.check(name)
                await self.wait(name)
                return state

            return fn

        async def wait(self, item):
            if item == "c" and not waiting.is_set():
                waiting.set()
                await trio.sleep_forever()

    graph = make(store, {"node": patterns(Slow())[pattern]})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(graph.execute, State(), "r")
        await waiting.wait()
        nursery.cancel_scope.cancel()
    calls.remove("c")
    await graph.resume("r")
    assert calls == ["a", "b", "c", "d"]


@pytest.mark.parametrize("pattern", ["fan", "chain", "graph"])
async def test_an_attempt_after_a_failed_one_calls_only_what_is_missing(store, calls, autojump_clock, pattern):
    node = patterns(calls)[pattern]
    calls.failing = {"c"}

    class Once(set):
        def __contains__(self, item):
            found = super().__contains__(item)
            self.discard(item)
            return found

    calls.failing = Once({"c"})
    await make(store, {"node": node}, retry=RetryConfig(max_attempts=2)).execute(State(), run_id="r")
    assert calls == ["a", "b", "c", "c", "d"]


async def test_a_pattern_with_a_policy_around_it_is_kept_too(store, calls, autojump_clock):
    node = with_retry(patterns(calls)["fan"], RetryConfig(max_attempts=2))
    calls.failing = {"c"}
    graph = make(store, {"node": node})
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    assert calls == ["a", "b", "c", "c"]


@pytest.mark.parametrize("pattern", ["fan", "chain", "graph"])
async def test_what_a_child_came_to_is_there_when_the_node_fails_after_it(store, calls, pattern):
    broken = [True]

    def leave(state, result):
        if broken[0]:
            raise Down
        return state

    inner = make(None, {name: calls.node(name) for name in "ab"}, name="inner")
    node = {
        "fan": parallel_node(calls.upper, items=list("ab"), aggregate=leave, config=SERIAL),
        "graph": graph_node(inner, enter=lambda state: state, leave=leave),
        "chain": chain_node(calls.fold, items=list("ab")),
    }[pattern]
    if pattern == "chain":
        inner_node = node

        async def node(state):
            return leave(await inner_node(state), None)

        node.__wrapped__ = inner_node
    graph = make(store, {"node": node})
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    broken[0] = False
    await graph.resume("r")
    assert calls == ["a", "b"]


async def test_two_nodes_never_recall_each_others_results(store, calls):
    nodes = {
        "upper": parallel_node(calls.upper, items=list("abc"), aggregate=put("upper"), config=SERIAL),
        "bang": parallel_node(calls.bang, items=list("abc"), aggregate=put("bang"), config=SERIAL),
    }
    graph = make(store, nodes)
    calls.failing = {"c"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    calls.failing = set()
    state = (await graph.resume("r")).state
    assert (state["upper"], state["bang"]) == (["A", "B", "C"], ["a!", "b!", "c!"])


@pytest.mark.parametrize("pattern", ["fan", "chain", "graph"])
async def test_two_visits_of_one_node_are_two_runs(store, calls, pattern):
    graph = StateGraph(GraphConfig(name="loop", observer="noop"), store=store)
    graph.add_node("node", patterns(calls)[pattern])
    graph.add_node("count", count)
    graph.add_edge("node", "count")
    graph.add_edge("count", "node", lambda state: state["n"] < 3)
    graph.add_edge("count", "done")
    graph.add_node("done", calls.node("done"))
    graph.set_entry_point("node")
    graph.set_exit_point("done")
    await graph.execute(State(n=0), run_id="r")
    assert calls == [*"abcd", *"abcd", *"abcd", "done"]


async def count(state):
    return state.set("n", state["n"] + 1)


async def test_children_are_listed_under_their_parent_and_go_with_it(store, calls):
    deepest = make(None, {"fan": patterns(calls)["fan"]}, name="deepest")
    inner = make(None, {"deep": graph_node(deepest, lambda state: state, same)}, name="inner")
    graph = make(store, {"a": calls.node("x"), "node": graph_node(inner, lambda state: state, same)})
    calls.failing = {"c"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    runs = {run.run_id: (run.parent, run.kind, run.status) for run in await store.list_runs()}
    assert runs == {
        "r": (None, "graph", "failed"),
        "r..1/node": ("r", "graph", "failed"),
        "r..1/node..0/deep": ("r..1/node", "graph", "failed"),
        "r..1/node..0/deep..0/fan": ("r..1/node..0/deep", "parallel", "failed"),
    }
    calls.failing = set()
    calls.clear()
    await graph.resume("r")
    assert calls == ["c", "d"]
    assert list(await store.list_runs()) == []


async def test_a_pause_deep_inside_goes_on_there_with_the_answer(store, calls):
    async def ask(state):
        calls.append("ask")
        if "answer" not in state:
            pause("well?")
        return state.set("heard", state["answer"])

    deepest = make(None, {"work": calls.node("work"), "ask": ask}, name="deepest")
    inner = make(None, {"first": calls.node("first"), "deep": graph_node(deepest, lambda s: s, same)}, name="inner")
    graph = make(store, {"node": graph_node(inner, lambda state: state, same)})
    paused = await graph.execute(State(), run_id="r")
    assert paused.pause == "well?"
    assert (await graph.resume("r")).status == "paused"
    done = await graph.resume("r", update=lambda state: state.set("answer", 42))
    assert (done.state["heard"], done.state["path"]) == (42, ["first", "work"])
    assert calls == ["first", "work", "ask", "ask", "ask"]


async def test_an_answer_is_brought_in_once(store, calls):
    """A later resume must not undo what the inner run has made of the answer since."""

    async def ask(state):
        if "answer" not in state:
            pause("well?")
        return state.set("answer", "taken")

    inner = make(None, {"ask": ask, "work": calls.node("work")}, name="inner")
    graph = make(store, {"node": graph_node(inner, lambda state: state, same)})
    await graph.execute(State(), run_id="r")
    calls.failing = {"work"}
    with pytest.raises(ExecutionError):
        await graph.resume("r", update=lambda state: state.set("answer", "given"))
    calls.failing = set()
    assert (await graph.resume("r")).state["answer"] == "taken"


async def test_an_answer_reaches_the_step_of_a_chain_that_asked(store, calls):
    async def step(item, state):
        calls.append(item)
        if item == "b" and "answer" not in state:
            pause("well?")
        return state.set("last", item)

    graph = make(store, {"node": chain_node(step, items=list("abc"))})
    await graph.execute(State(), run_id="r")
    done = await graph.resume("r", update=lambda state: state.set("answer", 1))
    assert (done.state, calls) == (State(last="c", answer=1), ["a", "b", "b", "c"])


async def test_items_that_an_update_changed_are_called_and_the_others_are_not(store, calls):
    node = parallel_node(calls.upper, items=lambda state: state["items"], aggregate=put("out"), config=SERIAL)
    graph = make(store, {"node": node})
    calls.failing = {"bad"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(items=["a", "bad", "c"]), run_id="r")
    calls.clear()
    done = await graph.resume("r", update=lambda state: state.set("items", ["a", "good", "c"]))
    assert (done.state["out"], calls) == (["A", "GOOD", "C"], ["good", "c"])


async def test_a_key_names_the_items(store, calls):
    node = parallel_node(
        calls.upper, items=lambda state: state["items"], aggregate=put("out"), config=SERIAL, key=str
    )
    graph = make(store, {"node": node})
    calls.failing = {"c"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(items=["a", "b", "c"]), run_id="r")
    calls.failing = set()
    calls.clear()
    done = await graph.resume("r", update=lambda state: state.set("items", ["b", "x", "a"]))
    assert (done.state["out"], calls) == (["B", "X", "A"], ["x"])


async def test_result_type_brings_results_back(store, calls):
    import msgspec

    class Word(msgspec.Struct):
        text: str

    async def make_word(item):
        calls.check(item)
        return Word(item)

    def texts(state, result):
        return state.set("out", [word.text for word in result.results])

    node = parallel_node(make_word, items=list("ab"), aggregate=texts, config=SERIAL, result_type=Word)
    graph = make(store, {"node": node})
    calls.failing = {"b"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    calls.failing = set()
    assert (await graph.resume("r")).state["out"] == ["a", "b"]


@pytest.mark.parametrize("pattern", ["fan", "chain", "graph"])
async def test_durable_false_turns_it_off(store, calls, pattern):
    inner = make(None, {name: calls.node(name) for name in "ab"}, name="inner")
    node = {
        "fan": parallel_node(calls.upper, items=list("ab"), aggregate=put("x"), config=SERIAL, durable=False),
        "chain": chain_node(calls.fold, items=list("ab"), durable=False),
        "graph": graph_node(inner, enter=lambda state: state, leave=same, durable=False),
    }[pattern]
    graph = make(store, {"node": node})
    calls.failing = {"b"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    assert [run.run_id for run in await store.list_runs()] == ["r"]
    calls.failing = set()
    await graph.resume("r")
    assert calls == ["a", "b", "a", "b"]


async def test_a_pattern_called_by_the_users_own_code_is_not_a_child(store, calls):
    """Two of them in one node would have one identity."""
    first = parallel_node(calls.upper, items=list("ab"), aggregate=put("first"), config=SERIAL)
    second = parallel_node(calls.bang, items=list("ab"), aggregate=put("second"), config=SERIAL)

    async def both(state):
        return await second(await first(state))

    graph = make(store, {"node": both})
    assert (await graph.execute(State(), run_id="r")).state == State(first=["A", "B"], second=["a!", "b!"])


async def test_a_user_may_have_a_run_that_looks_like_a_child(store, calls):
    graph = make(store, {"node": patterns(calls)["fan"]}, preserve=True)
    await graph.execute(State(), run_id="r/0/node")
    await graph.execute(State(), run_id="r")
    assert calls == [*"abcd", *"abcd"]


@pytest.mark.parametrize(
    ("parent", "place", "other"),
    [
        ("r", (1, "a/2/b"), ("r..1/a", (2, "b"))),
        ("r", (1, "a"), ("r", (1, "A"))),
        ("r", (1, "a..2/b"), ("r..1/a", (2, "b"))),
        ("r", (1, "%2E"), ("r", (1, "."))),
        ("r", ("x/y",), ("r", ("x", "y"))),
        ("r" * 500, (1, "a" * 100), ("r" * 500, (1, "a" * 101))),
    ],
)
def test_the_ids_of_children_differ_and_are_safe(parent, place, other):
    first, second = child_id(parent, *place), child_id(other[0], *other[1])
    assert first != second
    for run_id in (first, second):
        assert len(run_id) <= 512
        assert run_id.isprintable()
        assert not {"/..", "../"} & {run_id[i : i + 3] for i in range(len(run_id))}


def test_odd_node_names_give_safe_ids():
    for name in ("a\nb", "../../etc", "'; DROP TABLE", "\ud800", "ünï", "x" * 2_000, "", " "):
        run_id = child_id("r", 3, name)
        assert run_id.startswith("r..3/")
        assert run_id.isprintable()
        assert not set("\"'`\\ ") & set(run_id)


async def test_a_child_is_claimed_only_by_who_holds_the_parent(store, calls):
    entered, overtaken = trio.Event(), trio.Event()

    async def slow(item):
        calls.append(item)
        if item == "b":
            entered.set()
            await overtaken.wait()
        return item

    graph = make(store, {
        "first": parallel_node(slow, items=list("ab"), aggregate=put("x"), config=SERIAL),
        "second": parallel_node(slow, items=list("ab"), aggregate=put("y"), config=SERIAL),
    })

    async def stopped():
        with pytest.raises(CheckpointConflictError):
            await graph.execute(State(), "r")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stopped)
        await entered.wait()
        await store.claim("r")
        overtaken.set()
    assert calls == ["a", "b"]


async def test_a_conflict_inside_comes_out_bare(store, calls):
    """What a child says of the store is no failure of the node: nothing of the run may be written after it."""

    async def overtaken(item):
        await store.claim("r")
        return item

    graph = make(store, {"node": parallel_node(overtaken, items=["a"], aggregate=put("x"))})
    with pytest.raises(CheckpointConflictError):
        await graph.execute(State(), run_id="r")
    assert (await store.load("r")).status == "running"


async def test_the_step_before_is_written_before_a_child_begins(store, calls):
    """With an interval, a crash must not leave a child of a step that will be made again."""
    seen = []

    async def look(item):
        seen.append((await store.load("r")).step)
        return item

    config = GraphConfig(name="outer", observer="noop", checkpoint=CheckpointConfig(interval=100))
    graph = StateGraph(config, store=store)
    for name, fn in {
        "a": calls.node("a"),
        "b": calls.node("b"),
        "node": parallel_node(look, items=["x"], aggregate=put("x")),
    }.items():
        graph.add_node(name, fn)
    graph.add_edge("a", "b")
    graph.add_edge("b", "node")
    graph.set_entry_point("a")
    graph.set_exit_point("node")
    await graph.execute(State(), run_id="r")
    assert seen == [2]


async def test_a_fork_has_children_of_its_own(store, calls):
    graph = make(store, {"node": patterns(calls)["fan"]}, preserve=True)
    await graph.execute(State(), run_id="r")
    fork = await graph.resume("r", step=0, as_run_id="f")
    assert fork.status == "completed"
    assert calls == [*"abcd", *"abcd"]


async def test_a_store_that_the_pattern_names_is_used_where_the_graph_has_none(tmp_path, calls):
    checkpoint = CheckpointConfig(store=f"sqlite:///{tmp_path}/runs.db")
    config = ParallelConfig(max_workers=1, checkpoint=checkpoint, observer="noop")
    node = parallel_node(calls.upper, items=list("abc"), aggregate=put("x"), config=config)
    chain = chain_node(calls.fold, items=list("xy"), config=ChainConfig(checkpoint=checkpoint, observer="noop"))
    graph = make(None, {"node": node, "chain": chain})
    calls.failing = {"c"}
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    calls.failing = set()
    calls.clear()
    await graph.execute(State(), run_id="r")
    assert calls == ["c", "x", "y"]


async def test_events_of_children_lead_to_their_parent(calls):
    observer = RecordingObserver()
    inner = make(None, {"fan": parallel_node(calls.upper, items=["a"], aggregate=put("x"))}, name="inner")
    graph = StateGraph(GraphConfig(name="outer"), store=MemoryStore(), observer=observer)
    graph.add_node("node", graph_node(inner, lambda state: state, same))
    graph.set_entry_point("node")
    graph.set_exit_point("node")
    await graph.execute(State(), run_id="r")
    assert {event.parent for event in observer.events if event.run_id == "r"} == {None}
    assert {event.parent for event in observer.events if event.run_id == "r..0/node"} <= {"r"}
