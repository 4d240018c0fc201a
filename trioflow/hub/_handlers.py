"""The tasks that run the handler of one agent: few, used again, and none that polls.

A message goes to a sleeping task, or to a new one, while fewer than `max_handlers` are busy. A task that has nothing
to do sleeps until the next message is put into its hand, so an idle agent costs no time.
"""

from collections.abc import Awaitable, Callable
from typing import Any, final

import trio

from trioflow._runtime.calls import TURN, call_user
from trioflow._runtime.errors import foreign_cancelled, is_cancelled, strip_cancelled
from trioflow._runtime.signals import NotAsyncError
from trioflow._text import quote
from trioflow.errors import ConfigError
from trioflow.hub._mailbox import Mailbox
from trioflow.hub._state import HubState
from trioflow.hub.message import Message

Handler = Callable[[Message], Awaitable[Any]]

Settle = Callable[[Message, object, BaseException | None, float], None]
"""Is given what became of a message: the result or the error of its handler, and the seconds it took."""


@final
class HandlerTasks:
    """The tasks of one agent.

    Args:
        name: the agent's.
        handler: what they run.
        mailbox: where the next message comes from.
        settle: takes what became of each.
        state: the hub's.

    Attributes:
        attempts: how often the handler was called.
        busy: tasks that have a message in hand.
    """

    __slots__ = (
        "_call",
        "_dismissed",
        "_handler",
        "_idle",
        "_mailbox",
        "_name",
        "_settle",
        "_state",
        "attempts",
        "busy",
    )

    def __init__(self, name: str, handler: Handler, mailbox: Mailbox, settle: Settle, state: HubState) -> None:
        self._name = name
        self._handler = handler
        self._mailbox = mailbox
        self._settle = settle
        self._state = state
        self._call = call_user(handler, self)
        self._idle: dict[trio.lowlevel.Task, list[Message | None]] = {}
        self._dismissed = False
        self.attempts = 0
        self.busy = 0

    def __repr__(self) -> str:
        return f"<HandlerTasks of {self._name}: {self.busy} busy, {len(self._idle)} idle>"

    def start(self, message: Message) -> bool:
        """Give `message` to a task, unless all are busy; return whether it went."""
        if self.busy >= self._state.config.max_handlers:
            return False
        self.busy += 1
        if self._idle:
            task, hand = self._idle.popitem()
            hand.append(message)
            trio.lowlevel.reschedule(task)
        else:
            self._spawn(message)
        return True

    def dismiss(self) -> None:
        """Let idle tasks end, and the others when they have handled what they have in hand."""
        self._dismissed = True
        idle, self._idle = self._idle, {}
        for task, hand in idle.items():
            hand.append(None)
            trio.lowlevel.reschedule(task)

    def _spawn(self, message: Message) -> None:
        self._state.spawn(self._work, message, name=f"trioflow agent {self._name}")

    @trio.lowlevel.enable_ki_protection
    async def _work(self, message: Message | None) -> None:
        turn = 0
        while message is not None:
            if not await self._handle(message):
                return
            turn = (turn + 1) % TURN
            if not turn and not await self._let_others_run():
                return
            message = self._mailbox.take()
            if message is None:
                message = await self._wait_for_work()

    async def _handle(self, message: Message) -> bool:
        """Call the handler; return whether this task may go on."""
        since = trio.current_time()
        try:
            result = await self._call(message)
        except BaseException as error:  # noqa: BLE001, ASYNC103 - judged below; an `ErrorCollector` costs more
            return self._fail(message, error, since)
        self._settle(message, result, None, trio.current_time() - since)
        return True

    def _fail(self, message: Message, error: BaseException, since: float) -> bool:
        error = strip_cancelled(error)
        if isinstance(error, trio.Cancelled):
            self._state.spawn(self._judge, message, error, since, name="trioflow judge")
            return False
        if isinstance(error, NotAsyncError):
            allowed = "an async function, or a lambda that gives an awaitable"
            error = ConfigError.refusing("handler", self._handler, allowed)
        self._settle(message, None, error, trio.current_time() - since)
        if isinstance(error, Exception):
            return True
        self._state.crash(error)
        return False

    async def _let_others_run(self) -> bool:
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:  # noqa: ASYNC103 - of the nursery, or of a scope that a handler left open here
            self._relieve()
            return False  # noqa: ASYNC104 - the same
        return True

    async def _wait_for_work(self) -> Message | None:
        self.busy -= 1
        if self._dismissed:
            return None
        task = trio.lowlevel.current_task()
        hand: list[Message | None] = []
        self._idle[task] = hand

        def abort(_: object) -> trio.lowlevel.Abort:
            del self._idle[task]
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        except trio.Cancelled:  # noqa: ASYNC103 - the same: this task has nothing in hand, and ends
            return None  # noqa: ASYNC104 - the same
        return hand[0]

    @trio.lowlevel.enable_ki_protection
    async def _judge(self, message: Message, error: BaseException, since: float) -> None:
        """Say what a `Cancelled` was that came out of the handler: around this task are only the hub's scopes."""
        if not is_cancelled():
            error = foreign_cancelled(error, f"the handler of agent {quote(self._name)}")
        self._settle(message, None, error, trio.current_time() - since)
        self._relieve()

    def _relieve(self) -> None:
        """Put another task in the place of one that ended."""
        message = self._mailbox.take()
        if message is None:
            self.busy -= 1
        else:
            self._spawn(message)
