"""Conditional routing: a predicate names a route, and three things that can go wrong are told apart."""

import enum
import functools
import pickle

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trioflow import (
    ConditionalConfig,
    ConditionalError,
    ConfigError,
    RecordingObserver,
    Routes,
    process_conditional,
)

QUIET = ConditionalConfig(observer="noop")


async def double(state):
    return state * 2


async def negate(state):
    return -state


ROUTES = Routes({"double": double, "negate": negate})


async def choose(state, predicate, routes=ROUTES, **options):
    return await process_conditional(state, predicate, routes, config=QUIET, **options)


async def test_the_predicate_may_be_plain_or_async_and_names_the_handler():
    async def ask(state):
        await trio.lowlevel.checkpoint()
        return "negate"

    assert await choose(3, lambda state: "double") == 6
    assert await choose(3, ask) == -3
    assert await choose(3, functools.partial(ask)) == -3
    assert await choose(3, lambda state: ask(state)) == -3


async def test_routes_may_have_any_names_that_can_be_hashed():
    class Colour(enum.Enum):
        RED = 1

    assert await choose(3, lambda state: Colour.RED, Routes({Colour.RED: double})) == 6
    assert await choose(3, lambda state: True, Routes({True: negate})) == -3


async def test_routing_is_a_checkpoint():
    with assert_checkpoints():
        await choose(3, lambda state: "double")


async def test_a_predicate_that_raises_leaves_no_route():
    def fails(state):
        raise ValueError("boom")

    with pytest.raises(ConditionalError) as caught:
        await choose(3, fails)
    assert (caught.value.route, caught.value.state, caught.value.kind) == (None, 3, "predicate")
    assert str(caught.value) == "conditional routing failed: boom"
    assert isinstance(caught.value.__cause__, ValueError)


async def test_an_unknown_route_names_the_known_ones_and_near_misses():
    with pytest.raises(ConditionalError) as caught:
        await choose(3, lambda state: "doubel")
    assert (caught.value.route, caught.value.kind) == ("doubel", "route")
    assert str(caught.value) == (
        "conditional routing failed for route 'doubel': "
        "unknown route 'doubel' (did you mean 'double'? known: 'double', 'negate')"
    )
    assert isinstance(caught.value.__cause__, LookupError)


async def test_many_known_routes_are_not_all_named():
    with pytest.raises(ConditionalError, match=r"'r9' and 2 more\)"):
        await choose(3, lambda state: "x", Routes({f"r{n}": double for n in range(12)}))


async def test_a_handler_that_raises_leaves_its_route():
    async def fails(state):
        raise ValueError("boom")

    with pytest.raises(ConditionalError) as caught:
        await choose(3, lambda state: "x\n", Routes({"x\n": fails}))
    assert (caught.value.route, caught.value.kind) == ("x\n", "handler")
    assert str(caught.value) == r"conditional routing failed for route 'x\n': boom"


async def test_the_default_serves_unknown_names_only():
    routes = Routes({"double": double}, negate)
    assert await choose(3, lambda state: "other", routes) == -3
    assert await choose(3, lambda state: "double", routes) == 6

    def fails(state):
        raise ValueError("boom")

    with pytest.raises(ConditionalError):
        await choose(3, fails, routes)
    with pytest.raises(ConditionalError, match="unhashable") as caught:
        await choose(3, lambda state: ["double"], routes)
    assert caught.value.route == ["double"]
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_conditional_error_pickles_with_its_cause():
    try:
        raise ConditionalError("x", 3) from ValueError("boom")
    except ConditionalError as error:
        copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == "conditional routing failed for route 'x': boom"


@pytest.mark.parametrize("leave_scope", [False, True])
@pytest.mark.parametrize("where", ["predicate", "handler"])
async def test_a_stale_cancelled_is_a_failure(stale, where, leave_scope):
    async def fails(state):
        if leave_scope:
            trio.CancelScope().__enter__().cancel()
            await trio.lowlevel.checkpoint()
        raise stale

    predicate = fails if where == "predicate" else lambda state: "x"
    with pytest.raises(ConditionalError, match=where) as caught:
        await choose(3, predicate, Routes({"x": fails}))
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("where", ["predicate", "handler"])
async def test_what_is_no_exception_comes_out_bare(where):
    async def fails(state):
        raise SystemExit(3)

    predicate = fails if where == "predicate" else lambda state: "x"
    with pytest.raises(SystemExit):
        await choose(3, predicate, Routes({"x": fails}))


async def test_a_result_is_returned_though_cancelled_in_the_last_moment():
    with trio.CancelScope() as scope:

        async def handler(state):
            scope.cancel()
            return "paid for"

        assert await choose(3, lambda state: "x", Routes({"x": handler})) == "paid for"


def told(observer):
    return [(event.type.value, event.data["route"], event.data["status"]) for event in observer.events]


async def test_each_part_is_told():
    observer = RecordingObserver(include_data=True)
    await process_conditional(3, lambda state: "double", ROUTES, observer=observer)
    assert told(observer) == [
        ("route.evaluate", "double", "ok"),
        ("route.select", "double", "ok"),
        ("route.execute", "double", "ok"),
    ]
    assert observer.events[1].data["default"] is False
    assert observer.events[2].data["state"] == 3
    assert {event.source for event in observer.events} == {"conditional"}
    observer.clear()
    await process_conditional(3, lambda state: ("a", 1), Routes({}, double), observer=observer)
    assert observer.events[1].data["default"] is True
    assert observer.events[1].data["route"] == "('a', 1)"


@pytest.mark.parametrize("part", ["route.evaluate", "route.select", "route.execute"])
async def test_the_part_that_fails_is_told_as_an_error(part, log):
    async def fails(state):
        raise ValueError("boom")

    observer = RecordingObserver()
    predicate = fails if part == "route.evaluate" else lambda state: "x" if part == "route.execute" else "y"
    for options in ({"observer": observer}, {}):
        with pytest.raises(ConditionalError):
            await process_conditional(3, predicate, Routes({"x": fails}), **options)
    last = observer.events[-1]
    assert last.type == part
    assert last.data["error"] is True
    assert last.data.get("default", False) is False
    assert last.data["error_type"] == ("LookupError" if part == "route.select" else "ValueError")
    assert len(log.at("WARNING")) == 1


async def test_a_cancelled_handler_is_told_as_cancelled():
    observer = RecordingObserver()

    async def handler(state):
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: process_conditional(3, lambda state: "x", Routes({"x": handler}), observer=observer)
        )
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert told(observer)[-1] == ("route.execute", "x", "cancelled")


async def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match=r"handlers\['x'\] must be an async function"):
        Routes({"x": print})
    with pytest.raises(ConfigError, match="default must be"):
        Routes({}, print)
    with pytest.raises(ConfigError, match="handlers must be a mapping with a handler"):
        Routes({})
    with pytest.raises(ConfigError, match="handlers must be a Mapping"):
        Routes([double])
    with pytest.raises(ConfigError, match="predicate must be"):
        await choose(3, "double")
    with pytest.raises(ConfigError, match="routes must be a Routes"):
        await choose(3, double, {"x": double})
    with pytest.raises(ConfigError, match="config must be"):
        await process_conditional(3, double, ROUTES, config=None)
    with pytest.raises(ConfigError, match="handler of route 'x' must be an async function"):
        await choose(3, lambda state: "x", Routes({"x": lambda state: state}))


def test_routes_cannot_be_changed_from_outside():
    handlers = {"x": double}
    routes = Routes(handlers)
    handlers["y"] = negate
    assert set(routes.handlers) == {"x"}
    with pytest.raises(TypeError):
        routes.handlers["y"] = negate
    assert repr(Routes({"x": double}, negate)) == "<Routes 'x', and a default>"
