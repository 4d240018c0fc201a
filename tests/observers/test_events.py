"""What every event carries: its type, its run, the run around it, and where the user's code started it."""

import functools
import inspect

import msgspec
import pytest
import trio

from trioflow import (
    ConditionalConfig,
    Event,
    EventType,
    GraphConfig,
    NoopObserver,
    RecordingObserver,
    Routes,
    State,
    StateGraph,
    open_hub,
    open_parallel,
    process_chain,
    process_conditional,
    process_parallel,
    register_observer,
)
from trioflow._runtime import emitter as emitter_module
from trioflow._runtime.emitter import Emitter
from trioflow.events import Place
from trioflow.observers import registry

HERE = __file__


async def work(item):
    await trio.lowlevel.checkpoint()
    return item


async def step(item, state):
    return state + item


def test_custom_is_a_kind_of_event():
    assert EventType("custom") is EventType.CUSTOM


def test_parent_and_place_have_defaults_and_encode():
    event = Event(EventType.CUSTOM, 1.0, "parallel", "run", {"name": "x", "data": {}})
    assert (event.parent, event.place) == (None, None)
    full = Event(EventType.CUSTOM, 1.0, "parallel", "run", {}, "outer", Place("m", "m.py", "f", 3))
    assert msgspec.json.decode(msgspec.json.encode(full), type=Event) == full


def test_an_emitter_tells_the_run_around_it():
    heard = RecordingObserver()
    Emitter(heard, "parallel", "inner", parent="outer").emit(EventType.CUSTOM, {"name": "x", "data": {}})
    Emitter(heard, "parallel", "inner").emit(EventType.CUSTOM, {"name": "x", "data": {}})
    assert [event.parent for event in heard.events] == ["outer", None]


async def by_process(heard):
    await process_parallel([1], work, observer=heard)


async def by_stream(heard):
    async with open_parallel([1], work, observer=heard) as run:
        async for _ in run:
            pass


async def by_chain(heard):
    await process_chain([1], 0, step, observer=heard)


async def by_routing(heard):
    register_observer("heard", heard)
    await process_conditional("x", lambda _: "a", Routes({"a": work}), config=ConditionalConfig(observer="heard"))


async def by_graph(heard):
    register_observer("heard", heard)
    graph = StateGraph(GraphConfig(name="g", observer="heard"))
    graph.add_node("only", work)
    graph.set_entry_point("only")
    graph.set_exit_point("only")
    await graph.execute(State())


async def by_hub(heard):
    async with open_hub(observer=heard) as hub:
        hub.register("a", work)
        await hub.send("b", "a", 1)


@pytest.fixture(autouse=True)
def _names(monkeypatch):
    monkeypatch.setattr(registry, "_observers", {})


@pytest.mark.parametrize("way", [by_process, by_stream, by_chain, by_routing, by_graph, by_hub])
async def test_events_name_the_line_of_the_user_that_started_the_run(way):
    heard = RecordingObserver()
    await way(heard)
    places = {event.place for event in heard.events}
    (place,) = places
    first = inspect.getsourcelines(way)[1]
    assert (place.module, place.file, place.function) == (__name__, HERE, way.__name__)
    assert first < place.line <= first + 6


async def test_a_run_inside_a_run_names_the_line_of_the_processor_that_started_it():
    heard = RecordingObserver()

    async def outer(item):
        return await process_parallel([item], work, observer=heard)

    await process_parallel([1], outer, observer=NoopObserver())
    assert {event.place.function for event in heard.events} == {"outer"}


async def test_a_run_that_trio_started_has_no_place():
    heard = RecordingObserver()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(process_parallel, [1], work, observer=heard))
    assert {event.place for event in heard.events} == {None}


async def test_no_place_is_looked_for_where_nobody_listens(monkeypatch):
    def refuse():
        raise AssertionError("looked")

    monkeypatch.setattr(emitter_module, "find_caller", refuse)
    await process_parallel([1], work, observer=NoopObserver())
