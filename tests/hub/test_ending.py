"""Full mailboxes, agents that go, and hubs that close: each has its end, and no message is lost silently."""

import contextvars
import pickle

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trioflow import (
    AgentGoneError,
    HandlerError,
    Hub,
    HubClosedError,
    HubError,
    HubMetrics,
    MailboxFullError,
    RecordingObserver,
    RequestTimeoutError,
    TrioflowError,
    UnknownAgentError,
)


async def fill(hub, inbox, *, name="planner", messages=2):
    """Register an agent that is stuck, and fill its mailbox."""
    inbox.close()
    hub.register(name, inbox)
    for number in range(messages):
        await hub.send("user", name, number)


SMALL = {"max_handlers": 1, "buffer": 1}


# Full mailboxes.


async def test_drop_refuses_the_newest_and_counts_it(opened, inbox):
    async with opened(**SMALL, overflow="drop") as hub:
        await fill(hub, inbox)
        assert await hub.send("user", "planner", "newest") is False
        assert hub.metrics().dropped == 1
        with pytest.raises(MailboxFullError):
            await hub.request("user", "planner")
        assert hub.metrics().dropped == 2
        inbox.gate.set()
    assert inbox.data == [0, 1]


async def test_error_raises(opened, inbox):
    observer = RecordingObserver()
    async with opened(**SMALL, overflow="error", observer=observer) as hub:
        await fill(hub, inbox)
        for call in (hub.send, hub.request):
            with pytest.raises(MailboxFullError):
                await call("user", "planner", "newest")
        assert hub.metrics().dropped == 2
        inbox.gate.set()
    assert inbox.data == [0, 1]
    refused = [event.data for event in observer.events if event.data["error"]]
    assert [(data["status"], data["error_type"]) for data in refused] == [("error", "MailboxFullError")] * 2


async def test_wait_waits_for_room_in_order(opened, inbox):
    async with opened(**SMALL) as hub, trio.open_nursery() as nursery:
        await fill(hub, inbox)
        for number in (2, 3, 4):
            nursery.start_soon(hub.send, "user", "planner", number)
            await wait_all_tasks_blocked()
        assert hub.agents() == {"planner": 1}
        inbox.gate.set()
    assert inbox.data == [0, 1, 2, 3, 4]


async def test_wait_gives_up_in_time(opened, inbox, autojump_clock):
    async with opened(**SMALL, timeout=5) as hub:
        await fill(hub, inbox)
        with pytest.raises(MailboxFullError, match="is full after 5 s"):
            await hub.send("user", "planner", "late")
        assert trio.current_time() == 5
        assert hub.metrics().dropped == 1
        inbox.gate.set()
    assert inbox.data == [0, 1]


async def test_a_sender_that_is_cancelled_in_line_delivers_nothing(opened, inbox, autojump_clock):
    observer = RecordingObserver()
    async with opened(**SMALL, observer=observer) as hub:
        await fill(hub, inbox)
        with trio.move_on_after(1) as scope:
            await hub.send("user", "planner", "cancelled")
        assert scope.cancelled_caught
        with trio.move_on_after(1) as scope:
            await hub.request("user", "planner", "cancelled")
        assert scope.cancelled_caught
        assert hub.metrics().dropped == 2
        inbox.gate.set()
    assert inbox.data == [0, 1]
    assert [event.data["status"] for event in observer.events if event.type == "message.sent"] == ["ok"] * 2 + ["cancelled"] * 2


async def test_broadcast_and_publish_never_wait(opened, inbox):
    free = []

    async def take(message):
        free.append(message.data)

    for overflow in ("wait", "drop", "error"):
        async with opened(**SMALL, overflow=overflow) as hub:
            await fill(hub, inbox, name="full")
            hub.register("free", take)
            for name in ("full", "free"):
                hub.subscribe(name, "news")
            assert await hub.broadcast("user", "b") == 1
            await wait_all_tasks_blocked()
            assert await hub.publish("user", "news", "p") == 1
            assert hub.metrics().dropped == 2
            inbox.gate.set()
    assert free == ["b", "p"] * 3


async def test_a_full_mailbox_delays_nobody_else(opened, inbox, autojump_clock):
    async def echo(message):
        return message.data

    async with opened(**SMALL) as hub, trio.open_nursery() as nursery:
        await fill(hub, inbox, name="full")
        hub.register("free", echo)
        nursery.start_soon(hub.send, "user", "full", "in line")
        await wait_all_tasks_blocked()
        with trio.fail_after(1):
            assert (await hub.request("user", "free", 1)).data == 1
        inbox.gate.set()


async def test_two_agents_that_fill_each_others_mailboxes_do_not_hang(opened, autojump_clock):
    errors = []
    async with opened(**SMALL, timeout=3, drain_timeout=1_000) as hub:

        async def flood(message):
            other = "b" if message.recipient == "a" else "a"
            try:
                for _ in range(3):
                    await hub.send(message.recipient, other, message.data + 1)
            except MailboxFullError as error:
                errors.append(error)
        hub.register("a", flood)
        hub.register("b", flood)
        await hub.send("user", "a", 0)
        await hub.send("user", "b", 0)
        await trio.sleep(100)
        hub.unregister("a")
        hub.unregister("b")
    assert errors


# Agents that go.


async def test_unregistering_tells_everybody_who_waits(opened, inbox, autojump_clock):
    ends = {}
    async with opened(**SMALL) as hub, trio.open_nursery() as nursery:
        inbox.close()
        hub.register("planner", inbox)

        async def attempt(name, call):
            try:
                await call("user", "planner", name)
            except AgentGoneError as error:
                ends[name] = (trio.current_time(), str(error), error.agent)

        for name, call in (
            ("running", hub.request), ("queued", hub.request), ("asking in line", hub.request), ("sending in line", hub.send)
        ):  # fmt: skip
            nursery.start_soon(attempt, name, call)
            await wait_all_tasks_blocked()
        hub.unregister("planner")
        await wait_all_tasks_blocked()
        expected = (trio.current_time(), "agent 'planner' was unregistered from hub 'default'", "planner")
        assert ends == dict.fromkeys(["running", "queued", "asking in line", "sending in line"], expected)
        assert hub.agents() == {}
        assert hub.metrics() == HubMetrics(agents=0, sent=4, handled=0, failed=0, dropped=3, pending=0)
        inbox.gate.set()
        await wait_all_tasks_blocked()
        assert hub.metrics().handled == 1
    assert inbox.data == ["running"]


async def test_a_name_can_be_taken_again_and_gets_nothing_of_before(opened, inbox):
    fresh = []

    async def take(message):
        fresh.append(message.data)
        return "fresh"

    async with opened(**SMALL) as hub:
        await fill(hub, inbox)
        hub.subscribe("planner", "news")
        hub.unregister("planner")
        hub.register("planner", take)
        assert (await hub.request("user", "planner", "new")).data == "fresh"
        assert await hub.publish("user", "news") == 0
        inbox.gate.set()
    assert fresh == ["new"]
    assert inbox.data == [0]


async def test_a_handler_may_unregister_itself(opened):
    async with opened() as hub:

        async def leave(message):
            hub.unregister("short")
            return "bye"

        hub.register("short", leave)
        with pytest.raises(AgentGoneError):
            await hub.request("user", "short")
        assert hub.agents() == {}


# Hubs that close.


async def test_leaving_in_peace_handles_everything_first(opened, autojump_clock):
    done = []
    async with opened(max_handlers=1, drain_timeout=100) as hub:

        async def pass_on(message):
            await trio.sleep(1)
            done.append(message.data)
            if message.data < 5:
                await hub.send("a", "b" if message.recipient == "a" else "a", message.data + 1)
            elif message.data == 5:
                done.append((await hub.request("a", "echo", "asked")).data)

        async def echo(message):
            return message.data

        hub.register("a", pass_on)
        hub.register("b", pass_on)
        hub.register("echo", echo)
        await hub.send("user", "a", 0)
        await hub.send("user", "a", 10)
    assert sorted(map(str, done)) == ["0", "1", "10", "2", "3", "4", "5", "asked"]


async def test_draining_has_a_deadline(opened, inbox, autojump_clock):
    observer = RecordingObserver()
    async with opened(**SMALL, drain_timeout=4, observer=observer) as hub:
        await fill(hub, inbox)
    assert trio.current_time() == 4
    assert inbox == []
    assert inbox.running == 0
    assert hub.live_metrics.value == HubMetrics(agents=1, sent=2, handled=0, failed=1, dropped=1, pending=0)
    ends = [event.data["status"] for event in observer.events if event.type == "message.handled"]
    assert ends == ["cancelled", "cancelled"]


async def test_leaving_by_an_exception_cancels_at_once(opened, inbox, autojump_clock):
    with pytest.raises(ValueError, match="boom"):
        async with opened(**SMALL) as hub:
            await fill(hub, inbox)
            raise ValueError("boom")
    assert trio.current_time() == 0
    assert (inbox, inbox.running) == ([], 0)


async def test_a_cancellation_cancels_at_once_and_passes_through(opened, inbox, autojump_clock):
    with trio.move_on_after(1) as scope:
        async with opened(**SMALL) as hub:
            await fill(hub, inbox)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 1
    assert (inbox, inbox.running) == ([], 0)
    with trio.move_on_after(1) as scope:
        async with opened(**SMALL) as hub:
            await fill(hub, inbox)
    assert scope.cancelled_caught
    assert inbox.running == 0


async def test_who_waits_outside_is_told_that_the_hub_closed(opened, inbox, autojump_clock):
    ends = []

    async def outside(call, name):
        try:
            await call("user", "planner", name)
        except HubClosedError as error:
            ends.append((name, str(error)))

    async with trio.open_nursery() as nursery:
        async with opened(**SMALL, drain_timeout=1) as hub:
            inbox.close()
            hub.register("planner", inbox)
            for name, call in (("running", hub.request), ("queued", hub.request), ("in line", hub.send)):
                nursery.start_soon(outside, call, name)
                await wait_all_tasks_blocked()
    message = "hub 'default' is closed: its block has been left"
    assert sorted(ends) == [("in line", message), ("queued", message), ("running", message)]


async def test_after_the_block_every_call_is_refused(opened, inbox):
    async with opened() as hub:
        hub.register("planner", inbox)
    for call in (
        lambda: hub.register("x", inbox), lambda: hub.unregister("planner"), hub.agents, hub.metrics,
        lambda: hub.subscribe("planner", "t"), lambda: hub.unsubscribe("planner", "t"),
    ):  # fmt: skip
        with pytest.raises(HubClosedError, match="hub 'default' is closed"):
            call()
    for call in (hub.send, hub.request, hub.publish):
        with pytest.raises(HubClosedError):
            await call("user", "planner")
    with pytest.raises(HubClosedError):
        await hub.broadcast("user")


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), SystemExit(3)], ids=["interrupt", "exit"])
async def test_what_is_no_exception_stops_the_hub_and_comes_out_bare(opened, inbox, fault):
    async def stops(message):
        raise fault

    with pytest.raises(type(fault)) as caught:
        async with opened() as hub:
            hub.register("stops", stops)
            inbox.close()
            hub.register("planner", inbox)
            await hub.send("user", "planner")
            await hub.request("user", "stops")
            raise AssertionError("not reached")
    assert caught.value is fault
    assert inbox.running == 0


async def test_an_observer_that_fails_changes_nothing(opened, inbox, capsys):
    class Broken:
        def on_event(self, event):
            raise RuntimeError("no ink")

    async with opened(observer=Broken()) as hub:
        hub.register("planner", inbox)
        assert (await hub.request("user", "planner", 1)).data == 1
    assert inbox.data == [1]


async def test_a_late_handler_finds_the_hub_closed(opened, autojump_clock):
    seen = []
    async with opened(drain_timeout=1) as hub:

        async def lingers(message):
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    try:
                        await hub.send("lingers", "lingers")
                    except HubClosedError:
                        seen.append("closed")

        hub.register("lingers", lingers)
        await hub.send("user", "lingers")
    assert seen == ["closed"]


async def test_metrics_can_be_watched(opened, inbox):
    async with trio.open_nursery() as nursery:
        async with opened(**SMALL) as hub:
            seen = []

            async def watch():
                async for metrics in hub.live_metrics.eventual_values():
                    seen.append((metrics.sent, metrics.handled))

            await fill(hub, inbox)
            nursery.start_soon(watch)
            await wait_all_tasks_blocked()
            inbox.gate.set()
            await hub.live_metrics.wait_value(lambda metrics: metrics.handled == 2)
    assert seen[0] == (2, 0)
    assert seen[-1] == (2, 2)


def test_hubs_are_made_by_open_hub_only():
    with pytest.raises(TypeError, match="open_hub"):
        Hub()


async def test_handlers_begin_in_the_context_of_who_opened_the_hub(opened):
    where = contextvars.ContextVar("where", default="nowhere")
    where.set("opener")
    seen = []

    async def look(message):
        seen.append(where.get())

    async with opened() as hub, trio.open_nursery() as nursery:
        hub.register("look", look)

        async def sender():
            where.set("sender")
            await hub.send("user", "look")

        nursery.start_soon(sender)
    assert seen == ["opener"]


async def test_errors_of_a_hub_are_of_one_family():
    for error in (
        MailboxFullError("full", agent="a"), AgentGoneError("gone", agent="a"), HubClosedError("closed"),
        RequestTimeoutError("late", agent="a", timeout=2.0), UnknownAgentError("who", agent="a"), HandlerError("a", "id"),
    ):  # fmt: skip
        assert isinstance(error, HubError)
        assert isinstance(error, TrioflowError)
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert getattr(again, "agent", None) == getattr(error, "agent", None)


async def test_another_trio_run_is_refused_and_changes_nothing(opened, inbox):
    async with opened() as hub:
        hub.register("planner", inbox)

        async def call_all():
            for call in (
                lambda: hub.send("user", "planner", 1),
                lambda: hub.request("user", "planner", 1, timeout=1),
                lambda: hub.broadcast("user", 1),
                lambda: hub.publish("user", "topic", 1),
                lambda: hub.retire("planner"),
            ):
                with pytest.raises(RuntimeError, match="works in the trio.run that opened it"):
                    await call()

        await trio.to_thread.run_sync(trio.run, call_all)
        assert hub.metrics().sent == 0
        assert "planner" in hub.agents()

    async def call_closed():
        with pytest.raises(HubClosedError):
            await hub.send("user", "planner", 1)

    await trio.to_thread.run_sync(trio.run, call_closed)
