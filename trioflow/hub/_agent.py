"""One registered agent: how a message gets to it, at once, after a wait for room or not at all; and who waits for
its answers.
"""

from collections.abc import Callable
from functools import partial
from typing import final

import trio

from trioflow._text import quote
from trioflow.errors import HandlerError, HubError, MailboxFullError, RequestTimeoutError
from trioflow.hub._handlers import Handler, HandlerTasks
from trioflow.hub._mailbox import Mailbox
from trioflow.hub._promise import Promise
from trioflow.hub._state import HubState
from trioflow.hub.message import Message, MessageType


@final
class Agent:
    """An agent of a hub, until it is unregistered.

    Args:
        name: by which messages reach it.
        handler: what is given them.
        state: what it shares with others.

    Attributes:
        mailbox: what waits for a handler.
        tasks: what runs it.
        topics: what it has subscribed to.
    """

    __slots__ = ("_answers", "_state", "mailbox", "name", "tasks", "topics")

    def __init__(self, name: str, handler: Handler, state: HubState) -> None:
        self.name = name
        self.mailbox = Mailbox(state.config.buffer, state.ledger)
        self.tasks = HandlerTasks(name, handler, self.mailbox, self._settle, state)
        self.topics: set[str] = set()
        self._answers: dict[str, Promise[Message]] = {}
        self._state = state

    def __repr__(self) -> str:
        return f"<Agent {self.name}: {self.tasks.busy} in hand, {self.mailbox!r}>"

    def offer(self, message: Message) -> bool:
        """Deliver `message` without waiting, if there is room; return whether it went."""
        if not self.tasks.start(message) and not self.mailbox.put(message):
            return False
        self._state.ledger.accepted(message)
        return True

    def refuse(self, message: Message) -> MailboxFullError:
        """Drop `message`, for which there is no room; return the error that says so."""
        error = self._full()
        self._state.ledger.refused(message, error)
        return error

    async def send(self, message: Message) -> bool:
        """Deliver `message`, as `overflow` says where there is no room; return whether it was delivered.

        Cancellation: not delivered.
        """
        if self.offer(message):
            return True
        overflow = self._state.config.overflow
        if overflow == "wait":
            await self._wait_for_room(message)
            return True
        if overflow == "error":
            raise self.refuse(message)
        self.refuse(message)
        return False

    async def request(self, message: Message, seconds: float) -> Message:
        """Deliver `message`, and return the answer.

        Cancellation: withdrawn, or the answer is dropped.
        """
        ledger, since = self._state.ledger, trio.current_time()
        answer = self._answers[message.id] = Promise[Message](partial(self.mailbox.withdraw, message))
        ledger.pending += 1
        try:
            if not self.offer(message):
                if self._state.config.overflow != "wait":
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    raise self.refuse(message)
                ledger.waiting()
                self.mailbox.wait_in_line(message, None)
            with trio.move_on_after(seconds):
                return await answer.wait()
            late = f"no answer from {quote(self.name)} within {seconds:g} s"
            raise RequestTimeoutError(late, agent=self.name, timeout=seconds)
        finally:
            ledger.pending -= 1
            self._answers.pop(message.id, None)
            if answer.withdrawn == "line":
                ledger.not_admitted(message, None, trio.current_time() - since)
            elif answer.withdrawn == "mailbox":
                self.mailbox.admit()
                ledger.discarded(message)

    def leave(self, why: Callable[[], HubError]) -> None:
        """Take no more messages, and let go of those that are not in hand; those who wait are told why."""
        ledger = self._state.ledger
        for message in self.mailbox.clear():
            ledger.discarded(message)
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.reject(why())
        self.mailbox.dismiss_line(why)
        self.tasks.dismiss()

    async def _wait_for_room(self, message: Message) -> None:
        """Wait in line.

        Cancellation: not delivered.
        """
        ledger, seconds = self._state.ledger, self._state.config.timeout
        since = trio.current_time()
        room = Promise[None](partial(self.mailbox.withdraw, message))
        ledger.waiting()
        self.mailbox.wait_in_line(message, room)
        scope = trio.move_on_after(seconds)
        try:
            with scope:
                return await room.wait()
        finally:
            if room.withdrawn:
                error = self._full(f" after {seconds:g} s") if scope.cancelled_caught else None
                ledger.not_admitted(message, error, trio.current_time() - since)
        raise self._full(f" after {seconds:g} s")

    def _full(self, after: str = "") -> MailboxFullError:
        size = self._state.config.buffer
        message = f"the mailbox of {quote(self.name)} is full{after}: it holds {size} messages (buffer)"
        return MailboxFullError(message, agent=self.name)

    def _settle(self, message: Message, result: object, error: BaseException | None, seconds: float) -> None:
        answer = self._answers.get(message.id)
        if answer is not None and error is None:
            answer.resolve(_answer(message, result))
        elif answer is not None and not isinstance(error, trio.Cancelled):
            failure = HandlerError(self.name, message.id)
            failure.__cause__ = error
            answer.reject(failure)
        self._state.ledger.handled(message, error, seconds)


def _answer(message: Message, result: object) -> Message:
    """Return what a handler returned as the answer to `message`."""
    if not isinstance(result, Message):
        return message.reply(result)
    if result.type is MessageType.RESPONSE and result.reply_to == message.id:
        return result
    # A message that another hub, or another agent, has answered with: what it says is the answer.
    return message.reply(result.data, headers=result.headers)
