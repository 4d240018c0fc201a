"""Chains that are kept: they go on after the last step that was saved."""

import enum
from datetime import datetime

import msgspec
import pytest
import trio

from trioflow import (
    ChainConfig,
    ChainError,
    CheckpointConfig,
    CheckpointEncodeError,
    CheckpointMismatchError,
    RecordingObserver,
    State,
    process_chain,
)

pydantic = pytest.importorskip("pydantic")


def config(**settings):
    checkpoint = CheckpointConfig(**{"interval": 1, "preserve": True, **settings})
    return ChainConfig(observer="noop", checkpoint=checkpoint)


class Steps(list):
    def __init__(self):
        super().__init__()
        self.failing = set()

    async def __call__(self, item, state):
        self.append(item)
        await trio.lowlevel.checkpoint()
        if item in self.failing:
            raise ValueError(f"{item} is down")
        return [*state, item]


@pytest.fixture
def steps():
    return Steps()


@pytest.mark.parametrize(("at", "interval"), [("step.complete", 1), ("step.complete", 5), ("checkpoint.save", 1)])
async def test_a_step_after_which_an_observer_stops_the_chain_is_not_made_again(store, steps, at, interval):
    class Stopping(RecordingObserver):
        def on_event(self, event):
            super().on_event(event)
            if event.type == at and len(steps) == 3:
                raise SystemExit(3)

    stopping, settings = Stopping(), config(interval=interval)
    with pytest.raises(SystemExit):
        await process_chain(range(6), [], steps, config=settings, store=store, run_id="c", observer=stopping)
    kept = await store.load("c")
    assert (kept.status, kept.step) == ("failed", 3)
    assert stopping.events[-1].type == "chain.complete"
    assert stopping.events[-1].data["steps_completed"] == 3
    result = await process_chain(range(6), [], steps, config=settings, store=store, run_id="c")
    assert result.final == steps == [0, 1, 2, 3, 4, 5]


async def test_an_observer_that_stops_a_failing_chain_hides_no_end(store, steps):
    class Stopping(RecordingObserver):
        def on_event(self, event):
            super().on_event(event)
            if event.type == "step.complete" and event.data["status"] == "error":
                raise SystemExit(3)

    steps.failing, stopping = {3}, Stopping()
    with pytest.raises(SystemExit):
        await process_chain(range(6), [], steps, config=config(), store=store, run_id="c", observer=stopping)
    kept = await store.load("c")
    assert (kept.status, kept.step) == ("failed", 3)
    assert stopping.events[-1].type == "chain.complete"


async def test_a_failed_chain_goes_on_at_the_step_that_failed(store, steps):
    steps.failing = {3}
    with pytest.raises(ChainError, match="step 3: 3 is down") as caught:
        await process_chain(range(6), [], steps, config=config(), store=store, run_id="c")
    assert caught.value.state == [0, 1, 2]
    steps.failing = set()
    steps.clear()
    told = []
    result = await process_chain(
        range(6), [], steps, config=config(), store=store, run_id="c", progress=lambda *args: told.append(args[:2])
    )
    assert steps == [3, 4, 5]
    assert (result.final, result.steps) == ([0, 1, 2, 3, 4, 5], 6)
    assert told == [(4, 6), (5, 6), (6, 6)]


async def test_a_finished_chain_that_is_kept_runs_nothing(store, steps):
    first = await process_chain(range(3), [], steps, config=config(), store=store, run_id="c")
    steps.clear()
    assert await process_chain(range(3), [], steps, config=config(), store=store, run_id="c") == first
    assert steps == []


async def test_a_finished_chain_is_forgotten_unless_it_is_to_be_kept(store, steps):
    await process_chain(range(3), [], steps, config=config(preserve=False), store=store, run_id="c")
    assert list(await store.list_runs()) == []


async def test_a_cancelled_chain_goes_on_where_it_was(store):
    made = []

    async def step(item, state):
        made.append(item)
        if item == 2 and made.count(2) == 1:
            scope.cancel()
            await trio.sleep_forever()
        return state + item

    with trio.CancelScope() as scope:
        await process_chain(range(4), 0, step, config=config(interval=100), store=store, run_id="c")
    assert scope.cancelled_caught
    assert (await process_chain(range(4), 0, step, config=config(), store=store, run_id="c")).final == 6
    assert made == [0, 1, 2, 2, 3]


@pytest.mark.parametrize("items", [[0, 1, 9, 3], [0, 1], []])
async def test_other_items_are_refused_before_any_step(store, steps, items):
    steps.failing = {3}
    with pytest.raises(ChainError):
        await process_chain(range(6), [], steps, config=config(), store=store, run_id="c")
    steps.clear()
    with pytest.raises(CheckpointMismatchError, match="the items of chain 'c' are not those"):
        await process_chain(items, [], steps, config=config(), store=store, run_id="c")
    assert steps == []


async def test_a_run_that_is_no_chain_is_refused(store, steps):
    from trioflow import GraphConfig, StateGraph, pause

    async def node(state):
        pause()

    graph = StateGraph(GraphConfig(name="g", observer="noop"), store=store)
    graph.add_node("node", node)
    graph.set_entry_point("node")
    graph.set_exit_point("node")
    await graph.execute(State(), run_id="c")
    with pytest.raises(CheckpointMismatchError, match="is a run of 'g', not a chain"):
        await process_chain(range(3), [], steps, config=config(), store=store, run_id="c")
    await process_chain(range(3), [], steps, config=config(), store=store, run_id="d")
    with pytest.raises(CheckpointMismatchError, match="is a run of 'a chain'"):
        await graph.resume("d")


class Level(enum.IntEnum):
    LOW = 1


class Mixed(enum.Enum):
    TEXT = "a"
    NUMBER = 1


class Typed(msgspec.Struct):
    words: tuple[str, ...] = ()


class Model(pydantic.BaseModel):
    seen: set[str] = pydantic.Field(default_factory=set)


STATES = [
    State(n=0), Typed(("a",)), {"n": 0}, "text", 5, None, Model(seen={"a"}), (1, "a"), {1, 2}, frozenset({"a"}), Level.LOW,
    datetime.fromisoformat("2026-01-01"),
]  # fmt: skip


@pytest.mark.parametrize("initial", STATES, ids=lambda value: type(value).__name__)
async def test_states_come_back_as_their_type(store, initial):
    fail = [True]

    async def step(item, state):
        if item == 1 and fail[0]:
            raise ValueError
        return state

    with pytest.raises(ChainError):
        await process_chain([0, 1], initial, step, config=config(), store=store, run_id="c")
    fail[0] = False
    result = await process_chain([0, 1], initial, step, config=config(), store=store, run_id="c")
    assert result.final == initial
    assert type(result.final) is type(initial)


async def test_a_state_that_cannot_be_kept_is_refused(store):
    async def step(item, state):
        return {item}

    with pytest.raises(CheckpointEncodeError, match="the state cannot be saved: the set: .*start with a state of a type that has it"):
        await process_chain([1], [], step, config=config(), store=store, run_id="c")


async def test_a_first_state_of_a_type_without_a_form_is_refused(store):
    async def step(item, state):
        return state

    for number, initial in enumerate((object(), Mixed.TEXT, (1, {2}))):
        with pytest.raises(CheckpointEncodeError, match="the state cannot be saved"):
            await process_chain([1], initial, step, config=config(), store=store, run_id=f"c{number}")


async def test_events_tell_what_is_kept(store, steps):
    observer = RecordingObserver()
    steps.failing = {1}
    with pytest.raises(ChainError):
        await process_chain(range(3), [], steps, config=config(), store=store, run_id="c", observer=observer)
    saved = [(e.data["step"], e.data["run_status"]) for e in observer.events if e.type == "checkpoint.save"]
    assert saved == [(0, "running"), (1, "running"), (1, "failed")]
    observer.clear()
    steps.failing = set()
    await process_chain(range(3), [], steps, config=config(), store=store, run_id="c", observer=observer)
    types = [event.type.value for event in observer.events]
    assert types[:3] == ["checkpoint.load", "checkpoint.resume", "chain.start"]


async def test_captured_states_begin_where_the_chain_goes_on(store, steps):
    capturing = ChainConfig(
        observer="noop", capture_intermediate_states=True, checkpoint=CheckpointConfig(interval=1)
    )
    steps.failing = {1}
    with pytest.raises(ChainError):
        await process_chain(range(3), [], steps, config=capturing, store=store, run_id="c")
    steps.failing = set()
    result = await process_chain(range(3), [], steps, config=capturing, store=store, run_id="c")
    assert result.intermediate == [[0], [0, 1], [0, 1, 2]]


@pytest.mark.parametrize("items", [[0, 1], [0, 1, 9], [0, 1, 2, 3], []])
async def test_a_finished_chain_that_is_kept_knows_its_items(store, steps, items):
    await process_chain(range(3), [], steps, config=config(), store=store, run_id="c")
    with pytest.raises(CheckpointMismatchError, match="the items of chain 'c' are not those"):
        await process_chain(items, [], steps, config=config(), store=store, run_id="c")
    assert steps == [0, 1, 2]


async def test_wrong_items_take_nothing_from_whoever_makes_the_chain(store):
    entered, go_on = trio.Event(), trio.Event()

    async def step(item, state):
        if item == 1:
            entered.set()
            await go_on.wait()
        return state + item

    results = []

    async def healthy():
        results.append(await process_chain([0, 1, 2], 0, step, config=config(), store=store, run_id="c"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(healthy)
        await entered.wait()
        with pytest.raises(CheckpointMismatchError):
            await process_chain([7, 8], 0, step, config=config(), store=store, run_id="c")
        go_on.set()
    assert results[0].final == 3


async def test_a_chain_that_somebody_else_went_on_with_meanwhile_goes_on_after_their_steps(steps):
    from trioflow import MemoryStore

    class Overtaken:
        def __init__(self):
            self.inner = MemoryStore()
            self.at_claim = None

        def __getattr__(self, name):
            return getattr(self.inner, name)

        async def claim(self, run_id, *, parent=None):
            if self.at_claim is not None:
                work, self.at_claim = self.at_claim, None
                await work()
            return await self.inner.claim(run_id, parent=parent)

    store = Overtaken()
    steps.failing = {1}
    with pytest.raises(ChainError):
        await process_chain(range(4), [], steps, config=config(), store=store, run_id="c")
    steps.failing = {3}
    steps.clear()

    async def others():
        with pytest.raises(ChainError):
            await process_chain(range(4), [], steps, config=config(), store=store.inner, run_id="c")
        assert steps == [1, 2, 3]
        steps.failing = set()
        steps.clear()

    store.at_claim = others
    result = await process_chain(range(4), [], steps, config=config(), store=store, run_id="c")
    assert (result.final, steps) == ([0, 1, 2, 3], [3])


async def test_passing_over_many_steps_lets_others_run(store):
    async def step(item, state):
        if item == 2_000:
            raise ValueError
        return state

    with pytest.raises(ChainError):
        await process_chain(range(3_000), 0, step, config=config(interval=1_000_000), store=store, run_id="c")
    turns = [0]

    async def count():
        while True:
            turns[0] += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        with pytest.raises(ChainError):
            await process_chain(range(3_000), 0, step, config=config(), store=store, run_id="c")
        nursery.cancel_scope.cancel()
    assert turns[0] >= 7


async def test_a_chain_is_written_when_it_begins(store):
    async def step(item, state):
        [run] = await store.list_runs()
        assert (run.run_id, run.kind, run.status, run.step) == ("c", "chain", "running", 0)
        return state

    await process_chain([1], 0, step, config=config(), store=store, run_id="c")
