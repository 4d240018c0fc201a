"""Ten thousand agents: nothing holds the loop."""

import gc

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trioflow import HubConfig, UnknownAgentError, gather_requests, open_hub

MANY = 10_000


@pytest.fixture
def no_collection():
    """Keep the garbage collector out: what it takes for a heap of this size is not the hub's."""
    gc.disable()
    yield
    gc.enable()


class Slices:
    """The turns of a task that is always ready: into so many slices others cut their work."""

    def __init__(self):
        self.count = 0

    async def watch(self):
        while True:
            await trio.lowlevel.checkpoint()
            self.count += 1


@pytest.mark.slow
@pytest.mark.parametrize("what", ["broadcast", "publish", "gather", "leave"])
@pytest.mark.usefixtures("no_collection")
async def test_telling_many_lets_others_run(what):
    async def echo(message):
        return message.data

    slices = Slices()
    async with trio.open_nursery() as nursery:
        async with open_hub(HubConfig(observer="noop")) as hub:
            names = [f"agent {number}" for number in range(MANY)]
            for name in names:
                hub.register(name, echo)
                hub.subscribe(name, "news")
            if what != "leave":
                nursery.start_soon(slices.watch)
            if what == "broadcast":
                assert await hub.broadcast("user") == MANY
            elif what == "publish":
                assert await hub.publish("user", "news") == MANY
            elif what == "gather":
                assert len((await gather_requests(hub, "user", names, 1)).results) == MANY
            else:
                await hub.broadcast("user")
                await wait_all_tasks_blocked()
                nursery.start_soon(slices.watch)
            while hub.metrics().handled < MANY:
                await trio.lowlevel.checkpoint()
        assert hub.live_metrics.value.handled == MANY
        nursery.cancel_scope.cancel()
    # How long a slice is in milliseconds is for `benchmarks/bench_hub.py` to say.
    assert slices.count >= 8


async def test_near_names_are_looked_for_among_a_thousand_at_most(opened, inbox):
    async with opened() as hub:
        for number in range(1_000):
            hub.register(f"agent {number}", inbox)
        with pytest.raises(UnknownAgentError, match="did you mean 'agent 77"):
            await hub.send("user", "agent 77x")
        hub.register("one more", inbox)
        with pytest.raises(UnknownAgentError, match=r"no agent 'agent 77x' on hub 'default' \(1,001 are known\)"):
            await hub.send("user", "agent 77x")


async def test_who_goes_while_many_are_told_is_passed_by(inbox, monkeypatch):
    monkeypatch.setattr("trioflow.hub._spread.AT_ONCE", 0.0)
    async with open_hub(HubConfig(observer="noop")) as hub, trio.open_nursery() as nursery:
        for number in range(40):
            hub.register(f"agent {number}", inbox)

        async def leave():
            await trio.lowlevel.checkpoint()
            hub.unregister("agent 39")

        nursery.start_soon(leave)
        with trio.CancelScope() as scope:
            delivered = await hub.broadcast("user")
        assert not scope.cancelled_caught
        assert delivered == 39
        assert hub.metrics().sent == 39


async def test_a_broadcast_that_has_begun_goes_on_to_the_last(inbox, monkeypatch):
    monkeypatch.setattr("trioflow.hub._spread.AT_ONCE", 0.0)
    async with open_hub(HubConfig(observer="noop")) as hub, trio.open_nursery() as nursery:
        for number in range(40):
            hub.register(f"agent {number}", inbox)
        delivered = []
        scope = trio.CancelScope()

        async def tell():
            with scope:
                delivered.append(await hub.broadcast("user"))

        nursery.start_soon(tell)
        while not hub.metrics().sent:
            await trio.lowlevel.checkpoint()
        scope.cancel()
        await wait_all_tasks_blocked()
    assert delivered == [40]
    assert len(inbox) == 40
