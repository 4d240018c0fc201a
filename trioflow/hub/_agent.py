"""One registered agent: delivery of its messages, and its pending requests.

A message goes to a handler or into the mailbox at once, after a wait for room, or not at all. A request is settled
by whichever comes first: the handler, the timer, `unregister`, or the closing hub.
"""

from collections.abc import Callable
from functools import partial
from typing import final

import trio

from trioflow._text import quote
from trioflow.config import HubConfig
from trioflow.errors import HandlerError, HubError, MailboxFullError, RequestTimeoutError
from trioflow.hub._handlers import Handler, HandlerTasks
from trioflow.hub._mailbox import Mailbox, Place
from trioflow.hub._promise import Promise
from trioflow.hub._state import HubState
from trioflow.hub.message import AWAITED, Message, MessageType


@final
class Agent:
    """An agent of a hub, until it is unregistered.

    Args:
        name: its address.
        handler: handles its messages.
        config: the hub's, with the limits of this agent.
        state: the hub's shared state.

    Attributes:
        accepting: whether it accepts new messages.
        left: set when it has been unregistered.
        mailbox: the messages that wait for a handler.
        tasks: the tasks that run the handler.
        topics: its subscriptions.
    """

    __slots__ = ("_answers", "_config", "_state", "accepting", "left", "mailbox", "name", "tasks", "topics")

    def __init__(self, name: str, handler: Handler, config: HubConfig, state: HubState) -> None:
        self.name = name
        self.mailbox = Mailbox(config.buffer, state.ledger)
        self.tasks = HandlerTasks(name, handler, config, state, mailbox=self.mailbox, settle=self._settle)
        self.topics: set[str] = set()
        self.accepting = True
        self.left = trio.Event()
        self._answers: dict[str, Promise[Message]] = {}
        self._config = config
        self._state = state

    def __repr__(self) -> str:
        return f"<Agent {self.name}: {self.tasks.busy} running, {self.mailbox!r}>"

    def offer(self, message: Message) -> bool:
        """Deliver `message` without waiting, if there is room; return whether it was delivered."""
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
        """Deliver `message`; if there is no room, act as `overflow` says. Return whether it was delivered.

        Cancellation: not delivered.
        """
        if self.offer(message):
            return True
        if self._config.overflow == "wait":
            await self._wait_for_room(message)
            return True
        if self._config.overflow == "error":
            raise self.refuse(message)
        self.refuse(message)
        return False

    async def request(self, message: Message, now: float, until: float) -> Message:
        """Deliver `message`, and return the answer.

        Cancellation: withdrawn, or the answer is dropped.
        """
        answer: Promise[Message] = Promise(
            partial(self._withdraw, message), partial(self._too_late, message, now, until)
        )
        self._answers[message.id] = answer
        AWAITED[message.id] = until
        self._state.ledger.pending += 1
        try:
            if not self.offer(message):
                await self._line_up(message)
            self._state.timer.add(until, answer)
            return await answer.wait()
        finally:
            self._state.ledger.pending -= 1
            self._forget(message)
            if answer.withdrawn is not None:
                self._withdrawn(message, now, answer.withdrawn)

    def retire(self, on_quiet: Callable[[], object]) -> None:
        """Accept no more messages, and call `on_quiet` once the accepted ones have been handled."""
        self.accepting = False
        if self.tasks.busy:
            self.tasks.on_quiet = on_quiet
        else:
            on_quiet()

    def leave(self, why: Callable[[], HubError]) -> None:
        """Accept no more messages, discard the queued ones, and reject pending requests and sends with `why()`."""
        self.accepting = False
        self.tasks.on_quiet = None
        self.tasks.dismiss()
        self.left.set()
        answers, self._answers = self._answers, {}
        for name, answer in answers.items():
            AWAITED.pop(name, None)
            answer.reject(why())
        # Events come last: an observer may raise a non-Exception.
        self.mailbox.dismiss_line(why)
        for message in self.mailbox.clear():
            self._state.ledger.discarded(message)

    async def _line_up(self, message: Message) -> None:
        """Queue a request for room, if `overflow` is "wait"; refuse it otherwise.

        Cancellation: not a checkpoint if it is queued; shielded if it is refused.
        """
        if self._config.overflow != "wait":
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise self.refuse(message)
        self._state.ledger.waiting()
        self.mailbox.wait_in_line(message, None)

    async def _wait_for_room(self, message: Message) -> None:
        """Wait in line.

        Cancellation: not delivered.
        """
        seconds, now = self._config.timeout, trio.current_time()
        room: Promise[None] = Promise(
            partial(self.mailbox.withdraw, message), partial(self._no_room, message, seconds)
        )

        def end(error: HubError | None) -> None:
            if error is None:
                room.resolve(None)
            else:
                room.reject(error)

        self._state.ledger.waiting()
        self.mailbox.wait_in_line(message, end)
        self._state.timer.add(now + seconds, room)
        try:
            await room.wait()
        finally:
            if room.withdrawn is not None:
                self._withdrawn(message, now, room.withdrawn)

    def _withdraw(self, message: Message) -> Place | None:
        """Withdraw a message and its pending answer; called when its requester gives up."""
        self._forget(message)
        return self.mailbox.withdraw(message)

    def _too_late(self, message: Message, since: float, until: float, place: Place | None) -> RequestTimeoutError:
        if place is not None:
            self._withdrawn(message, since, place)
        seconds = until - since
        late = f"no answer from {quote(self.name)} within {seconds:g} s"
        return RequestTimeoutError(late, agent=self.name, timeout=seconds)

    def _no_room(self, message: Message, seconds: float, _: Place | None) -> MailboxFullError:
        error = self._full(f" after {seconds:g} s")
        self._state.ledger.not_admitted(message, error, seconds)
        return error

    def _withdrawn(self, message: Message, since: float, place: Place) -> None:
        """Count a message whose sender gave up, and that was removed from `place`."""
        if place == "line":
            self._state.ledger.not_admitted(message, None, trio.current_time() - since)
        else:
            self._state.ledger.discarded(message)
            self.mailbox.admit()

    def _full(self, after: str = "") -> MailboxFullError:
        size = self._config.buffer
        message = f"the mailbox of {quote(self.name)} is full{after}: it holds {size} messages (buffer)"
        return MailboxFullError(message, agent=self.name)

    def _forget(self, message: Message) -> None:
        """Drop the pending answer to `message`."""
        self._answers.pop(message.id, None)
        AWAITED.pop(message.id, None)

    def _settle(self, message: Message, result: object, error: BaseException | None, since: float) -> None:
        answer = self._answers.get(message.id)
        if answer is not None and not isinstance(error, trio.Cancelled):
            self._forget(message)
            if error is None:
                answer.resolve(_answer(message, result))
            else:
                failure = HandlerError(self.name, message.id)
                failure.__cause__ = error
                answer.reject(failure)
        self._state.ledger.handled(message, error, since)


def _answer(message: Message, result: object) -> Message:
    """Return what a handler returned as the answer to `message`."""
    if not isinstance(result, Message):
        return message.reply(result)
    if result.type is MessageType.RESPONSE and result.reply_to == message.id:
        return result
    # A message from another hub or agent, returned as the answer: its data is the answer.
    return message.reply(result.data, headers=result.headers)
