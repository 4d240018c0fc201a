"""The tasks that run the handler of one agent: reused, and never polling.

A message goes to a sleeping task, or to a new one, while fewer than `max_handlers` are busy. An idle task sleeps
until it is handed the next message, so an idle agent costs no time; tasks that stay idle for a while end.

Messages are isolated from each other: each is handled in its own context, and a task in which a handler left a
cancel scope or a nursery open is replaced.
"""

from collections.abc import Awaitable, Callable
from typing import Any, final

import trio

from trioflow._runtime.calls import awaiting, call_user
from trioflow._runtime.errors import foreign_cancelled, is_cancelled, strip_cancelled
from trioflow._runtime.signals import NotAsyncError
from trioflow._text import quote
from trioflow.config import HubConfig
from trioflow.errors import ConfigError
from trioflow.hub._mailbox import Mailbox
from trioflow.hub._state import HubState
from trioflow.hub.message import Message, MessageType
from trioflow.policies import with_timeout

Handler = Callable[[Message], Awaitable[Any]]

Settle = Callable[[Message, object, BaseException | None, float], None]
"""Called with a message, the result or the error of its handler, and when the handler was called."""


@final
class HandlerTasks:
    """The tasks of one agent.

    Args:
        name: the agent's name.
        handler: the agent's handler.
        config: the agent's limits.
        state: the hub's state.
        mailbox: the source of further messages.
        settle: called with the outcome of each message.

    Attributes:
        attempts: how often the handler was called.
        busy: tasks that are handling a message.
        on_quiet: called when no task is busy any more.
        watched: whether the reaper watches them.
    """

    __slots__ = (
        "_call",
        "_dismissed",
        "_handler",
        "_idle",
        "_limit",
        "_mailbox",
        "_name",
        "_settle",
        "_spare",
        "_state",
        "attempts",
        "busy",
        "on_quiet",
        "watched",
    )

    def __init__(
        self,
        name: str,
        handler: Handler,
        config: HubConfig,
        state: HubState,
        *,
        mailbox: Mailbox,
        settle: Settle,
    ) -> None:
        self._name = name
        self._handler = handler
        self._limit = config.max_handlers
        self._mailbox = mailbox
        self._settle = settle
        self._state = state
        seconds = config.handler_timeout
        call = awaiting(handler)
        self._call = call_user(call if seconds is None else with_timeout(call, seconds), self)
        self._idle: dict[trio.lowlevel.Task, list[Message | None]] = {}
        # The fewest idle tasks at any moment since the last reaping: those were not needed.
        self._spare = 0
        self._dismissed = False
        self.attempts = 0
        self.busy = 0
        self.on_quiet: Callable[[], object] | None = None
        self.watched = False

    def __repr__(self) -> str:
        return f"<HandlerTasks of {self._name}: {self.busy} busy, {len(self._idle)} idle>"

    def start(self, message: Message) -> bool:
        """Hand `message` to a task, unless all are busy; return whether it was handed over."""
        if self.busy >= self._limit:
            return False
        self.busy += 1
        idle = self._idle
        if not idle:
            self._spawn(message)
            return True
        # The task that worked last, so that the others can be reaped.
        task, hand = idle.popitem()
        self._spare = min(self._spare, len(idle))
        task.context = self._state.context_for(message)
        hand.append(message)
        trio.lowlevel.reschedule(task)
        return True

    def dismiss(self) -> None:
        """End idle tasks now, and busy ones after their current message."""
        self._dismissed = True
        self._end_idle(len(self._idle))

    def end_spare(self) -> bool:
        """End the tasks that have been idle since the last call; return whether idle ones are left."""
        self._end_idle(self._spare)
        self._spare = len(self._idle)
        return bool(self._idle)

    def _end_idle(self, number: int) -> None:
        for task in list(self._idle)[:number]:
            self._idle.pop(task).append(None)
            trio.lowlevel.reschedule(task)

    def _spawn(self, message: Message) -> None:
        self._state.spawn_for(message, self._work, f"trioflow agent {self._name}")

    @trio.lowlevel.enable_ki_protection
    async def _work(self, message: Message | None) -> None:
        task = trio.lowlevel.current_task()
        scopes = _innermost_scope(task)
        hand: list[Message | None] = []
        # The hub may have been cancelled before the task that watches for it has started.
        self._state.closed = self._state.closed or is_cancelled()
        while message is not None and not self._state.closed:
            if message.type is MessageType.REQUEST and not message.expects_answer:
                # Its requester has given up, or the agent has gone, since it was handed over.
                self._state.ledger.discarded(message)
            else:
                await self._handle(message)
            if self._state.closed:
                return
            if _innermost_scope(task) is not scopes:
                self._replace()
                return
            message = self._mailbox.take()
            if message is None:
                message = await self._wait_for_work(task, hand)
            else:
                task.context = self._state.context_for(message)
                # The new context takes effect after a checkpoint, which also lets other tasks run.
                await trio.lowlevel.cancel_shielded_checkpoint()
        if message is not None:
            self._state.ledger.discarded(message)

    async def _handle(self, message: Message) -> None:
        since = self._state.ledger.now()
        try:
            result = await self._call(message)
        except BaseException as error:  # noqa: BLE001, ASYNC103 - judged by _fail; an `ErrorCollector` costs more
            self._fail(message, error, since)
        else:
            self._settle(message, result, None, since)

    def _fail(self, message: Message, error: BaseException, since: float) -> None:
        error = strip_cancelled(error)
        if isinstance(error, NotAsyncError):
            allowed = "an async function, or a lambda that returns an awaitable"
            error = ConfigError.refusing("handler", self._handler, allowed)
        elif isinstance(error, trio.Cancelled) and not self._state.closed:
            # Only the hub's scopes enclose this task, and when one of them is cancelled the hub is closed.
            error = foreign_cancelled(error, f"the handler of agent {quote(self._name)}")
        self._settle(message, None, error, since)
        if not isinstance(error, Exception | trio.Cancelled):
            self._state.crash(error)

    async def _wait_for_work(self, task: trio.lowlevel.Task, hand: list[Message | None]) -> Message | None:
        self._rest()
        if self._dismissed:
            return None
        self._idle[task] = hand
        if not self.watched:
            self._state.reaper.watch(self)

        # Cancellation does not wake it: ten thousand tasks that end in one turn of the scheduler would block the
        # loop for a fifth of a second. The closing hub dismisses them in batches.
        await trio.lowlevel.wait_task_rescheduled(_stay_asleep)
        return hand.pop()

    def _replace(self) -> None:
        """Start a task in place of this one, if there is another message."""
        message = self._mailbox.take()
        if message is None:
            self._rest()
        else:
            self._spawn(message)

    def _rest(self) -> None:
        self.busy -= 1
        if not self.busy and self.on_quiet is not None:
            self.on_quiet()


def _stay_asleep(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def _innermost_scope(task: trio.lowlevel.Task) -> object:
    """Return the innermost cancel scope of a task, to detect that a handler left a scope or a nursery open.

    Trio has no public name for it; anyio reads the same attribute. If it is missing, nothing is detected.
    """
    return getattr(task, "_cancel_status", None)
