"""The hub keeps its word: delivered or raised, never both; nothing runs for nobody, or after the end."""

import contextvars
import time

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trioflow import (
    AgentGoneError,
    ConfigError,
    HandlerError,
    HubClosedError,
    MailboxFullError,
    Message,
    MessageType,
    RecordingObserver,
    RequestTimeoutError,
)

SMALL = {"max_handlers": 1, "buffer": 1}


async def fill(hub, inbox, messages=2):
    inbox.close()
    hub.register("planner", inbox)
    for number in range(messages):
        await hub.send("user", "planner", number)


# Delivered or raised.


@pytest.mark.parametrize("order", ["room first", "cancel first"])
async def test_a_send_that_raises_has_delivered_nothing(opened, inbox, order):
    for _ in range(20):
        ends = []
        async with opened(**SMALL) as hub, trio.open_nursery() as nursery:
            await fill(hub, inbox)
            scope = trio.CancelScope()

            async def send(hub=hub, scope=scope, ends=ends):
                with scope:
                    await hub.send("user", "planner", "last")
                    ends.append("returned")

            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            # Both in one tick: the handler ends, which makes room, and the sender is cancelled.
            first, second = inbox.gate.set, scope.cancel
            for step in (first, second) if order == "room first" else (second, first):
                step()
        assert (ends == ["returned"]) == ("last" in inbox.data)
        inbox.clear()


async def test_a_send_whose_time_is_up_has_delivered_nothing(opened, inbox, autojump_clock):
    for _ in range(20):
        inbox.clear()
        delivered = []
        async with opened(**SMALL, timeout=5) as hub, trio.open_nursery() as nursery:
            await fill(hub, inbox)

            async def send(hub=hub, delivered=delivered):
                try:
                    delivered.append(await hub.send("user", "planner", "last"))
                except MailboxFullError:
                    delivered.append(False)

            async def open_gate():
                await trio.sleep(5)
                inbox.gate.set()

            nursery.start_soon(send)
            nursery.start_soon(open_gate)
        assert delivered == ["last" in inbox.data]


async def test_nobody_gets_in_past_the_line(opened, inbox):
    async with opened(max_handlers=1, buffer=2) as hub, trio.open_nursery() as nursery:
        await fill(hub, inbox, messages=2)
        nursery.start_soon(ask_and_forget, hub, asking := trio.CancelScope())
        await wait_all_tasks_blocked()
        nursery.start_soon(hub.send, "user", "planner", "in line")
        await wait_all_tasks_blocked()
        asking.cancel()
        nursery.start_soon(hub.send, "user", "planner", "later")
        await wait_all_tasks_blocked()
        inbox.gate.set()
    assert inbox.data == [0, 1, "in line", "later"]


async def ask_and_forget(hub, scope):
    with scope:
        await hub.request("user", "planner", "asked")


# Nothing runs for nobody.


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_request_whose_requester_is_gone_is_withdrawn(opened, inbox, autojump_clock, how):
    observer = RecordingObserver()
    async with opened(**SMALL, observer=observer) as hub, trio.open_nursery() as nursery:
        inbox.close()
        hub.register("planner", inbox)
        await hub.send("user", "planner", "in hand")
        scopes = []

        async def ask(name):
            scopes.append(trio.CancelScope())
            with scopes[-1]:
                timeout = 1 if how == "timed out" else None
                try:
                    await hub.request("user", "planner", name, timeout=timeout)
                except RequestTimeoutError:
                    assert how == "timed out"

        for name in ("in the mailbox", "in line"):
            nursery.start_soon(ask, name)
            await wait_all_tasks_blocked()
        if how == "cancelled":
            for scope in scopes:
                scope.cancel()
        await trio.sleep(2)
        assert hub.agents() == {"planner": 0}
        assert hub.metrics().dropped == 2
        assert hub.metrics().pending == 0
        inbox.gate.set()
    assert inbox.data == ["in hand"]
    if how == "timed out":
        return
    statuses = [(event.type, event.data["status"]) for event in observer.events]
    assert sorted(statuses) == [
        ("message.handled", "cancelled"), ("message.handled", "ok"), ("message.sent", "cancelled"),
        ("message.sent", "ok"), ("message.sent", "ok"),
    ]  # fmt: skip


async def test_a_request_that_is_given_up_before_its_handler_runs_is_not_handled(opened, inbox):
    async with opened() as hub, trio.open_nursery() as nursery:
        hub.register("planner", inbox)
        await hub.send("user", "planner", "first")
        await wait_all_tasks_blocked()
        scope = trio.CancelScope()

        async def ask():
            # The message is put into the hand of a task that has not run yet when this one is cancelled.
            with scope:
                scope.cancel()
                with trio.CancelScope(shield=True) as shield:
                    nursery.start_soon(unshield, shield)
                    await hub.request("user", "planner", "asked")

        async def unshield(shield):
            shield.shield = False

        for _ in range(10):
            scope = trio.CancelScope()
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
        dropped = hub.metrics().dropped
    assert len(inbox) == 11 - dropped
    assert dropped > 0


async def test_room_that_a_withdrawn_request_leaves_is_given_to_the_line(opened, inbox):
    async with opened(**SMALL) as hub, trio.open_nursery() as nursery:
        await fill(hub, inbox, messages=1)
        scope = trio.CancelScope()
        nursery.start_soon(ask_and_forget, hub, scope)
        await wait_all_tasks_blocked()
        nursery.start_soon(hub.send, "user", "planner", "in line")
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 0
        assert hub.agents() == {"planner": 1}
        inbox.gate.set()
    assert inbox.data == [0, "in line"]


async def test_a_message_in_hand_says_whether_its_answer_is_expected(opened, autojump_clock):
    seen = []

    async def look(message):
        seen.append(message.expects_answer)
        await trio.sleep(2)
        seen.append(message.expects_answer)
        kept.append(message)

    kept = []
    async with opened() as hub:
        hub.register("look", look)
        await hub.request("user", "look", timeout=5)
        assert (seen, kept[0].expects_answer) == ([True, True], False)
        with pytest.raises(RequestTimeoutError):
            await hub.request("user", "look", timeout=1)
        await trio.sleep(3)
        assert seen == [True, True, True, False]
        await hub.send("user", "look")
    assert seen[4:] == [False, False]
    assert not Message(sender="a", recipient="b", type=MessageType.REQUEST).expects_answer


async def test_a_retired_or_lost_agent_expects_nothing(opened, inbox):
    async with opened() as hub, trio.open_nursery() as nursery:
        inbox.close()
        hub.register("planner", inbox)

        async def ask():
            with pytest.raises(AgentGoneError):
                await hub.request("user", "planner")

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        hub.unregister("planner")
        await wait_all_tasks_blocked()
        inbox.gate.set()
        await wait_all_tasks_blocked()
        assert [message.expects_answer for message in inbox] == [False]


# Nothing starts after the end.


async def test_nothing_starts_after_an_outer_cancellation(opened, inbox, autojump_clock):
    ends = []
    started = []

    async def handle(message):
        started.append(message.data)
        await trio.sleep(1)

    with trio.CancelScope() as outer:
        async with opened(max_handlers=2) as hub:
            hub.register("planner", handle)
            for number in range(10):
                await hub.send("user", "planner", number)
            await wait_all_tasks_blocked()
            with trio.CancelScope(shield=True):
                outer.cancel()
                await trio.sleep(10)
                since = trio.current_time()
                for call in (hub.request, hub.send):
                    with pytest.raises(HubClosedError):
                        await call("user", "planner", "late")
                assert trio.current_time() == since
                ends.append("reached")
    assert ends == ["reached"]
    assert sorted(started) == [0, 1]
    assert hub.live_metrics.value.dropped == 8


async def test_a_request_that_waits_under_a_shield_ends_with_an_outer_cancellation(opened, inbox, autojump_clock):
    ends = []
    with trio.CancelScope() as outer:
        async with opened(timeout=100) as hub, trio.open_nursery() as nursery:
            inbox.close()
            hub.register("planner", inbox)

            async def cancel():
                await trio.sleep(1)
                outer.cancel()

            nursery.start_soon(cancel)
            with trio.CancelScope(shield=True):
                try:
                    await hub.request("user", "planner")
                except HubClosedError:
                    ends.append(trio.current_time())
    assert ends == [1]


async def test_a_hub_in_a_cancelled_scope_starts_nothing(opened, inbox):
    started = []

    async def handle(message):
        started.append(message)

    with trio.CancelScope() as outer:
        outer.cancel()
        async with opened() as hub:
            hub.register("planner", handle)
            with trio.CancelScope(shield=True), pytest.raises(HubClosedError):
                await hub.request("user", "planner")
    assert started == []


async def test_a_drain_that_is_cut_short_is_said(opened, inbox, log, autojump_clock):
    async with opened(name="north\n", **SMALL, drain_timeout=4) as hub:
        await fill(hub, inbox)
        hub.register("other", inbox)
        await hub.send("user", "other")
    assert log.at("WARNING") == [
        r"hub 'north\n' was not quiet after 4 s (drain_timeout): 2 handlers are cancelled, 1 messages dropped"
    ]


async def test_a_quiet_end_says_nothing(opened, inbox, log, autojump_clock):
    async with opened() as hub:
        hub.register("planner", inbox)
        await hub.send("user", "planner")
    assert log.at("WARNING") == []


async def test_an_observer_that_stops_the_hub_lets_nobody_wait(opened, inbox, autojump_clock):
    class Stops:
        def on_event(self, event):
            if event.data["status"] != "ok":
                raise SystemExit(3)

    ends = []

    async def wait(call, name):
        try:
            await call("user", name)
        except HubClosedError:
            ends.append(name)

    inbox.close()
    async with trio.open_nursery() as nursery:
        with pytest.raises(SystemExit):
            async with opened(**SMALL, drain_timeout=1, observer=Stops()) as hub:
                for name in ("a", "b"):
                    hub.register(name, inbox)
                    for call in (hub.request, hub.request, hub.request, hub.send):
                        nursery.start_soon(wait, call, name)
                        await wait_all_tasks_blocked()
    assert sorted(ends) == ["a"] * 4 + ["b"] * 4


# Watchers.


async def test_a_predicate_that_raises_is_the_watchers_own(opened, inbox):
    caught = []

    def broken(metrics):
        if metrics.agents == 1:
            raise ValueError("no glasses")
        return False

    async with opened(**SMALL) as hub, trio.open_nursery() as nursery:
        hub.register("other", inbox)
        await fill(hub, inbox)

        async def watch():
            with pytest.raises(ValueError, match="no glasses") as error:
                await hub.live_metrics.wait_value(broken)
            caught.append(error.value)

        async def iterate():
            with pytest.raises(ValueError, match="no glasses") as error:
                async for _ in hub.live_metrics.eventual_values(broken):
                    raise AssertionError("not reached")
            caught.append(error.value)

        async def ask():
            with pytest.raises(AgentGoneError):
                await hub.request("user", "planner")

        for task in (watch, iterate, ask):
            nursery.start_soon(task)
        await wait_all_tasks_blocked()
        hub.unregister("planner")
        await wait_all_tasks_blocked()
        assert len(caught) == 2
        assert hub.metrics().dropped == 2
        inbox.gate.set()
    final = hub.live_metrics.value
    assert final.sent == final.handled + final.failed + final.dropped


async def test_the_last_live_value_is_the_final_one(opened, autojump_clock):
    seen = []

    async def lingers(message):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)

    async with trio.open_nursery() as nursery:
        async with opened(drain_timeout=1) as hub:
            hub.register("lingers", lingers)

            async def watch():
                seen.extend([metrics async for metrics in hub.live_metrics.eventual_values()])

            nursery.start_soon(watch)
            await hub.send("user", "lingers")
            await wait_all_tasks_blocked()
    assert seen[-1] == hub.live_metrics.value
    assert (seen[-1].failed, seen[-1].pending) == (1, 0)


# No message sees another.


async def test_context_variables_stay_with_their_message(opened):
    where = contextvars.ContextVar("where", default="nowhere")
    seen = []

    async def handle(message):
        seen.append(where.get())
        where.set(message.data)
        await trio.lowlevel.checkpoint()

    async with opened(max_handlers=1) as hub:
        hub.register("planner", handle)
        for number in range(12):
            await hub.send("user", "planner", number)
        await wait_all_tasks_blocked()
        for number in range(3):
            await hub.request("user", "planner", number)
    assert seen == ["nowhere"] * 15


@pytest.mark.parametrize("queued", [True, False])
async def test_a_scope_that_a_message_leaves_open_cancels_no_other(opened, queued):
    scopes = []
    done = []

    async def leaks(message):
        if not scopes:
            scopes.append(trio.CancelScope())
            scopes[0].__enter__()
            return "leaked"
        scopes[0].cancel()
        await trio.lowlevel.checkpoint()
        done.append(message.data)
        return None

    async with opened(max_handlers=1) as hub:
        hub.register("leaks", leaks)
        if queued:
            for number in range(3):
                await hub.send("user", "leaks", number)
        else:
            assert (await hub.request("user", "leaks", 0)).data == "leaked"
            for number in (1, 2):
                await hub.request("user", "leaks", number)
    assert done == [1, 2]


# Deadlines.


async def test_the_deadline_is_in_the_message(opened, autojump_clock):
    seen = []

    async def look(message):
        seen.append(message.deadline)

    async with opened() as hub:
        hub.register("look", look)
        before = time.time()
        await hub.request("user", "look", timeout=7)
        assert before + 7 <= seen[0] <= time.time() + 7
        await hub.send("user", "look")
        await hub.broadcast("user")
        await wait_all_tasks_blocked()
    assert seen[1:] == [None, None]


async def test_two_agents_that_wait_for_each_other_are_told_by_the_nearer_deadline(opened, autojump_clock):
    ends = []
    async with opened(max_handlers=1, timeout=30) as hub:

        async def ask_back(message):
            other = "b" if message.recipient == "a" else "a"
            try:
                await hub.request(message.recipient, other)
            except RequestTimeoutError:
                ends.append((message.recipient, trio.current_time()))
                raise

        hub.register("a", ask_back)
        hub.register("b", ask_back)
        with pytest.raises(RequestTimeoutError):
            await hub.request("user", "a", timeout=5)
        assert trio.current_time() == 5
        await wait_all_tasks_blocked()
        assert sorted(ends) == [("a", 5), ("b", 5)]


async def test_a_deadline_travels_through_tasks_and_hubs(opened, inbox, autojump_clock):
    ends = []
    async with opened(name="north") as north, opened(name="south") as south:
        inbox.close()
        south.register("slow", inbox)

        async def relay(message):
            await trio.sleep(2)

            async def ask():
                with pytest.raises(RequestTimeoutError, match="within 3 s"):
                    await south.request("relay", "slow", timeout=20)
                ends.append(trio.current_time())
                with pytest.raises(RequestTimeoutError, match="no request to 'slow' was made"):
                    await south.request("relay", "slow", timeout=20)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)

        north.register("relay", relay)
        with pytest.raises(RequestTimeoutError):
            await north.request("user", "relay", timeout=5)
        await trio.sleep(1)
        assert ends == [5]
        assert south.metrics().sent == 1
        inbox.gate.set()


async def test_a_deadline_binds_no_other_message(opened, inbox, autojump_clock):
    times = []
    async with opened(timeout=30) as hub:
        inbox.close()
        hub.register("slow", inbox)

        async def ask(message):
            since = trio.current_time()
            with pytest.raises(RequestTimeoutError):
                await hub.request("ask", "slow")
            times.append(trio.current_time() - since)

        hub.register("ask", ask, max_handlers=1)
        with pytest.raises(RequestTimeoutError):
            await hub.request("user", "ask", timeout=5)
        await trio.sleep(1)
        await hub.send("user", "ask")
        await trio.sleep(40)
        inbox.gate.set()
    assert times == [5, 30]


async def test_a_deadline_of_another_run_counts_nothing(opened):
    async def other_run():
        async with opened() as inner:

            async def echo(message):
                return message.data

            inner.register("echo", echo)
            return (await inner.request("user", "echo", 1, timeout=1)).data

    async def handle(message):
        return await trio.to_thread.run_sync(trio.run, other_run)

    async with opened() as hub:
        hub.register("handle", handle)
        assert (await hub.request("user", "handle", timeout=20)).data == 1


# What is refused.


async def test_a_wrong_timeout_is_refused_at_a_checkpoint(opened, inbox):
    async with opened() as hub:
        hub.register("planner", inbox)
        with assert_checkpoints(), pytest.raises(ConfigError, match="timeout must be"):
            await hub.request("user", "planner", timeout=-1)


@pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, {"a": None}, [("a", "b")]])
async def test_headers_are_strings(opened, inbox, headers):
    async with opened() as hub:
        hub.register("planner", inbox)
        for call in (hub.send, hub.request):
            with pytest.raises(ConfigError, match="headers must be a mapping of strings to strings"):
                await call("user", "planner", headers=headers)
    assert inbox == []


async def test_a_handlers_time_is_limited(opened, autojump_clock):
    async def slow(message):
        await trio.sleep(message.data)
        return "done"

    async with opened(handler_timeout=3) as hub:
        hub.register("slow", slow)
        hub.register("patient", slow, handler_timeout=10)
        assert (await hub.request("user", "slow", 2)).data == "done"
        with pytest.raises(HandlerError) as caught:
            await hub.request("user", "slow", 5)
        assert isinstance(caught.value.__cause__, trio.TooSlowError)
        assert trio.current_time() == 5
        assert (await hub.request("user", "patient", 5)).data == "done"
        assert hub.metrics().failed == 1
