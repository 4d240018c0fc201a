"""Ask several agents at once: answers in their order, failures beside them."""

import gc
import weakref

import pytest
import trio
from trio.testing import assert_checkpoints

from trioflow import (
    ConfigError,
    HandlerError,
    HubClosedError,
    RequestTimeoutError,
    UnknownAgentError,
    gather_requests,
)


async def answer(message):
    await trio.sleep({"slow": 3, "quick": 1}.get(message.recipient, 2))
    if message.recipient == "broken":
        raise ValueError("no idea")
    if message.recipient == "silent":
        await trio.sleep(60)
    return f"{message.recipient} says {message.data}"


async def test_answers_come_in_order_with_the_failures_beside_them(opened, autojump_clock):
    names = ["slow", "broken", "nobody", "quick", "silent", "slow"]
    async with opened() as hub:
        for name in set(names) - {"nobody"}:
            hub.register(name, answer)
        result = await gather_requests(hub, "user", names, "yes", timeout=5)
        assert trio.current_time() == 5
    assert [reply.data for reply in result.results] == ["slow says yes", "quick says yes", "slow says yes"]
    assert (result.indices, result.unfinished, result.total) == ([0, 3, 5], [], 6)
    told = [(error.index, error.item, type(error.error), error.attempts) for error in result.errors]
    assert told == [
        (1, "broken", HandlerError, 1), (2, "nobody", UnknownAgentError, 1), (4, "silent", RequestTimeoutError, 1)
    ]  # fmt: skip


async def test_nobody_is_asked(opened):
    async with opened() as hub:
        with assert_checkpoints():
            result = await gather_requests(hub, "user", [], "yes")
        assert (result.results, result.errors, result.total) == ([], [], 0)


async def test_a_cancellation_withdraws_what_was_not_answered(opened, inbox, autojump_clock):
    inbox.close()
    async with opened(max_handlers=1) as hub:
        hub.register("planner", inbox)
        with trio.move_on_after(1) as scope:
            await gather_requests(hub, "user", ["planner"] * 4)
        assert scope.cancelled_caught
        assert (hub.metrics().dropped, hub.metrics().pending) == (3, 0)
        inbox.gate.set()
    assert len(inbox) == 1


async def test_what_is_refused(opened, inbox):
    async with opened() as hub:
        hub.register("planner", inbox)
        for field, arguments in (
            ("hub", ("hub", "user", ["planner"])), ("sender", (hub, "", ["planner"])),
            ("recipients", (hub, "user", "planner")), ("recipients", (hub, "user", 3)),
        ):  # fmt: skip
            with assert_checkpoints(), pytest.raises(ConfigError, match=f"{field} must be"):
                await gather_requests(*arguments)
        with assert_checkpoints(), pytest.raises(ConfigError, match="timeout must be"):
            await gather_requests(hub, "user", [], timeout=-1)
    with assert_checkpoints(), pytest.raises(HubClosedError):
        await gather_requests(hub, "user", [])
    assert inbox == []


async def test_errors_are_free_of_cycles(opened):
    async with opened() as hub:
        result = await gather_requests(hub, "user", ["nobody"] * 3)
        gone = weakref.ref(result.errors[0].error)
        gc.disable()
        try:
            del result
            assert gone() is None
        finally:
            gc.enable()
