"""`open_run`: steps handed out one by one, each node called only when its step is asked for."""

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trioflow import ExecutionError, GraphRun, RecordingObserver, State, pause


async def more(state):
    return state.set("n", state.get("n", 0) + 1)


async def test_each_step_is_handed_out(line):
    graph = line(more, more, names=["a", "b"])
    async with graph.open_run(State(), run_id="r") as steps:
        seen = [(step.node, step.iteration, step.state["n"]) async for step in steps]
    assert seen == [("a", 1, 1), ("b", 2, 2)]
    result = steps.result()
    assert (result.run_id, result.path, result.status) == ("r", ["a", "b"], "completed")


async def test_a_node_is_called_when_its_step_is_asked_for_and_not_before(line):
    called = []

    def node(name):
        async def fn(state):
            called.append(name)
            return state

        return fn

    graph = line(*map(node, "abc"), names=list("abc"))
    async with graph.open_run(State()) as steps:
        await wait_all_tasks_blocked()
        assert called == []
        async for step in steps:
            await wait_all_tasks_blocked()
            assert called[-1] == step.node
            if step.node == "b":
                break
    assert called == ["a", "b"]


async def test_each_request_is_a_checkpoint(line):
    async with line(more).open_run(State()) as steps:
        with assert_checkpoints():
            await anext(steps)
        for _ in range(2):
            with assert_checkpoints(), pytest.raises(StopAsyncIteration):
                await anext(steps)


async def test_steps_taken_stay_as_they_were(line):
    async def grow(state):
        state["words"].append("x")
        return state

    async with line(grow, grow, names=["a", "b"]).open_run(State(words=[])) as steps:
        taken = [step async for step in steps]
    assert [step.state["words"] for step in taken] == [["x"], ["x", "x"]]


async def test_there_is_no_result_before_the_end(line):
    async with line(more, more, names=["a", "b"]).open_run(State()) as steps:
        with pytest.raises(RuntimeError, match="iterate to the end first"):
            steps.result()
        await anext(steps)
    with pytest.raises(RuntimeError, match="ended early"):
        steps.result()


async def test_a_failure_comes_out_of_the_iteration_after_the_steps_that_completed(line):
    async def judge(state):
        raise ValueError("boom")

    seen = []
    graph = line(more, judge)
    async with graph.open_run(State()) as steps:
        with pytest.raises(ExecutionError, match="node judge: boom"):
            async for step in steps:
                seen.append(step.node)
        with pytest.raises(RuntimeError, match="failed"):
            steps.result()
        with pytest.raises(StopAsyncIteration):
            await anext(steps)
    assert seen == ["more"]


async def test_a_failure_that_nobody_heard_of_comes_out_of_the_block(line, autojump_clock):
    async def judge(state):
        await trio.sleep(2)
        raise ValueError("boom")

    with pytest.raises(ExecutionError, match="boom"):
        async with line(judge).open_run(State()) as steps:
            with trio.move_on_after(1):
                await anext(steps)
            await trio.sleep(2)


async def test_a_request_that_is_cancelled_loses_nothing(line, autojump_clock):
    calls = []

    async def slow(state):
        calls.append(1)
        await trio.sleep(10)
        return state

    async with line(slow, more).open_run(State()) as steps:
        with trio.move_on_after(3) as scope:
            await anext(steps)
        assert scope.cancelled_caught
        assert (await anext(steps)).node == "slow"
        assert (await anext(steps)).node == "more"
    assert calls == [1]


async def test_several_tasks_may_share_the_steps(line, autojump_clock):
    async def slow(state):
        await trio.sleep(1)
        return state

    seen = []

    async def take(steps, who):
        async for step in steps:
            seen.append((step.node, who))
            await trio.sleep(0.5)

    async with line(*[slow] * 4, names=list("abcd")).open_run(State()) as steps, trio.open_nursery() as nursery:
        nursery.start_soon(take, steps, 1)
        nursery.start_soon(take, steps, 2)
    assert [node for node, who in seen] == ["a", "b", "c", "d"]
    assert {who for node, who in seen} == {1, 2}


async def test_leaving_early_cancels_the_node_in_hand_and_tells_so(line, autojump_clock):
    observer = RecordingObserver()
    cancelled = []

    async def slow(state):
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(1)

    async with line(slow, observer=observer).open_run(State()) as steps:
        with trio.move_on_after(0.01):
            await anext(steps)
    assert cancelled == [1]
    assert [(event.type.value, event.data["status"]) for event in observer.events[-2:]] == [
        ("node.complete", "cancelled"),
        ("graph.complete", "cancelled"),
    ]


async def test_leaving_between_two_steps_tells_the_end(line):
    observer = RecordingObserver()
    async with line(more, more, names=["a", "b"], observer=observer).open_run(State()) as steps:
        await anext(steps)
    assert observer.events[-1].data["status"] == "cancelled"


async def test_a_block_that_asks_for_nothing_runs_nothing(line):
    observer = RecordingObserver()
    async with line(more, observer=observer).open_run(State()):
        pass
    assert observer.events == []


@pytest.mark.parametrize("raised", [ValueError("body"), SystemExit(3)])
async def test_what_the_block_raises_comes_out_bare(line, raised):
    with pytest.raises(type(raised)) as caught:
        async with line(more, more, names=["a", "b"]).open_run(State()) as steps:
            await anext(steps)
            raise raised
    assert caught.value is raised


async def test_what_is_no_exception_ends_the_block_at_once_and_bare(line, autojump_clock):
    async def stop(state):
        await trio.sleep(2)
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        async with line(stop).open_run(State()) as steps:
            with trio.move_on_after(1):
                await anext(steps)
            await trio.sleep_forever()


async def test_the_run_ends_with_its_last_step_whether_more_is_asked_for_or_not(line):
    observer = RecordingObserver()
    async with line(more, observer=observer).open_run(State()) as steps:
        await anext(steps)
        await wait_all_tasks_blocked()
        assert steps.result().status == "completed"
    assert observer.events[-1].data["status"] == "ok"


async def test_a_cancellation_from_outside_passes_through(line):
    async def slow(state):
        await trio.sleep_forever()

    with trio.move_on_after(0.01) as scope:
        async with line(slow).open_run(State()) as steps:
            await anext(steps)
    assert scope.cancelled_caught


async def test_a_stale_cancelled_of_the_block_is_told_apart(line, stale):
    with pytest.raises(RuntimeError, match="body of the block"):
        async with line(more).open_run(State()):
            raise stale


async def test_a_pause_ends_the_iteration(line):
    async def ask(state):
        if "answer" not in state:
            pause("why?")
        return state

    graph = line(more, ask)
    async with graph.open_run(State()) as steps:
        assert [step.node async for step in steps] == ["more"]
        assert (steps.result().status, steps.result().pause) == ("paused", "why?")
    result = await graph.resume(steps.result().run_id, update=lambda state: state.set("answer", 1))
    assert result.status == "completed"


async def test_a_run_is_made_by_open_run_only(line):
    with pytest.raises(TypeError, match="created only by StateGraph.open_run"):
        GraphRun()
    async with line(more, more, names=["a", "b"]).open_run(State()) as steps:
        assert repr(steps) == "<GraphRun: <Relay: waiting>>"
        await anext(steps)
    assert repr(steps) == "<GraphRun: <Relay: ended>>"
