"""One registered agent: its mailbox, the tasks that run its handler, and who waits for its answers.

A message goes to a task at once while fewer than `max_handlers` are busy, else into the mailbox. A task that has
nothing to do sleeps until the next message is put into its hand, so an idle agent costs no time.
"""

from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, final

import trio

from trioflow._runtime.calls import TURN, call_user
from trioflow._runtime.errors import ErrorCollector, foreign_cancelled, is_cancelled, strip_cancelled
from trioflow._runtime.signals import NotAsyncError
from trioflow._text import quote
from trioflow.config import HubConfig
from trioflow.errors import ConfigError, HandlerError, HubError
from trioflow.hub._account import Account
from trioflow.hub._mailbox import Mailbox
from trioflow.hub._waiting import Waiting
from trioflow.hub.message import Message, MessageType

__all__ = ("Agent", "Ground", "Handler")

Handler = Callable[[Message], Awaitable[Any]]


@final
class Ground:
    """What the agents of one hub share.

    Args:
        config: the hub's.
        account: the hub's.
        context: the context that handlers begin in: that of who opened the hub, not of who sends first.

    Attributes:
        nursery: where the handlers run.
        errors: what stops the hub.
    """

    __slots__ = ("_context", "account", "config", "errors", "nursery")

    nursery: trio.Nursery

    def __init__(self, config: HubConfig, account: Account, context: Context) -> None:
        self.config = config
        self.account = account
        self.errors = ErrorCollector()
        self._context = context

    def __repr__(self) -> str:
        return f"<Ground of {self.config.name}>"

    def spawn(self, fn: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        """Start a task."""
        self._context.run(lambda: self.nursery.start_soon(fn, *args, name=name))

    def break_off(self, fault: BaseException) -> None:
        """Stop everything: `fault` is what the hub ends with."""
        self.errors.add(fault)
        self.nursery.cancel_scope.cancel()


@final
class Agent:
    """An agent of a hub, until it is unregistered.

    Args:
        name: by which messages reach it.
        handler: what is given them.
        ground: what it shares with others.

    Attributes:
        attempts: how often the handler was called.
        mailbox: what waits for a handler.
        topics: what it has subscribed to.
    """

    __slots__ = (
        "_answers",
        "_busy",
        "_call",
        "_gone",
        "_ground",
        "_handler",
        "_idle",
        "attempts",
        "mailbox",
        "name",
        "topics",
    )

    def __init__(self, name: str, handler: Handler, ground: Ground) -> None:
        self.name = name
        self.attempts = 0
        self.mailbox = Mailbox(ground.config.buffer)
        self.topics: set[str] = set()
        self._handler = handler
        self._call = call_user(handler, self)
        self._ground = ground
        self._answers: dict[str, Waiting[Message]] = {}
        self._busy = 0
        self._idle: dict[trio.lowlevel.Task, list[Message | None]] = {}
        self._gone = False

    def __repr__(self) -> str:
        return f"<Agent {self.name}: {self._busy} in hand, {self.mailbox!r}>"

    # What the hub calls: plain methods, each leaves the agent's state consistent.

    def accept(self, message: Message) -> bool:
        """Give `message` to a task, or put it into the mailbox; return whether it went."""
        if self._busy >= self._ground.config.max_handlers:
            return self.mailbox.put(message)
        self._busy += 1
        if self._idle:
            task, hand = self._idle.popitem()
            hand.append(message)
            trio.lowlevel.reschedule(task)
        else:
            self._ground.spawn(self._work, message, name=f"trioflow agent {self.name}")
        return True

    def stand_in_line(self, message: Message, since: float) -> Waiting[None]:
        """Let `message` in as soon as there is room; return what can be waited for."""
        account = self._ground.account
        room: Waiting[None] = Waiting()

        def end(why: HubError | None) -> None:
            if why is None:
                account.delivered(message, since)
                room.tell(None)
            else:
                account.undelivered(message, why, since)
                room.fail(why)

        self.mailbox.stand_in_line(message, end)
        return room

    def expect(self, message: Message) -> Waiting[Message]:
        """Return what waits for the answer to `message`; whoever stops waiting calls `forget`."""
        self._ground.account.pending += 1
        answer: Waiting[Message] = Waiting()
        self._answers[message.id] = answer
        return answer

    def forget(self, message: Message) -> None:
        """Expect the answer to `message` no more."""
        self._ground.account.pending -= 1
        self._answers.pop(message.id, None)

    def leave(self, why: Callable[[], HubError]) -> None:
        """Take no more messages, and let go of those that are not in hand; those who wait are told why."""
        self._gone = True
        for message in self.mailbox.empty():
            self._ground.account.discarded(message)
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.fail(why())
        self.mailbox.dismiss_line(why)
        idle, self._idle = self._idle, {}
        for task, hand in idle.items():
            hand.append(None)
            trio.lowlevel.reschedule(task)

    # The tasks that run the handler.

    @trio.lowlevel.enable_ki_protection
    async def _work(self, message: Message | None) -> None:
        turn = 0
        while message is not None:
            if not await self._handle(message):
                return
            turn = (turn + 1) % TURN
            if not turn and not await self._let_others_run():
                return
            message = self.mailbox.take()
            if message is None:
                message = await self._wait_for_work()

    async def _handle(self, message: Message) -> bool:
        """Call the handler; return whether this task may go on."""
        since = trio.current_time()
        result: Any = None
        fault: BaseException | None = None
        try:
            result = await self._call(message)
        except BaseException as error:  # noqa: BLE001, ASYNC103 - judged below; a true Cancelled is the nursery's too
            fault = strip_cancelled(error)
        try:
            if isinstance(fault, NotAsyncError):
                allowed = "an async function, or a lambda that gives an awaitable"
                fault = ConfigError.refusing("handler", self._handler, allowed)
            if isinstance(fault, trio.Cancelled):
                self._ground.spawn(self._judge, message, fault, since, name="trioflow judge")
                return False
            self._settle(message, result, fault, since)
            if fault is None or isinstance(fault, Exception):
                return True
            self._ground.break_off(fault)
            return False
        finally:
            # The traceback of an error leads here: whoever keeps it must not keep the result and the agent.
            del fault, result

    async def _let_others_run(self) -> bool:
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:  # noqa: ASYNC103 - of the nursery, or of a scope that a handler left open here
            self._relieve()
            return False  # noqa: ASYNC104 - the same
        return True

    async def _wait_for_work(self) -> Message | None:
        self._busy -= 1
        if self._gone:
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
            error = foreign_cancelled(error, f"the handler of agent {quote(self.name)}")
        self._settle(message, None, error, since)
        self._relieve()

    def _relieve(self) -> None:
        """Put another task in the place of one that ended."""
        message = self.mailbox.take()
        if message is None:
            self._busy -= 1
        else:
            self._ground.spawn(self._work, message, name=f"trioflow agent {self.name}")

    def _settle(self, message: Message, result: object, fault: BaseException | None, since: float) -> None:
        answer = self._answers.get(message.id)
        if answer is not None and fault is None:
            answer.tell(_answer(message, result))
        elif answer is not None and not isinstance(fault, trio.Cancelled):
            failure = HandlerError(self.name, message.id)
            failure.__cause__ = fault
            answer.fail(failure)
        self._ground.account.handled(message, fault, since)


def _answer(message: Message, result: object) -> Message:
    """Return what a handler returned as the answer to `message`."""
    if not isinstance(result, Message):
        return message.reply(result)
    if result.type is MessageType.RESPONSE and result.reply_to == message.id:
        return result
    # A message that another hub, or another agent, has answered with: what it says is the answer.
    return message.reply(result.data, headers=result.headers)
