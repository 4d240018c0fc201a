"""What agent programs hold, kept by each kind of run: equal and of the same types, or refused with the way out."""

import dataclasses
import datetime as dt
import enum
from collections import Counter
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
import trio

from trioflow import (
    ChainConfig,
    ChainError,
    CheckpointConfig,
    CheckpointEncodeError,
    CheckpointMismatchError,
    ConfigError,
    ExecutionError,
    GraphConfig,
    ParallelConfig,
    ParallelError,
    State,
    StateGraph,
    process_chain,
    process_parallel,
)

pydantic = pytest.importorskip("pydantic", reason="its models are what is kept: tests group")


class Mood(enum.Enum):
    CALM = "calm"
    CROSS = "cross"


class Rank(enum.IntEnum):
    LOW = 1


class Source(pydantic.BaseModel):
    url: str
    read_at: dt.datetime
    tags: frozenset[str] = frozenset()


class Finding(pydantic.BaseModel):
    """A model with models, sets, tuples and enums in it."""

    text: str
    mood: Mood = Mood.CALM
    sources: list[Source] = pydantic.Field(default_factory=list)
    span: tuple[int, int] = (0, 0)
    by_rank: dict[Rank, set[str]] = pydantic.Field(default_factory=dict)


class TextPart(pydantic.BaseModel):
    type: Literal["text"] = "text"
    text: str


class ToolPart(pydantic.BaseModel):
    type: Literal["tool"] = "tool"
    arguments: dict[str, Any]


Part = Annotated[TextPart | ToolPart, pydantic.Field(discriminator="type")]


class Turn(TypedDict):
    role: Literal["user", "assistant"]
    at: dt.datetime
    seen: set[Mood]
    finding: Finding | None


class Pair(NamedTuple):
    left: int
    right: Mood


@dataclasses.dataclass(frozen=True)
class Score:
    value: float
    parts: tuple[Pair, ...] = ()
    finding: Finding | None = None


class Report(msgspec.Struct, frozen=True):
    """A struct with all of them."""

    id: UUID
    took: dt.timedelta
    score: Score
    turns: list[Turn]
    moods: frozenset[Mood] = frozenset()


NOW = dt.datetime(2026, 5, 4, 3, 2, 1, 500, tzinfo=dt.timezone(dt.timedelta(hours=2)))
FINDING = Finding(
    text="cats sleep",
    mood=Mood.CROSS,
    sources=[Source(url="http://a/", read_at=NOW, tags={"x", "y"})],
    span=(1, 2),
    by_rank={Rank.LOW: {"a", "b"}},
)
TURN: Turn = {"role": "user", "at": NOW, "seen": {Mood.CALM, Mood.CROSS}, "finding": FINDING}
SCORE = Score(0.5, (Pair(1, Mood.CALM),), FINDING)
REPORT = Report(UUID(int=7), dt.timedelta(seconds=1.5), SCORE, [TURN], frozenset({Mood.CALM}))

RESULTS = [
    (Finding, FINDING), (list[Finding], [FINDING, Finding(text="")]), (Finding | None, None), (Part, ToolPart(arguments={"q": [1]})), (list[Part], [TextPart(text="a"), ToolPart(arguments={})]),
    (Turn, TURN), (Pair, Pair(1, Mood.CROSS)), (tuple[int, Mood], (1, Mood.CALM)), (tuple[Finding, ...], (FINDING,)), (set[Rank], {Rank.LOW}), (frozenset[dt.date], frozenset({NOW.date()})),
    (Mood, Mood.CALM), (dt.datetime, NOW), (dt.datetime, NOW.replace(tzinfo=None)), (dict[UUID, Mood], {UUID(int=1): Mood.CALM}), (Score, SCORE), (Report, REPORT), (dict[str, Report], {"a": REPORT}),
]  # fmt: skip
STATES = [FINDING, SCORE, REPORT]


def types_in(value: Any) -> Any:
    """The types of a value and of all its parts, in one order."""
    match value:
        case dict():
            parts = [*value.keys(), *value.values()]
        case list() | tuple():
            parts = list(value)
        case set() | frozenset():
            parts = sorted(value, key=repr)
        case msgspec.Struct():
            parts = [getattr(value, name) for name in value.__struct_fields__]
        case pydantic.BaseModel():
            parts = [getattr(value, name) for name in type(value).model_fields]
        case _ if dataclasses.is_dataclass(value):
            parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
        case _:
            parts = []
    return (type(value), [types_in(part) for part in parts])


@pytest.fixture
def store(tmp_path) -> CheckpointConfig:
    return CheckpointConfig(store=f"sqlite:///{tmp_path}/runs.db", preserve=True)


@pytest.mark.parametrize(("kind", "value"), RESULTS, ids=[str(value)[:25] for _, value in RESULTS])
async def test_results_of_a_fan_out_come_back_as_they_were(kind, value, store):
    async def produce(item):
        await trio.lowlevel.checkpoint()
        calls.append(item)
        return value

    calls: list[int] = []
    config = ParallelConfig(checkpoint=store, observer="noop")
    for _ in range(2):
        result = await process_parallel([1, 2], produce, config=config, run_id="r", result_type=kind)
        assert result.results == [value, value]
        assert [types_in(kept) for kept in result.results] == [types_in(value)] * 2
    assert sorted(calls) == [1, 2]


@pytest.mark.parametrize("value", [value for _, value in RESULTS if value is not None], ids=[str(value)[:25] for _, value in RESULTS if value is not None])
async def test_items_of_any_type_are_known_again_and_others_are_refused(value, store):
    async def count(item):
        await trio.lowlevel.checkpoint()
        calls.append(item)
        return 1

    calls: list[Any] = []
    config = ParallelConfig(checkpoint=store, observer="noop")
    for _ in range(2):
        assert (await process_parallel([value, "x"], count, config=config, run_id="r")).results == [1, 1]
    assert len(calls) == 2
    with pytest.raises(CheckpointMismatchError):
        await process_parallel(["y", "x"], count, config=config, run_id="r")


async def test_what_is_given_no_type_is_refused_with_place_type_and_way_out(store):
    async def produce(item):
        await trio.lowlevel.checkpoint()
        return item

    config = ParallelConfig(checkpoint=store, fail_fast=False, observer="noop")
    lossy = {"a": [1, {"b": (1, 2)}]}
    items = [FINDING, TURN, {Mood.CALM: 1}, (1,), {1}, Mood.CALM, NOW, SCORE, REPORT, Counter("a"), lossy, "plain"]
    result = await process_parallel(items, produce, config=config, run_id="r", key=lambda item: f"{items.index(item)}")
    assert result.results == ["plain"]
    assert [failed.item for failed in result.errors] == items[:-1]
    for failed in result.errors:
        assert isinstance(failed.error, CheckpointEncodeError)
        assert "give result_type=" in str(failed.error)
        assert "model_dump()" in str(failed.error)
        assert failed.error.value is failed.item  # it was paid for
    messages = [str(failed.error) for failed in result.errors]
    assert "the Finding:" in messages[0]
    assert "the set at ['seen']" in messages[1] or "the datetime at ['at']" in messages[1]
    assert "the tuple at ['a'][1]['b']" in messages[10]


@pytest.mark.parametrize("state", [*STATES, {"a", "b"}, (1, "a"), NOW, Mood.CROSS], ids=lambda state: type(state).__name__)
async def test_a_chain_goes_on_with_a_state_as_it_was(state, store):
    async def step(item, before):
        await trio.lowlevel.checkpoint()
        if item == "fails" and not went_on:
            raise ConnectionError
        given.append(before)
        return before

    given: list[Any] = []
    went_on: list[bool] = []
    config = ChainConfig(checkpoint=store, observer="noop")
    with pytest.raises(ChainError):
        await process_chain(["a", "fails"], state, step, config=config, run_id="c")
    went_on.append(True)
    result = await process_chain(["a", "fails"], state, step, config=config, run_id="c")
    assert result.final == state
    assert types_in(result.final) == types_in(given[1]) == types_in(state)
    assert len(given) == 2


async def test_a_chain_refuses_what_its_first_state_does_not_say(store):
    async def step(item, before):
        await trio.lowlevel.checkpoint()
        return [*before, FINDING]

    config = ChainConfig(checkpoint=store, observer="noop")
    with pytest.raises(CheckpointEncodeError, match=r"the Finding at \[0\]: .*start with a state of a type that has it"):
        await process_chain(["a"], [], step, config=config, run_id="c")


def make_graph(state_type, store, *, broken: list[bool]):
    graph = StateGraph(GraphConfig(name="kept", checkpoint=store, observer="noop"), state_type=state_type)

    @graph.node
    async def first(state):
        await trio.lowlevel.checkpoint()
        return state

    @graph.node
    async def second(state):
        await trio.lowlevel.checkpoint()
        if broken:
            raise ConnectionError
        return state

    graph.add_edge("first", "second")
    graph.set_entry_point("first")
    graph.set_exit_point("second")
    return graph


@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
async def test_a_graph_goes_on_with_a_state_as_it_was(state, store):
    with pytest.raises(ExecutionError):
        await make_graph(type(state), store, broken=[True]).execute(state, run_id="g")
    result = await make_graph(type(state), store, broken=[]).resume("g")
    assert result.path == ["second"]
    assert result.state == state
    assert types_in(result.state) == types_in(state)


async def test_a_loose_state_refuses_what_it_would_change(store):
    graph = make_graph(State, store, broken=[])
    with pytest.raises(CheckpointEncodeError, match=r"the set at \['seen'\]: .*give state_type=.*model_dump"):
        await graph.execute(State(seen={1}), run_id="g")
    with pytest.raises(CheckpointEncodeError, match=r"the Finding at \['all'\]\[0\]"):
        await graph.execute(State(all=[FINDING]), run_id="h")


async def test_a_type_that_cannot_be_read_back_is_refused_before_work_starts(store):
    async def never(item):
        raise AssertionError("was called")

    for kind in (set[int] | list[int], Report | Finding):
        with pytest.raises(ConfigError, match="result_type must be a type that can be decoded"):
            await process_parallel([1], never, config=ParallelConfig(checkpoint=store), run_id="r", result_type=kind)


async def test_what_is_of_another_type_than_was_given_is_refused_and_not_lost(store):
    async def produce(item):
        await trio.lowlevel.checkpoint()
        return item

    config = ParallelConfig(checkpoint=store, observer="noop")
    with pytest.raises(ParallelError) as refused:
        await process_parallel([Source(url="", read_at=NOW)], produce, config=config, run_id="r", result_type=Finding)
    (failed,) = refused.value.errors
    assert isinstance(failed.error, CheckpointEncodeError)
    assert failed.error.value == failed.item
