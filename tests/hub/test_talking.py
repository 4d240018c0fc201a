"""Send, request, broadcast, publish: who gets what, in which order, and what goes wrong."""

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trioflow import (
    ConfigError,
    HandlerError,
    HubClosedError,
    HubConfig,
    MailboxFullError,
    Message,
    MessageType,
    Priority,
    RecordingObserver,
    RequestTimeoutError,
    UnknownAgentError,
    current_run,
    open_hub,
    process_parallel,
)


async def echo(message):
    await trio.lowlevel.checkpoint()
    return message.data


async def test_a_sent_message_reaches_its_agent(opened, inbox):
    async with opened(name="north") as hub:
        hub.register("planner", inbox)
        assert await hub.send("user", "planner", {"n": 1}, priority=Priority.HIGH, headers={"trace": "t"}) is True
    (message,) = inbox
    assert (message.hub, message.sender, message.recipient) == ("north", "user", "planner")
    assert (message.type, message.data, message.reply_to, message.topic) == ("notification", {"n": 1}, None, None)
    assert (message.priority, message.headers) == (Priority.HIGH, {"trace": "t"})


async def test_a_request_is_answered_by_what_the_handler_returns(opened):
    async with opened(name="north") as hub:
        hub.register("echo", echo)
        answer = await hub.request("user", "echo", [1, 2])
        assert (answer.data, answer.type, answer.sender, answer.recipient) == ([1, 2], "response", "echo", "user")
        assert (await hub.request("user", "echo")).data is None


async def test_a_handler_may_build_the_answer_itself(opened):
    async def careful(message):
        return message.reply("yes", headers={"sure": "very"})

    async def foreign(message):
        return Message(sender="x", recipient="y", type=MessageType.RESPONSE, data="no", reply_to="another")

    async with opened() as hub:
        hub.register("careful", careful)
        hub.register("foreign", foreign)
        answer = await hub.request("user", "careful")
        assert (answer.data, answer.headers) == ("yes", {"sure": "very"})
        answer = await hub.request("user", "foreign")
        assert (answer.data, answer.sender, answer.recipient) == ("no", "foreign", "user")


async def test_a_failing_handler_fails_its_requester_at_once(opened, autojump_clock):
    async def fails(message):
        await trio.sleep(1)
        raise ValueError("no plan\n")

    async with opened(timeout=100) as hub:
        hub.register("planner", fails)
        with pytest.raises(HandlerError) as caught:
            await hub.request("user", "planner")
        assert trio.current_time() == 1
        assert (caught.value.agent, str(caught.value)) == ("planner", r"agent 'planner' failed: no plan\n")
        assert isinstance(caught.value.__cause__, ValueError)
        assert await hub.send("user", "planner") is True
        await trio.sleep(2)
        assert hub.metrics().failed == 2
        assert hub.metrics().pending == 0


async def test_failures_of_sent_messages_are_told(opened):
    async def fails(message):
        raise ValueError("no plan")

    observer = RecordingObserver()
    async with opened(observer=observer) as hub:
        hub.register("planner", fails)
        await hub.send("user", "planner", "secret")
    sent, handled = observer.events
    assert (sent.type, sent.source, sent.data["status"]) == ("message.sent", "hub", "ok")
    assert handled.type == "message.handled"
    told = {name: handled.data[name] for name in ("sender", "recipient", "message_type", "status", "error", "error_type")}
    assert told == {
        "sender": "user", "recipient": "planner", "message_type": "notification",
        "status": "error", "error": True, "error_type": "ValueError",
    }  # fmt: skip
    assert handled.data["error_message"] == "no plan"
    assert "secret" not in str(sent.data) + str(handled.data)


async def test_an_observer_may_ask_for_the_messages(opened, inbox):
    observer = RecordingObserver(include_data=True)
    async with opened(observer=observer) as hub:
        hub.register("planner", inbox)
        await hub.send("user", "planner", "secret")
    assert [event.data["message"].data for event in observer.events] == ["secret", "secret"]


async def test_no_answer_in_time(opened, inbox, autojump_clock):
    inbox.close()
    async with opened(timeout=7) as hub:
        hub.register("planner", inbox)
        for seconds, given in ((7, None), (2, 2)):
            start = trio.current_time()
            with pytest.raises(RequestTimeoutError, match=f"no answer from 'planner' within {seconds} s") as caught:
                await hub.request("user", "planner", timeout=given)
            assert trio.current_time() - start == seconds
            assert isinstance(caught.value, TimeoutError)
            assert (caught.value.agent, caught.value.timeout) == ("planner", seconds)
        assert hub.metrics().pending == 0
        inbox.gate.set()  # the late replies are dropped
    assert len(inbox) == 2


async def test_waiting_for_room_counts(opened, inbox, autojump_clock):
    inbox.close()
    async with opened(max_handlers=1, buffer=1) as hub:
        hub.register("planner", inbox)
        await hub.send("user", "planner", "in hand")
        await hub.send("user", "planner", "in the mailbox")
        with pytest.raises(RequestTimeoutError):
            await hub.request("user", "planner", "in line", timeout=3)
        inbox.gate.set()
    assert inbox.data == ["in hand", "in the mailbox"]


async def test_a_request_that_waited_for_room_is_answered(opened, inbox, autojump_clock):
    inbox.close()
    async with opened(max_handlers=1, buffer=1) as hub, trio.open_nursery() as nursery:
        hub.register("planner", inbox)
        for number in range(2):
            await hub.send("user", "planner", number)
        answers = []

        async def ask(number):
            answers.append((await hub.request("user", "planner", number)).data)

        for number in (2, 3):
            nursery.start_soon(ask, number)
            await wait_all_tasks_blocked()
        inbox.gate.set()
    assert inbox.data == [0, 1, 2, 3]
    assert answers == [2, 3]


async def test_a_broadcast_reaches_everybody_else(opened, inbox):
    async with opened() as hub:
        for name in ("a", "b", "c"):
            hub.register(name, inbox)
        assert await hub.broadcast("a", "hello") == 2
        assert await hub.broadcast("nobody", "hi") == 3
    assert sorted(message.recipient for message in inbox if message.data == "hello") == ["b", "c"]
    assert {message.type for message in inbox} == {MessageType.BROADCAST}


async def test_subscribers_get_what_is_published(opened, inbox):
    async with opened() as hub:
        for name in ("a", "b", "c"):
            hub.register(name, inbox)
        for name in ("a", "b", "b"):
            hub.subscribe(name, "news")
        assert await hub.publish("user", "news", 1) == 2
        assert await hub.publish("a", "news", 2) == 1
        assert await hub.publish("user", "other", 3) == 0
        hub.unsubscribe("a", "news")
        hub.unsubscribe("c", "news")
        assert await hub.publish("user", "news", 4) == 1
        hub.unregister("b")
        assert await hub.publish("user", "news", 5) == 0
    assert sorted((message.data, message.recipient) for message in inbox) == [(1, "a"), (1, "b"), (2, "b"), (4, "b")]
    assert {(message.type, message.topic) for message in inbox} == {("notification", "news")}


async def test_higher_priorities_come_first_and_each_in_order(opened, inbox):
    inbox.close()
    async with opened(max_handlers=1) as hub:
        hub.register("planner", inbox)
        await hub.send("user", "planner", "in hand")
        for number, priority in enumerate((1, 0, 3, 1, 2, 3, 0)):
            await hub.send("user", "planner", (priority, number), priority=Priority(priority))
        assert hub.agents() == {"planner": 7}
        inbox.gate.set()
    assert inbox.data == ["in hand", (3, 2), (3, 5), (2, 4), (1, 0), (1, 3), (0, 1), (0, 6)]


@pytest.mark.parametrize("limit", [1, 3])
async def test_handlers_are_bounded(opened, inbox, limit):
    async with opened(max_handlers=limit) as hub:
        hub.register("planner", inbox)
        for number in range(20):
            await hub.send("user", "planner", number)
    assert inbox.most == limit
    assert sorted(inbox.data) == list(range(20))
    if limit == 1:
        assert inbox.data == list(range(20))


async def test_handlers_that_never_wait_let_others_run(opened):
    gate = trio.Event()
    turns = []

    async def busy(message):
        if message.data == 0:
            await gate.wait()
        turns.append(message.data)

    async def watch():
        gate.set()
        while len(turns) < 50:
            turns.append("other")
            await trio.lowlevel.checkpoint()

    async with opened(max_handlers=1) as hub:
        hub.register("planner", busy)
        for number in range(50):
            await hub.send("user", "planner", number)
        await watch()
    handled = [place for place, turn in enumerate(turns) if turn != "other"]
    assert len(handled) == 50
    assert turns[handled[0] : handled[-1]].count("other") > 3


async def test_a_stale_cancelled_is_the_handlers_failure(opened):
    kept = []

    async def stale(message):
        if not kept:
            with trio.CancelScope() as scope:
                scope.cancel()
                try:
                    await trio.lowlevel.checkpoint()
                except trio.Cancelled as error:
                    kept.append(error)
        raise kept[0]

    async with opened(max_handlers=1) as hub:
        hub.register("stale", stale)
        hub.register("echo", echo)
        for _ in range(3):
            with pytest.raises(HandlerError) as caught:
                await hub.request("user", "stale")
            assert isinstance(caught.value.__cause__, RuntimeError)
            assert isinstance(caught.value.__cause__.__cause__, trio.Cancelled)
        assert (await hub.request("user", "echo", 1)).data == 1


async def test_a_scope_that_a_handler_leaves_open_stops_nobody_else(opened, autojump_clock):
    async def leaks(message):
        trio.CancelScope(deadline=trio.current_time() + 1).__enter__()
        return message.data

    async with opened(max_handlers=1) as hub:
        hub.register("leaks", leaks)
        hub.register("echo", echo)
        assert (await hub.request("user", "leaks", 1)).data == 1
        await trio.sleep(2)
        assert (await hub.request("user", "leaks", 2)).data == 2
        await trio.sleep(2)
        assert (await hub.request("user", "echo", 1)).data == 1


async def test_a_lambda_that_gives_no_awaitable_is_the_handlers_failure(opened):
    async with opened() as hub:
        hub.register("lambda", lambda message: echo(message))
        assert (await hub.request("user", "lambda", 1)).data == 1
        hub.register("plain", lambda message: 1)
        with pytest.raises(HandlerError, match="handler must be an async function"):
            await hub.request("user", "plain")


async def test_what_is_refused(opened, inbox):
    async with opened() as hub:
        hub.register("planner", inbox)
        with pytest.raises(UnknownAgentError, match=r"no agent 'planer' on hub 'default' \(did you mean 'planner'\?") as caught:
            await hub.send("user", "planer")
        assert isinstance(caught.value, LookupError)
        assert caught.value.agent == "planer"
        for call in (lambda: hub.unregister("x"), lambda: hub.subscribe("x", "t"), lambda: hub.unsubscribe("x", "t")):
            with pytest.raises(UnknownAgentError):
                call()
        with pytest.raises(UnknownAgentError):
            await hub.request("user", [])
        for name in ("planner", "", " ", None):
            with pytest.raises(ConfigError, match="agent must be"):
                hub.register(name, inbox)
        for handler in (lambda_free, None, 3):
            with pytest.raises(ConfigError, match="handler must be an async function"):
                hub.register("other", handler)
        for timeout in (0, -1, float("inf"), float("nan"), "1", True):
            with pytest.raises(ConfigError, match="timeout must be"):
                await hub.request("user", "planner", timeout=timeout)
        for sender in ("", None):
            with pytest.raises(ConfigError, match="sender must be"):
                await hub.send(sender, "planner")
        with pytest.raises(ConfigError, match="priority must be"):
            await hub.send("user", "planner", priority=7)
        with pytest.raises(ConfigError, match="headers must be"):
            await hub.send("user", "planner", headers=[1])
        for topic in ("", None):
            with pytest.raises(ConfigError, match="topic must be"):
                await hub.publish("user", topic)
            with pytest.raises(ConfigError, match="topic must be"):
                hub.subscribe("planner", topic)
        assert hub.metrics().sent == 0
    assert inbox == []
    with pytest.raises(ConfigError, match="config must be"):
        open_hub("north")
    with pytest.raises(ConfigError, match="observer must be"):
        open_hub(observer=3)
    with pytest.raises(ConfigError, match="unknown observer|must be"):
        open_hub(HubConfig(observer="nobody"))


def lambda_free(message):
    return message


async def test_every_call_is_a_checkpoint(opened, inbox):
    async with opened() as hub:
        hub.register("planner", inbox)
        with assert_checkpoints():
            await hub.send("user", "planner")
        with assert_checkpoints():
            await hub.request("user", "planner")
        for call in (lambda: hub.broadcast("user"), lambda: hub.publish("user", "t")):
            with assert_checkpoints():
                await call()
        for call in (lambda: hub.send("user", "x"), lambda: hub.request("user", "x")):
            with assert_checkpoints(), pytest.raises(UnknownAgentError):
                await call()
    for call in (lambda: hub.send("user", "x"), lambda: hub.broadcast("user")):
        with assert_checkpoints(), pytest.raises(HubClosedError):
            await call()


async def test_a_cancelled_call_delivers_nothing(opened, inbox):
    async with opened() as hub:
        hub.register("planner", inbox)
        hub.subscribe("planner", "t")
        with trio.CancelScope() as scope:
            scope.cancel()
            await hub.send("user", "planner")
        for call in (lambda: hub.request("user", "planner"), lambda: hub.broadcast("u"), lambda: hub.publish("u", "t")):
            with trio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught
        assert hub.metrics().sent == 0
    assert inbox == []


async def test_an_agent_may_ask_itself_and_others(opened, autojump_clock):
    async with opened(max_handlers=2, timeout=5) as hub:

        async def twice(message):
            if message.data == "again":
                return "inner"
            return (await hub.request("twice", "twice", "again")).data

        hub.register("twice", twice)
        assert (await hub.request("user", "twice", "first")).data == "inner"

    async with opened(max_handlers=1, timeout=5) as hub:
        hub.register("twice", twice)
        with pytest.raises((HandlerError, RequestTimeoutError)):
            await hub.request("user", "twice", "first")
        assert trio.current_time() == 5


async def test_a_hub_can_be_the_processor_of_a_fan_out(opened):
    async with opened(max_handlers=2) as hub:
        hub.register("echo", echo)
        result = await process_parallel(range(10), lambda n: hub.request("user", "echo", n))
        assert [answer.data for answer in result.results] == list(range(10))


async def test_a_handler_can_start_a_run_of_its_own(opened):
    async def count(message):
        async def length(word):
            await trio.lowlevel.checkpoint()
            return len(word)

        result = await process_parallel(message.data, length)
        return sum(result.results)

    async with opened() as hub:
        hub.register("count", count)
        assert (await hub.request("user", "count", ["a", "bc", "def"])).data == 6


async def test_agents_may_sit_on_several_hubs(opened):
    heard = []
    async with opened(name="north") as north, opened(name="south") as south:

        async def forward(message):
            heard.append(message.hub)
            return await south.request("north gate", "gate", message.data)

        async def answer(message):
            heard.append(message.hub)
            return f"{message.data} for {message.sender}"

        north.register("gate", forward)
        south.register("gate", answer)
        reply = await north.request("user", "gate", "bread")
        assert (reply.data, reply.sender, reply.hub) == ("bread for north gate", "gate", "north")
    assert heard == ["north", "south"]


async def test_a_full_mailbox_error_names_the_agent(opened, inbox):
    inbox.close()
    async with opened(max_handlers=1, buffer=1, overflow="error") as hub:
        hub.register("planner", inbox)
        await hub.send("user", "planner")
        await hub.send("user", "planner")
        with pytest.raises(MailboxFullError, match=r"the mailbox of 'planner' is full: it holds 1 messages \(buffer\)") as caught:
            await hub.send("user", "planner")
        assert caught.value.agent == "planner"
        inbox.gate.set()


async def test_a_handler_knows_its_run_and_has_a_key_for_each_message():
    observer = RecordingObserver()

    async def handler(message):
        run = current_run()
        run.emit("handling", of=message.data)
        return run.run_id, run.kind, run.name, run.attempt, run.key

    async with open_hub(HubConfig(name="h"), observer=observer) as hub:
        hub.register("a", handler)
        first = (await hub.request("user", "a", 1)).data
        second = (await hub.request("user", "a", 2)).data
        with pytest.raises(RuntimeError, match="current_run"):
            current_run()
    assert first[1:4] == second[1:4] == ("hub", "a", 1)
    assert first[4] != second[4]
    custom = [event for event in observer.events if event.type == "custom"]
    assert [event.data for event in custom] == [
        {"name": "handling", "data": {"of": 1}},
        {"name": "handling", "data": {"of": 2}},
    ]
    assert {event.run_id for event in custom} == {first[0]}
