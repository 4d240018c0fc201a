"""Error edges: ways out of a node that failed."""

import msgspec
import pytest
import trio

from trioflow import (
    CheckpointConflictError,
    ExecutionError,
    GraphConfig,
    GraphError,
    MemoryStore,
    ParallelError,
    RecordingObserver,
    RetryConfig,
    State,
    StateGraph,
    parallel_node,
    pause,
)


def make(call, *, exits=("publish",), store=None, observer=None, state_type=State, **settings):
    """A graph in which `call` leads to `publish`."""
    config = GraphConfig(name="test", observer="noop", **settings)
    graph = StateGraph(config, state_type, store=store, observer=observer)
    graph.add_node("call", call)
    for name in ("publish", "apologise"):
        graph.add_node(name, same)
    graph.add_edge("call", "publish")
    graph.add_edge("apologise", "publish")
    graph.set_entry_point("call")
    for name in exits:
        graph.set_exit_point(name)
    return graph


async def same(state):
    return state


async def boom(state):
    raise ValueError("boom")


async def test_a_node_that_fails_goes_on_by_its_error_edge():
    graph = make(boom)
    graph.add_error_edge("call", "apologise", update=lambda state, error: state.set("why", str(error)))
    result = await graph.execute(State(n=1))
    assert (result.path, result.state, result.status) == (["call", "apologise", "publish"], State(n=1, why="boom"), "completed")
    assert result.iterations == 3


async def test_the_first_that_fits_is_taken():
    graph = make(boom)
    graph.add_node("other", same)
    graph.add_edge("other", "publish")
    graph.add_error_edge("call", "other", KeyError)
    graph.add_error_edge("call", "other", (TypeError, OSError))
    graph.add_error_edge("call", "other", lambda error: "bang" in str(error))
    graph.add_error_edge("call", "apologise", lambda error: "boom" in str(error))
    graph.add_error_edge("call", "other")
    assert (await graph.execute(State())).path == ["call", "apologise", "publish"]


async def test_where_none_fits_the_run_fails():
    graph = make(boom)
    graph.add_error_edge("call", "apologise", KeyError)
    with pytest.raises(ExecutionError, match="execution failed at node call: boom") as caught:
        await graph.execute(State(), run_id="r")
    assert (caught.value.run_id, caught.value.path) == ("r", ["call"])


async def test_it_is_taken_after_the_retries(autojump_clock):
    calls = []

    async def fails(state):
        calls.append(1)
        raise ValueError

    graph = make(fails, retry=RetryConfig(max_attempts=3))
    graph.add_error_edge("call", "apologise")
    result = await graph.execute(State())
    assert (len(calls), result.iterations) == (3, 5)


async def test_a_time_limit_fits(autojump_clock):
    async def slow(state):
        await trio.sleep_forever()

    graph = make(slow, task_timeout=1)
    graph.add_error_edge("call", "apologise", trio.TooSlowError)
    assert "apologise" in (await graph.execute(State())).path


async def test_a_result_of_the_wrong_type_fits():
    async def wrong(state):
        return 5

    graph = make(wrong)
    graph.add_error_edge("call", "apologise", TypeError, lambda state, error: state.set("why", str(error)))
    assert "wants a State from each node" in (await graph.execute(State())).state["why"]


async def test_the_error_of_a_pattern_fits_as_it_is():
    async def fails(item):
        raise KeyError(item)

    graph = make(parallel_node(fails, items=[1], aggregate=lambda state, result: state))
    graph.add_error_edge("call", "apologise", ParallelError)
    assert "apologise" in (await graph.execute(State())).path


async def test_an_exit_that_fails_goes_on_too():
    graph = make(boom, exits=("call", "publish"))
    graph.add_error_edge("call", "apologise")
    assert (await graph.execute(State())).exit_point == "publish"


async def test_a_way_back_is_a_retry_of_ones_own():
    tries = []

    async def flaky(state):
        tries.append(state.get("tries", 0))
        if len(tries) < 3:
            raise ConnectionError
        return state

    graph = make(flaky)
    graph.add_error_edge(
        "call", "call", ConnectionError, lambda state, error: state.set("tries", state.get("tries", 0) + 1)
    )
    graph.add_error_edge("call", "apologise")
    await graph.execute(State())
    assert tries == [0, 1, 2]


async def test_what_is_no_failure_of_the_node_takes_none():
    async def stop(state):
        raise SystemExit(3)

    async def ask(state):
        pause("why?")

    for call, check in ((stop, "raises"), (ask, "paused")):
        graph = make(call)
        graph.add_error_edge("call", "apologise")
        if check == "raises":
            with pytest.raises(SystemExit):
                await graph.execute(State())
        else:
            assert (await graph.execute(State())).status == "paused"


async def test_a_cancellation_takes_none():
    graph = make(lambda state: trio.sleep_forever())
    graph.add_error_edge("call", "apologise")
    with trio.move_on_after(0.01) as scope:
        await graph.execute(State())
    assert scope.cancelled_caught


async def test_the_limit_of_iterations_takes_none(autojump_clock):
    graph = make(boom, max_iterations=2, retry=RetryConfig(max_attempts=5))
    graph.add_error_edge("call", "apologise")
    with pytest.raises(ExecutionError) as caught:
        await graph.execute(State())
    assert caught.value.kind == "max iterations"


async def test_predicates_and_no_transition_take_none():
    def broken(state):
        raise ValueError("predicate")

    graph = make(same)
    graph._edges[0] = msgspec.structs.replace(graph._edges[0], when=broken)
    graph.add_error_edge("call", "apologise")
    with pytest.raises(ExecutionError, match="predicate"):
        await graph.execute(State())
    graph._edges[0] = msgspec.structs.replace(graph._edges[0], when=lambda state: False)
    graph._plan = None
    with pytest.raises(ExecutionError, match="no transition"):
        await graph.execute(State())


async def test_an_on_or_an_update_that_raises_is_the_nodes_failure():
    def broken(*args):
        raise KeyError("broken")

    for options in ({"on": broken}, {"update": broken}, {"update": lambda state, error: 5}):
        graph = make(boom)
        graph.add_error_edge("call", "apologise", **options)
        with pytest.raises(ExecutionError, match="at node call") as caught:
            await graph.execute(State())
        assert isinstance(caught.value.__cause__, KeyError | TypeError)
        assert isinstance(caught.value.__cause__.__context__, ValueError)


async def test_update_is_given_a_copy_of_the_state_before():
    async def spoils(state):
        state["words"].append("spoilt")
        raise ValueError

    def update(state, error):
        state["words"].append("updated")
        return state

    first = State(words=[])
    graph = make(spoils)
    graph.add_error_edge("call", "apologise", update=update)
    assert (await graph.execute(first)).state["words"] == ["updated"]
    assert first["words"] == []


async def test_a_taken_error_edge_is_a_step_that_is_saved_and_not_yielded():
    store = MemoryStore()
    graph = make(boom, store=store)
    graph.add_error_edge("call", "apologise", update=lambda state, error: state.set("why", str(error)))
    async with graph.open_run(State(), run_id="r") as steps:
        seen = []
        async for step in steps:
            seen.append(step.node)
            if step.node == "apologise":
                kept = [(info.step, info.node, info.next_node) for info in await store.history("r")]
    assert seen == ["apologise", "publish"]
    assert kept == [(0, "", "call"), (1, "call", "apologise"), (2, "apologise", "publish")]


async def test_after_a_crash_the_run_goes_on_behind_the_error_edge():
    store = MemoryStore()
    down = [True]

    async def apologise(state):
        if down[0]:
            raise SystemExit
        return state

    graph = make(boom, store=store)
    graph._nodes["apologise"] = apologise
    graph.add_error_edge("call", "apologise", update=lambda state, error: state.set("why", str(error)))
    with pytest.raises(SystemExit):
        await graph.execute(State(), run_id="r")
    down[0] = False
    result = await graph.resume("r")
    assert (result.path, result.state) == (["apologise", "publish"], State(why="boom"))


async def test_what_the_store_says_of_a_child_takes_none():
    store = MemoryStore()

    async def overtaken(item):
        await store.claim("r")
        return item

    graph = make(parallel_node(overtaken, items=[1], aggregate=lambda state, result: state), store=store)
    graph.add_error_edge("call", "apologise")
    with pytest.raises(CheckpointConflictError):
        await graph.execute(State(), run_id="r")


async def test_events_tell_of_it():
    observer = RecordingObserver()
    graph = make(boom, observer=observer)
    graph.add_error_edge("call", "publish", KeyError)
    graph.add_error_edge("call", "apologise", ValueError)
    await graph.execute(State())
    told = [(event.type.value, event.data.get("predicate_name"), event.data.get("status")) for event in observer.events]
    assert told[1:7] == [
        ("node.start", None, None),
        ("edge.evaluate", "on KeyError", None),
        ("node.complete", None, "error"),
        ("edge.evaluate", "on ValueError", None),
        ("edge.transition", "on ValueError", None),
        ("node.start", None, None),
    ]


def test_a_node_with_error_edges_alone_leads_nowhere():
    graph = StateGraph(GraphConfig(name="test", observer="noop"))
    for name in ("call", "apologise"):
        graph.add_node(name, same)
    graph.add_error_edge("call", "apologise")
    graph.set_entry_point("call")
    graph.set_exit_point("apologise")
    with pytest.raises(GraphError) as caught:
        graph.validate()
    assert caught.value.faults == ["node 'call' leads nowhere: it has only error edges and is no exit point"]
    graph.set_exit_point("call")
    graph.validate()


def test_an_error_edge_counts_as_a_way_to_a_node():
    graph = make(same)
    with pytest.raises(GraphError, match="node 'apologise' cannot be reached"):
        graph.validate()
    graph.add_error_edge("call", "apologise")
    graph.validate()
    graph.add_error_edge("call", "nowhere")
    with pytest.raises(GraphError, match="an error edge of 'call' leads to 'nowhere', which is no node"):
        graph.validate()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "b"), "the source of the error edge"),
        (("a", ""), "the target of the error edge"),
        (("a", "b", 5), "the on= of the error edge from 'a' to 'b' must be a subclass of Exception"),
        (("a", "b", KeyboardInterrupt), "the on="),
        (("a", "b", (ValueError, 5)), "the on="),
        (("a", "b", ()), "the on="),
        (("a", "b", int), "the on="),
        (("a", "b", same), "the on="),
        (("a", "b", ValueError, same), "the update"),
        (("a", "b", ValueError, 5), "the update"),
    ],
)
def test_an_error_edge_that_cannot_work_is_refused(arguments, message):
    graph = StateGraph(GraphConfig(name="test"))
    with pytest.raises(GraphError, match=message.replace("(", "\\(")):
        graph.add_error_edge(*arguments)


async def test_a_node_has_policies_of_its_own(autojump_clock):
    calls = []

    graph = StateGraph(GraphConfig(name="own", observer="noop", retry=RetryConfig(max_attempts=2), task_timeout=100))

    @graph.node(retry=RetryConfig(max_attempts=4))
    async def own(state):
        calls.append("own")
        raise ValueError

    @graph.node("default", task_timeout=1)
    async def slow(state):
        calls.append("slow")
        await trio.sleep(50)

    graph.add_edge("own", "default")
    graph.add_error_edge("own", "default")
    graph.set_entry_point("own")
    graph.set_exit_point("default")
    with pytest.raises(ExecutionError) as caught:
        await graph.execute(State())
    assert isinstance(caught.value.__cause__, trio.TooSlowError)
    assert calls == ["own"] * 4 + ["slow"] * 2


@pytest.mark.parametrize("options", [{"retry": 3}, {"task_timeout": -1}, {"task_timeout": "x"}])
def test_a_policy_that_cannot_be_is_refused(options):
    with pytest.raises(GraphError, match="of node 'a'"):
        StateGraph(GraphConfig(name="own")).add_node("a", same, **options)


async def test_a_calls_observer_replaces_the_graphs():
    own, called = RecordingObserver(), RecordingObserver()

    async def ask(state):
        return pause() if "answer" not in state else state

    graph = make(ask, observer=own)
    graph.add_error_edge("call", "apologise")
    paused = await graph.execute(State(), observer=called)
    await graph.resume(paused.run_id, update=lambda state: state.set("answer", 1), observer=called)
    async with graph.open_run(State(answer=1), observer=called) as steps:
        async for _ in steps:
            pass
    assert own.events == []
    assert [event.type for event in called.events].count("graph.start") == 3
