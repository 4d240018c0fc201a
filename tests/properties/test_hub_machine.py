"""A hub under whatever agents do to it: no request is lost, no message handled twice, and no task left.

The machine steers a hub in a thread of its own, where time stands still unless a rule lets it pass.
`TRIOFLOW_EXAMPLES` is how many times fifty steps are made.
"""

import os
import queue
import threading
from collections import Counter
from contextlib import suppress

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
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
