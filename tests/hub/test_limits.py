"""Limits of agents: how long a message waits, what a burst leaves behind, how an agent retires."""

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trioflow import (
    AgentGoneError,
    ConfigError,
    HubClosedError,
    MailboxFullError,
    Priority,
    UnknownAgentError,
)
from trioflow.hub._reaper import IDLE_SECONDS


def workers(hub):
    return [task for task in hub._state.nursery.child_tasks if task.name.startswith("trioflow agent")]


# An agent's own limits.


async def test_an_agent_has_limits_of_its_own(opened, inbox):
    inbox.close()
    async with opened(max_handlers=1, buffer=1, overflow="error") as hub:
        hub.register("wide", inbox, max_handlers=3, buffer=2)
        for number in range(5):
            await hub.send("user", "wide", number)
        with pytest.raises(MailboxFullError, match=r"it holds 2 messages \(buffer\)"):
            await hub.send("user", "wide")
        hub.register("narrow", inbox)
        for number in range(2):
            await hub.send("user", "narrow", number)
        with pytest.raises(MailboxFullError, match=r"it holds 1 messages \(buffer\)"):
            await hub.send("user", "narrow")
        await wait_all_tasks_blocked()
        assert inbox.running == 4
        inbox.gate.set()


@pytest.mark.parametrize("limit", [{"max_handlers": 0}, {"buffer": 0}, {"handler_timeout": -1}, {"buffer": "2"}])
async def test_a_limit_that_cannot_work_is_refused(opened, inbox, limit):
    (field,) = limit
    async with opened() as hub:
        with pytest.raises(ConfigError, match=f"{field} must be"):
            hub.register("planner", inbox, **limit)
        assert hub.agents() == {}


# How long a message waits.


async def test_a_low_message_does_not_wait_for_ever(opened):
    order = []
    gate = trio.Event()
    async with opened(max_handlers=1, buffer=5) as hub:

        async def handle(message):
            order.append(message.data)
            await gate.wait()
            if isinstance(message.data, int) and message.data < 5_000:
                await hub.send("planner", "planner", message.data + 4, priority=Priority.CRITICAL)

        hub.register("planner", handle)
        await hub.send("user", "planner", "in hand")
        await hub.send("user", "planner", "low", priority=Priority.LOW)
        for number in range(4):
            await hub.send("user", "planner", number, priority=Priority.CRITICAL)
        gate.set()
    assert len(order) > 5_000
    assert order.index("low") <= 4 * 5 + 1


async def test_a_mailbox_that_is_only_emptied_keeps_to_the_priorities(opened, inbox):
    inbox.close()
    async with opened(max_handlers=1, buffer=40) as hub:
        hub.register("planner", inbox)
        await hub.send("user", "planner", (9, -1))
        for number in range(40):
            await hub.send("user", "planner", (number % 4, -number), priority=Priority(number % 4))
        inbox.gate.set()
    assert inbox.data == sorted(inbox.data, reverse=True)


# What a burst leaves behind.


async def test_tasks_that_are_not_needed_end(opened, autojump_clock):
    async def handle(message):
        await trio.sleep(0.1)

    async with opened(max_handlers=16, buffer=1_000) as hub:
        for number in range(150):
            hub.register(f"agent {number}", handle)
            for _ in range(4):
                await hub.send("user", f"agent {number}")
        await trio.sleep(1)
        assert len(workers(hub)) == 600
        for _ in range(20):
            await hub.request("user", "agent 7")
            await trio.sleep(1)
        assert len(workers(hub)) == 1
        await trio.sleep(3 * IDLE_SECONDS)
        assert workers(hub) == []
        assert (await hub.request("user", "agent 7")).data is None
        assert len(workers(hub)) == 1


# Retiring.


async def test_a_retiring_agent_handles_what_it_has(opened, inbox, autojump_clock):
    events = []
    inbox.close()
    async with opened(max_handlers=1, buffer=2) as hub, trio.open_nursery() as nursery:
        hub.register("planner", inbox)
        hub.subscribe("planner", "news")
        for number in range(4):
            nursery.start_soon(hub.send, "user", "planner", number)
            await wait_all_tasks_blocked()

        async def retire():
            await hub.retire("planner")
            events.append("retired")
            hub.register("planner", inbox)

        nursery.start_soon(retire)
        nursery.start_soon(retire_again := hub.retire, "planner")
        await wait_all_tasks_blocked()
        for call in (hub.send, hub.request):
            with assert_checkpoints(), pytest.raises(AgentGoneError, match="'planner' is retiring") as caught:
                await call("user", "planner", "late")
            assert caught.value.agent == "planner"
        assert await hub.publish("user", "news") == await hub.broadcast("user") == 0
        with pytest.raises(ConfigError, match="a name that is free"):
            hub.register("planner", inbox)
        assert events == []
        assert hub.metrics().sent == 4
        inbox.gate.set()
        await wait_all_tasks_blocked()
        assert events == ["retired"]
        assert await hub.publish("user", "news") == 0
        await hub.request("user", "planner", "new")
        del retire_again
    assert inbox.data == [0, 1, 2, 3, "new"]


async def test_an_idle_agent_retires_at_once(opened, inbox):
    async with opened() as hub:
        hub.register("planner", inbox)
        with assert_checkpoints():
            await hub.retire("planner")
        assert hub.agents() == {}
        with assert_checkpoints(), pytest.raises(UnknownAgentError):
            await hub.retire("planner")
    with assert_checkpoints(), pytest.raises(HubClosedError):
        await hub.retire("planner")


async def test_retiring_goes_on_without_who_asked_for_it(opened, inbox, autojump_clock):
    inbox.close()
    async with opened() as hub:
        hub.register("planner", inbox)
        await hub.send("user", "planner", 1)
        with trio.move_on_after(1) as scope:
            await hub.retire("planner")
        assert scope.cancelled_caught
        assert hub.agents() == {"planner": 0}
        inbox.gate.set()
        await wait_all_tasks_blocked()
        assert hub.agents() == {}


async def test_a_retiring_agent_can_be_unregistered(opened, inbox):
    inbox.close()
    async with opened(max_handlers=1) as hub, trio.open_nursery() as nursery:
        hub.register("planner", inbox)
        for number in range(2):
            await hub.send("user", "planner", number)
        nursery.start_soon(hub.retire, "planner")
        await wait_all_tasks_blocked()
        hub.unregister("planner")
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 0
        inbox.gate.set()
    assert inbox.data == [0]


async def test_who_waits_for_a_retirement_is_told_that_the_hub_closed(opened, inbox, autojump_clock):
    ends = []
    inbox.close()
    async with trio.open_nursery() as nursery:
        async with opened(drain_timeout=1) as hub:
            hub.register("planner", inbox)
            await hub.send("user", "planner")

            async def retire():
                with pytest.raises(HubClosedError):
                    await hub.retire("planner")
                ends.append("told")

            nursery.start_soon(retire)
            await wait_all_tasks_blocked()
    assert ends == ["told"]
