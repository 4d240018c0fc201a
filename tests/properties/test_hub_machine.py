"""A hub under whatever agents do to it: no request is lost, no message handled twice, and no task left.

The machine steers a hub in a thread of its own, where time stands still unless a rule lets it pass.
`TRIOFLOW_EXAMPLES` is how many times fifty steps are made, `TRIOFLOW_PROGRAMS` how many programs are run whose outer
scope is cancelled at any tick.
"""

import os
import queue
import threading
from collections import Counter
from contextlib import suppress
from itertools import count

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from loguru import logger
from trio.testing import MockClock, wait_all_tasks_blocked

from trioflow import (
    AgentGoneError,
    HandlerError,
    HubClosedError,
    HubConfig,
    MailboxFullError,
    Priority,
    RequestTimeoutError,
    UnknownAgentError,
    open_hub,
)
from trioflow.hub.message import AWAITED

STEPS = 50
EXAMPLES = int(os.environ.get("TRIOFLOW_EXAMPLES", "200"))
NAMES = ("a", "b", "c")
ERRORS = (
    AgentGoneError, HandlerError, HubClosedError, MailboxFullError, RequestTimeoutError, UnknownAgentError
)  # fmt: skip
agents = st.sampled_from(NAMES)
behaviours = st.sampled_from(["answer", "fail", "wait", "sleep", "ask a", "ask b", "send c", "stale"])


class Machine(RuleBasedStateMachine):
    @initialize(
        buffer=st.integers(1, 3), max_handlers=st.integers(1, 3), overflow=st.sampled_from(["wait", "drop", "error"])
    )
    def open(self, buffer, max_handlers, overflow):
        self.config = HubConfig(
            buffer=buffer, max_handlers=max_handlers, overflow=overflow, timeout=5, drain_timeout=20, observer="noop"
        )
        self.handled = Counter()
        self.ends = {}
        self.asked = 0
        self.scopes = []
        self.stale = None
        self.failure = None
        ready = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.run_trio, args=(ready,))
        self.thread.start()
        self.token = ready.get(timeout=10)

    def run_trio(self, ready):
        self.clock = MockClock()
        try:
            trio.run(self.main, ready, clock=self.clock)
        except BaseException as error:
            self.failure = error
            ready.put(None)

    async def main(self, ready):
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                self.stale = error
        self.leave, self.gate = trio.Event(), trio.Event()
        async with trio.open_nursery() as self.outside:
            async with open_hub(self.config) as self.hub:
                ready.put(trio.lowlevel.current_trio_token())
                await self.leave.wait()
            await wait_all_tasks_blocked()
            self.left = len(self.outside.child_tasks)

    async def handle(self, message):
        self.handled[message.id] += 1
        what, _, whom = message.data[0].partition(" ")
        if what == "fail":
            raise ValueError(message.data)
        if what == "wait":
            await self.gate.wait()
        if what == "sleep":
            await trio.sleep(2)
        if what == "stale":
            raise self.stale
        if what == "ask":
            return (await self.hub.request(message.recipient, whom, ("answer", None), timeout=3)).data
        if what == "send":
            await self.hub.send(message.recipient, whom, ("answer", None))
        return message.data

    def do(self, fn, *args):
        """Do something in the hub's thread, and let everybody there come to rest."""

        async def step():
            try:
                result = fn(*args)
                if result is not None:
                    await result
            except ERRORS:
                pass
            await wait_all_tasks_blocked()

        trio.from_thread.run(step, trio_token=self.token)

    async def ask(self, number, scope, call, *args, **settings):
        end = "cancelled"
        with scope:
            try:
                answer = await call("user", *args, **settings)
                end = "answered" if answer is True or answer is False else answer
            except ERRORS as error:
                end = type(error).__name__
        assert number not in self.ends
        self.ends[number] = end

    def start(self, call, *args, **settings):
        scope = trio.CancelScope()
        number = self.asked
        self.asked += 1
        self.scopes.append(scope)
        self.do(lambda: self.outside.start_soon(lambda: self.ask(number, scope, call, *args, **settings)))
        return number

    @rule(name=agents)
    def register(self, name):
        def register():
            if name not in self.hub.agents():
                self.hub.register(name, self.handle)

        self.do(register)

    @rule(name=agents)
    def unregister(self, name):
        self.do(lambda: self.hub.unregister(name))

    @rule(name=agents)
    def subscribe(self, name):
        self.do(lambda: self.hub.subscribe(name, "news"))

    @rule(name=agents, what=behaviours, priority=st.sampled_from(Priority))
    def send(self, name, what, priority):
        self.start(self.hub.send, name, (what, None), priority=priority)

    @rule(name=agents, what=behaviours, timeout=st.sampled_from([None, 1, 10]))
    def request(self, name, what, timeout):
        number = self.asked
        self.start(self.hub.request, name, (what, number), timeout=timeout)

    @rule(what=behaviours)
    def publish(self, what):
        self.do(lambda: self.hub.publish("user", "news", (what, None)))

    @rule(what=behaviours)
    def broadcast(self, what):
        self.do(lambda: self.hub.broadcast("a", (what, None)))

    @rule(choice=st.integers(0, 1_000))
    def cancel(self, choice):
        if self.scopes:
            self.do(self.scopes[choice % len(self.scopes)].cancel)

    @rule()
    def let_go(self):
        def open_gate():
            self.gate.set()
            self.gate = trio.Event()

        self.do(open_gate)

    @rule(seconds=st.integers(1, 6))
    def pass_time(self, seconds):
        async def jump():
            self.clock.jump(seconds)

        self.do(jump)

    @invariant()
    def the_account_adds_up(self):
        if not hasattr(self, "token"):
            return
        metrics = self.hub.live_metrics.value
        assert all(count == 1 for count in self.handled.values())
        assert 0 <= metrics.sent - metrics.handled - metrics.failed - metrics.dropped == self.hub._ledger.open
        assert all(depth <= self.config.buffer for depth in self.hub.agents().values())
        assert metrics.pending >= 0

    def teardown(self):
        if not hasattr(self, "token"):
            return
        trio.from_thread.run_sync(self.leave.set, trio_token=self.token)
        # Whoever still waits for something gets it, or the hub's patience ends.
        while self.thread.is_alive():
            with suppress(trio.RunFinishedError, trio.Cancelled):
                trio.from_thread.run_sync(self.clock.jump, 25, trio_token=self.token)
            self.thread.join(0.001)
        assert self.failure is None
        metrics = self.hub.live_metrics.value
        assert metrics.sent == metrics.handled + metrics.failed + metrics.dropped
        assert metrics.pending == 0
        assert self.left == 0, "a task was left"
        assert sorted(self.ends) == list(range(self.asked)), "a request was lost"
        for number, end in self.ends.items():
            if not isinstance(end, str) and end.data[1] is not None:
                assert end.data[1] == number, "an answer went astray"


@pytest.mark.timeout(300)
def test_whatever_agents_do_the_account_adds_up():
    Machine.TestCase.settings = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
    )
    Machine.TestCase("runTest").runTest()


# Whole programs, cancelled at any tick.

PROGRAMS = int(os.environ.get("TRIOFLOW_PROGRAMS", "300"))
ticks = st.integers(0, 25)
calls = st.tuples(
    st.sampled_from(["send", "send", "request", "request", "publish", "broadcast", "unregister", "retire", "register"]),
    agents,
    st.sampled_from(["answer", "fail", "sleep", "tick", "ask a", "ask b", "send c", "stale", "shield", "leak"]),
    st.none() | ticks,  # when the call is cancelled
)


class Program:
    """Several clients at once on a hub in a scope that is cancelled after some ticks, maybe while its body is shielded."""

    def __init__(self, config, clients, cancel_at, end):
        self.config = config
        self.clients = clients
        self.cancel_at = cancel_at
        self.end = end
        self.numbers = count()
        self.starts = Counter()
        self.undelivered = set()
        self.late = self.for_nobody = 0

    async def run(self):
        self.outer = trio.CancelScope()
        async with trio.open_nursery() as clients:
            with suppress(ZeroDivisionError), self.outer:
                async with open_hub(self.config) as self.hub:
                    for name in NAMES:
                        self.hub.register(name, self.handle)
                        self.hub.subscribe(name, "news")
                    for client in self.clients:
                        clients.start_soon(self.be_client, client)
                    if self.cancel_at is not None:
                        clients.start_soon(self.cancel)
                    await self.body()
            self.tasks = len(self.hub._state.nursery.child_tasks)
        metrics = self.hub.live_metrics.value
        assert metrics.sent == metrics.handled + metrics.failed + metrics.dropped
        assert metrics.pending == self.tasks == 0
        assert all(number == 1 for number in self.starts.values())
        both = self.undelivered & set(self.starts)
        assert not both, "raised and handled"
        assert not self.late, "started after the end"
        assert not self.for_nobody, "a request was handled that nobody waited for"
        assert not AWAITED

    async def body(self):
        if self.end == "shield":
            with trio.CancelScope(shield=True):
                for _ in range(40):
                    await trio.lowlevel.checkpoint()
                for name in NAMES:
                    with suppress(*ERRORS):
                        await self.hub.request("body", name, (next(self.numbers), "answer"), timeout=2)
        for _ in range(30):
            await trio.lowlevel.checkpoint()
        if self.end == "raise":
            raise ZeroDivisionError

    async def cancel(self):
        for _ in range(self.cancel_at):
            await trio.lowlevel.cancel_shielded_checkpoint()
        self.outer.cancel()

    async def be_client(self, client):
        for what, name, behaviour, after in client:
            scope = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                if after is not None:
                    nursery.start_soon(self.cancel_call, scope, after)
                with scope, suppress(ValueError):
                    await self.call(what, name, behaviour)
                nursery.cancel_scope.cancel()

    async def cancel_call(self, scope, after):
        for _ in range(after):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async def call(self, what, name, behaviour):
        hub, number = self.hub, next(self.numbers)
        data = (number, behaviour)
        with suppress(*ERRORS):
            if what == "register":
                hub.register(name, self.handle)
            elif what == "unregister":
                hub.unregister(name)
            elif what == "retire":
                await hub.retire(name)
            elif what in {"publish", "broadcast"}:
                await (hub.publish("user", "news", (None, behaviour)) if what == "publish" else hub.broadcast("a", (None, behaviour)))
            elif what == "request":
                await hub.request("user", name, data, timeout=1)
            else:
                await self.send("user", name, data)

    async def send(self, sender, name, data):
        delivered = False
        try:
            delivered = await self.hub.send(sender, name, data)
        finally:
            if not delivered:
                self.undelivered.add(data[0])

    async def handle(self, message):
        self.late += self.outer.cancel_called
        self.for_nobody += message.type == "request" and not message.expects_answer
        number, behaviour = message.data
        if number is not None:
            self.starts[number] += 1
        what, _, whom = behaviour.partition(" ")
        if what == "fail":
            raise ValueError(behaviour)
        if what == "sleep":
            await trio.sleep(0.5)
        if what == "tick":
            await trio.lowlevel.checkpoint()
        if what == "stale":
            raise STALE[0]
        if what == "leak":
            trio.CancelScope(deadline=trio.current_time() + 0.2).__enter__()
        if what == "shield":
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
        if what == "ask":
            await self.hub.request(message.recipient, whom, (next(self.numbers), "answer"))
        if what == "send":
            await self.send(message.recipient, whom, (next(self.numbers), "tick"))
        return number


STALE = []


async def make_stale():
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            STALE.append(error)


@pytest.mark.timeout(0)
@settings(max_examples=PROGRAMS, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    buffer=st.integers(1, 2),
    max_handlers=st.integers(1, 2),
    overflow=st.sampled_from(["wait", "wait", "drop", "error"]),
    clients=st.lists(st.lists(calls, max_size=4), min_size=1, max_size=5),
    cancel_at=st.none() | st.integers(0, 60),
    end=st.sampled_from(["peace", "shield", "raise"]),
)
def test_no_message_is_both_raised_and_handled(buffer, max_handlers, overflow, clients, cancel_at, end):
    if not STALE:
        trio.run(make_stale)
    config = HubConfig(
        buffer=buffer, max_handlers=max_handlers, overflow=overflow, timeout=2, drain_timeout=5, observer="noop"
    )
    program = Program(config, clients, cancel_at, end)
    logger.disable("trioflow")
    try:
        trio.run(program.run, clock=MockClock(autojump_threshold=0))
    finally:
        logger.enable("trioflow")
