"""Running a graph: the way it takes, where it ends, and what a failure says and leaves alone."""

import dataclasses
import pickle
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trioflow import (
    CheckpointConflictError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    ConfigError,
    ExecutionError,
    GraphConfig,
    GraphError,
    RecordingObserver,
    RetryConfig,
    State,
    StateGraph,
    key_equals,
    pause,
    with_retry,
)


async def more(state):
    return state.set("n", state.get("n", 0) + 1)


async def same(state):
    return state


def below(limit):
    return lambda state: state["n"] < limit


async def test_a_run_goes_from_entry_to_exit(line):
    result = await line(more, same, more, names=["a", "b", "c"]).execute(State(n=5))
    assert result.state == State(n=7)
    assert (result.status, result.exit_point, result.path, result.iterations, result.pause) == (
        "completed", "c", ["a", "b", "c"], 3, None,
    )  # fmt: skip
    assert result.run_id


async def test_a_run_has_the_id_that_it_is_given_or_one_of_its_own(line):
    graph = line(more)
    assert (await graph.execute(State(), run_id="mine")).run_id == "mine"
    first, second = [(await graph.execute(State())).run_id for _ in range(2)]
    assert first != second


async def test_the_first_edge_whose_predicate_holds_is_taken():
    graph = StateGraph(GraphConfig(name="x", observer="noop"))
    asked = []

    def answering(name, answer):
        def predicate(state):
            asked.append(name)
            return answer

        return predicate

    for name in "abcd":
        graph.add_node(name, same)
    graph.add_edge("a", "b", answering("b", answer=False))
    graph.add_edge("a", "c", answering("c", answer=True))
    graph.add_edge("a", "d", answering("d", answer=True))
    graph.set_entry_point("a")
    for name in "bcd":
        graph.set_exit_point(name)
    result = await graph.execute(State())
    assert (result.exit_point, asked) == ("c", ["b", "c"])


async def test_a_graph_may_loop_and_the_path_keeps_its_last_thousand_nodes(loop):
    graph = loop(more, again=below(1_500), max_iterations=2_000)
    result = await graph.execute(State())
    assert result.state["n"] == 1_500
    assert result.iterations == 1_501
    assert result.path == ["more"] * 999 + ["done"]


async def test_a_run_is_a_checkpoint(line):
    with assert_checkpoints():
        await line(same).execute(State())


async def test_a_run_may_be_as_many_at_once_as_one_likes(line):
    graph = line(more, same, more, names=["a", "b", "c"])
    results = []

    async def run(n):
        results.append((await graph.execute(State(n=n))).state["n"])

    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(run, n)
    assert sorted(results) == [2, 3, 4, 5, 6]


async def test_nodes_that_never_block_let_others_run_and_can_be_cancelled(loop):
    graph = loop(more, again=lambda state: True, max_iterations=10**9)
    with trio.move_on_after(0.05) as scope:
        await graph.execute(State())
    assert scope.cancelled_caught


# Failures.


async def failing(graph, state=None, **options):
    with pytest.raises(ExecutionError) as caught:
        await graph.execute(State() if state is None else state, **options)
    return caught.value


async def test_a_node_that_raises_names_itself_the_state_and_the_path(line):
    async def judge(state):
        raise ValueError("boom\n")

    error = await failing(line(more, judge, same))
    assert str(error) == r"execution failed at node judge: boom\n"
    assert (error.node, error.state, error.path, error.kind) == ("judge", State(n=1), ["more", "judge"], "node")
    assert isinstance(error.__cause__, ValueError)


async def test_a_predicate_that_raises_is_told_apart(loop):
    def broken(state):
        raise ValueError("boom")

    error = await failing(loop(more, again=broken))
    assert str(error) == "execution failed at node more: the predicate 'again' of the edge to 'more' failed: boom"
    assert (error.node, error.state, error.path, error.kind) == ("more", State(n=1), ["more"], "predicate")
    assert isinstance(error.__cause__, ValueError)


async def test_a_predicate_whose_answer_is_no_answer_has_failed(loop):
    class Vague:
        def __bool__(self):
            raise ValueError("vague")

    assert "vague" in str(await failing(loop(more, again=lambda state: Vague())))
    assert "plain function" in str(await failing(loop(more, again=lambda state: same(state))))


async def test_no_transition_is_told_apart(line):
    graph = StateGraph(GraphConfig(name="x", observer="noop"))
    graph.add_node("a", more)
    graph.add_node("b", same)
    graph.add_edge("a", "b", key_equals("n", 7))
    graph.set_entry_point("a")
    graph.set_exit_point("b")
    error = await failing(graph)
    assert str(error) == "execution failed at node a: no transition: none of its 1 edges may be taken"
    assert (error.node, error.state, error.kind, error.__cause__) == ("a", State(n=1), "no transition", None)
    assert (await graph.execute(State(n=6))).exit_point == "b"


async def test_at_the_limit_of_iterations_the_node_is_the_next_one(loop):
    async def other(state):
        return state

    error = await failing(loop(more, other, again=lambda state: True, max_iterations=3))
    assert str(error) == "execution failed at node other: max iterations exceeded: all 3 attempts of max_iterations are used"
    assert (error.node, error.state, error.path, error.kind) == (
        "other", State(n=2), ["more", "other", "more"], "max iterations",
    )  # fmt: skip


async def test_a_run_may_take_exactly_the_limit(line):
    assert (await line(more, same, names=["a", "b"], max_iterations=2).execute(State())).iterations == 2


@pytest.mark.parametrize("retried_by", ["config", "node"])
async def test_failed_attempts_count_towards_the_limit(line, retried_by, autojump_clock):
    calls = []

    async def flaky(state):
        calls.append(state)
        if len(calls) < 3:
            raise OSError("no")
        return state

    retry = RetryConfig(max_attempts=5)

    def make(limit):
        calls.clear()
        if retried_by == "config":
            return line(flaky, retry=retry, max_iterations=limit)
        return line(with_retry(flaky, retry), names=["flaky"], max_iterations=limit)

    assert (await make(3).execute(State())).iterations == 3
    error = await failing(make(2))
    assert (error.node, error.kind, error.path) == ("flaky", "max iterations", ["flaky"])
    assert isinstance(error.__cause__, OSError)
    assert len(calls) == 2


async def test_each_attempt_has_a_time_limit(line, autojump_clock):
    started = []

    async def slow(state):
        started.append(trio.current_time())
        await trio.sleep_forever()

    retry = RetryConfig(max_attempts=2, initial_delay=1, jitter=False)
    error = await failing(line(slow, task_timeout=3, retry=retry))
    assert isinstance(error.__cause__, trio.TooSlowError)
    assert [time - started[0] for time in started] == [0, 4]


class Review(msgspec.Struct):
    words: list[str] = []


@dataclasses.dataclass
class Sheet:
    words: list[str] = dataclasses.field(default_factory=list)


@pytest.mark.parametrize(
    ("state_type", "wrong"), [(State, {"a": 1}), (State, None), (Review, State()), (Sheet, None), (Review, Review)]
)
async def test_a_node_that_returns_something_else_than_a_state_fails(line, state_type, wrong):
    async def judge(state):
        return wrong

    graph = line(judge, state_type=state_type, name="review")
    error = await failing(graph, state_type())
    assert (error.node, error.kind) == ("judge", "node")
    assert str(error).startswith(
        f"execution failed at node judge: graph 'review' wants a {state_type.__name__} from each node, and this one returned "
    )
    assert isinstance(error.__cause__, TypeError)


async def test_a_kind_of_the_state_type_is_one(line):
    class Special(Review):
        pass

    async def specialise(state):
        return Special(["x"])

    assert (await line(specialise, state_type=Review).execute(Review())).state == Special(["x"])


@pytest.mark.parametrize("make", [Review, Sheet, lambda: State(words=[])])
@pytest.mark.parametrize("retry", [None, RetryConfig(max_attempts=3)])
async def test_a_node_that_changes_its_state_and_fails_has_changed_nothing(line, make, retry, autojump_clock):
    seen = []

    def words(state):
        return state["words"] if isinstance(state, State) else state.words

    async def good(state):
        words(state).append("good")
        return state

    async def spoil(state):
        seen.append(list(words(state)))
        words(state).append("spoilt")
        raise ValueError("boom")

    initial = make()
    graph = line(good, spoil, state_type=type(initial), retry=retry)
    error = await failing(graph, initial)
    assert words(error.state) == ["good"]
    assert words(initial) == []
    assert seen == [["good"]] * (1 if retry is None else 3)


@pytest.mark.parametrize("leave_scope", [False, True])
async def test_a_stale_cancelled_fails_the_node(line, stale, leave_scope):
    async def judge(state):
        if leave_scope:
            trio.CancelScope().__enter__().cancel()
            await trio.lowlevel.checkpoint()
        raise stale

    error = await failing(line(more, judge, same))
    assert (error.node, error.state) == ("judge", State(n=1))
    assert isinstance(error.__cause__, RuntimeError)
    assert isinstance(error.__cause__.__cause__, trio.Cancelled)


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("where", ["node", "predicate"])
async def test_what_is_no_exception_comes_out_bare(loop, raised, where):
    def stop(state):
        raise raised

    async def node(state):
        return state if where == "predicate" else stop(state)

    with pytest.raises(type(raised)) as caught:
        await loop(node, again=stop).execute(State())
    assert caught.value is raised


async def test_a_group_of_cancelled_and_real_errors_keeps_the_real_ones(line):
    async def judge(state):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ValueError("real")

    error = await failing(line(judge))
    assert isinstance(error.__cause__, ExceptionGroup)


async def test_cancellation_passes_through(line):
    async def slow(state):
        await trio.sleep_forever()

    with trio.move_on_after(0.01) as scope:
        await line(slow).execute(State())
    assert scope.cancelled_caught


async def test_a_failure_that_happened_beats_a_cancellation(line):
    with trio.CancelScope() as scope:

        async def judge(state):
            scope.cancel()
            raise ValueError("first")

        assert (await failing(line(judge))).node == "judge"


async def test_a_run_that_reached_its_end_returns_though_cancelled_in_the_last_moment(line):
    with trio.CancelScope() as scope:

        async def last(state):
            scope.cancel()
            return state.set("paid", True)

        result = await line(last).execute(State())
    assert result.state == State(paid=True)


async def test_a_lambda_that_gives_no_awaitable_is_refused_at_its_first_call(line):
    assert (await line(lambda state: more(state), names=["a"]).execute(State())).state["n"] == 1
    with pytest.raises(GraphError, match="graph 'test' cannot work: node 'a' wants an async function"):
        await line(lambda state: state, names=["a"]).execute(State())


@pytest.mark.parametrize(("state", "run_id"), [({}, None), (None, None), (State, None), (State(), ""), (State(), 5)])
async def test_bad_input_is_refused_before_any_node_is_called(line, state, run_id):
    async def node(state):
        raise AssertionError("called")

    graph = line(node)
    with pytest.raises(ConfigError):
        await graph.execute(state, run_id=run_id)
    with pytest.raises(ConfigError):
        graph.open_run(state, run_id=run_id)


def test_an_execution_error_pickles_with_its_cause():
    try:
        raise ExecutionError("judge", State(n=1), ["a", "judge"], kind="predicate", reason="why") from ValueError("boom")
    except ExecutionError as error:
        copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == "execution failed at node judge: why: boom"
    assert (copy.node, copy.state, copy.path, copy.kind) == ("judge", State(n=1), ["a", "judge"], "predicate")
    assert str(ExecutionError("x", None, [])) == "execution failed at node x: no cause is known"


# Pauses.


def pausing(state):
    if "answer" not in state:
        pause({"question": "go on?"})
    return state


async def ask(state):
    return pausing(state)


async def test_a_pause_ends_the_run_for_now_and_resume_calls_the_node_again(line):
    graph = line(more, ask, more, names=["a", "ask", "b"])
    paused = await graph.execute(State())
    assert (paused.status, paused.pause, paused.exit_point) == ("paused", {"question": "go on?"}, None)
    assert (paused.state, paused.path, paused.iterations) == (State(n=1), ["a", "ask"], 2)

    result = await graph.resume(paused.run_id, update=lambda state: state.set("answer", "yes"))
    assert (result.status, result.pause, result.run_id) == ("completed", None, paused.run_id)
    assert (result.state, result.path, result.iterations) == (State(n=2, answer="yes"), ["ask", "b"], 4)


async def test_a_run_may_pause_again(line):
    graph = line(ask)
    paused = await graph.execute(State(), run_id="r")
    again = await graph.resume("r")
    assert (again.status, again.iterations) == ("paused", 2)
    assert paused.run_id == again.run_id


async def test_a_stale_cancelled_of_an_update_is_its_error_and_the_run_stays_paused(line, stale):
    graph = line(ask)
    await graph.execute(State(), run_id="r")

    def update(state):
        raise stale

    with pytest.raises(RuntimeError, match="update raised trio.Cancelled") as caught:
        await graph.resume("r", update=update)
    assert caught.value.__cause__ is stale
    assert (await graph.resume("r", update=lambda state: state.set("answer", 1))).status == "completed"


async def test_a_completed_run_is_forgotten(line):
    graph = line(ask)
    await graph.execute(State(), run_id="r")
    await graph.resume("r", update=lambda state: state.set("answer", 1))
    with pytest.raises(CheckpointNotFoundError, match="there is no paused run 'r'") as caught:
        await graph.resume("r")
    assert caught.value.run_id == "r"


async def test_a_pause_is_never_retried(line, autojump_clock):
    calls = []

    async def node(state):
        calls.append(1)
        pause("stop")

    retry = RetryConfig(max_attempts=5)
    graph = line(with_retry(node, retry), names=["node"], retry=retry)
    assert (await graph.execute(State())).pause == "stop"
    assert len(calls) == 1


async def test_a_pause_may_come_from_a_task_of_the_node(line):
    async def node(state):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(same, pausing(State(answer=1)))
            nursery.start_soon(ask, state)
        return state

    assert (await line(node).execute(State())).status == "paused"


async def test_several_tasks_of_a_node_may_pause_at_once(line):
    async def node(state):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, state)
            nursery.start_soon(ask, state)
        return state

    assert (await line(node).execute(State())).pause == {"question": "go on?"}


async def test_the_limit_of_iterations_survives_a_resume(line):
    graph = line(more, ask, names=["a", "ask"], max_iterations=3)
    paused = await graph.execute(State(), run_id="r")
    assert paused.iterations == 2
    assert (await graph.resume("r")).iterations == 3
    with pytest.raises(ExecutionError, match="max iterations exceeded") as caught:
        await graph.resume("r", update=lambda state: state.set("answer", 1))
    assert (caught.value.node, caught.value.path) == ("ask", [])


async def test_a_resumed_run_that_fails_stays_paused_where_it_was(line):
    fail = [True]

    async def node(state):
        if fail[0]:
            raise ValueError("boom")
        return state

    graph = line(ask, node)
    await graph.execute(State(n=1), run_id="r")
    with pytest.raises(ExecutionError):
        await graph.resume("r", update=lambda state: state.set("answer", 1))
    fail[0] = False
    result = await graph.resume("r", update=lambda state: state.set("answer", 2))
    assert result.state == State(n=1, answer=2)
    assert result.path == ["ask", "node"]


async def test_failed_resumes_count_towards_the_limit(line):
    async def down(state):
        raise ValueError("boom")

    graph = line(ask, down, max_iterations=4)
    await graph.execute(State(), run_id="r")
    kinds = []
    for _ in range(3):
        with pytest.raises(ExecutionError) as caught:
            await graph.resume("r", update=lambda state: state.set("answer", 1))
        kinds.append((caught.value.kind, caught.value.node))
    assert kinds == [("node", "down"), ("max iterations", "down"), ("max iterations", "ask")]


async def test_what_is_kept_at_a_pause_is_nobody_elses(line):
    graph = line(ask)
    paused = await graph.execute(State(words=["kept"]), run_id="r")
    paused.state["words"].append("spoilt")

    def spoil(state):
        state["words"].append("spoilt")
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        await graph.resume("r", update=spoil)
    result = await graph.resume("r", update=lambda state: state.set("answer", 1))
    assert result.state["words"] == ["kept"]


async def test_update_returns_a_state(line):
    graph = line(ask)
    await graph.execute(State(), run_id="r")
    with pytest.raises(ConfigError, match="what update returned must be a State, got None"):
        await graph.resume("r", update=lambda state: None)
    assert (await graph.resume("r")).status == "paused"


async def test_a_paused_run_id_cannot_be_begun_again(line):
    graph = line(ask)
    await graph.execute(State(), run_id="r")
    for begin in (lambda: graph.execute(State(), run_id="r"), lambda: graph.open_run(State(), "r").__aenter__()):
        with pytest.raises(CheckpointMismatchError, match="run 'r' of graph 'test' is paused at node 'ask'; resume it"):
            await begin()


async def test_a_run_is_resumed_by_one_at_a_time(line):
    async def node(state):
        if "answer" not in state:
            pause()
        await trio.sleep_forever()

    graph = line(node)
    await graph.execute(State(), run_id="r")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: graph.resume("r", update=lambda state: state.set("answer", 1)))
        await wait_all_tasks_blocked()
        with pytest.raises(CheckpointConflictError, match="is already being resumed"):
            await graph.resume("r")
        nursery.cancel_scope.cancel()
    assert (await graph.resume("r")).status == "paused"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run_id": ""}, "run_id must be"),
        ({"run_id": "r", "update": 5}, "update must be"),
        ({"run_id": "r", "update": same}, "update must be a plain function"),
        ({"run_id": "r", "step": -1}, "step must be"),
    ],
)
async def test_resume_refuses_bad_input(line, options, message):
    with pytest.raises(ConfigError, match=message):
        await line(ask).resume(**options)


async def test_an_unknown_run_names_near_ones(line):
    graph = line(ask)
    await graph.execute(State(), run_id="order-17")
    with pytest.raises(CheckpointNotFoundError, match=r"did you mean 'order-17'\?"):
        await graph.resume("order-71")


async def test_pause_outside_of_a_run_says_where_it_works():
    with pytest.raises(RuntimeError, match="works only in a node of a running graph"):
        pause()


async def test_a_run_leaves_nothing_behind_for_pause_to_find(line):
    await line(same).execute(State())
    with pytest.raises(RuntimeError):
        pause()


async def test_the_memory_of_a_path_is_bounded(loop):
    observer: Any = RecordingObserver(limit=10)
    graph = loop(more, again=below(3_000), max_iterations=10_000, observer=observer)
    result = await graph.execute(State())
    assert len(result.path) == 1_000
    assert observer.events[-1].data["path_length"] == 3_001


async def test_context_variables_that_a_node_sets_are_not_seen_by_the_next(line):
    from contextvars import ContextVar

    variable: ContextVar[object] = ContextVar("variable", default="unset")
    seen = []

    class Odd:
        def __eq__(self, other):
            raise ValueError("no truth")

        __hash__ = None

    async def sets(state):
        seen.append(variable.get())
        variable.set(Odd())
        return state

    async def fails(state):
        seen.append(variable.get())
        variable.set("failing")
        raise ValueError

    async def looks(state):
        seen.append(variable.get())
        return state

    variable.set("outer")
    graph = line(sets, sets, fails, looks, names=list("abcd"))
    graph.add_error_edge("c", "d")
    graph._edges[0] = msgspec.structs.replace(graph._edges[0], when=lambda state: variable.get() == "outer")
    await graph.execute(State())
    assert seen == ["outer"] * 4
