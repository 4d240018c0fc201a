"""Nothing stays behind: no task, no waiting request, no topic; and nobody is told twice."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trioflow import RequestTimeoutError


def workers(hub):
    return [task for task in hub._state.nursery.child_tasks if task.name.startswith("trioflow agent")]


async def test_the_tasks_of_an_agent_end_when_it_goes(opened, inbox):
    async with opened() as hub:
        hub.register("idle", inbox)
        await hub.request("user", "idle")
        assert len(workers(hub)) == 1
        hub.unregister("idle")
        await wait_all_tasks_blocked()
        assert len(workers(hub)) == 0
        inbox.close()
        hub.register("busy", inbox)
        await hub.send("user", "busy")
        await wait_all_tasks_blocked()
        hub.unregister("busy")
        inbox.gate.set()
        await wait_all_tasks_blocked()
        assert len(workers(hub)) == 0


async def test_a_task_is_used_again(opened, inbox):
    async with opened() as hub:
        hub.register("planner", inbox)
        for _ in range(5):
            await hub.request("user", "planner")
        assert len(workers(hub)) == 1


async def test_a_request_that_timed_out_is_forgotten(opened, inbox, autojump_clock):
    async with opened() as hub:
        inbox.close()
        hub.register("planner", inbox)
        with pytest.raises(RequestTimeoutError):
            await hub.request("user", "planner", timeout=1)
        assert hub._directory.find("planner")._answers == {}
        inbox.gate.set()


async def test_a_topic_without_subscribers_is_forgotten(opened, inbox):
    async with opened() as hub:
        hub.register("planner", inbox)
        hub.subscribe("planner", "a")
        hub.subscribe("planner", "b")
        hub.unsubscribe("planner", "a")
        hub.unregister("planner")
        assert hub._directory._topics == {}


async def test_a_cancelled_scope_that_a_handler_leaves_open_costs_no_message(opened):
    gate = trio.Event()
    handled = []

    async def leaks(message):
        if message.data == 0:
            await gate.wait()
            trio.CancelScope(deadline=-float("inf")).__enter__()
        handled.append(message.data)

    async with opened(max_handlers=1) as hub:
        hub.register("leaks", leaks)
        for number in range(20):
            await hub.send("user", "leaks", number)
        gate.set()
    assert handled == list(range(20))


async def test_who_was_answered_is_told_nothing_more(opened):
    async with opened(max_handlers=1) as hub, trio.open_nursery() as nursery:
        gate = trio.Event()
        answers = []

        async def handle(message):
            if message.data == "leave":
                hub.unregister("planner")
            else:
                await gate.wait()
            return message.data

        async def ask():
            answers.append((await hub.request("user", "planner", "asked")).data)

        hub.register("planner", handle)
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await hub.send("user", "planner", "leave")
        gate.set()
    assert answers == ["asked"]


async def test_delivery_can_be_watched(opened, inbox):
    inbox.close()
    async with opened() as hub, trio.open_nursery() as nursery:
        hub.register("planner", inbox)
        seen = trio.Event()

        async def watch():
            await hub.live_metrics.wait_value(lambda metrics: metrics.sent == 1)
            seen.set()

        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        await hub.send("user", "planner")
        with trio.fail_after(5):
            await seen.wait()
        assert hub.metrics().handled == 0
        inbox.gate.set()


async def test_headers_are_the_messages_own(opened, inbox):
    headers = {"trace": "1"}
    async with opened() as hub:
        hub.register("planner", inbox)
        await hub.send("user", "planner", headers=headers)
        headers["trace"] = "2"
    assert inbox[0].headers == {"trace": "1"}
