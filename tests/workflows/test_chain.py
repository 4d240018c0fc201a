"""Chains: each step sees the state of the one before, and a failure says where it happened."""

import os
import pickle
import signal

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trioflow import (
    ChainConfig,
    ChainError,
    CheckpointConfig,
    ConfigError,
    MemoryStore,
    RecordingObserver,
    RetryConfig,
    process_chain,
    with_retry,
)
from trioflow._runtime.calls import CLOSE_DEADLINE
from trioflow.events import EventType

QUIET = ChainConfig(observer="noop")


async def add(item, state):
    return state + item


async def test_each_step_is_given_the_state_that_the_step_before_returned():
    seen = []

    async def step(item, state):
        seen.append((item, state))
        return state + item

    result = await process_chain("abc", "", step, config=QUIET)

    assert seen == [("a", ""), ("b", "a"), ("c", "ab")]
    assert (result.final, result.steps, result.intermediate) == ("abc", 3, [])


async def test_intermediate_states_begin_with_the_initial_one():
    config = ChainConfig(capture_intermediate_states=True, observer="noop")
    assert (await process_chain([1, 2, 3], 0, add, config=config)).intermediate == [0, 1, 3, 6]
    assert (await process_chain([], 7, add, config=config)).intermediate == [7]


@pytest.mark.parametrize("items", [[], [1]])
async def test_a_chain_is_a_checkpoint_even_without_items(items):
    with assert_checkpoints():
        result = await process_chain(items, 5, add, config=QUIET)
    assert result.steps == len(items)


async def test_items_are_pulled_when_the_step_before_is_done():
    order = []

    def items():
        for number in range(3):
            order.append(f"pull {number}")
            yield number

    async def step(item, state):
        order.append(f"step {item}")
        return state

    await process_chain(items(), None, step, config=QUIET)
    assert order == ["pull 0", "step 0", "pull 1", "step 1", "pull 2", "step 2"]


async def test_items_may_be_async():
    async def items():
        for number in range(3):
            await trio.lowlevel.checkpoint()
            yield number

    assert (await process_chain(items(), 0, add, config=QUIET)).final == 3


async def test_an_async_source_may_hold_scopes_and_nurseries_open():
    async def items():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            with trio.CancelScope():
                for number in range(3):
                    yield number
            nursery.cancel_scope.cancel()

    assert (await process_chain(items(), 0, add, config=QUIET)).final == 3

    async def stop(item, state):
        raise ValueError("enough")

    with pytest.raises(ChainError):
        await process_chain(items(), 0, stop, config=QUIET)


async def test_a_failure_names_step_item_and_last_good_state():
    async def step(item, state):
        if item == "d":
            raise ValueError("boom\n")
        return [*state, item]

    with pytest.raises(ChainError) as caught:
        await process_chain("abcde", [], step, config=QUIET)

    error = caught.value
    assert (error.step_index, error.item, error.state) == (3, "d", ["a", "b", "c"])
    assert str(error) == r"chain failed at step 3: boom\n"
    assert isinstance(error.__cause__, ValueError)


def test_a_chain_error_pickles_with_its_cause():
    try:
        raise ChainError(3, "item", "state") from ValueError("boom")
    except ChainError as error:
        copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == "chain failed at step 3: boom"
    assert (copy.step_index, copy.item, copy.state) == (3, "item", "state")
    assert str(ChainError(0, None, None)) == "chain failed at step 0: no cause is known"


async def test_progress_is_told_after_each_step():
    told = []
    await process_chain([1, 2], 0, add, config=QUIET, progress=lambda *args: told.append(args))
    await process_chain(iter([5]), 0, add, config=QUIET, progress=lambda *args: told.append(args))
    assert told == [(1, 2, 1), (2, 2, 3), (1, None, 5)]


def broken(where):
    if where == "first":
        raise OSError("source")
    try:
        yield 1
        if where == "later":
            raise OSError("source")
        yield 2
    finally:
        if where == "closing":
            raise OSError("source")


async def broken_async(where):
    if where == "first":
        raise OSError("source")
    try:
        yield 1
        if where == "later":
            raise OSError("source")
        yield 2
    finally:
        if where == "closing":
            raise OSError("source")


@pytest.mark.parametrize("source", [broken, broken_async])
@pytest.mark.parametrize(("where", "pulled"), [("first", 0), ("later", 1), ("closing", 1)])
async def test_what_the_source_raises_comes_out_bare_with_a_note(source, where, pulled):
    async def step(item, state):
        if where == "closing":
            raise ValueError("step")
        return state

    with pytest.raises(OSError, match="source") as caught:
        await process_chain(source(where), 0, step, config=QUIET)
    assert caught.value.__notes__ == [f"raised by the source of items after {pulled} items pulled"]


@pytest.mark.parametrize("source", [broken, broken_async])
async def test_an_exit_beats_what_the_source_raises_when_it_is_closed(source):
    async def step(item, state):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await process_chain(source("closing"), 0, step, config=QUIET)


async def test_a_source_that_cannot_be_iterated_after_all_is_the_sources_fault():
    class Liar:
        def __iter__(self):
            raise OSError("no")

    with pytest.raises(OSError, match="no") as caught:
        await process_chain(Liar(), 0, add, config=QUIET)
    assert "source of items" in caught.value.__notes__[0]


async def test_what_progress_raises_comes_out_bare_with_a_note():
    def progress(completed, total, state):
        raise KeyError("told")

    with pytest.raises(KeyError) as caught:
        await process_chain([1], 0, add, config=QUIET, progress=progress)
    assert caught.value.__notes__ == ["raised by progress after 1 items pulled"]


@pytest.mark.parametrize("fails", [False, True])
async def test_generators_are_closed_on_every_way_out(fails):
    closed = []

    def plain():
        try:
            yield 1
            yield 2
        finally:
            closed.append("plain")

    async def source():
        try:
            yield 1
            yield 2
        finally:
            await trio.lowlevel.checkpoint()
            closed.append("async")

    class Iterable:
        def __iter__(self):
            return plain()

    async def step(item, state):
        if fails:
            raise ValueError
        return state

    for items in (plain(), source(), Iterable()):
        try:
            await process_chain(items, 0, step, config=QUIET)
        except ChainError:
            assert fails
    assert closed == ["plain", "async", "plain"]


async def test_closing_a_generator_that_hangs_has_a_deadline(autojump_clock):
    async def items():
        try:
            yield 1
        finally:
            with trio.CancelScope(shield=False):
                await trio.sleep_forever()

    async def step(item, state):
        raise ValueError

    started = trio.current_time()
    with pytest.raises(ChainError):
        await process_chain(items(), 0, step, config=QUIET)
    assert trio.current_time() - started == pytest.approx(CLOSE_DEADLINE)


async def test_closing_a_generator_is_shielded(autojump_clock):
    closed = []

    async def items():
        try:
            yield 1
        finally:
            await trio.sleep(1)
            closed.append(1)

    async def step(item, state):
        await trio.sleep_forever()

    with trio.move_on_after(3) as scope:
        await process_chain(items(), 0, step, config=QUIET)
    assert scope.cancelled_caught
    assert closed == [1]


async def test_an_iterator_that_is_no_generator_is_left_alone():
    numbers = iter([1, 2, 3])

    async def step(item, state):
        raise ValueError

    with pytest.raises(ChainError):
        await process_chain(numbers, 0, step, config=QUIET)
    assert next(numbers) == 2


async def test_a_step_is_retried_and_has_a_time_limit_for_each_attempt(autojump_clock):
    calls = []

    async def step(item, state):
        calls.append(trio.current_time())
        if len(calls) < 3:
            await trio.sleep_forever()
        return state + item

    observer = RecordingObserver()
    retry = RetryConfig(initial_delay=1, jitter=False)
    config = ChainConfig(task_timeout=2, retry=retry)
    result = await process_chain([5], 1, step, config=config, observer=observer)

    assert result.final == 6
    assert [call - calls[0] for call in calls] == [0, 3, 7]
    retries = [event.data for event in observer.events if event.type == EventType.TASK_RETRY]
    assert [(data["step_index"], data["attempt"], data["delay"]) for data in retries] == [(0, 1, 1), (0, 2, 2)]
    done = [event.data for event in observer.events if event.type == EventType.STEP_COMPLETE]
    assert done[0]["attempts"] == 3


async def test_attempts_of_a_retried_processor_are_told(autojump_clock):
    async def step(item, state):
        raise OSError("no")

    observer = RecordingObserver()
    with pytest.raises(ChainError, match="no"):
        await process_chain([1], 0, with_retry(step, RetryConfig(max_attempts=2)), observer=observer)
    assert [event.data["attempts"] for event in observer.events if event.type == "step.complete"] == [2]


async def test_lambdas_that_give_an_awaitable_serve_and_others_are_refused():
    assert (await process_chain([1], 1, lambda item, state: add(item, state), config=QUIET)).final == 2
    with pytest.raises(ConfigError, match="processor must be an async function, or a lambda that returns an awaitable"):
        await process_chain([1], 1, lambda item, state: state, config=QUIET)


@pytest.mark.parametrize("leave_scope", [False, True])
async def test_a_stale_cancelled_fails_the_step(stale, leave_scope):
    async def step(item, state):
        if item == 2:
            if leave_scope:
                trio.CancelScope().__enter__().cancel()
                await trio.lowlevel.checkpoint()
            raise stale
        return state + item

    with pytest.raises(ChainError) as caught:
        await process_chain([1, 2, 3], 0, step, config=QUIET)
    assert (caught.value.step_index, caught.value.item, caught.value.state) == (1, 2, 1)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert isinstance(caught.value.__cause__.__cause__, trio.Cancelled)


async def test_a_scope_left_open_does_not_harm_the_caller():
    async def step(item, state):
        trio.CancelScope().__enter__()
        return state

    assert (await process_chain([1], 0, step, config=QUIET)).steps == 1
    with trio.CancelScope() as scope:
        scope.cancel()
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_a_stale_cancelled_of_the_source_fails_the_chain(stale):
    def items():
        yield 1
        raise stale

    with pytest.raises(RuntimeError, match="the source of items") as caught:
        await process_chain(items(), 0, add, config=QUIET)
    assert not isinstance(caught.value, ChainError)


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(3)])
async def test_what_is_no_exception_comes_out_bare(raised):
    async def step(item, state):
        raise raised

    with pytest.raises(type(raised)) as caught:
        await process_chain([1], 0, step, config=QUIET)
    assert caught.value is raised


def test_ctrl_c_that_reaches_the_waiting_caller_comes_out_bare():
    async def step(item, state):
        await trio.to_thread.run_sync(os.kill, os.getpid(), signal.SIGINT)
        await trio.sleep_forever()

    async def main():
        await process_chain([1], 0, step, config=QUIET)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


async def test_a_group_that_a_step_raised_is_the_cause_as_it_is():
    async def step(item, state):
        raise ExceptionGroup("both", [ValueError(), KeyError()])

    with pytest.raises(ChainError) as caught:
        await process_chain([1], 0, step, config=QUIET)
    assert isinstance(caught.value.__cause__, ExceptionGroup)


async def test_cancellation_passes_through_and_tells_the_ends():
    observer = RecordingObserver()

    async def step(item, state):
        if item:
            await trio.sleep_forever()
        return state

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: process_chain([0, 1], 0, step, observer=observer))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert [(event.type.value, event.data.get("status")) for event in observer.events] == [
        ("chain.start", None),
        ("step.start", None),
        ("step.complete", "ok"),
        ("step.start", None),
        ("step.complete", "cancelled"),
        ("chain.complete", "cancelled"),
    ]


async def test_a_step_that_failed_beats_a_cancellation():
    with trio.CancelScope() as scope:

        async def step(item, state):
            scope.cancel()
            raise ValueError("first")

        with pytest.raises(ChainError):
            await process_chain([1], 0, step, config=QUIET)


async def test_a_chain_that_is_done_returns_though_it_is_cancelled_in_the_last_moment():
    with trio.CancelScope() as scope:

        async def step(item, state):
            scope.cancel()
            return "paid for"

        result = await process_chain([1], 0, step, config=QUIET)
    assert result.final == "paid for"


async def test_a_step_that_never_blocks_lets_others_run_and_can_be_cancelled():
    async def step(item, state):
        return state

    def forever():
        while True:
            yield 1

    with trio.move_on_after(0.05) as scope:
        await process_chain(forever(), 0, step, config=QUIET)
    assert scope.cancelled_caught


async def test_a_chain_tells_each_step_and_keeps_data_to_itself():
    observer = RecordingObserver()
    await process_chain([10, 20], 0, add, observer=observer, run_id="r1")
    assert {event.run_id for event in observer.events} == {"r1"}
    assert {event.source for event in observer.events} == {"chain"}
    start, first, *_, end = observer.events
    assert start.data == {
        "item_count": 2,
        "has_progress_callback": False,
        "captures_intermediate_states": False,
    }
    assert first.data == {"step_index": 0, "total_steps": 2}
    assert end.data["steps_completed"] == 2
    assert end.data["status"] == "ok"
    assert end.data["observer_failures"] == 0
    ends = [event.data for event in observer.events if event.type == "step.complete"]
    assert [(data["step_index"], data["attempts"]) for data in ends] == [(0, 1), (1, 1)]

    asking = RecordingObserver(include_data=True)
    await process_chain([10], 0, add, observer=asking)
    assert asking.events[2].data["item"] == 10
    assert asking.events[2].data["state"] == 10


async def test_a_failed_step_tells_its_cause_and_the_chain_its_own_error():
    async def step(item, state):
        raise ValueError("boom")

    observer = RecordingObserver()
    with pytest.raises(ChainError):
        await process_chain([1], 0, step, observer=observer)
    step_end, chain_end = observer.events[-2:]
    assert (step_end.type, step_end.data["error_type"], step_end.data["error_message"]) == ("step.complete", "ValueError", "boom")
    assert (chain_end.data["status"], chain_end.data["error_type"]) == ("error", "ChainError")


async def test_durations_are_trios(autojump_clock):
    async def step(item, state):
        await trio.sleep(item)

    observer = RecordingObserver()
    await process_chain([1, 2], 0, step, observer=observer)
    ends = [event.data["duration"] for event in observer.events if event.type.endswith("complete")]
    assert ends == [pytest.approx(1), pytest.approx(2), pytest.approx(3)]


async def test_a_default_chain_logs_two_lines(log):
    await process_chain([1, 2], 0, add)
    assert len(log.at("INFO")) == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"items": 5}, "items"),
        ({"processor": print}, "processor"),
        ({"config": {}}, "config"),
        ({"progress": 5}, "progress"),
        ({"observer": object()}, "observer"),
        ({"run_id": ""}, "run_id"),
        ({"store": "memory", "run_id": "r"}, "store"),
        ({"store": MemoryStore()}, "run_id"),
        ({"config": ChainConfig(checkpoint=CheckpointConfig(interval=1, store="no"))}, "store"),
        ({"config": ChainConfig(observer="nobody")}, "observer"),
    ],
)
async def test_bad_input_is_refused_before_any_step(changes, field):
    async def step(item, state):
        raise AssertionError("called")

    arguments = {"items": [1], "initial": 0, "processor": step, **changes}
    with pytest.raises(ConfigError) as caught:
        await process_chain(**arguments)
    assert caught.value.field == field


async def test_context_variables_that_a_step_sets_are_not_seen_by_the_next():
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable", default="unset")
    seen = []

    async def step(item, state):
        seen.append(variable.get())
        variable.set(f"set by {item}")
        return state

    await process_chain(range(3), 0, step, config=ChainConfig(observer="noop"))
    assert seen == ["unset"] * 3
